"""The contracts of the backends: ``Store`` for cold ones, ``Upstream`` for a Redis.

A store holds opaque records, loaded and committed in batches, conditionally.  It knows keys, bytes
and times; it knows nothing of data types, routes, clients or RESP.  Whoever calls it (the tier) seals
and unseals, keeps at most one commit of a key under way at a time, and gathers requests into batches;
the store makes one round trip of each batch.

Units: every time is an ``int`` of milliseconds since the epoch (``0``: never); every size is in
bytes.  "Now" is ``Clock.ms`` of the clock that the store was built with, on every store alike: a
record whose ``expire_at`` is not 0 and not after now is absent for ``load``, ``scan``, ``size`` and
for the conditions of ``commit``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from mypy_extensions import mypyc_attr


class Key(NamedTuple):
    """A key as a store sees it; the database number is part of it."""

    db: int  # from 0, or BESIDE
    name: bytes


BESIDE: Final = -1
"""The database of documents: records that a store's users keep beside those of keys, see ``documents``."""

Token = int | str
"""Names one write of one key.  Opaque to callers; equal tokens mean that nothing was written between."""

ABSENT: Final[Token] = 0
"""The token of a key that has no live record."""


class Want(IntEnum):
    """How much of a record a load must bring.  Ordered: a larger one includes the smaller."""

    NOTHING = 0
    META = 1  # kind, expiry, sizes and token, but not the payload
    VALUE = 2  # the payload too, unless it is larger than Store.bulk_max
    WHOLE = 3  # the payload, whatever its size


class Record(NamedTuple):
    """What a store holds for one key."""

    payload: bytes | None  # sealed bytes; None where the load did not bring them
    kind: int  # data type, see proxy.keyspace.Kind
    write_id: int  # 1 .. 2**63-1, unique to one write
    expire_at: int  # ms since the epoch, 0 = never
    raw_size: int  # bytes of the serialised value before compression
    stored_size: int  # bytes of payload, and of all chunks where WHOLE was loaded


class Loaded(NamedTuple):
    record: Record | None
    token: Token


class Chunks(NamedTuple):
    """What a PUT changes of the chunks that lie beside a record: pieces of its value, by their ids.

    An id, 1 .. 2**63-1, names one piece for ever.  A record that is removed, or replaced by one without
    chunks, takes all of its own along.
    """

    new: Sequence[tuple[int, bytes]]  # ids and sealed bytes
    gone: Sequence[int]


CHUNKED_KINDS: Final = frozenset({8, 9})
"""The kinds of records that have chunks; part of a store's layout."""


class Op(IntEnum):
    PUT = 1  # write the record
    DELETE = 2
    EXPIRE = 3  # change expire_at and write_id, keep the payload
    ASSERT = 4  # change nothing, only hold the group to the token


class Change(NamedTuple):
    """One key's part of a group.

    ``expect`` is the token that the key must still have (``ABSENT``: it must have no live record),
    or ``None`` for no condition (allowed for PUT and DELETE; EXPIRE takes the token of a live record).
    ``record`` is given for PUT (complete) and for EXPIRE (``write_id`` and ``expire_at`` count, the
    rest is ignored).  ``chunks`` are only for a PUT that expects a live record.
    """

    op: Op
    key: Key
    expect: Token | None
    record: Record | None = None
    chunks: Chunks | None = None


Group = Sequence[Change]
"""Changes that happen all or not at all.  No key stands twice in a group, nor in the groups of one commit."""


class Outcome(NamedTuple):
    """What became of one group.

    ``tokens`` has the new token of each change, in order (``ABSENT`` for DELETE, ``expect`` for
    ASSERT), when the group was committed, else it is ``None``.  ``error`` is ``None`` for a conflict:
    a condition did not hold and nothing of the group was applied.
    """

    tokens: tuple[Token, ...] | None
    error: StoreError | None = None


CONFLICT: Final = Outcome(None)


class KeyInfo(NamedTuple):
    name: bytes
    kind: int
    expire_at: int


class Grade(IntEnum):
    FINE = 0
    WARNING = 1  # it works, and whoever runs it should know
    MISSING = 2  # it does not work


class Finding(NamedTuple):
    """Something about a backend's server, in one line that says what to do where something is missing."""

    grade: Grade
    text: str


class Quarantined(NamedTuple):
    """A damaged record that is kept aside; its key and write id name it."""

    key: Key
    write_id: int
    kind: int
    stored_size: int  # bytes of its payload
    found_at: int  # ms since the epoch, 0: not known
    reason: str  # one line


@mypyc_attr(allow_interpreted_subclasses=True)
class StoreError(Exception):
    """The store could not do it.  ``unknown`` is true where a write may have been applied all the same."""

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


