"""The near cache of Redis routes: replies of a Redis, kept here until it says that their key has changed.

A route with ``cache = true`` keeps what reads of a single key were answered (``spec.KEPT``).  The Redis tells
of every change (``Tracker``), and what is known of that key is dropped.  While it can't be heard, nothing is
kept.

What a client may rely on, beside that nothing outlives the announcement of its change:

- Its own writes are seen at once, and it never sees a value older than one that it has seen before.  So all
  requests for the Redis pass through here, whatever sends them: for all but the reads that are kept, what is
  known of the keys that they name is dropped when they are sent, nothing is kept of those keys until they
  are answered, and then what was asked meanwhile is not kept either.
- A reply that was on its way when its key changed is not kept: each request marks its key, and a change
  takes the mark away.
- Replies that could contradict each other are not kept side by side: of a key there is one reply, or there
  are several of one command that reads an element by its name (``ELEMENTS``).
- Nothing outlives its key: each read brings the key's time to live along, for a Redis announces that a key
  has expired only when it happens to delete it.  ``cache_ttl`` bounds what else a lost announcement could do.
"""

from __future__ import annotations

from typing import Final

from backends.base import Dedicated, Invalidations, Lane, Waiter
from backends.frames import ReplyFramer
from proxy.clock import Clock
from proxy.commands.spec import CommandSpec, InvalidKeys, key_positions, lookup
from proxy.keyspace import DATABASES
from proxy.lru import BYTES_OVERHEAD, ENTRY_OVERHEAD, Database, Entry
from proxy.nearcache import NearCache
from proxy.prefixes import PrefixMap
from proxy.resp import BULK_MAX, Argv, RequestReader, encode_command

ELEMENTS: Final = frozenset(b"getbit hexists hget hstrlen sismember zrank zrevrank zscore".split())
NEVER: Final = 1 << 60  # ms
UNBOUNDED: Final = 1 << 60  # bytes
# Measured on 64-bit CPython: a dict of a few replies, and a slot of it.
REPLIES_OVERHEAD: Final = ENTRY_OVERHEAD + 232
REPLY_OVERHEAD: Final = 2 * BYTES_OVERHEAD + 48


class KeptReplies(Entry):
    """Replies to one command on one key, by what was asked."""

    __slots__ = ("command", "epoch", "replies")

    def __init__(self, key: bytes, command: bytes, epoch: int) -> None:
        super().__init__(key, 0, None, NEVER)
        self.command: bytes = command
        self.epoch: int = epoch
        self.replies: dict[bytes, bytes] = {}


class Fetch:
    """A read on its way whose reply is to be kept; the mark of its key."""

    def __init__(self, key: bytes, command: bytes, question: bytes, place: int, ttl: int, now: int) -> None:
        self.key: bytes = key
        self.command: bytes = command
        self.question: bytes = question
        self.place: int = place  # of its database and RESP version
        self.ttl: int = ttl  # ms; 0: as long as the key's
        self.sent_at: int = now
        self.valid: bool = True

    def contradicts(self, command: bytes, question: bytes) -> bool:
        return self.command != command or (command not in ELEMENTS and self.question != question)


def question_of(command: bytes, argv: Argv) -> bytes:
    """What is asked of the key, as one string."""
    if len(argv) == 2:
        return command
    if len(argv) == 3:
        return command + b" " + argv[2]
    return command + b"*" + encode_command(argv[2:])


