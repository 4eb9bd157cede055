"""COMMAND, CONFIG, INFO, SCAN and the like: as redis-server 7.0 answers them, or as this server differs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence

import pytest
import redis

from proxy.commands.spec import CommandSpec, by_name, load_table
from proxy.counters import SAMPLES, Rate
from proxy.info import human
from tests.rawclient import RawClient, Tree, mapping, tree
from tests.servers import RedisServer, RedtierServer, wait_until

HOT = """
[server]
max_clients = 50
[backends.hot]
type = "memory"
max_bytes = "1mb"
[[routes]]
prefix = ""
backend = "hot"
"""
TWO = """
[backends.one]
type = "memory"
[backends.two]
type = "memory"
policy = "noeviction"
[[routes]]
prefix = ""
backend = "one"
[[routes]]
prefix = "two:"
backend = "two"
"""
# What memory and SQLite hold together.
KEYS = {b"a", b"b", b"c", *(b"long:%d" % n for n in range(25))}


@pytest.fixture(scope="module")
def redtier() -> Iterator[RedtierServer]:
    with RedtierServer(HOT) as server:
        yield server


@pytest.fixture(scope="module")
def real() -> Iterator[RedisServer]:
    """One of its own: its configuration is changed."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def tiers() -> Iterator[RedtierServer]:
    """Keys in memory and in SQLite."""
    with RedtierServer() as server:
        with server.client() as client:
            client.mset(dict.fromkeys(KEYS, "v"))
        yield server


@pytest.fixture(params=[2, 3])
def pair(
    request: pytest.FixtureRequest, redtier: RedtierServer, real: RedisServer
) -> Iterator[tuple[RawClient, RawClient]]:
    """A client of redtier and one of redis-server, in both versions of the protocol."""
    with RawClient(redtier.port, request.param) as ours, RawClient(real.port, request.param) as theirs:
        for client in (ours, theirs):
            client.ask("CONFIG SET maxmemory 100mb maxclients 50 maxmemory-policy allkeys-lru")
            client.ask("FLUSHALL")
        yield ours, theirs


