"""``redtier serve`` as an operator meets it: how it starts, what keeps it from starting, how it ends."""

from __future__ import annotations

import os
import pkgutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from proxy.__main__ import main
from tests.servers import ROOT, TREE, Certificate, RedtierServer, free_port, make_certificate

pytestmark = pytest.mark.once

MEMORY = """
[http]
listen = ""
[backends.hot]
type = "memory"
[[routes]]
prefix = ""
backend = "hot"
"""


Failure = Callable[..., str]


class WithoutConfiguration(RedtierServer):
    """As ``redtier serve`` alone starts it, but for the port."""

    def command(self) -> list[str]:
        return [sys.executable, "-P", "-m", "proxy", "serve", "--listen", f"127.0.0.1:{self.port}"]


@pytest.fixture
def failure(tmp_path: Path) -> Failure:
    """Runs ``redtier serve`` in ``tmp_path`` with a configuration and arguments, and gives what it prints to
    stderr; it does not start."""

    def run(config: str, *args: str) -> str:
        (tmp_path / "redtier.toml").write_text(config)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "proxy", "serve", "--config", "redtier.toml", *args],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(TREE)},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr

    return run


class TestStart:
    def test_without_a_configuration_all_is_embedded(self) -> None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 9380)) == 0:
                pytest.skip("a redtier runs here already")
        with WithoutConfiguration() as server:
            began = server.log_tail()
            assert [line.split()[:3] for line in began.splitlines() if line.startswith('"')] == [
                ['""', "memory", "memory"],
                ['"short:"', "memory", "memory"],
                ['"working:"', "memory", "memory"],
                ['"long:"', "local", "sqlite"],
            ]
            assert began.endswith(f" is ready on 127.0.0.1:{server.port}\n")
            with server.client() as client:
                client.mset({"short:a": "1", "long:a": "2", "a": "3"})
                assert client.mget("short:a", "long:a", "a") == [b"1", b"2", b"3"]
            assert server.stop() == 0
            assert (server.directory / "redtier.db").exists()
            server.start()
            with server.client() as client:
                assert client.mget("short:a", "long:a", "a") == [None, b"2", None]

    def test_the_first_ping_is_answered_soon(self) -> None:
        with RedtierServer() as server:
            server.stop()
            began = time.monotonic()
            server.start()
            assert time.monotonic() - began < 5  # on a busy machine; the bench asks for less than 1 s

    def test_it_listens_wherever_it_is_told_to(self) -> None:
        other = free_port()
        listen = ["--listen", f"127.0.0.1:{other}", "--listen", "unix:socket"]
        with RedtierServer(MEMORY, *listen) as server:
            with server.client() as client:
                client.set("a", "1")
            with redis.Redis(port=other) as client:
                assert client.get("a") == b"1"
            with redis.Redis(unix_socket_path=str(server.directory / "socket")) as client:
                assert client.get("a") == b"1"
                assert client.client_info()["addr"].endswith("socket:0")

    def test_two_on_one_database_see_each_others_writes(self, tmp_path: Path) -> None:
        config = (
            f'[backends.local]\ntype = "sqlite"\npath = "{tmp_path}/shared.db"\n'
            '[[routes]]\nprefix = ""\nbackend = "local"\n'
        )
        with (
            RedtierServer(config) as one,
            RedtierServer(config) as two,
            one.client() as first,
            two.client() as second,
        ):
            for number in range(20):
                first.set(f"a:{number}", number)
                assert int(second.get(f"a:{number}")) == number
                second.incr("counter")
            assert first.get("counter") == b"20"

    def test_the_console_script_is_the_command_line(self) -> None:
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
        assert pkgutil.resolve_name(scripts["redtier"]) is main


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"127.0.0.1:{sock.getsockname()[1]}"


