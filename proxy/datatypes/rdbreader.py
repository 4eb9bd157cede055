"""Reads values in the form of a DUMP (see ``proxy.datatypes.rdb``).

What is not well formed raises ValueError or IndexError.  A number of elements is only believed as far as
there are bytes for them.
"""

from __future__ import annotations

import struct
from typing import Final

from proxy.datatypes import listpack, lzf
from proxy.datatypes import set as sets
from proxy.datatypes import zset as zsets
from proxy.datatypes.digits import digits
from proxy.datatypes.hash import TIME_MAX, Hash
from proxy.datatypes.list import List
from proxy.datatypes.set import Set
from proxy.datatypes.zset import ZSet
from proxy.keyspace import HASH, LIST, SET, STRING, ZSET

# Types, each with how it is kept.
STRING_TYPE: Final = 0
LIST_TYPE: Final = 1
LIST_ZIPLIST: Final = 10
LIST_ZIPLISTS: Final = 14  # until Redis 6.2
LIST_NODES: Final = 18
SET_TYPE: Final = 2
SET_INTSET: Final = 11
SET_LISTPACK: Final = 20  # from Redis 7.2 on
HASH_TYPE: Final = 4
HASH_ZIPLIST: Final = 13
HASH_LISTPACK: Final = 16
HASH_TIMES: Final = 24  # from Redis 7.4 on: some fields expire
HASH_TIMES_LISTPACK: Final = 25

ZSET_TEXT: Final = 3  # scores as text: until Redis 3
ZSET_TYPE: Final = 5
ZSET_ZIPLIST: Final = 12
ZSET_LISTPACK: Final = 17
STREAM_1: Final = 15  # until Redis 6.2
STREAM_2: Final = 19
STREAM_3: Final = 21  # from Redis 7.2 on

# Nodes of a list: one element, or a listpack of them.
PLAIN: Final = 1
PACKED: Final = 2

# What a length of the form 11xxxxxx says of the string that follows.
INT8: Final = 0
INT16: Final = 1
INT32: Final = 2
LZF: Final = 3

# Bytes that one compressed byte can stand for, at most: what is announced beyond that is not so.
LZF_GAIN: Final = 264
STRING_MAX: Final = 512 * 1024 * 1024  # bytes: the default of Redis' proto-max-bulk-len


class BadFormat(ValueError):
    """The bytes are no value that is known."""


class Reader:
    """A cursor over a value's bytes."""

    def __init__(self, data: bytes) -> None:
        self.data: bytes = data
        self.at: int = 0

    def take(self, size: int) -> bytes:
        at = self.at
        self.at = at + size
        if self.at > len(self.data):
            raise BadFormat("cut off")
        return self.data[at : self.at]

    def byte(self) -> int:
        at = self.at
        self.at = at + 1
        return self.data[at]

    def length(self) -> int:
        """A length, or any number of up to 64 bits."""
        first = self.byte()
        if first < 0x40:
            return first
        if first < 0x80:
            return (first & 63) << 8 | self.byte()
        if first == 0x80:
            return int.from_bytes(self.take(4), "big")
        if first == 0x81:
            return int.from_bytes(self.take(8), "big")
        raise BadFormat("no length")

    def count(self, size: int) -> int:
        """A number of elements, of at least ``size`` bytes each; 0 is none that Redis writes."""
        count = self.length()
        if not 0 < count <= (len(self.data) - self.at) // size:
            raise BadFormat("not so many elements")
        return count

    def string(self) -> bytes:
        first = self.data[self.at]
        if first < 0xC0:
            return self.take(self.length())
        self.at += 1
        form = first & 63
        if form <= INT32:
            return digits(int.from_bytes(self.take(1 << form), "little", signed=True))
        if form != LZF:
            raise BadFormat("a string in a form that is not known")
        stored, size = self.length(), self.length()
        if size > min(stored * LZF_GAIN, STRING_MAX):
            raise BadFormat("not so large")
        return lzf.decompress(self.take(stored), size)

    def number(self) -> int:
        """Eight bytes, lowest first."""
        return int.from_bytes(self.take(8), "little")

    def double(self) -> float:
        value: float = struct.unpack("<d", self.take(8))[0]
        return value

    def text_double(self) -> float:
        """A double as text, of which the length is one byte, or one of three that stand for themselves."""
        size = self.byte()
        if size >= 253:
            return (float("nan"), float("inf"), float("-inf"))[size - 253]
        return float(self.take(size))

    def strings(self, count: int) -> list[bytes]:
        return [self.string() for _ in range(count)]


