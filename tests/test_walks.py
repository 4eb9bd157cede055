"""SCAN, KEYS, DBSIZE, RANDOMKEY, FLUSHALL, FLUSHDB and SWAPDB over all kinds of backends at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Final

import pytest
import redis

from backends.memory import MemoryBackend
from proxy.clock import ManualClock
from proxy.glob import Glob
from proxy.homes import MemoryHome
from proxy.keyspace import STRING, KeyPolicy
from proxy.prefixes import PrefixMap
from proxy.router import Route, Router
from proxy.walks import Walks
from tests import s3
from tests.faultproxy import FaultProxy
from tests.homes import PREFIXES, Options, config, wait_for_homes
from tests.servers import MotoServer, PostgresServer, RedisServer, RedtierServer

pytestmark = pytest.mark.once  # what walks over all backends is not compiled

EACH: Final = 60  # keys of each kind of backend
KEYS: Final = {b"%s%d" % (prefix.encode(), n) for prefix in PREFIXES.values() for n in range(EACH)} | {
    b"other"
}

NESTED: Final = """
[backends.hot]
type = "memory"
[backends.main]
type = "redis"
url = "{redis}"
flushable = {flushable}
[backends.archive]
type = "postgres"
url = "{postgres}"
table = "redtier_walks_nested"
flushable = {flushable}
[backends.local]
type = "sqlite"
flushable = {flushable}
[[routes]]
prefix = ""
backend = "archive"
[[routes]]
prefix = "w:"
backend = "main"
[[routes]]
prefix = "wide:"
backend = "main"
[[routes]]
prefix = "wide:hot:"
backend = "hot"
[[routes]]
prefix = "long:"
backend = "local"
[[routes]]
prefix = "long:hot:"
backend = "hot"
[[routes]]
prefix = "long:hot:not:"
backend = "local"
"""
OWN: Final = {
    b"plain", b"wi", b"w", b"long", b"w:1", b"w:2", b"wide:1", b"wide:hot:1", b"wide:hot:2",
    b"long:1", b"long:2", b"long:hot:1", b"long:hot:not:1", b"long:hot:not:2",
}  # fmt: skip


@pytest.fixture(scope="module")
def network(postgres: PostgresServer) -> Iterator[FaultProxy]:
    with FaultProxy(postgres.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def filled(postgres: PostgresServer, s3_moto: MotoServer, network: FaultProxy) -> Iterator[redis.Redis]:
    """A server with ``KEYS``; beside them in its Redis and in its table stand such as are not its own."""
    url = postgres.url.replace(str(postgres.port), str(network.port))
    options: Options = {
        "server": {"cursors_max": 20},
        "backends.postgres": {"table": "redtier_walks", "timeout": "2s", "connect_timeout": "1s"},
    }
    with (
        RedisServer() as upstream,
        RedtierServer(config(upstream.url, url, s3.place(s3_moto), options)) as server,
        RedtierServer(
            f'[backends.all]\ntype = "postgres"\nurl = "{postgres.url}"\ntable = "redtier_walks"\n'
            '[[routes]]\nprefix = ""\nbackend = "all"\n'
        ) as neighbour,
        closing(server.client()) as client,
    ):
        wait_for_homes(server.port)
        wait_for_homes(neighbour.port, ["any:"])
        with client.pipeline(transaction=False) as pipeline:
            for key in sorted(KEYS):
                pipeline.set(key, b"value")
            pipeline.execute()
        with closing(upstream.client()) as direct, closing(neighbour.client()) as beside:
            for foreign in (direct, beside):
                foreign.mset(
                    {f"{name}{n}": "x" for name in ("zzz", "short:", "a", "loner") for n in range(50)}
                )
            direct.rpush("working:list", "x")
        yield client


@pytest.fixture(scope="module", params=["true", "false"])
def flushable(request: pytest.FixtureRequest) -> str:
    flushable: str = request.param
    return flushable


@pytest.fixture(scope="module")
def upstream() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def nested(
    postgres: PostgresServer, upstream: RedisServer, flushable: str
) -> Iterator[tuple[redis.Redis, redis.Redis]]:
    """A server whose routes lie within each other, with ``OWN``; and its Redis, with others' keys too."""
    text = NESTED.format(redis=upstream.url, postgres=postgres.url, flushable=flushable)
    with (
        RedtierServer(text) as server,
        closing(server.client()) as client,
        closing(upstream.client()) as direct,
    ):
        wait_for_homes(server.port, ["any:", "w:", "long:"])
        direct.mset({"wonder": 1, "wide:hot:foreign": 1, "long:foreign": 1, "other": 1})
        for key in OWN:
            client.set(key, "v")
        yield client, direct


def ask(client: redis.Redis, *words: str | int) -> Any:  # as redis-py's own methods do
    return client.execute_command(*words)  # type: ignore[no-untyped-call]


def in_database(db: int, client: redis.Redis) -> redis.Redis:
    return redis.Redis(port=client.connection_pool.connection_kwargs["port"], db=db)


