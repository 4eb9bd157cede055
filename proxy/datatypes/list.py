"""Lists: small ones packed, large ones in nodes.

A small list is one run of bytes (``packed``).  A large one is a sequence of nodes of some dozens of elements,
packed too, but for those at which it is pushed and popped: these are Python lists of bytes.  So an element
costs little more than its bytes, the ends are O(1), and an element in the middle is found by counting nodes
from the nearer end.

Stored form: ``01``, then for each node its number of elements and its bytes, both variable-length integers,
and its run.  A list of no more than one node is small.

The root of one in chunks: ``02``, then a msgpack array of nodes, each an array of its number of elements and
its run, and references to chunks, which are such arrays too (``chunking``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from mypy_extensions import i64, mypyc_attr

from proxy.datatypes import packed
from proxy.datatypes.chunking import Chunked, Piece, Shelf
from proxy.datatypes.packed import head
from proxy.datatypes.undo import UNDO

SMALL_ITEMS: Final = 64
SMALL_BYTES: Final = 2048
NODE_ITEMS: Final = 128  # an open node of so many elements is cut in two
NODE_BYTES: Final = 8192  # so is one of so many bytes
PACK_MEAN: Final = 512  # elements that are larger on average are not packed: it would gain nothing

# Bytes of memory, with the allocator's rounding.
LIST_OVERHEAD: Final = 96  # a List with an empty run
ITEM_OVERHEAD: Final = 48  # of a bytes object and its slot in a Python list
PACKED_OVERHEAD: Final = 120  # a Node, its slot, and its run's object
OPEN_OVERHEAD: Final = 152  # a Node, its slot, and its Python list

FORMAT: Final = b"\x01"
ROOT_FORMAT: Final = b"\x02"


@mypyc_attr(acyclic=True)
class Node(Piece):
    """Elements that lie side by side: packed, or open as a Python list."""

    def __init__(self, items: list[bytes] | None, data: bytes, count: int, payload: int) -> None:
        self.items: list[bytes] | None = items  # None: they are packed in ``data``
        self.data: bytes = data
        self.count: int = count
        self.payload: int = payload  # bytes of all elements of an open node

    def size(self) -> int:
        """Bytes of memory."""
        if self.items is None:
            if self.shelf is not None and self.shelf.away:
                return self.shelf.memory
            return PACKED_OVERHEAD + len(self.data)
        return OPEN_OVERHEAD + self.payload + ITEM_OVERHEAD * self.count

    def elements(self) -> int:
        return self.count

    def memory(self) -> int:
        return self.size()

    def weight(self) -> int:
        return len(self.data) if self.items is None else self.payload + self.count

    def parts(self) -> tuple[object, ...]:
        return self.count, self.run()

    def keep(self) -> None:
        """Have it undone what is about to be done."""
        if UNDO.first(self):
            items = self.items
            items = None if items is None else items[:]
            UNDO.step(self._restore, items, self.data, self.count, self.payload, self.shelf)

    def _restore(
        self, items: list[bytes] | None, data: bytes, count: int, payload: int, shelf: Shelf | None
    ) -> None:
        self.items = items
        self.data = data
        self.count = count
        self.payload = payload
        self.shelf = shelf

    def open(self) -> list[bytes]:
        if UNDO.open:
            self.keep()
        items = self.items
        if items is None:
            items = self.items = packed.take(self.data, 0, self.count)
            self.data = b""
            self.payload = total(items)
        return items

    def close(self) -> None:
        """Pack it, if that makes it smaller."""
        items = self.items
        if items is not None and self.payload <= PACK_MEAN * self.count:
            if UNDO.open:
                self.keep()
            self.data = packed.pack(items)
            self.items = None

    def copy(self) -> Node:
        items = self.items
        return Node(None if items is None else items[:], self.data, self.count, self.payload)

    def too_large(self) -> bool:
        return self.count >= NODE_ITEMS or (self.payload >= NODE_BYTES and self.count > 1)

    def remove(self, item: bytes, most: int, backwards: bool) -> int:
        """Take out ``item``, ``most`` times at most; how many there were.

        The node is open then, if there were any.
        """
        items = self.slice(0, self.count)
        gone = items.count(item)
        if not gone:
            return 0
        self.open()
        if gone <= most:
            items = [each for each in items if each != item]
        else:
            gone = most
            if backwards:
                items.reverse()
            for _ in range(gone):
                items.remove(item)
            if backwards:
                items.reverse()
        self.items = items
        self.count -= gone
        self.payload -= gone * len(item)
        return gone

    def run(self) -> bytes:
        return self.data if self.items is None else packed.pack(self.items)

    def slice(self, first: int, count: int) -> list[bytes]:
        items = self.items
        if items is None:
            return packed.take(self.data, packed.skip(self.data, 0, first), count)
        return items[first : first + count]

    def has(self, item: bytes) -> bool:
        """False if ``item`` is surely not an element; quick, and mostly right."""
        items = self.items
        return item in self.data if items is None else item in items


def opened(items: list[bytes]) -> Node:
    return Node(items, b"", len(items), total(items))


def total(items: list[bytes]) -> int:
    size: i64 = 0
    for item in items:
        size += len(item)
    return size


@mypyc_attr(acyclic=True)
class List(Chunked):
    """A list.  Indexes are from 0 on, and must be those of elements."""

    def __init__(self) -> None:
        self.size: int = LIST_OVERHEAD
        self.count: int = 0
        self._run: bytes = b""  # of a small list
        self._nodes: list[Node] | None = None  # of a large one

    @classmethod
    def of(cls, items: list[bytes]) -> List:
        """A list of these elements."""
        made = List()
        for item in items:
            made.push_right(item)
        return made

    def __len__(self) -> int:
        return self.count

    def encoding(self) -> bytes:
        return b"quicklist"

    # The ends

    def push_left(self, item: bytes) -> None:
        if UNDO.open:
            self._keep()
        nodes = self._nodes
        if nodes is None:
            if self.count < SMALL_ITEMS and len(self._run) + len(item) < SMALL_BYTES:
                added = head(len(item)) + item
                self._run = added + self._run
                self.count += 1
                self.size += len(added)
                return
            nodes = self._spread()
        if not nodes or nodes[0].items is None or (self.chunked and nodes[0].top() is not None):
            self._insert(0, Node([], b"", 0, 0))
        node = nodes[0]
        if UNDO.open:
            node.keep()
        items = node.items
        assert items is not None
        items.insert(0, item)
        node.count += 1
        node.payload += len(item)
        self.count += 1
        self.size += len(item) + ITEM_OVERHEAD
        if node.too_large():
            self._cut(0, node.count // 2)
            self._close(1)

    def push_right(self, item: bytes) -> None:
        if UNDO.open:
            self._keep()
        nodes = self._nodes
        if nodes is None:
            if self.count < SMALL_ITEMS and len(self._run) + len(item) < SMALL_BYTES:
                added = head(len(item)) + item
                self._run = self._run + added
                self.count += 1
                self.size += len(added)
                return
            nodes = self._spread()
        if not nodes or nodes[-1].items is None or (self.chunked and nodes[-1].top() is not None):
            self._insert(len(nodes), Node([], b"", 0, 0))
        node = nodes[-1]
        if UNDO.open:
            node.keep()
        items = node.items
        assert items is not None
        items.append(item)
        node.count += 1
        node.payload += len(item)
        self.count += 1
        self.size += len(item) + ITEM_OVERHEAD
        if node.too_large():
            last = len(nodes) - 1
            self._cut(last, node.count - node.count // 2)
            self._close(last)

    def pop_left(self) -> bytes:
        if self.chunked:
            self.need_elements(0, 1)
        if UNDO.open:
            self._keep()
        nodes = self._nodes
        self.count -= 1
        if nodes is None:
            run = self._run
            size, begin = packed.number(run, 0)
            end = begin + size
            self._run = run[end:]
            self.size -= end
            return run[begin:end]
        node = nodes[0]
        items = node.items
        if items is None or node.shelf is not None:
            node, items = self._open(0)
        elif UNDO.open:
            node.keep()
        item = items.pop(0)
        node.count -= 1
        node.payload -= len(item)
        self.size -= len(item) + ITEM_OVERHEAD
        if not items:
            if UNDO.open:
                UNDO.splice(nodes, 0, 0, nodes[:1])
            nodes.pop(0)
            self.size -= OPEN_OVERHEAD
        return item

    def pop_right(self) -> bytes:
        if self.chunked:
            self.need_elements(self.count - 1, 1)
        if UNDO.open:
            self._keep()
        nodes = self._nodes
        self.count -= 1
        if nodes is None:
            run = self._run
            at = packed.skip(run, 0, self.count)
            self._run = run[:at]
            self.size -= len(run) - at
            _, begin = packed.number(run, at)
            return run[begin:]
        node = nodes[-1]
        items = node.items
        if items is None or node.shelf is not None:
            node, items = self._open(len(nodes) - 1)
        elif UNDO.open:
            node.keep()
        item = items.pop()
        node.count -= 1
        node.payload -= len(item)
        self.size -= len(item) + ITEM_OVERHEAD
        if not items:
            if UNDO.open:
                UNDO.splice(nodes, len(nodes) - 1, 0, nodes[-1:])
            nodes.pop()
            self.size -= OPEN_OVERHEAD
        return item

    # Reading

    def elements(self) -> list[bytes]:
        return self.slice(0, self.count)

    def get(self, index: int) -> bytes:
        return self.slice(index, 1)[0]

    def slice(self, first: int, count: int) -> list[bytes]:
        """``count`` elements from ``first`` on, which must be there."""
        nodes = self._nodes
        if nodes is None:
            return packed.take(self._run, packed.skip(self._run, 0, first), count)
        if self.chunked:
            self.need_elements(first, count)
        found: list[bytes] = []
        number, first = self._locate(first)
        while count > 0:
            node = nodes[number]
            part = min(count, node.count - first)
            found += node.slice(first, part)
            count -= part
            first = 0
            number += 1
        return found

    def positions(self, item: bytes, rank: int, count: int, depth: int) -> list[int]:
        """Where ``item`` stands, ``count`` places at most (0: all), from the ``rank``-th on.

        A rank of -1 begins with the last one, and goes on to the left.  Only ``depth`` elements are looked
        at (0: all).
        """
        self.whole()
        found: list[int] = []
        nodes = self._nodes if self._nodes is not None else [Node(None, self._run, self.count, 0)]
        backwards = rank < 0
        skip = abs(rank) - 1
        left = min(depth, self.count) if depth else self.count
        at = self.count if backwards else 0  # of the elements that were passed
        for node in reversed(nodes) if backwards else nodes:
            if left <= 0:
                break
            if node.has(item):
                items = node.slice(0, node.count)
                places = range(len(items) - 1, -1, -1) if backwards else range(len(items))
                start = at - node.count if backwards else at
                for place in places[:left]:
                    if items[place] == item:
                        if skip:
                            skip -= 1
                            continue
                        found.append(start + place)
                        if len(found) == count:
                            return found
            left -= node.count
            at += -node.count if backwards else node.count
        return found

    # Changes within

    def set(self, index: int, item: bytes) -> None:
        if self.chunked:
            self.need_elements(index, 1)
        if UNDO.open:
            self._keep()
        self._spread()
        number, place = self._locate(index)
        node, items = self._open(number)
        node.payload += len(item) - len(items[place])
        self.size += len(item) - len(items[place])
        items[place] = item
        self._tidy(number)
        self._settle()

    def insert(self, pivot: bytes, item: bytes, after: bool) -> bool:
        """Put ``item`` before or after the first ``pivot``; whether there is one."""
        places = self.positions(pivot, 1, 1, 0)
        if not places:
            return False
        if UNDO.open:
            self._keep()
        self._spread()
        number, place = self._locate(places[0])
        node, items = self._open(number)
        items.insert(place + 1 if after else place, item)
        node.count += 1
        node.payload += len(item)
        self.count += 1
        self.size += len(item) + ITEM_OVERHEAD
        self._tidy(number)
        self._settle()
        return True

    def remove(self, item: bytes, count: int) -> int:
        """Take out ``item``, so many times (negative: from the right; 0: all); how many there were."""
        self.whole()
        if UNDO.open:
            self._keep()
        backwards = count < 0
        left = abs(count) if count else self.count
        small = self._nodes is None
        nodes = self._spread()
        removed = 0
        for node in reversed(nodes) if backwards else nodes:
            if removed == left:
                break
            if node.has(item):
                self.give_up(node)
                removed += node.remove(item, left - removed, backwards)
        if removed:
            self.count -= removed
            self._rebuild()
        if removed or small:
            self._settle()
        return removed

    def trim(self, first: int, count: int) -> None:
        """Keep ``count`` elements from ``first`` on."""
        if self.chunked and count:
            self._need_cuts(first, count)
        if UNDO.open:
            self._keep()
        nodes = self._nodes
        last = self.count - first - count  # how many go on the right
        self.count = count
        if nodes is None:
            begin = packed.skip(self._run, 0, first)
            end = packed.skip(self._run, begin, count)
            self.size -= len(self._run) - (end - begin)
            self._run = self._run[begin:end]
            return
        number = 0
        while number < len(nodes) and first >= nodes[number].count:
            first -= nodes[number].count
            self.size -= nodes[number].size()
            self.give_up(nodes[number])
            number += 1
        if UNDO.open:
            UNDO.splice(nodes, 0, 0, nodes[:number])
        del nodes[:number]
        number = len(nodes)
        while number and last >= nodes[number - 1].count:
            number -= 1
            last -= nodes[number].count
            self.size -= nodes[number].size()
            self.give_up(nodes[number])
        if UNDO.open:
            UNDO.splice(nodes, number, 0, nodes[number:])
        del nodes[number:]
        if first:
            self._shorten(0, 0, first)
        if last:
            number = len(nodes) - 1
            self._shorten(number, nodes[number].count - last, last)
        self._settle()

    # The whole

    def copy(self) -> List:
        self.whole()
        other = List()
        other.size = self.size
        other.count = self.count
        other._run = self._run
        if self._nodes is not None:
            other._nodes = [node.copy() for node in self._nodes]
        return other

    def dismantle(self, count: int) -> bool:
        nodes = self._nodes
        while nodes and count > 0:
            node = nodes.pop()
            count -= 1 if node.items is None else node.count
        return bool(nodes)

    def pack(self) -> bytes:
        self.whole()
        parts = [FORMAT]
        for node in self._nodes if self._nodes is not None else [Node(None, self._run, self.count, 0)]:
            run = node.run()
            parts += [head(node.count), head(len(run)), run]
        return b"".join(parts)

    @classmethod
    def unpack(cls, raw: bytes) -> List:
        """The list of which these are the stored bytes; ValueError for a form that is not known."""
        if not raw.startswith(FORMAT):
            raise ValueError("a list of a later version")
        made = List()
        nodes: list[Node] = []
        at: i64 = len(FORMAT)
        end: i64 = len(raw)
        while at < end:
            count, at = packed.number(raw, at)
            size, at = packed.number(raw, at)
            node = Node(None, raw[at : at + size], count, 0)
            at += size
            nodes.append(node)
            made.count += count
            made.size += node.size()
        made._nodes = nodes
        made._settle()
        return made

    # Chunks

    def need_elements(self, first: int, count: int) -> None:
        """Raise NeedChunks unless ``count`` elements from ``first`` on are loaded."""
        nodes = self._nodes
        if nodes is None or count <= 0:
            return
        number, place = self._locate(first)
        end, left = number, count + place
        while left > 0:
            left -= nodes[end].count
            end += 1
        self.need(nodes[number:end])

    def _need_cuts(self, first: int, count: int) -> None:
        """Raise NeedChunks unless all is loaded of which ``trim`` keeps a part, or must be known."""
        nodes = self._nodes
        if nodes is None:
            return
        needed: list[Node] = []
        at, end = 0, first + count
        for node in nodes:
            stop = at + node.count
            shelf = node.shelf
            cut = first < stop and at < end
            if shelf is not None and shelf.away and (at < first or stop > end) and (cut or shelf.level > 1):
                needed.append(node)
            at = stop
        self.need(needed)

    def divide(self, size: int, next_id: Callable[[], int]) -> list[Shelf]:
        self._split_ends(size)
        return super().divide(size, next_id)

    def _split_ends(self, size: int) -> None:
        """The nodes at which it is pushed and popped may be larger than a chunk is to be."""
        nodes = self._spread()
        if not nodes:
            return
        while len(nodes) > 1 and nodes[0].items is not None and nodes[0].weight() > 3 * (size // 2):
            if nodes[0].count == 1:
                break
            self._cut(0, nodes[0].count // 2)
            self._close(1)
        while nodes[-1].items is not None and nodes[-1].weight() > 3 * (size // 2) and nodes[-1].count > 1:
            at, weight = 0, 0
            for item in nodes[-1].items:
                weight += len(item) + 1
                at += 1
                if weight >= size:
                    break
            number = len(nodes) - 1
            self._cut(number, min(at, nodes[-1].count - 1))
            self._close(number)

    def _pieces(self) -> Sequence[Piece]:
        return self._spread()

    def _replace(self, at: int, pieces: Sequence[Piece]) -> None:
        nodes = self._spread()
        self.size -= nodes[at].size()
        made: list[Node] = []
        for piece in pieces:
            assert isinstance(piece, Node)
            self.size += piece.size()
            made.append(piece)
        nodes[at : at + 1] = made

    def _piece(self, parts: Sequence[Any]) -> Piece:
        count, run = parts
        if packed.skip(run, 0, count) != len(run):
            raise ValueError(f"{len(run)} bytes, not of {count} elements")
        return Node(None, run, count, 0)

    def _stand_in(self, shelf: Shelf) -> Piece:
        node = Node(None, b"", shelf.count, 0)
        node.shelf = shelf
        return node

    def pack_root(self) -> bytes:
        return ROOT_FORMAT + msgspec.msgpack.encode(self.items())

    @classmethod
    def unpack_root(cls, raw: bytes) -> List:
        """The list of which this is the root, without its chunks; ValueError for a form that is not known."""
        if not raw.startswith(ROOT_FORMAT):
            raise ValueError("a list of a later version")
        made = List()
        made.chunked = True
        nodes = made._nodes = []
        for piece in made.made_of(msgspec.msgpack.decode(raw[len(ROOT_FORMAT) :])):
            assert isinstance(piece, Node)
            nodes.append(piece)
            made.count += piece.count
            made.size += piece.size()
        return made

    def _keep(self) -> None:
        """Have it undone what is about to be done, but for what nodes, and who moves them, see to."""
        if UNDO.first(self):
            UNDO.step(self._restore, self.size, self.count, self._run, self._nodes)

    def _restore(self, size: int, count: int, run: bytes, nodes: list[Node] | None) -> None:
        self.size = size
        self.count = count
        self._run = run
        self._nodes = nodes

    # Nodes

    def _locate(self, index: int) -> tuple[int, int]:
        """The number of the node that has an element, and its place there."""
        nodes = self._nodes
        assert nodes is not None
        number: i64 = 0
        place: i64 = index
        if 2 * index < self.count:
            while place >= nodes[number].count:
                place -= nodes[number].count
                number += 1
        else:
            number = len(nodes)
            place -= self.count
            while place < 0:
                number -= 1
                place += nodes[number].count
        return number, place

    def _spread(self) -> list[Node]:
        """Have nodes, also of a small list."""
        nodes = self._nodes
        if nodes is None:
            nodes = self._nodes = []
            if self.count:
                nodes.append(Node(None, self._run, self.count, 0))
                self.size += PACKED_OVERHEAD
            self._run = b""
        return nodes

    def _settle(self) -> None:
        """Be a small list again, where it has become one."""
        nodes = self._nodes
        assert nodes is not None
        if self.chunked or (
            len(nodes) > 1 and self.count > SMALL_ITEMS // 2
        ):  # not to and fro with each push
            return
        if self.count <= SMALL_ITEMS and self.size < SMALL_BYTES + ITEM_OVERHEAD * SMALL_ITEMS:
            run = b"".join([node.run() for node in nodes])
            if len(run) < SMALL_BYTES:
                self._run = run
                self._nodes = None
                self.size = LIST_OVERHEAD + len(run)

    def _open(self, number: int) -> tuple[Node, list[bytes]]:
        nodes = self._nodes
        assert nodes is not None
        node = nodes[number]
        self._own(node)
        self.size -= node.size()
        items = node.open()
        self.size += node.size()
        return node, items

    def _own(self, node: Node) -> None:
        """A node is about to change."""
        if node.shelf is not None:
            self.give_up(node)
            if UNDO.open:
                node.keep()
            node.shelf = None

    def _close(self, number: int) -> None:
        nodes = self._nodes
        assert nodes is not None
        node = nodes[number]
        self.size -= node.size()
        node.close()
        self.size += node.size()

    def _cut(self, number: int, at: int) -> None:
        """Make two open nodes of an open one, the first of ``at`` elements."""
        nodes = self._nodes
        assert nodes is not None
        node, items = self._open(number)
        other = opened(items[at:])
        del items[at:]
        node.count -= other.count
        node.payload -= other.payload
        self._insert(number + 1, other)

    def _insert(self, number: int, node: Node) -> None:
        """Put in an open node, whose elements are counted."""
        nodes = self._nodes
        assert nodes is not None
        if UNDO.open:
            UNDO.splice(nodes, number, 1, [])
        nodes.insert(number, node)
        self.size += OPEN_OVERHEAD

    def _tidy(self, number: int) -> None:
        """Leave a node, which was opened for a change, as it is to be."""
        nodes = self._nodes
        assert nodes is not None
        if nodes[number].too_large():
            self._cut(number, nodes[number].count // 2)
            self._close(number + 1)
        if 0 < number < len(nodes) - 1:
            self._close(number)

    def _shorten(self, number: int, first: int, count: int) -> None:
        """Take ``count`` elements from ``first`` on out of a node that has more."""
        node, items = self._open(number)
        gone = total(items[first : first + count])
        del items[first : first + count]
        node.count -= count
        node.payload -= gone
        self.size -= gone + ITEM_OVERHEAD * count

    def _joinable(self, left: Node, right: Node) -> bool:
        return left.count + right.count <= NODE_ITEMS // 2 and left.top() is None and right.top() is None

    def _rebuild(self) -> None:
        """Drop empty nodes, and join small neighbours."""
        nodes: list[Node] = []
        for node in self._nodes or []:
            if not node.count:
                continue
            if nodes and self._joinable(nodes[-1], node):
                last = nodes[-1]
                joined = opened(last.open() + node.open())
                if joined.payload < NODE_BYTES:
                    nodes[-1] = joined
                    continue
            nodes.append(node)
        self.size = LIST_OVERHEAD
        for node in nodes:
            node.close()
            self.size += node.size()
        self._nodes = nodes
