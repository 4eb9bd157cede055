"""Writes values in the form of a DUMP (see ``proxy.datatypes.rdb``): one form of each type.

Of the forms that Redis 7.0 reads, these are the simplest; it makes of them what it keeps itself.
"""

from __future__ import annotations

import struct

from proxy.datatypes.hash import Hash
from proxy.datatypes.list import List
from proxy.datatypes.rdbreader import (
    HASH_TIMES,
    HASH_TYPE,
    INT8,
    INT16,
    INT32,
    LIST_TYPE,
    SET_TYPE,
    STRING_TYPE,
    ZSET_TYPE,
)
from proxy.datatypes.set import Set, integer
from proxy.datatypes.zset import ZSet
from proxy.keyspace import STRING

INTEGER_DIGITS = 11  # of a string that may be kept as an integer of 32 bits


def value_bytes(kind: int, value: object, now: int) -> bytes:
    """The type and the value, without what has expired of it."""
    out = bytearray()
    if kind == STRING:
        assert isinstance(value, (bytes, bytearray))
        out.append(STRING_TYPE)
        write_string(out, bytes(value))
    elif isinstance(value, List):
        out.append(LIST_TYPE)
        write_strings(out, value.elements(), len(value))
    elif isinstance(value, Set):
        out.append(SET_TYPE)
        write_strings(out, value.members(), len(value))
    elif isinstance(value, ZSet):
        out.append(ZSET_TYPE)
        members, scores = value.items()
        write_length(out, len(members))
        for member, score in zip(members, scores, strict=True):
            write_string(out, member)
            out += struct.pack("<d", score)
    elif isinstance(value, Hash):
        write_hash(out, value, now)
    else:
        raise AssertionError(f"no form for kind {kind}")
    return bytes(out)


def write_hash(out: bytearray, value: Hash, now: int) -> None:
    items = value.items(now)
    times = [value.expires_at(field) for field in items] if value.due else []
    earliest = min(filter(None, times), default=0)
    if not earliest:
        out.append(HASH_TYPE)
        write_strings(out, [word for pair in items.items() for word in pair], len(items))
        return
    out.append(HASH_TIMES)
    out += earliest.to_bytes(8, "little")
    write_length(out, len(items))
    for (field, item), time in zip(items.items(), times, strict=True):
        write_length(out, time - earliest + 1 if time else 0)
        write_string(out, field)
        write_string(out, item)


def write_length(out: bytearray, length: int) -> None:
    if length < 0x40:
        out.append(length)
    elif length < 0x4000:
        out += (0x4000 | length).to_bytes(2, "big")
    elif length < 1 << 32:
        out += b"\x80" + length.to_bytes(4, "big")
    else:
        out += b"\x81" + length.to_bytes(8, "big")


def write_string(out: bytearray, item: bytes) -> None:
    """A string, as an integer where Redis does so too."""
    if len(item) <= INTEGER_DIGITS:
        number = integer(item)
        if number is not None:
            for form, width in ((INT8, 1), (INT16, 2), (INT32, 4)):
                if -(1 << (8 * width - 1)) <= number < 1 << (8 * width - 1):
                    out.append(0xC0 | form)
                    out += number.to_bytes(width, "little", signed=True)
                    return
    write_length(out, len(item))
    out += item


def write_strings(out: bytearray, items: list[bytes], count: int) -> None:
    """``count`` elements, of one string each or of several."""
    write_length(out, count)
    for item in items:
        write_string(out, item)