class TestWhatKeepsItFromStarting:
    def test_a_port_in_use(self, taken: str, failure: Failure) -> None:
        line = f"redtier: can't listen on {taken}: address already in use\n"
        assert failure(MEMORY, "--listen", taken) == line

    def test_a_port_in_use_when_backends_are_open_already(self, taken: str, failure: Failure) -> None:
        *before, last = failure('[http]\nlisten = ""\n', "--listen", taken).splitlines()
        assert last == f"redtier: can't listen on {taken}: address already in use"
        assert all(line.endswith("INFO redtier: backend 'local' is there") for line in before)

    def test_an_address_that_is_not_here(self, failure: Failure) -> None:
        line = "redtier: can't listen on 192.0.2.1:1: cannot assign requested address\n"
        assert failure(MEMORY, "--listen", "192.0.2.1:1") == line

    def test_a_wrong_configuration(self, failure: Failure) -> None:
        told = failure(MEMORY + '[[routes]]\nprefix = "a:"\nbackend = "cold"\n')
        assert told.startswith("redtier: redtier.toml: [[routes]] ")
        assert told.count("\n") == 1
        assert '"cold"' in told

    def test_a_configuration_that_is_not_there(self, tmp_path: Path, failure: Failure) -> None:
        line = "redtier: none.toml: can't be read: No such file or directory\n"
        assert failure("", "--config", "none.toml") == line

    @pytest.mark.parametrize(
        ("cert", "line"),
        [
            ("missing.pem", "redtier.toml: [server.tls] cert: must be the path of a file that exists, not "),
            ("redtier.toml", "[server.tls]: can't use redtier.toml with key.pem: "),
            ("stranger/cert.pem", "[server.tls]: can't use stranger/cert.pem with key.pem: "),
        ],
    )
    def test_a_certificate_that_can_not_be_used(
        self, cert: str, line: str, tmp_path: Path, failure: Failure
    ) -> None:
        (tmp_path / "stranger").mkdir()
        make_certificate(tmp_path)
        make_certificate(tmp_path / "stranger")
        tls = f'[server.tls]\nlisten = ["127.0.0.1:{free_port()}"]\ncert = "{cert}"\nkey = "key.pem"\n'
        told = failure(MEMORY + tls, "--listen", f"127.0.0.1:{free_port()}")
        assert told.startswith(f"redtier: {line}")
        assert told.count("\n") == 1

    def test_a_secret_that_is_not_there(self, failure: Failure) -> None:
        told = failure('[server]\npassword = "env:NOT_SET_BY_TEST"\n' + MEMORY)
        assert told.startswith("redtier: redtier.toml: [server] password: ")
        assert "NOT_SET_BY_TEST" in told
        assert told.count("\n") == 1


class TestUnixSocket:
    def test_one_that_a_killed_server_has_left_is_taken_over(self) -> None:
        with RedtierServer(MEMORY, "--listen", "unix:socket") as server:
            path = server.directory / "socket"
            server.kill()
            assert path.is_socket()
            server.start()
            with redis.Redis(unix_socket_path=str(path)) as client:
                assert client.ping()

    def test_one_that_a_server_listens_on_is_left_to_it(self, tmp_path: Path, failure: Failure) -> None:
        address = f"unix:{tmp_path}/socket"
        with RedtierServer(MEMORY, "--listen", address) as server:
            for config, args, title in (
                (MEMORY, ["--listen", address], address),
                (MEMORY.replace('listen = ""', f'listen = "{address}"'), [], f"{address} ([http] listen)"),
            ):
                assert failure(config, *args) == f"redtier: can't listen on {title}: address already in use\n"
            with redis.Redis(unix_socket_path=str(tmp_path / "socket")) as client:
                assert client.info("server")["process_id"] == server.pid

    def test_a_file_that_is_none_is_left_alone(self, tmp_path: Path, failure: Failure) -> None:
        (tmp_path / "notes").write_text("mine")
        line = "redtier: can't listen on unix:notes: address already in use\n"
        assert failure(MEMORY, "--listen", "unix:notes") == line
        assert (tmp_path / "notes").read_text() == "mine"