class KeyTooLong(StoreError):
    """The store can't hold a key of this length."""


class Foreign(StoreError):
    """What stands in a key's place is no record that this release can read."""


class NotAtomic(StoreError):
    """A group of several keys was given to a store whose ``atomic_groups`` is false."""


class NotTheWriter(StoreError):
    """Another process has the lease of a store that has one writer at a time."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Changes:
    """Hears what others do to a store: other processes, or other parts of this one.

    What is told may be late, and may name keys that were not changed after all; but while changes are told,
    each one is, at the latest when a load would show it and a moment has passed.
    """

    @abstractmethod
    def began(self) -> None:
        """From now on every change is told; what happened before is not."""

    @abstractmethod
    def changed(self, keys: list[Key] | None) -> None:
        """Keys that others have written or removed; None: any may have been."""

    @abstractmethod
    def ended(self) -> None:
        """Changes are not told any more, until it begins again."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Tracker:
    """One connection to a backend for what it tells of changes; it is made again when it is lost."""

    @abstractmethod
    async def close(self) -> None: ...


@mypyc_attr(allow_interpreted_subclasses=True)
class Store(ABC):
    """A cold backend.

    ``load`` and ``commit`` never raise for one key's or one group's sake; they raise ``StoreError``
    when the whole batch failed (the server is away), and ``commit`` reports each group's own fate.
    An acknowledgement that was lost is settled by reading back the write id, where the server can
    still be reached; where it can't, the outcome's error says ``unknown``.  No method retries a
    write by itself.  All may be called concurrently, at most ``concurrency`` loads and commits
    together.  For ``load`` and conditions, a key that is too long to be stored is an absent one.

    Subclasses set the attributes in ``__init__``: compiled callers don't see those of a plain class.
    """

    name: str  # of the backend in the configuration
    type: str  # "postgres", "s3", "sqlite"
    concurrency: int  # how many batches may be under way at once
    load_max: int  # most keys that one load may ask for
    commit_max: int  # most groups that one commit may carry
    key_max: int  # longest key name that can be stored, bytes
    bulk_max: int = 262_144  # bytes; larger payloads are brought only by Want.WHOLE
    atomic_groups: bool = True  # whether a group of several keys is possible
    large_from: int = 2**62  # raw bytes from which a write takes long, and goes beside the others
    large_at_once: int = 0  # large values under way at once; 0: as many as take half of ``concurrency``
    chunked: bool = False  # whether records may have chunks
    shared: bool = True  # whether others may write to it: then nothing that was read stays true by itself

    @abstractmethod
    async def open(self) -> None:
        """Connect and create what is missing.  Raises StoreError in one line that says what to do."""

    @abstractmethod
    async def close(self) -> None:
        """Release everything; safe to call when open failed or never ran."""

    @abstractmethod
    async def ping(self) -> None:
        """One cheap round trip; raises StoreError if the store can't serve now."""

    async def examine(self) -> list[Finding]:
        """Try out what the store needs of its server: rights, settings, what keeps acknowledged writes.

        It is not open before, nor after; as when it is opened, its tables are created where there are none.
        """
        return []

    @abstractmethod
    async def load(self, keys: Sequence[Key], want: Want) -> list[Loaded]:
        """Records and tokens of ``keys``, in their order.  Keys are distinct."""

    async def load_chunks(self, wanted: Sequence[tuple[Key, int]]) -> list[bytes | None]:
        """Chunks of records, by key and id, in their order; None for one that is not there."""
        return [None] * len(wanted)

    @abstractmethod
    async def commit(self, groups: Sequence[Group]) -> list[Outcome]:
        """Apply each group or leave it, independently of the others; outcomes in order of the groups."""

    async def prepare(self, change: Change) -> Change:
        """Do what takes long of committing a change: the change that is left to be committed, soon.

        Raises StoreError.
        """
        return change

    @abstractmethod
    async def scan(
        self, db: int, prefix: bytes, after: bytes | None, limit: int
    ) -> tuple[list[KeyInfo], bytes | None]:
        """The next up to ``limit`` live keys that start with ``prefix`` and come after ``after``.

        The order is the store's own and total.  Returns them with the ``after`` of the next call,
        or ``None`` when the end was reached.  Every key that stood throughout a walk is in it once.
        """

    def place(self, key: Key) -> bytes:
        """Where the key comes in walks of its database.  Raises KeyTooLong if it can't be stored."""
        if len(key.name) > self.key_max:
            raise KeyTooLong(f"{self.name}: keys are at most {self.key_max} bytes long")
        return key.name

    async def names(
        self, db: int, prefix: bytes, after: bytes | None, limit: int
    ) -> tuple[list[bytes], bytes | None]:
        """As ``scan``, the names alone; of keys too that have no live record, and of those that are foreign.

        Where a load of one key finds that, it raises ``Foreign``.
        """
        infos, after = await self.scan(db, prefix, after, limit)
        return [info.name for info in infos], after

    @abstractmethod
    async def size(self, db: int, prefix: bytes) -> int:
        """The number of live keys that start with ``prefix``."""

    @abstractmethod
    async def sweep(self, limit: int) -> int:
        """Remove up to ``limit`` expired records, reading nothing else; returns how many went."""

    @abstractmethod
    async def clear(self, db: int | None, prefix: bytes) -> int:
        """Remove every record under ``prefix`` in one database, or in all but BESIDE (``None``).

        Returns how many.
        """

    async def stored(self, key: Key) -> Loaded:
        """A record with its payload as it stands in the store, nothing of it fetched from elsewhere."""
        return (await self.load([key], Want.WHOLE))[0]

    async def settle(self, key: Key) -> None:
        """Return when what was acknowledged of a key is in the store itself, whatever stands before that.

        Raises StoreError if that takes too long.
        """
        return

    async def url(self, record: Record, seconds: int) -> str | None:
        """Where the raw value of a record, as ``stored`` gives it, can be fetched over HTTP for so long.

        None if it can't.
        """
        return None

    def figures(self) -> dict[str, int]:
        """What this store in particular has counted since the start, by name."""
        return {}

    @abstractmethod
    async def quarantine(self, key: Key, record: Record, reason: str) -> None:
        """Keep a copy of a damaged record aside for inspection; idempotent for one write of a key."""

    @abstractmethod
    async def quarantined(self, after: tuple[Key, int] | None, limit: int) -> list[Quarantined]:
        """The next up to ``limit`` records in quarantine, after the one of a key and write id.

        The order is the store's own and total; fewer than ``limit`` are the last.
        """

    @abstractmethod
    async def release(self, key: Key, write_id: int) -> bool:
        """Remove one record from quarantine; whether it was there."""

    def listen(self, told: Changes) -> Tracker | None:
        """Have changes that others make told, from soon on; None where this store can't tell of them.

        To be called once, when the store is open.  Its own changes are not told.
        """
        return None


