"""Mirrors: what is written through redtier is in the second backend too, and clients never notice it."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from proxy.slots import key_slot
from tests.clusters import Cluster
from tests.copies import DEBUG, Copies, change, facts
from tests.faultproxy import Direction, FaultProxy
from tests.rawclient import RawClient
from tests.s3 import place
from tests.servers import (
    MotoServer,
    PostgresServer,
    RedisServer,
    RedtierServer,
    Server,
    free_port,
    wait_until,
)

# Their servers take most of the time.
pytestmark = pytest.mark.once

Tables = Mapping[str, Mapping[str, Any]]

# First and second backend, by prefix: every kind is on both sides but memory, which can't be a mirror.
PAIRS: Final = {
    "rr:": ("main", "spare"),
    "rp:": ("main", "pg"),
    "mq:": ("hot", "lite"),
    "qs:": ("lite", "blobs"),
    "ps:": ("pg", "blobs"),
    "sr:": ("blobs", "spare"),
    "": ("hot", "spare"),
}

VIEW: Final = "cache = false"  # what a mirror puts to a backend is told to no other proxy


def toml(
    backends: Tables, routes: Mapping[str, str | tuple[str, str] | tuple[str, str, str]], *route: str
) -> str:
    """A backend's name by prefix, or two for a mirror, maybe with more of its options; ``route``: lines that
    each has."""
    lines = ["[http]", 'listen = ""']
    for name, options in backends.items():
        lines.append(f"[backends.{name}]")
        lines += [f"{option} = {json.dumps(value)}" for option, value in options.items()]
    for prefix, names in routes.items():
        first, second, more = (*((names,) if isinstance(names, str) else names), "", "")[:3]
        lines += ["[[routes]]", f'prefix = "{prefix}"', f'backend = "{first}"', *route]
        if second:
            lines.append(f'mirror = {{ backend = "{second}"{more} }}')
    return "\n".join(lines) + "\n"


def upstream(server: RedisServer, **options: Any) -> dict[str, Any]:
    return {"type": "redis", "url": server.url, "backoff_max": "100ms", **options}


def mirrors(client: redis.Redis) -> list[dict[str, Any]]:
    """What INFO tells of each."""
    tiers = client.info("tiers")
    return [tiers[name] for name in tiers if name.startswith("mirror")]


def mirror(client: redis.Redis) -> dict[str, Any]:
    [only] = mirrors(client)
    return only


def wait_settled(client: redis.Redis, within: float = 20) -> None:
    wait_until(lambda: not any(each["pending"] for each in mirrors(client)), within)


def content(client: redis.Redis, name: bytes | str) -> object:
    """All that there is of a key, in a form that is the same wherever it lives."""
    kind = client.type(name).decode()
    read: dict[str, Any] = {
        "none": lambda: None,
        "string": lambda: client.get(name),
        "list": lambda: client.lrange(name, 0, -1),
        "set": lambda: client.smembers(name),
        "hash": lambda: client.hgetall(name),
        "zset": lambda: client.zrange(name, 0, -1, withscores=True),
        "stream": lambda: (client.xrange(name), client.xinfo_groups(name)),
    }
    return kind, read[kind](), client.pexpiretime(name)


class Pairs:
    """A redtier with a mirror of each kind, and another one that shows what is in the second backends."""

    def __init__(self, stack: ExitStack, directory: Path, postgres: PostgresServer, moto: MotoServer) -> None:
        self.main = stack.enter_context(RedisServer(*DEBUG))
        self.spare = stack.enter_context(RedisServer(*DEBUG))
        backends = {
            "main": upstream(self.main),
            "spare": upstream(self.spare),
            "hot": {"type": "memory"},
            "pg": {"type": "postgres", "url": postgres.url, "table": "mirror_pairs"},
            "lite": {"type": "sqlite", "path": str(directory / "mirror.db")},
            "blobs": {"type": "s3", **place(moto)},
        }
        self.server = stack.enter_context(RedtierServer(toml(backends, PAIRS)))
        seconds = {prefix: second for prefix, (_, second) in PAIRS.items()}
        view = stack.enter_context(RedtierServer(toml(backends, seconds, VIEW)))
        self.client: redis.Redis = stack.enter_context(self.server.client())
        self.view: redis.Redis = stack.enter_context(view.client())
        for client in (self.client, self.view):
            wait_until(lambda client=client: self._serves(client))

    def _serves(self, client: redis.Redis) -> bool:
        with suppress(redis.ResponseError):
            return client.exists(*(f"{prefix}x" for prefix in PAIRS)) == 0
        return False

    def check(self, *names: bytes | str) -> None:
        """The keys are the same in both."""
        wait_settled(self.client)
        for name in names:
            first, second = content(self.client, name), content(self.view, name)
            assert first == second, name


@pytest.fixture(scope="module")
def pairs(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, s3_moto: MotoServer
) -> Iterator[Pairs]:
    with ExitStack() as stack:
        yield Pairs(stack, tmp_path_factory.mktemp("pairs"), postgres, s3_moto)


@pytest.mark.parametrize("prefix", PAIRS, ids=lambda prefix: prefix or "rest")
def test_values_of_all_types_and_their_expiries_get_to_the_second(pairs: Pairs, prefix: str) -> None:
    made = random.Random(5)
    names = [f"{prefix}{number}".encode() for number in range(40)]
    for name in names:
        change(pairs.client, made, name)
    pairs.check(*names)
    for name in made.sample(names, 10):
        pairs.client.delete(name)
    for name in made.sample(names, 10):
        change(pairs.client, made, name)
    pairs.check(*names)
    assert not any(each["dropped"] + each["refused"] for each in mirrors(pairs.client))


WRITES: Final = [
    ["SET {}a 1", "SET {}a 2 PX 100000", "PERSIST {}a", "EXPIRE {}a 1000", "GETEX {}a EX 5000"],
    ["MSET {}a 1 {}b 2 rr:other 3 mq:other 4", "DEL {}a {}b rr:other mq:other"],
    ["SADD {}a 1 2 3 4 5", "SPOP {}a 2", "SMOVE {}a {}b 1", "SUNIONSTORE {}c {}a {}b"],
    ["RPUSH {}a 3 1 2", "SORT {}a STORE {}b", "LMOVE {}a {}c LEFT RIGHT", "LMPOP 2 {}x {}b LEFT COUNT 2"],
    ["XADD {}a * f v", "XGROUP CREATE {}a g 0", "XREADGROUP GROUP g c STREAMS {}a >", "XTRIM {}a MAXLEN 0"],
    ["SET {}a 1", "RENAME {}a {}b", "COPY {}b {}c", "COPY {}b mq:moved REPLACE", "RENAME {}c rr:moved"],
    ["RPUSH {}a x y z", "BLPOP {}a 1", "BLMOVE {}a {}b LEFT RIGHT 1"],
    ["MULTI", "SET {}a 1", "INCR {}a", "RPUSH {}b 1", "EXEC"],
    ["WATCH {}a", "MULTI", "INCRBYFLOAT {}a 0.5", "SELECT 3", "SET {}b 3", "SELECT 0", "EXEC"],
    ["EVAL \"redis.call('SET', KEYS[1], ARGV[1]) return redis.call('INCR', KEYS[1])\" 1 {}a 7"],
    ["PFADD {}a 1 2 3", "SETBIT {}b 100 1", "BITOP NOT {}c {}b", "GEOADD {}d 13 38 here"],
    ["SET {}a 1", "SET {}ab 1", "TIER PURGE {}ab* FORCE", "UNLINK {}a"],
]


@pytest.mark.parametrize("prefix", ["rr:", "mq:", "rp:", "ps:"])
@pytest.mark.parametrize("lines", WRITES, ids=lambda lines: lines[-1].split()[0])
def test_however_it_is_written(pairs: Pairs, prefix: str, lines: list[str]) -> None:
    if prefix == "ps:" and lines[0] in ("MULTI", "WATCH {}a"):
        prefix = "qs:"
    names = [f"{prefix}{letter}" for letter in ("a", "b", "c", "d", "x", "ab")]
    names += ["rr:other", "mq:other", "mq:moved", "rr:moved"]
    pairs.client.delete(*names)
    with RawClient(pairs.server.port) as client:
        for line in lines:
            reply = client.ask(line.format(*[prefix] * line.count("{}")))
            assert not reply.startswith(b"-"), (line, reply)
    pairs.check(*names)
    with pairs.server.client(db=3) as third:
        third.delete(f"{prefix}b")


@pytest.mark.parametrize("prefix", ["rr:", "mq:", "rp:", "ps:"])
def test_what_is_called_a_read_and_changes_its_key(pairs: Pairs, prefix: str) -> None:
    client = pairs.client
    log, later, seen = (f"{prefix}{name}" for name in ("log", "later", "seen"))
    client.delete(log, later, seen)
    for stream in (log, later):
        client.xadd(stream, {"f": "v"}, id="1-1")
        client.xgroup_create(stream, "g", "0")
    client.pfadd(seen, *range(100))
    pairs.check(log, later, seen)
    client.xreadgroup("g", "c", {log: ">"})
    client.xreadgroup("g", "c", {later: ">"}, block=1000)
    assert client.pfcount(seen)
    pairs.check(log, later, seen)
    assert pairs.view.xpending(log, "g")["pending"] == pairs.view.xpending(later, "g")["pending"] == 1


@pytest.mark.parametrize("prefix", ["rr:", ""], ids=["redis", "memory"])
def test_move_and_copy_reach_another_database_of_the_second_too(pairs: Pairs, prefix: str) -> None:
    client = pairs.client
    a, b, c = (f"{prefix}{letter}" for letter in "abc")
    client.mset({a: 1, b: 2})
    client.delete(c)
    client.move(a, 5)
    client.copy(b, c, destination_db=5)
    wait_settled(client)
    with pairs.spare.client(db=5) as fifth, pairs.spare.client() as spare:
        assert (fifth.get(a), fifth.get(b), fifth.get(c)) == (b"1", None, b"2")
        assert (spare.get(a), spare.get(b), spare.get(c)) == (None, b"2", None)


@pytest.mark.parametrize("prefix", ["rr:", "rp:", "mq:", "qs:"])
def test_the_last_value_wins_whether_it_is_large_or_small(pairs: Pairs, prefix: str) -> None:
    made = random.Random(7)
    name = f"{prefix}swings"
    for number in range(150):
        pairs.client.set(name, b"%d" % number * made.choice([1, 40_000]))
        if number % 10 == 0:
            pairs.client.delete(name)
    pairs.client.set(name, "last")
    pairs.check(name)
    pairs.client.set(name, b"last" * 100_000)
    pairs.check(name)


def test_eviction_is_mirrored_as_a_removal(tmp_path: Path) -> None:
    backends = {
        "hot": {"type": "memory", "max_bytes": "1mb"},
        "lite": {"type": "sqlite", "path": str(tmp_path / "evicted.db")},
    }
    with (
        RedtierServer(toml(backends, {"": ("hot", "lite")})) as server,
        RedtierServer(toml(backends, {"": "lite"}, VIEW)) as view,
        server.client() as client,
        view.client() as other,
    ):
        for number in range(30):
            client.set(f"k{number}", b"x" * 100_000)
        assert 0 < client.dbsize() < 30
        wait_settled(client)
        assert sorted(client.keys()) == sorted(other.keys())


# A second backend in trouble


class Two:
    """A redtier between two Redis servers, with a mirror of all keys."""

    def __init__(self, stack: ExitStack, more: str = "", server: str = "", **options: Any) -> None:
        self.first = stack.enter_context(RedisServer(*DEBUG))
        self.second = stack.enter_context(RedisServer(*DEBUG))
        backends = {"one": upstream(self.first), "two": upstream(self.second, **options)}
        config = f"[server]\n{server}\n" + toml(backends, {"": ("one", "two", more)})
        self.server = stack.enter_context(RedtierServer(config))
        self.client: redis.Redis = stack.enter_context(self.server.client())

    def equal(self) -> bool:
        with self.first.client() as one, self.second.client() as two:
            return facts(one) == facts(two)


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_a_second_that_is_away_costs_clients_nothing_and_catches_up(exit_stack: ExitStack) -> None:
    two = Two(exit_stack)
    two.client.set("before", 1)
    wait_settled(two.client)
    two.second.kill()
    for number in range(3000):
        assert two.client.set(f"k{number}", number)
    two.client.delete("before")
    wait_until(lambda: mirror(two.client)["state"] == "waiting")
    assert mirror(two.client)["pending"] == 3001
    assert two.server.log_tail(limit=100_000).count("mirror of '*' in 'two': waiting") < 20
    two.second.start()
    wait_settled(two.client)
    assert two.equal()
    assert mirror(two.client)["state"] == "up"
    assert mirror(two.client)["dropped"] == 0


def test_a_second_that_hangs_holds_up_nobody(exit_stack: ExitStack) -> None:
    two = Two(exit_stack, timeout="1s")
    two.client.set("k", 0)
    wait_settled(two.client)
    with stopped(two.second):
        slowest = 0.0
        until = time.monotonic() + 2.5
        number = 0
        while time.monotonic() < until:
            began = time.monotonic()
            two.client.set(f"k{number % 500}", number)
            slowest = max(slowest, time.monotonic() - began)
            number += 1
        assert slowest < 0.3
    wait_settled(two.client)
    assert two.equal()


def test_what_has_no_place_in_the_queue_is_counted_and_logged_seldom(exit_stack: ExitStack) -> None:
    two = Two(exit_stack, ", queue_max = 100")
    two.second.kill()
    for number in range(1000):
        two.client.set(f"k{number}", number)
    figures = mirror(two.client)
    assert figures["pending"] <= 100 + 64, "a batch that is being copied has left the queue"
    assert figures["pending"] + figures["dropped"] == 1000
    log = two.server.log_tail(limit=100_000)
    assert "a change is not mirrored, so a copy is due: more than queue_max keys are waiting" in log
    assert log.count("a copy is due") < 10
    two.second.start()
    wait_settled(two.client)
    two.client.set("k999", "again")
    wait_settled(two.client)
    with two.second.client() as second:
        assert second.get("k999") == b"again"


def test_what_the_first_has_lost_is_not_removed_from_the_second(exit_stack: ExitStack) -> None:
    two = Two(exit_stack)
    two.client.mset({"kept": 1, "gone": 1})
    wait_settled(two.client)
    two.second.kill()
    two.client.set("kept", 2)
    two.client.delete("gone")
    two.first.kill()
    two.first.start()
    two.second.start()
    with two.second.client() as second:
        second.mset({"kept": 1, "gone": 1})  # as if it were on its disk
        wait_until(lambda: two.client.ping() and mirror(two.client)["pending"] == 0)
        assert mirror(two.client)["dropped"] == 1
        assert "'one' began anew, and may have lost what is mirrored" in two.server.log_tail()
        assert second.mget("kept", "gone") == [b"1", b"1"]
        two.client.set("kept", 3)
        two.client.delete("gone")
        wait_settled(two.client)
        assert second.mget("kept", "gone") == [b"3", None]
        assert mirror(two.client)["dropped"] == 1


def test_nor_what_it_has_lost_before_the_second_was_there(exit_stack: ExitStack) -> None:
    two = Two(exit_stack)
    with two.second.client() as second:
        second.set("k", "of long ago")
        second.save()
    two.second.kill()
    two.server.stop()
    two.server.start()
    two.client.set("k", 1)
    wait_until(lambda: mirror(two.client)["pending"] == 1)
    two.first.kill()
    two.first.start()
    two.second.start()
    wait_until(lambda: two.client.ping() and mirror(two.client)["pending"] == 0)
    assert mirror(two.client)["dropped"] == 1
    with two.second.client() as second:
        assert second.get("k") == b"of long ago"


def test_a_first_that_began_anew_is_noticed_though_nothing_waits(exit_stack: ExitStack) -> None:
    """What it has not kept may be in the second."""
    two = Two(exit_stack)
    two.client.set("k", 1)
    wait_settled(two.client)
    two.first.kill()
    two.first.start()
    wait_until(lambda: mirror(two.client)["dropped"] == 1)
    two.client.delete("k")
    wait_settled(two.client)
    with two.second.client() as second:
        assert second.get("k") is None, "it was removed by somebody"
    assert mirror(two.client)["dropped"] == 1


def test_what_can_not_be_mirrored_is_counted(exit_stack: ExitStack) -> None:
    two = Two(exit_stack)
    two.client.set("k", 1)
    wait_settled(two.client)
    with two.first.client() as first:
        first.function_load("#!lua name=l\nredis.register_function('f', function() return 1 end)")
    two.client.fcall("f", 0)
    wait_until(lambda: mirror(two.client)["dropped"] == 1)
    assert "fcall named no key, and may have changed any" in two.server.log_tail()
    two.client.fcall("f", 1, "k")
    two.client.function_delete("l")
    two.client.function_load("#!lua name=l\nredis.register_function('f', function() return 2 end)")
    with pytest.raises(redis.ResponseError, match="flushable"):
        two.client.flushall()
    wait_settled(two.client)
    assert mirror(two.client)["dropped"] == 1, "what was refused has changed nothing"
    two.client.config_resetstat()
    assert mirror(two.client)["dropped"] == 0


def test_a_redis_that_is_cleared_in_a_transaction_is_counted(exit_stack: ExitStack) -> None:
    first, second = (exit_stack.enter_context(RedisServer()) for _ in range(2))
    backends = {"one": upstream(first, flushable=True), "two": upstream(second)}
    server = exit_stack.enter_context(RedtierServer(toml(backends, {"": ("one", "two")})))
    client = exit_stack.enter_context(RawClient(server.port))
    client.send("MULTI", "SET k 1", "FLUSHALL", "EXEC")
    assert [client.frame() for _ in range(4)][3] == b"*2\r\n+OK\r\n+OK\r\n"
    with server.client() as look:
        assert mirror(look)["dropped"] == 1
    assert "flushall named no key, and may have changed any" in server.log_tail()


def test_sealed_values_are_mirrored_as_clients_see_them(exit_stack: ExitStack) -> None:
    first, second = (exit_stack.enter_context(RedisServer()) for _ in range(2))
    backends = {"one": upstream(first), "two": upstream(second)}
    config = toml(backends, {"": ("one", "two")}, 'compression = "zstd"', 'integrity = "sha256"')
    client = exit_stack.enter_context(exit_stack.enter_context(RedtierServer(config)).client())
    view = exit_stack.enter_context(
        exit_stack.enter_context(RedtierServer(toml(backends, {"": "two"}, 'integrity = "sha256"'))).client()
    )
    values = {f"k{size}": b"z" * size for size in (1, 100, 10_000, 1_000_000)}
    client.mset(values)
    with client.pipeline() as transaction:
        transaction.set("k", b"y" * 500).incr("n").execute()
    wait_settled(client)
    names = [*values, "k", "n"]
    assert view.mget(names) == client.mget(names) == [*values.values(), b"y" * 500, b"1"]
    assert mirror(client)["refused"] == 0
    wait_until(lambda: mirror(client)["compared"] > 0)
    assert mirror(client)["differences"] == 0
    with second.client() as stored:
        assert stored.strlen("k10000") < 200


def test_a_cluster_is_mirrored_while_its_slots_move(exit_stack: ExitStack, tmp_path: Path) -> None:
    cluster = exit_stack.enter_context(Cluster(3, False))
    lite = {"type": "sqlite", "path": str(tmp_path / "lite.db")}
    backends = {"nodes": {"type": "redis", "url": cluster.url}, "lite": lite}
    server = exit_stack.enter_context(RedtierServer(toml(backends, {"": ("nodes", "lite")})))
    view = exit_stack.enter_context(RedtierServer(toml(backends, {"": "lite"}, VIEW)))
    client, other = (exit_stack.enter_context(each.client()) for each in (server, view))
    names = [f"count:{number}" for number in range(100)]
    slots = sorted({key_slot(name.encode()) for name in names})[:30]
    stop = threading.Event()

    def write() -> None:
        with server.client() as writer:
            while not stop.is_set():
                with writer.pipeline(transaction=False) as pipeline:
                    for name in names:
                        pipeline.incr(name)
                        pipeline.lpush(f"list:{name}", "x")
                        pipeline.ltrim(f"list:{name}", 0, 9)
                    pipeline.execute()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for slot in slots:
            source = cluster.owner(slot)
            target = next(node for node in cluster.primaries if node is not source)
            cluster.move(slot, source, target)
    finally:
        stop.set()
        thread.join()
    with client.pipeline(transaction=False) as pipeline:  # on whichever node they are by now
        pipeline.delete(*names[:10])
        pipeline.execute()
    wait_settled(client)
    assert other.mget(names) == client.mget(names)
    assert other.mget(names)[9:11] == [None, client.get(names[10])]
    for name in names:
        assert content(other, f"list:{name}") == content(client, f"list:{name}")
    figures = mirror(client)
    assert (figures["dropped"], figures["refused"], figures["differences"]) == (0, 0, 0)


def test_a_server_that_is_told_to_end_copies_what_is_pending(exit_stack: ExitStack) -> None:
    two = Two(exit_stack)
    with two.client.pipeline(transaction=False) as pipe:
        for number in range(5000):
            pipe.set(f"k{number}", number)
        pipe.set("large", b"x" * 1_000_000)
        pipe.execute()
    assert mirror(two.client)["pending"] > 500
    assert two.server.stop() == 0
    assert two.equal()
    two.server.start()


def test_it_waits_for_a_second_that_is_about_to_be_there(exit_stack: ExitStack, tmp_path: Path) -> None:
    first = exit_stack.enter_context(RedisServer())
    second = exit_stack.enter_context(
        RedisServer("--save", "", "--appendonly", "yes", "--appendfsync", "always")
    )
    config = toml({"one": upstream(first), "two": upstream(second)}, {"": ("one", "two")})
    server = exit_stack.enter_context(RedtierServer(config))
    second.kill()
    with server.client() as client:
        client.set("k", 1)
        wait_until(lambda: mirror(client)["state"] == "waiting")
    os.kill(server.pid, signal.SIGTERM)
    said = server.log.stat().st_size
    wait_until(lambda: server.log_tail(said).count("waiting") == 3)  # it says so once a second
    second.start()
    assert server.stop() == 0
    with second.client() as there:
        assert there.get("k") == b"1"
    server.start()


def test_it_tells_what_one_that_stays_away_has_not_got(exit_stack: ExitStack) -> None:
    two = Two(exit_stack, server='drain_timeout = "1s"')
    two.second.kill()
    two.client.set("k", 1)
    assert two.server.stop() == 0
    assert "1 keys were not copied before the end, so a copy is due" in two.server.log_tail()
    two.server.start()
    two.second.start()


def test_a_part_of_the_keys_is_mirrored_always_or_never(exit_stack: ExitStack) -> None:
    two = Two(exit_stack, ", percent = 30")
    for value in (1, 2):
        two.client.mset({f"k{number}": value for number in range(1000)})
        wait_settled(two.client)
    with two.second.client() as second:
        assert 200 < second.dbsize() < 400
        assert set(second.mget(second.keys())) == {b"2"}


def test_its_figures_are_told_in_three_places(exit_stack: ExitStack) -> None:
    first, second = (exit_stack.enter_context(RedisServer()) for _ in range(2))
    port = free_port()
    config = toml({"one": upstream(first), "two": upstream(second)}, {"": ("one", "two", ", percent = 99")})
    config = config.replace('listen = ""', f'listen = "127.0.0.1:{port}"')
    with RedtierServer(config) as server, server.client(protocol=3, decode_responses=True) as client:
        client.mset({f"k{number}": number for number in range(10)})
        wait_until(lambda: mirror(client)["compared"] == 10)  # a moment after the copies
        figures = mirror(client)
        assert (figures["backend"], figures["state"], figures["copied"]) == ("two", "up", 10)
        [route] = client.execute_command("TIER ROUTES")
        told = route["mirror"]
        assert told == {name: told[name] for name in ("type", "percent", "compare")} | {
            name: figures[name] for name in told if name in figures
        }
        assert (told["type"], told["percent"], told["compare"]) == ("redis", 99, 1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            metrics = reply.read().decode()
        for name in ("copied_total", "dropped_total", "refused_total", "compared_total", "differences_total"):
            value = figures[name.removesuffix("_total")]
            assert f'redtier_mirror_{name}{{backend="two",route="*"}} {value}.0' in metrics
        assert 'redtier_mirror_pending{backend="two",route="*"} 0.0' in metrics


def test_an_old_value_that_comes_late_does_not_stay(exit_stack: ExitStack) -> None:
    """Of two redtiers that mirror the same keys, one is slow to reach the second backend."""
    first, second = (exit_stack.enter_context(RedisServer()) for _ in range(2))
    relay = exit_stack.enter_context(FaultProxy(second.port))
    slow_way = {"type": "redis", "url": f"redis://127.0.0.1:{relay.port}"}
    backends = {"one": upstream(first), "two": upstream(second), "far": slow_way}
    more = ", compare = false"  # so that nothing else is on its way
    slow, quick = (
        exit_stack.enter_context(RedtierServer(toml(backends, {"": ("one", name, more)})))
        for name in ("far", "two")
    )
    with slow.client() as late, quick.client() as early, second.client() as there:
        for name in ("k", "gone"):
            late.set(name, 0)
        wait_settled(late)
        relay.stall(Direction.UP)
        late.set("k", 1)
        late.set("gone", 1)
        wait_until(lambda: relay.held(Direction.UP))
        early.set("k", 2)
        early.delete("gone")
        wait_settled(early)
        assert (there.get("k"), there.get("gone")) == (b"2", None)
        relay.resume(Direction.UP)
        wait_settled(late)
        assert (there.get("k"), there.get("gone")) == (b"2", None)


# Comparing


@pytest.mark.parametrize("prefix", ["rr:", "mq:", "ps:"])
def test_a_difference_is_found_when_the_key_is_read_and_not_mended(pairs: Pairs, prefix: str) -> None:
    names = [f"{prefix}{letter}" for letter in "abcd"]
    pairs.client.mset(dict.fromkeys(names, "1"))
    wait_settled(pairs.client)

    def figures() -> dict[str, Any]:
        return mirrors(pairs.client)[list(PAIRS).index(prefix)]

    assert figures()["differences"] == 0
    pairs.view.set(names[0], "2")
    pairs.view.delete(names[1])
    pairs.view.pexpire(names[2], 1_000_000)
    before = figures()["compared"]

    def read() -> bool:
        pairs.client.mget(names)
        for name in names:
            pairs.client.get(name)
        return bool(figures()["differences"] >= 3)

    wait_until(read)
    assert figures()["compared"] - before >= 4
    assert "has another value, or another expiry (database 0)" in pairs.server.log_tail(limit=100_000)
    assert pairs.view.get(names[0]) == b"2"


def test_what_is_being_written_is_no_difference(exit_stack: ExitStack) -> None:
    two = Two(exit_stack, ", compare_rate = 1000")
    end = threading.Event()

    def write(seed: int) -> None:
        made = random.Random(seed)
        with two.server.client(protocol=made.choice([2, 3])) as client:
            while not end.is_set():
                with suppress(redis.ResponseError):  # another one has made it of another type
                    change(client, made, b"k%d" % made.randrange(300))
                client.exists(b"k%d" % made.randrange(300))

    writers = [threading.Thread(target=write, args=[seed]) for seed in range(4)]
    for writer in writers:
        writer.start()
    try:
        wait_until(lambda: mirror(two.client)["compared"] > 1000, 30)
    finally:
        end.set()
        for writer in writers:
            writer.join(10)
    wait_settled(two.client)
    assert mirror(two.client)["differences"] == 0
    assert two.equal()


# The walk of the README


@pytest.mark.parametrize("kind", ["postgres", "s3"])
def test_a_redis_becomes_tiers_while_its_clients_go_on(
    exit_stack: ExitStack, tmp_path: Path, postgres: PostgresServer, s3_moto: MotoServer, kind: str
) -> None:
    """Counters that only grow, each with one writer: an acknowledged write that is lost on the way shows."""
    first = exit_stack.enter_context(RedisServer())
    old = 5000 if kind == "postgres" else 500  # of which the S3 at hand takes some hundred a second
    backends = {
        "main": upstream(first),
        "archive": {"type": "postgres", "url": postgres.url, "table": "mirror_walk"}
        if kind == "postgres"
        else {"type": "s3", **place(s3_moto)},
    }
    with first.client() as client:
        client.mset({f"long:old:{number}": number for number in range(old)})
        client.rpush("long:history", *range(1000))
        client.mset({f"working:{number}": number for number in range(100)})

    # 1. redtier in front, and clients move to it.
    server = exit_stack.enter_context(RedtierServer(toml(backends, {"": "main"})))
    counts = [0] * 4
    wrong: list[str] = []
    end = threading.Event()

    def count(which: int) -> None:
        name = f"long:count:{which}"
        with server.client(retry=None) as client:
            while not end.is_set():
                try:
                    value = client.incr(name)
                except redis.RedisError:  # the moment at which redtier starts anew
                    time.sleep(0.02)
                    continue
                # One more for each try that was cut off: it may have been applied.
                if value <= counts[which]:
                    wrong.append(f"{name}: {value} after {counts[which]}")
                counts[which] = value

    writers = [threading.Thread(target=count, args=[which]) for which in range(len(counts))]
    for writer in writers:
        writer.start()

    def restart(routes: Mapping[str, Any]) -> None:
        said = server.log.stat().st_size
        assert server.stop() == 0
        assert "not copied" not in server.log_tail(said)
        (server.directory / "redtier.toml").write_text(toml(backends, routes))
        server.start()
        reached = list(counts)
        wait_until(lambda: all(now > then for now, then in zip(counts, reached, strict=True)))

    try:
        # 2. The mirror, then a copy of what was there before.
        restart({"": "main", "long:": ("main", "archive")})
        copies = Copies(tmp_path, backends, long="main")
        copies.file.write_text((server.directory / "redtier.toml").read_text())
        copies.copy("main", "archive", "--match", "long:*", "--delete", "--passes", "20")
        with server.client() as client:
            assert mirror(client)["dropped"] == mirror(client)["refused"] == 0
            # 3. For as long as one likes: what is read is compared.
            before = mirror(client)["compared"]
            for number in range(0, old, old // 100):
                client.get(f"long:old:{number}")
            wait_until(lambda: mirror(client)["compared"] > before + 50)
            assert mirror(client)["differences"] == 0
        # 4. The switch, with the way back kept open.
        restart({"": "main", "long:": ("archive", "main")})
        with server.client() as client:
            assert client.get(f"long:old:{old - 1}") == b"%d" % (old - 1)
            assert client.llen("long:history") == 1000
            assert client.get("working:7") == b"7"
            wait_until(lambda: client.execute_command("TIER ROUTES"))
        # Back, and again forth.
        restart({"": "main", "long:": ("main", "archive")})
        restart({"": "main", "long:": ("archive", "main")})
        # 5. The old keys are not needed any more.
        restart({"": "main", "long:": "archive"})
    finally:
        end.set()
        for writer in writers:
            writer.join(10)
    assert not wrong
    with server.client() as client:
        assert [int(client.get(f"long:count:{which}")) for which in range(4)] == counts


@pytest.fixture
def exit_stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack
