"""Streams: entries in the order of their ids, and groups of consumers that share them.

Entries lie in blocks, found by the ids that they begin with: adding one, finding one, and letting go of a
block are O(log n), a range is O(log n) and what it returns.  A stream without entries is still one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from mypy_extensions import mypyc_attr

from proxy.datatypes import streamid
from proxy.datatypes.chunking import Chunked, Piece, Shelf
from proxy.datatypes.streamblock import BLOCK_OVERHEAD, ENTRIES_MAX, ROW, Block, Item, begin_block
from proxy.datatypes.streamgroup import (
    CONSUMER_OVERHEAD,
    DELIVERY_OVERHEAD,
    GROUP_OVERHEAD,
    UNKNOWN,
    Consumer,
    Delivery,
    Group,
)
from proxy.datatypes.undo import UNDO

STREAM_OVERHEAD: Final = 450  # bytes of memory, measured on 64-bit CPython

# Shapes of the packed form.  They stand in stored records: they are never reused.
BLOCKS: Final = 1
ROOT: Final = 2


@mypyc_attr(acyclic=True)
class Stream(Chunked):
    """One stream."""

    def __init__(self) -> None:
        self.size: int = STREAM_OVERHEAD
        self.length: int = 0
        self.last: bytes = streamid.FIRST  # the largest id that was ever given
        self.max_deleted: bytes = streamid.FIRST  # the largest id that XDEL took out
        self.added: int = 0  # entries, since it was made
        self.groups: dict[bytes, Group] = {}
        self._blocks: list[Block] = []
        self._firsts: list[bytes] = []  # the id that each block begins with

    def __len__(self) -> int:
        return self.length

    def encoding(self) -> bytes:
        return b"stream"

    # Entries

    @property
    def blocks(self) -> int:
        """How many there are: the nodes of Redis' radix tree that hold entries."""
        blocks = len(self._blocks)
        if self.chunked:
            blocks += sum(
                [shelf.pieces - 1 for block in self._blocks if (shelf := block.shelf) and shelf.away]
            )
        return blocks

    def first(self) -> bytes:
        """The id of the first entry, 0-0 if there is none."""
        for block in self._blocks:
            shelf = block.shelf
            if shelf is not None and shelf.away and shelf.count:
                return _Meta.of(shelf).head
            if block.index:  # one of which all has been trimmed may stand in front
                return block.id(0)
        return streamid.FIRST

    def top(self) -> bytes:
        """The id of the last entry, 0-0 if there is none."""
        for number in range(len(self._blocks) - 1, -1, -1):
            block = self._blocks[number]
            shelf = block.shelf
            if shelf is not None and shelf.away and shelf.count:
                return _Meta.of(shelf).tail
            if block.index:
                return block.id(block.count - 1)
        return streamid.FIRST

    def next_id(self, now: int) -> bytes | None:
        """The id of an entry that is added at ``now`` (ms); None if there are no more."""
        return streamid.make(now, 0) if now > streamid.split(self.last)[0] else streamid.after(self.last)

    def cost(self, items: list[bytes]) -> int:
        """Bytes of memory, at most, of an entry of such fields and values."""
        return BLOCK_OVERHEAD + ROW + 1 + sum(map(len, items)) + 5 * len(items)

    def append(self, id: bytes, items: list[bytes]) -> None:
        """Add an entry whose id is larger than ``last``: fields and values in turns, at least one of each."""
        block = self._blocks[-1] if self._blocks else None
        if block is not None and block.away:
            self.need([block])
        if UNDO.open:
            self._keep()
        if block is not None and block.takes(sum(map(len, items))):
            self.give_up(block)
            self.size -= block.size
            block.append(id, items)
        else:
            block = begin_block(id, items)
            if UNDO.open:
                self._keep_blocks(len(self._blocks), len(self._blocks), 1)
            self._blocks.append(block)
            self._firsts.append(id)
        self.size += block.size
        self.last = id
        self.length += 1
        self.added += 1

    def _block(self, id: bytes) -> int:
        """The number of the block that holds an id, if one does; 0 for what is before all."""
        return max(bisect_right(self._firsts, id) - 1, 0)

    def get(self, id: bytes) -> list[bytes] | None:
        """An entry's fields and values."""
        if not self._blocks:
            return None
        if self.chunked:
            self.need_ids([id])
        block = self._blocks[self._block(id)]
        number = block.find(id)
        found = number < block.count and block.id(number) == id
        return block.rows(number, number + 1)[0][1] if found else None

    def has(self, id: bytes) -> bool:
        if not self._blocks:
            return False
        if self.chunked:
            self.need_ids([id])
        block = self._blocks[self._block(id)]
        number = block.find(id)
        return number < block.count and block.id(number) == id

    def range(self, start: bytes, end: bytes, count: int = 0) -> list[Item]:
        """Entries from the id ``start`` to ``end``, both included; at most ``count``, unless it is 0."""
        found: list[Item] = []
        if self.chunked:
            self.need_range(start, end, count, False)
        number = self._block(start)
        while number < len(self._blocks):
            block = self._blocks[number]
            if block.away:  # nothing of it is in the range
                if block.first > end:
                    break
                number += 1
                continue
            at, stop = block.find(start), block.find_after(end)
            if count:
                stop = min(stop, at + count - len(found))
            found += block.rows(at, stop)
            if stop < block.count or (count and len(found) == count):
                break
            number += 1
        return found

    def reverse_range(self, start: bytes, end: bytes, count: int = 0) -> list[Item]:
        """As ``range``, from the last one on."""
        found: list[Item] = []
        if self.chunked:
            self.need_range(start, end, count, True)
        number = self._block(end) if self._blocks else -1
        while number >= 0:
            block = self._blocks[number]
            if block.away:  # as above
                if block.last < start:
                    break
                number -= 1
                continue
            at, stop = block.find(start), block.find_after(end)
            if count:
                at = max(at, stop - count + len(found))
            found += block.rows(at, stop)[::-1]
            if at or (count and len(found) == count):
                break
            number -= 1
        return found

    def count_after(self, id: bytes, enough: int) -> int:
        """How many entries have a larger id; at most ``enough``, unless that is 0."""
        counted = 0
        following = streamid.after(id)
        if following is None:
            return 0
        for number in range(self._block(following), len(self._blocks)):
            block = self._blocks[number]
            if block.away and block.first < following <= block.last:
                self.need([block])
            if not block.away:
                counted += block.count - (0 if counted else block.find(following))
            elif block.first >= following:
                counted += block.count
            if enough and counted >= enough:
                return enough
        return counted

    def delete(self, id: bytes) -> bool:
        """Take out an entry; whether it was there."""
        if not self.has(id):
            return False
        if UNDO.open:
            self._keep()
        at = self._block(id)
        block = self._blocks[at]
        self.give_up(block)
        self.size -= block.size
        if block.count == 1:
            if UNDO.open:
                self._keep_blocks(at, at + 1, 0)
            del self._blocks[at]
            del self._firsts[at]
        else:
            block.remove(block.find(id), 1)
            self.size += block.size
        self.length -= 1
        self.max_deleted = max(self.max_deleted, id)
        return True

    def trim_to(self, length: int, approximate: bool, limit: int) -> int:
        """Let go of the first entries until ``length`` are left: how many went.

        Whole blocks only, if ``approximate`` (as many as fit), and ``limit`` entries at most, unless it is 0.
        """
        return self._cut(*self.plan_to(length, approximate, limit, 0))

    def plan_to(self, length: int, approximate: bool, limit: int, more: int) -> tuple[int, int]:
        """What ``trim_to`` lets go of once ``more`` entries were added: blocks, and entries of the next."""
        left = self.length + more
        whole = part = 0
        for block in self._blocks:
            if left <= length:
                break
            over = limit != 0 and self.length + more - left + block.count > limit
            if block.away and (over or left - block.count < length or _is_nested(block)):
                self.need([block])
            if over:
                break
            if left - block.count < length:
                part = 0 if approximate else left - length
                break
            left -= block.count
            whole += 1
        return whole, part

    def trim_before(self, id: bytes, approximate: bool, limit: int) -> int:
        """As ``trim_to``, of all entries with smaller ids."""
        return self._cut(*self.plan_before(id, approximate, limit))

    def plan_before(self, id: bytes, approximate: bool, limit: int) -> tuple[int, int]:
        """As ``plan_to``."""
        gone = whole = part = 0
        for block in self._blocks:
            over = limit != 0 and gone + block.count > limit
            if block.away and block.first < id and (over or id <= block.last or _is_nested(block)):
                self.need([block])
            if over:
                break
            if block.last >= id:
                part = 0 if approximate or block.away else block.find(id)
                break
            gone += block.count
            whole += 1
        return whole, part

    def _cut(self, whole: int, part: int) -> int:
        """Let go of the first blocks, and of the first entries of the next one."""
        if UNDO.open:
            self._keep()
            self._keep_blocks(0, whole, 0)
        gone = part
        for block in self._blocks[: whole + (1 if part else 0)]:
            self.give_up(block)
        for block in self._blocks[:whole]:
            gone += block.count
            self.size -= block.size
        del self._blocks[:whole]
        del self._firsts[:whole]
        if part:
            block = self._blocks[0]
            self.size -= block.size
            block.remove(0, part)
            self.size += block.size
        self.length -= gone
        return gone

    def set_ids(self, last: bytes, added: int, max_deleted: bytes) -> None:
        """Have it that so many entries were added, up to one, and some deleted, up to another."""
        if UNDO.open:
            self._keep()
        self.last = last
        self.added = added
        self.max_deleted = max_deleted

    def _keep(self) -> None:
        """Have it undone what is about to be done, but for what blocks and groups see to."""
        if UNDO.first(self):
            UNDO.step(self._restore, self.size, self.length, self.last, self.max_deleted, self.added)

    def _restore(self, size: int, length: int, last: bytes, max_deleted: bytes, added: int) -> None:
        self.size = size
        self.length = length
        self.last = last
        self.max_deleted = max_deleted
        self.added = added

    def _keep_blocks(self, first: int, end: int, count: int) -> None:
        """The blocks from ``first`` to before ``end`` are about to be replaced by ``count`` others."""
        UNDO.splice(self._blocks, first, count, self._blocks[first:end])
        UNDO.splice(self._firsts, first, count, self._firsts[first:end])

    # Groups

    def create_group(self, name: bytes, last: bytes, entries_read: int) -> Group:
        """A new one, whose name is not taken."""
        if UNDO.open:
            self._keep()
            UNDO.step(self.groups.pop, name, None)
        group = self.groups[name] = Group(last, entries_read)
        self.size += GROUP_OVERHEAD + len(name)
        return group

    def destroy_group(self, name: bytes) -> bool:
        """Whether it was there."""
        if UNDO.open:
            self._keep()
            UNDO.keep(self.groups)
        group = self.groups.pop(name, None)
        if group is None:
            return False
        self.size -= GROUP_OVERHEAD + len(name) + DELIVERY_OVERHEAD * len(group.pending)
        for consumer in group.consumers:
            self.size -= CONSUMER_OVERHEAD + len(consumer)
        return True

    def create_consumer(self, group: Group, name: bytes, now: int) -> Consumer:
        """A new one, whose name is not taken."""
        if UNDO.open:
            self._keep()
            UNDO.step(group.consumers.pop, name, None)
        consumer = group.consumers[name] = Consumer(name, now)
        self.size += CONSUMER_OVERHEAD + len(name)
        return consumer

    def delete_consumer(self, group: Group, name: bytes) -> int:
        """Let go of a consumer, which must be there, and of what it has pending: how many."""
        if UNDO.open:
            self._keep()
            UNDO.keep(group.consumers)
        consumer = group.consumers.pop(name)
        for id, _ in consumer.pending.walk(streamid.FIRST):
            group.pending.remove(id)
        pending = len(consumer.pending)
        self.size -= CONSUMER_OVERHEAD + len(name) + DELIVERY_OVERHEAD * pending
        return pending

    def deliver(self, group: Group, consumer: Consumer, id: bytes, now: int) -> Delivery:
        """An entry is given to a consumer for the first time, whoever has it."""
        if UNDO.open:
            self._keep()
        delivery = group.pending.get(id)
        if delivery is None:
            delivery = Delivery(consumer.name, now, 1)
            group.give(id, delivery)
            self.size += DELIVERY_OVERHEAD
        else:
            group.hand_over(id, delivery, consumer)
            delivery.set(now, 1)
        return delivery

    def acknowledge(self, group: Group, id: bytes) -> bool:
        """An entry is pending no more; whether it was."""
        if UNDO.open:
            self._keep()
        if not group.take(id):
            return False
        self.size -= DELIVERY_OVERHEAD
        return True

    def read_up_to(self, group: Group, id: bytes) -> None:
        """The group is given the entry that follows those which it has been given."""
        read = group.entries_read
        if read != UNKNOWN and not self._deleted_after(id):
            read += 1
        elif self.added:
            read = self.entries_up_to(id)
        group.set(id, read)

    def _deleted_after(self, id: bytes) -> bool:
        """Whether XDEL may have taken out an entry from this one on."""
        if not self.length or self.first() > self.max_deleted:
            return False
        return id <= self.max_deleted

    def entries_up_to(self, id: bytes) -> int:
        """How many entries were ever added until this one, if that can be told, else ``UNKNOWN``."""
        if not self.added:
            return 0
        if not self.length and id <= self.last:
            return self.added
        if id == self.last:
            return self.added
        if id > self.last:
            return UNKNOWN
        first = self.first()
        if self.max_deleted == streamid.FIRST or self.max_deleted < first:
            if id < first:
                return self.added - self.length
            if id == first:
                return self.added - self.length + 1
        return UNKNOWN

    def lag(self, group: Group) -> int | None:
        """Entries that the group is still to be given, if that can be told."""
        if not self.added:
            return 0
        if group.entries_read != UNKNOWN and not self._deleted_after(group.last):
            return self.added - group.entries_read
        read = self.entries_up_to(group.last)
        return None if read == UNKNOWN else self.added - read

    # The whole

    def copy(self) -> Stream:
        self.whole()
        other = Stream()
        other.size = self.size
        other.length = self.length
        other.last = self.last
        other.max_deleted = self.max_deleted
        other.added = self.added
        other.groups = {name: group.copy() for name, group in self.groups.items()}
        other._blocks = [block.copy() for block in self._blocks]
        other._firsts = self._firsts[:]
        return other

    def dismantle(self, count: int) -> bool:
        while self._blocks and count > 0:
            self._blocks.pop()
            self._firsts.pop()
            count -= ENTRIES_MAX
        while self.groups and count > 0:
            count -= self._dismantle_groups()
        return bool(self._blocks or self.groups)

    def _dismantle_groups(self) -> int:
        name, group = next(iter(self.groups.items()))
        gone = group.pending.dismantle()
        if gone:
            return gone
        if group.consumers:
            consumer = next(iter(group.consumers.values()))
            gone = consumer.pending.dismantle()
            if not gone:
                del group.consumers[consumer.name]
            return gone + 1
        del self.groups[name]
        return 1

    def pack(self) -> bytes:
        """A msgpack array, which later shapes may make longer:

        - ``BLOCKS``, last id, largest deleted id (16 bytes each), entries ever added;
        - blocks, each an array: its first and last id, deleted entries, bytes of Redis' listpack, and as they
          are in memory: fields, index, shift and data (see ``Block``);
        - groups, each an array: name, last id, entries read; consumers, each an array of name and time (ms)
          when it was last seen; and of what is pending the ids one after the other, the numbers of the
          consumers among those, the times (ms) and counts of delivery.
        """
        self.whole()
        blocks = [block.parts() for block in self._blocks]
        groups = [_pack_group(name, group) for name, group in self.groups.items()]
        return msgspec.msgpack.encode((BLOCKS, self.last, self.max_deleted, self.added, blocks, groups))

    # Chunks

    def need_ids(self, ids: list[bytes]) -> None:
        """Raise NeedChunks unless the entries with these ids are loaded, if there are any."""
        if not self.chunked or not self._blocks:
            return
        missing: dict[int, Block] = {}
        for id in ids:
            number = self._block(id)
            block = self._blocks[number]
            if block.away and block.first <= id <= block.last:
                missing[number] = block
        self.need(list(missing.values()))

    def need_range(self, start: bytes, end: bytes, count: int, reverse: bool) -> None:
        """Raise NeedChunks unless all is loaded that ``range``, or ``reverse_range``, looks at."""
        if not self.chunked:
            return
        missing: list[Block] = []
        sure = 0  # entries that will be found
        number = self._block(end if reverse else start)
        while 0 <= number < len(self._blocks) and not (count and sure >= count):
            block = self._blocks[number]
            if (block.last < start) if reverse else (block.first > end):
                break
            if block.away and block.first <= end and block.last >= start:
                missing.append(block)
            if start <= block.first and block.last <= end:
                sure += block.count
            elif not block.away:
                sure += block.find_after(end) - block.find(start)
            number += -1 if reverse else 1
        if reverse:
            missing.reverse()
        self.need(missing)

    def _pieces(self) -> Sequence[Piece]:
        return self._blocks

    def _replace(self, at: int, pieces: Sequence[Piece]) -> None:
        self.size -= self._blocks[at].size
        blocks: list[Block] = []
        for piece in pieces:
            assert isinstance(piece, Block)
            self.size += piece.size
            blocks.append(piece)
        self._blocks[at : at + 1] = blocks
        self._firsts[at : at + 1] = [block.first for block in blocks]

    def _piece(self, parts: Sequence[Any]) -> Piece:
        return Block(*parts)

    def _stand_in(self, shelf: Shelf) -> Piece:
        meta = _Meta.of(shelf)
        block = Block(meta.first, meta.last, 0, 0, b"", b"", 0, b"")
        block.shelf = shelf
        return block

    def _meta(self, pieces: Sequence[Piece]) -> bytes:
        first = last = head = tail = b""
        for piece in pieces:
            assert isinstance(piece, Block)
            first, last = first or piece.first, piece.last
            if piece.index:
                head, tail = head or piece.id(0), piece.id(piece.count - 1)
        return first + last + (head or first) + (tail or first)

    def _joined(self, shelves: Sequence[Shelf]) -> bytes:
        metas = [_Meta.of(shelf) for shelf in shelves]
        filled = [meta for meta, shelf in zip(metas, shelves, strict=True) if shelf.count] or metas
        return metas[0].first + metas[-1].last + filled[0].head + filled[-1].tail

    def pack_root(self) -> bytes:
        """As ``pack``, with ``ROOT``; references to chunks stand among the blocks (``chunking``)."""
        groups = [_pack_group(name, group) for name, group in self.groups.items()]
        return msgspec.msgpack.encode((ROOT, self.last, self.max_deleted, self.added, self.items(), groups))


