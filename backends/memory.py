"""The hot backend: a bounded keyspace inside the process.

Three structures stand over the same entries: the databases' shards find them, the LRU orders them by
use, and the timers file those that expire by when.  Nothing here holds the loop for long: eviction,
expiry and clearing work in slices, and ``cycle`` goes on with what a slice left.
"""

from __future__ import annotations

import heapq
import random
import time
from itertools import islice
from typing import Final

from proxy.clock import Clock
from proxy.datatypes.collection import Collection
from proxy.errors import OUT_OF_MEMORY, CommandError, foreign_key
from proxy.keyspace import (
    DATABASES,
    EventSink,
    KeyPolicy,
    Keyspace,
    check_growth,
    check_size,
    message_event,
)
from proxy.lru import BYTES_ENTRY, ENTRY_OVERHEAD, MASK, SHARDS, Database, Entry, Lru, entry_size
from proxy.prefixes import PrefixMap

ALLKEYS_LRU: Final = 0
VOLATILE_LRU: Final = 1
VOLATILE_TTL: Final = 2
NOEVICTION: Final = 3
POLICIES: Final = {
    "allkeys-lru": ALLKEYS_LRU,
    "volatile-lru": VOLATILE_LRU,
    "volatile-ttl": VOLATILE_TTL,
    "noeviction": NOEVICTION,
}

# How many entries one write may evict.  A large value can take the place of very many small ones: the
# rest is left to the next writes and to the cycle, as Redis does, over the bound for that moment.
EVICT_AT_ONCE: Final = 64
LARGE: Final = 256  # elements of a collection that may be freed at once
CLEARED: Final = -1  # index of a database that has been cleared
_SLICE: Final = 32  # entries between two looks at the time


class Timers:
    """Entries filed by when something is due, a quarter of a second to a bucket."""

    _SHIFT: Final = 8
    _STALE_MAX: Final = 64

    def __init__(self) -> None:
        self._buckets: dict[int, set[Entry]] = {}
        self._order: list[int] = []  # a heap of the buckets' numbers, and of some that are gone

    def add(self, entry: Entry, moment: int) -> None:
        number = moment >> self._SHIFT
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = set()
            heapq.heappush(self._order, number)
        bucket.add(entry)

    def remove(self, entry: Entry, moment: int) -> None:
        number = moment >> self._SHIFT
        bucket = self._buckets[number]
        bucket.discard(entry)
        if not bucket:
            # A key whose expiry is put off again and again would else leave a trail of buckets, and of
            # their numbers, each until it is due.
            del self._buckets[number]
            if len(self._order) > 2 * len(self._buckets) + self._STALE_MAX:
                self._order = sorted(self._buckets)

    def first(self) -> Entry | None:
        """An entry of the bucket that is due next."""
        order = self._order
        while order:
            bucket = self._buckets.get(order[0])
            if bucket is not None:
                # Not next(iter(bucket)): pop goes on from where it last was, so that emptying a large
                # bucket one by one stays linear.
                entry = bucket.pop()
                bucket.add(entry)
                return entry
            heapq.heappop(order)
        return None

    def drop(self, entry: Entry) -> None:
        """File the entry that ``first`` gave no more."""
        self.remove(entry, self._order[0] << self._SHIFT)


