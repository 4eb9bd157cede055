"""Keyspaces for the tests of handlers."""

from __future__ import annotations

from collections.abc import Sequence

from backends.base import Want
from backends.memory import MemoryBackend
from proxy.clock import ManualClock
from proxy.errors import NeedKeys
from proxy.keyspace import UNLOADED, EventSink, KeyPolicy, Keyspace
from proxy.lru import Entry
from proxy.prefixes import PrefixMap


def make_memory(
    max_bytes: int = 2**40, routes: Sequence[tuple[bytes, KeyPolicy]] = (), policy: str = "allkeys-lru"
) -> tuple[Keyspace, ManualClock]:
    """Database 0 of a memory backend, and its clock."""
    clock = ManualClock()
    policies = PrefixMap([(b"", KeyPolicy(ttl=0, max_value=2**40)), *routes])
    return MemoryBackend("hot", max_bytes, policy, clock, policies).keyspaces[0], clock


class Told(EventSink):
    """Keeps the names of the events."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def event(self, db: int, name: str, key: bytes) -> None:
        self.names.append(name)

    def changed(self, db: int, key: bytes) -> None: ...

    def cleared(self, db: int) -> None: ...


class PartlyLoaded(Keyspace):
    """Shows of another keyspace only what has been loaded, as a cold tier does, and asks for the rest.

    A handler that asks once it has changed something could not run anew: that fails.
    """

    def __init__(self, inner: Keyspace, known: dict[tuple[int, bytes], int]) -> None:
        super().__init__(inner.clock, inner.db)
        self.inner = inner
        self.known = known
        self.changes: list[str] = []

    def require(self, key: bytes, want: int) -> None:
        if self.known.get((self.db, key), Want.NOTHING) < want:
            assert not self.changes, f"{key!r} is asked for after {self.changes}"
            raise NeedKeys(self.db, [key], want)

    def find(self, key: bytes) -> Entry | None:
        self.require(key, Want.VALUE)
        return self.inner.find(key)

    def edit(self, key: bytes) -> Entry | None:
        self.require(key, Want.VALUE)
        return self.inner.edit(key)

    def peek(self, key: bytes) -> Entry | None:
        self.require(key, Want.META)
        entry = self.inner.peek(key)
        if entry is None or self.known[self.db, key] > Want.META:
            return entry
        return Entry(key, entry.kind, UNLOADED, entry.expire_at)

    def put(self, key: bytes, kind: int, value: object, expire_at: int = 0) -> None:
        self.changes.append("put")
        self.inner.put(key, kind, value, expire_at)
        self.known[self.db, key] = Want.VALUE

    def admit(self, keys: list[bytes], values: list[bytes]) -> None:
        self.inner.admit(keys, values)

    def reserve(self, key: bytes, entry: Entry | None, more: int) -> None:
        self.inner.reserve(key, entry, more)

    def policy(self, key: bytes) -> KeyPolicy:
        return self.inner.policy(key)

    def make_room(self, more: int) -> None:
        self.inner.make_room(more)

    def update(self, entry: Entry, value: object) -> None:
        self.changes.append("update")
        self.inner.update(entry, value)

    def expire(self, entry: Entry, expire_at: int) -> None:
        self.changes.append("expire")
        own = self.inner.peek(entry.key)
        assert own is not None
        self.inner.expire(own, expire_at)

    def remove(self, key: bytes) -> bool:
        self.require(key, Want.META)
        self.changes.append("remove")
        return self.inner.remove(key)

    def at(self, db: int) -> Keyspace:
        other = PartlyLoaded(self.inner.at(db), self.known)
        other.changes = self.changes
        return other

    def event(self, name: str, key: bytes) -> None:
        self.inner.event(name, key)
