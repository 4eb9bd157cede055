"""A Redis Cluster behind a route, whose slots move while clients are at work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from backends.clusterview import Member, parse_nodes
from proxy.blocking import left_of
from proxy.slots import SLOTS, key_slot
from tests.clusters import Cluster
from tests.homes import toml
from tests.rawclient import RawClient
from tests.servers import RedisServer, RedtierServer, free_port, wait_until

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

OK = b"+OK\r\n"
CROSS_SLOT = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(3, False) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def port(cluster: Cluster) -> Iterator[int]:
    backends = {
        "backends.main": {"type": "redis", "url": cluster.url, "flushable": True},
        "backends.hot": {"type": "memory"},
    }
    near = '[[routes]]\nprefix = "near:"\nbackend = "main"\ncache = true\n'
    sealed = '[[routes]]\nprefix = "sealed:"\nbackend = "main"\nintegrity = "sha256"\n'
    with RedtierServer(toml(backends, {"": "main", "hot:": "hot"}) + near + sealed) as redtier:
        yield redtier.port


@pytest.fixture
def client(port: int, cluster: Cluster) -> Iterator[RawClient]:
    for node in cluster.nodes:
        with node.client() as direct:
            direct.flushall()
    with RawClient(port) as client:
        yield client


class Moving:
    """A slot that goes from the node that has it to another one."""

    def __init__(self, cluster: Cluster, key: bytes) -> None:
        self.cluster, self.slot = cluster, key_slot(key)
        self.source = cluster.owner(key)
        self.target = next(node for node in cluster.nodes if node is not self.source)

    def begin(self) -> None:
        self.cluster.begin_move(self.slot, self.source, self.target)

    def keys(self, count: int = 1000) -> int:
        return self.cluster.move_keys(self.slot, self.source, self.target, count)

    def end(self) -> None:
        self.cluster.end_move(self.slot, self.source, self.target)

    def all(self) -> None:
        self.begin()
        while self.keys():
            pass
        self.end()


def bulk(*items: str) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(item), item.encode()) for item in items)


@pytest.mark.parametrize(("key", "slot"), [(b"foo", 12182), (b"123456789", 12739), (b"", 0)])
def test_the_slot_of_a_key(key: bytes, slot: int) -> None:
    assert key_slot(key) == slot


@pytest.mark.parametrize(
    ("key", "tag"), [(b"a{foo}b{c}", b"foo"), (b"{}foo", b"{}foo"), (b"{foo", b"{foo"), (b"{{foo}", b"{foo")]
)
def test_what_stands_in_the_first_braces_counts(key: bytes, tag: bytes, cluster: Cluster) -> None:
    assert (key_slot(key) == key_slot(b"foo")) == (tag == b"foo")
    assert key_slot(key) == cluster.cluster(cluster.primaries[0], f"KEYSLOT {key.decode()}")


@pytest.mark.parametrize("proto", [2, 3])
def test_commands_of_many_slots_answer_as_those_of_one_redis(
    proto: int, port: int, client: RawClient, redis_server: RedisServer
) -> None:
    with RawClient(redis_server.port, proto) as direct, RawClient(port, proto) as proxied:
        direct.ask("FLUSHALL")
        for request in [
            "MSET a 1 b 2 c 3 d 4 e 5",
            "MGET a b x c d e",
            "DEL a x b",
            "EXISTS c d e a",
            "TOUCH c d e",
            "UNLINK c",
            "RPUSH l 1 2 3",
            "SADD s1 a b c",
            "SADD s2 c",
            "SINTERCARD 2 s1 s2",
            "SINTER s1 s2",
            "HSET h f v",
            "HGETALL h",
            "RENAME d dd",
            "COPY dd ddd",
            "GET ddd",
            "DBSIZE",
            "EVAL return(redis.call('get',KEYS[1])) 1 dd",
            "SCRIPT LOAD return(KEYS[1])",
            "GET h",
            "WATCH e",
            "MULTI",
            "GET e",
            "INCR e",
            "LPUSH e a",
            "PUBLISH channel message",
            "EXEC",
            "PUBSUB NUMSUB channel",
            "OBJECT ENCODING e",
            "XADD st 1-1 a b",
            "XREAD COUNT 1 STREAMS st 0",
            "SORT l DESC",
            "ZADD z 1 a 2 b",
            "ZRANGE z 0 -1 WITHSCORES",
            "FLUSHDB",
            "DBSIZE",
            "RANDOMKEY",
        ]:
            for each in (direct, proxied):
                each.send(request)
            expected = direct.frame()
            assert proxied.frame() == expected, request


def test_a_command_that_changes_keys_of_several_slots_is_refused(client: RawClient) -> None:
    assert client.ask("MSETNX a 1 b 2") == CROSS_SLOT
    assert client.ask("SUNIONSTORE d a b") == CROSS_SLOT
    assert client.ask("BLPOP a b 1") == CROSS_SLOT
    client.send("MULTI", "SET a 1", "SET b 2", "EXEC", "EXISTS a b")
    assert [client.frame() for _ in range(5)][-2:] == [CROSS_SLOT, b":0\r\n"]
    client.send("MULTI", "SET {t}a 1", "SET hot:a 2", "EXEC")
    assert [client.frame() for _ in range(4)][-1].startswith(b"-CROSSTIER ")
    client.send("MULTI", "PUBLISH x y", "SET {t}a 1", "SET {t}b 2", "EXEC")
    assert [client.frame() for _ in range(5)][-1] == b"*3\r\n:0\r\n+OK\r\n+OK\r\n"


def test_all_keys_are_walked_counted_and_cleared(client: RawClient, cluster: Cluster) -> None:
    names = [f"key:{number}" for number in range(500)]
    client.ask("MSET " + " ".join(f"{name} 1" for name in names))
    assert client.ask("DBSIZE") == b":500\r\n"
    found: list[str] = []
    cursor = "0"
    while True:
        reply = client.ask(f"SCAN {cursor} MATCH key:* COUNT 50").decode().split("\r\n")
        cursor = reply[2]
        found += reply[5::2]
        if cursor == "0":
            break
    assert sorted(filter(None, found)) == sorted(names)
    sizes = []
    for node in cluster.nodes:
        with node.client() as direct:
            sizes.append(direct.dbsize())
    assert all(sizes)
    assert sum(sizes) == 500
    assert client.ask("TIER PURGE key:1*") == b":111\r\n"
    assert client.ask("FLUSHALL") == OK
    assert client.ask("DBSIZE") == b":0\r\n"


def test_keys_of_a_prefix_are_cleared_on_all_nodes(cluster: Cluster) -> None:
    backends = {
        "backends.main": {"type": "redis", "url": cluster.url, "flushable": True},
        "backends.hot": {"type": "memory"},
    }
    with (
        RedtierServer(toml(backends, {"": "hot", "c:": "main"})) as redtier,
        RawClient(redtier.port) as client,
    ):
        for number in range(30):
            assert client.ask(f"SET c:{number} 1") == OK
        assert client.ask("FLUSHALL") == OK
        assert client.ask("DBSIZE") == b":0\r\n"


def test_there_is_one_database(client: RawClient) -> None:
    error = b"-ERR backend 'main' is a Redis Cluster, which has database 0 alone: "
    client.send(
        "SELECT 1", "GET a", "MULTI", "GET a", "EXEC", "WATCH a", "BLPOP a 1", "DBSIZE", "SELECT 0", "GET a"
    )
    replies = [client.frame() for _ in range(10)]
    assert [reply.startswith(error) for reply in replies] == [
        *(False, True, False, False, True, True, True, False, False, False)
    ]
    assert replies[7:] == [b":0\r\n", OK, b"$-1\r\n"]


def test_pipelined_commands_keep_their_order_while_their_slots_move(
    client: RawClient, cluster: Cluster
) -> None:
    names = [f"counter:{number}" for number in range(20)]
    counts = dict.fromkeys(names, 0)
    moved = 0
    for round_ in range(30):
        for _ in range(10):
            client.send(*(f"INCR {name}" for name in names for _ in range(5)))
        moving = Moving(cluster, names[round_ % len(names)].encode())
        moving.all()
        moved += 1
        for _ in range(10):
            client.send(*(f"INCR {name}" for name in names for _ in range(5)))
        for _ in range(20):
            for name in names:
                for _ in range(5):
                    counts[name] += 1
                    assert client.frame() == b":%d\r\n" % counts[name]
    assert moved == 30


def test_a_key_that_has_gone_ahead_is_followed(client: RawClient, cluster: Cluster) -> None:
    moving = Moving(cluster, b"{ahead}")
    client.send("SET {ahead}1 a", "SET {ahead}2 b")
    client.frame(), client.frame()
    moving.begin()
    moving.keys(1)
    client.send(
        "GET {ahead}1", "GET {ahead}2", "SET {ahead}3 c", "GET {ahead}3", "SET {ahead}1 d", "GET {ahead}1"
    )
    assert [client.frame() for _ in range(6)] == [bulk("a"), bulk("b"), OK, bulk("c"), OK, bulk("d")]
    with RawClient(moving.target.port) as target:
        target.send("ASKING", "GET {ahead}3")
        assert [target.frame(), target.frame()] == [OK, bulk("c")]
    # Of the keys of these two, one is here and one there: neither node can run them.
    client.send("MGET {ahead}1 {ahead}2")
    client.send("SET {ahead}1 e")  # behind it
    client.send("MULTI", "GET {ahead}1", "EXEC")
    while moving.keys():
        pass
    moving.end()
    assert client.frame() == b"*2\r\n" + bulk("d", "b")
    assert [client.frame() for _ in range(4)] == [OK, OK, b"+QUEUED\r\n", b"*1\r\n" + bulk("e")]


def test_who_waits_is_served_where_the_slot_has_gone(port: int, client: RawClient, cluster: Cluster) -> None:
    moving = Moving(cluster, b"queue")
    with RawClient(port) as waiter:
        waiter.send("BLPOP queue 20")
        wait_until(lambda: blocked(moving.source))
        moving.all()
        wait_until(lambda: blocked(moving.target))
        assert client.ask("RPUSH queue a") == b":1\r\n"
        assert waiter.frame() == b"*2\r\n" + bulk("queue", "a")


@pytest.mark.parametrize(
    ("before", "waited", "after"),
    [
        ("BLPOP a b 2.5", 1.0, "BLPOP a b 1.500"),
        ("blmpop 2 1 a LEFT", 0.25, "blmpop 1.750 1 a LEFT"),
        ("BLPOP a 1", 1.5, "BLPOP a 0.001"),  # not 0, which is for ever
        ("BLPOP a 0", 9.0, "BLPOP a 0"),
        ("XREAD COUNT 1 block 500 STREAMS s $", 0.2, "XREAD COUNT 1 block 300 STREAMS s $"),
        ("XREADGROUP GROUP g c BLOCK 500 STREAMS s >", 0.6, "XREADGROUP GROUP g c BLOCK 1 STREAMS s >"),
        ("BLPOP a 1", 0.0, "BLPOP a 1"),
    ],
)
def test_who_is_sent_elsewhere_waits_for_the_rest_of_its_time(before: str, waited: float, after: str) -> None:
    assert left_of(before.encode().split(), waited) == after.encode().split()


def blocked(node: RedisServer) -> int:
    with node.client() as client:
        return int(client.info("clients")["blocked_clients"])


def test_a_watched_key_that_moves_undoes_the_transaction(client: RawClient, cluster: Cluster) -> None:
    client.send("SET watched 1", "WATCH watched")
    assert [client.frame(), client.frame()] == [OK, OK]
    Moving(cluster, b"watched").all()
    client.send(
        "MULTI", "SET watched 2", "EXEC", "GET watched", "WATCH watched", "MULTI", "SET watched 3", "EXEC"
    )
    assert [client.frame() for _ in range(8)][2:] == [
        *(b"*-1\r\n", bulk("1"), OK, OK, b"+QUEUED\r\n", b"*1\r\n+OK\r\n")
    ]


def test_a_watched_key_that_is_not_there_is_watched_over_a_move_too(
    port: int, client: RawClient, cluster: Cluster
) -> None:
    assert client.ask("WATCH lock") == OK
    Moving(cluster, b"lock").all()
    with RawClient(port) as other:
        assert other.ask("SET lock other") == OK
    client.send("MULTI", "SET lock mine", "EXEC", "GET lock")
    assert [client.frame() for _ in range(4)][2:] == [b"*-1\r\n", bulk("other")]


def test_what_a_key_that_moves_can_not_be_watched_for_is_waited_for(
    client: RawClient, cluster: Cluster
) -> None:
    moving = Moving(cluster, b"absent")
    moving.begin()
    client.send("WATCH absent", "MULTI", "SET absent 1", "EXEC")
    moving.all()
    assert [client.frame() for _ in range(4)] == [OK, OK, b"+QUEUED\r\n", b"*1\r\n+OK\r\n"]


@pytest.mark.parametrize(
    "error", ["MOVED x", "MOVED 99999 127.0.0.1:1", "MOVED 1 127.0.0.1:1", "ASK 1 a:b", "TRYAGAIN later"]
)
def test_an_error_of_a_script_is_no_redirection(error: str, client: RawClient) -> None:
    script = f"redis.call('incr', KEYS[1]) return redis.error_reply('{error}')"
    assert client.ask(f'EVAL "{script}" 1 counted') == b"-%b\r\n" % error.encode()
    assert client.ask("GET counted") == bulk("1")


def test_channels_reach_all_nodes_and_shard_channels_move(
    port: int, client: RawClient, cluster: Cluster
) -> None:
    with RawClient(port) as listener:
        for request in ("SUBSCRIBE news", "SSUBSCRIBE shard"):
            listener.ask(request)
        for node in cluster.nodes:
            with node.client() as direct:
                direct.publish("news", f"of {node.port}")
                assert listener.frame() == b"*3\r\n" + bulk("message", "news", f"of {node.port}")
        client.ask("SPUBLISH shard 1")
        assert listener.frame() == b"*3\r\n" + bulk("smessage", "shard", "1")
        moving = Moving(cluster, b"shard")
        moving.all()
        with moving.target.client() as direct:
            wait_until(lambda: direct.execute_command("PUBSUB", "SHARDCHANNELS") == [b"shard"])
        client.ask("SPUBLISH shard 2")
        assert listener.frame() == b"*3\r\n" + bulk("smessage", "shard", "2")


def test_each_node_is_listened_to_for_what_happens_to_its_keys(
    port: int, client: RawClient, cluster: Cluster
) -> None:
    with RawClient(port) as listener:
        for node in cluster.nodes:
            with node.client() as direct:
                direct.config_set("notify-keyspace-events", "K$")
        listener.ask("PSUBSCRIBE __keyspace@0__:event:*")
        for number in range(20):
            assert client.ask(f"SET event:{number} 1") == OK
        heard = {listener.frame() for _ in range(20)}
        for node in cluster.nodes:
            with node.client() as direct:
                direct.config_set("notify-keyspace-events", "")
        assert len(heard) == 20


def test_cached_replies_are_dropped_by_what_any_node_tells(client: RawClient, cluster: Cluster) -> None:
    names = [f"near:{number}" for number in range(30)]
    with ExitStack() as stack:
        for round_ in range(3):
            owners = {
                name: stack.enter_context(RawClient(cluster.owner(name.encode()).port)) for name in names
            }
            for name in names:
                assert owners[name].ask(f"SET {name} {round_}") == OK
            wait_until(lambda: hits(client, names))
            for name in names:
                assert owners[name].ask(f"SET {name} new{round_}") == OK
                wait_until(partial(reads, client, name, f"new{round_}"), 2)
            Moving(cluster, names[round_].encode()).all()
            assert client.ask(f"GET {names[round_]}") == bulk(f"new{round_}")


def reads(client: RawClient, name: str, value: str) -> bool:
    return client.ask(f"GET {name}") == bulk(value)


def hits(client: RawClient, names: list[str]) -> bool:
    """Whether all are read from the near cache by now."""
    for name in names:
        client.ask(f"GET {name}")
    return all(b"cached\r\n:1\r\n" in client.ask(f"TIER WHERE {name}") for name in names)


def test_values_are_sealed_on_every_node(client: RawClient, cluster: Cluster) -> None:
    names = [f"sealed:{number}" for number in range(20)]
    value = "v" * 200
    assert client.ask("MSET " + " ".join(f"{name} {value}" for name in names)) == OK
    assert client.ask("MGET " + " ".join(names)) == b"*20\r\n" + bulk(*[value] * 20)
    for name in names:
        with cluster.owner(name.encode()).client() as direct:
            assert direct.strlen(name) > 200
    Moving(cluster, names[0].encode()).all()
    client.send("MULTI", f"SET {names[0]} {value}x", f"GET {names[0]}", "EXEC", f"GET {names[0]}")
    assert [client.frame() for _ in range(5)][3:] == [b"*2\r\n+OK\r\n" + bulk(value + "x"), bulk(value + "x")]


def test_scripts_and_functions_are_known_to_every_node(client: RawClient, cluster: Cluster) -> None:
    digest = client.ask("SCRIPT LOAD 'return KEYS[1]'").split(b"\r\n")[1].decode()
    library = "#!lua name=lib\nredis.register_function('f', function(keys) return keys[1] end)"
    assert client.ask(f"FUNCTION LOAD REPLACE '{library.replace(chr(39), chr(34))}'") == bulk("lib")
    for node in cluster.nodes:
        with node.client() as direct:
            assert direct.script_exists(digest) == [True]
    for name in ("a", "b", "c", "d"):
        assert client.ask(f"FCALL f 1 {name}") == bulk(name)
        assert client.ask(f"EVALSHA {digest} 1 {name}") == bulk(name)
    assert client.ask("FUNCTION DELETE lib") == OK


def test_any_node_will_do_to_begin_with(cluster: Cluster) -> None:
    url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{cluster.nodes[1].port}"
    with (
        RedtierServer(toml({"backends.main": {"type": "redis", "url": url}}, {"": "main"})) as redtier,
        RawClient(redtier.port) as client,
    ):
        for number in range(20):
            assert client.ask(f"SET begin:{number} {number}") == OK


def test_what_is_no_cluster_says_so(redis_server: RedisServer) -> None:
    url = f"redis+cluster://127.0.0.1:{redis_server.port}"
    with (
        RedtierServer(toml({"backends.main": {"type": "redis", "url": url}}, {"": "main"})) as redtier,
        RawClient(redtier.port) as client,
    ):
        assert b"cluster support disabled" in redtier.log.read_bytes()
        assert client.ask("PING") == b"+PONG\r\n"
        assert SLOTS == 16384


@pytest.mark.parametrize(
    ("where", "by_hostname", "address", "names"),
    [
        ("10.0.0.1:7001@17001", False, "10.0.0.1:7001", ("10.0.0.1:7001",)),
        ("10.0.0.1:7001@17001,a.b", False, "10.0.0.1:7001", ("10.0.0.1:7001", "a.b:7001")),
        ("10.0.0.1:7001@17001,a.b,shard-id=x", True, "a.b:7001", ("10.0.0.1:7001", "a.b:7001")),
        (":7001@17001", False, "h:7001", ("h:7001",)),
        ("::1:7001@17001,", False, "[::1]:7001", ("[::1]:7001",)),
    ],
)
def test_how_a_node_is_called(where: str, by_hostname: bool, address: str, names: tuple[str, ...]) -> None:
    [member] = parse_nodes(
        f"id {where} myself,master - 0 0 3 connected 5 7-9 [11->-other]\n", "h:1", by_hostname
    )
    assert member == Member("id", address, names, "", False, 3, (range(5, 6), range(7, 10)))