class _Meta:
    """What a stream knows of a chunk that is not loaded."""

    def __init__(self, packed: bytes) -> None:
        size = streamid.SIZE
        self.first: bytes = packed[:size]  # id with which its first block begins
        self.last: bytes = packed[size : 2 * size]  # the last one of its last block
        self.head: bytes = packed[2 * size : 3 * size]  # of the first entry that is there
        self.tail: bytes = packed[3 * size :]  # of the last one

    @classmethod
    def of(cls, shelf: Shelf) -> _Meta:
        return _Meta(shelf.meta)


def _is_nested(block: Block) -> bool:
    """Whether it stands for a chunk of chunks: these must be known before they can go."""
    return block.shelf is not None and block.shelf.level > 1


def _pack_group(name: bytes, group: Group) -> tuple[object, ...]:
    numbers = {consumer: number for number, consumer in enumerate(group.consumers)}
    ids: list[bytes] = []
    owners: list[int] = []
    times: list[int] = []
    counts: list[int] = []
    for id, delivery in group.pending.walk(streamid.FIRST):
        ids.append(id)
        owners.append(numbers[delivery.consumer])
        times.append(delivery.at)
        counts.append(delivery.count)
    consumers = [(consumer.name, consumer.seen_at) for consumer in group.consumers.values()]
    return name, group.last, group.entries_read, consumers, b"".join(ids), owners, times, counts


