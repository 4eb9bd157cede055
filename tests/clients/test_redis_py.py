"""redis-py on keys of every home: RESP2 and RESP3, blocking and asyncio, as applications use it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from redis.asyncio import Redis as AsyncRedis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from tests.faultproxy import FaultProxy
from tests.homes import PREFIXES
from tests.servers import RedtierServer

EACH = pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)


@pytest.fixture(params=[2, 3])
def client(request: pytest.FixtureRequest, port: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=port, protocol=request.param, decode_responses=True) as client:
        yield client


@EACH
def test_strings(client: redis.Redis, prefix: str) -> None:
    key = prefix + "ключ"
    assert client.get(key) is None
    assert client.set(key, "значение", ex=100)
    assert client.get(key) == "значение"
    assert 90 < client.ttl(key) <= 100
    assert client.set(key, "other", nx=True) is None
    assert client.set(key, "new", xx=True, keepttl=True)
    assert 90 < client.ttl(key) <= 100
    assert client.getex(key, persist=True) == "new"
    assert client.ttl(key) == -1
    assert client.set(key, "newer", get=True) == "new"
    assert client.append(key, "!") == 6
    assert client.getrange(key, 0, 3) == "newe"
    assert client.getdel(key) == "newer!"
    assert not client.exists(key)
    assert client.incr(key) == 1
    assert client.incrby(key, 9) == 10
    assert client.incrbyfloat(key, 0.5) == 10.5
    with pytest.raises(redis.ResponseError, match="value is not an integer or out of range"):
        client.incr(key)


@EACH
def test_keys(client: redis.Redis, prefix: str) -> None:
    a, b, c = (prefix + name for name in "abc")
    assert client.mset({a: "1", b: "2"})
    assert client.mget([a, b, c]) == ["1", "2", None]
    assert client.exists(a, b, c, a) == 3
    assert client.type(a) == "string"
    assert client.rename(a, c)
    assert client.get(c) == "1"
    assert client.copy(b, a)
    assert client.expire(a, 100, nx=True)
    assert not client.expire(a, 50, gt=True)
    assert client.persist(a)
    assert client.unlink(a, b, c) == 3
    assert client.randomkey() is None


@EACH
def test_bytes_come_back_as_they_went(port: int, prefix: str) -> None:
    value = bytes(range(256)) * 1000
    for protocol in (2, 3):
        with redis.Redis(port=port, protocol=protocol) as client:
            client.set(prefix + "bytes", value)
            assert client.get(prefix + "bytes") == value


@EACH
def test_pipelines(client: redis.Redis, prefix: str) -> None:
    names = [f"{prefix}{number}" for number in range(50)]
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.set(name, name)
            pipeline.get(name)
            pipeline.incr(name + ":n")
            pipeline.incr(name)
        replies = pipeline.execute(raise_on_error=False)
    for number, name in enumerate(names):
        *good, bad = replies[4 * number : 4 * number + 4]
        assert good == [True, name, 1]
        assert isinstance(bad, redis.ResponseError)
    with client.pipeline(transaction=False) as pipeline:
        pipeline.get(names[0])
        pipeline.incr(names[0])
        with pytest.raises(redis.ResponseError, match=r"^Command # 2 "):
            pipeline.execute()


@EACH
def test_scan_iter_finds_each_key_once(client: redis.Redis, prefix: str) -> None:
    names = {f"{prefix}{number}" for number in range(60)}
    client.mset(dict.fromkeys([*names, "else"], "x"))
    assert sorted(client.scan_iter(prefix + "*", count=7)) == sorted(names)
    assert sorted(client.scan_iter(count=7)) == sorted({*names, "else"})
    assert sorted(client.keys(prefix + "1?")) == sorted(f"{prefix}1{digit}" for digit in range(10))
    assert client.dbsize() == 61
    assert client.delete(*names) == 60


def test_one_pipeline_over_all_homes(client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for number in range(20):
            for prefix in PREFIXES.values():
                pipeline.set(f"{prefix}{number}", f"{prefix}{number}")
        for number in range(20):
            pipeline.mget([f"{prefix}{number}" for prefix in PREFIXES.values()])
        *stored, read = replies = pipeline.execute()
    assert len(stored) == 20 * len(PREFIXES) + 19
    assert read == [f"{prefix}19" for prefix in PREFIXES.values()]
    assert all(replies)
    assert client.dbsize() == 20 * len(PREFIXES)


def test_databases_are_apart(port: int) -> None:
    with redis.Redis(port=port, db=3) as three, redis.Redis(port=port) as zero:
        for prefix in PREFIXES.values():
            three.set(prefix + "a", "three")
            assert zero.get(prefix + "a") is None
            assert three.get(prefix + "a") == b"three"
            assert zero.copy(prefix + "a", prefix + "a", destination_db=3) is False


def test_what_a_tool_asks_of_a_server(client: redis.Redis, redtier: RedtierServer) -> None:
    assert client.ping()
    assert client.echo("hello") == "hello"
    assert client.info("server")["process_id"] == redtier.pid
    assert client.config_get("maxmemory")
    assert client.client_setname("tool")
    assert client.client_getname() == "tool"
    assert client.client_id() in [int(each["id"]) for each in client.client_list()]
    assert client.command_count() == len(client.command())
    assert client.time()[0] > 1_700_000_000
    assert client.memory_usage("none") is None


def test_a_pool_serves_many_threads(port: int) -> None:
    pool = redis.BlockingConnectionPool(port=port, max_connections=4)  # type: ignore[no-untyped-call]
    with redis.Redis(connection_pool=pool) as client:

        def work(number: int) -> None:
            for prefix in PREFIXES.values():
                for _ in range(10):
                    client.incr(prefix + "counter")
                    client.set(f"{prefix}{number}", number)
                    assert client.get(f"{prefix}{number}") == b"%d" % number

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert client.mget([prefix + "counter" for prefix in PREFIXES.values()]) == [b"80"] * len(PREFIXES)
    pool.disconnect()


def test_a_connection_that_was_cut_is_made_anew(port: int) -> None:
    retry = Retry(ConstantBackoff(0.01), 5)
    with FaultProxy(port) as network, redis.Redis(port=network.port, retry=retry) as client:
        for prefix in PREFIXES.values():
            client.set(prefix + "a", "1")
            network.cut()
            assert client.get(prefix + "a") == b"1"


class TestAsyncio:
    @pytest.fixture(params=[2, 3])
    async def client(self, request: pytest.FixtureRequest, port: int) -> AsyncIterator[AsyncRedis]:
        async with AsyncRedis(port=port, protocol=request.param, decode_responses=True) as client:
            yield client

    async def test_many_at_once(self, client: AsyncRedis) -> None:
        async def work(name: str) -> None:
            assert await client.set(name, name)
            assert await client.get(name) == name
            assert await client.incr(name + ":n") == 1
            assert await client.delete(name, name + ":n") == 2

        await asyncio.gather(*(work(f"{prefix}{n}") for n in range(20) for prefix in PREFIXES.values()))
        assert await client.dbsize() == 0

    async def test_pipelines_and_scans(self, client: AsyncRedis) -> None:
        names = [f"{prefix}{number}" for prefix in PREFIXES.values() for number in range(20)]
        async with client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.set(name, name)
                pipeline.get(name)
            replies = await pipeline.execute()
        assert replies == [reply for name in names for reply in (True, name)]
        assert sorted([name async for name in client.scan_iter(count=7)]) == sorted(names)

    async def test_a_request_that_is_given_up_leaves_no_reply_behind(self, client: AsyncRedis) -> None:
        for number in range(20):
            request = asyncio.ensure_future(client.get(f"blob:{number}"))
            await asyncio.sleep(0)
            request.cancel()
            await asyncio.wait([request])
            assert await client.echo(str(number)) == str(number)
