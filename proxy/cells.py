"""What is known of the keys that are at work on a cold tier, and what their handlers see of it.

A ``Cell`` is one key, a ``Job`` one command; a ``WorkingSet`` is the keyspace of a job.  A key that is
not at work may have a ``Copy`` in the near cache (``proxy.nearcache``), where reading handlers see it as
``CachedKey``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from mypy_extensions import mypyc_attr

from backends.base import ABSENT, Key, Op, Token, Waiter, Want
from backends.codecs import Hash
from backends.samples import Samples
from backends.seal import SealPolicy
from proxy.clock import Clock
from proxy.datatypes.chunking import Chunked
from proxy.datatypes.collection import Collection
from proxy.errors import CommandError, NeedKeys
from proxy.keyspace import KeyPolicy, Keyspace, Unloaded, check_growth, check_size, message_event
from proxy.lru import Entry
from proxy.resp import Argv, Reply

FEW: Final = 8  # cells among which looking for one is quicker than making an index

NOTHING: Final = Want.NOTHING.value
META: Final = Want.META.value
VALUE: Final = Want.VALUE.value

NO_OP: Final = 0
PUT: Final = Op.PUT.value
DELETE: Final = Op.DELETE.value
EXPIRE: Final = Op.EXPIRE.value

Handler = Callable[[Keyspace, Argv], Reply]
Step = tuple["Job", Reply]


class ColdPolicy(KeyPolicy):
    """What a cold route asks of its keys.

    ``seal`` changes when a dictionary was trained for the route; ``samples`` are what it is trained from.
    """

    def __init__(
        self,
        ttl: int,
        max_value: int,
        seal: SealPolicy,
        cache: bool,
        cache_ttl: int,
        foreign: bool = False,
        chunk_over: int = 0,
        chunk_size: int = 0,
    ) -> None:
        super().__init__(ttl, max_value, foreign)
        self.seal: SealPolicy = seal
        self.cache: bool = cache
        self.cache_ttl: int = cache_ttl  # ms, 0: no bound
        self.samples: Samples | None = None
        self.chunk_over: int = chunk_over  # bytes; larger collections are kept in chunks, unless it is 0
        self.chunk_size: int = chunk_size  # bytes of one, about
        self._chunk_seal: SealPolicy = seal

    def chunk_seal(self) -> SealPolicy:
        """How chunks are sealed: their root has their digests."""
        if self._chunk_seal.dictionary_id != self.seal.dictionary_id or self._chunk_seal is self.seal:
            self._chunk_seal = replace(self.seal, hash=Hash.NONE)
        return self._chunk_seal


@mypyc_attr(acyclic=True)
class Copy(Entry):
    """An entry as the store has it, with the token of the write that it is a copy of."""

    __slots__ = ("cached_at", "era", "token")

    def __init__(self, key: bytes, kind: int, value: object, expire_at: int, token: Token) -> None:
        super().__init__(key, kind, value, expire_at)
        self.token: Token = token
        self.cached_at: int = 0
        self.era: int = 0  # of the near cache's, in which it was put there


def has_expired(entry: Entry, now: int) -> bool:
    """Whether a key has expired, or all that it holds has."""
    if entry.expire_at and entry.expire_at <= now:
        return True
    value = entry.value
    return isinstance(value, Collection) and value.due != 0 and value.spent(now)


class Cell:
    """One key at work: what is known of it, what was changed, and who waits for it."""

    def __init__(self, key: Key, policy: ColdPolicy) -> None:
        self.key: Key = key
        self.policy: ColdPolicy = policy
        self.queue: deque[Job] = deque()
        self.known: int = NOTHING  # how much of the record
        self.wanted: int = NOTHING  # how much a load that is under way brings
        self.entry: Entry | None = None  # with NOTHING known: what a blind write has put there
        self.token: Token = ABSENT
        self.change: int = NO_OP
        self.blind: bool = False  # the change does not depend on what was there
        self.damage: str = ""  # why the value can't be read: the error's text
        self.stale: bool = False  # the store was cleared since the work on what is known began
        self.outdated: bool = False  # another has changed the key since
        self.kept: Copy | None = None  # a copy that is good if the store still has the write that it is of
        self.replaced: bool = False  # the change puts another value in place of the one that is there

    def forget(self) -> None:
        """Drop what is known and what was changed: it is not, or may not be, as the store has it."""
        self.known = NOTHING
        self.entry = None
        self.kept = None
        self.replaced = False
        self.change = NO_OP
        self.blind = False
        self.damage = ""


class Order:
    """The writes of one client on one home, which take effect in the order in which it sent them."""

    def __init__(self) -> None:
        self.last: Job | None = None


class Job:
    """One command at work on one or several keys."""

    def __init__(
        self, waiter: Waiter, handler: Handler, argv: Argv, db: int, need: int, cells: list[Cell]
    ) -> None:
        self.waiter: Waiter = waiter
        self.handler: Handler = handler
        self.argv: Argv = argv
        self.db: int = db
        self.need: int = need
        self.cells: list[Cell] = cells
        self.blocked: int = 0  # cells at which others are before it
        self.loading: int = 0  # cells that are being loaded
        self.tries: int = 0
        # A write's place among those of its client (see Order).
        self.before: Job | None = None  # the one before it, until that is done
        self.after: Job | None = None
        self.rank: int = 0  # of the step of a store's commit that it belongs to
        self.placed: bool = False  # no write that is sent to the store later can overtake it
        self.waiting: bool = False  # has all that it needs but its place
        self.alone: bool = False  # it shares no step with those before it
        self.whole: bool = False  # it runs on values of which all chunks are loaded
        self.done: bool = False
        self.then: Callable[[], None] | None = None  # what waits for it to be done


class WorkingSet(Keyspace):
    """What a handler sees on a cold tier: the cells of the job at work."""

    def __init__(self, clock: Clock, db: int, cells: list[Cell]) -> None:
        super().__init__(clock, db)
        self.cells: list[Cell] = cells
        self.effects: list[tuple[int, str, bytes]] = []
        self.changed: list[bytes] = []  # keys, as often as they were
        self._index: dict[Key, Cell] | None = None  # where the cells are too many to look through

    def _cell(self, key: bytes, want: int) -> Cell:
        """The key's cell, with at least ``want`` known of it or put into it."""
        found: Cell | None = None
        if len(self.cells) > FEW:
            if self._index is None:
                self._index = {cell.key: cell for cell in self.cells}
            found = self._index.get(Key(self.db, key))
        else:
            for cell in self.cells:
                if cell.key.name == key and cell.key.db == self.db:
                    found = cell
                    break
        if found is None or (found.known < want and not found.change):
            raise NeedKeys(self.db, [key], want)
        if found.entry is not None:
            self._expire(found, found.entry)
        return found

    def _expire(self, cell: Cell, entry: Entry) -> None:
        if has_expired(entry, self.clock.ms):
            cell.entry = None
            if not cell.change:
                cell.known = VALUE
                cell.token = ABSENT
                cell.damage = ""
            else:
                cell.change = DELETE if cell.blind or cell.token != ABSENT else NO_OP

    def find(self, key: bytes) -> Entry | None:
        cell = self._cell(key, VALUE)
        if cell.damage:
            raise CommandError(cell.damage)
        entry = cell.entry
        if entry is not None and isinstance(entry.value, Unloaded):
            raise NeedKeys(self.db, [key], VALUE)
        return entry

    def edit(self, key: bytes) -> Entry | None:
        entry = self.edit_part(key)
        if entry is not None:
            _whole(entry.value)
        return entry

    def edit_part(self, key: bytes) -> Entry | None:
        entry = self.find(key)
        if entry is not None and not self._cell(key, VALUE).policy.chunk_over:
            _whole(entry.value)  # it will be stored in one piece
        return entry

    def load_whole(self) -> None:
        """Raise NeedChunks unless all that is known of the keys is loaded."""
        for cell in self.cells:
            if cell.entry is not None:
                _whole(cell.entry.value)

    def peek(self, key: bytes) -> Entry | None:
        cell = self._cell(key, META)
        entry = cell.entry
        if entry is not None and not cell.policy.chunk_over:
            _whole(entry.value)  # as above, if only when it expires is changed
        return entry

    def put(self, key: bytes, kind: int, value: object, expire_at: int = 0) -> None:
        cell = self._cell(key, NOTHING)
        check_size(cell.policy, value)
        _whole(value)
        if isinstance(value, Chunked) and value.chunked:
            value.detach()  # they are another key's
        cell.replaced = True
        self.changed.append(key)
        if not expire_at and cell.policy.ttl:
            expire_at = self.clock.ms + cell.policy.ttl
        if cell.known == NOTHING:
            cell.blind = True
        cell.entry = Copy(key, kind, value, expire_at, ABSENT)
        cell.change = PUT
        cell.damage = ""

    def admit(self, keys: list[bytes], values: list[bytes]) -> None:
        for key, value in zip(keys, values, strict=True):
            check_size(self._cell(key, NOTHING).policy, value)

    def reserve(self, key: bytes, entry: Entry | None, more: int) -> None:
        check_growth(self._cell(key, NOTHING).policy, entry, more)

    def policy(self, key: bytes) -> KeyPolicy:
        return self._cell(key, NOTHING).policy

    def make_room(self, more: int) -> None:
        pass

    def update(self, entry: Entry, value: object) -> None:
        cell = self._cell(entry.key, VALUE)
        check_size(cell.policy, value)
        self.changed.append(entry.key)
        entry.value = value
        cell.change = PUT

    def expire(self, entry: Entry, expire_at: int) -> None:
        cell = self._cell(entry.key, META)
        value = entry.value
        if not cell.policy.chunk_over:
            _whole(value)
        self.changed.append(entry.key)
        entry.expire_at = expire_at
        if isinstance(value, Collection) and (value.due or (value.chunked and not cell.policy.chunk_over)):
            # When the record expires is not for the key alone to say; behind a journal, a root alone is no
            # whole value: its chunks could be swept before it is flushed.
            cell.change = PUT
        elif cell.change != PUT:
            cell.change = EXPIRE

    def remove(self, key: bytes) -> bool:
        cell = self._cell(key, META)
        if cell.entry is None:
            return False
        self.changed.append(key)
        cell.entry = None
        # A key that only this step has made needs no deleting, unless what stood there is not known.
        cell.change = NO_OP if not cell.blind and cell.token == ABSENT else DELETE
        cell.damage = ""
        return True

    def at(self, db: int) -> Keyspace:
        other = WorkingSet(self.clock, db, self.cells)
        other.effects = self.effects
        other.changed = self.changed
        return other

    def event(self, name: str, key: bytes) -> None:
        self.effects.append((self.db, name, key))

    def publish(self, shard: bool, channel: bytes, message: bytes) -> None:
        self.effects.append(message_event(shard, channel, message))

    def token(self, key: bytes) -> Token:
        """The write that the key is at, or ABSENT; only before the job changes it.

        What those before it have changed in the same run has no token yet: it waits for their commit.
        """
        cell = self._cell(key, META)
        if cell.change:
            raise NeedKeys(self.db, [key], META)
        return cell.token


