"""Strings as arrays of bits, of which bit 0 is the highest of the first byte.

A megabyte takes well under a millisecond to search, and one or two to count or to combine: the work is done
by the primitives of ``bytes`` and ``int``, never by a loop over bytes.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

CHUNK: Final = 512  # bytes that are looked at in one step, where they are all the same
PIECE: Final = 64 * 1024  # bytes that are made one number, which the CPU's caches hold
FULL: Final = b"\xff" * CHUNK
EMPTY: Final = bytes(CHUNK)
INVERTED: Final = bytes(range(255, -1, -1))


def get(value: bytes | bytearray, at: int) -> int:
    """One bit; what is beyond the end is 0."""
    byte = at >> 3
    return value[byte] >> (7 - (at & 7)) & 1 if byte < len(value) else 0


def count(value: bytes | bytearray, start: int, end: int) -> int:
    """How many bits are 1, of those from ``start`` to ``end`` (included, and within the value)."""
    first, last = start >> 3, end >> 3
    total = 0
    view = memoryview(value)
    for at in range(first, last + 1, PIECE):
        total += int.from_bytes(view[at : min(at + PIECE, last + 1)], "little").bit_count()
    total -= (value[first] >> (8 - (start & 7))).bit_count()
    total -= (value[last] & (0x7F >> (end & 7))).bit_count()
    return total


def find(value: bytes | bytearray, bit: int, start: int, end: int) -> int:
    """The first bit that is ``bit``, of those from ``start`` to ``end`` (as in ``count``); -1: none."""
    while start & 7 and start <= end:
        if get(value, start) == bit:
            return start
        start += 1
    if start > end:
        return -1
    others = EMPTY if bit else FULL
    other: i64 = others[0]
    at: i64 = start >> 3
    stop: i64 = (end >> 3) + 1
    while value.startswith(others, at):
        at += CHUNK
    while at < stop and value[at] == other:
        at += 1
    if at < stop:
        position: int = at << 3
        for each in range(position, min(position + 7, end) + 1):
            if get(value, each) == bit:
                return each
    return -1


def invert(value: bytes) -> bytes:
    return value.translate(INVERTED)


def combine(operation: bytes, values: list[bytes]) -> bytes:
    """AND, OR or XOR, as long as the longest: shorter ones go on with zeros."""
    size = max(map(len, values))
    if operation == b"AND":
        size_of_result = min(map(len, values))
        values = [value[:size_of_result] for value in values]
    numbers = [int.from_bytes(value, "little") for value in values]
    result = numbers[0]
    for number in numbers[1:]:
        if operation == b"AND":
            result &= number
        elif operation == b"OR":
            result |= number
        else:
            result ^= number
    return result.to_bytes(size, "little")


def read_field(value: bytes | bytearray, signed: bool, width: int, at: int) -> int:
    """The integer of ``width`` bits at bit ``at``; bits beyond the end are 0."""
    end = at + width
    span = ((end + 7) >> 3) - (at >> 3)
    number = int.from_bytes(bytes(value[at >> 3 : (at >> 3) + span]).ljust(span, b"\0"), "big")
    number = number >> (-end & 7) & ((1 << width) - 1)
    return number - (1 << width) if signed and number >> (width - 1) else number


def write_field(value: bytearray, width: int, at: int, number: int) -> None:
    """Put an integer of ``width`` bits at bit ``at``, which is within the value."""
    end = at + width
    first, last = at >> 3, (end + 7) >> 3
    shift = -end & 7
    mask = (1 << width) - 1
    old = int.from_bytes(value[first:last], "big")
    value[first:last] = (old & ~(mask << shift) | (number & mask) << shift).to_bytes(last - first, "big")


def fit(number: int, signed: bool, width: int, overflow: bytes) -> int | None:
    """A number as a field of ``width`` bits can hold it, by WRAP, SAT or FAIL (``None``: it can't)."""
    low = -(1 << (width - 1)) if signed else 0
    high = low + (1 << width) - 1
    if low <= number <= high:
        return number
    if overflow == b"FAIL":
        return None
    if overflow == b"SAT":
        return high if number > high else low
    number &= (1 << width) - 1
    return number - (1 << width) if signed and number > high else number