SEQUENCES = {
    "COMMAND refused": """
        COMMAND OTHER
        COMMAND COUNT x
        COMMAND LIST FILTERBY
        COMMAND LIST FILTERBY OTHER x
        COMMAND LIST FILTERBY PATTERN x y
        COMMAND LIST OTHER
        COMMAND LIST FILTERBY MODULE json
        COMMAND LIST FILTERBY ACLCAT other
        COMMAND INFO other ping|x
        COMMAND DOCS other
    """,
    "COMMAND GETKEYS": """
        COMMAND GETKEYS GET k
        COMMAND GETKEYS MSET a 1 b 2
        COMMAND GETKEYS OBJECT ENCODING k
        COMMAND GETKEYS EVAL "" 0
        COMMAND GETKEYS EVAL "" 5 k
        COMMAND GETKEYS OTHER k
        COMMAND GETKEYS CLIENT OTHER
        COMMAND GETKEYS CLIENT ID
        COMMAND GETKEYS PING x
        COMMAND GETKEYS SPUBLISH a b
        COMMAND GETKEYS GET a b
        COMMAND GETKEYS ZUNION x y
        COMMAND GETKEYS GET
        COMMAND GETKEYSANDFLAGS SET k v GET
        COMMAND GETKEYSANDFLAGS COPY a b
        COMMAND GETKEYSANDFLAGS EVAL "" 0
        COMMAND GETKEYSANDFLAGS PING x
        COMMAND GETKEYSANDFLAGS GET
    """,
    "CONFIG GET": """
        CONFIG GET
        CONFIG GET nosuch
        CONFIG GET timeout TIMEOUT
        CONFIG GET TimeOut
        CONFIG GET save
        CONFIG GET appendonly
        CONFIG GET databases
        CONFIG GET proto-max-bulk-len
        CONFIG GET client-query-buffer-limit
        CONFIG GET tcp-backlog
        CONFIG GET tcp-keepalive
        CONFIG GET cluster-enabled
        CONFIG GET notify-keyspace-events
        CONFIG GET loglevel
        CONFIG GET tls-port
        CONFIG GET DataBas*
        CONFIG GET database?
        CONFIG GET data[b]ases
        CONFIG GET data[b]ase
    """,
    "CONFIG SET": """
        CONFIG SET timeout 7 tcp-keepalive 200
        CONFIG GET timeout
        CONFIG GET tcp-keepalive
        CONFIG SET TIMEOUT 0
        CONFIG GET timeout
        CONFIG SET tcp-keepalive 300
        CONFIG SET maxmemory 3mb
        CONFIG GET maxmemory
        CONFIG SET maxmemory 2G
        CONFIG GET maxmemory
        CONFIG SET maxmemory 104857600
        CONFIG SET maxclients 49
        CONFIG GET maxclients
        CONFIG SET maxclients 50
        CONFIG SET loglevel WARNING
        CONFIG GET loglevel
        CONFIG SET loglevel verbose
        CONFIG GET loglevel
        CONFIG SET loglevel notice
        CONFIG SET maxmemory-policy VOLATILE-TTL
        CONFIG GET maxmemory-policy
        CONFIG SET maxmemory-policy allkeys-lru
        CONFIG RESETSTAT
        CONFIG RESETSTAT x
    """,
    "CONFIG SET refused": """
        CONFIG SET
        CONFIG SET timeout
        CONFIG SET timeout 1 x
        CONFIG SET nosuch 1
        CONFIG SET timeout 1 NOSUCH 1
        CONFIG SET timeout 1 TIMEOUT 2
        CONFIG SET timeout x
        CONFIG SET timeout -1
        CONFIG SET timeout 1.5
        CONFIG SET timeout ""
        CONFIG SET timeout 2147483648
        CONFIG SET tcp-keepalive -1
        CONFIG SET maxclients 0
        CONFIG SET maxclients 4294967296
        CONFIG SET maxmemory x
        CONFIG SET maxmemory 1.5gb
        CONFIG SET maxmemory -1
        CONFIG SET loglevel other
        CONFIG SET databases 3
        CONFIG SET timeout 7 tcp-keepalive x maxclients x
        CONFIG GET timeout
        CONFIG OTHER
    """,
    "MEMORY": """
        MEMORY
        MEMORY OTHER
        MEMORY USAGE
        MEMORY USAGE k
        MEMORY USAGE k SAMPLES
        MEMORY USAGE k SAMPLES x
        MEMORY USAGE k SAMPLES -1
        MEMORY USAGE k SAMPLES 5
        MEMORY USAGE k OTHER 5
    """,
    "the rest": """
        TIME x
        MODULE LIST
        INFO nosuch
        INFO modules cluster
        LOLWUT VERSION x
    """,
}


@pytest.mark.parametrize("title", SEQUENCES)
def test_answers_are_those_of_redis(title: str, pair: tuple[RawClient, RawClient]) -> None:
    ours, theirs = pair
    for line in SEQUENCES[title].strip().splitlines():
        assert (line, ours.ask(line)) == (line, theirs.ask(line))


# COMMAND


def listed(client: RawClient, line: str) -> list[str]:
    return [value.decode() for _, value in tree(client.ask(line))[1]]


def spec_of(name: str) -> CommandSpec:
    spec = by_name(load_table(), name.encode())
    assert spec is not None
    return spec


def facts(node: Tree) -> Tree:
    """A description or documentation without what is prose in Redis."""
    prose = (b"summary", b"complexity", b"history", b"replaced_by", b"notes")
    kind, items = node
    if kind in "*%" and items and items[0] in [("$", b"summary"), ("$", b"name"), ("$", b"notes")]:
        kept = [
            (key, value) for key, value in zip(items[::2], items[1::2], strict=True) if key[1] not in prose
        ]
        return kind, [each for key, value in kept for each in (key, facts(value))]
    return kind, [facts(item) for item in items] if isinstance(items, list) else items


def test_a_command_is_described_as_redis_describes_it(pair: tuple[RawClient, RawClient]) -> None:
    ours, theirs = pair
    shared = set(listed(ours, "COMMAND LIST")) & set(listed(theirs, "COMMAND LIST"))
    assert {"get", "client|id", "object|encoding", "scan"} <= shared
    for name in shared:
        line = f"COMMAND INFO {name}"
        _, ((_, our_fields),) = facts(tree(ours.ask(line)))
        _, ((_, their_fields),) = facts(tree(theirs.ask(line)))
        if spec_of(name).subcommands:  # of which not all are served
            assert our_fields.pop()[0] == their_fields.pop()[0] == "*"
        assert our_fields == their_fields


