"""The breaker of an upstream: nobody waits for one that has given no answer several times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from backends.base import StoreError
from tests.sentinels import hung
from tests.servers import RedisServer, eventually
from tests.upstreams import DOWN, LOST, Connect, send

PONG = b"+PONG\r\n"


class Mute:
    """What takes connections and answers the first request with ``greeting``, then nothing."""

    def __init__(self, greeting: bytes) -> None:
        self.greeting = greeting
        self.connections = self.most = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.most = max(self.most, self.connections)
        try:
            await reader.read(65536)
            writer.write(self.greeting)
            await reader.read()
        except ConnectionResetError:
            pass
        finally:
            self.connections -= 1
            writer.close()


@asynccontextmanager
async def mute(greeting: bytes) -> AsyncIterator[tuple[Mute, str]]:
    mute = Mute(greeting)
    async with await asyncio.start_server(mute.serve, "127.0.0.1", 0) as server:
        yield mute, f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def at_once(answer: Callable[[], asyncio.Future[tuple[bytes, int]]]) -> bytes:
    began = time.monotonic()
    wire, _ = await answer()
    assert time.monotonic() - began < 0.2
    return wire


async def test_once_it_is_open_nobody_waits(connect: Connect) -> None:
    with RedisServer() as server:
        upstream = connect(server.url, connect_timeout=300, breaker_failures=3)
        await upstream.open()
        kept = await upstream.dedicated(0, 2, True)
        with hung(server):
            with pytest.raises(StoreError, match="no answer within 300 ms"):
                await upstream.dedicated(0, 3, False)
            assert upstream.breaker() == "closed"
            await asyncio.gather(*(send(upstream.lane(db, 2), "GET a") for db in (1, 2)))
            assert upstream.breaker() in ("open", "half-open")
            began = time.monotonic()
            with pytest.raises(StoreError, match=f"^127.0.0.1:{server.port}: no answer within 300 ms$"):
                await upstream.dedicated(0, 3, False)
            assert time.monotonic() - began < 0.2
            wire = await at_once(lambda: send(upstream.lane(3, 2), "GET a"))
            assert wire.startswith(DOWN + b"127.0.0.1:%d: no answer within 300 ms" % server.port)
            assert upstream.counters().breaker_opened == 1
        await eventually(lambda: upstream.breaker() == "closed")
        for db in (1, 2, 3):
            lane = upstream.lane(db, 2)
            await eventually(lambda lane=lane: lane.state == "up")
            assert await send(lane, "GET a") == (b"$-1\r\n", 0)
        kept.release(True)


async def test_one_at_a_time_finds_out_whether_it_is_back(connect: Connect) -> None:
    async with mute(b"") as (server, url):
        upstream = connect(url, connect_timeout=100, breaker_failures=2, backoff_max=20)
        await asyncio.gather(*(send(upstream.lane(db, 2), "GET a") for db in range(1, 7)))
        assert server.most == 6
        await eventually(lambda: not server.connections)
        server.most = 0
        seen = set()
        for _ in range(100):
            seen.add(upstream.breaker())
            await asyncio.sleep(0.01)
        assert server.most == 1
        assert seen == {"open", "half-open"}
        server.greeting = b"+OK\r\n" + PONG  # to SELECT and PING
        await eventually(lambda: all(upstream.lane(db, 2).state == "up" for db in range(1, 7)))


async def test_it_opens_where_connections_can_be_made_but_nothing_else_is_answered(connect: Connect) -> None:
    async with mute(PONG) as (_, url):
        upstream = connect(url, timeout=100, breaker_failures=2, backoff_max=50)
        lane = upstream.lane(0, 2)
        for _ in range(2):
            assert (await send(lane, "GET a"))[0].startswith(LOST)
        assert (await at_once(lambda: send(lane, "GET a"))).startswith(DOWN)
        # A connection is no success yet: one more request without an answer is enough.
        await eventually(lambda: lane.state == "up")
        assert (await send(lane, "GET a"))[0].startswith(LOST)
        assert (await at_once(lambda: send(lane, "GET a"))).startswith(DOWN)
        counters = upstream.counters()
        assert (counters.breaker_opened, counters.timeouts, counters.failed_attempts) == (2, 3, 0)


async def test_an_answer_between_failures_keeps_it_closed(connect: Connect) -> None:
    with RedisServer("--enable-debug-command", "yes") as server:
        upstream = connect(server.url, timeout=200, breaker_failures=2, backoff_max=20)
        lane = upstream.lane(0, 2)
        for _ in range(3):
            assert (await send(lane, "DEBUG SLEEP 0.4"))[0].startswith(LOST)
            assert await send(lane, "ECHO a") == (b"$1\r\na\r\n", 0)
            await asyncio.sleep(0.1)  # until the next look
        assert (upstream.counters().timeouts, upstream.counters().breaker_opened) == (3, 0)


async def test_it_closes_where_the_server_is_back_and_answers_no(connect: Connect) -> None:
    with RedisServer() as server:
        upstream = connect(server.url, breaker_failures=2, backoff_max=20)
        await upstream.open()
        server.kill()
        await eventually(lambda: upstream.breaker() == "open")
        server.args = ("--requirepass", "s3cret")
        server.password = "s3cret"  # for its own readiness
        server.start()
        await eventually(lambda: upstream.breaker() == "closed")
        assert b" answers: NOAUTH " in (await send(upstream.lane(0, 2), "GET a"))[0]


async def test_a_server_that_answers_no_is_no_failure(connect: Connect) -> None:
    with RedisServer("--databases", "2") as server:
        upstream = connect(server.url, breaker_failures=1, backoff_max=10)
        await upstream.open()
        lane = upstream.lane(5, 2)
        for _ in range(5):
            assert b"DB index is out of range" in (await send(lane, "GET a"))[0]
            await asyncio.sleep(0.02)
        assert upstream.breaker() == "closed"
        assert upstream.counters().failed_attempts == 0
