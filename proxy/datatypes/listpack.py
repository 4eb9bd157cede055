"""The packed sequences of Redis that stand in a DUMP: listpacks, and the ziplists and intsets before them.

Listpack: https://github.com/antirez/listpack/blob/master/listpack.md.  Every integer stands for its decimal
digits.  What is not well formed raises ValueError.
"""

from __future__ import annotations

from typing import Final

from proxy.datatypes.digits import digits
from proxy.datatypes.set import integer

END: Final = 0xFF
HEADER: Final = 6  # of a listpack: bytes in all, and elements
COUNT_MAX: Final = 0xFFFF  # elements: so many or more, they must be counted
ZIPLIST_HEADER: Final = 10


def items(data: bytes) -> list[bytes]:
    """The elements of a listpack."""
    if len(data) < HEADER + 1 or int.from_bytes(data[:4], "little") != len(data) or data[-1] != END:
        raise ValueError("no listpack")
    found: list[bytes] = []
    at = HEADER
    end = len(data) - 1
    while at < end:
        begin = at
        first = data[at]
        if first < 0x80:
            item, at = b"%d" % first, at + 1
        elif first < 0xC0:
            item, at = _bytes(data, at + 1, first & 63, end)
        elif first < 0xE0:
            number = (first & 31) << 8 | data[at + 1]
            item, at = b"%d" % (number - 8192 if number >= 4096 else number), at + 2
        elif first < 0xF0:
            item, at = _bytes(data, at + 2, (first & 15) << 8 | data[at + 1], end)
        elif first == 0xF0:
            item, at = _bytes(data, at + 5, int.from_bytes(data[at + 1 : at + 5], "little"), end)
        else:
            width = LISTPACK_WIDTHS.get(first)
            if width is None:
                raise ValueError("an element that no listpack has")
            item, at = _integer(data, at + 1, width, end)
        found.append(item)
        at += back_size(at - begin)
    if at != end:
        raise ValueError("cut off")
    count = int.from_bytes(data[4:6], "little")
    if count not in (len(found), COUNT_MAX):
        raise ValueError("not as many elements as were announced")
    return found


LISTPACK_WIDTHS: Final = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}
ZIPLIST_WIDTHS: Final = {0xC0: 2, 0xD0: 4, 0xE0: 8, 0xF0: 3, 0xFE: 1}


def _bytes(data: bytes, at: int, size: int, end: int) -> tuple[bytes, int]:
    if at + size > end:
        raise ValueError("cut off")
    return data[at : at + size], at + size


def _integer(data: bytes, at: int, width: int, end: int) -> tuple[bytes, int]:
    raw, at = _bytes(data, at, width, end)
    return digits(int.from_bytes(raw, "little", signed=True)), at


def back_size(size: int) -> int:
    """Bytes that tell, after an element of a listpack, how many it has."""
    return 1 if size < 128 else 2 if size < 16384 else 3 if size < 1 << 21 else 4 if size < 1 << 28 else 5


def ziplist(data: bytes) -> list[bytes]:
    """The elements of a ziplist."""
    if len(data) < ZIPLIST_HEADER + 1 or int.from_bytes(data[:4], "little") != len(data) or data[-1] != END:
        raise ValueError("no ziplist")
    found: list[bytes] = []
    at = ZIPLIST_HEADER
    end = len(data) - 1
    while at < end:
        at += 5 if data[at] == 0xFE else 1  # the size of the element before
        if at >= end:
            raise ValueError("cut off")
        first = data[at]
        if first < 0x40:
            item, at = _bytes(data, at + 1, first, end)
        elif first < 0x80:
            item, at = _bytes(data, at + 2, (first & 63) << 8 | data[at + 1], end)
        elif first == 0x80:
            item, at = _bytes(data, at + 5, int.from_bytes(data[at + 1 : at + 5], "big"), end)
        elif first in ZIPLIST_WIDTHS:
            item, at = _integer(data, at + 1, ZIPLIST_WIDTHS[first], end)
        elif 0xF1 <= first <= 0xFD:
            item, at = b"%d" % (first - 0xF1), at + 1
        else:
            raise ValueError("an element that no ziplist has")
        found.append(item)
    count = int.from_bytes(data[8:10], "little")
    if count not in (len(found), COUNT_MAX):
        raise ValueError("not as many elements as were announced")
    return found


def intset(data: bytes) -> list[bytes]:
    """The elements of an intset."""
    width, count = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little")
    if width not in (2, 4, 8) or len(data) != 8 + width * count:
        raise ValueError("no intset")
    return [
        digits(int.from_bytes(data[at : at + width], "little", signed=True))
        for at in range(8, len(data), width)
    ]


class Writer:
    """Makes a listpack, element by element."""

    def __init__(self) -> None:
        self._out: bytearray = bytearray(HEADER)
        self._count: int = 0

    def integer(self, number: int) -> None:
        if 0 <= number < 128:
            self._add(bytes((number,)))
        elif -4096 <= number < 4096:
            number &= 0x1FFF
            self._add(bytes((0xC0 | number >> 8, number & 255)))
        else:
            for code, width in LISTPACK_WIDTHS.items():
                if -(1 << (8 * width - 1)) <= number < 1 << (8 * width - 1):
                    self._add(bytes((code,)) + number.to_bytes(width, "little", signed=True))
                    return
            raise ValueError("more than 64 bits")

    def item(self, item: bytes) -> None:
        """An element: an integer if it reads like one, as Redis has it."""
        number = integer(item)
        if number is None:
            self.string(item)
        else:
            self.integer(number)

    def string(self, item: bytes) -> None:
        """An element by its bytes, whatever they read like."""
        size = len(item)
        if size < 64:
            self._add(bytes((0x80 | size,)) + item)
        elif size < 4096:
            self._add(bytes((0xE0 | size >> 8, size & 255)) + item)
        else:
            self._add(b"\xf0" + size.to_bytes(4, "little") + item)

    def _add(self, element: bytes) -> None:
        self._out += element
        self._count += 1
        size = len(element)
        groups = back_size(size)
        # Seven bits a byte, the highest first, so that it is read from its end on.
        for place in range(groups - 1, -1, -1):
            self._out.append(size >> 7 * place & 127 | (0x80 if place < groups - 1 else 0))

    def finish(self) -> bytes:
        out = self._out
        out.append(END)
        out[:4] = len(out).to_bytes(4, "little")
        out[4:6] = min(self._count, COUNT_MAX).to_bytes(2, "little")
        return bytes(out)