def test_a_command_is_documented_in_the_shape_of_redis(pair: tuple[RawClient, RawClient]) -> None:
    ours, theirs = pair
    for name in set(listed(ours, "COMMAND LIST")) & set(listed(theirs, "COMMAND LIST")):
        if not spec_of(name).subcommands:
            line = f"COMMAND DOCS {name}"
            our_docs, their_docs = mapping(tree(ours.ask(line))), mapping(tree(theirs.ask(line)))
            assert facts(our_docs[name.encode()]) == facts(their_docs[name.encode()])


def test_documentation_holds_that_of_subcommands(redtier: RedtierServer) -> None:
    with RawClient(redtier.port, 3) as client:
        docs = mapping(mapping(tree(client.ask("COMMAND DOCS config")))[b"config"])
        assert list(mapping(docs[b"subcommands"])) == [
            b"config|get",
            b"config|help",
            b"config|resetstat",
            b"config|rewrite",
            b"config|set",
        ]
        substr = mapping(mapping(tree(client.ask("COMMAND DOCS SUBSTR")))[b"substr"])
        assert substr[b"replaced_by"] == ("$", b"`GETRANGE`")
        routes = mapping(mapping(tree(client.ask("COMMAND DOCS tier|routes")))[b"tier|routes"])
        assert list(routes) == [b"summary", b"group"]  # no Redis has it


