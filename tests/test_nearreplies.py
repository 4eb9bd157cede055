"""The near cache of Redis routes: when it answers, and that it never answers what has been changed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
import redis

from proxy.build import outermost
from tests.faultproxy import Direction, FaultProxy
from tests.homes import toml
from tests.rawclient import RawClient
from tests.servers import RedisServer, RedtierServer, wait_until


def config(url: str, **options: str) -> str:
    backends = {"backends.main": {"type": "redis", "url": url, "flushable": True, **options}}
    text = toml(
        {**backends, "backends.hot": {"type": "memory"}}, {"hot:": "hot", "plain:": "main", "": "main"}
    )
    return text + "cache = true\n"


class Caching:
    """A redtier that keeps the replies of a Redis behind a relay, and clients of both."""

    def __init__(self, stack: ExitStack, **options: str) -> None:
        self._stack = stack
        self.upstream = stack.enter_context(RedisServer("--enable-debug-command", "yes"))
        self.relay = stack.enter_context(FaultProxy(self.upstream.port))
        url = f"redis://127.0.0.1:{self.relay.port}"
        self.server = stack.enter_context(RedtierServer(config(url, backoff_max="100ms", **options)))
        self.direct = stack.enter_context(RawClient(self.upstream.port))
        self.client = self.connect()
        self.wait_live()

    def connect(self, proto: int = 2) -> RawClient:
        return self._stack.enter_context(RawClient(self.server.port, proto))

    def figures(self) -> dict[str, int]:
        """What INFO says of the near cache and of the Redis."""
        found = {}
        for line in self.client.ask("INFO tiers").decode().split("\r\n"):
            if line.startswith("near_cache:") or ":name=main," in line:
                pairs = (pair.split("=") for pair in line.partition(":")[2].split(","))
                found.update({name: int(value) for name, value in pairs if value.isdigit()})
        return found

    def wait_live(self) -> None:
        wait_until(lambda: self.figures()["caching"])

    def hits(self, *lines: str) -> int:
        """How many of these requests are answered from the cache."""
        before = self.figures()["hits"]
        for line in lines:
            self.client.ask(line)
        return self.figures()["hits"] - before


@pytest.fixture(scope="module")
def running() -> Iterator[Caching]:
    with ExitStack() as stack:
        yield Caching(stack)


@pytest.fixture
def caching(running: Caching) -> Caching:
    """One that all tests share, and leave whole; it has no keys."""
    running.wait_live()
    for line in ("SELECT 0", "FLUSHALL"):
        assert running.client.ask(line) == b"+OK\r\n"
    return running


FILL = ["SET s 1", "HSET h f 1 g 2", "RPUSH l a b", "SADD t a b", "ZADD z 1 a 2 b", "XADD x 1-1 f v"]


def test_a_read_is_answered_from_here_once_it_was_answered_there(caching: Caching) -> None:
    for line in FILL:
        caching.client.ask(line)
    reads = ["GET s", "HGET h f", "LRANGE l 0 -1", "SMEMBERS t", "ZRANGE z 0 -1 WITHSCORES", "XRANGE x - +"]
    replies = [caching.client.ask(line) for line in reads]
    assert caching.hits(*reads) == len(reads)
    assert [caching.client.ask(line) for line in reads] == replies
    assert b"cached\r\n:1\r\n" in caching.client.ask("TIER WHERE s")
    assert caching.hits("HGET h g", "HGET h g", "HGET h f") == 2  # elements do not contradict each other
    assert caching.hits("HGETALL h", "HGETALL h", "HGET h f") == 1  # these could
    assert caching.hits("SELECT 1", "GET s", "SELECT 0") == 0  # another database's
    caching.client.send("SET s 2", "GET s", "GET s")
    assert [caching.client.frame() for _ in range(3)] == [b"+OK\r\n", b"$1\r\n2\r\n", b"$1\r\n2\r\n"]


def test_what_is_read_on_other_routes_is_not_kept(caching: Caching) -> None:
    caching.client.ask("SET plain:s 1")
    caching.client.ask("SET hot:s 1")
    assert caching.hits("GET plain:s", "GET plain:s", "GET hot:s", "GET hot:s") == 0


def test_each_protocol_has_its_own_replies(caching: Caching) -> None:
    caching.client.ask("HSET h f 1")
    other = caching.connect(3)
    for _ in range(2):
        assert caching.client.ask("HGETALL h") == b"*2\r\n$1\r\nf\r\n$1\r\n1\r\n"
        assert other.ask("HGETALL h") == b"%1\r\n$1\r\nf\r\n$1\r\n1\r\n"


def test_a_change_by_anybody_is_seen_when_it_was_told(caching: Caching) -> None:
    caching.client.ask("SET s 1")
    assert caching.hits("GET s", "GET s") == 1
    told = caching.figures()["invalidations"]
    caching.direct.ask("SET s 2")
    wait_until(lambda: caching.figures()["invalidations"] > told)
    assert caching.client.ask("GET s") == b"$1\r\n2\r\n"
    flushed = caching.figures()["flushes"]
    caching.direct.ask("FLUSHALL")
    wait_until(lambda: caching.figures()["flushes"] > flushed)
    assert caching.client.ask("GET s") == b"$-1\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        ["SET s 2"],
        ["MSET s 2 hot:s 2"],
        ["DEL s"],
        ["RENAME s r"],
        ["COPY other s REPLACE"],
        ["COPY hot:other s REPLACE"],
        ["FLUSHALL"],
        ["MULTI", "INCR s", "EXEC"],
        ["WATCH s", "MULTI", "INCR s", "EXEC"],
        ["EVAL \"return redis.call('INCR', KEYS[1])\" 1 s"],
        ["DEL s", "RPUSH s a b", "BLPOP s 1", "DEL s"],
        ["TIER PURGE s"],
    ],
    ids=lambda lines: lines[-1] if len(lines) == 1 else " ".join(lines),
)
def test_a_client_sees_its_own_writes_at_once_however_it_writes(caching: Caching, lines: list[str]) -> None:
    """In one pipeline, so that no word of the Redis' can have told of the change before it is read."""
    client = caching.client
    for line in ("SET s 1", "SET other 7", "SET hot:other 7"):
        client.ask(line)
    for _ in range(3):
        assert client.ask("GET s") == b"$1\r\n1\r\n"
    client.send(*lines, "GET s")
    replies = [client.frame() for _ in range(len(lines) + 1)]
    assert not any(reply.startswith(b"-") for reply in replies)
    assert replies[-1] == caching.direct.ask("GET s") != b"$1\r\n1\r\n"