class NearReplies(Invalidations):
    """What is known of one Redis, of keys that start with one of ``prefixes``.

    ``ttls`` has for every route how long it keeps a reply in ms (0: as long as the key lives), -1 for those
    that keep none.
    """

    def __init__(
        self,
        cache: NearCache,
        clock: Clock,
        table: dict[bytes, CommandSpec],
        ttls: PrefixMap[int],
        prefixes: list[bytes],
    ) -> None:
        self.prefixes: list[bytes] = prefixes
        self.live: bool = False  # changes are heard of
        self.invalidations: int = 0  # keys that were announced
        self.flushes: int = 0  # times that all was dropped
        self._cache: NearCache = cache
        self._clock: Clock = clock
        self._table: dict[bytes, CommandSpec] = table
        self._ttls: PrefixMap[int] = ttls
        self._databases: list[Database | None] = [None] * (2 * DATABASES)
        self._used: list[Database] = []
        self._epoch: int = 0  # entries of an earlier one are of no use
        self._fetches: dict[bytes, list[Fetch]] = {}
        self._touched: dict[bytes, int] = {}  # requests on their way, of all but the reads that are kept
        self._all_touched: int = 0  # the same for those that may change any key

    # Reading

    def find(self, db: int, proto: int, spec: CommandSpec, argv: Argv) -> bytes | None:
        """The reply to a command of those whose replies are kept, if it is known."""
        command = spec.name
        database = self._databases[2 * db + proto - 2]
        entry = database.get(argv[1]) if database is not None else None
        if isinstance(entry, KeptReplies):
            if entry.expire_at > self._clock.ms and entry.epoch == self._epoch:
                wire = entry.replies.get(question_of(command, argv))
                if wire is not None:
                    self._cache.lru.touch(entry)
                    self._cache.hits += 1
                    return wire
            else:
                self._cache.lru.discard(entry)
        self._cache.misses += 1
        return None

    def knows(self, db: int, key: bytes) -> bool:
        """Whether there is a reply for a key."""
        for proto in (2, 3):
            database = self._databases[2 * db + proto - 2]
            entry = database.get(key) if database is not None else None
            if isinstance(entry, KeptReplies) and entry.epoch == self._epoch:
                return True
        return False

    # What is sent

    def plan(self, frames: bytes, place: int, waiter: Waiter | None) -> Planned | None:
        """What is to be done about requests that go to the Redis; None: nothing.

        ``place`` is that of a lane whose replies may be kept, or -1.
        """
        reader = RequestReader(UNBOUNDED, BULK_MAX, True)  # they have been bounded
        reader.feed(frames)
        planned = Planned(self, waiter)
        while True:
            argv = reader.next_command()
            if argv is None:
                break
            fetch: Fetch | None = None
            spec = lookup(self._table, argv)
            if spec is not None:
                if spec.name == b"multi":
                    place = -1
                if spec.kept and len(argv) > 1:
                    if place >= 0:
                        fetch = self._mark(spec.name, argv, place)
                    if fetch is None:
                        self._note(planned, argv[1])
                elif spec.has_keys:
                    try:
                        positions = key_positions(spec, argv)
                    except InvalidKeys:
                        positions = []
                    for position in positions:
                        self._note(planned, argv[position])
                    if not positions and spec.write:
                        planned.any_key = True
                elif spec.write:
                    planned.any_key = True
            planned.add(argv, fetch)
        if planned.any_key:
            self._all_touched += 1
            self.drop_all()
        return planned if planned.fetched or planned.touched or planned.any_key else None

    def _mark(self, command: bytes, argv: Argv, place: int) -> Fetch | None:
        key = argv[1]
        ttl = self._ttls.find(key)
        if ttl < 0 or not self.live or self._all_touched or key in self._touched:
            return None
        question = question_of(command, argv)
        fetch = Fetch(key, command, question, place, ttl, self._clock.ms)
        database = self._databases[place]
        entry = database.get(key) if database is not None else None
        contradicted = isinstance(entry, KeptReplies) and (
            entry.command != command or (command not in ELEMENTS and question not in entry.replies)
        )
        under_way = self._fetches.get(key)
        if contradicted or (under_way is not None and under_way[-1].contradicts(command, question)):
            self.drop(key)
        self._fetches.setdefault(key, []).append(fetch)
        return fetch

    def _note(self, planned: Planned, key: bytes) -> None:
        """A request names a key that it may change, or of which it may show more than is known here."""
        if self._ttls.find(key) >= 0:
            planned.touched.append(key)
            self._touched[key] = self._touched.get(key, 0) + 1
            self.drop(key)

    # What comes back

    def keep(self, fetch: Fetch, wire: bytes, pttl: bytes) -> None:
        """A read was answered, and then how long its key has to live."""
        if not fetch.valid:
            return
        key = fetch.key
        under_way = self._fetches[key]
        under_way.remove(fetch)
        if not under_way:
            del self._fetches[key]
        if wire.startswith(b"-") or not pttl.startswith(b":"):
            return
        left = int(pttl[1:-2])
        if left == -2:  # it is gone by now, or was not there: the reply is of another moment
            return
        expire_at = NEVER if left < 0 else fetch.sent_at + left
        if fetch.ttl:
            expire_at = min(expire_at, fetch.sent_at + fetch.ttl)
        database = self._databases[fetch.place]
        if database is None:
            database = self._databases[fetch.place] = Database(fetch.place)
            self._used.append(database)
        size = REPLY_OVERHEAD + len(fetch.question) + len(wire)
        entry = database.get(key)
        if isinstance(entry, KeptReplies) and self._goes_with(entry, fetch):
            known = entry.replies.get(fetch.question)
            self._cache.grow(entry, size if known is None else len(wire) - len(known))
            entry.replies[fetch.question] = wire
            entry.expire_at = min(expire_at, entry.expire_at)
            return
        if entry is not None:
            self._cache.lru.discard(entry)
        kept = KeptReplies(key, fetch.command, self._epoch)
        kept.expire_at = expire_at
        kept.replies[fetch.question] = wire
        self._cache.add(database, kept, size + REPLIES_OVERHEAD + len(key))

    def _goes_with(self, entry: KeptReplies, fetch: Fetch) -> bool:
        return (
            fetch.command in ELEMENTS
            and entry.command == fetch.command
            and entry.epoch == self._epoch
            and entry.expire_at > self._clock.ms
        )

    def release(self, touched: list[bytes], any_key: bool) -> None:
        """Requests were answered."""
        for key in touched:
            count = self._touched[key] - 1
            if count:
                self._touched[key] = count
            else:
                del self._touched[key]
            self.drop(key)
        if any_key:
            self._all_touched -= 1
            self.drop_all()

    # Dropping

    def drop(self, key: bytes) -> None:
        """Forget what is known of a key, and what will be."""
        fetches = self._fetches.pop(key, None)
        if fetches is not None:
            for fetch in fetches:
                fetch.valid = False
        for database in self._used:
            entry = database.get(key)
            if entry is not None:
                self._cache.lru.discard(entry)

    def drop_all(self) -> None:
        """Forget everything, in O(what is under way): entries that are left go as any that are old."""
        self.flushes += 1
        self._epoch += 1
        for fetches in self._fetches.values():
            for fetch in fetches:
                fetch.valid = False
        self._fetches.clear()

    # What the Redis says

    def began(self) -> None:
        self.live = True

    def changed(self, keys: list[bytes] | None) -> None:
        if keys is None:
            self.drop_all()
            return
        self.invalidations += len(keys)
        for key in keys:
            self.drop(key)

    def ended(self) -> None:
        if self.live:
            self.live = False
            self.drop_all()


