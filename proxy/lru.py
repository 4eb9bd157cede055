"""Entries, databases, and the order of last use that bounds them.

These hold the memory backend's keys and the near cache's copies.  A plain dict as an LRU leaves holes
where entries were taken out, so that finding the oldest becomes O(n), and one large dict stalls the
loop for hundreds of milliseconds when it is resized: so the order is a linked list through the entries
themselves, and a database is many small dicts.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import mypyc_attr

from proxy.datatypes.collection import Collection

BYTES_OVERHEAD: Final = 33  # of a bytes object
# Measured on 64-bit CPython, compiled: an Entry, its dict slot at mean load, the allocator's rounding.
ENTRY_OVERHEAD: Final = 216
BYTES_ENTRY: Final = ENTRY_OVERHEAD + 2 * BYTES_OVERHEAD  # with a key and a value of no bytes

SHARDS: Final = 1024  # a power of two; with ten million keys each dict still resizes within a millisecond
MASK: Final = SHARDS - 1

# In plain Python a number is an object: entries of one size share it, which is smaller and is in the CPU's
# caches.
_SIZES: Final = list(range(4096))


# Entries link to each other in circles, but are always unlinked by hand: without the collector's header
# they are smaller, and a million of them cost a collection nothing.
@mypyc_attr(acyclic=True)
class Entry:
    """One key's value and what goes with it.

    ``value`` is ``bytes`` for a string, or a ``bytearray`` where it has been changed in place (which
    makes ``APPEND`` amortised O(1)).  Times are milliseconds since the epoch, 0: never.
    """

    __slots__ = ("database", "expire_at", "key", "kind", "next", "prev", "seq", "size", "used_at", "value")

    def __init__(self, key: bytes, kind: int, value: object, expire_at: int) -> None:
        self.key: bytes = key
        self.kind: int = kind
        self.value: object = value
        self.expire_at: int = expire_at
        self.size: int = 0  # bytes that its holder accounts for it
        self.used_at: int = 0  # last access
        self.seq: int = 0  # order of creation
        self.database: Database | None = None
        self.prev: Entry | None = None
        self.next: Entry | None = None


class Database:
    """The entries of one database number, by key.

    ``shards`` are to be indexed by ``hash(key) & MASK``.  A dict that nothing is ever moved in keeps its
    keys in the order of ``seq``, which is what a walk goes by.
    """

    def __init__(self, index: int) -> None:
        self.index: int = index
        self.count: int = 0
        self.expiring: int = 0  # entries that their holder has filed by when they expire
        self.shards: list[dict[bytes, Entry]] = [{} for _ in range(SHARDS)]

    def get(self, key: bytes) -> Entry | None:
        return self.shards[hash(key) & MASK].get(key)


class Lru:
    """Entries of any number of databases, linked from the oldest to the newest use; all O(1).

    ``used`` is the sum of their sizes in bytes.  Whether an entry is in the order is its holder's
    choice (``linked``): a policy may evict only some.
    """

    def __init__(self) -> None:
        self.used: int = 0
        self.count: int = 0
        self._created: int = 0
        self.ends: Entry = Entry(b"", 0, None, 0)  # next: the oldest; prev: the newest
        self.ends.next = self.ends.prev = self.ends

    def add(self, database: Database, entry: Entry, size: int, linked: bool) -> None:
        """Put in an entry whose key is not there yet."""
        key = entry.key
        database.shards[hash(key) & MASK][key] = entry
        database.count += 1
        self._created += 1
        self.count += 1
        self.used += size
        entry.seq = self._created
        entry.database = database
        entry.size = _SIZES[size] if size < len(_SIZES) else size
        if linked:
            self.link(entry)

    def discard(self, entry: Entry) -> None:
        """Take out an entry that is in."""
        database = entry.database
        assert database is not None
        key = entry.key
        del database.shards[hash(key) & MASK][key]
        self.forget(entry)

    def forget(self, entry: Entry) -> None:
        """Let go of an entry that its database's shard has let go of."""
        database = entry.database
        assert database is not None
        database.count -= 1
        self.count -= 1
        self.used -= entry.size
        entry.database = None
        self.unlink(entry)

    def resize(self, entry: Entry, size: int) -> None:
        self.used += size - entry.size
        entry.size = _SIZES[size] if size < len(_SIZES) else size

    def touch(self, entry: Entry) -> None:
        """Make an entry the newest, if it is in the order."""
        ends = self.ends
        after = entry.next
        before = entry.prev
        if after is None or before is None or after is ends:
            return
        before.next = after
        after.prev = before
        # As link, without the call: most commands come through here.
        newest = ends.prev
        assert newest is not None
        newest.next = entry
        entry.prev = newest
        entry.next = ends
        ends.prev = entry

    def link(self, entry: Entry) -> None:
        """Bring an entry that is not in the order into it, as the newest."""
        ends = self.ends
        newest = ends.prev
        assert newest is not None
        newest.next = entry
        entry.prev = newest
        entry.next = ends
        ends.prev = entry

    def unlink(self, entry: Entry) -> None:
        """Take an entry out of the order, if it is in it."""
        before = entry.prev
        after = entry.next
        if before is not None and after is not None:
            before.next = after
            after.prev = before
            entry.prev = entry.next = None

    def oldest(self) -> Entry | None:
        return self.after(self.ends)

    def after(self, entry: Entry) -> Entry | None:
        """The next newer one in the order."""
        newer = entry.next
        return None if newer is self.ends else newer


def value_size(value: object) -> int:
    """Bytes of memory that a value holds."""
    if isinstance(value, (bytes, bytearray)):
        return len(value) + BYTES_OVERHEAD
    return value.size if isinstance(value, Collection) else 0


def entry_size(key: bytes, value: object) -> int:
    """Bytes of memory that an entry holds, all in all."""
    if isinstance(value, bytes):
        return BYTES_ENTRY + len(key) + len(value)
    return ENTRY_OVERHEAD + len(key) + BYTES_OVERHEAD + value_size(value)