def scan(client: redis.Redis, command: str = "") -> list[bytes]:
    """All that a whole SCAN gives."""
    names: list[bytes] = []
    cursor = 0
    while True:
        cursor, page = ask_scan(client, cursor, command)
        names += page
        if not cursor:
            return names


def ask_scan(client: redis.Redis, cursor: int, command: str = "") -> tuple[int, list[bytes]]:
    after, page = ask(client, "SCAN", cursor, *command.split())
    assert 0 <= int(after) < 2**53
    return int(after), page


class TestScan:
    @pytest.mark.parametrize("count", [1, 7, 10, 1000, 10**9])
    def test_every_key_of_our_own_comes_once(self, filled: redis.Redis, count: int) -> None:
        names = scan(filled, f"COUNT {count}")
        assert sorted(names) == sorted(KEYS | {b"working:list"})

    @pytest.mark.parametrize(
        "pattern",
        [
            "long:*",
            "long:1*",
            "long:7",
            "*:1",
            "[ls]*:3?",
            "blob:*",
            "note:5*",
            "working:1?",
            "other",
            "z*",
            "?",
        ],
    )
    def test_match(self, filled: redis.Redis, pattern: str) -> None:
        glob = Glob(pattern.encode())
        expected = {key for key in KEYS if glob.matches(key)}
        assert set(scan(filled, f"MATCH {pattern}")) == expected
        assert set(filled.keys(pattern)) == expected

    def test_type(self, filled: redis.Redis) -> None:
        assert scan(filled, "TYPE list") == [b"working:list"]
        assert sorted(scan(filled, "TYPE string COUNT 50")) == sorted(KEYS)
        assert scan(filled, "TYPE zset MATCH long:*") == []

    def test_other_databases_are_others(self, filled: redis.Redis) -> None:
        with closing(in_database(5, filled)) as client:
            assert scan(client) == []
            assert client.dbsize() == 0
            client.mset({"short:five": 1, "long:five": 1, "working:five": 1})
            assert sorted(scan(client)) == [b"long:five", b"short:five", b"working:five"]
            assert client.dbsize() == 3
            client.delete("short:five", "long:five", "working:five")

    def test_what_stands_throughout_is_found_whatever_else_happens(self, filled: redis.Redis) -> None:
        chance = random.Random(3)
        for _ in range(3):
            names: set[bytes] = set()
            cursor = 0
            while True:
                cursor, page = ask_scan(filled, cursor, "COUNT 5")
                names.update(page)
                if not cursor:
                    break
                prefix = chance.choice([*PREFIXES.values(), "passing"])
                if prefix != "blob:" or chance.random() < 0.2:
                    name = f"{prefix}passing{chance.randrange(40)}"
                    filled.set(name, "x") if chance.random() < 0.6 else filled.delete(name)
                filled.get(chance.choice(sorted(KEYS)))  # which moves it to the end of the order of use
            assert names >= KEYS
        passing = filled.keys("*passing*")
        if passing:
            filled.delete(*passing)

    def test_the_same_page_twice(self, filled: redis.Redis) -> None:
        """A client asks again when the reply was lost."""
        cursor, _ = ask_scan(filled, 0)
        after, page = ask_scan(filled, cursor)
        assert ask_scan(filled, cursor) == (after, page)
        assert ask_scan(filled, after)[1] != page

    def test_a_cursor_that_is_not_known(self, filled: redis.Redis) -> None:
        for cursor in (1, 2**52, 2**53, 2**64 - 1):
            with pytest.raises(redis.ResponseError, match=f"invalid cursor: {cursor} is not known"):
                ask(filled, "SCAN", cursor)
        with pytest.raises(redis.ResponseError, match="invalid cursor"):
            ask(filled, "SCAN", "x")

    def test_of_too_many_cursors_the_one_unused_for_longest_is_forgotten(self, filled: redis.Redis) -> None:
        first, second = ask_scan(filled, 0)[0], ask_scan(filled, 0)[0]
        for _ in range(18):
            ask_scan(filled, 0)
        after = ask_scan(filled, first)[0]
        ask_scan(filled, 0)
        with pytest.raises(redis.ResponseError, match="not known"):
            ask_scan(filled, second)
        ask_scan(filled, after)

    def test_a_cursor_outlives_a_backends_failure(self, filled: redis.Redis, network: FaultProxy) -> None:
        names: set[bytes] = set()
        cursor = 0
        failures: list[str] = []
        network.refuse()
        network.cut()
        try:
            while True:
                try:
                    cursor, page = ask_scan(filled, cursor, "COUNT 20")
                except redis.ResponseError as error:
                    failures.append(str(error))
                    network.refuse(False)
                else:
                    names.update(page)
                    if not cursor:
                        break
        finally:
            network.refuse(False)
        assert failures[0].startswith("BACKENDDOWN backend 'postgres'")
        assert names >= KEYS

    def test_a_backend_that_can_not_hold_the_pattern_is_not_asked(
        self, filled: redis.Redis, network: FaultProxy
    ) -> None:
        network.refuse()
        network.cut()
        try:
            assert len(scan(filled, "MATCH note:* COUNT 1000")) == EACH
            assert len(filled.keys("short:*")) == EACH
            with pytest.raises(redis.ResponseError, match="BACKENDDOWN backend 'postgres'"):
                filled.dbsize()
        finally:
            network.refuse(False)


