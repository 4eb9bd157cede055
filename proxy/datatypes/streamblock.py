"""Blocks of a stream: up to a hundred entries, packed.

A block is for us what a node of its radix tree is for Redis, and holds the same entries: ``XTRIM ~`` lets go
of whole nodes, so lengths would differ else.  Where a node ends depends on the bytes that Redis' listpack
takes for it (https://github.com/antirez/listpack/blob/master/listpack.md), deleted entries among them: they
are counted here.

Most entries have the fields that the first one of their block had: these are kept once.
"""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

from mypy_extensions import i64, mypyc_attr

from proxy.datatypes import packed, streamid
from proxy.datatypes.chunking import Piece
from proxy.datatypes.set import integer
from proxy.datatypes.undo import UNDO

ENTRIES_MAX: Final = 100  # stream-node-max-entries
BYTES_MAX: Final = 4096  # stream-node-max-bytes

# A listpack's sizes in bytes.
LISTPACK_OVERHEAD: Final = 7  # header and end
SMALL: Final = 2  # an integer from 0 to 127

ROW: Final = 20  # bytes of an entry in the index: its id, and where its data end (32 bits, see ``shift``)
ALIKE: Final = b"\0"  # begins the data of an entry: its values, for the block's fields
OTHER: Final = b"\1"  # its fields and values, in turns

_ROW: Final = struct.Struct(">16sI")

Parts: TypeAlias = tuple[bytes, bytes, int, int, bytes, bytes, int, bytes]
Item: TypeAlias = tuple[bytes, list[bytes]]
"""An entry: its id; its fields and values in turns."""

# Bytes of memory, measured on 64-bit CPython: the block, its two ids, three byte strings, places in lists.
BLOCK_OVERHEAD: Final = 368


def integer_size(number: i64) -> int:
    """Bytes that an integer takes in a listpack."""
    if 0 <= number < 128:
        return SMALL
    if number < 0:
        number = -1 - number
    if number < 32768:
        return 3 if number < 4096 else 4
    if number < 2147483648:
        return 5 if number < 8388608 else 6
    return 10


def element_size(item: bytes) -> int:
    """Bytes that an item takes in a listpack, which keeps as an integer what reads like one."""
    number = integer(item)
    if number is not None:
        return integer_size(number)
    size = len(item)
    size += 1 if size < 64 else 2 if size < 4096 else 5
    if size < 128:
        return size + 1
    return size + (2 if size < 16383 else 3 if size < 2097151 else 4 if size < 268435455 else 5)


def _signed(number: int) -> int:
    """As 64 bits with a sign hold it."""
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number


