"""Consumer groups of a stream, and what they have been given and have not acknowledged.

An entry that is pending stands in its group's list and in its consumer's, by the same ``Delivery``, which
names the consumer: nothing here refers back to what holds it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final

from mypy_extensions import mypyc_attr

from proxy.datatypes.undo import UNDO

CHUNK: Final = 512  # ids that are inserted and removed among, at most twice as many

UNKNOWN: Final = -1  # how many entries a group has read

# Bytes of memory, measured on 64-bit CPython.
GROUP_OVERHEAD: Final = 700
CONSUMER_OVERHEAD: Final = 480
DELIVERY_OVERHEAD: Final = 160  # with its id, and its places in both lists


@mypyc_attr(acyclic=True)
class Delivery:
    """Of one entry: to whom, when (ms since the epoch) and how often."""

    __slots__ = ("at", "consumer", "count")

    def __init__(self, consumer: bytes, at: int, count: int) -> None:
        self.consumer: bytes = consumer
        self.at: int = at
        self.count: int = count

    def set(self, at: int, count: int) -> None:
        if UNDO.open:
            self._keep()
        self.at = at
        self.count = count

    def give(self, consumer: bytes) -> None:
        if UNDO.open:
            self._keep()
        self.consumer = consumer

    def _keep(self) -> None:
        if UNDO.first(self):
            UNDO.step(self._restore, self.consumer, self.at, self.count)

    def _restore(self, consumer: bytes, at: int, count: int) -> None:
        self.consumer = consumer
        self.at = at
        self.count = count


@mypyc_attr(acyclic=True)
class Pending:
    """Deliveries by the ids of their entries, in order; finding, adding and removing one is O(log n).

    Ids lie in chunks, so that no change moves more than some hundreds.
    """

    def __init__(self) -> None:
        self.count: int = 0
        self._firsts: list[bytes] = []  # of each chunk
        self._ids: list[list[bytes]] = []
        self._deliveries: list[list[Delivery]] = []

    def __len__(self) -> int:
        return self.count

    def _chunk(self, id: bytes) -> int:
        """The chunk in which an id stands, if it does; there must be one."""
        return max(bisect_right(self._firsts, id) - 1, 0)

    def get(self, id: bytes) -> Delivery | None:
        if not self.count:
            return None
        chunk = self._chunk(id)
        ids = self._ids[chunk]
        at = bisect_left(ids, id)
        return self._deliveries[chunk][at] if at < len(ids) and ids[at] == id else None

    def put(self, id: bytes, delivery: Delivery) -> None:
        """Add an id that is not there."""
        if UNDO.open:
            UNDO.step(self.remove, id)
        self.count += 1
        if not self._ids:
            self._firsts.append(id)
            self._ids.append([id])
            self._deliveries.append([delivery])
            return
        chunk = self._chunk(id)
        ids, deliveries = self._ids[chunk], self._deliveries[chunk]
        at = bisect_left(ids, id)
        ids.insert(at, id)
        deliveries.insert(at, delivery)
        if not at:
            self._firsts[chunk] = id
        if len(ids) > 2 * CHUNK:
            # What comes in order fills chunks to the brim.
            split = 2 * CHUNK if at == 2 * CHUNK else CHUNK
            self._firsts.insert(chunk + 1, ids[split])
            self._ids.insert(chunk + 1, ids[split:])
            self._deliveries.insert(chunk + 1, deliveries[split:])
            del ids[split:]
            del deliveries[split:]

    def remove(self, id: bytes) -> Delivery | None:
        """Take one out: the delivery, if it was there."""
        if not self.count:
            return None
        chunk = self._chunk(id)
        ids = self._ids[chunk]
        at = bisect_left(ids, id)
        if at == len(ids) or ids[at] != id:
            return None
        self.count -= 1
        del ids[at]
        delivery = self._deliveries[chunk].pop(at)
        if UNDO.open:
            UNDO.step(self.put, id, delivery)
        if not ids:
            del self._firsts[chunk]
            del self._ids[chunk]
            del self._deliveries[chunk]
        elif not at:
            self._firsts[chunk] = ids[0]
        return delivery

    def walk(self, start: bytes) -> Iterator[tuple[bytes, Delivery]]:
        """From an id on; nothing may be added or removed meanwhile."""
        if not self.count:
            return
        chunk = self._chunk(start)
        at = bisect_left(self._ids[chunk], start)
        while chunk < len(self._ids):
            ids, deliveries = self._ids[chunk], self._deliveries[chunk]
            while at < len(ids):
                yield ids[at], deliveries[at]
                at += 1
            chunk += 1
            at = 0

    def first(self) -> bytes:
        """The smallest id; there must be one."""
        return self._firsts[0]

    def last(self) -> bytes:
        """The largest id; there must be one."""
        return self._ids[-1][-1]

    def dismantle(self) -> int:
        """Let go of some: how many."""
        if not self._ids:
            return 0
        self._firsts.pop()
        self._deliveries.pop()
        gone = len(self._ids.pop())
        self.count -= gone
        return gone


@mypyc_attr(acyclic=True)
class Consumer:
    def __init__(self, name: bytes, seen_at: int) -> None:
        self.name: bytes = name
        self.seen_at: int = seen_at  # ms: last time that it asked for entries
        self.pending: Pending = Pending()

    def see(self, now: int) -> None:
        if UNDO.open and UNDO.first(self):
            UNDO.step(self._restore, self.seen_at)
        self.seen_at = now

    def _restore(self, seen_at: int) -> None:
        self.seen_at = seen_at


@mypyc_attr(acyclic=True)
class Group:
    """One consumer group.  What changes its size in memory is done by its stream."""

    def __init__(self, last: bytes, entries_read: int) -> None:
        self.last: bytes = last  # id of the entry that was given out last
        self.entries_read: int = entries_read  # of all that were ever added, or UNKNOWN
        self.pending: Pending = Pending()
        self.consumers: dict[bytes, Consumer] = {}

    def set(self, last: bytes, entries_read: int) -> None:
        if UNDO.open and UNDO.first(self):
            UNDO.step(self._restore, self.last, self.entries_read)
        self.last = last
        self.entries_read = entries_read

    def _restore(self, last: bytes, entries_read: int) -> None:
        self.last = last
        self.entries_read = entries_read

    def copy(self) -> Group:
        other = Group(self.last, self.entries_read)
        for name, consumer in self.consumers.items():
            other.consumers[name] = Consumer(name, consumer.seen_at)
        for id, delivery in self.pending.walk(b""):
            other.give(id, Delivery(delivery.consumer, delivery.at, delivery.count))
        return other

    def give(self, id: bytes, delivery: Delivery) -> None:
        """Add a delivery of an entry that is not pending, to a consumer that is there."""
        self.pending.put(id, delivery)
        self.consumers[delivery.consumer].pending.put(id, delivery)

    def hand_over(self, id: bytes, delivery: Delivery, consumer: Consumer) -> None:
        """What is pending becomes another consumer's, if it is not."""
        if delivery.consumer != consumer.name:
            self.consumers[delivery.consumer].pending.remove(id)
            consumer.pending.put(id, delivery)
            delivery.give(consumer.name)

    def take(self, id: bytes) -> bool:
        """An entry is pending no more; whether it was."""
        delivery = self.pending.remove(id)
        if delivery is None:
            return False
        self.consumers[delivery.consumer].pending.remove(id)
        return True
