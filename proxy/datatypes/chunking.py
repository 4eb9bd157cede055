"""Collections that a store may keep in chunks, so that a change costs what it touches, whatever their size.

Such a collection is a sequence of *pieces*.  Pieces that lie side by side, and are not likely to change, go
together into a chunk; chunks that lie side by side go together into one of the next level, and so on.  What
is in none, and the chunks that are in no other, are the *root*, which so has some dozens of them at most.

A chunk is never changed.  When one of its pieces is about to, it is given up, and all chunks around it: what
was in it is in the root again, until it is divided the next time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

import msgspec
from mypy_extensions import mypyc_attr

from proxy.datatypes.collection import Collection
from proxy.datatypes.undo import UNDO
from proxy.errors import NeedKeys

FAN: Final = 8  # chunks that go together into one; twice as many less one may lie in a row
REF: Final = 9  # members of a reference to a chunk; no piece has as many
REF_OVERHEAD: Final = 580  # bytes of memory of a chunk that is not loaded: a Shelf, and what stands for it


@mypyc_attr(acyclic=True)
class Shelf:
    """A chunk: pieces, or chunks of the level below, that lie side by side.

    A store keeps it by itself and never changes it: it is replaced.
    """

    id: int = 0  # names it in its store; 0: it was given up
    digest: bytes = b""  # of what is stored of it
    length: int = 0  # bytes of its raw form

    def __init__(self, level: int, count: int, pieces: int, memory: int, meta: bytes) -> None:
        self.level: int = level  # 1: of pieces
        self.count: int = count  # elements
        self.pieces: int = pieces
        self.memory: int = memory  # bytes that these take when they are loaded
        self.meta: bytes = meta  # what else the type must know of it while it is not loaded
        self.total: int = 0  # bytes of its raw form and of those of all chunks in it
        self.away: bool = False  # it is not loaded: one piece stands for all of its own
        self.parent: Shelf | None = None
        self._packed: bytes = b""  # until it is stored
        self._within: list[Shelf] = []  # the same

    def take(self, packed: bytes) -> None:
        """Be a chunk of pieces."""
        self._packed = packed
        self.length = self.total = len(packed)

    def hold(self, shelves: list[Shelf]) -> None:
        """Be one of chunks, whose ids and digests are known when it is stored."""
        self._within = shelves
        for shelf in shelves:
            shelf.parent = self

    def raw(self) -> bytes:
        """What is to be stored of it, once."""
        packed, self._packed = self._packed, b""
        if self._within:
            packed = msgspec.msgpack.encode([shelf.ref() for shelf in self._within])
            self.length = len(packed)
            self.total = self.length + sum([shelf.total for shelf in self._within])
            self._within = []
        return packed

    def ref(self) -> tuple[int, int, bytes, int, int, int, int, int, bytes]:
        """What names it, in its root or in the chunk that it is in."""
        return (
            *(self.level, self.id, self.digest, self.length, self.total),
            *(self.count, self.pieces, self.memory, self.meta),
        )


def referred(ref: Sequence[Any]) -> Shelf:
    """The chunk to which this refers, not loaded."""
    level, id, digest, length, total, count, pieces, memory, meta = ref
    shelf = Shelf(level, count, pieces, memory, meta)
    shelf.id = id
    shelf.digest = digest
    shelf.length = length
    shelf.total = total
    shelf.away = True
    return shelf


@mypyc_attr(acyclic=True)
class Piece:
    """Elements that lie side by side, or what stands for a chunk that is not loaded (``away``)."""

    shelf: Shelf | None = None  # the chunk that it is in, or was

    @property
    def away(self) -> bool:
        return self.shelf is not None and self.shelf.away

    def top(self) -> Shelf | None:
        """The largest chunk that it is in."""
        found: Shelf | None = None
        shelf = self.shelf
        while shelf is not None and shelf.id:
            found = shelf
            shelf = shelf.parent
        return found

    @abstractmethod
    def elements(self) -> int:
        """How many it has."""

    @abstractmethod
    def memory(self) -> int:
        """Bytes that it takes."""

    @abstractmethod
    def weight(self) -> int:
        """Bytes of its packed form, about."""

    @abstractmethod
    def parts(self) -> tuple[object, ...]:
        """What it is packed as."""


class NeedChunks(NeedKeys):
    """A handler needs chunks of a collection that are not loaded, and has not changed it."""

    def __init__(self, value: Chunked, chunks: Sequence[Shelf]) -> None:
        super().__init__(0, [], 0)
        self.value: Chunked = value
        self.chunks: Sequence[Shelf] = chunks


@mypyc_attr(acyclic=True)
class Chunked(Collection):
    """A collection of pieces.  What needs one that is not loaded raises NeedChunks and changes nothing."""

    dropped: list[int] | None = None  # ids of chunks that were given up since it was divided last
    _tops: list[Shelf] | None = None  # of the root, if nothing that is in none lies between them
    _filled: int = 0  # where the chunk ends that was loaded last

    @abstractmethod
    def _pieces(self) -> Sequence[Piece]: ...

    @abstractmethod
    def _replace(self, at: int, pieces: Sequence[Piece]) -> None:
        """Have pieces where one stood for them."""

    @abstractmethod
    def _piece(self, parts: Sequence[Any]) -> Piece:
        """What was packed as this."""

    @abstractmethod
    def _stand_in(self, shelf: Shelf) -> Piece:
        """A piece for a chunk that is not loaded."""

    def _meta(self, pieces: Sequence[Piece]) -> bytes:
        """What is to be known of pieces while they are not loaded."""
        return b""

    def _joined(self, shelves: Sequence[Shelf]) -> bytes:
        """The same of chunks, by what is known of each."""
        return b""

    def whole(self) -> None:
        if self.chunked:
            self.need(self._pieces())

    def need(self, pieces: Sequence[Piece]) -> None:
        """Raise NeedChunks unless all of these are loaded."""
        missing = [piece.shelf for piece in pieces if piece.shelf is not None and piece.shelf.away]
        if missing:
            raise NeedChunks(self, missing)

    def give_up(self, piece: Piece) -> None:
        """A piece is about to be changed, or removed."""
        shelf = piece.shelf
        while shelf is not None and shelf.id:
            if self.dropped is None:
                self.dropped = []
            if UNDO.open:
                UNDO.step(self._take_back, shelf, shelf.id, self._tops)
            self.dropped.append(shelf.id)
            self._tops = None
            shelf.id = 0
            shelf = shelf.parent

    def _take_back(self, shelf: Shelf, id: int, tops: list[Shelf] | None) -> None:
        assert self.dropped is not None
        self.dropped.remove(id)
        shelf.id = id
        self._tops = tops

    def unchunked(self) -> int:
        if not self.chunked:
            return self.size
        pieces = self._pieces()
        if self._tops is None:
            return self.size - sum([piece.memory() for piece in pieces if piece.top() is not None])
        head, tail = self._ends(pieces)
        return sum([piece.memory() for piece in [*pieces[:head], *pieces[tail:]]])

    def unloaded(self) -> int:
        """Of ``size``, bytes that chunks would take which are not loaded."""
        away = [piece.memory() - REF_OVERHEAD for piece in self._pieces() if piece.away]
        return max(sum(away), 0)

    def _ends(self, pieces: Sequence[Piece]) -> tuple[int, int]:
        """Where the chunks begin, and end, if they lie side by side."""
        begin, end = 0, len(pieces)
        while begin < end and pieces[begin].top() is None:
            begin += 1
        while end > begin and pieces[end - 1].top() is None:
            end -= 1
        return begin, end

    @abstractmethod
    def pack_root(self) -> bytes:
        """The form in which it is stored beside its chunks."""

    def divide(self, size: int, next_id: Callable[[], int]) -> list[Shelf]:
        """Have all in chunks of about ``size`` bytes, but for what is likely to change.

        Returns the new ones, each after those that are in it.
        """
        pieces = self._pieces()
        if self._tops is not None:
            head, tail = self._ends(pieces)
            open_ends = max(_weigh(pieces[:head]), _weigh(pieces[tail:]))
            if open_ends <= 3 * (size // 2):
                return []
        new: list[Shelf] = []
        at = 0
        while at < len(pieces):
            end = at
            while end < len(pieces) and pieces[end].top() is None:
                end += 1
            weights = [piece.weight() for piece in pieces[at:end]]
            for begin, stop in plan(weights, size, at == 0, end == len(pieces)):
                shelf = self._shelve(pieces[at + begin : at + stop])
                shelf.id = next_id()
                new.append(shelf)
            at = end + 1
        level = 1
        while self._gather(level, next_id, new):
            level += 1
        self.chunked = self.chunked or bool(new)
        self._tops = self._find_tops()
        return new

    def _shelve(self, pieces: Sequence[Piece]) -> Shelf:
        count, memory = 0, 0
        for piece in pieces:
            count += piece.elements()
            memory += piece.memory()
        shelf = Shelf(1, count, len(pieces), memory, self._meta(pieces))
        shelf.take(msgspec.msgpack.encode([piece.parts() for piece in pieces]))
        for piece in pieces:
            piece.shelf = shelf
        return shelf

    def _gather(self, level: int, next_id: Callable[[], int], new: list[Shelf]) -> bool:
        """Have chunks of one level that lie in a row in chunks of the next; whether there were enough."""
        found = False
        row: list[Shelf] = []
        for piece in [*self._pieces(), None]:
            top = None if piece is None else piece.top()
            if row and top is row[-1]:
                continue
            if top is None or top.level != level:
                row = []
                continue
            row.append(top)
            if len(row) == 2 * FAN:
                within, row = row[:FAN], row[FAN:]
                shelf = Shelf(
                    level + 1,
                    sum([each.count for each in within]),
                    sum([each.pieces for each in within]),
                    sum([each.memory for each in within]),
                    self._joined(within),
                )
                shelf.hold(within)
                shelf.id = next_id()
                new.append(shelf)
                found = True
        return found

    def _find_tops(self) -> list[Shelf] | None:
        pieces = self._pieces()
        begin, end = self._ends(pieces)
        tops: list[Shelf] = []
        for piece in pieces[begin:end]:
            top = piece.top()
            if top is None:
                return None
            if not tops or top is not tops[-1]:
                tops.append(top)
        return tops

    def items(self) -> list[object]:
        """The root's pieces and references to chunks, packed."""
        pieces, tops = self._pieces(), self._tops
        if tops is not None:
            head, tail = self._ends(pieces)
            return [
                *[piece.parts() for piece in pieces[:head]],
                *[top.ref() for top in tops],
                *[piece.parts() for piece in pieces[tail:]],
            ]
        found: list[object] = []
        last: Shelf | None = None
        for piece in pieces:
            top = piece.top()
            if top is None:
                found.append(piece.parts())
            elif top is not last:
                found.append(top.ref())
            last = top
        return found

    def made_of(self, items: Sequence[Sequence[Any]]) -> list[Piece]:
        """The pieces of a root, or of a chunk."""
        return [self._stand_in(referred(item)) if len(item) == REF else self._piece(item) for item in items]

    def chunks_size(self) -> int:
        """Bytes of the raw forms of all chunks."""
        tops = self._tops
        if tops is None:
            known = {id(top): top for piece in self._pieces() if (top := piece.top()) is not None}
            tops = list(known.values())
        return sum([top.total for top in tops])

    def missing(self) -> list[Shelf]:
        """Chunks that are not loaded; there may be others within them."""
        return [piece.shelf for piece in self._pieces() if piece.shelf is not None and piece.shelf.away]

    def fill(self, chunk: Shelf, raw: bytes) -> None:
        """A chunk was loaded.  ValueError where it is none of such a form."""
        at = self._place_of(chunk) if chunk.away else -1
        if at < 0:
            return
        try:
            pieces = self.made_of(msgspec.msgpack.decode(raw))
        except (msgspec.DecodeError, TypeError) as error:
            raise ValueError(" ".join(str(error).split())) from None
        count, number = 0, 0
        for piece in pieces:
            count += piece.elements()
            number += piece.shelf.pieces if piece.shelf is not None else 1
        if (count, number) != (chunk.count, chunk.pieces):
            raise ValueError(f"{count} elements in {number} pieces, not {chunk.count} in {chunk.pieces}")
        self._replace(at, pieces)
        self._filled = at + len(pieces)
        chunk.away = False
        for piece in pieces:
            if piece.shelf is None:
                piece.shelf = chunk
            else:
                piece.shelf.parent = chunk

    def _place_of(self, shelf: Shelf) -> int:
        """Where the piece is that stands for a chunk: mostly right of the one that was loaded before it."""
        pieces = self._pieces()
        begin = min(self._filled, len(pieces))
        for at in chain(range(begin, len(pieces)), range(begin)):
            if pieces[at].shelf is shelf:
                return at
        return -1

    def detach(self) -> None:
        """Be no more in chunks: it is to be stored anew.  All are loaded."""
        self.chunked = False
        self.dropped = None
        self._tops = None
        for piece in self._pieces():
            piece.shelf = None


def _weigh(pieces: Sequence[Piece]) -> int:
    weight = 0
    for piece in pieces:
        weight += piece.weight()
    return weight


def plan(weights: list[int], size: int, first: bool, last: bool) -> list[tuple[int, int]]:
    """Chunks of about ``size`` bytes, of pieces that are in none: where each begins and ends.

    ``weights`` are the bytes of the pieces, ``first`` and ``last`` whether they stand at the collection's
    ends: what is pushed and popped next is left out there.
    """
    # An open end grows from half a chunk to three times that.
    kept = size // 2 if first or last else 0
    left = sum(weights)
    if left <= 3 * kept or left < size // 4:
        return []
    begin, end, spare = 0, len(weights), 0
    while spare < kept:
        weight = weights[end - 1 if last else begin]
        if weight > 3 * kept:  # it alone would be more than an end may be
            break
        spare += weight
        if last:
            end -= 1
        else:
            begin += 1
    found: list[tuple[int, int]] = []
    while begin < end:
        stop, weight = begin, 0
        while stop < end and weight < size:
            weight += weights[stop]
            stop += 1
        found.append((begin, stop))
        begin = stop
    return found
