"""A keyspace over another one that keeps its changes to itself until they are applied.

A script runs on one, so that it can be stopped anywhere: nothing of it has happened then.  Keys stand in the
other keyspace as they were until the end.  A value that can be changed in place is taken from there first,
and given back at the end; if the script is stopped, what was done to it is undone (``UNDO``).
"""

from __future__ import annotations

from proxy.datatypes.collection import Collection
from proxy.datatypes.undo import NO_LIMIT, UNDO
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
        self.theirs: Entry | None = None  # what the other keyspace has, if its value was taken from it
        self.taken: object = None
        self.valued: bool = False  # the value was changed
        self.timed: bool = False  # when it expires was changed

    def take(self, theirs: Entry) -> None:
        """Get their value: what can be changed in place alone, so that it stays whole if it is evicted."""
        assert self.entry is not None
        value = self.entry.value = theirs.value
        if isinstance(value, (Collection, bytearray)):
            self.theirs = theirs
            self.taken = value
            theirs.value = None

    def give_back(self, there: Entry | None, moved: set[int]) -> bool:
        """Let them have it again, who have ``there`` now; whether they could take it.

        Not if its key was evicted, or if it is among those that are another key's now, by their ids.
        """
        theirs, self.theirs = self.theirs, None
        if theirs is None or theirs is not there or id(self.taken) in moved:
            return False
        theirs.value = self.taken
        return True


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
        if edit is None or (edit.theirs is None and not edit.valued):  # the value is theirs as yet
            self.base.policy(key)
            theirs = self.base.edit(key)
            if theirs is not None:
                if edit is None:
                    edit = self._begin(key, _twin(theirs))
                edit.take(theirs)
        return None if edit is None else edit.entry

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
        entry.size = entry_size(key, value)
        edit.valued = edit.timed = True

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
            size = entry_size(entry.key, value)
            self._grow(size - entry.size if value is entry.value else size)
            entry.size = size
        entry.value = value
        edit.valued = True

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

    def begin(self, limit: int = NO_LIMIT) -> None:
        """To be called before anything is changed, for ``undo``; ``apply`` ends it.

        A change raises ``UndoLimit`` where it would take more than so many bytes to undo all.
        """
        UNDO.begin(limit)

    def undo(self) -> None:
        """Have nothing of it happen."""
        UNDO.undo()
        self._give_back(set())

    def _give_back(self, moved: set[int]) -> None:
        for (db, key), edit in self.changes.edits.items():
            if edit.theirs is not None:
                edit.give_back(self.base.at(db).peek(key), moved)

    def apply(self) -> bool:
        """Make the changes; whether there were any.  Nothing of it is refused: that was asked before."""
        UNDO.end()
        edits = list(self.changes.edits.items())
        moved = {
            id(edit.entry.value) for _, edit in edits if edit.entry and edit.entry.value is not edit.taken
        }
        try:
            for (db, key), edit in edits:  # room first
                if edit.entry is None:
                    _apply(self.base.at(db), key, edit, moved)
            for (db, key), edit in edits:
                if edit.entry is not None:
                    _apply(self.base.at(db), key, edit, moved)
        finally:
            self._give_back(moved)
        for db, name, key in self.changes.events:
            if db < 0:
                self.base.publish(db == SHARD_MESSAGE, name.encode("latin-1"), key)
            else:
                self.base.at(db).event(name, key)
        return any(edit.valued or edit.timed for _, edit in edits)


def _apply(base: Keyspace, key: bytes, edit: Edit, moved: set[int]) -> None:
    theirs = base.peek(key) if edit.theirs is not None else None
    same = edit.give_back(theirs, moved)
    made = edit.entry
    if made is None:
        base.remove(key)
        return
    if edit.valued:
        if same and theirs is not None and theirs.value is made.value:
            base.update(theirs, made.value)
        else:
            base.put(key, made.kind, made.value, made.expire_at)
    if edit.valued or edit.timed:
        entry = base.peek(key)  # it may have been evicted to make room for another
        if entry is not None and entry.expire_at != made.expire_at:
            base.expire(entry, made.expire_at)


def _twin(entry: Entry) -> Entry:
    """An entry that is in no database, with the same value."""
    twin = Entry(entry.key, entry.kind, entry.value, entry.expire_at)
    twin.used_at = entry.used_at
    twin.size = entry.size
    return twin
