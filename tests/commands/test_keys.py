"""Keys, beyond their replies (which differential/ compares): times that pass, and values that move."""

from __future__ import annotations

import pytest

from proxy.commands import keys, strings
from proxy.datatypes.collection import Collection
from proxy.errors import CommandError
from proxy.keyspace import HASH, LIST, KeyPolicy
from proxy.resp import Simple
from tests.commands.keyspaces import make_memory


def test_time_to_live_counts_down_and_rounds_as_redis_does() -> None:
    keyspace, clock = make_memory()
    strings.set_(keyspace, [b"set", b"k", b"v", b"EX", b"10"])
    seen = []
    for _ in range(4):
        seen.append((keys.ttl(keyspace, [b"ttl", b"k"]), keys.pttl(keyspace, [b"pttl", b"k"])))
        clock.advance(3300)
    assert seen == [(10, 10_000), (7, 6700), (3, 3400), (0, 100)]
    assert keys.ttl(keyspace, [b"ttl", b"k"]) == -2


def test_idle_time_is_whole_seconds_since_the_last_use_and_looking_is_none() -> None:
    keyspace, clock = make_memory()
    strings.set_(keyspace, [b"set", b"k", b"v"])
    idle = [b"object", b"idletime", b"k"]
    clock.advance(2999)
    assert keys.object_idletime(keyspace, idle) == 2
    for look in (keys.exists, keys.type_, keys.ttl):
        look(keyspace, [b"look", b"k"])
    keys.object_encoding(keyspace, [b"object", b"encoding", b"k"])
    assert keys.object_idletime(keyspace, idle) == 2
    for use in (keys.touch, strings.get):
        clock.advance(5000)
        use(keyspace, [b"use", b"k"])
        assert keys.object_idletime(keyspace, idle) == 0


def test_touch_keeps_a_key_from_eviction() -> None:
    keyspace, _ = make_memory(max_bytes=1000)
    for key in (b"a", b"b", b"c"):
        strings.set_(keyspace, [b"set", key, b"v"])
    keys.touch(keyspace, [b"touch", b"a"])
    strings.set_(keyspace, [b"set", b"d", b"v"])
    assert keys.exists(keyspace, [b"exists", b"a"]) == 1
    assert keys.exists(keyspace, [b"exists", b"b"]) == 0


class Bag(Collection):
    """The least that a collection can be."""

    def __init__(self, items: list[bytes]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def encoding(self) -> bytes:
        return b"bag"

    def copy(self) -> Bag:
        return Bag(list(self.items))

    def pack(self) -> bytes:
        return b" ".join(self.items)


def test_a_copy_of_a_collection_does_not_share_its_elements() -> None:
    keyspace, _ = make_memory()
    keyspace.put(b"h", HASH, Bag([b"f", b"v"]), 2**50)
    keys.copy(keyspace, [b"copy", b"h", b"copied"])
    original, copied = keyspace.find(b"h"), keyspace.find(b"copied")
    assert original is not None
    assert copied is not None
    assert isinstance(copied.value, Bag)
    assert copied.value.items == [b"f", b"v"]
    assert copied.value is not original.value
    assert (copied.kind, copied.expire_at) == (HASH, 2**50)


def test_a_value_moves_as_it_is() -> None:
    keyspace, _ = make_memory()
    value = Bag([b"a"])
    keyspace.put(b"l", LIST, value)
    keys.rename(keyspace, [b"rename", b"l", b"m"])
    keys.move(keyspace, [b"move", b"m", b"3"])
    moved = keyspace.at(3).find(b"m")
    assert moved is not None
    assert moved.value is value
    assert keyspace.peek(b"m") is None


def test_a_new_name_takes_on_what_its_route_asks() -> None:
    keyspace, clock = make_memory(routes=[(b"short:", KeyPolicy(ttl=500, max_value=100))])
    strings.set_(keyspace, [b"set", b"k", b"v"])
    keys.rename(keyspace, [b"rename", b"k", b"short:k"])
    assert keys.pttl(keyspace, [b"pttl", b"short:k"]) == 500
    clock.advance(500)
    assert keys.exists(keyspace, [b"exists", b"short:k"]) == 0


def test_a_type_and_an_encoding_for_each_kind() -> None:
    keyspace, _ = make_memory()
    keyspace.put(b"h", HASH, Bag([]))
    assert keys.object_encoding(keyspace, [b"object", b"encoding", b"h"]) == b"bag"
    kind = keys.type_(keyspace, [b"type", b"h"])
    assert isinstance(kind, Simple)
    assert kind.text == b"hash"


def test_freq_says_why_not() -> None:
    keyspace, _ = make_memory()
    strings.set_(keyspace, [b"set", b"k", b"v"])
    with pytest.raises(CommandError, match="LFU maxmemory policy is not selected"):
        keys.object_freq(keyspace, [b"object", b"freq", b"k"])