def test_only_what_is_served_is_a_command(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client:
        names = listed(client, "COMMAND LIST")
        assert {"get", "config", "config|get", "tier|where"} <= set(names)
        assert not {"shutdown", "module|load"} & set(names)
        count = int(client.ask("COMMAND COUNT")[1:-2])
        assert count == sum("|" not in name for name in names)
        assert count == len(tree(client.ask("COMMAND"))[1]) == len(tree(client.ask("COMMAND INFO"))[1])
        assert count == len(mapping(tree(client.ask("COMMAND DOCS"))))
        assert client.ask("COMMAND INFO module|load shutdown") == b"*2\r\n$-1\r\n$-1\r\n"
        assert client.ask("SHUTDOWN").startswith(b"-ERR 'shutdown' is not served")


def test_a_redis_behind_a_route_serves_more(real: RedisServer, redtier: RedtierServer) -> None:
    config = f"""
    [backends.main]
    type = "redis"
    url = "{real.url}"
    [[routes]]
    prefix = ""
    backend = "main"
    """
    with (
        RedtierServer(config) as forwarding,
        RawClient(forwarding.port) as client,
        RawClient(redtier.port) as hot,
    ):
        forwarded = set(listed(client, "COMMAND LIST")) - set(listed(hot, "COMMAND LIST"))
        assert all(spec_of(name).forwardable for name in forwarded if not spec_of(name).subcommands)
        assert "xadd" in listed(client, "COMMAND LIST FILTERBY PATTERN x*")
        assert not {"xread", "migrate", "debug"} & forwarded


@pytest.mark.parametrize(
    ("words", "some", "others"),
    [
        ("PATTERN client|g*", {"client|getname"}, {"client", "get"}),
        ("pattern GET*", {"get", "getex"}, {"client|getname"}),
        ("ACLCAT Connection", {"ping", "client|id"}, {"get"}),
    ],
)
def test_commands_are_listed_by_a_filter(
    words: str, some: set[str], others: set[str], redtier: RedtierServer
) -> None:
    with RawClient(redtier.port) as client:
        names = set(listed(client, f"COMMAND LIST FILTERBY {words}"))
    assert some <= names
    assert not others & names


# CONFIG


def test_every_parameter_is_one_of_redis(redtier: RedtierServer, real: RedisServer) -> None:
    with redtier.client() as ours, real.client() as theirs:
        own = ours.config_get("*")
        assert set(own) <= set(theirs.config_get("*"))
        assert own["bind"] == "127.0.0.1"
        assert own["port"] == str(redtier.port)
        assert own["maxclients"] == "50"
        assert own["client-output-buffer-limit"] == "normal 67108864 0 0"


def test_memory_is_bounded_anew(redtier: RedtierServer) -> None:
    with redtier.client() as client:
        client.flushall()
        client.config_resetstat()
        client.mset({f"k{n}": "v" * 1000 for n in range(500)})
        client.config_set("maxmemory", "100kb")
        wait_until(lambda: client.info("memory")["used_memory"] <= 102400)
        assert client.info("memory")["maxmemory"] == 102400
        assert 50 < client.dbsize() < 100
        assert client.info("stats")["evicted_keys"] == 500 - client.dbsize()
        with pytest.raises(redis.ResponseError, match="argument must be more than 0"):
            client.config_set("maxmemory", "0")
        client.config_set("maxmemory", "1mb")


@pytest.mark.parametrize(
    ("policy", "survives"),
    [
        ("noeviction", {"old", "read", "new", "mortal"}),
        ("volatile-lru", {"old", "read", "new"}),
        ("volatile-ttl", {"old", "read", "new"}),
        ("allkeys-lru", {"read", "new"}),
    ],
)
def test_memory_is_bounded_by_another_policy(policy: str, survives: set[str], redtier: RedtierServer) -> None:
    def write(client: redis.Redis, name: str, ex: int | None = None) -> None:
        client.set(name, "v" * 250_000, ex=ex)

    with redtier.client() as client:
        client.flushall()
        client.config_set("maxmemory", "1mb")
        client.config_set("maxmemory-policy", "noeviction")
        write(client, "old")
        write(client, "mortal", ex=1000)
        write(client, "read")
        write(client, "new")
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory-policy", policy)  # again: nothing is in the order twice
        assert client.info("memory")["maxmemory_policy"] == policy
        client.get("read")
        if policy == "noeviction":
            with pytest.raises(redis.OutOfMemoryError):
                client.mset({"big": "v" * 300_000})
        else:
            write(client, "one")
            if policy == "allkeys-lru":
                write(client, "two")
        assert {name.decode() for name in client.scan_iter()} - {"one", "two"} == survives
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.flushall()


def test_with_several_memory_backends_each_has_a_bound_of_its_own() -> None:
    with RedtierServer(TWO) as server, server.client() as client:
        assert client.config_get("maxmemory", "maxmemory-policy") == {
            "maxmemory": str(2 * 512 << 20),
            "maxmemory-policy": "allkeys-lru,noeviction",
        }
        for name, value in (("maxmemory", "1mb"), ("maxmemory-policy", "noeviction")):
            with pytest.raises(redis.ResponseError, match="there is 'one' and 'two'"):
                client.config_set(name, value)


def test_a_password_that_is_set_later_is_asked_of_those_who_come_later(real: RedisServer) -> None:
    lines = ["AUTH secret", "PING", "HELLO 2"]
    with RedtierServer(HOT) as server:
        replies: list[list[bytes]] = []
        for port in (server.port, real.port):
            with RawClient(port) as first:
                first.ask("CONFIG SET requirepass secret")
                with RawClient(port) as second:
                    own = [second.ask("PING"), first.ask("PING"), first.ask("CONFIG GET requirepass")]
                    assert first.ask('CONFIG SET requirepass ""') == b"+OK\r\n"
                    replies.append([*own, second.ask("PING"), *(second.ask(line) for line in lines[:2])])
        assert replies[0] == replies[1]


def test_clients_beyond_the_limit_are_turned_away(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client:
        wait_until(lambda: mapping_of_info(client)["connected_clients"] == "1")
        client.ask("CONFIG SET maxclients 1")
        with RawClient(redtier.port) as other:
            assert other.frame() == b"-ERR max number of clients reached\r\n"
            assert other.is_closed()
        assert mapping_of_info(client)["rejected_connections"] != "0"
        client.ask("CONFIG SET maxclients 50")


def test_who_is_idle_too_long_is_closed(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as idle, redtier.client() as client:
        idle.ask("PING")
        client.config_set("timeout", 1)
        assert idle.is_closed()
        client.config_set("timeout", 0)


# INFO


def mapping_of_info(client: RawClient, line: str = "INFO") -> dict[str, str]:
    lines = client.ask(line).decode().split("\r\n")[1:]
    return dict(line.split(":", 1) for line in lines if ":" in line)


def test_info_has_sections_and_fields_of_redis_in_its_order(
    redtier: RedtierServer, real: RedisServer
) -> None:
    def names(client: RawClient, line: str) -> list[str]:
        client.ask("SET k v")
        client.ask("NOSUCH")
        fields = [field.split(":")[0] for field in client.ask(line).decode().split("\r\n")[1:] if field]
        return [name for name in fields if not name.startswith(("cmdstat_", "errorstat_", "latency_"))]

    with RawClient(redtier.port) as ours, RawClient(real.port) as theirs:
        for line in ("INFO", "INFO all", "INFO EVERYTHING", "INFO server default", "INFO keyspace CPU"):
            known = names(theirs, line)
            own = names(ours, line)
            shared = [name for name in own if name in known]
            assert shared == [name for name in known if name in shared]
            assert set(own) - set(known) <= {"redtier_version", "# Tiers", "tier0", "near_cache"}
            assert {name for name in known if name.startswith("#")} <= set(own)


def test_info_is_a_verbatim_string(redtier: RedtierServer) -> None:
    with RawClient(redtier.port, 3) as client:
        text = b"txt:# Cluster\r\ncluster_enabled:0\r\n"
        assert client.ask("INFO cluster") == b"=%d\r\n%b\r\n" % (len(text), text)


def test_info_counts(redtier: RedtierServer) -> None:
    with redtier.client() as client:
        client.flushall()
        client.config_resetstat()
        client.set("k", "v")
        client.set("mortal", "v", ex=100)
        client.get("k")
        client.get("nosuch")
        with pytest.raises(redis.ResponseError):
            client.execute_command("NOSUCH")
        with pytest.raises(redis.ResponseError):
            client.execute_command("INCR k")
        client.select(3)
        client.set("k", "v")
        info = client.info("everything")
        assert info["db0"] == {"keys": 2, "expires": 1, "avg_ttl": 0}
        assert info["db3"] == {"keys": 1, "expires": 0, "avg_ttl": 0}
        assert (info["keyspace_hits"], info["keyspace_misses"]) == (1, 1)
        assert info["total_error_replies"] == 2
        assert info["errorstat_ERR"] == {"count": 2}
        counts = {
            name: {field: value for field, value in info[f"cmdstat_{name}"].items() if "usec" not in field}
            for name in ("get", "incr")
        }
        assert counts["get"] == {"calls": 2, "rejected_calls": 0, "failed_calls": 0}
        assert counts["incr"] == {"calls": 1, "rejected_calls": 0, "failed_calls": 1}
        assert info["used_memory"] == info["tier0"]["used_bytes"] > 0
        assert info["tier0"]["keys"] == 3
        assert info["used_memory_rss"] > 10_000_000
        client.persist("mortal")
        client.flushall()
        client.select(0)
        client.config_resetstat()
        info = client.info("everything")
        assert "db0" not in info
        assert "errorstat_ERR" not in info
        assert (info["keyspace_hits"], info["keyspace_misses"], info["total_commands_processed"]) == (0, 0, 1)


def test_info_tells_of_every_tier(tiers: RedtierServer) -> None:
    with tiers.client() as client:
        assert client.get("long:1") == b"v"
        info = client.info("tiers")
    memory, local = info["tier0"], info["tier1"]
    assert (memory["name"], memory["type"], memory["state"]) == ("memory", "memory", "up")
    assert (local["name"], local["type"], local["state"]) == ("local", "sqlite", "up")
    assert local["raw_bytes"] == 25
    assert local["stored_bytes"] > 25
    assert info["near_cache"]["copies"] == 25


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.00K"),
        (1395288, "1.33M"),
        (25276510208, "23.54G"),
        (2**40, "1.00T"),
        (2**62, "4096.00P"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert human(size) == text


def test_a_rate_is_that_of_the_last_samples() -> None:
    rate = Rate()
    assert rate.per_second() == 0
    for n in range(100):
        rate.sample(1000 + 100 * n, 50 * n)
    assert rate.per_second() == 500
    for n in range(SAMPLES):
        rate.sample(20_000 + 100 * n, 7)
    assert rate.per_second() == 0
    rate.sample(22_000, 0)  # the count was reset
    assert rate.per_second() == 0


# All keys


def all_pages(scan: Callable[[int], tuple[int, Sequence[bytes]]]) -> list[bytes]:
    cursor, keys = scan(0)
    found = list(keys)
    while cursor:
        cursor, keys = scan(cursor)
        found += keys
    return found


def test_keys_of_all_tiers_are_met_once(tiers: RedtierServer) -> None:
    with tiers.client() as client:
        assert client.dbsize() == len(KEYS)
        assert set(client.keys()) == KEYS
        assert sorted(all_pages(lambda cursor: client.scan(cursor, count=3))) == sorted(KEYS)
        long = {key for key in KEYS if key.startswith(b"long:1")}
        assert set(all_pages(lambda cursor: client.scan(cursor, "long:1*"))) == long
        assert set(client.keys("long:1*")) == long
        assert client.randomkey() in KEYS
        with pytest.raises(redis.ResponseError, match="invalid cursor: 12345 is not known"):
            client.scan(12345)


def test_nothing_is_flushed_while_any_backend_must_not_be(tiers: RedtierServer) -> None:
    with tiers.client() as client:
        for flush in (client.flushall, client.flushdb):
            with pytest.raises(redis.ResponseError, match=r"'flushable = true' in \[backends.local\]"):
                flush()
        assert client.dbsize() == len(KEYS)


def test_a_key_in_memory_takes_more_than_its_value(tiers: RedtierServer) -> None:
    with tiers.client() as client:
        assert client.memory_usage("a") > 100
        assert client.memory_usage("long:1", samples=0) > 1
        assert client.memory_usage("long:nosuch") is None


def test_the_picture_ends_with_the_version(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client:
        for line in ("LOLWUT", "LOLWUT VERSION 5 1", "LOLWUT VERSION"):
            picture = client.ask(line)
            assert picture.endswith(b"\nRedis ver. 7.0.15\n\r\n")
            assert picture.count(b"\n") > 5


def test_time_is_that_of_the_system(redtier: RedtierServer, real: RedisServer) -> None:
    with redtier.client() as ours, real.client() as theirs:
        before, own, after = theirs.time(), ours.time(), theirs.time()
    assert before < own < after


# Real clients


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--bigkeys"], "Sampled 28 keys in the keyspace!"),
        (["--memkeys"], "Sampled 28 keys in the keyspace!"),
        (["--scan", "--pattern", "long:1?"], "long:19"),
        (["-3", "INFO", "server"], "redis_version:7.0.15"),
        (["COMMAND", "DOCS", "tier|where"], "Tell which route"),
    ],
)
def test_redis_cli(arguments: list[str], shown: str, tiers: RedtierServer) -> None:
    command = ["redis-cli", "-p", str(tiers.port), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert shown in run.stdout
    assert (run.returncode, run.stderr) == (0, "")


def test_redis_cli_knows_our_commands(tiers: RedtierServer) -> None:
    command = ["redis-cli", "-p", str(tiers.port)]
    run = subprocess.run(command, input="help @tier\n", capture_output=True, text=True, timeout=20)
    assert "Show every route" in run.stdout


def test_redis_benchmark_asks_for_what_there_is(redtier: RedtierServer) -> None:
    command = ["redis-benchmark", "-p", str(redtier.port), "-t", "set,get", "-n", "200", "-c", "5", "--csv"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("\n") == 3


def test_only_our_own_modules_log_what_is_for_debugging() -> None:
    """Libraries would log what they send: signatures, session tokens and values."""
    config = """
        [server]
        log_level = "debug"
        [backends.blobs]
        type = "s3"
        bucket = "none"
        endpoint_url = "http://127.0.0.1:1"
        access_key = "a"
        secret_key = "b"
        [[routes]]
        prefix = ""
        backend = "blobs"
    """
    with RedtierServer(config) as redtier, redtier.client() as client:
        assert client.config_get("loglevel") == {"loglevel": "debug"}
        wait_until(lambda: "backend 'blobs' is not there" in redtier.log_tail())
        assert " DEBUG " not in redtier.log_tail()
