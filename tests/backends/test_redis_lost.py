"""Upstreams that are away, go away or fall silent: who is answered what, and how they are found again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from backends.base import Invalidations, StoreError, Subscription
from tests.faultproxy import Direction, FaultProxy
from tests.servers import RedisServer, eventually, free_port
from tests.upstreams import DOWN, LOST, Connect, send


async def test_one_that_is_not_there_is_answered_at_once(connect: Connect) -> None:
    port = free_port()
    upstream = connect(f"redis://127.0.0.1:{port}", backoff_max=60_000)
    with pytest.raises(
        StoreError, match=rf"^127.0.0.1:{port}: connection refused, is a Redis running there\?$"
    ):
        await upstream.open()
    wire, failed = await send(upstream.lane(0, 2), "GET a", "GET b")
    assert wire.startswith(DOWN + b"127.0.0.1:%d: connection refused" % port)
    assert failed == wire.count(b"-BACKENDDOWN") == wire.count(b"\r\n") == 2


async def test_it_is_found_when_it_comes_without_being_asked_for(connect: Connect) -> None:
    server = RedisServer()
    upstream = connect(server.url)
    with pytest.raises(StoreError):
        await upstream.open()
    with server:
        await eventually(lambda: upstream.state == "up")
        lost = send(upstream.lane(0, 2), "BLPOP list 0")
        assert await upstream.call(1, [b"PING"]) == b"PONG"
        server.kill()
        assert await lost == (
            LOST
            + b"127.0.0.1:%d: the connection was closed; the command may have been executed\r\n"
            % server.port,
            1,
        )
        await eventually(lambda: upstream.state.startswith("down: "))
        server.start()
        await eventually(lambda: upstream.state == "up")
        assert await send(upstream.lane(0, 2), "ECHO a") == (b"$1\r\na\r\n", 0)


class Silence(Invalidations):
    def began(self) -> None:
        raise AssertionError("nobody has answered")

    def changed(self, keys: list[bytes] | None) -> None: ...

    def ended(self) -> None: ...


async def test_who_listens_tries_again_after_one_that_does_not_answer(connect: Connect) -> None:
    with ExitStack() as stack:
        mute = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        mute.setblocking(False)
        upstream = connect(
            f"redis://127.0.0.1:{mute.getsockname()[1]}",
            connect_timeout=50,
            backoff_max=60,
            breaker_failures=1000,
        )
        attempts: list[socket.socket] = []

        def attempted() -> bool:
            with suppress(BlockingIOError):
                attempts.append(stack.enter_context(mute.accept()[0]))
            return len(attempts) >= 3

        tracker = upstream.tracker([b""], Silence())
        await eventually(attempted)
        await tracker.close()
        attempts.clear()
        subscriber = upstream.subscriber(lambda *message: None)
        with pytest.raises(StoreError, match="does not answer"):
            await subscriber.want([Subscription(b"subscribe", b"a")])
        await eventually(attempted)
        await subscriber.close()


@contextmanager
def relayed(server: RedisServer) -> Iterator[tuple[FaultProxy, str]]:
    with FaultProxy(server.port) as proxy:
        yield proxy, f"redis://127.0.0.1:{proxy.port}"


@pytest.mark.parametrize("passed", range(24))
async def test_a_cut_within_replies_fails_exactly_what_is_missing(
    passed: int, connect: Connect, redis_server: RedisServer
) -> None:
    replies = [b"$1\r\n%d\r\n" % number for number in range(3)]  # 7 bytes each
    with relayed(redis_server) as (proxy, url):
        upstream = connect(url)
        await upstream.open()
        proxy.truncate(Direction.DOWN, passed or 1)
        lane = upstream.lane(0, 2)
        first, second = send(lane, "ECHO 0", "ECHO 1"), send(lane, "ECHO 2")
        wire, failed = await first
        whole = min(passed // 7, 2)
        assert wire.startswith(b"".join(replies[:whole]) + LOST * (whole < 2))
        assert failed == wire.count(LOST) == 2 - whole
        wire, failed = await second
        assert failed == (passed < 21)
        assert wire.startswith(LOST if failed else replies[2])


async def test_a_write_is_never_sent_twice(connect: Connect, redis_server: RedisServer) -> None:
    with relayed(redis_server) as (proxy, url), redis_server.client() as client:
        client.delete("once")
        upstream = connect(url)
        await upstream.open()
        proxy.stall(Direction.DOWN)
        written = send(upstream.lane(0, 2), "INCR once")
        await eventually(lambda: proxy.held(Direction.DOWN))
        proxy.cut()
        proxy.resume(Direction.DOWN)
        wire, failed = await written
        assert (wire.startswith(LOST), failed) == (True, 1)
        await eventually(lambda: upstream.state == "up")
        assert await upstream.call(0, [b"GET", b"once"]) == b"1"


async def test_what_is_sent_when_a_lasting_connection_was_lost_waits_for_the_next(
    connect: Connect, redis_server: RedisServer
) -> None:
    upstream = connect(redis_server.url, backoff_max=1)
    await upstream.open()
    await asyncio.sleep(0.01)  # longer than backoff_max: the connection has lasted
    lane = upstream.lane(0, 2)
    lost = send(lane, "BLPOP nothing 0")
    with redis_server.client() as client:
        await eventually(lambda: client.info("clients")["blocked_clients"])
        client.client_kill_filter(_type="normal", skipme=True)
    assert (await lost)[1] == 1
    assert upstream.state == "connecting"
    assert await send(lane, "ECHO a") == (b"$1\r\na\r\n", 0)


async def test_one_that_falls_silent_is_given_up(connect: Connect) -> None:
    with RedisServer() as server:
        upstream = connect(server.url, timeout=200, connect_timeout=200)
        await upstream.open()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            wire, failed = await send(upstream.lane(0, 2), "ECHO a", "ECHO b")
            assert wire.startswith(LOST + b"127.0.0.1:%d: no answer within 200 ms; " % server.port)
            assert failed == 2
            # The kernel still takes connections for it.
            await eventually(
                lambda: upstream.state == f"down: 127.0.0.1:{server.port}: no answer within 200 ms"
            )
            wire, _ = await send(upstream.lane(1, 2), "ECHO a")
            assert wire.startswith(DOWN + b"127.0.0.1:%d: no answer within 200 ms" % server.port)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await eventually(lambda: upstream.state == "up")


async def test_close_answers_everything(connect: Connect, redis_server: RedisServer) -> None:
    upstream = connect(redis_server.url)
    await upstream.open()
    blocked = send(upstream.lane(0, 2), "BLPOP nothing 0", "ECHO a")
    await upstream.call(1, [b"PING"])
    await upstream.close()
    wire, failed = await blocked
    assert (wire.count(LOST), failed) == (2, 2)
    for db in (0, 5):
        assert await send(upstream.lane(db, 2), "ECHO a") == (
            DOWN + b"redtier is shutting down\r\n",
            1,
        )
