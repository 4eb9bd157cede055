"""Short sequences of byte strings in one: what small collections are kept in.

Each item is its length, a variable-length integer of seven bits a byte, lowest first (as in Protocol
Buffers), and its bytes.  An object for each item would take 33 bytes and more besides; these take one or
two.  Looking for an item goes through all before it, so a sequence is kept short.

A sequence is ``bytes``, or a ``bytearray`` where it grows at its end.  Compiled, the bytes of ``bytes`` are
read ten times as fast: so what looks through a whole ``bytearray`` first copies it.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from mypy_extensions import i64

Sequence: TypeAlias = bytes | bytearray

_HEADS: Final = [bytes((size,)) for size in range(128)]


def head(size: int) -> bytes:
    """The bytes before an item of ``size`` bytes."""
    if size < 128:
        return _HEADS[size]
    out = bytearray()
    while size >= 128:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out)


def append(data: bytearray, item: bytes) -> None:
    data += head(len(item))
    data += item


def read(data: Sequence, at: i64) -> tuple[i64, i64]:
    """Where the item whose head begins at ``at`` begins, and where it ends."""
    if isinstance(data, bytes):
        return _read(data, at)
    # No item's head is longer: the bytes of an item are fewer than 2**63.
    begin, end = _read(bytes(data[at : at + 9]), 0)
    return at + begin, at + end


def _read(data: bytes, at: i64) -> tuple[i64, i64]:
    size, at = number(data, at)
    return at, at + size


def number(data: bytes, at: i64) -> tuple[i64, i64]:
    """The variable-length integer that begins at ``at``, and the place after it."""
    value: i64 = data[at]
    at += 1
    if value >= 128:
        value &= 127
        shift: i64 = 7
        while True:
            more: i64 = data[at]
            at += 1
            value |= (more & 127) << shift
            if more < 128:
                break
            shift += 7
    return value, at


def pack(sequence: list[bytes]) -> bytes:
    """These items, packed."""
    parts: list[bytes] = []
    for item in sequence:
        parts.append(head(len(item)))
        parts.append(item)
    return b"".join(parts)


def skip(data: bytes, at: i64, count: i64) -> i64:
    """The place after ``count`` items."""
    while count > 0:
        size: i64 = data[at]
        at += 1
        if size >= 128:
            size, at = number(data, at - 1)
        at += size
        count -= 1
    return at


def take(data: bytes, at: i64, count: i64) -> list[bytes]:
    """``count`` items from the place ``at`` on."""
    found: list[bytes] = []
    while count > 0:
        size: i64 = data[at]
        at += 1
        if size >= 128:
            size, at = number(data, at - 1)
        end = at + size
        found.append(data[at:end])
        at = end
        count -= 1
    return found


def items(data: Sequence) -> list[bytes]:
    """All items."""
    raw = bytes(data)
    found: list[bytes] = []
    at: i64 = 0
    end: i64 = len(raw)
    while at < end:
        begin, at = _read(raw, at)
        found.append(raw[begin:at])
    return found


def find(data: Sequence, item: bytes, step: int) -> int:
    """Where the head of the first item equal to ``item`` begins, among every ``step``-th; -1 if nowhere."""
    raw = bytes(data)
    at: i64 = 0
    end: i64 = len(raw)
    size: i64 = len(item)
    last: i64 = item[size - 1] if size else 0
    number: i64 = 0
    every: i64 = step
    while at < end:
        start = at
        begin, at = _read(raw, at)
        # Names that are as long often begin alike: the last byte tells most of them apart at once.
        alike = number == 0 and at - begin == size and (size == 0 or raw[at - 1] == last)
        if alike and raw.startswith(item, begin):
            return start
        number += 1
        if number == every:
            number = 0
    return -1
