"""A client's socket: what is sent on it, and how it ends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from proxy.resp import encode_command
from tests.rawclient import RawClient
from tests.servers import RedtierServer

MB = 1 << 20


@pytest.fixture(scope="module")
def redtier() -> Iterator[RedtierServer]:
    config = """
        [server]
        output_buffer_max = "1mb"
    """
    with RedtierServer(config) as server:
        yield server


@pytest.mark.parametrize("key", ["short:large", "long:large"])
def test_a_single_reply_may_be_larger_than_the_limit_of_what_is_unread(
    key: str, redtier: RedtierServer
) -> None:
    value = b"x" * (8 * MB)
    with RawClient(redtier.port) as client:
        for _ in range(2):
            client.socket.sendall(encode_command([b"SET", key.encode(), value]))
            assert client.frame() == b"+OK\r\n"
            assert client.ask(f"GET {key}") == b"$%d\r\n%b\r\n" % (len(value), value)


def test_who_says_that_no_more_will_come_is_answered_all_the_same(redtier: RedtierServer) -> None:
    count = 100
    with RawClient(redtier.port) as client:
        client.send(*(f"SET {prefix}{n} v" for n in range(count) for prefix in ("long:end", "short:end")))
        client.socket.shutdown(socket.SHUT_WR)
        for _ in range(2 * count):
            assert client.frame() == b"+OK\r\n"
        assert client.is_closed()


class FewFiles(RedtierServer):
    """Where the system gives a process no more than 300 open files."""

    def command(self) -> list[str]:
        return ["prlimit", "--nofile=20:300", *super().command()]


def test_more_clients_than_files_may_be_open_are_refused_and_not_left_waiting() -> None:
    with FewFiles() as server, ExitStack() as clients:
        assert "max_clients is 44: of the 10000 wanted, ulimit -n allows no more" in server.log_tail()
        first = [clients.enter_context(RawClient(server.port)) for _ in range(44)]
        one_more = clients.enter_context(RawClient(server.port))
        assert one_more.frame() == b"-ERR max number of clients reached\r\n"
        assert {client.ask("PING") for client in first} == {b"+PONG\r\n"}
