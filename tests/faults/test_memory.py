"""What clients can make the server hold: replies that they don't read, requests that no backend takes."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.resp import encode_command
from tests.homes import toml, wait_for_homes
from tests.rawclient import RawClient
from tests.servers import RedisServer, RedtierServer, wait_until

pytestmark = pytest.mark.once

MB = 1 << 20
OK = b"+OK\r\n"


@pytest.fixture
def upstream() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redtier(upstream: RedisServer) -> Iterator[RedtierServer]:
    tables = {
        "server": {"output_buffer_max": "16mb"},
        "backends.hot": {"type": "memory"},
        "backends.main": {"type": "redis", "url": upstream.url, "in_flight_bytes_max": "8mb"},
    }
    with RedtierServer(toml(tables, {"": "hot", "working:": "main"})) as server:
        wait_for_homes(server.port, ["short:", "working:"])
        yield server


def peak(server: RedtierServer) -> int:
    """The most memory that the server has held, in bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def set_value(server: RedtierServer, key: str, size: int) -> None:
    with RawClient(server.port) as client:
        client.socket.sendall(encode_command([b"SET", key.encode(), bytes(size)]))
        assert client.frame() == OK


@pytest.mark.parametrize(
    ("key", "command"),
    [
        ("short:v", "MGET" + 20 * " short:v"),
        ("short:v", "GET short:v"),
        ("working:v", "GET working:v"),
        ("working:v", "MGET short:none" + 5 * " working:v"),
    ],
)
def test_replies_that_nobody_reads(redtier: RedtierServer, key: str, command: str) -> None:
    set_value(redtier, key, MB // 2)
    before = peak(redtier)
    with RawClient(redtier.port) as client, RawClient(redtier.port) as other:
        client.send(*[command] * 2000)
        for _ in range(200):
            assert other.ask("PING") == b"+PONG\r\n"
        wait_until(lambda: other.ask("EXISTS working:v").startswith(b":"))
    assert peak(redtier) - before < 200 * MB


def test_requests_that_a_silent_upstream_does_not_take(redtier: RedtierServer, upstream: RedisServer) -> None:
    count = 100
    before = peak(redtier)
    request = encode_command([b"SET", b"working:v", bytes(MB)])
    sent = 0
    os.kill(upstream.pid, signal.SIGSTOP)
    try:
        with socket.create_connection(("127.0.0.1", redtier.port), 10) as client:

            def send() -> None:
                nonlocal sent
                for _ in range(count):
                    client.sendall(request)
                    sent += 1

            sender = threading.Thread(target=send)
            sender.start()
            with RawClient(redtier.port) as other:
                wait_until(lambda: sent >= 8)
                for _ in range(200):
                    assert other.ask("PING") == b"+PONG\r\n"
            assert sent < count
            assert peak(redtier) - before < 80 * MB
            os.kill(upstream.pid, signal.SIGCONT)
            found = b""
            while len(found) < count * len(OK):
                found += client.recv(65536)
            assert found == OK * count
            sender.join(10)
    finally:
        os.kill(upstream.pid, signal.SIGCONT)


def test_values_of_split_commands_are_let_go(redtier: RedtierServer) -> None:
    set_value(redtier, "short:v", MB)
    set_value(redtier, "working:v", MB)
    before = peak(redtier)
    with RawClient(redtier.port) as client:
        for _ in range(200):
            assert len(client.ask("MGET short:v working:v")) > 2 * MB
    assert peak(redtier) - before < 60 * MB


def test_what_has_come_before_the_end_is_answered(redtier: RedtierServer, upstream: RedisServer) -> None:
    os.kill(upstream.pid, signal.SIGSTOP)
    try:
        with RawClient(redtier.port) as client, RawClient(redtier.port) as other:
            client.send("SET working:a 1", "SET short:a 2", "GET short:a")  # the second waits for the first
            wait_until(lambda: b"cmd=set" in other.ask("CLIENT LIST"))
            os.kill(redtier.pid, signal.SIGTERM)
            os.kill(upstream.pid, signal.SIGCONT)
            assert [client.frame() for _ in range(3)] == [OK, OK, b"$1\r\n2\r\n"]
    finally:
        os.kill(upstream.pid, signal.SIGCONT)