@mypyc_attr(allow_interpreted_subclasses=True)
class Waiter:
    """Someone who waits for replies: to requests sent on a lane, or to one command run by a tier.

    Exactly one of the methods is called, once.
    """

    def __init__(self, frames: int) -> None:
        self.frames: int = frames  # how many replies are awaited
        self.step: bool = False  # the requests are MULTI … EXEC, to be run where all their keys are

    @abstractmethod
    def done(self, wire: bytes, failed: int) -> None:
        """All replies, as raw frames in order.  The last ``failed`` of them are errors of our own
        (the connection was lost before the upstream answered)."""

    def retry(self) -> bytes:
        """The requests, to be sent once more since their connection was lost; empty where they must not be.

        Asked when no reply has been handed out.  A second time, it is empty.
        """
        return b""

    def redirected(self) -> None:
        """Some of the replies will come from another server than was asked."""
        return

    def alone(self) -> bool:
        """Whether nothing that the same client sends is executed before this is answered.

        If so, it stays so until then.
        """
        return False

    @abstractmethod
    def resolve(self, reply: object) -> None:
        """The one reply, as a value (``proxy.resp.Reply``; a ``CommandError`` is an error reply)."""


LANES: Final = 8
"""Of one database and protocol version to one upstream, at most."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Lane:
    """One connection to an upstream, shared by clients of one database and protocol version."""

    @abstractmethod
    def send(self, frames: bytes, waiter: Waiter) -> None:
        """Send ``waiter.frames`` whole requests, each a non-empty array of bulk strings.

        Never blocks and never raises: what can't be sent is answered with errors.  Requests take
        effect, and are answered, in the order in which they were sent on the lane; on a cluster's, those for
        one slot.
        """


@mypyc_attr(allow_interpreted_subclasses=True)
class Dedicated(Lane):
    """A connection that one client has for itself, for what would leave state on a shared one."""

    db: int
    proto: int

    @abstractmethod
    def release(self, clean: bool) -> None:
        """Give it back; ``clean`` says that it is as it was got: no watch, same database, nothing awaited."""


class Subscription(NamedTuple):
    """What can be subscribed to; ``command`` is the one that does it: ``subscribe``, ``psubscribe`` …"""

    command: bytes
    name: bytes


Message = Callable[[bytes, bytes, bytes, bytes], None]
"""Called with the kind (``message``, ``pmessage``, ``smessage``), what was subscribed to, channel, data."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Subscriber:
    """One connection to an upstream for all that our clients subscribe to there."""

    @abstractmethod
    async def want(self, names: list[Subscription]) -> None:
        """Subscribe, and return when it is so; raises StoreError where the upstream can't be asked now."""

    @abstractmethod
    def drop(self, name: Subscription) -> None:
        """Nobody wants it any more."""

    @abstractmethod
    async def close(self) -> None: ...