@mypyc_attr(acyclic=True)
class Block(Piece):
    """Entries in the order of their ids.

    One that stands for a chunk knows its ``first``, ``last``, ``count`` and ``size``, and nothing else.
    """

    __slots__ = ("data", "deleted", "fields", "first", "index", "last", "listpack", "shift")

    def __init__(
        self,
        first: bytes,
        last: bytes,
        deleted: int,
        listpack: int,
        fields: bytes,
        index: bytes,
        shift: int,
        data: bytes,
    ) -> None:
        self.first: bytes = first  # id of the entry that it began with, which may be gone
        self.last: bytes = last  # id of the one that was appended last, which may be gone
        self.deleted: int = deleted  # entries that are gone
        self.listpack: int = listpack  # bytes that Redis' listpack would have
        self.fields: bytes = fields  # of the entry that it began with, a packed sequence
        self.index: bytes = index
        self.shift: int = shift  # bytes that are gone from the front of the data since the index was made
        self.data: bytes = data

    @property
    def count(self) -> int:
        """Entries that are there."""
        shelf = self.shelf
        if shelf is not None and shelf.away:
            return shelf.count
        return len(self.index) // ROW

    @property
    def size(self) -> int:
        """Bytes of memory."""
        shelf = self.shelf
        if shelf is not None and shelf.away:
            return shelf.memory
        return BLOCK_OVERHEAD + len(self.fields) + len(self.index) + len(self.data)

    def copy(self) -> Block:
        return Block(*self.parts())

    def elements(self) -> int:
        return self.count

    def memory(self) -> int:
        return self.size

    def weight(self) -> int:
        return len(self.fields) + len(self.index) + len(self.data)

    def parts(self) -> Parts:
        return (
            self.first,
            self.last,
            self.deleted,
            self.listpack,
            self.fields,
            self.index,
            self.shift,
            self.data,
        )

    def _keep(self) -> None:
        """Have it undone what is about to be done."""
        if UNDO.first(self):
            UNDO.step(
                self._restore, self.last, self.deleted, self.listpack, self.index, self.shift, self.data
            )

    def _restore(
        self, last: bytes, deleted: int, listpack: int, index: bytes, shift: int, data: bytes
    ) -> None:
        self.last = last
        self.deleted = deleted
        self.listpack = listpack
        self.index = index
        self.shift = shift
        self.data = data

    def takes(self, payload: int) -> bool:
        """Whether Redis would append an entry with so many bytes of fields and values to this block."""
        return self.listpack + payload < BYTES_MAX and self.count + self.deleted < ENTRIES_MAX

    def append(self, id: bytes, items: list[bytes]) -> None:
        """Add an entry, whose id is larger than all before: fields and values in turns."""
        if UNDO.open:
            self._keep()
        # All but the first entry is short, and a block is as short: nothing is saved by growing in place.
        alike = packed_items(items[::2]) == self.fields
        values = items[1::2] if alike else items
        self.data += (ALIKE if alike else OTHER) + packed_items(values)
        self.index += _ROW.pack(id, self.shift + len(self.data))
        self.last = id
        self._count_listpack(id, values, alike)

    def _count_listpack(self, id: bytes, values: list[bytes], alike: bool) -> None:
        ms, seq = streamid.split(id)
        first_ms, first_seq = streamid.split(self.first)
        size = SMALL + integer_size(_signed(ms - first_ms)) + integer_size(_signed(seq - first_seq))
        if not alike:
            size += integer_size(len(values) // 2)
        for value in values:
            size += element_size(value)
        self.listpack += size + integer_size(len(values) + (3 if alike else 4))

    def find(self, id: bytes) -> int:
        """The number of the first entry whose id is not smaller."""
        low: i64 = 0
        high: i64 = len(self.index) // ROW
        index = self.index
        while low < high:
            middle = (low + high) >> 1
            at = middle * ROW
            if index[at : at + streamid.SIZE] < id:
                low = middle + 1
            else:
                high = middle
        return low

    def find_after(self, id: bytes) -> int:
        """The number of the first entry whose id is larger."""
        if id >= self.last:
            return self.count
        number = self.find(id)
        return number + 1 if number < self.count and self.id(number) == id else number

    def id(self, number: int) -> bytes:
        at = number * ROW
        return self.index[at : at + streamid.SIZE]

    def _begin(self, number: int) -> int:
        """Where an entry's data begin."""
        if not number:
            return 0
        end: int = _ROW.unpack_from(self.index, (number - 1) * ROW)[1]
        return end - self.shift

    def rows(self, begin: int, stop: int) -> list[Item]:
        """Entries from the number ``begin`` to before ``stop``."""
        found: list[Item] = []
        if begin >= stop:
            return found
        data, index, shift = self.data, self.index, self.shift
        names = packed.items(self.fields)
        at = self._begin(begin)
        for number in range(begin, stop):
            row: tuple[bytes, int] = _ROW.unpack_from(index, number * ROW)
            id, end = row
            end -= shift
            items = packed.items(data[at + 1 : end])
            if not data[at]:
                items = [item for both in zip(names, items, strict=True) for item in both]
            found.append((id, items))
            at = end
        return found

    def remove(self, number: int, count: int) -> None:
        """Let go of ``count`` entries from ``number`` on."""
        if UNDO.open:
            self._keep()
        begin, end = self._begin(number), self._begin(number + count)
        self.deleted += count
        if not number:  # as queues do: the rest stays as it is
            self.index = self.index[count * ROW :]
            self.data = self.data[end:]
            self.shift += end
            return
        moved = self.shift - (end - begin)
        rows = [
            _ROW.pack(self.id(later), self._begin(later + 1) + moved)
            for later in range(number + count, self.count)
        ]
        self.index = self.index[: number * ROW] + b"".join(rows)
        self.data = self.data[:begin] + self.data[end:]


def packed_items(items: list[bytes]) -> bytes:
    data = bytearray()
    for item in items:
        packed.append(data, item)
    return bytes(data)


def begin_block(id: bytes, items: list[bytes]) -> Block:
    """A block of one entry."""
    names = items[::2]
    listpack = LISTPACK_OVERHEAD + 3 * SMALL + integer_size(len(names))
    for name in names:
        listpack += element_size(name)
    block = Block(id, id, 0, listpack, packed_items(names), b"", 0, b"")
    block.append(id, items)
    return block
