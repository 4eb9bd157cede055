"""What scripts run on: it is all there once they have ended, and nothing of it if they were stopped."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

import pytest

from backends.memory import MemoryKeyspace
from proxy.commands import load as load_commands
from proxy.commands.spec import bind, load_table, lookup
from proxy.datatypes.collection import Collection
from proxy.datatypes.hash import Hash
from proxy.datatypes.values import pack
from proxy.errors import CommandError
from proxy.keyspace import Keyspace
from proxy.overlay import Changes, Overlay
from proxy.resp import Reply, encode_reply
from tests.commands.keyspaces import make_memory

NOW: Final = 1_700_000_000_000  # of the clock
KEYS: Final = ("a", "b", "c")


@pytest.fixture(autouse=True, scope="module")
def commands() -> None:
    load_commands()
    bind(load_table())


def memory(max_bytes: int = 2**40, policy: str = "allkeys-lru") -> MemoryKeyspace:
    ks, _ = make_memory(max_bytes, policy=policy)
    assert isinstance(ks, MemoryKeyspace)
    return ks


def ask(ks: Keyspace, *words: object) -> Reply:
    argv = [str(word).encode() for word in words]
    spec = lookup(load_table(), argv)
    assert spec is not None
    assert spec.handler is not None
    try:
        reply: Reply = spec.handler(ks, argv)
    except CommandError as error:
        return error.text
    return reply.text if isinstance(reply, CommandError) else reply


def wire(reply: Reply) -> bytes:
    return encode_reply(reply, 3)


LISTINGS: Final = {
    b"string": ["GET {}"],
    b"list": ["LRANGE {} 0 -1", "LLEN {}"],
    b"hash": ["HGETALL {}", "HLEN {}"],
    b"set": ["SMEMBERS {}", "SCARD {}"],
    b"zset": ["ZRANGE {} 0 -1 WITHSCORES", "ZCARD {}", "ZRANK {} e7", "ZRANGE {} 100 103"],
    b"stream": ["XINFO STREAM {} FULL COUNT 0", "XRANGE {} - +", "XINFO GROUPS {}"],
}
SCANS: Final = {b"hash": "HSCAN", b"set": "SSCAN", b"zset": "ZSCAN"}


def state(ks: MemoryKeyspace) -> dict[str, object]:
    """All that can be seen of a database, and what it accounts for it."""
    found: dict[str, object] = {}
    for key in sorted(entry.key for shard in ks.database.shards for entry in shard.values()):
        entry = ks.peek(key)
        assert entry is not None
        name = key.decode()
        kind = wire(ask(ks, "TYPE", name)).strip()[1:]
        value = entry.value
        seen: list[object] = [
            kind,
            entry.expire_at,
            entry.size,
            pack(value),
            ask(ks, "OBJECT", "ENCODING", name),
        ]
        seen += [wire(ask(ks, *listing.format(name).split())) for listing in LISTINGS[kind]]
        if isinstance(value, Collection):
            seen += [value.size, value.due, value.filed, value.last_due()]
        if isinstance(value, Hash):
            seen.append(value.count(NOW + 50_000))
        if kind in SCANS:
            seen.append(pages(ks, SCANS[kind], name))
        found[f"{ks.db} {name}"] = seen
    found[f"{ks.db}"] = (ks.database.count, ks.database.expiring)
    return found


def pages(ks: Keyspace, command: str, name: str) -> list[bytes]:
    found = []
    cursor = b"0"
    while True:
        reply = ask(ks, command, name, cursor.decode(), "COUNT", 10)
        assert isinstance(reply, list)
        assert isinstance(reply[0], bytes)
        cursor = reply[0]
        found.append(wire(reply[1]))
        if cursor == b"0":
            return found


def whole(ks: MemoryKeyspace) -> dict[str, object]:
    other = ks.at(1)
    assert isinstance(other, MemoryKeyspace)
    return {**state(ks), **state(other), "used": ks.lru.used}


# Random commands, by type: what fills a key, and what may change it.


def item(dice: random.Random, spread: int) -> str:
    number = dice.randrange(spread)
    return f"e{number}" if dice.random() < 0.95 else f"e{number}" + "x" * 100


def fill_list(dice: random.Random, key: str, count: int) -> list[list[object]]:
    return [["RPUSH", key, *[item(dice, count) for _ in range(count)]]]


def change_list(dice: random.Random, key: str, count: int) -> list[list[object]]:
    end = dice.choice(["LEFT", "RIGHT"])
    other = dice.choice(KEYS)
    few = dice.randrange(1, 20)
    place = dice.randrange(-count, count)
    some = [item(dice, count) for _ in range(few)]
    return [
        ["RPUSH", key, *some],
        ["LPUSH", key, *some],
        ["LPOP", key, dice.choice([few, 20 * few])],
        ["RPOP", key, dice.choice([few, 20 * few])],
        ["LSET", key, place, some[0]],
        ["LINSERT", key, "BEFORE", some[0], "new"],
        ["LREM", key, dice.randrange(-2, 3), some[0]],
        ["LTRIM", key, few, -few],
        ["LMOVE", key, other, end, end],
    ]


def fill_hash(dice: random.Random, key: str, count: int) -> list[list[object]]:
    return [["HSET", key, *[word for n in range(count) for word in (f"e{n}", item(dice, count))]]]


def change_hash(dice: random.Random, key: str, count: int) -> list[list[object]]:
    few = dice.randrange(1, 40)
    some = [item(dice, 2 * count) for _ in range(few)]
    moment = NOW + dice.randrange(1, 100) * 1000
    return [
        ["HSET", key, *[word for field in some for word in (field, few)]],
        ["HDEL", key, *some],
        ["HINCRBY", key, "number", few],
        ["HPEXPIREAT", key, moment, "FIELDS", few, *some],
        ["HPERSIST", key, "FIELDS", few, *some],
        ["HPEXPIREAT", key, 1, "FIELDS", 1, some[0]],
    ]


def fill_set(dice: random.Random, key: str, count: int) -> list[list[object]]:
    numbers = dice.random() < 0.3
    return [["SADD", key, *[n if numbers else f"e{n}" for n in range(count)]]]


def change_set(dice: random.Random, key: str, count: int) -> list[list[object]]:
    few = dice.randrange(1, 20)
    some = [item(dice, 2 * count) for _ in range(few)]
    return [
        ["SADD", key, *some],
        ["SADD", key, *range(few)],
        ["SADD", key, 10 ** dice.randrange(1, 18)],
        ["SREM", key, *some],
        ["SREM", key, *range(few)],
        ["SPOP", key, few],
        ["SMOVE", key, dice.choice(KEYS), some[0]],
        ["SUNIONSTORE", dice.choice(KEYS), *KEYS],
    ]


def fill_zset(dice: random.Random, key: str, count: int) -> list[list[object]]:
    return [["ZADD", key, *[word for n in range(count) for word in (dice.randrange(count), f"e{n}")]]]


def change_zset(dice: random.Random, key: str, count: int) -> list[list[object]]:
    few = dice.randrange(1, 20)
    start = dice.randrange(count)
    stop = start + dice.choice([1, count // 2 + 1])
    some = [item(dice, 2 * count) for _ in range(few)]
    return [
        ["ZADD", key, *[word for member in some for word in (dice.randrange(count), member)]],
        ["ZREM", key, *some],
        ["ZINCRBY", key, few, some[0]],
        ["ZPOPMIN", key, few],
        ["ZPOPMAX", key, few],
        ["ZREMRANGEBYRANK", key, start, stop],
        ["ZREMRANGEBYSCORE", key, start, stop],
        ["ZRANK", key, some[0]],
        ["ZUNIONSTORE", dice.choice(KEYS), 2, key, dice.choice(KEYS)],
    ]


def fill_stream(dice: random.Random, key: str, count: int) -> list[list[object]]:
    entries: list[list[object]] = [["XADD", key, f"{n + 1}-1", "f", "v"] for n in range(count)]
    read: list[object] = ["XREADGROUP", "GROUP", "g", "x", "COUNT", count // 2 + 1, "STREAMS", key, ">"]
    return [*entries, ["XGROUP", "CREATE", key, "g", 0], read]


def change_stream(dice: random.Random, key: str, count: int) -> list[list[object]]:
    group, consumer = dice.choice("gh"), dice.choice("xyz")
    id = f"{dice.randrange(count, 2 * count)}-{dice.randrange(1, 4)}"
    return [
        ["XADD", key, f"{count + dice.randrange(count)}-{dice.randrange(4)}", dice.choice("fg"), "v" * count],
        ["XREADGROUP", "GROUP", group, consumer, "COUNT", 7, "STREAMS", key, ">"],
        ["XACK", key, group, id],
        ["XDEL", key, id],
        ["XADD", key, "*", "f", "v" * dice.randrange(600)],
        ["XTRIM", key, "MAXLEN", count // 2],
        ["XTRIM", key, "MAXLEN", "~", count // 2],
        ["XREADGROUP", "GROUP", group, consumer, "COUNT", 7, "STREAMS", key, 0],
        ["XGROUP", "CREATE", key, group, 0],
        ["XGROUP", "DESTROY", key, group],
        ["XGROUP", "SETID", key, group, id],
        ["XGROUP", "CREATECONSUMER", key, group, consumer],
        ["XGROUP", "DELCONSUMER", key, group, consumer],
        ["XCLAIM", key, group, consumer, 0, id],
        ["XAUTOCLAIM", key, group, consumer, 0, 0, "COUNT", 5],
        ["XSETID", key, f"{9 * count}-1"],
    ]


def fill_string(dice: random.Random, key: str, count: int) -> list[list[object]]:
    return [["SETRANGE", key, 0, "s" * count]]


def change_string(dice: random.Random, key: str, count: int) -> list[list[object]]:
    place = dice.randrange(2 * count)
    return [
        ["APPEND", key, "x" * place],
        ["SETRANGE", key, place, "yyy"],
        ["SETBIT", key, place, 1],
        ["BITFIELD", key, "SET", "u13", place, 77, "INCRBY", "i5", 3, 4],
        ["SET", key, "z" * place, "KEEPTTL"],
        ["PFADD", "counter", place],
    ]


Commands = Callable[[random.Random, str, int], list[list[object]]]
TYPES: Final[dict[str, tuple[Commands, Commands]]] = {
    "list": (fill_list, change_list),
    "hash": (fill_hash, change_hash),
    "set": (fill_set, change_set),
    "zset": (fill_zset, change_zset),
    "stream": (fill_stream, change_stream),
    "string": (fill_string, change_string),
}


def change_key(dice: random.Random, key: str) -> list[list[object]]:
    other = dice.choice(KEYS)
    return [
        ["DEL", key],
        ["RENAME", key, other],
        ["RENAMENX", key, "new"],
        ["COPY", key, other, "REPLACE"],
        ["MOVE", key, 1],
        ["PEXPIREAT", key, NOW + dice.randrange(1, 100)],
        ["PEXPIREAT", key, 1],
        ["PERSIST", key],
        ["SET", key, "text"],
        ["TOUCH", key],
    ]


SIZES: Final = (3, 30, 200, 3000)


def filled(dice: random.Random, fill: Commands) -> MemoryKeyspace:
    ks = memory()
    for key, size in zip(KEYS, dice.sample(SIZES, len(KEYS)), strict=True):
        run_all(ks, fill(dice, key, size), 0)
    ask(ks, "SET", "text", "unchanged", "PX", 5000)
    return ks


def changes(dice: random.Random, change: Commands, kinds: Sequence[int], count: int) -> list[list[object]]:
    """Random commands of these kinds, by their places in ``change``, now and then some on keys as such."""
    size = dice.choice(SIZES)
    whole_keys = dice.choice([0.0, 0.0, 0.02, 0.3]) if len(kinds) > 1 else 0.0
    return [
        dice.choice(change_key(dice, dice.choice(KEYS)))
        if dice.random() < whole_keys
        else change(dice, dice.choice(KEYS), size)[dice.choice(kinds)]
        for _ in range(count)
    ]


def run_all(ks: Keyspace, commands: list[list[object]], seed: int) -> list[bytes]:
    random.seed(seed)  # by which members are drawn
    return [wire(ask(ks, *words)) for words in commands]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("title", TYPES)
def test_what_is_undone_leaves_all_as_it_was(title: str, seed: int) -> None:
    fill, change = TYPES[title]
    ks = filled(random.Random(seed), fill)
    twin = filled(random.Random(seed), fill)
    dice = random.Random(-seed)
    every = range(len(change(dice, "", 1)))
    for kinds in [*[[kind] for kind in every], every, every]:  # one alone gets far: tables grow, blocks go
        more = changes(dice, change, every, 10)
        assert run_all(ks, more, seed) == run_all(twin, more, seed)
        before = whole(twin)
        assert whole(ks) == before  # whatever the last round has left shows in what follows it
        overlay = Overlay(ks, Changes())
        overlay.begin()
        run_all(overlay, changes(dice, change, kinds, dice.choice([10, 200])), seed)
        overlay.undo()
        assert whole(ks) == before
    more = changes(dice, change, every, 300)
    assert run_all(ks, more, seed) == run_all(twin, more, seed)
    assert whole(ks) == whole(twin)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("title", TYPES)
def test_what_is_applied_is_what_it_is_without_an_overlay(title: str, seed: int) -> None:
    fill, change = TYPES[title]
    ks = filled(random.Random(seed), fill)
    twin = filled(random.Random(seed), fill)
    dice = random.Random(-seed)
    every = range(len(change(dice, "", 1)))
    for count in (1, 10, 100):
        more = changes(dice, change, every, count)
        overlay = Overlay(ks, Changes())
        overlay.begin()
        assert run_all(overlay, more, seed) == run_all(twin, more, seed)
        overlay.apply()
        while ks.backend.cycle(10**9):
            pass
        assert whole(ks) == whole(twin)


def test_a_value_that_is_evicted_while_a_script_changes_it_stays_whole() -> None:
    ks = memory(60_000, "volatile-ttl")
    for n in range(3000):
        ask(ks, "RPUSH", "a", n)
    for n in range(500):
        ask(ks, "HSET", "b", n, "v" * 30)
    ask(ks, "HPEXPIREAT", "b", NOW + 9000, "FIELDS", 1, 0)
    for key in ("a", "b"):
        ask(ks, "PEXPIREAT", key, NOW + 5000)
    overlay = Overlay(ks, Changes())
    overlay.begin()
    ask(overlay, "RPUSH", "a", "x")
    ask(overlay, "HSET", "b", "x", "y")
    assert wire(ask(overlay, "SET", "large", "s" * 55_000)) == b"+OK\r\n"
    assert ks.backend.evicted == 2
    ask(overlay, "DEL", "large")
    overlay.apply()
    ks.clock.ms += 4000
    while ks.backend.cycle(10**9):
        pass
    assert ask(ks, "LRANGE", "a", 0, -1) == [b"%d" % n for n in range(3000)] + [b"x"]
    assert ask(ks, "HLEN", "b") == 501
    assert ask(ks, "HGET", "b", "x") == b"y"


def test_what_a_script_adds_to_a_string_in_place_counts_once() -> None:
    ks = memory(100_000, "noeviction")
    ask(ks, "SETRANGE", "a", 0, "s" * 40_000)
    overlay = Overlay(ks, Changes())
    overlay.begin()
    assert [ask(overlay, "APPEND", "a", "x" * 1000) for _ in range(40)] == list(range(41_000, 81_000, 1000))
    overlay.apply()
    assert ask(ks, "STRLEN", "a") == 80_000