@mypyc_attr(allow_interpreted_subclasses=True)
class Invalidations:
    """Hears which keys of an upstream change."""

    @abstractmethod
    def began(self) -> None:
        """From now on every change is told."""

    @abstractmethod
    def changed(self, keys: list[bytes] | None) -> None:
        """Keys, whatever their database, that were changed by anybody; None: any may have been."""

    @abstractmethod
    def ended(self) -> None:
        """Changes are not told any more."""


class Counters(NamedTuple):
    """What an upstream has done since the start; replies to commands of our own are included."""

    answered: int  # replies
    lost: int  # replies that never came: the connection was lost
    refused: int  # requests for which there was no connection
    retried: int  # requests that were sent once more
    connections: int  # made
    failed_attempts: int  # to make one: there was no answer
    timeouts: int  # connections given up because an answer did not come
    breaker_opened: int  # times
    failovers: int  # times that the primary became another server
    bytes_in: int
    bytes_out: int


def total(counters: Sequence[Counters]) -> Counters:
    return Counters(*[sum(each) for each in zip(*counters, strict=True)])


@mypyc_attr(allow_interpreted_subclasses=True)
class Upstream:
    """A Redis that commands are forwarded to."""

    name: str  # of the backend in the configuration
    in_flight: int  # replies awaited on all lanes
    replicas: list[Upstream]  # those that may be read from, once ``find_replicas`` was called

    @abstractmethod
    async def open(self) -> None:
        """Connect once, to know that it is there; raises StoreError in one line that says what to do."""

    @abstractmethod
    async def close(self) -> None:
        """Fail what is in flight and release everything."""

    @abstractmethod
    async def ping(self) -> None:
        """One cheap round trip; raises StoreError if the upstream can't serve now."""

    @abstractmethod
    def find_replicas(self) -> None:
        """Keep ``replicas`` to those that are there and follow closely, from soon on."""

    @abstractmethod
    def lane(self, db: int, proto: int, number: int = 0) -> Lane:
        """The lane for a database number and RESP version (2 or 3); connects by itself.

        There are several of a kind, by ``number``, from 0 to ``LANES - 1`` or fewer: then numbers share one.
        """

    @abstractmethod
    async def dedicated(self, db: int, proto: int, patient: bool) -> Dedicated:
        """A connection of one's own; ``patient``: for requests that may rightly take as long as they like.

        Raises StoreError where there is none to be had.
        """

    @abstractmethod
    def subscriber(self, message: Message) -> Subscriber:
        """A connection for subscriptions, made when the first is wanted; ``message`` is told what comes."""

    @abstractmethod
    def tracker(self, prefixes: list[bytes], told: Invalidations) -> Tracker:
        """Have changes of the keys that start with one of ``prefixes`` told, from soon on.

        None of the prefixes starts with another.
        """

    @abstractmethod
    async def call(self, db: int, argv: list[bytes]) -> object:
        """Run one command for ourselves and return its parsed reply (RESP2 values: bytes, int, list,
        None).  Raises CommandError for an error reply, StoreError when there was none."""

    @abstractmethod
    def breaker(self) -> str:
        """``closed``, ``open`` (nobody tries to connect), or ``half-open`` (somebody finds out)."""

    @abstractmethod
    def occupied(self) -> int:
        """Connections that one client each has for itself now (``dedicated``)."""

    @abstractmethod
    def counters(self) -> Counters: ...


class Redirect(NamedTuple):
    """Another server of a cluster; with ``asking``, each request must be announced to it by ASKING."""

    server: Upstream
    asking: bool


@mypyc_attr(allow_interpreted_subclasses=True)
class ClusterUpstream(Upstream):
    """A Redis Cluster, whose servers are upstreams: ``owners`` by slot, ``primaries`` each of them once.

    ``patience`` is for how many ms a request may be tried again while its slot moves.
    """

    def __init__(self, owners: list[Upstream], primaries: list[Upstream], patience: int) -> None:
        self.owners: list[Upstream] = owners
        self.primaries: list[Upstream] = primaries
        self.patience: int = patience

    @abstractmethod
    def any(self) -> Upstream:
        """One for what concerns no key, or all: the first that is there."""

    @abstractmethod
    def address(self, server: Upstream) -> str:
        """Where one of the servers is, host:port."""

    @abstractmethod
    def redirect(self, server: Upstream, error: bytes) -> Redirect | None:
        """Where a request goes on that a server has answered with an error reply; None: nowhere."""
