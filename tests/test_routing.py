"""Which backend a key has, and commands whose keys have several: split, moved, or refused by name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import pytest

from backends.memory import MemoryBackend
from proxy.clock import ManualClock
from proxy.homes import MemoryHome
from proxy.keyspace import KeyPolicy
from proxy.prefixes import PrefixMap
from proxy.router import Route, Router
from tests import s3
from tests.faultproxy import FaultProxy
from tests.homes import PREFIXES, Options, config, wait_for_homes
from tests.rawclient import RawClient
from tests.servers import MotoServer, PostgresServer, RedisServer, RedtierServer

OK: Final = b"+OK\r\n"
NULL: Final = b"$-1\r\n"
ONE: Final = b":1\r\n"
ZERO: Final = b":0\r\n"
PAIRS: Final = list(itertools.permutations(PREFIXES, 2))


@pytest.fixture(scope="module")
def network(postgres: PostgresServer) -> Iterator[FaultProxy]:
    with FaultProxy(postgres.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def redtier(
    redis_server: RedisServer, postgres: PostgresServer, s3_moto: MotoServer, network: FaultProxy
) -> Iterator[RedtierServer]:
    url = postgres.url.replace(str(postgres.port), str(network.port))
    options: Options = {
        "backends.postgres": {"table": "redtier_routing", "timeout": "2s", "connect_timeout": "1s"}
    }
    with RedtierServer(config(redis_server.url, url, s3.place(s3_moto), options)) as server:
        wait_for_homes(server.port)
        yield server


@pytest.fixture
def client(redtier: RedtierServer, redis_server: RedisServer) -> Iterator[RawClient]:
    """All keys that the tests use are gone."""
    with RawClient(redtier.port) as client:
        names = [prefix + name for prefix in PREFIXES.values() for name in ("a", "b", "list")]
        for db in (3, 0):
            client.ask(f"SELECT {db}")
            client.ask("DEL " + " ".join(names))
        yield client


def bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


class TestRouter:
    def router(self, *prefixes: bytes) -> Router:
        """Each prefix with a home of its own."""
        policy = KeyPolicy(0, 100)
        routes = []
        for prefix in prefixes:
            backend = MemoryBackend("hot", 100, "allkeys-lru", ManualClock(), PrefixMap([(b"", policy)]))
            routes.append(Route(prefix, MemoryHome(backend, True, 1, 1), policy, []))
        return Router(routes)

    @pytest.mark.parametrize(
        ("key", "prefix"),
        [
            (b"long:a", b"long:"),
            (b"long:er:a", b"long:er:"),
            (b"long:er", b"long:"),
            (b"long", b""),
            (b"", b""),
            (b"Long:a", b""),
            (b"long:", b"long:"),
            (b"\xff\x00", b"\xff"),
        ],
    )
    def test_the_longest_prefix_wins(self, key: bytes, prefix: bytes) -> None:
        router = self.router(b"", b"long:er:", b"long:", b"\xff")
        assert router.find(key).prefix == prefix

    def test_nested_are_the_routes_next_within(self) -> None:
        router = self.router(b"", b"a", b"ab", b"abc", b"b")
        nested = {
            route.prefix: sorted(each.prefix for each in router.nested(route)) for route in router.routes
        }
        assert nested == {b"": [b"a", b"b"], b"a": [b"ab"], b"ab": [b"abc"], b"abc": [], b"b": []}


class TestSplit:
    ALL: Final = [prefix + "a" for prefix in PREFIXES.values()]

    @pytest.mark.parametrize("proto", [2, 3])
    def test_values_come_in_the_order_of_the_keys(
        self, proto: int, client: RawClient, redtier: RedtierServer
    ) -> None:
        with RawClient(redtier.port, proto) as reader:
            assert reader.ask("MSET " + " ".join(f"{key} {key}" for key in self.ALL)) == OK
            keys = [*reversed(self.ALL), "long:none", *self.ALL[:2], "short:b", "working:a"]
            null = NULL if proto == 2 else b"_\r\n"
            expected = [null if key.endswith((":none", ":b")) else bulk(key) for key in keys]
            assert reader.ask("MGET " + " ".join(keys)) == b"*%d\r\n" % len(keys) + b"".join(expected)

    def test_duplicates_count_as_in_redis(self, client: RawClient) -> None:
        twice = " ".join(self.ALL * 2)
        client.ask("MSET " + " ".join(f"{key} 1 {key} 2" for key in self.ALL))
        assert client.ask(f"MGET {twice}") == b"*10\r\n" + b"$1\r\n2\r\n" * 10
        assert client.ask(f"EXISTS {twice} short:b") == b":10\r\n"
        assert client.ask(f"TOUCH {twice}") == b":10\r\n"
        assert client.ask(f"UNLINK {twice}") == b":5\r\n"
        assert client.ask(f"DEL {twice}") == ZERO

    def test_of_other_databases(self, client: RawClient) -> None:
        client.send(
            "SELECT 3", "MSET short:a 3 working:a 3 long:a 3", "SELECT 0", "EXISTS short:a working:a long:a"
        )
        assert [client.frame() for _ in range(4)] == [OK, OK, OK, ZERO]
        client.send("SELECT 3", "MGET working:a long:a short:a")
        assert [client.frame(), client.frame()] == [OK, b"*3\r\n" + bulk("3") * 3]

    def test_what_is_not_a_string_is_null(self, client: RawClient) -> None:
        assert client.ask("RPUSH working:list x") == ONE
        assert client.ask("MGET short:a working:list") == b"*2\r\n" + NULL * 2

    def test_nothing_is_written_where_an_argument_is_missing(self, client: RawClient) -> None:
        refused = client.ask("MSET short:a 1 long:a 1 working:a")
        assert refused == b"-ERR wrong number of arguments for 'mset' command\r\n"
        assert client.ask("EXISTS short:a long:a") == ZERO

    def test_nor_where_a_value_is_too_large(self, client: RawClient) -> None:
        client.socket.sendall(
            b"*5\r\n$4\r\nMSET\r\n$7\r\nshort:a\r\n$1\r\n1\r\n$6\r\nlong:a\r\n$67108865\r\n"
        )
        for _ in range(64):
            client.socket.sendall(b"x" * (1 << 20))
        client.socket.sendall(b"x\r\n")
        assert client.frame().startswith(b"-TOOLARGE 67108865 bytes ")
        assert client.ask("EXISTS short:a long:a") == ZERO

    def test_several_keys_of_one_s3(self, client: RawClient) -> None:
        assert client.ask("MSET blob:a 1 blob:b 2") == OK
        assert client.ask("MGET blob:b blob:list blob:a") == b"*3\r\n" + bulk("2") + NULL + bulk("1")
        assert client.ask("LCS blob:a blob:b") == b"$0\r\n\r\n"
        assert client.ask("DEL blob:a blob:b blob:a") == b":2\r\n"

    def test_a_backend_that_is_away_is_named_and_the_others_parts_are_done(
        self, client: RawClient, network: FaultProxy
    ) -> None:
        network.refuse()
        network.cut()
        try:
            refused = client.ask("MSET short:a 1 long:a 1 working:a 1")
            assert refused.startswith(b"-BACKENDDOWN backend 'postgres' ")
            assert refused.endswith(b"; this command's other keys were changed\r\n")
            assert client.ask("MGET short:a working:a") == b"*2\r\n" + bulk("1") * 2
            refused = client.ask("MGET short:a long:b working:a")
            assert refused.startswith(b"-BACKENDDOWN backend 'postgres' ")
            assert b"changed" not in refused
        finally:
            network.refuse(False)
        while client.ask("DEL long:a") not in (ONE, ZERO):
            pass


class TestReads:
    """What only reads answers as if one backend had all keys."""

    def test_sets_of_all_backends(self, client: RawClient) -> None:
        keys = [f"{prefix}a" for prefix in PREFIXES.values()]
        for number, key in enumerate(keys):
            client.ask(f"SADD {key} 100 {number}")
        ours = sorted(["100", *map(str, range(len(keys)))], key=int)
        assert client.ask(f"SUNION {' '.join(keys)}") == b"*%d\r\n" % len(ours) + b"".join(map(bulk, ours))
        assert client.ask(f"SINTER {' '.join(keys)}") == b"*1\r\n" + bulk("100")
        assert client.ask(f"SDIFF {' '.join(keys)}") == b"*1\r\n" + bulk("0")
        assert client.ask(f"SINTERCARD {len(keys)} {' '.join(keys)} LIMIT 5") == ONE
        assert client.ask(f"SINTER {' '.join(keys)} long:b") == b"*0\r\n"

    def test_sorted_sets_and_sets_together(self, client: RawClient) -> None:
        client.send("ZADD working:a 1.5 x", "SADD short:a x y", "ZADD long:a 2 x 9 y")
        client.send("ZINTER 3 working:a short:a long:a WITHSCORES", "ZDIFF 2 long:a working:a")
        frames = [client.frame() for _ in range(5)]
        assert frames[3:] == [b"*2\r\n" + bulk("x") + bulk("4.5"), b"*1\r\n" + bulk("y")]

    def test_strings_and_counters(self, client: RawClient) -> None:
        client.send("SET short:a abcd", "SET working:a xbxd", "LCS short:a working:a", "LCS blob:b short:a")
        assert [client.frame() for _ in range(4)] == [OK, OK, bulk("bd"), bulk("")]
        client.send("PFADD long:b x y", "PFADD working:b y z", "PFCOUNT long:b working:b")
        assert [client.frame() for _ in range(3)] == [ONE, ONE, b":3\r\n"]

    def test_the_clients_own_writes_are_seen_in_the_order_in_which_it_sent_them(
        self, client: RawClient
    ) -> None:
        lines = ["SADD long:a x", "SADD working:a x", "SINTER long:a working:a", "SREM long:a x"]
        client.send(*lines, "SINTER long:a working:a", "SADD short:a y", "SUNION short:a working:a long:a")
        frames = [client.frame() for _ in range(7)]
        assert frames[2] == b"*1\r\n" + bulk("x")
        assert frames[4] == b"*0\r\n"
        assert sorted(frames[6].split()[2::2]) == [b"x", b"y"]

    @pytest.mark.parametrize("other", ["SET", "RPUSH", "XADD"])
    def test_of_another_type(self, other: str, client: RawClient) -> None:
        client.ask("SADD short:a 1")
        client.ask({"XADD": "XADD working:a * f v"}.get(other, f"{other} working:a v"))
        assert client.ask("SUNION short:a working:a").startswith(b"-WRONGTYPE ")

    def test_a_backend_that_is_away_is_named(self, client: RawClient, network: FaultProxy) -> None:
        client.ask("SADD short:a 1")
        network.refuse()
        network.cut()
        try:
            assert client.ask("SUNION short:a long:a").startswith(b"-BACKENDDOWN backend 'postgres' ")
        finally:
            network.refuse(False)
        while client.ask("DEL long:a") not in (ONE, ZERO):
            pass


class TestRefusal:
    @pytest.mark.parametrize(
        "line",
        [
            "MSETNX short:a 1 long:a 1",
            "SMOVE short:a long:a 1",
            "SUNIONSTORE short:a long:a",
            "RPOPLPUSH short:a long:a",
            "ZUNIONSTORE short:a 1 long:a",
        ],
    )
    def test_names_both_prefixes(self, line: str, client: RawClient) -> None:
        refused = client.ask(line)
        assert refused.startswith(b"-CROSSTIER '%s' needs " % line.split()[0].lower().encode())
        assert b"prefix 'short:'" in refused
        assert b"prefix 'long:'" in refused
        assert client.ask("EXISTS short:a long:a") == ZERO

    @pytest.mark.parametrize("line", ["MSETNX blob:a 1 blob:b 1", "MOVE blob:a 3"])
    def test_what_s3_can_not_do_in_one_step(self, line: str, client: RawClient) -> None:
        client.ask("SET blob:a 0")
        refused = client.ask(line)
        name = line.split()[0].lower().encode()
        assert refused.startswith(b"-ERR '%s' would change several keys at once, which backend 's3'" % name)
        assert client.ask("MGET blob:a blob:b") == b"*2\r\n" + bulk("0") + NULL

    @pytest.mark.parametrize("prefix", [prefix for kind, prefix in PREFIXES.items() if kind != "redis"])
    def test_a_script_reaches_no_key_of_others(
        self, prefix: str, client: RawClient, redis_server: RedisServer
    ) -> None:
        with closing(redis_server.client()) as direct:
            direct.set("not:ours", "v")
            for name in ("EVAL", "EVAL_RO"):
                reply = client.ask(f"{name} \"return redis.call('DEL', 'not:ours')\" 1 {prefix}a")
                # Memory has the catch-all, and no such key.
                expected = b":0\r\n" if (prefix, name) == (PREFIXES["memory"], "EVAL") else b"-"
                assert reply.startswith(expected)
            assert direct.delete("not:ours") == 1

    def test_a_value_that_its_redis_route_does_not_take(self, redis_server: RedisServer) -> None:
        routes = "".join(
            f'[[routes]]\nprefix = "{prefix}"\nbackend = "main"\nmax_value = "{limit}"\n'
            for prefix, limit in (("", "512mb"), ("small:", "100b"))
        )
        text = f'[backends.main]\ntype = "redis"\nurl = "{redis_server.url}"\n{routes}'
        with RedtierServer(text) as server, RawClient(server.port) as client:
            wait_for_homes(server.port, ["any:"])
            large = "x" * 101
            client.send(
                f"SET k {large}", f"SET small:k {large}", f"MSET k 1 small:k {large}", "STRLEN small:k"
            )
            client.send(
                f"LPUSH small:list {large}",
                "LPUSH small:list x",
                f"SET small:k {large[1:]}",
                "DEL small:list",
            )
            found = [client.frame() for _ in range(8)]
        refused = b"-TOOLARGE 101 bytes are over the limit of 100: send less, or raise 'max_value'\r\n"
        assert found == [OK, refused, refused, ZERO, refused, ONE, OK, ONE]


@pytest.mark.once  # what moves keys is not compiled
class TestMoves:
    @pytest.mark.parametrize(("source", "target"), PAIRS)
    def test_a_key_is_renamed(self, source: str, target: str, client: RawClient) -> None:
        one, two = PREFIXES[source] + "a", PREFIXES[target] + "b"
        client.ask(f"SET {one} value EX 1000")
        client.ask(f"SET {two} old")
        assert client.ask(f"RENAME {one} {two}") == OK
        assert client.ask(f"MGET {one} {two}") == b"*2\r\n" + NULL + bulk("value")
        assert 990 < int(client.ask(f"TTL {two}")[1:]) <= 1000

    @pytest.mark.parametrize(("source", "target"), PAIRS)
    def test_a_key_is_copied(self, source: str, target: str, client: RawClient) -> None:
        one, two = PREFIXES[source] + "a", PREFIXES[target] + "b"
        client.ask(f"SET {one} value EX 1000")
        assert client.ask(f"COPY {one} {two}") == ONE
        assert client.ask(f"MGET {one} {two}") == b"*2\r\n" + bulk("value") * 2
        assert 990 < int(client.ask(f"TTL {two}")[1:]) <= 1000
        client.ask(f"SET {one} new")
        assert client.ask(f"COPY {one} {two}") == ZERO
        assert client.ask(f"COPY {one} {two} REPLACE") == ONE
        assert client.ask(f"GET {two}") == bulk("new")
        assert client.ask(f"TTL {two}") == b":-1\r\n"

    @pytest.mark.parametrize(("source", "target"), PAIRS)
    def test_to_another_database(self, source: str, target: str, client: RawClient) -> None:
        one, two = PREFIXES[source] + "a", PREFIXES[target] + "b"
        client.ask(f"SET {one} value")
        client.send(f"COPY {one} {two} DB 3", f"EXISTS {two}", "SELECT 3", f"GET {two}", "SELECT 0")
        assert [client.frame() for _ in range(5)] == [ONE, ZERO, OK, bulk("value"), OK]

    @pytest.mark.parametrize("kind", PREFIXES)
    def test_within_one_backend(self, kind: str, client: RawClient) -> None:
        one, two = PREFIXES[kind] + "a", PREFIXES[kind] + "b"
        client.ask(f"SET {one} value EX 1000")
        client.send(
            f"RENAME {one} {two}", f"RENAMENX {two} {two}", f"RENAME {two} {two}", f"COPY {two} {one}"
        )
        assert [client.frame() for _ in range(4)] == [OK, ZERO, OK, ONE]
        assert client.ask(f"RENAMENX {one} {two}") == ZERO
        assert client.ask(f"COPY {one} {one}") == b"-ERR source and destination objects are the same\r\n"
        assert client.ask(f"COPY {one} {one} DB 3") == ONE
        assert 990 < int(client.ask(f"TTL {two}")[1:]) <= 1000

    @pytest.mark.parametrize(("source", "target"), PAIRS)
    def test_what_is_missing_or_in_the_way(self, source: str, target: str, client: RawClient) -> None:
        one, two = PREFIXES[source] + "a", PREFIXES[target] + "b"
        client.send(f"RENAME {one} {two}", f"RENAMENX {one} {two}", f"COPY {one} {two}")
        missing = b"-ERR no such key\r\n"
        assert [client.frame() for _ in range(3)] == [missing, missing, ZERO]
        client.send(f"SET {one} 1", f"SET {two} 2", f"RENAMENX {one} {two}", f"MGET {one} {two}")
        expected = [OK, OK, ZERO, b"*2\r\n" + bulk("1") + bulk("2")]
        assert [client.frame() for _ in range(4)] == expected
        client.send(f"DEL {two}", f"RENAMENX {one} {two}", f"MGET {one} {two}")
        assert [client.frame() for _ in range(3)] == [ONE, ONE, b"*2\r\n" + NULL + bulk("1")]

    def test_options_are_those_of_redis(self, client: RawClient) -> None:
        client.ask("SET short:a 1")
        assert client.ask("COPY short:a long:a WRONG") == b"-ERR syntax error\r\n"
        assert client.ask("COPY short:a long:a DB") == b"-ERR syntax error\r\n"
        assert client.ask("COPY short:a long:a DB 16") == b"-ERR DB index is out of range\r\n"
        assert client.ask("COPY short:a long:a DB x") == b"-ERR value is not an integer or out of range\r\n"
        assert client.ask("RENAME short:a") == b"-ERR wrong number of arguments for 'rename' command\r\n"

    @pytest.mark.parametrize(("source", "target"), PAIRS)
    @pytest.mark.parametrize(
        ("make", "show"),
        [
            ("SADD {} 1 2 3", "SMEMBERS {}"),
            ("RPUSH {} b a b", "LRANGE {} 0 -1"),
            ("HSET {} f 1 g 2", "HGETALL {}"),
            ("ZADD {} -inf a 0.1 b 1e300 c", "ZRANGE {} 0 -1 WITHSCORES"),
            ("XADD {} 1-1 f v", "XRANGE {} - +"),
        ],
    )
    def test_collections(self, make: str, show: str, source: str, target: str, client: RawClient) -> None:
        one, two = PREFIXES[source] + "a", PREFIXES[target] + "b"
        client.send(make.format(one), f"EXPIRE {one} 1000", show.format(one), f"COPY {one} {two}")
        _, _, shown, copied = [client.frame() for _ in range(4)]
        assert copied == ONE
        client.send(f"COPY {one} {two}", f"RENAMENX {one} {two}", f"DEL {two}", f"RENAMENX {one} {two}")
        assert [client.frame() for _ in range(4)] == [ZERO, ZERO, ONE, ONE]
        client.send(f"EXISTS {one}", show.format(two), f"SET {one} x", f"RENAME {two} {one}")
        assert [client.frame() for _ in range(4)] == [ZERO, shown, OK, OK]
        client.send(f"EXISTS {two}", show.format(one))
        assert [client.frame() for _ in range(2)] == [ZERO, shown]
        assert 990 < int(client.ask(f"TTL {one}")[1:]) <= 1000

    def test_a_large_set_goes_to_redis_whole(self, client: RawClient) -> None:
        for number in range(5):
            client.ask("SADD short:a " + " ".join(map(str, range(1000 * number, 1000 * number + 1000))))
        assert client.ask("RENAME short:a working:a") == OK
        assert client.ask("SCARD working:a") == b":5000\r\n"
        assert client.ask("RENAME working:a long:a") == OK
        assert client.ask("SCARD long:a") == b":5000\r\n"

    def test_a_collection_that_the_target_refuses_stays_where_it_is(
        self, redis_server: RedisServer, client: RawClient
    ) -> None:
        with closing(redis_server.client()) as direct:
            for _ in range(65):
                direct.rpush("working:a", b"x" * (1 << 20))
        assert client.ask("RENAME working:a long:a").startswith(b"-TOOLARGE ")
        assert client.ask("LLEN working:a") == b":65\r\n"

    def test_groups_of_a_stream_go_with_it(self, client: RawClient) -> None:
        client.ask("XADD short:a 1-1 f v")
        client.ask("XGROUP CREATE short:a g 0")
        client.ask("XREADGROUP GROUP g c STREAMS short:a >")
        pending = client.ask("XPENDING short:a g")
        for line in ("RENAME short:a working:a", "RENAME working:a long:a"):
            assert client.ask(line) == OK
            assert client.ask(f"XPENDING {line.split()[2]} g") == pending

    def test_what_a_redis_does_not_know_stays_where_it_is(self, client: RawClient) -> None:
        client.ask("HSET short:a f v g w")
        client.ask("HEXPIRE short:a 1000 FIELDS 1 f")
        for line in ("RENAME short:a working:b", "COPY short:a working:b"):
            assert client.ask(line).startswith(b"-CROSSTIER 'working:b' would have to go ")
        assert client.ask("EXISTS short:a working:b") == ONE
        assert client.ask("RENAME short:a long:b") == OK
        assert client.ask("HPERSIST long:b FIELDS 1 f") == b"*1\r\n:1\r\n"

    def test_a_value_that_the_target_refuses_stays_where_it_is(
        self, redis_server: RedisServer, client: RawClient
    ) -> None:
        with closing(redis_server.client()) as direct:
            direct.set("working:a", b"x" * ((64 << 20) + 1))
        assert client.ask("RENAME working:a long:a").startswith(b"-TOOLARGE ")
        assert client.ask("STRLEN working:a") == b":67108865\r\n"

    def test_binary_values_and_keys(self, client: RawClient) -> None:
        for target in (b"working:\xff\r\n", b"blob:\xff\r\n/../ %", b"long:\x00\xff"):
            value = bytes(range(256))
            parts = [b"SET", b"short:\x00", value], [b"RENAME", b"short:\x00", target], [b"GETDEL", target]
            client.socket.sendall(
                b"".join(
                    b"*%d\r\n" % len(argv) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in argv)
                    for argv in parts
                )
            )
            assert [client.frame() for _ in parts] == [OK, OK, b"$256\r\n" + value + b"\r\n"]