def unpack(raw: bytes) -> Stream:
    return _unpack(raw, BLOCKS)


def unpack_root(raw: bytes) -> Stream:
    """The stream of which this is the root, without its chunks."""
    return _unpack(raw, ROOT)


def _unpack(raw: bytes, shape: int) -> Stream:
    # What msgspec makes of it is typed by what ``pack`` says.
    found: list[Any] = msgspec.msgpack.decode(raw)
    if found[0] != shape:
        raise ValueError(f"a stream of shape {found[0]} is not known to this version")
    stream = Stream()
    stream.chunked = shape == ROOT
    stream.last = found[1]
    stream.max_deleted = found[2]
    stream.added = found[3]
    for block in stream.made_of(found[4]):
        assert isinstance(block, Block)
        stream._blocks.append(block)
        stream._firsts.append(block.first)
        stream.length += block.count
        stream.size += block.size
    for name, last, entries_read, consumers, ids, owners, times, counts in found[5]:
        group = stream.create_group(name, last, entries_read)
        made = [stream.create_consumer(group, consumer, seen_at) for consumer, seen_at in consumers]
        for number, owner in enumerate(owners):
            id = ids[number * streamid.SIZE : (number + 1) * streamid.SIZE]
            stream.deliver(group, made[owner], id, times[number]).count = counts[number]
    return stream
