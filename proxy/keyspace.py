"""What a command handler sees: keys, each with a typed value and an expiry, and nothing else.

``Keyspace`` is the whole interface; handlers are plain synchronous functions on it.  Two things
implement it: the memory backend, whose keyspace is the LRU itself, and the tier, which loads what a
command needs from a cold store into a working set and commits what changed.

Times are milliseconds since the epoch (0: never), sizes are bytes.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

from mypy_extensions import mypyc_attr

from backends.base import Waiter
from proxy.clock import Clock
from proxy.datatypes.collection import Collection
from proxy.errors import WRONG_TYPE, CommandError, too_large
from proxy.lru import Entry

DATABASES: Final = 16

# Data types.  The numbers stand in stored records: they are never reused.
CHUNK: Final = 0  # only of seals: a piece of a collection
STRING: Final = 1
LIST: Final = 2
SET: Final = 3
ZSET: Final = 4
HASH: Final = 5
STREAM: Final = 6
VOLATILE_HASH: Final = 7  # only of records: a hash that is gone when the last of its fields has expired
CHUNKED_LIST: Final = 8  # only of records: the root of a list that is kept in chunks
CHUNKED_STREAM: Final = 9  # the same of a stream

KIND_NAMES: Final = {
    CHUNK: "chunk",
    STRING: "string",
    LIST: "list",
    SET: "set",
    ZSET: "zset",
    HASH: "hash",
    STREAM: "stream",
    VOLATILE_HASH: "hash",
    CHUNKED_LIST: "list",
    CHUNKED_STREAM: "stream",
}

CHUNKED: Final = {LIST: CHUNKED_LIST, STREAM: CHUNKED_STREAM}
"""By data type, the kind of the records that are roots of chunks."""
UNCHUNKED: Final = {kind: type for type, kind in CHUNKED.items()}


class Block:
    """A blocking command's reply where there is nothing for it yet: run it again when its keys are written.

    ``timeout`` is in milliseconds, 0: none; once it is over the reply is a null array.  ``empty`` is the
    reply where nothing may wait (in a transaction or a script); ``argv`` is what to run again.
    """

    def __init__(self, timeout: int, empty: object, argv: list[bytes]) -> None:
        self.timeout: int = timeout
        self.empty: object = empty
        self.argv: list[bytes] = argv


class Unloaded:
    """Stands for a value of which only the metadata is known."""


UNLOADED: Final = Unloaded()


class KeyPolicy:
    """What a route asks of its keys: a default time to live (ms, 0: none), and the largest value.

    ``foreign``: the keys are another backend's, and a command that comes upon one while it runs must not
    touch it.
    """

    def __init__(self, ttl: int, max_value: int, foreign: bool = False) -> None:
        self.ttl: int = ttl
        self.max_value: int = max_value
        self.foreign: bool = foreign


# A message that a script publishes is told of as an event: one of these in the place of the database, the
# channel (as Latin-1) in that of the name, and the message in that of the key.
MESSAGE: Final = -1
SHARD_MESSAGE: Final = -2


def message_event(shard: bool, channel: bytes, message: bytes) -> tuple[int, str, bytes]:
    return (SHARD_MESSAGE if shard else MESSAGE, channel.decode("latin-1"), message)


@mypyc_attr(allow_interpreted_subclasses=True)
class EventSink:
    """Who is told what happens to keys, once it has taken effect; messages too, see ``MESSAGE``."""

    listening: bool = True  # whether ``event`` is to be called
    watching: bool = False  # whether ``changed`` and ``cleared`` are to be called

    @abstractmethod
    def event(self, db: int, name: str, key: bytes) -> None:
        """Something happened to a key, by Redis' name of it: ``set``, ``del``, ``expired`` …"""

    @abstractmethod
    def changed(self, db: int, key: bytes) -> None:
        """A key was written or removed, but for one that was removed since it had expired."""

    def changed_elsewhere(self, db: int, key: bytes) -> None:
        """Another proxy has written or removed a key; called while ``watching``."""
        return

    def changed_all(self) -> None:
        """Other proxies may have changed any key of a store."""
        return

    def unheard(self) -> None:
        """What other proxies change in a store is not heard of any more."""
        return

    @abstractmethod
    def expired(self, db: int, key: bytes) -> None:
        """A key was removed since it had expired; called while ``watching``."""

    @abstractmethod
    def by(self, waiters: list[Waiter]) -> None:
        """Who waits for the changes that are told of next, up to another call; none: it is not known."""

    @abstractmethod
    def cleared(self, db: int) -> None:
        """All keys of a database that have one home were removed, or replaced by others."""