class MemoryBackend:
    """One ``type = "memory"`` backend: its databases, bound, policy and counters.

    ``policies`` gives what each key's route asks; ``sink`` is told of what happens to keys.
    """

    def __init__(
        self,
        name: str,
        max_bytes: int,
        policy: str,
        clock: Clock,
        policies: PrefixMap[KeyPolicy],
        sink: EventSink | None = None,
    ) -> None:
        self.name: str = name
        self.max_bytes: int = max_bytes
        self.policy: int = POLICIES[policy]
        self.clock: Clock = clock
        self.policies: PrefixMap[KeyPolicy] = policies
        # Where all routes ask the same, as they mostly do, no key need be looked up for it.
        own = [each for each in policies.values() if not each.foreign]
        first = own[0]
        alike = all(p.ttl == first.ttl and p.max_value == first.max_value for p in own)
        self.policy_of_all: KeyPolicy | None = first if alike else None
        self.sink: EventSink | None = sink
        self.lru: Lru = Lru()
        self.timers: Timers = Timers()
        self.parts: Timers = Timers()  # collections, by when the next of what they hold expires
        self.active_expire: bool = True  # whether ``cycle`` looks for what has expired
        self.touching: bool = True  # whether reading or writing a key that is there counts as its use
        self.hits: int = 0
        self.misses: int = 0
        self.evicted: int = 0
        self.expired: int = 0
        self.peak: int = 0  # bytes
        self._graves: list[Collection] = []  # large values that are still to be taken down
        self._cleared: list[Database] = []  # databases whose entries are still to be taken down
        self.keyspaces: list[MemoryKeyspace] = [MemoryKeyspace(self, clock, db) for db in range(DATABASES)]

    def make_room(self, size: int, keep: Entry | None) -> None:
        """Evict until ``size`` more bytes fit, but for ``keep``; raises OOM where the policy can't.

        After ``EVICT_AT_ONCE`` entries it lets the write pass, over the bound until ``cycle`` is done.
        """
        if size > self.max_bytes:
            raise CommandError(OUT_OF_MEMORY)
        hidden = keep is not None and keep.expire_at != 0 and self.policy == VOLATILE_TTL
        if hidden:  # it may be due first of all, and the next one is not to be found behind it
            assert keep is not None
            self.timers.remove(keep, keep.expire_at)
        try:
            self._evict_until_fits(size, keep)
        finally:
            if hidden:
                assert keep is not None
                self.timers.add(keep, keep.expire_at)

    def _evict_until_fits(self, size: int, keep: Entry | None) -> None:
        for _ in range(EVICT_AT_ONCE):
            if self.lru.used + size <= self.max_bytes:
                return
            if not self._take_down():
                entry = self._victim(keep)
                if entry is None:
                    raise CommandError(OUT_OF_MEMORY)
                self._evict(entry)

    def ordered(self, entry: Entry) -> bool:
        """Whether the policy evicts an entry by its order of use."""
        return self.policy == ALLKEYS_LRU or (self.policy == VOLATILE_LRU and entry.expire_at != 0)

    def restore(self, db: int, key: bytes, kind: int, value: object, expire_at: int, used_at: int) -> bool:
        """Put in what a snapshot has of a key that is not there; false if it lives elsewhere, or has no room.

        Nobody is told, and no time to live given: it is no write.  ``make_order`` is due afterwards.
        """
        size = entry_size(key, value)
        if self.policies.find(key).foreign or self.lru.used + size > self.max_bytes:
            return False
        database = self.keyspaces[db].database
        entry = Entry(key, kind, value, expire_at)
        entry.used_at = used_at
        self.lru.add(database, entry, size, False)
        if expire_at:
            self.time(entry, database)
        if isinstance(value, Collection) and value.due:
            self.file(entry, value)
        return True

    def set_policy(self, policy: str) -> None:
        """Evict by another policy from now on."""
        self.policy = POLICIES[policy]
        self.make_order()

    def make_order(self) -> None:
        """Make the order of use anew; sorts all keys."""
        entries = [
            entry
            for keyspace in self.keyspaces
            for shard in keyspace.database.shards
            for entry in shard.values()
        ]
        entries.sort(key=lambda entry: (entry.used_at, entry.seq))
        for entry in entries:
            self.lru.unlink(entry)
            if self.ordered(entry):
                self.lru.link(entry)

    def _victim(self, keep: Entry | None) -> Entry | None:
        """What goes next by the policy, but for ``keep``."""
        if self.policy == VOLATILE_TTL:  # keep is not among the timers
            return self.timers.first()
        entry = self.lru.oldest()
        return self.lru.after(entry) if entry is not None and entry is keep else entry

    def _evict(self, entry: Entry) -> None:
        self.evicted += 1
        self.drop(entry, "evicted")

    def expire(self, entry: Entry) -> None:
        self.expired += 1
        self.drop(entry, "expired")

    def drop(self, entry: Entry, event: str) -> None:
        """Take out an entry, and tell why, unless its database has been cleared."""
        database = entry.database
        assert database is not None
        self.untime(entry, database)
        self.lru.discard(entry)
        self.bury(entry, entry.value)
        if self.sink is not None and database.index != CLEARED:
            if self.sink.watching:
                if event == "expired":
                    self.sink.expired(database.index, entry.key)
                else:
                    self.sink.changed(database.index, entry.key)
            if self.sink.listening:
                self.sink.event(database.index, event, entry.key)

    def time(self, entry: Entry, database: Database) -> None:
        """File a key that expires."""
        self.timers.add(entry, entry.expire_at)
        database.expiring += 1

    def untime(self, entry: Entry, database: Database) -> None:
        """File a key no more, if it has been."""
        if entry.expire_at:
            self.timers.remove(entry, entry.expire_at)
            database.expiring -= 1

    def file(self, entry: Entry, value: Collection) -> None:
        """See to it that what expires in an entry's collection is taken out when it is due."""
        if value.filed:
            self.parts.remove(entry, value.filed)
        value.filed = value.due
        if value.due:
            self.parts.add(entry, value.due)

    def bury(self, entry: Entry, value: object) -> None:
        """Let go of what an entry held, and nobody else does: if it is large, ``cycle`` takes it down."""
        if isinstance(value, Collection):
            if value.filed:
                self.parts.remove(entry, value.filed)
                value.filed = 0
            if len(value) > LARGE:
                self._graves.append(value)

    def cycle(self, budget_ns: int) -> bool:
        """Expire, evict and clear for about ``budget_ns``; whether there is more to do."""
        deadline = time.perf_counter_ns() + budget_ns
        self.peak = max(self.peak, self.lru.used)
        while True:
            for _ in range(_SLICE):
                if not self._step():
                    return False
            if time.perf_counter_ns() >= deadline:
                return True

    def _step(self) -> bool:
        entry = self.timers.first()
        if entry is not None and entry.expire_at <= self.clock.ms and self.active_expire:
            self.expire(entry)
            return True
        entry = self.parts.first()
        if entry is not None:
            value = entry.value
            if not isinstance(value, Collection):  # it is another key's now
                self.parts.drop(entry)
                return True
            if value.filed <= self.clock.ms and self.active_expire:
                self._age(entry, value)
                return True
        if self._take_down():
            return True
        if self._graves:
            if not self._graves[-1].dismantle(LARGE):
                self._graves.pop()
            return True
        if self.lru.used > self.max_bytes:
            entry = self._victim(None)
            if entry is not None:
                self._evict(entry)
                return True
        return False

    def _age(self, entry: Entry, value: Collection) -> None:
        """Take out some of what has expired in an entry's collection; with the last the entry goes."""
        database = entry.database
        assert database is not None
        expired = value.purge(self.clock.ms, LARGE)
        self.lru.resize(entry, entry_size(entry.key, value))
        self.file(entry, value)
        if self.sink is not None and expired and database.index != CLEARED:
            if self.sink.watching:
                self.sink.changed(database.index, entry.key)
            if self.sink.listening:
                self.sink.event(database.index, "hexpired", entry.key)
        if not len(value):
            self.drop(entry, "del")

    def _take_down(self) -> bool:
        """Free an entry of a cleared database; whether there was one."""
        while self._cleared:
            database = self._cleared[-1]
            while database.shards:
                shard = database.shards[-1]
                if shard:
                    _, entry = shard.popitem()  # O(1), even where many have been taken out
                    self.untime(entry, database)
                    self.lru.forget(entry)
                    self.bury(entry, entry.value)
                    return True
                database.shards.pop()
            self._cleared.pop()
        return False

    def clear(self, db: int | None) -> int:
        """Empty one database, or all; how many keys went.  O(1): ``cycle`` takes the entries down."""
        cleared = 0
        for keyspace in self.keyspaces:
            if db is None or keyspace.db == db:
                old = keyspace.database
                if old.count:
                    cleared += old.count
                    old.index = CLEARED
                    self._cleared.append(old)
                    keyspace.database = Database(keyspace.db)
                if self.sink is not None and self.sink.watching:
                    self.sink.cleared(keyspace.db)
        return cleared

    def swap(self, first: int, second: int) -> None:
        """SWAPDB: exchange two databases."""
        one, two = self.keyspaces[first], self.keyspaces[second]
        one.database, two.database = two.database, one.database
        one.database.index, two.database.index = first, second
        if self.sink is not None and self.sink.watching:
            self.sink.cleared(first)
            self.sink.cleared(second)

    def size(self, db: int) -> int:
        return self.keyspaces[db].database.count

    def scan(
        self, db: int, position: tuple[int, int], limit: int
    ) -> tuple[list[Entry], tuple[int, int] | None]:
        """Live entries after ``position`` (shard, seq), about ``limit``; and where to go on, or ``None``.

        The walk is by shard and, within it, by order of creation, which a touch does not change: every
        key that stands throughout is met once.  ``(0, 0)`` is the beginning.
        """
        shards = self.keyspaces[db].database.shards
        number, seq = position
        found: list[Entry] = []
        now = self.clock.ms
        while number < SHARDS:
            for entry in shards[number].values():
                if entry.seq <= seq:
                    continue
                if len(found) >= limit:
                    return found, (number, seq)
                seq = entry.seq
                if not entry.expire_at or entry.expire_at > now:
                    found.append(entry)
            number += 1
            seq = 0
        return found, None

    def random_entry(self, db: int) -> Entry | None:
        """A live entry, any as likely as any other; ``None`` where none is found in a hundred draws."""
        database = self.keyspaces[db].database
        for _ in range(100):  # all may have expired and wait for the cycle
            if not database.count:
                return None
            number = random.randrange(database.count)
            for shard in database.shards:
                if number < len(shard):
                    entry = next(islice(shard.values(), number, None))
                    if not entry.expire_at or entry.expire_at > self.clock.ms:
                        return entry
                    self.expire(entry)
                    break
                number -= len(shard)
        return None


