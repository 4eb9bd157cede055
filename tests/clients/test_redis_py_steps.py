"""redis-py where several commands are one step: transactions, watched keys, locks and their scripts; and how
it listens.  Blocking and asyncio, RESP2 and RESP3."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import pytest
import redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import LockError, LockNotOwnedError

from tests.homes import PREFIXES
from tests.servers import wait_until

pytestmark = pytest.mark.once

EACH = pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
IN_ONE_STEP = ("memory", "redis", "postgres", "sqlite")  # where several keys can be changed in one


@pytest.fixture(params=[2, 3])
def client(request: pytest.FixtureRequest, port: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=port, protocol=request.param, decode_responses=True) as client:
        yield client


@pytest.fixture(params=[2, 3])
async def async_client(request: pytest.FixtureRequest, port: int) -> AsyncIterator[AsyncRedis]:
    async with AsyncRedis(port=port, protocol=request.param, decode_responses=True) as client:
        yield client


def queue_all(pipeline: Any, prefix: str) -> list[Any]:
    """Commands on one key, of which one fails; what they answer."""
    pipeline.set(f"{prefix}text", "1", px=100_000)
    pipeline.incrby(f"{prefix}text", 41)
    pipeline.hset(f"{prefix}text", "field", "value")
    pipeline.get(f"{prefix}text")
    return [True, 42, redis.ResponseError, "42"]


def queue_types(pipeline: Any, prefix: str) -> list[Any]:
    """Commands on keys of all types; what they answer."""
    pipeline.rpush(f"{prefix}list", "a", "b", "c")
    pipeline.lrange(f"{prefix}list", 0, -1)
    pipeline.hset(f"{prefix}hash", mapping={"one": 1, "two": "2"})
    pipeline.hgetall(f"{prefix}hash")
    pipeline.sadd(f"{prefix}set", "a", "b")
    pipeline.smembers(f"{prefix}set")
    pipeline.zadd(f"{prefix}zset", {"a": 1.5, "b": 2})
    pipeline.zscore(f"{prefix}zset", "a")
    pipeline.zrank(f"{prefix}zset", "b")
    return [3, ["a", "b", "c"], 2, {"one": "1", "two": "2"}, 2, {"a", "b"}, 2, 1.5, 1]


def same(replies: list[Any], expected: list[Any]) -> bool:
    return len(replies) == len(expected) and all(
        isinstance(reply, wanted) if isinstance(wanted, type) else reply == wanted
        for reply, wanted in zip(replies, expected, strict=True)
    )


class TestPipelines:
    @EACH
    @pytest.mark.parametrize("transaction", [True, False])
    def test_an_error_stands_in_its_place(self, client: redis.Redis, prefix: str, transaction: bool) -> None:
        with client.pipeline(transaction=transaction) as pipeline:
            expected = queue_all(pipeline, prefix)
            replies = pipeline.execute(raise_on_error=False)
            assert same(replies, expected), replies
            assert pipeline.get(f"{prefix}text").execute() == ["42"]  # it can be used again
            queue_all(pipeline, prefix)
            with pytest.raises(redis.ResponseError, match=r"^Command # 3 .*WRONGTYPE"):
                pipeline.execute()

    @pytest.mark.parametrize("transaction", [True, False])
    @pytest.mark.parametrize("prefix", [PREFIXES[kind] for kind in IN_ONE_STEP], ids=IN_ONE_STEP)
    def test_replies_are_of_the_types_of_their_commands(
        self, client: redis.Redis, prefix: str, transaction: bool
    ) -> None:
        with client.pipeline(transaction=transaction) as pipeline:
            expected = queue_types(pipeline, prefix)
            assert pipeline.execute() == expected

    def test_what_is_refused_while_it_is_queued_undoes_a_transaction(self, client: redis.Redis) -> None:
        with client.pipeline() as pipeline:
            pipeline.set("short:k", "1")
            pipeline.execute_command("NOSUCH")
            with pytest.raises(redis.ResponseError, match=r"^Command # 2 .*unknown command"):
                pipeline.execute()
        assert not client.exists("short:k")

    @EACH
    @pytest.mark.parametrize("transaction", [True, False])
    async def test_asyncio(self, async_client: AsyncRedis, prefix: str, transaction: bool) -> None:
        async def work(number: int) -> bool:
            async with async_client.pipeline(transaction=transaction) as pipeline:
                expected = queue_all(pipeline, f"{prefix}{number}:")
                return same(await pipeline.execute(raise_on_error=False), expected)

        assert all(await asyncio.gather(*map(work, range(8))))


@EACH
class TestWatchedKeys:
    def test_another_is_quicker(self, client: redis.Redis, prefix: str) -> None:
        with client.pipeline() as pipeline:
            pipeline.watch(f"{prefix}n")
            assert pipeline.get(f"{prefix}n") is None
            client.set(f"{prefix}n", "5")
            pipeline.multi()
            pipeline.incr(f"{prefix}n")
            with pytest.raises(redis.WatchError):
                pipeline.execute()
            pipeline.watch(f"{prefix}n")
            pipeline.multi()
            assert pipeline.incr(f"{prefix}n").execute() == [6]

    def test_transfers_lose_nothing(self, client: redis.Redis, prefix: str) -> None:
        """``transaction`` begins anew for as long as others are quicker."""

        def count(_: int) -> None:
            def step(pipeline: Any) -> None:
                value = int(pipeline.get(f"{prefix}n") or 0)
                pipeline.multi()
                pipeline.set(f"{prefix}n", value + 1)

            for _ in range(3):
                assert client.transaction(step, f"{prefix}n") == [True]

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(count, range(4)))
        assert client.get(f"{prefix}n") == "12"

    async def test_asyncio(self, async_client: AsyncRedis, prefix: str) -> None:
        async def step(pipeline: Any) -> None:
            value = int(await pipeline.get(f"{prefix}n") or 0)
            pipeline.multi()
            pipeline.set(f"{prefix}n", value + 1)

        async def count() -> None:
            for _ in range(3):
                assert await async_client.transaction(step, f"{prefix}n") == [True]

        await asyncio.gather(*(count() for _ in range(4)))
        assert await async_client.get(f"{prefix}n") == "12"


@EACH
class TestLocks:
    def test_one_holds_it(self, client: redis.Redis, prefix: str) -> None:
        client.script_flush()  # so that its scripts are loaded once they are missed
        mine = client.lock(f"{prefix}lock", timeout=100)
        other = client.lock(f"{prefix}lock", timeout=100, blocking=False)
        assert mine.acquire()
        assert mine.locked()
        assert mine.owned()
        assert not other.acquire()
        assert not other.owned()
        assert mine.extend(100)
        assert 190 < client.ttl(f"{prefix}lock") <= 200
        assert mine.extend(50, replace_ttl=True)
        assert 40 < client.ttl(f"{prefix}lock") <= 50
        assert mine.reacquire()
        assert 90 < client.ttl(f"{prefix}lock") <= 100
        mine.release()
        with other:
            assert other.owned()
            assert not mine.acquire(blocking=False)
        assert not other.locked()
        with pytest.raises(LockError, match="unlocked"):
            other.release()

    def test_one_that_has_lost_it_is_told(self, client: redis.Redis, prefix: str) -> None:
        slow, next_one = client.lock(f"{prefix}lock", timeout=0.05), client.lock(f"{prefix}lock", timeout=100)
        assert slow.acquire()
        wait_until(lambda: not slow.locked())
        assert next_one.acquire(blocking=False)
        for action in (slow.reacquire, lambda: slow.extend(1), slow.release):
            with pytest.raises(LockNotOwnedError):
                action()
        assert next_one.owned()
        next_one.release()

    def test_none_but_its_owner_lets_it_go(self, client: redis.Redis, prefix: str) -> None:
        mine, other = client.lock(f"{prefix}lock", timeout=100), client.lock(f"{prefix}lock", timeout=100)
        assert mine.acquire(token="mine")
        for action in (other.release, other.reacquire, lambda: other.extend(1000)):
            other.local.token = b"other's"  # forgotten by release
            with pytest.raises(LockNotOwnedError):
                action()
        assert client.get(f"{prefix}lock") == "mine"
        assert 90 < client.ttl(f"{prefix}lock") <= 100
        mine.release()
        assert not client.exists(f"{prefix}lock")

    def test_who_waits_gets_it_when_it_expires(self, client: redis.Redis, prefix: str) -> None:
        dead, waiting = client.lock(f"{prefix}lock", timeout=0.2), client.lock(f"{prefix}lock", sleep=0.01)
        assert dead.acquire()
        assert not waiting.acquire(blocking_timeout=0.02)
        assert waiting.acquire(blocking_timeout=10)
        assert client.ttl(f"{prefix}lock") == -1
        with pytest.raises(LockError, match="no timeout"):
            waiting.extend(10)
        waiting.release()

    def test_those_who_wait_get_it_one_after_the_other(self, client: redis.Redis, prefix: str) -> None:
        def count(_: int) -> None:
            with client.lock(f"{prefix}lock", timeout=30, sleep=0.005, blocking_timeout=20):
                client.set(f"{prefix}n", int(client.get(f"{prefix}n") or 0) + 1)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(count, range(12)))
        assert client.get(f"{prefix}n") == "12"
        assert not client.exists(f"{prefix}lock")

    async def test_asyncio(self, async_client: AsyncRedis, prefix: str) -> None:
        await async_client.script_flush()

        async def count() -> None:
            async with async_client.lock(
                f"{prefix}lock", timeout=30, sleep=0.005, blocking_timeout=20
            ) as lock:
                assert await lock.owned()
                assert await lock.extend(10)
                await async_client.set(f"{prefix}n", int(await async_client.get(f"{prefix}n") or 0) + 1)

        await asyncio.gather(*(count() for _ in range(8)))
        assert await async_client.get(f"{prefix}n") == "8"
        assert not await async_client.exists(f"{prefix}lock")


@EACH
class TestListening:
    def test_in_a_thread(self, client: redis.Redis, prefix: str) -> None:
        heard: SimpleQueue[tuple[str, str]] = SimpleQueue()

        def hear(message: dict[str, str]) -> None:
            heard.put((message["channel"], message["data"]))

        with client.pubsub(ignore_subscribe_messages=True) as listener:
            listener.subscribe(**{f"{prefix}a": hear})
            listener.psubscribe(**{f"{prefix}b*": hear})
            thread = listener.run_in_thread(sleep_time=0.05)
            try:
                for number, name in enumerate(["a", "b1", "c", "b2"]):
                    wait_until(lambda name=name: client.publish(f"{prefix}{name}", "-") or name == "c")  # type: ignore[misc]
                    client.publish(f"{prefix}{name}", str(number))
                found = []
                while not found or found[-1] != (f"{prefix}b2", "3"):
                    found.append(heard.get(timeout=5))
            finally:
                thread.stop()
                thread.join(5)
        assert [each for each in found if each[1] != "-"] == [
            (f"{prefix}a", "0"),
            (f"{prefix}b1", "1"),
            (f"{prefix}b2", "3"),
        ]

    async def test_asyncio(self, async_client: AsyncRedis, prefix: str) -> None:
        async with async_client.pubsub() as listener:
            await listener.subscribe(f"{prefix}a", f"{prefix}b")
            await listener.psubscribe(f"{prefix}p*")
            speaker = None
            heard = []
            async with asyncio.timeout(10):
                async for message in listener.listen():
                    if message["type"].endswith("message"):
                        heard.append((message["channel"], message["data"]))
                    elif message["data"] == 3:  # it is subscribed to all, and not before it is told so
                        speaker = asyncio.create_task(self._speak(async_client, prefix))
                    if message["data"] == "end":
                        break
            assert speaker is not None
            await speaker
            wanted = [("b", "0"), ("p", "1"), ("a", "2"), ("p", "end")]
            assert heard == [(f"{prefix}{name}", data) for name, data in wanted]

    async def _speak(self, client: AsyncRedis, prefix: str) -> None:
        for name, data in (("b", "0"), ("p", "1"), ("a", "2"), ("p", "end")):
            await client.publish(f"{prefix}{name}", data)
