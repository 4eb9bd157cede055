"""The servers that tests run against: real ones, on free loopback ports, gone when the test is over.

Each is a context manager; in between it can be stopped, killed and started again with its data.  A failed
test shows what the running servers logged (see conftest).  A server also ends with the thread that started
it, so that none outlives a test run that is killed: start it in one that stays.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, Self

import redis

ROOT: Final = Path(__file__).parent.parent
TREES: Final = {"plain": ROOT, "compiled": ROOT / "build" / "compiled"}
TREE: Final = TREES[os.environ.get("REDTIER_TREE", "plain")]
"""Where ``proxy`` and ``backends`` are imported from, by the tests and by ``RedtierServer``."""

_reserved: Final[list[socket.socket]] = []


def free_port() -> int:
    """A loopback port that nobody else is given while this process lives.

    Its socket stays bound and does not listen: the kernel gives the port to no one who asks for any, while
    a server that sets SO_REUSEADDR, as all of these do, can listen on it, and again after a restart.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    _reserved.append(reserved)
    port: int = reserved.getsockname()[1]
    return port


def wait_until(check: Callable[[], object], within: float = 10) -> None:
    """Return once ``check()`` is true; raises TimeoutError after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within} s")
        time.sleep(0.02)


async def eventually(check: Callable[[], object], within: float = 10) -> None:
    """``wait_until`` for a test on an event loop, where no event tells."""
    async with asyncio.timeout(within):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class Certificate(NamedTuple):
    """Files, PEM.  Self-signed for 127.0.0.1 and localhost, so that it is its own authority."""

    cert: Path
    key: Path


def make_certificate(directory: Path) -> Certificate:
    made = Certificate(directory / "cert.pem", directory / "key.pem")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost"
    )
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    files = ["-out", str(made.cert), "-keyout", str(made.key)]
    subprocess.run([*command.split(), "-addext", names, *files], check=True, capture_output=True, timeout=30)
    return made


class Server:
    """A child process that listens on ``port``, with a directory of its own that goes with it."""

    running: ClassVar[set[Server]] = set()
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    user: str | None = None  # to run as, where it isn't ours

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return os.environ

    def prepare(self) -> None:
        """Lay out ``directory``, once, before the first start."""

    def ready(self) -> bool:
        """Whether it serves; asked until it is true."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="redtier-"))
        self.log = self.directory / "log"
        try:
            if self.user is not None:
                shutil.chown(self.directory, self.user)
            self.prepare()
            self.start()
        except BaseException:
            shutil.rmtree(self.directory)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is not None:
            print(f"--- log of {self}:\n{self.log_tail()}")
        try:
            if self._process is not None:
                self.stop()
        finally:
            shutil.rmtree(self.directory)

    def __str__(self) -> str:
        return f"{type(self).__name__} on {self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    def start(self, timeout: float = 30) -> None:
        """Return once it serves; raises RuntimeError with the end of its log if it doesn't."""
        assert self._process is None, "running already"
        ends_with_us = ["setpriv", "--pdeathsig", self.stop_signal.name.removeprefix("SIG")]
        with self.log.open("ab") as log:
            self._process = process = subprocess.Popen(
                [*ends_with_us, *self.command()],
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **self._credentials(),
            )
        Server.running.add(self)
        try:
            wait_until(lambda: process.poll() is not None or self.ready(), timeout)
        except TimeoutError:
            self.kill()
            raise RuntimeError(f"{self} does not answer:\n{self.log_tail()}") from None
        except BaseException:
            self.kill()
            raise
        if process.returncode is not None:
            self._reap()
            raise RuntimeError(f"{self} ended with {process.returncode}:\n{self.log_tail()}")

    def stop(self, timeout: float = 15) -> int:
        """End it in good order and return its exit code; kills it where that takes too long."""
        assert self._process is not None, "not running"
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill()
        return self._reap()

    def kill(self) -> int:
        """End it at once, as a power cut does, and return its exit code."""
        assert self._process is not None, "not running"
        self._process.kill()
        return self._reap()

    def log_tail(self, since: int = 0, limit: int = 4000) -> str:
        """What it logged after the first ``since`` bytes, at most ``limit`` bytes from the end."""
        return self.log.read_bytes()[since:][-limit:].decode(errors="replace")

    def _reap(self) -> int:
        assert self._process is not None
        code = self._process.wait()
        self._process = None
        Server.running.discard(self)
        return code

    def _credentials(self) -> dict[str, Any]:
        return {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}


class RedisServer(Server):
    """A redis-server that keeps nothing on disk, unless ``args``, which come last, say otherwise."""

    def __init__(self, *args: str, password: str = "", tls: bool = False, unixsocket: bool = False) -> None:
        super().__init__()
        self.args, self.password, self.tls, self._unixsocket = args, password, tls, unixsocket

    @property
    def certificate(self) -> Certificate:
        return Certificate(self.directory / "cert.pem", self.directory / "key.pem")

    @property
    def unixsocket(self) -> str:
        return str(self.directory / "socket")

    @property
    def url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"{'rediss' if self.tls else 'redis'}://{secret}127.0.0.1:{self.port}"

    def client(self, **options: Any) -> redis.Redis:
        if self.tls:
            options["ssl_ca_certs"] = str(self.certificate.cert)
        client: redis.Redis = redis.Redis.from_url(self.url, **options)
        return client

    def prepare(self) -> None:
        if self.tls:
            make_certificate(self.directory)

    def command(self) -> list[str]:
        options = {"bind": "127.0.0.1", "save": "", "appendonly": "no", "port": str(self.port)}
        if self.tls:
            cert, key = map(str, self.certificate)
            options |= {"port": "0", "tls-port": str(self.port), "tls-auth-clients": "optional"}
            options |= {"tls-cert-file": cert, "tls-key-file": key, "tls-ca-cert-file": cert}
        if self.password:
            options["requirepass"] = self.password
        if self._unixsocket:
            options["unixsocket"] = self.unixsocket
        return [
            "redis-server",
            *(word for name, value in options.items() for word in (f"--{name}", value)),
            *self.args,
        ]

    def ready(self) -> bool:
        with suppress(redis.ConnectionError), self.client(retry=None) as client:
            return bool(client.ping())
        return False


