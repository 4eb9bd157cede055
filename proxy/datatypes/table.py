"""A hash table for one element or ten million: no operation on it holds the loop.

One large dict stalls its user for a tenth of a second when it is resized; it can't be scanned in pieces, and
nothing can be drawn from it at random but by walking it.  So elements are spread over many small dicts, by
the low bits of their CRC-32.  As the table grows one of them is split in two at a time, and as it shrinks two
become one again (linear hashing: Litwin, "Linear hashing: a new tool for file and table addressing", 1980).

A scan goes by the CRC's bits read backwards: so a dict's elements are neighbours, and their order is changed
neither by growth nor by a process.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Final, Generic, TypeVar

from proxy.datatypes.undo import UNDO

V = TypeVar("V")

FILL: Final = 64  # elements of a shard, on the mean, from which on one is split
SPARE: Final = 16  # and below which two are merged
SPACE: Final = 1 << 32  # of CRCs
DICT_OVERHEAD: Final = 64
SLOT_SIZE: Final = 64  # bytes of a dict's slot, at mean load
# Draws that meet nobody after which the bound on the shards' sizes is too far off to go on with.
MISSES: Final = 64

_BACKWARDS: Final = bytes([int(f"{byte:08b}"[::-1], 2) for byte in range(256)])
_random: Final = random.random


def _backwards(number: int) -> int:
    """A number of 32 bits with its lowest bit first."""
    return int.from_bytes(number.to_bytes(4, "little").translate(_BACKWARDS), "big")


def place(name: bytes) -> int:
    """Where a scan meets a name, in the space of 32-bit numbers."""
    return _backwards(zlib.crc32(name))


class Table(Generic[V]):
    """Values by name."""

    def __init__(self) -> None:
        self.count: int = 0
        self._shards: list[dict[bytes, V]] = [{}]
        self._bits: int = 0  # of a CRC, that choose the shard; one more for those that have been split
        self._most: int = 0  # elements that no shard has more of

    def __len__(self) -> int:
        return self.count

    def _number(self, crc: int) -> int:
        """Which shard has the names of this CRC; at least so many times in twice their number it is split."""
        shards = len(self._shards)
        low = crc & (2 << self._bits) - 1
        return low if low < shards else low - (1 << self._bits)

    def _shard(self, name: bytes) -> dict[bytes, V]:
        shards = self._shards
        return shards[0] if len(shards) == 1 else shards[self._number(zlib.crc32(name))]

    def has(self, name: bytes) -> bool:
        return name in self._shard(name)

    def get(self, name: bytes) -> V | None:
        return self._shard(name).get(name)

    def put(self, name: bytes, value: V) -> bool:
        """Add or replace; whether the name is new."""
        shard = self._shard(name)
        if UNDO.open:
            self._keep(shard)
        before = len(shard)
        shard[name] = value
        size = len(shard)
        if size == before:
            return False
        if size > self._most:
            self._most = size
        self.count += 1
        if self.count > FILL * len(self._shards):
            self._split()
        return True

    def remove(self, name: bytes) -> bool:
        shard = self._shard(name)
        if name not in shard:
            return False
        if UNDO.open:
            self._keep(shard)
        del shard[name]
        self.count -= 1
        if self.count < SPARE * len(self._shards) and len(self._shards) > 1:
            self._merge()
        return True

    def _split(self) -> None:
        shards = self._shards
        bit = 1 << self._bits
        kept: dict[bytes, V] = {}
        moved: dict[bytes, V] = {}
        number = len(shards) - bit
        if UNDO.open:
            UNDO.splice(shards, number, 1, [shards[number]])
            UNDO.splice(shards, len(shards), 1, [])
        for name, value in shards[number].items():
            if zlib.crc32(name) & bit:
                moved[name] = value
            else:
                kept[name] = value
        shards[number] = kept
        shards.append(moved)
        if len(shards) == 2 * bit:
            self._bits += 1

    def _merge(self) -> None:
        shards = self._shards
        if UNDO.open:
            UNDO.splice(shards, len(shards) - 1, 0, shards[-1:])
        moved = shards.pop()
        if len(shards) < 1 << self._bits:
            self._bits -= 1
        shard = shards[len(shards) - (1 << self._bits)]
        if UNDO.open:
            UNDO.keep(shard)
        shard.update(moved)
        self._most = max(self._most, len(shard))

    def _keep(self, shard: dict[bytes, V]) -> None:
        """Have it undone what is about to be done to one shard."""
        UNDO.keep(shard)
        if UNDO.first(self):
            UNDO.step(self._restore, self.count, self._bits, self._most)

    def _restore(self, count: int, bits: int, most: int) -> None:
        self.count = count
        self._bits = bits
        self._most = most

    def names(self) -> list[bytes]:
        """All names: in the order in which they came, while they are few."""
        shards = self._shards
        if len(shards) == 1:
            return list(shards[0])
        return [name for shard in shards for name in shard]

    def values(self) -> list[V]:
        """All values, in the order of ``names``."""
        shards = self._shards
        if len(shards) == 1:
            return list(shards[0].values())
        return [value for shard in shards for value in shard.values()]

    def items(self) -> Iterator[tuple[bytes, V]]:
        for shard in self._shards:
            yield from shard.items()

    def copy(self) -> Table[V]:
        other: Table[V] = Table()
        other.count = self.count
        other._shards = [dict(shard) for shard in self._shards]
        other._bits = self._bits
        other._most = self._most
        return other

    def random(self) -> bytes:
        """Any name, each as likely as another; there must be one.  O(1).

        A place is drawn among those that the shards would have if all were as large as the largest, until
        there is somebody at it.
        """
        shards = self._shards
        misses = 0
        while True:
            most = self._most
            number = int(_random() * (len(shards) * most))
            shard = shards[number // most]
            at = number % most
            if at < len(shard):
                return next(islice(shard, at, None))
            misses += 1
            if misses % MISSES == 0:  # it is as it was before many were removed
                self._most = max(map(len, shards))

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """Names from a position on, about ``count`` or more; and where to go on, 0 at the end.

        A name that stands from a walk's begin to its end is met in it, once, however the table grows or
        shrinks in between.  A position is a place in the space of 32-bit numbers.
        """
        found: list[bytes] = []
        if cursor < 0:
            return 0, found
        while cursor < SPACE and len(found) < max(count, 1):
            number = self._number(_backwards(cursor))
            first = _backwards(number)
            width = self._bits
            if number + (1 << width) < len(self._shards) or number >= 1 << width:  # it has been split
                width += 1
            if cursor == first:
                found += self._shards[number]
            else:  # the page before it ended within: the table was larger
                found += [name for name in self._shards[number] if place(name) >= cursor]
            cursor = first + (SPACE >> width)
        return (0 if cursor >= SPACE else cursor), found

    def dismantle(self, count: int) -> bool:
        """Let go of about ``count`` elements; whether there are more."""
        shards = self._shards
        while shards and count > 0:
            shard = shards[-1]
            while shard and count > 0:
                shard.popitem()
                count -= 1
            if not shard:
                shards.pop()
        return bool(shards)