def read_value(reader: Reader) -> tuple[int, object]:
    """The kind and the value."""
    form = reader.byte()
    if form == STRING_TYPE:
        return STRING, reader.string()
    if form in (LIST_TYPE, LIST_ZIPLIST, LIST_ZIPLISTS, LIST_NODES):
        return LIST, read_list(reader, form)
    if form in (SET_TYPE, SET_INTSET, SET_LISTPACK):
        return SET, read_set(reader, form)
    if form in (HASH_TYPE, HASH_ZIPLIST, HASH_LISTPACK, HASH_TIMES, HASH_TIMES_LISTPACK):
        return HASH, read_hash(reader, form)
    if form in (ZSET_TEXT, ZSET_TYPE, ZSET_ZIPLIST, ZSET_LISTPACK):
        return ZSET, read_zset(reader, form)
    raise BadFormat("a type that is not known")


def read_list(reader: Reader, form: int) -> List:
    items: list[bytes] = []
    if form == LIST_TYPE:
        items = reader.strings(reader.count(1))
    elif form == LIST_ZIPLIST:
        items = listpack.ziplist(reader.string())
    elif form == LIST_ZIPLISTS:
        for _ in range(reader.count(1)):
            items += listpack.ziplist(reader.string())
    else:
        for _ in range(reader.count(2)):
            container = reader.length()
            if container == PLAIN:
                items.append(reader.string())
            elif container == PACKED:
                items += listpack.items(reader.string())
            else:
                raise BadFormat("a node of a kind that is not known")
    if not items:
        raise BadFormat("empty")
    return List.of(items)


def read_set(reader: Reader, form: int) -> Set:
    if form == SET_TYPE:
        members = reader.strings(reader.count(1))
    elif form == SET_INTSET:
        members = listpack.intset(reader.string())
    else:
        members = listpack.items(reader.string())
    require_different(members)
    return sets.set_of(members)


def read_zset(reader: Reader, form: int) -> ZSet:
    members: list[bytes] = []
    scores: list[float] = []
    if form in (ZSET_TEXT, ZSET_TYPE):
        for _ in range(reader.count(2)):
            members.append(reader.string())
            scores.append(reader.double() if form == ZSET_TYPE else reader.text_double())
    else:
        items = (listpack.items if form == ZSET_LISTPACK else listpack.ziplist)(reader.string())
        members, scores = items[::2], [float(text) for text in items[1::2]]
    require_different(members)
    if any(score != score for score in scores):
        raise BadFormat("not a number")
    return zsets.make(dict(zip(members, scores, strict=True)))


def read_hash(reader: Reader, form: int) -> Hash:
    if form in (HASH_TIMES, HASH_TIMES_LISTPACK):
        return read_expiring_hash(reader, form)
    if form == HASH_TYPE:
        items = reader.strings(2 * reader.count(2))
    elif form == HASH_LISTPACK:
        items = listpack.items(reader.string())
    else:
        items = listpack.ziplist(reader.string())
    require_different(items[::2])
    made = Hash()
    for field, value in zip(items[::2], items[1::2], strict=True):
        made.set(field, value)
    return made


def read_expiring_hash(reader: Reader, form: int) -> Hash:
    """Each field with when it expires, in ms; in the one form less the earliest time, plus 1."""
    earliest = reader.number()
    fields: list[bytes] = []
    values: list[bytes] = []
    times: list[int] = []
    if form == HASH_TIMES:
        for _ in range(reader.count(3)):
            after = reader.length()
            times.append(earliest + after - 1 if after else 0)
            fields.append(reader.string())
            values.append(reader.string())
    else:
        items = listpack.items(reader.string())
        fields, values, times = items[::3], items[1::3], [int(text) for text in items[2::3]]
    require_different(fields)
    made = Hash()
    for field, value, time in zip(fields, values, times, strict=True):
        made.set(field, value)
        if time:
            if not 0 < time <= TIME_MAX:
                raise BadFormat("a time that no field can have")
            made.expire(field, time)
    return made


def require_different(names: list[bytes]) -> None:
    """Refuse what has the same name twice, or none."""
    if not names or len(set(names)) != len(names):
        raise BadFormat("empty, or the same twice")