class PostgresServer(Server):
    """A PostgreSQL with an empty database.  ``fast`` leaves out fsync, which only a kill needs."""

    stop_signal = signal.SIGINT  # closes the connections of clients; SIGTERM waits for them

    def __init__(self, *, fast: bool = False, settings: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.settings = {
            "listen_addresses": "127.0.0.1",
            "fsync": "off" if fast else "on",
            **(settings or {}),
        }
        self.user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> None:
        options = "--auth=trust --username=postgres --encoding=UTF8 --locale=C.UTF-8 --no-sync --pgdata=data"
        subprocess.run(
            [_postgres("initdb"), *options.split()],
            cwd=self.directory,
            check=True,
            capture_output=True,
            timeout=60,
            **self._credentials(),
        )

    def command(self) -> list[str]:
        settings = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        return [
            _postgres("postgres"),
            "-D",
            "data",
            "-p",
            str(self.port),
            "-k",
            str(self.directory),
            *settings,
        ]

    def ready(self) -> bool:
        command = [_postgres("pg_isready"), "-q", "-U", "postgres", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, timeout=10).returncode == 0

    def kill(self) -> int:
        """End all of its processes: without this, a backend would first finish its statement."""
        children = []
        with suppress(FileNotFoundError):
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        assert self._process is not None
        self._process.kill()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        wait_until(lambda: not any(map(_alive, children)))
        return self._reap()


def _postgres(program: str) -> str:
    """The newest installed one: Debian keeps them off PATH, a directory for each version."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: int(path.parts[4])
    )
    return str(installed[-1]) if installed else program


def _alive(pid: str) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


class PgBouncer(Server):
    """A pooler in transaction mode with fewer connections to ``target`` than its clients have to it, so that
    each transaction of a client may land on another one."""

    stop_signal = signal.SIGINT

    def __init__(self, target: PostgresServer) -> None:
        super().__init__()
        self.target = target
        self.user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> None:
        (self.directory / "pgbouncer.ini").write_text(
            f"""[databases]
            * = host=127.0.0.1 port={self.target.port} user=postgres
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = any
            pool_mode = transaction
            default_pool_size = 2
            server_round_robin = 1
            """.replace("\n            ", "\n")
        )
        (self.directory / "pgbouncer.ini").chmod(0o644)

    def command(self) -> list[str]:
        return ["/usr/sbin/pgbouncer", "pgbouncer.ini"]

    def ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False


class S3Server(Server):
    """An S3 endpoint; ``client_options`` are those of botocore's and aiobotocore's ``create_client``."""

    access_key: ClassVar[str]
    secret_key: ClassVar[str]
    region: ClassVar[str] = "us-east-1"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client_options(self) -> dict[str, str]:
        return {
            "endpoint_url": self.url,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "region_name": self.region,
        }


class MotoServer(S3Server):
    """S3 in memory: honours conditional writes, takes any credentials."""

    access_key, secret_key = "moto", "moto"

    def command(self) -> list[str]:
        script = str(ROOT / "tests" / "tools" / "s3_moto.py")
        return [sys.executable, script, str(self.port)]

    def ready(self) -> bool:
        return _answers(self.url)


class SwiftServer(S3Server):
    """OpenStack Swift: checks signatures, knows no conditional writes."""

    access_key, secret_key = "test:tester", "testing"

    def __init__(self) -> None:
        super().__init__()
        self._ports = [self.port, *(free_port() for _ in range(4))]

    def command(self) -> list[str]:
        script = str(ROOT / "tests" / "tools" / "s3_swift.py")
        return ["/usr/bin/python3", script, str(self.directory), *map(str, self._ports)]

    def ready(self) -> bool:
        return all(_answers(f"http://127.0.0.1:{port}/healthcheck") for port in self._ports[:4])


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.build_opener(_NO_PROXY).open(url, timeout=5):
        return True
    return False


_NO_PROXY: Final = urllib.request.ProxyHandler({})


class RedtierServer(Server):
    """``redtier serve`` from ``TREE``, with ``config``, TOML, and ``args`` of the command line.

    It listens on ``port`` of 127.0.0.1, whatever [server] listen says, and has no HTTP port unless the
    configuration names one.
    """

    def __init__(self, config: str = "", *args: str) -> None:
        super().__init__()
        self.config, self.args = config, args

    def prepare(self) -> None:
        http = "" if "[http]" in self.config else '\n[http]\nlisten = ""\n'
        (self.directory / "redtier.toml").write_text(self.config + http)

    def command(self) -> list[str]:
        options = ["--config", "redtier.toml", "--listen", f"127.0.0.1:{self.port}", *self.args]
        return [sys.executable, "-P", "-m", "proxy", "serve", *options]

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "PYTHONPATH": str(TREE)}

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(port=self.port, **options)

    def ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"PING\r\n")
            # This port is the first that it listens at.
            return connection.recv(5) in (b"+PONG", b"-NOAU") and b" is ready on " in self.log.read_bytes()
        return False