class TestNested:
    @pytest.mark.parametrize("walk", [scan, lambda client: client.keys("*")], ids=["scan", "keys"])
    def test_only_what_routes_back_is_shown(
        self, nested: tuple[redis.Redis, redis.Redis], walk: Callable[[redis.Redis], list[bytes]]
    ) -> None:
        assert sorted(walk(nested[0])) == sorted(OWN)

    def test_and_counted(self, nested: tuple[redis.Redis, redis.Redis]) -> None:
        assert nested[0].dbsize() == len(OWN)

    def test_and_given_at_random(self, nested: tuple[redis.Redis, redis.Redis]) -> None:
        seen = {ask(nested[0], "RANDOMKEY") for _ in range(400)}
        assert seen <= OWN
        for home in ({b"plain", b"wi", b"w", b"long"}, {b"w:1", b"w:2", b"wide:1"}, {b"long:1", b"long:2"}):
            assert seen >= home
        assert seen & {b"wide:hot:1", b"wide:hot:2", b"long:hot:1"}

    @pytest.mark.parametrize("pattern", ["w*", "wide:*", "wide:hot:*", "long:hot*", "l*"])
    def test_and_matched(self, nested: tuple[redis.Redis, redis.Redis], pattern: str) -> None:
        glob = Glob(pattern.encode())
        assert set(scan(nested[0], f"MATCH {pattern}")) == {key for key in OWN if glob.matches(key)}

    def test_swapping_databases_is_for_memory_alone(self, nested: tuple[redis.Redis, redis.Redis]) -> None:
        with pytest.raises(redis.ResponseError, match="'swapdb' is served where all routes are in memory"):
            nested[0].swapdb(0, 1)

    @pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB"])
    def test_flushing_is_all_or_nothing(
        self, nested: tuple[redis.Redis, redis.Redis], command: str, flushable: str
    ) -> None:
        client, direct = nested
        if flushable == "false":
            with pytest.raises(redis.ResponseError, match=r"set 'flushable = true' in \[backends\.\w+\]"):
                ask(client, command)
            assert client.dbsize() == len(OWN)
            return
        for key in OWN:
            client.set(key, "v")
        with closing(in_database(4, client)) as other:
            other.mset({"long:1": 1, "w:1": 1, "plain": 1, "long:hot:1": 1})
            assert client.get("long:1") == b"v"  # and a copy of it is in the near cache
            assert ask(client, command)
            assert client.dbsize() == 0
            assert client.get("long:1") is None
            assert other.dbsize() == (0 if command == "FLUSHALL" else 4)
            ask(other, "FLUSHDB")
        assert direct.exists("wonder", "other", "long:foreign") == 3


class TestRandomKey:
    def test_any_key_of_many_that_begin_alike(self) -> None:
        cold = '[backends.local]\ntype = "sqlite"\n[[routes]]\nprefix = ""\nbackend = "local"\n'
        with RedtierServer(cold) as server, closing(server.client()) as client:
            wait_for_homes(server.port, ["any:"])
            assert client.randomkey() is None
            names = [f"u:{n:04}".encode() for n in range(1000)]
            client.mset(dict.fromkeys(names, "v"))
            seen = {ask(client, "RANDOMKEY") for _ in range(1000)}
            assert seen <= set(names)
            assert min(seen) < names[100]
            assert max(seen) > names[900]
            client.set("aaa", "v")
            while client.randomkey() != b"aaa":
                pass


class TestMemory:
    def test_swapped_databases(self) -> None:
        hot = '[backends.hot]\ntype = "memory"\n[[routes]]\nprefix = ""\nbackend = "hot"\n'
        with RedtierServer(hot) as server, closing(server.client()) as client:
            client.set("k", "v")
            assert client.swapdb(0, 3)
            assert client.dbsize() == 0
            ask(client, "SELECT", 3)
            assert scan(client) == [b"k"]

    async def test_a_walk_over_many_keys_lets_others_in(self) -> None:
        policy = KeyPolicy(0, 100)
        backend = MemoryBackend("hot", 1 << 30, "allkeys-lru", ManualClock(), PrefixMap([(b"", policy)]))
        home = MemoryHome(backend, True, 1, 1)
        walks = Walks(Router([Route(b"", home, policy, list(backend.keyspaces))]), 10)
        for n in range(20_000):
            backend.keyspaces[0].put(b"%d" % n, STRING, b"v")
        turns = 0
        walk = asyncio.create_task(walks.keys(0, Glob(b"*")))
        while not walk.done():
            turns += 1
            await asyncio.sleep(0)
        assert len(await walk) == 20_000
        assert turns >= 20