class MemoryKeyspace(Keyspace):
    """One database of a memory backend; what a handler changes is changed at once."""

    def __init__(self, backend: MemoryBackend, clock: Clock, db: int) -> None:
        super().__init__(clock, db)
        self.backend: MemoryBackend = backend
        self.lru: Lru = backend.lru
        self.database: Database = Database(db)

    def _live(self, key: bytes) -> Entry | None:
        entry = self.database.shards[hash(key) & MASK].get(key)
        if entry is None:
            return None
        if entry.expire_at and entry.expire_at <= self.clock.ms:
            self.backend.expire(entry)
            return None
        value = entry.value
        if isinstance(value, Collection) and value.due and value.spent(self.clock.ms):
            self.backend.drop(entry, "del")
            return None
        return entry

    def find(self, key: bytes) -> Entry | None:
        # As _live, without the call: most commands come through here.
        backend = self.backend
        entry = self.database.shards[hash(key) & MASK].get(key)
        if entry is None:
            backend.misses += 1
            return None
        now = self.clock.ms
        if entry.expire_at and entry.expire_at <= now:
            backend.expire(entry)
            backend.misses += 1
            return None
        backend.hits += 1
        if backend.touching:
            entry.used_at = now
            self.lru.touch(entry)
        return entry

    def edit(self, key: bytes) -> Entry | None:
        entry = self._live(key)
        if entry is not None and self.backend.touching:
            entry.used_at = self.clock.ms
            self.lru.touch(entry)
        return entry

    def peek(self, key: bytes) -> Entry | None:
        return self._live(key)

    def put(self, key: bytes, kind: int, value: object, expire_at: int = 0) -> None:
        backend = self.backend
        policy = backend.policy_of_all
        if policy is None:
            policy = backend.policies.find(key)
        # As entry_size, where it can be told at once.
        size = len(key) + len(value) + BYTES_ENTRY if isinstance(value, bytes) else entry_size(key, value)
        now = self.clock.ms
        if size > policy.max_value:  # never less than the value's own
            check_size(policy, value)
        if not expire_at and policy.ttl:
            expire_at = now + policy.ttl
        # As _live, without the call: most writes come through here.
        entry = self.database.shards[hash(key) & MASK].get(key)
        if entry is not None and entry.expire_at and entry.expire_at <= now:
            backend.expire(entry)
            entry = None
        sink = backend.sink
        if sink is not None and sink.watching:
            sink.changed(self.db, key)
        if entry is None:
            if self.lru.used + size > backend.max_bytes:
                backend.make_room(size, None)
            entry = Entry(key, kind, value, expire_at)
            entry.used_at = now
            self.lru.add(self.database, entry, size, backend.ordered(entry))
            if expire_at:
                backend.time(entry, self.database)
            if isinstance(value, Collection) and value.due:
                backend.file(entry, value)
            return
        if backend.touching:
            entry.used_at = now
            # As Lru.touch, without the call.
            newer = entry.next
            older = entry.prev
            ends = self.lru.ends
            if newer is not None and older is not None and newer is not ends:
                older.next = newer
                newer.prev = older
                newest = ends.prev
                assert newest is not None
                newest.next = ends.prev = entry
                entry.prev = newest
                entry.next = ends
        if size != entry.size:
            if self.lru.used + size - entry.size > backend.max_bytes:
                backend.make_room(size - entry.size, entry)
            self.lru.resize(entry, size)
        old = entry.value
        entry.kind = kind
        entry.value = value
        if not isinstance(old, bytes):
            backend.bury(entry, old)
        if isinstance(value, Collection) and value.due:
            backend.file(entry, value)
        if entry.expire_at != expire_at:
            self.expire(entry, expire_at)

    def admit(self, keys: list[bytes], values: list[bytes]) -> None:
        backend = self.backend
        more = 0
        for key, value in zip(keys, values, strict=True):
            check_size(backend.policies.find(key), value)
            entry = self._live(key)
            more += entry_size(key, value) - (0 if entry is None else entry.size)
        if self.lru.used + more > backend.max_bytes:
            backend.make_room(more, None)

    def reserve(self, key: bytes, entry: Entry | None, more: int) -> None:
        backend = self.backend
        check_growth(backend.policies.find(key), entry, more)
        if entry is None:
            more += ENTRY_OVERHEAD + len(key)
        if self.lru.used + more > backend.max_bytes:
            backend.make_room(more, entry)

    def policy(self, key: bytes) -> KeyPolicy:
        policy = self.backend.policies.find(key)
        if policy.foreign:
            raise foreign_key(key, self.backend.name)
        return policy

    def make_room(self, more: int) -> None:
        backend = self.backend
        if self.lru.used + more > backend.max_bytes:
            backend.make_room(more, None)

    def update(self, entry: Entry, value: object) -> None:
        backend = self.backend
        self._changed(entry.key)
        size = entry_size(entry.key, value)
        if isinstance(value, Collection):  # ``reserve`` was asked; what else it holds is left to the cycle
            self.lru.resize(entry, size)
            entry.value = value
            if value.due != value.filed:
                backend.file(entry, value)
            return
        check_size(backend.policies.find(entry.key), value)
        if self.lru.used + size - entry.size > backend.max_bytes:
            backend.make_room(size - entry.size, entry)
        self.lru.resize(entry, size)
        entry.value = value

    def expire(self, entry: Entry, expire_at: int) -> None:
        backend = self.backend
        self._changed(entry.key)
        backend.untime(entry, self.database)
        if backend.policy == VOLATILE_LRU and (entry.expire_at == 0) != (expire_at == 0):
            if expire_at:
                self.lru.link(entry)
            else:
                self.lru.unlink(entry)
        entry.expire_at = expire_at
        if expire_at:
            backend.time(entry, self.database)

    def remove(self, key: bytes) -> bool:
        entry = self._live(key)
        if entry is None:
            return False
        self.backend.untime(entry, self.database)
        self.lru.discard(entry)
        self.backend.bury(entry, entry.value)
        self._changed(key)
        return True

    def _changed(self, key: bytes) -> None:
        sink = self.backend.sink
        if sink is not None and sink.watching:
            sink.changed(self.db, key)

    def at(self, db: int) -> Keyspace:
        return self.backend.keyspaces[db]

    def event(self, name: str, key: bytes) -> None:
        sink = self.backend.sink
        if sink is not None and sink.listening:
            sink.event(self.db, name, key)

    def publish(self, shard: bool, channel: bytes, message: bytes) -> None:
        sink = self.backend.sink
        if sink is not None:
            db, name, data = message_event(shard, channel, message)
            sink.event(db, name, data)