def test_a_reply_that_was_on_its_way_when_its_key_changed_is_not_kept(caching: Caching) -> None:
    caching.client.ask("SET s 1")
    caching.relay.stall(Direction.DOWN)
    reader = caching.connect()
    reader.send("GET s")
    wait_until(lambda: caching.relay.held(Direction.DOWN))
    caching.direct.ask("SET s 2")
    caching.relay.resume(Direction.DOWN)
    assert reader.frame() == b"$1\r\n1\r\n"
    wait_until(lambda: caching.client.ask("GET s") == b"$1\r\n2\r\n", within=2)
    assert caching.client.ask("GET s") == b"$1\r\n2\r\n"


def test_a_read_whose_connection_is_lost_is_asked_once_more(caching: Caching) -> None:
    caching.client.ask("SET s 1")
    time.sleep(0.2)  # longer than backoff_max: a connection that has lasted is made again at once
    caching.relay.stall(Direction.DOWN)
    caching.client.send("GET s", "STRLEN s", "TTL s")
    wait_until(lambda: caching.relay.held(Direction.DOWN))
    caching.relay.cut()
    caching.relay.resume(Direction.DOWN)
    assert [caching.client.frame() for _ in range(3)] == [b"$1\r\n1\r\n", b":1\r\n", b":-1\r\n"]


def test_nothing_outlives_its_key(caching: Caching) -> None:
    caching.direct.ask("DEBUG SET-ACTIVE-EXPIRE 0")  # so that the Redis tells of nothing
    caching.direct.ask("SET s 1 PX 500")
    wait_until(lambda: caching.hits("GET s") == 1)  # once its announcement has come
    time.sleep(0.55)
    assert caching.client.ask("GET s") == b"$-1\r\n"
    caching.direct.ask("DEBUG SET-ACTIVE-EXPIRE 1")


def test_cache_ttl_bounds_it_besides() -> None:
    with ExitStack() as stack:
        upstream = stack.enter_context(RedisServer())
        text = config(upstream.url) + 'cache_ttl = "100ms"\n'
        client = stack.enter_context(RawClient(stack.enter_context(RedtierServer(text)).port))
        client.ask("SET s 1")
        wait_until(lambda: client.ask("GET s") and b"cached\r\n:1\r\n" in client.ask("TIER WHERE s"))
        upstream_calls = lambda: upstream.client().info("commandstats")["cmdstat_get"]["calls"]  # noqa: E731
        client.ask("GET s")
        before = upstream_calls()
        time.sleep(0.15)
        client.ask("GET s")
        assert upstream_calls() == before + 1