class TestTls:
    @pytest.mark.parametrize("client_auth", ["no", "optional", "yes"])
    def test_a_client_certificate_is_asked_for_as_configured(self, client_auth: str, tmp_path: Path) -> None:
        port = free_port()
        (tmp_path / "stranger").mkdir()
        ours, stranger = make_certificate(tmp_path), make_certificate(tmp_path / "stranger")
        tls = f"""
        [server.tls]
        listen = ["127.0.0.1:{port}"]
        cert = "{ours.cert}"
        key = "{ours.key}"
        ca = "{ours.cert}"
        client_auth = "{client_auth}"
        """

        def connect(certificate: Certificate | None) -> redis.Redis:
            options: dict[str, Any] = {
                "port": port,
                "ssl": True,
                "ssl_ca_certs": str(ours.cert),
                "retry": None,
            }
            if certificate is not None:
                options |= {"ssl_certfile": str(certificate.cert), "ssl_keyfile": str(certificate.key)}
            return redis.Redis(**options)

        def is_served(certificate: Certificate | None) -> bool:
            with suppress(redis.ConnectionError), connect(certificate) as client:
                return bool(client.ping())
            return False

        with RedtierServer(MEMORY + tls) as server:
            assert is_served(ours)
            assert is_served(None) == (client_auth != "yes")
            assert is_served(stranger) == (client_auth == "no")
            value = "x" * 5_000_000
            with connect(ours) as client:
                client.set("large", value)
                assert client.get("large") == value.encode()
            with server.client() as client:  # the port without TLS is there too
                assert client.strlen("large") == len(value)

    @pytest.mark.parametrize("size", [3_000, 100_000])
    def test_a_client_that_reads_late_gets_all(self, size: int, tmp_path: Path) -> None:
        port, ours = free_port(), make_certificate(tmp_path)
        tls = f'[server.tls]\nlisten = ["127.0.0.1:{port}"]\ncert = "{ours.cert}"\nkey = "{ours.key}"\n'
        replies = 40_000_000 // size
        with RedtierServer(MEMORY + tls) as server:
            with server.client() as client:
                client.set("large", "x" * size)
            for listening, encrypted in ((server.port, False), (port, True)):
                with socket.socket() as late:
                    late.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
                    late.settimeout(20)
                    late.connect(("127.0.0.1", listening))
                    context = ssl.create_default_context(cafile=str(ours.cert))
                    with (
                        context.wrap_socket(late, server_hostname="localhost") if encrypted else late as peer
                    ):
                        peer.sendall(b"GET large\r\n" * replies)
                        time.sleep(0.3)  # until no more fits
                        left = replies * len(b"$%d\r\n%b\r\n" % (size, b"x" * size))
                        while left:
                            left -= len(peer.recv(min(left, 1 << 20)))

    def test_a_client_that_speaks_none_is_dropped_alone(self, tmp_path: Path) -> None:
        port, ours = free_port(), make_certificate(tmp_path)
        tls = f'[server.tls]\nlisten = ["127.0.0.1:{port}"]\ncert = "{ours.cert}"\nkey = "{ours.key}"\n'
        with RedtierServer(MEMORY + tls) as server:
            with socket.create_connection(("127.0.0.1", port), 10) as plain:
                plain.sendall(b"*1\r\n$4\r\nPING\r\n")
                try:
                    while plain.recv(1000):
                        pass
                except ConnectionResetError:
                    pass
            context = ssl.create_default_context(cafile=str(ours.cert))
            with (
                socket.create_connection(("127.0.0.1", port), 10) as raw,
                context.wrap_socket(raw, server_hostname="localhost") as wrapped,
            ):
                wrapped.sendall(b"PING\r\n")
                assert wrapped.recv(7) == b"+PONG\r\n"
            assert "Traceback" not in server.log_tail()


class Secretive(RedtierServer):
    def __init__(self, config: str, environment: Mapping[str, str]) -> None:
        super().__init__(config)
        self._more = environment

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), **self._more}


class TestPassword:
    @pytest.mark.parametrize("source", ["env:SECRET_OF_TEST", "file:secret", "s3cret"])
    def test_it_may_stand_in_the_environment_or_in_a_file(self, source: str, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("s3cret\n")
        source = source.replace("file:secret", f"file:{secret}")
        config = f'[server]\npassword = "{source}"\n' + MEMORY
        with Secretive(config, {"SECRET_OF_TEST": "s3cret"}) as server:
            with server.client(password="s3cret") as client:
                assert client.ping()
            for options in ({"password": "wrong"}, {}):
                with (
                    server.client(retry=None, protocol=2, **options) as client,
                    pytest.raises(redis.AuthenticationError),
                ):
                    client.ping()
            assert "s3cret" not in server.log_tail()


class Interrupted(RedtierServer):
    stop_signal = signal.SIGINT


class TestStop:
    @pytest.mark.parametrize("started", [RedtierServer, Interrupted])
    def test_a_signal_ends_it_with_exit_code_0(self, started: type[RedtierServer]) -> None:
        with started() as server, server.client() as client:
            client.set("long:a", "1")
            assert server.stop() == 0
            assert server.log_tail().endswith(" INFO redtier: stopping\n")

    def test_what_is_under_way_is_answered_first(self) -> None:
        with RedtierServer() as server, socket.create_connection(("127.0.0.1", server.port), 10) as client:
            requests = 200
            client.sendall(b"".join(b"SET long:%d x\r\n" % number for number in range(requests)))
            received = client.recv(5)
            assert server.stop() == 0
            while chunk := client.recv(65536):
                received += chunk
            answered = received.count(b"+OK\r\n")
            assert received == b"+OK\r\n" * answered
            server.start()
            with server.client() as again:
                assert again.exists(*[f"long:{number}" for number in range(answered)]) == answered