def _whole(value: object) -> None:
    """Raise NeedChunks unless all of a value is loaded."""
    if isinstance(value, Collection) and value.chunked:
        value.whole()


class CachedKey(Keyspace):
    """What a reading handler sees of one key that stands in the near cache."""

    def __init__(self, clock: Clock, db: int) -> None:
        super().__init__(clock, db)
        self.entry: Entry | None = None

    def find(self, key: bytes) -> Entry | None:
        entry = self.entry
        if entry is None or entry.key != key:
            raise NeedKeys(self.db, [key], VALUE)
        return entry

    def edit(self, key: bytes) -> Entry | None:
        return self.find(key)

    def peek(self, key: bytes) -> Entry | None:
        return self.find(key)

    def put(self, key: bytes, kind: int, value: object, expire_at: int = 0) -> None:
        raise NeedKeys(self.db, [key], VALUE)

    def admit(self, keys: list[bytes], values: list[bytes]) -> None:
        raise NeedKeys(self.db, keys, VALUE)

    def reserve(self, key: bytes, entry: Entry | None, more: int) -> None:
        raise NeedKeys(self.db, [key], VALUE)

    def policy(self, key: bytes) -> KeyPolicy:
        raise NeedKeys(self.db, [key], VALUE)

    def make_room(self, more: int) -> None:
        pass

    def update(self, entry: Entry, value: object) -> None:
        raise NeedKeys(self.db, [entry.key], VALUE)

    def expire(self, entry: Entry, expire_at: int) -> None:
        raise NeedKeys(self.db, [entry.key], VALUE)

    def remove(self, key: bytes) -> bool:
        raise NeedKeys(self.db, [key], VALUE)

    def at(self, db: int) -> Keyspace:
        raise NeedKeys(db, [], VALUE)

    def event(self, name: str, key: bytes) -> None:
        pass


class Gathered(CachedKey):
    """What a reading handler sees of keys of several backends: what was loaded, and memory as it is.

    It asks for more (``NeedKeys``) only where nobody can give it: a key that was not named, or a change.
    """

    def __init__(
        self, clock: Clock, db: int, loaded: dict[bytes, Entry | None], memory: dict[bytes, Keyspace]
    ) -> None:
        super().__init__(clock, db)
        self.loaded: dict[bytes, Entry | None] = loaded
        self.memory: dict[bytes, Keyspace] = memory

    def find(self, key: bytes) -> Entry | None:
        keyspace = self.memory.get(key)
        if keyspace is not None:
            return keyspace.find(key)
        if key not in self.loaded:
            raise NeedKeys(self.db, [key], VALUE)
        return self.loaded[key]
