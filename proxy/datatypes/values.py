"""From a value to the bytes that a store keeps, and back; see each type's ``pack`` for its form.

A hash whose every field expires is a record of its own kind, ``VOLATILE_HASH``: the record expires with the
last field, if not with the key before that, so that a store need not look into it.  When the key itself
expires (ms since the epoch, 0: never) stands before the hash's own form, in eight bytes, lowest first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from proxy.datatypes import hash as hashes
from proxy.datatypes import set as sets
from proxy.datatypes import stream
from proxy.datatypes import zset as zsets
from proxy.datatypes.collection import Collection
from proxy.datatypes.list import List
from proxy.keyspace import (
    CHUNKED_LIST,
    CHUNKED_STREAM,
    HASH,
    LIST,
    SET,
    STREAM,
    STRING,
    UNCHUNKED,
    VOLATILE_HASH,
    ZSET,
)

UNPACK: Final[dict[int, Callable[[bytes], Collection]]] = {
    HASH: hashes.unpack,
    LIST: List.unpack,
    SET: sets.unpack,
    STREAM: stream.unpack,
    ZSET: zsets.unpack,
}
"""By kind, what makes a collection of its packed form."""


UNPACK_ROOT: Final[dict[int, Callable[[bytes], Collection]]] = {
    CHUNKED_LIST: List.unpack_root,
    CHUNKED_STREAM: stream.unpack_root,
}
"""The same of roots."""


class UnknownKind(ValueError):
    """The value was written by a later version, whose type this one does not know."""


def pack(value: object) -> bytes:
    """A value as it is stored: a string is its bytes."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, Collection):
        return value.pack()
    assert isinstance(value, bytearray)
    return bytes(value)


def unpack(kind: int, raw: bytes) -> object:
    """The value of which these are the stored bytes."""
    if kind == STRING:
        return raw
    make = UNPACK.get(kind)
    if make is None:
        raise UnknownKind(f"values of kind {kind} are not known to this version")
    return make(raw)


class Stored(NamedTuple):
    """What a record has of a value."""

    kind: int
    raw: bytes
    expire_at: int


def to_record(kind: int, value: object, expire_at: int) -> Stored:
    """What is to be stored of a key's value, which expires then."""
    if kind == HASH and isinstance(value, Collection):
        last = value.last_due()
        if last:
            raw = expire_at.to_bytes(8, "little") + value.pack()
            return Stored(VOLATILE_HASH, raw, min(expire_at, last) if expire_at else last)
    return Stored(kind, pack(value), expire_at)


def from_record(kind: int, raw: bytes, expire_at: int) -> tuple[int, object, int]:
    """A key's kind, its value and when it expires.  Of a root it is the value without its chunks."""
    if kind in UNCHUNKED:
        return UNCHUNKED[kind], UNPACK_ROOT[kind](raw), expire_at
    if kind != VOLATILE_HASH:
        return kind, unpack(kind, raw), expire_at
    value = hashes.unpack(raw[8:])
    own = int.from_bytes(raw[:8], "little")
    if expire_at != (min(own, value.last_due()) if own else value.last_due()):
        own = expire_at  # it was changed by who could not read the value
    return HASH, value, own
