"""Sentinels: which of them is believed, and that all connections go where the primary is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from backends.base import StoreError, Subscription
from backends.redis import RedisUpstream
from backends.topology import GRACE, Sentinels, Service
from tests.sentinels import SERVICE, SentinelServer, Watched
from tests.servers import RedisServer, eventually, free_port
from tests.upstreams import DOWN, LOST, Connect, send

pytestmark = pytest.mark.once  # it is not compiled

# Who is believed


class Says:
    """A sentinel that says what it is told to: a port and an epoch, or nothing yet, or no."""

    def __init__(self, port: int = 0, epoch: int = 0) -> None:
        self.port, self.epoch = port, epoch
        self.hangs = False

    async def call(self, db: int, argv: list[bytes]) -> object:
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if not self.port:
            raise StoreError("gone")
        if argv[1] == b"GET-MASTER-ADDR-BY-NAME":
            return [b"h", b"%d" % self.port]
        return [b"name", argv[2], b"config-epoch", b"%d" % self.epoch]

    async def close(self) -> None:
        pass


class Question:
    """Three sentinels, and what is made of their answers."""

    def __init__(self) -> None:
        self.sentinels = [Says(1, 5) for _ in range(3)]
        self.moves = 0
        service = Service(SERVICE, (), False, "", "")
        self.topology = Sentinels(service, self.sentinels, self._moved)  # type: ignore[arg-type]

    def _moved(self) -> None:
        self.moves += 1

    async def answer(self) -> int:
        return (await self.topology.primary()).port


@pytest.fixture
async def question() -> AsyncIterator[Question]:
    question = Question()
    yield question
    await question.topology.close()


@pytest.mark.parametrize("place", range(3))
async def test_the_latest_epoch_is_believed(place: int, question: Question) -> None:
    assert (await question.answer(), question.moves) == (1, 0)
    question.sentinels[place].port, question.sentinels[place].epoch = 2, 6
    assert (await question.answer(), question.moves) == (2, 1)
    # The one that knows goes away; those that have not heard of it yet don't turn anything back.
    question.sentinels[place].port = 0
    question.sentinels[place - 1].port = 0
    assert (await question.answer(), question.moves) == (2, 1)


async def test_most_sentinels_may_go_back_to_an_earlier_epoch(question: Question) -> None:
    await question.answer()
    for sentinel in question.sentinels[:2]:
        sentinel.port, sentinel.epoch = 3, 0
    assert await question.answer() == 1  # one still has the later epoch
    question.sentinels[2].port = 0
    assert (await question.answer(), question.moves) == (3, 1)


async def test_the_last_primary_holds_while_no_sentinel_answers(question: Question) -> None:
    for sentinel in question.sentinels:
        sentinel.port = 0
    with pytest.raises(StoreError, match=r"^no sentinel knows where 'main' is: gone; gone; gone$"):
        await question.answer()
    question.sentinels[1].port = 4
    assert await question.answer() == 4
    question.sentinels[1].port = 0
    assert (await question.answer(), question.moves) == (4, 0)


async def test_sentinels_that_hang_cost_next_to_no_time(question: Question) -> None:
    question.sentinels[0].hangs = question.sentinels[2].hangs = True
    began = time.monotonic()
    assert await question.answer() == 1
    assert GRACE / 2 < time.monotonic() - began < GRACE + 0.2


async def test_a_move_is_noticed_without_being_asked_for(question: Question) -> None:
    await question.answer()
    question.sentinels[0].port, question.sentinels[0].epoch = 2, 6
    await eventually(lambda: question.moves == 1)


# Real ones


@contextmanager
def alone(primary: RedisServer, *lines: str) -> Iterator[tuple[SentinelServer, str]]:
    """A sentinel without others, which never fails over, and the URL of its primary."""
    with SentinelServer(primary, f"sentinel down-after-milliseconds {SERVICE} 60000", *lines) as sentinel:
        yield sentinel, f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}"


async def test_every_connection_follows_a_failover(connect: Connect) -> None:
    with Watched() as watched:
        upstream = connect(watched.url, backoff_max=60_000)
        await upstream.open()
        lanes = [upstream.lane(0, 2), upstream.lane(1, 3)]
        for lane in lanes:
            assert await send(lane, "SET a 1") == (b"+OK\r\n", 0)
        taken, idle = [await upstream.dedicated(0, 2, True) for _ in range(2)]
        idle.release(True)
        heard: list[bytes] = []
        subscriber = upstream.subscriber(lambda kind, wanted, channel, data: heard.append(data))
        await subscriber.want([Subscription(b"subscribe", b"news")])
        waiting = send(taken, "BLPOP nothing 0")
        before = watched.primary
        watched.fail_over()

        wire, failed = await waiting
        assert (wire.startswith(LOST + b"127.0.0.1:%d: " % before.port), failed) == (True, 1)
        await eventually(lambda: upstream.counters().failovers == 1)
        for lane in lanes:
            assert await send(lane, "SET a 2") == (b"+OK\r\n", 0)
        fresh = await upstream.dedicated(0, 2, True)
        assert fresh is not idle
        with watched.primary.client() as client:
            assert watched.primary is not before
            assert client.get("a") == b"2"
            await send(fresh, "SET a 3")
            assert client.get("a") == b"3"
            await eventually(lambda: client.publish("news", "moved"))
        await eventually(lambda: heard == [b"moved"])
        taken.release(False)
        fresh.release(True)
        await subscriber.close()


async def test_a_replica_is_never_taken_for_the_primary(connect: Connect) -> None:
    with RedisServer() as server, alone(server) as (_, url):
        upstream = connect(url)
        lane = upstream.lane(0, 2)
        assert await send(lane, "SET a 1") == (b"+OK\r\n", 0)
        with server.client() as client:
            # Unlike sentinels, whoever does this by hand leaves the connections.
            client.replicaof("127.0.0.1", free_port())
            assert (await send(lane, "SET a 2"))[0].startswith(b"-READONLY ")
            await eventually(lambda: upstream.state == f"down: 127.0.0.1:{server.port} is a replica")
            wire, _ = await send(lane, "GET a")
            assert wire == DOWN + b"127.0.0.1:%d is a replica\r\n" % server.port
            with pytest.raises(StoreError, match=rf"^127.0.0.1:{server.port} is a replica$"):
                await upstream.dedicated(0, 2, False)
            client.replicaof("NO", "ONE")
        await eventually(lambda: upstream.state == "up")
        assert await send(lane, "GET a") == (b"$1\r\n1\r\n", 0)


async def test_passwords_of_the_sentinels_are_their_own(connect: Connect) -> None:
    lines = [
        "requirepass watch",
        f"sentinel auth-pass {SERVICE} s3cret",
        "user bot on >b@t allchannels -@all +ping +auth +sentinel",
    ]
    with RedisServer(password="s3cret") as server, alone(server, *lines) as (_, url):
        for options in (
            {"sentinel_password": "watch"},
            {"sentinel_user": "bot", "sentinel_password": "b@t"},
        ):
            upstream = connect(url, password="s3cret", **options)
            assert await upstream.call(0, [b"ECHO", b"a"]) == b"a"
        with pytest.raises(StoreError, match=r"^no sentinel knows where 'main' is: .* answers: NOAUTH "):
            await connect(url, password="s3cret").open()
        with pytest.raises(StoreError, match=rf"^127.0.0.1:{server.port} answers: NOAUTH "):
            await connect(url, sentinel_password="watch").open()


async def test_sentinels_and_servers_that_speak_tls(connect: Connect) -> None:
    with RedisServer(tls=True) as server, alone(server) as (_, url):
        url = url.replace("redis+", "rediss+")
        ca = str(server.certificate.cert)
        assert await connect(url, tls_ca=ca).call(0, [b"ECHO", b"a"]) == b"a"
        with pytest.raises(StoreError, match="the server's certificate is not trusted"):
            await connect(url).open()


async def test_a_service_that_no_sentinel_knows(connect: Connect) -> None:
    with RedisServer() as server, alone(server) as (_, url):
        upstream: RedisUpstream = connect(url.replace(SERVICE, "other"))
        with pytest.raises(
            StoreError,
            match=r"^no sentinel knows where 'other' is: a sentinel answers: ERR No such master",
        ):
            await upstream.open()
        wire, _ = await send(upstream.lane(0, 2), "GET a")
        assert wire.startswith(DOWN + b"no sentinel knows where 'other' is: ")


async def test_sentinels_that_are_not_there(connect: Connect) -> None:
    port = free_port()
    with pytest.raises(
        StoreError,
        match=rf"^no sentinel knows where 'main' is: 127.0.0.1:{port}: connection refused, .*; 127.0.0.1:",
    ):
        await connect(f"redis+sentinel://127.0.0.1:{port},127.0.0.1:{port}/main").open()
