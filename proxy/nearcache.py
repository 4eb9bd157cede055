"""The near cache: what stands in the stores, and what a Redis has answered, to read without asking them.

All routes share one, bounded in bytes: each tier has its ``Copies`` in it, each Redis its ``NearReplies``.  A
cold key at work has no copy: its cell takes it out, and puts it back when nobody waits for it any more.

A copy answers while it is believed (``Copies.believes``).  One that is not is good all the same if the store
says that the key is still at the same write, which spares the way of its value.
"""

from __future__ import annotations

import asyncio
from typing import Final

from backends.base import Key
from proxy.cells import VALUE, CachedKey, Cell, ColdPolicy, Copy, Handler, has_expired
from proxy.clock import Clock
from proxy.datatypes.chunking import Chunked
from proxy.errors import NeedKeys
from proxy.keyspace import Unloaded
from proxy.lru import Database, Entry, Lru, entry_size
from proxy.prefixes import PrefixMap
from proxy.resp import Argv, Reply


class Miss:
    """No reply: the near cache can't answer."""


MISS: Final = Miss()


class NearCache:
    """What all routes keep near, together, bounded in bytes: cold ones copies, Redis ones replies."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes: int = max_bytes
        self.lru: Lru = Lru()
        self.hits: int = 0
        self.misses: int = 0
        self.evicted: int = 0

    def add(self, database: Database, entry: Entry, size: int) -> None:
        """Put in an entry of so many bytes, whose key is not there yet."""
        if size <= self.max_bytes:
            self.lru.add(database, entry, size, True)
            self._trim()

    def grow(self, entry: Entry, more: int) -> None:
        """Count so many bytes more for an entry."""
        self.lru.resize(entry, entry.size + more)
        self.lru.touch(entry)
        self._trim()

    def _trim(self) -> None:
        while self.lru.used > self.max_bytes:
            oldest = self.lru.oldest()
            assert oldest is not None
            self.lru.discard(oldest)
            self.evicted += 1


class Copies:
    """One tier's part of the near cache.

    ``shared``: others write to its store.  Then copies are believed while it ``hears`` of their changes;
    where it ``can_hear``, but does not now, no copy is; where it can't, those that are not older than their
    route's ``cache_ttl``.
    """

    def __init__(self, clock: Clock, policies: PrefixMap[ColdPolicy], cache: NearCache, shared: bool) -> None:
        self.hears: bool = not shared
        self.can_hear: bool = False
        self.era: int = 0  # copies of another are not believed
        self._clock: Clock = clock
        self._policies: PrefixMap[ColdPolicy] = policies
        self._cache: NearCache = cache
        self._lru: Lru = cache.lru
        self._databases: dict[int, Database] = {}
        self._view: CachedKey = CachedKey(clock, 0)

    def read(self, handler: Handler, argv: Argv, db: int, key: bytes) -> Reply:
        """The reply of a reading command on one key, if the near cache can give it, else ``MISS``."""
        database = self._databases.get(db)
        copy = None if database is None else database.get(key)
        if copy is None:
            self._cache.misses += 1
            return MISS
        assert isinstance(copy, Copy)
        now = self._clock.ms
        if has_expired(copy, now) or not self.believes(copy, self._policies.find(key).cache_ttl, now):
            self._cache.misses += 1
            return MISS
        self._lru.touch(copy)
        self._cache.hits += 1
        copy.used_at = now
        view = self._view
        view.db = db
        view.entry = copy
        try:
            return handler(view, argv)
        except NeedKeys:
            return MISS

    def believes(self, copy: Copy, ttl: int, now: int) -> bool:
        """Whether the store need not be asked; ``ttl`` is the route's ``cache_ttl``."""
        if ttl and copy.cached_at + ttl <= now:
            return False
        if self.hears:
            return copy.era == self.era
        return ttl != 0 and not self.can_hear

    def drop(self, key: Key) -> None:
        """Keep no copy of a key."""
        database = self._databases.get(key.db)
        copy = None if database is None else database.get(key.name)
        if copy is not None:
            self._lru.discard(copy)

    def has(self, db: int, name: bytes) -> bool:
        """Whether a copy of the key is in the near cache."""
        database = self._databases.get(db)
        return database is not None and database.get(name) is not None

    def check_out(self, cell: Cell) -> None:
        """Take the key's copy out of the near cache."""
        database = self._databases.get(cell.key.db)
        if database is None:
            return
        copy = database.get(cell.key.name)
        if copy is not None:
            assert isinstance(copy, Copy)
            self._lru.discard(copy)
            if self.believes(copy, cell.policy.cache_ttl, self._clock.ms):
                cell.known = VALUE
                cell.entry = copy
                cell.token = copy.token
            else:
                cell.kept = copy

    def check_in(self, cell: Cell) -> None:
        """Nobody waits for the cell any more: keep its value in the near cache, if it is to be kept."""
        copy = cell.entry
        if cell.policy.cache and isinstance(copy, Copy) and cell.known >= VALUE and not cell.damage:
            if isinstance(copy.value, Unloaded):
                return
            if copy.token != cell.token or not copy.cached_at:
                copy.cached_at = self._clock.ms
            copy.token = cell.token
            copy.era = self.era
            db = cell.key.db
            database = self._databases.get(db)
            if database is None:
                database = self._databases[db] = Database(db)
            size, value = entry_size(copy.key, copy.value), copy.value
            if isinstance(value, Chunked) and value.chunked:
                size -= value.unloaded()
            self._cache.add(database, copy, size)

    async def discard(self, db: int | None, prefix: bytes) -> None:
        """Keep none of the keys that start with ``prefix``, of one database or of all."""
        for number, database in list(self._databases.items()):
            if db is None or number == db:
                for shard in database.shards:
                    if shard:
                        for copy in [copy for copy in shard.values() if copy.key.startswith(prefix)]:
                            self._lru.discard(copy)
                        await asyncio.sleep(0)  # a full cache takes long: others come in between