class Planned(Waiter):
    """Requests on their way to the Redis, with what is to be done once they are answered."""

    def __init__(self, replies: NearReplies, waiter: Waiter | None) -> None:
        super().__init__(0)
        self.fetched: bool = False  # the replies to some are to be kept
        self.touched: list[bytes] = []
        self.any_key: bool = False  # they may change any key
        self._replies: NearReplies = replies
        self._waiter: Waiter | None = waiter
        self._requests: list[Argv] = []
        self._fetches: list[Fetch | None] = []  # by request
        self._frames: bytes = b""  # what goes to the Redis
        if waiter is not None:
            self.step = waiter.step

    def add(self, argv: Argv, fetch: Fetch | None) -> None:
        self._fetches.append(fetch)
        self._requests.append(argv)
        self.frames += 1
        if fetch is not None:
            self._requests.append([b"PTTL", fetch.key])
            self.frames += 1
            self.fetched = True

    def send(self, lane: Lane, frames: bytes) -> None:
        """Send the requests, which came as ``frames``, with those that are added."""
        self._frames = b"".join(map(encode_command, self._requests)) if self.fetched else frames
        self._requests = []
        lane.send(self._frames, self)

    def retry(self) -> bytes:
        may = self._waiter is not None and self._waiter.retry() != b""
        return self._frames if may else b""

    def redirected(self) -> None:
        for fetch in self._fetches:  # nobody listens yet, maybe, to the one who answers
            if fetch is not None:
                fetch.valid = False

    def alone(self) -> bool:
        return self._waiter is not None and self._waiter.alone()

    def done(self, wire: bytes, failed: int) -> None:
        if self.fetched:
            wire, failed = self._divide(wire, failed)
        self.release()
        if self._waiter is not None:
            self._waiter.done(wire, failed)

    def _divide(self, wire: bytes, failed: int) -> tuple[bytes, int]:
        """Keep what is to be kept, and leave the replies that were asked for."""
        framer = ReplyFramer(len(wire) + 1)
        framer.feed(wire)
        answered = self.frames - failed
        failed = 0
        frames: list[bytes] = []
        at = 0
        for fetch in self._fetches:
            frame = framer.take(1)
            assert frame is not None
            frames.append(frame)
            at += 1
            if at > answered:
                failed += 1
            if fetch is not None:
                pttl = framer.take(1)
                assert pttl is not None
                at += 1
                self._replies.keep(fetch, frame, pttl if at <= answered else b"")
        return b"".join(frames), failed

    def release(self) -> None:
        self._replies.release(self.touched, self.any_key)

    def resolve(self, reply: object) -> None:
        raise TypeError("a lane answers in frames")


class NearLane(Lane):
    """A shared lane of the Redis."""

    def __init__(self, lane: Lane, replies: NearReplies, place: int) -> None:
        self._lane: Lane = lane
        self._replies: NearReplies = replies
        self._place: int = place

    def send(self, frames: bytes, waiter: Waiter) -> None:
        planned = self._replies.plan(frames, self._place, waiter)
        if planned is None:
            self._lane.send(frames, waiter)
        else:
            planned.send(self._lane, frames)


class NearDedicated(Dedicated):
    """A connection of one client's own: what it reads there is not kept, but what it changes is heard of."""

    def __init__(self, dedicated: Dedicated, replies: NearReplies) -> None:
        self.db = dedicated.db
        self.proto = dedicated.proto
        self._dedicated: Dedicated = dedicated
        self._replies: NearReplies = replies

    def send(self, frames: bytes, waiter: Waiter) -> None:
        planned = self._replies.plan(frames, -1, waiter)
        if planned is None:
            self._dedicated.send(frames, waiter)
        else:
            planned.send(self._dedicated, frames)

    def release(self, clean: bool) -> None:
        self._dedicated.release(clean)
