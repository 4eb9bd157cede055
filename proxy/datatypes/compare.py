"""Whether two stored values are the same to a client, however each is laid out.

Sets and hashes have no order, and a Redis lays them out as its history had it; a stream's entries may lie in
other blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from proxy.datatypes import streamid
from proxy.datatypes.hash import Hash
from proxy.datatypes.set import Set
from proxy.datatypes.stream import Stream
from proxy.datatypes.streamgroup import Group
from proxy.datatypes.values import unpack
from proxy.datatypes.zset import ZSet
from proxy.keyspace import HASH, LIST, SET, STREAM, ZSET


def same(kind: int, raw: bytes, other: bytes, now: int) -> bool:
    """Whether the stored bytes ``raw`` and ``other`` of one kind are one value, at ``now`` (ms)."""
    if raw == other:
        return True
    form = FORMS.get(kind)
    return form is not None and form(unpack(kind, raw), now) == form(unpack(kind, other), now)


def _hash(value: Hash, now: int) -> object:
    return {field: (data, value.expires_at(field)) for field, data in value.items(now).items()}


def _stream(value: Stream, now: int) -> object:
    groups = {name: _group(group) for name, group in value.groups.items()}
    entries = value.range(streamid.FIRST, streamid.LAST)
    return value.last, value.max_deleted, value.added, entries, groups


def _group(group: Group) -> object:
    consumers = {name: consumer.seen_at for name, consumer in group.consumers.items()}
    pending = [
        (id, given.consumer, given.at, given.count) for id, given in group.pending.walk(streamid.FIRST)
    ]
    return group.last, group.entries_read, consumers, pending


def _zset(value: ZSet, now: int) -> object:
    return value.items()


def _set(value: Set, now: int) -> object:
    return set(value.elements())


# Any: each takes the collection of its own kind.
FORMS: Final[dict[int, Callable[[Any, int], object]]] = {
    HASH: _hash,
    LIST: lambda value, now: value.elements(),
    SET: _set,
    STREAM: _stream,
    ZSET: _zset,
}
"""By kind, what is equal where the values are; a string, and what is not known, has no form but its bytes."""
