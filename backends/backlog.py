"""What a write-back backend has acknowledged and not flushed: the latest record of each key.

Pinned in memory, bounded by the bytes of the journal that has them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from sortedcontainers import SortedDict

from backends.base import Key, KeyTooLong, Record

ENTRY: Final = 200
"""Bytes that a key takes beside its name and payload, about."""


class Dirty(NamedTuple):
    record: Record | None  # complete; None: the key is deleted
    segment: int  # of the journal
    since: int  # ms since the epoch: when the key became dirty
    turn: int  # another one each time that it did


class Backlog:
    """``place`` is the store's."""

    def __init__(self, place: Callable[[Key], bytes]) -> None:
        self.entries: dict[Key, Dirty] = {}  # those that have waited longest first
        self.bytes = 0
        self._turn = 0
        self._place = place
        self._order: SortedDict = SortedDict()  # the names, by database and place
        self._live: dict[int, int] = {}  # how many entries each segment has, oldest first

    def put(self, key: Key, record: Record | None, segment: int, now: int) -> None:
        """A key's latest change; it keeps its turn to be flushed."""
        old = self.entries.get(key)
        if old is None:
            self._order[key.db, self._place(key)] = key.name
        else:
            self._release(old)
        if old is None:
            self._turn += 1
            self.entries[key] = Dirty(record, segment, now, self._turn)
        else:
            self.entries[key] = old._replace(record=record, segment=segment)
        self._live[segment] = self._live.get(segment, 0) + 1
        self.bytes += _size(key, record)
        if old is not None:
            self.bytes -= _size(key, old.record)

    def settle(self, key: Key, flushed: Dirty, now: int) -> None:
        """The store has ``flushed``; what has changed since waits for another turn."""
        entry = self.entries.get(key)
        if entry is None:
            return
        if entry.record is flushed.record and entry.segment == flushed.segment:
            self._remove(key, entry)
        else:
            self._turn += 1
            del self.entries[key]
            self.entries[key] = entry._replace(since=now, turn=self._turn)

    def put_off(self, key: Key) -> None:
        """Let the others go before this one."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.entries[key] = entry

    def clear(self, db: int | None, prefix: bytes) -> None:
        for key, entry in list(self.entries.items()):
            if (db is None or key.db == db) and key.name.startswith(prefix):
                self._remove(key, entry)

    def oldest(self, count: int, size: int) -> dict[Key, Dirty]:
        """Up to ``count`` entries of ``size`` bytes together, but one at least."""
        taken: dict[Key, Dirty] = {}
        for key, entry in islice(self.entries.items(), count):
            size -= _size(key, entry.record)
            if size < 0 and taken:
                break
            taken[key] = entry
        return taken

    def between(self, db: int, prefix: bytes, after: bytes | None) -> Iterator[bytes]:
        """The names that start with ``prefix``, in the store's order, from behind ``after``."""
        first = prefix if after is None else after
        try:
            bounds = (db, self._place(Key(db, first))), (db + 1, b"")
        except KeyTooLong:
            return
        for place in self._order.irange(*bounds, inclusive=(after is None, False)):
            name: bytes = self._order[place]
            if not name.startswith(prefix):
                break
            yield name

    def first_segment(self) -> int | None:
        """The oldest that is needed; None: none is."""
        return min(self._live, default=None)

    @property
    def since(self) -> int:
        """Since when the oldest entry waits, ms since the epoch; 0: there is none."""
        return next(iter(self.entries.values())).since if self.entries else 0

    def _remove(self, key: Key, entry: Dirty) -> None:
        del self.entries[key]
        del self._order[key.db, self._place(key)]
        self.bytes -= _size(key, entry.record)
        self._release(entry)

    def _release(self, entry: Dirty) -> None:
        left = self._live[entry.segment] - 1
        if left:
            self._live[entry.segment] = left
        else:
            del self._live[entry.segment]


def _size(key: Key, record: Record | None) -> int:
    return ENTRY + len(key.name) + (0 if record is None else record.stored_size)
