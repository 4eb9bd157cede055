"""Sorted sets: members with scores, found by name and in order of score, then of name.

Few and short members are kept in one byte string, in order, each as one byte of length, its bytes, and its
score, eight bytes.  Larger ones are a ``Table`` of scores by name beside an ``Ordered``.

The stored form is one byte for the shape, 1 for the packed one and 2 for the other, and then all members in
order: the length, seven bits a byte, lowest first; the bytes; the score as a double of IEEE 754, lowest byte
first.  So a packed set is stored as it is.
"""

from __future__ import annotations

import random
from typing import Final, cast

from librt.strings import BytesWriter, read_f64_le, write_f64_le
from mypy_extensions import i64, mypyc_attr

from proxy.datatypes import packed
from proxy.datatypes.collection import Collection
from proxy.datatypes.ordered import Ordered
from proxy.datatypes.table import DICT_OVERHEAD, SLOT_SIZE, Table
from proxy.datatypes.undo import UNDO

PACKED_MAX: Final = 128  # members: the default of Redis' zset-max-listpack-entries
MEMBER_MAX: Final = 64  # bytes of a packed member: zset-max-listpack-value; one byte holds a length up to 255

PACKED: Final = 1  # shapes, as they are stored
LARGE: Final = 2

SCORE_SIZE: Final = 8
# Bytes of memory, measured on 64-bit CPython, compiled.
OVERHEAD: Final = 120  # of the object, with an empty byte string
LARGE_OVERHEAD: Final = OVERHEAD + DICT_OVERHEAD + 560  # with an empty table and one block
# Of a member: two object headers (the score's is all there is of it), a slot, and places in two lists.
MEMBER_OVERHEAD: Final = 33 + 24 + SLOT_SIZE + 24


