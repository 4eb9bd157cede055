"""What a command costs from its bytes to the bytes of its reply, on a memory route and without a socket.

pytest bench/test_dispatch.py
"""

from __future__ import annotations

import asyncio

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from proxy.config import parse
from proxy.resp import RequestReader, encode_command
from proxy.server import RedtierServer
from proxy.session import Session
from tests.links import NullLink

COMMANDS = 16_000
KEYS = 100_000
CONFIG = '[backends.hot]\ntype = "memory"\n[[routes]]\nprefix = ""\nbackend = "hot"\n'


async def build() -> RedtierServer:
    return RedtierServer(parse(CONFIG, "bench"))


def commands(name: str) -> list[bytes]:
    value = b"x" * 100
    keys = (b"key:%012d" % (number * 7919 % KEYS) for number in range(COMMANDS))
    return [encode_command([b"SET", key, value] if name == "SET" else [b"GET", key]) for key in keys]


@pytest.mark.parametrize("name", ["SET", "GET"])
@pytest.mark.parametrize("pipeline", [1, 16])
def test_feed(benchmark: BenchmarkFixture, name: str, pipeline: int) -> None:
    benchmark.group = f"{COMMANDS} {name} of 100 bytes"
    server = asyncio.run(build())
    link = NullLink()
    session = Session(1, server, server.dispatcher, link, RequestReader(1 << 30, 512 << 20, True))
    feed = server.dispatcher.feed
    for written in commands("SET"):
        feed(session, written)
    each = commands(name)
    chunks = [b"".join(each[start : start + pipeline]) for start in range(0, COMMANDS, pipeline)]

    def feed_all() -> int:
        link.written = 0
        for chunk in chunks:
            feed(session, chunk)
        return link.written

    assert benchmark(feed_all) == COMMANDS * len(
        b"+OK\r\n" if name == "SET" else b"$100\r\n\r\n" + b"x" * 100
    )
