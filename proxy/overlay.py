"""A keyspace over another one that keeps its changes to itself until they are applied.

A script runs on one, so that it can be stopped anywhere: nothing of it has happened then.  What is changed
is a copy, and what is only read is the other keyspace's own.
"""

from __future__ import annotations

from proxy.datatypes.collection import Collection
from proxy.keyspace import (
    SHARD_MESSAGE,
    KeyPolicy,
    Keyspace,
    Unloaded,
    check_growth,
    check_size,
    message_event,
)
from proxy.lru import Entry, entry_size


class Edit:
    """What has become of one key; ``entry`` is None once it is removed."""

    def __init__(self, entry: Entry | None) -> None:
        self.entry: Entry | None = entry
        self.own: bool = False  # the value may be changed: nobody else has it
        self.valued: bool = False  # the value was changed
        self.timed: bool = False  # when it expires was changed


class Changes:
    """The changes of all databases, in the order in which keys were first changed."""

    def __init__(self) -> None:
        self.edits: dict[tuple[int, bytes], Edit] = {}
        self.events: list[tuple[int, str, bytes]] = []
        self.growth: int = 0  # bytes that they need beyond what is there


class Overlay(Keyspace):
    """One database of them."""

    def __init__(self, base: Keyspace, changes: Changes) -> None:
        super().__init__(base.clock, base.db)
        self.base: Keyspace = base
        self.changes: Changes = changes

    def _edit_of(self, key: bytes) -> Edit | None:
        edit = self.changes.edits.get((self.db, key))
        if edit is not None:
            entry = edit.entry
            if entry is not None and entry.expire_at and entry.expire_at <= self.clock.ms:
                edit.entry = None
                edit.valued = True
        return edit

    def _begin(self, key: bytes, entry: Entry | None) -> Edit:
        edit = self.changes.edits[self.db, key] = Edit(entry)
        return edit

    def find(self, key: bytes) -> Entry | None:
        edit = self._edit_of(key)
        if edit is None:
            self.base.policy(key)
            return self.base.find(key)
        entry = edit.entry
        if entry is not None and isinstance(entry.value, Unloaded):
            self._load(entry)
        return entry

    def _load(self, entry: Entry) -> None:
        whole = self.base.find(entry.key)
        assert whole is not None
        entry.value = whole.value

    def edit(self, key: bytes) -> Entry | None:
        edit = self._edit_of(key)
        if edit is None:
            self.base.policy(key)
            theirs = self.base.edit(key)
            if theirs is None:
                return None
            edit = self._begin(key, _twin(theirs))
        entry = edit.entry
        if entry is None:
            return None
        if isinstance(entry.value, Unloaded):
            self._load(entry)
        if not edit.own:
            entry.value = _copy(entry.value)
            edit.own = True
        return entry

    def peek(self, key: bytes) -> Entry | None:
        edit = self._edit_of(key)
        if edit is not None:
            return edit.entry
        self.base.policy(key)
        return self.base.peek(key)

    def put(self, key: bytes, kind: int, value: object, expire_at: int = 0) -> None:
        policy = self.base.policy(key)
        check_size(policy, value)
        self._grow(entry_size(key, value))
        if not expire_at and policy.ttl:
            expire_at = self.clock.ms + policy.ttl
        edit = self._edit_of(key)
        if edit is None:
            edit = self._begin(key, None)
        entry = edit.entry = Entry(key, kind, value, expire_at)
        entry.used_at = self.clock.ms
        edit.own = edit.valued = edit.timed = True

    def admit(self, keys: list[bytes], values: list[bytes]) -> None:
        more = 0
        for key, value in zip(keys, values, strict=True):
            check_size(self.base.policy(key), value)
            more += entry_size(key, value)
        self.base.make_room(self.changes.growth + more)

    def reserve(self, key: bytes, entry: Entry | None, more: int) -> None:
        check_growth(self.base.policy(key), entry, more)
        self._grow(more if entry is not None else more + entry_size(key, b""))

    def _grow(self, more: int) -> None:
        """Refuse what does not fit beside what was changed before; overwritten values count until the end."""
        self.base.make_room(self.changes.growth + more)
        self.changes.growth += more

    def update(self, entry: Entry, value: object) -> None:
        check_size(self.base.policy(entry.key), value)
        edit = self.changes.edits[self.db, entry.key]
        assert edit.entry is entry
        if not isinstance(value, Collection):
            self._grow(entry_size(entry.key, value))
        entry.value = value
        edit.own = edit.valued = True

    def expire(self, entry: Entry, expire_at: int) -> None:
        edit = self._edit_of(entry.key)
        if edit is None:
            edit = self._begin(entry.key, _twin(entry))
        assert edit.entry is not None
        edit.entry.expire_at = expire_at
        edit.timed = True

    def remove(self, key: bytes) -> bool:
        edit = self._edit_of(key)
        there = edit.entry if edit is not None else self.peek(key)
        if there is None:
            return False
        if edit is None:
            edit = self._begin(key, None)
        edit.entry = None
        edit.valued = True
        return True

    def policy(self, key: bytes) -> KeyPolicy:
        return self.base.policy(key)

    def make_room(self, more: int) -> None:
        self.base.make_room(self.changes.growth + more)

    def at(self, db: int) -> Overlay:
        return Overlay(self.base.at(db), self.changes)

    def event(self, name: str, key: bytes) -> None:
        self.changes.events.append((self.db, name, key))

    def publish(self, shard: bool, channel: bytes, message: bytes) -> None:
        self.changes.events.append(message_event(shard, channel, message))

    def edited(self) -> list[tuple[bytes, Entry | None]]:
        """The keys of this database that may have changed, each with its entry as it is now."""
        keys = [key for db, key in self.changes.edits if db == self.db]
        return [(key, edit.entry) for key in keys if (edit := self._edit_of(key)) is not None]

    def apply(self) -> bool:
        """Make the changes; whether there were any.  Nothing of it is refused: that was asked before."""
        edits = [item for item in self.changes.edits.items() if item[1].valued or item[1].timed]
        for (db, key), edit in edits:  # room first
            if edit.entry is None:
                self.base.at(db).remove(key)
        for (db, _), edit in edits:
            if edit.entry is not None:
                _apply(self.base.at(db), edit.entry, edit.valued)
        for db, name, key in self.changes.events:
            if db < 0:
                self.base.publish(db == SHARD_MESSAGE, name.encode("latin-1"), key)
            else:
                self.base.at(db).event(name, key)
        return bool(edits)


def _apply(base: Keyspace, made: Entry, valued: bool) -> None:
    if valued:
        base.put(made.key, made.kind, made.value, made.expire_at)
    entry = base.peek(made.key)  # it may have been evicted to make room for another
    if entry is not None and entry.expire_at != made.expire_at:
        base.expire(entry, made.expire_at)


def _twin(entry: Entry) -> Entry:
    """An entry that is in no database, with the same value."""
    twin = Entry(entry.key, entry.kind, entry.value, entry.expire_at)
    twin.used_at = entry.used_at
    return twin


def _copy(value: object) -> object:
    if isinstance(value, Collection):
        return value.copy()
    return bytes(value) if isinstance(value, bytearray) else value