@mypyc_attr(acyclic=True)  # smaller, without the collector's header
class ZSet(Collection):
    """A sorted set.  Scores are doubles, never NaN; ranks count from 0, the lowest score."""

    def __init__(self) -> None:
        self.size: int = OVERHEAD
        self._data: bytes = b""
        self._order: Ordered | None = None  # None: packed
        self._table: Table[object] | None = None

    def __len__(self) -> int:
        order = self._order
        if order is not None:
            return order.count
        data = self._data
        count: i64 = 0
        at: i64 = 0
        end: i64 = len(data)
        while at < end:
            at += data[at] + (1 + SCORE_SIZE)
            count += 1
        return count

    def empty(self) -> bool:
        return not self._data and (self._order is None or not self._order.count)

    def packed(self) -> bool:
        return self._order is None

    def encoding(self) -> bytes:
        return b"listpack" if self._order is None else b"skiplist"

    def copy(self) -> ZSet:
        other = ZSet()
        other.size = self.size
        other._data = self._data
        if self._order is not None and self._table is not None:
            other._order = self._order.copy()
            other._table = self._table.copy()
        return other

    def pack(self) -> bytes:
        order = self._order
        if order is None:
            return b"\x01" + self._data
        out = BytesWriter()
        out.append(LARGE)
        members, scores = order.slice(0, order.count)
        for member, score in zip(members, scores, strict=True):
            out.write(packed.head(len(member)))
            out.write(member)
            write_f64_le(out, cast(float, score))
        return out.getvalue()

    def dismantle(self, count: int) -> bool:
        order, table = self._order, self._table
        if order is None or table is None:
            return False
        return order.dismantle(count) or table.dismantle(count)

    def growth(self, count: int, size: int) -> int:
        """Bytes by which it grows at most that gets so many members, of so many bytes together."""
        if self._order is not None:
            return count * MEMBER_OVERHEAD + size
        own = len(self._data)
        most = own // (1 + SCORE_SIZE) + count  # members, were all names empty
        if most > PACKED_MAX or size > MEMBER_MAX:  # it may have to leave the packed form
            return LARGE_OVERHEAD + most * MEMBER_OVERHEAD + size
        return count * (1 + SCORE_SIZE) + size + (0 if own else OVERHEAD)

    # By name

    def score(self, member: bytes) -> float | None:
        return cast("float | None", self.boxed_score(member))

    def boxed_score(self, member: bytes) -> object:
        """The score, or None: as an object, which compiled code then need not make."""
        table = self._table
        if table is not None:
            return table.get(member)
        at = _find(self._data, member)
        return None if at < 0 else read_f64_le(self._data, at + 1 + len(member))

    def put(self, member: bytes, score: float) -> None:
        """Add a member, or give it another score."""
        if UNDO.open:
            self._keep()
        order, table = self._order, self._table
        if order is None or table is None:
            self._put_packed(member, score)
            return
        boxed: object = score
        old = table.get(member)
        if old is None:
            order.insert(member, score, boxed)
            self.size += MEMBER_OVERHEAD + len(member)
        else:
            was = cast(float, old)
            if was == score:
                return
            member = order.remove(member, was)
            order.insert(member, score, boxed)
        table.put(member, boxed)

    def remove(self, member: bytes) -> bool:
        """Whether it was there."""
        if UNDO.open:
            self._keep()
        order, table = self._order, self._table
        if order is None or table is None:
            at = _find(self._data, member)
            if at < 0:
                return False
            self._set_data(self._data[:at] + self._data[at + len(member) + (1 + SCORE_SIZE) :])
            return True
        score = table.get(member)
        if score is None:
            return False
        order.remove(member, cast(float, score))
        table.remove(member)
        self.size -= MEMBER_OVERHEAD + len(member)
        return True

    def rank(self, member: bytes) -> int:
        """How many come before it; -1 if it is not there."""
        order, table = self._order, self._table
        if order is not None and table is not None:
            score = table.get(member)
            return -1 if score is None else order.rank(member, cast(float, score))
        found = _find(self._data, member)
        if found < 0:
            return -1
        rank: i64 = 0
        at: i64 = 0
        while at < found:
            at += self._data[at] + (1 + SCORE_SIZE)
            rank += 1
        return rank

    # In order

    def slice(self, start: int, stop: int) -> tuple[list[bytes], list[object]]:
        """Members and scores of the ranks from ``start`` to before ``stop``."""
        order = self._order
        if order is not None:
            return order.slice(start, stop)
        data = self._data
        members: list[bytes] = []
        scores: list[object] = []
        first: i64 = start
        last: i64 = stop
        rank: i64 = 0
        at: i64 = 0
        end: i64 = len(data)
        while at < end and rank < last:
            tail: i64 = at + 1 + data[at]
            if rank >= first:
                members.append(data[at + 1 : tail])
                scores.append(read_f64_le(data, tail))
            at = tail + SCORE_SIZE
            rank += 1
        return members, scores

    def elements(self) -> list[bytes]:
        return self.items()[0]

    def items(self) -> tuple[list[bytes], list[object]]:
        """All members and scores."""
        return self.slice(0, len(self))

    def cut(self, start: int, stop: int) -> None:
        """Remove the ranks from ``start`` to before ``stop``."""
        if UNDO.open:
            self._keep()
        order, table = self._order, self._table
        if order is None or table is None:
            begin, end = self._offset(start), self._offset(stop)
            if begin < end:
                self._set_data(self._data[:begin] + self._data[end:])
            return
        for member in order.cut(start, stop):
            table.remove(member)
            self.size -= MEMBER_OVERHEAD + len(member)

    def rank_of_score(self, score: float, after: bool) -> int:
        """How many have a score below ``score``; ``after``: or equal to it."""
        order = self._order
        if order is not None:
            return order.rank_of_score(score, after)
        data = self._data
        rank: i64 = 0
        at: i64 = 0
        end: i64 = len(data)
        while at < end:
            tail: i64 = at + 1 + data[at]
            each = read_f64_le(data, tail)
            if each > score or (each == score and not after):
                break
            at = tail + SCORE_SIZE
            rank += 1
        return rank

    def rank_of_name(self, name: bytes, after: bool) -> int:
        """How many members are below ``name`` (``after``: or equal to it), where all scores are equal.

        Where they are not, it is the rank of the first that is not below, as far as the set is packed.
        """
        order = self._order
        if order is not None:
            return order.rank_of_name(name, after)
        members, _ = self.items()
        for rank, member in enumerate(members):
            if member > name or (member == name and not after):
                return rank
        return len(members)

    # Any

    def random(self) -> bytes:
        """A member, each as likely as another; there must be one."""
        rank = random.randrange(len(self))
        return self.slice(rank, rank + 1)[0][0]

    def pick(self, ranks: list[int]) -> tuple[list[bytes], list[object]]:
        """Members and scores of some ranks."""
        order = self._order
        if order is None:
            members, scores = self.items()
            return [members[rank] for rank in ranks], [scores[rank] for rank in ranks]
        found: list[bytes] = []
        theirs: list[object] = []
        for rank in ranks:
            member, score = order.slice(rank, rank + 1)
            found += member
            theirs += score
        return found, theirs

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """Members from a position on, as ``Table.scan``; a packed set is met at once."""
        table = self._table
        return (0, self.items()[0]) if table is None else table.scan(cursor, count)

    def _keep(self) -> None:
        """Have it undone what is about to be done, but for what the order and the table see to."""
        if UNDO.first(self):
            UNDO.step(self._restore, self.size, self._data, self._order, self._table)

    def _restore(self, size: int, data: bytes, order: Ordered | None, table: Table[object] | None) -> None:
        self.size = size
        self._data = data
        self._order = order
        self._table = table

    # The packed form

    def _put_packed(self, member: bytes, score: float) -> None:
        data = self._data
        size = len(member)
        at = _find(data, member)
        if at >= 0:
            tail = at + 1 + size
            if read_f64_le(data, tail) == score:
                return
            data = data[:at] + data[tail + SCORE_SIZE :]
        elif size > MEMBER_MAX or len(self) >= PACKED_MAX:
            self.expand()
            self.put(member, score)
            return
        place = _place(data, member, score)
        out = BytesWriter()
        out.write(data[:place])
        out.append(size)
        out.write(member)
        write_f64_le(out, score + 0.0)  # of -0, 0 is kept, as in Redis' packed form
        out.write(data[place:])
        self._set_data(out.getvalue())

    def _set_data(self, data: bytes) -> None:
        self.size += len(data) - len(self._data)
        self._data = data

    def _offset(self, rank: int) -> int:
        """Where a rank begins in the packed form."""
        data = self._data
        at: i64 = 0
        end: i64 = len(data)
        left: i64 = rank
        while at < end and left > 0:
            at += data[at] + (1 + SCORE_SIZE)
            left -= 1
        return at

    def expand(self) -> None:
        """Leave the packed form: what is to come does not fit into it."""
        if self._order is None:
            if UNDO.open:
                self._keep()
            members, scores = self.items()
            self._data = b""
            self._fill(members, scores)

    def _fill(self, members: list[bytes], scores: list[object]) -> None:
        """Become large, with these members, which are in order."""
        order = Ordered()
        table: Table[object] = Table()
        order.extend(members, scores)
        size = LARGE_OVERHEAD
        for member, score in zip(members, scores, strict=True):
            table.put(member, score)
            size += MEMBER_OVERHEAD + len(member)
        self._order = order
        self._table = table
        self.size = size