def test_while_the_redis_cannot_be_heard_nothing_is_kept(caching: Caching) -> None:
    client = caching.client
    client.ask("SET s 1")
    assert caching.hits("GET s", "GET s") == 1
    caching.relay.refuse()
    caching.relay.cut()
    wait_until(lambda: not caching.figures()["caching"])
    caching.direct.ask("SET s 2")
    assert client.ask("GET s").startswith((b"-UPSTREAM", b"-BACKENDDOWN"))
    caching.relay.refuse(False)
    wait_until(lambda: client.ask("GET s") == b"$1\r\n2\r\n")
    caching.wait_live()
    assert caching.hits("GET s", "GET s") >= 1


def test_a_connection_that_tells_nothing_any_more_is_given_up() -> None:
    with ExitStack() as stack:
        caching = Caching(stack, cache_heartbeat="200ms")
        caching.client.ask("SET s 1")
        assert caching.hits("GET s", "GET s") == 1
        caching.relay.stall(Direction.DOWN)
        caching.direct.ask("SET s 2")
        wait_until(lambda: not caching.figures()["caching"], within=2)
        caching.relay.resume(Direction.DOWN)
        wait_until(lambda: caching.client.ask("GET s") == b"$1\r\n2\r\n")


def test_a_redis_that_does_not_tell_is_read_as_without() -> None:
    with ExitStack() as stack:
        upstream = stack.enter_context(RedisServer())
        upstream.client().execute_command("ACL", "SETUSER", "default", "-client")
        server = stack.enter_context(RedtierServer(config(upstream.url)))
        client, direct = (stack.enter_context(RawClient(each.port)) for each in (server, upstream))
        client.send("SET s 1", "GET s", "GET s")
        assert [client.frame() for _ in range(3)] == [b"+OK\r\n", b"$1\r\n1\r\n", b"$1\r\n1\r\n"]
        direct.ask("SET s 2")
        assert client.ask("GET s") == b"$1\r\n2\r\n"
        assert "nothing is cached" in server.log_tail()


def test_memory_is_bounded() -> None:
    with ExitStack() as stack:
        upstream = stack.enter_context(RedisServer())
        server = stack.enter_context(RedtierServer(config(upstream.url) + '[cache]\nmax_bytes = "1mb"\n'))
        with server.client() as client, client.pipeline(transaction=False) as pipeline:
            wait_until(
                lambda: (
                    client.info("tiers")["tier0"].get("caching")
                    or client.info("tiers")["tier1"].get("caching")
                )
            )
            for number in range(3000):
                pipeline.set(f"k{number}", "v" * 1000)
            pipeline.execute()
            for number in range(3000):
                pipeline.get(f"k{number}")
            pipeline.execute()
            near = client.info("tiers")["near_cache"]
            assert 0 < near["used_bytes"] <= near["max_bytes"] == 1 << 20
            assert near["evicted"] > 1000


def test_no_reader_sees_a_value_older_than_one_it_has_seen(caching: Caching) -> None:
    """Writers at the Redis itself, readers here in several ways, and the connections cut at random."""
    names = [f"n{number}" for number in range(4)]
    ended = threading.Event()
    wrong: list[str] = []
    seen_hits = caching.figures()["hits"]

    def write(name: str) -> None:
        with caching.upstream.client() as client:
            while not ended.is_set():
                client.incr(name)
                time.sleep(random.uniform(0, 0.004))

    def read() -> None:
        newest = dict.fromkeys(names, 0)
        with redis.Redis(port=caching.server.port) as client:
            while not ended.is_set():
                name = random.choice(names)
                with suppress(redis.RedisError):
                    found = client.mget([name])[0] if random.random() < 0.1 else client.get(name)
                    value = int(found or 0)
                    if value < newest[name]:
                        wrong.append(f"{name}: {value} after {newest[name]}")
                    newest[name] = value

    threads = [threading.Thread(target=write, args=(name,)) for name in names]
    threads += [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(6):
        time.sleep(random.uniform(0.2, 0.6))
        caching.relay.cut()
    ended.set()
    for thread in threads:
        thread.join(20)
    assert not wrong
    assert caching.figures()["hits"] > seen_hits
    with caching.upstream.client() as client:
        wait_until(
            lambda: (
                caching.client.ask("GET n0")
                == b"$%d\r\n%d\r\n" % (len(client.get("n0")), int(client.get("n0")))
            )
        )


def test_nested_prefixes_are_tracked_by_the_outermost() -> None:
    assert outermost([b"a:", b"a:b:", b"c"]) == [b"a:", b"c"]
    assert outermost([b"", b"a:"]) == [b""]
    assert outermost([]) == []
