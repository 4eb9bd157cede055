"""Hashes, beyond their replies (which differential/ compares): large ones, refusals, events."""

from __future__ import annotations

import pytest

from proxy.commands import hashes
from proxy.commands.hashes import DRAWS_MAX, hash_of
from proxy.datatypes.hash import Hash
from proxy.errors import CommandError
from proxy.keyspace import KeyPolicy, Keyspace
from proxy.resp import Argv, Pairs, Reply
from tests.commands.keyspaces import Told, make_memory

HANDLERS = {
    "hset": hashes.hset,
    "hsetnx": hashes.hsetnx,
    "hget": hashes.hget,
    "hdel": hashes.hdel,
    "hgetall": hashes.hgetall,
    "hincrby": hashes.hincrby,
    "hincrbyfloat": hashes.hincrbyfloat,
    "hkeys": hashes.hkeys,
    "hlen": hashes.hlen,
    "hrandfield": hashes.hrandfield,
    "hscan": hashes.hscan,
    "hvals": hashes.hvals,
}


def run(keyspace: Keyspace, command: str, *more: bytes) -> Reply:
    argv: Argv = [*command.encode().split(), *more]
    return HANDLERS[command.split()[0]](keyspace, argv)


def fill(keyspace: Keyspace, count: int) -> dict[bytes, bytes]:
    values = {b"f:%d" % number: b"%d" % number for number in range(count)}
    run(keyspace, "hset h", *[item for pair in values.items() for item in pair])
    return values


def the_hash(keyspace: Keyspace) -> Hash:
    found = hash_of(keyspace.peek(b"h"))
    assert found is not None
    return found


def test_a_large_hash_is_met_whole_page_by_page() -> None:
    keyspace, _ = make_memory()
    values = fill(keyspace, 10_000)
    met: list[bytes] = []
    cursor, pages = b"0", 0
    while cursor != b"0" or not pages:
        cursor, items = run(keyspace, "hscan h", cursor, b"COUNT", b"100")
        met += items
        pages += 1
    assert pages > 10
    assert len(met) == 2 * len(values)
    assert dict(zip(met[::2], met[1::2], strict=True)) == values


def test_a_large_hash_has_its_pattern_matched_too() -> None:
    keyspace, _ = make_memory()
    fill(keyspace, 1000)
    cursor, items = run(keyspace, "hscan h 0 count 100000 match f:99?")
    assert cursor == b"0"
    assert sorted(items[::2]) == [b"f:99%d" % digit for digit in range(10)]


@pytest.mark.parametrize("count", [10, 1000])
def test_fields_are_drawn_with_their_values(count: int) -> None:
    keyspace, _ = make_memory()
    values = fill(keyspace, count)
    for number in (3, count - 1, count + 1, -3, -2 * count):
        drawn = run(keyspace, f"hrandfield h {number} withvalues")
        assert isinstance(drawn, Pairs)
        assert len(drawn.names) == min(number, count) if number > 0 else -number
        assert [values[name] for name in drawn.names] == drawn.values
        if number > 0:
            assert len(set(drawn.names)) == len(drawn.names)


def test_a_short_request_does_not_get_an_endless_reply() -> None:
    keyspace, _ = make_memory()
    fill(keyspace, 3)
    with pytest.raises(CommandError, match="TOOLARGE"):
        run(keyspace, f"hrandfield h {-DRAWS_MAX - 1}")


@pytest.mark.parametrize("command", ["hset h f:0 1 new", "hsetnx h new", "hset h f:0"])
def test_what_would_make_it_too_large_changes_nothing(command: str) -> None:
    keyspace, _ = make_memory(routes=[(b"h", KeyPolicy(ttl=0, max_value=2000))])
    values = fill(keyspace, 3)
    with pytest.raises(CommandError, match="TOOLARGE"):
        run(keyspace, command, b"v" * 2000)
    assert run(keyspace, "hgetall h") == values


def test_what_grows_little_by_little_is_refused_in_time() -> None:
    for command in ("hset h %d v", "hsetnx h %d v", "hincrby h %d 1", "hincrbyfloat h %d 1"):
        keyspace, _ = make_memory(routes=[(b"h", KeyPolicy(ttl=0, max_value=2000))])
        with pytest.raises(CommandError, match="TOOLARGE"):
            [run(keyspace, command % number) for number in range(1000)]
        assert 0 < the_hash(keyspace).size <= 2000


def test_replies_do_not_change_with_the_hash() -> None:
    keyspace, _ = make_memory()
    for count in (3, 1000):
        values = fill(keyspace, count)
        replies = [run(keyspace, f"{command} h") for command in ("hgetall", "hkeys", "hvals")]
        run(keyspace, "hset h f:0 changed new 1")
        assert replies[0] == values
        assert dict(zip(*replies[1:], strict=True)) == values
        run(keyspace, "hdel h new")


def test_what_happens_is_told() -> None:
    keyspace, _ = make_memory()
    told = Told()
    keyspace.backend.sink = told  # type: ignore[attr-defined]
    run(keyspace, "hset h a 1 b 2")
    run(keyspace, "hsetnx h a 1")
    run(keyspace, "hsetnx h c 1")
    run(keyspace, "hincrby h a 1")
    run(keyspace, "hincrbyfloat h a 1")
    run(keyspace, "hdel h missing")
    run(keyspace, "hdel h a")
    run(keyspace, "hdel h b c")
    assert told.names == [
        "hset",
        "hset",
        "hincrby",
        "hincrbyfloat",
        "hdel",
        "hdel",
        "del",
    ]


def test_what_it_holds_is_accounted() -> None:
    keyspace, _ = make_memory()
    lru = keyspace.backend.lru  # type: ignore[attr-defined]
    fill(keyspace, 3)
    beside = lru.used - the_hash(keyspace).size
    fill(keyspace, 1000)
    assert lru.used == beside + the_hash(keyspace).size
    run(keyspace, "hdel h", *(b"f:%d" % number for number in range(1000)))
    assert lru.used == 0