def make(scores: dict[bytes, float]) -> ZSet:
    """A set of these members: packed, if they are few and short."""
    pairs = sorted([(score, member) for member, score in scores.items()])
    return of_order([member for _, member in pairs], [score for score, _ in pairs], False)


def of_order(members: list[bytes], scores: list[object], large: bool) -> ZSet:
    """As ``make``, of members that are in order; ``large``: in any case not packed."""
    made = ZSet()
    if large or len(members) > PACKED_MAX or max(map(len, members), default=0) > MEMBER_MAX:
        made._fill(members, scores)
    else:
        out = BytesWriter()
        for member, score in zip(members, scores, strict=True):
            out.append(len(member))
            out.write(member)
            write_f64_le(out, cast(float, score) + 0.0)
        made._set_data(out.getvalue())
    return made


def of_texts(words: list[bytes]) -> ZSet:
    """The set that a Redis has told of by its members, each followed by its score, in order."""
    return of_order(words[::2], [float(text) for text in words[1::2]], False)


def unpack(raw: bytes) -> ZSet:
    """The set of which ``pack`` gave these bytes; raises ValueError for what it does not give."""
    shape = raw[0] if raw else 0
    if shape == PACKED:
        made = ZSet()
        made._set_data(raw[1:])
        return made
    if shape != LARGE:
        raise ValueError(f"a sorted set of the unknown shape {shape}")
    members: list[bytes] = []
    scores: list[object] = []
    at: i64 = 1
    end: i64 = len(raw)
    while at < end:
        size: i64 = raw[at]
        at += 1
        if size >= 128:
            size &= 127
            shift: i64 = 7
            while True:
                more: i64 = raw[at]
                at += 1
                size |= (more & 127) << shift
                if more < 128:
                    break
                shift += 7
        tail = at + size
        members.append(raw[at:tail])
        scores.append(read_f64_le(raw, tail))
        at = tail + SCORE_SIZE
    return of_order(members, scores, True)


def _find(data: bytes, member: bytes) -> i64:
    """Where a member's entry begins in the packed form; -1 if it is not there."""
    size: i64 = len(member)
    at: i64 = 0
    end: i64 = len(data)
    if not size:
        while at < end:
            if not data[at]:
                return at
            at += data[at] + (1 + SCORE_SIZE)
        return -1
    # Names that are alike mostly differ at their end.
    last: i64 = member[size - 1]
    while at < end:
        length: i64 = data[at]
        if length == size and data[at + size] == last and data.startswith(member, at + 1):
            return at
        at += length + (1 + SCORE_SIZE)
    return -1


def _place(data: bytes, member: bytes, score: float) -> i64:
    """Where the entry of a member that is not there would begin."""
    at: i64 = 0
    end: i64 = len(data)
    while at < end:
        tail: i64 = at + 1 + data[at]
        each = read_f64_le(data, tail)
        if each > score or (each == score and data[at + 1 : tail] > member):
            break
        at = tail + SCORE_SIZE
    return at