class Keyspace:
    """Keys of one database.  A handler never keeps an entry beyond its own run.

    Any method may raise ``NeedKeys`` on a cold tier; the handler then runs again, from its start, with
    more loaded.  So a handler reads all that it needs before it changes anything.
    """

    def __init__(self, clock: Clock, db: int) -> None:
        self.clock: Clock = clock
        self.db: int = db

    @abstractmethod
    def find(self, key: bytes) -> Entry | None:
        """The live entry, with its value, for reading it."""

    @abstractmethod
    def edit(self, key: bytes) -> Entry | None:
        """The live entry, with its value, for changing it."""

    def edit_part(self, key: bytes) -> Entry | None:
        """As ``edit``, for who changes a part of a collection by one of its methods, before all else.

        Chunks of it may not be loaded.
        """
        return self.edit(key)

    @abstractmethod
    def peek(self, key: bytes) -> Entry | None:
        """The live entry for its metadata: its value may be ``UNLOADED``, and it does not count as used."""

    @abstractmethod
    def put(self, key: bytes, kind: int, value: object, expire_at: int = 0) -> None:
        """Create the key, or replace all of it."""

    @abstractmethod
    def admit(self, keys: list[bytes], values: list[bytes]) -> None:
        """Refuse what ``put`` would refuse of these, before any of them is put."""

    @abstractmethod
    def reserve(self, key: bytes, entry: Entry | None, more: int) -> None:
        """Refuse, before anything is changed, ``more`` bytes for the collection of ``entry``, or a new one.

        Every handler that makes a collection grow asks, since neither ``put`` nor ``update`` refuses one.
        """

    @abstractmethod
    def update(self, entry: Entry, value: object) -> None:
        """Give an entry, got by ``edit``, a new value (or the same one, changed in place)."""

    @abstractmethod
    def expire(self, entry: Entry, expire_at: int) -> None:
        """Change when an entry, got by ``peek`` or ``edit``, expires."""

    @abstractmethod
    def remove(self, key: bytes) -> bool:
        """Delete the key; whether it was there."""

    @abstractmethod
    def policy(self, key: bytes) -> KeyPolicy:
        """What the key's route asks; raises CROSSTIER for a key that another backend holds."""

    @abstractmethod
    def make_room(self, more: int) -> None:
        """Refuse, before anything is changed, ``more`` bytes that several changes together need."""

    @abstractmethod
    def at(self, db: int) -> Keyspace:
        """The same backend's keys in another database, as part of the same step."""

    @abstractmethod
    def event(self, name: str, key: bytes) -> None:
        """Tell what happened to a key, once the step has taken effect."""

    def publish(self, shard: bool, channel: bytes, message: bytes) -> None:
        """Send a message, once the step has taken effect; what holds no step has nothing to tell of."""


def string_of(entry: Entry) -> bytes:
    """A string entry's value; raises WRONGTYPE for another kind."""
    value = entry.value
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray):
        return bytes(value)
    raise CommandError(WRONG_TYPE)


def check_growth(policy: KeyPolicy, entry: Entry | None, more: int) -> None:
    """Refuse a collection that would become larger than its route's limit."""
    value = None if entry is None else entry.value
    size = more + (value.size if isinstance(value, Collection) else 0)
    if size > policy.max_value:
        raise too_large(size, policy.max_value, "max_value")


def check_size(policy: KeyPolicy, value: object) -> None:
    """Refuse a value over its route's limit."""
    if isinstance(value, (bytes, bytearray)) and len(value) > policy.max_value:
        raise too_large(len(value), policy.max_value, "max_value")
