"""Two values are the same if no client could tell them apart, whatever their history."""

from __future__ import annotations

import pytest

from proxy.datatypes import streamid
from proxy.datatypes import zset as zsets
from proxy.datatypes.compare import same
from proxy.datatypes.hash import Hash
from proxy.datatypes.list import List
from proxy.datatypes.set import set_of
from proxy.datatypes.stream import Stream
from proxy.keyspace import HASH, LIST, SET, STREAM, STRING, ZSET

NOW = 1_700_000_000_000


def hash_of(*fields: tuple[bytes, bytes], expire: dict[bytes, int] | None = None) -> bytes:
    made = Hash()
    for field, value in fields:
        made.set(field, value)
    for field, moment in (expire or {}).items():
        made.expire(field, moment)
    return made.pack()


def stream_of(*ids: int, deleted: int = 0, consumer: bytes = b"me", seen_at: int = NOW) -> bytes:
    made = Stream()
    for ms in ids:
        made.append(streamid.make(ms, 0), [b"field", b"value"])
    if deleted:
        made.delete(streamid.make(deleted, 0))
    group = made.create_group(b"group", streamid.FIRST, 0)
    reader = made.create_consumer(group, consumer, seen_at)
    made.deliver(group, reader, streamid.make(ids[0], 0), NOW)
    return made.pack()


def test_order_is_none_of_a_set_or_a_hash() -> None:
    assert same(SET, set_of([b"a", b"b"]).pack(), set_of([b"b", b"a"]).pack(), NOW)
    assert same(HASH, hash_of((b"f", b"1"), (b"g", b"2")), hash_of((b"g", b"2"), (b"f", b"1")), NOW)


def test_order_is_all_of_a_list() -> None:
    assert not same(LIST, List.of([b"a", b"b"]).pack(), List.of([b"b", b"a"]).pack(), NOW)


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (STRING, b"a", b"b"),
        (SET, set_of([b"a", b"b"]).pack(), set_of([b"a", b"c"]).pack()),
        (HASH, hash_of((b"f", b"1")), hash_of((b"f", b"2"))),
        (
            HASH,
            hash_of((b"f", b"1"), (b"g", b"1")),
            hash_of((b"f", b"1"), (b"g", b"1"), expire={b"f": NOW + 1}),
        ),
        (ZSET, zsets.make({b"a": 1.0, b"b": 2.0}).pack(), zsets.make({b"a": 1.0, b"b": 2.5}).pack()),
        (STREAM, stream_of(1, 2), stream_of(1, 3)),
        (STREAM, stream_of(1, 2), stream_of(1, 2, 3, deleted=3)),
        (STREAM, stream_of(1, 2), stream_of(1, 2, consumer=b"you")),
        (STREAM, stream_of(1, 2), stream_of(1, 2, seen_at=NOW + 1)),
    ],
)
def test_what_differs_in_anything_is_not_the_same(kind: int, one: bytes, other: bytes) -> None:
    assert same(kind, one, one, NOW)
    assert not same(kind, one, other, NOW)


def test_a_field_that_has_expired_does_not_count() -> None:
    expired = hash_of((b"f", b"1"), (b"g", b"2"), expire={b"g": NOW - 1})
    assert same(HASH, hash_of((b"f", b"1")), expired, NOW)


def test_a_kind_of_a_later_version_is_the_same_by_its_bytes_alone() -> None:
    assert same(99, b"a", b"a", NOW)
    assert not same(99, b"a", b"b", NOW)
