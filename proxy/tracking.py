"""Client-side caching: which client has read which key, and who is told when it changes (CLIENT TRACKING).

As in Redis (https://redis.io/docs/latest/develop/reference/client-side-caching/), keys are known by their
names alone, whatever the database, and a key is forgotten when its change has been told: a client that wants
to hear of it again reads it again.  Who tracks is gated, so nobody else pays for looking at what was read.

A message goes behind the replies that are due to its client, so that no copy comes after the word that it is
old.  What can't be watched here, a key of a Redis or of a store that does not tell of other proxies'
changes now, is told to be old as soon as it was read.  A key that
expires in a store is asked for its time when it is read, and told of when that has come.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final

from backends.base import Waiter, Want
from proxy.answers import Answer
from proxy.blocking import First
from proxy.commands.spec import READONLY, CommandSpec, InvalidKeys, key_positions
from proxy.datatypes.collection import Collection
from proxy.errors import NOTHING_TO_TRACK, CommandError, prefix_overlaps
from proxy.events import Events, Interest
from proxy.fanout import Part
from proxy.homes import ColdHome
from proxy.keyspace import Keyspace
from proxy.resp import Argv, Push, Reply, encode_reply
from proxy.router import UPSTREAM, Router
from proxy.session import Session, Slot

CHANNEL: Final = b"__redis__:invalidate"
SCRIPTING: Final = "scripting"
AT_ONCE: Final = 64  # keys that one read may push out of a table whose bound was lowered
SLICE: Final = 1000  # keys that a round of housekeeping tells of
_STALE_MAX: Final = 64


class Expiry(Waiter):
    """Takes the time at which a key of a store expires."""

    def __init__(self, tracking: Tracking, key: bytes) -> None:
        super().__init__(1)
        self._tracking: Tracking = tracking
        self._key: bytes = key

    def done(self, wire: bytes, failed: int) -> None:
        raise TypeError("a tier answers with a value")

    def resolve(self, reply: object) -> None:
        if isinstance(reply, int):  # else it could not be read, and neither could the value
            self._tracking.expires(self._key, reply)


class Tracking:
    """Who has read what, and who wants to hear of which prefixes."""

    def __init__(
        self,
        events: Events,
        router: Router,
        sessions: dict[int, Session],
        max_keys: int,
        call_soon: Callable[[Callable[[], None]], Any],
    ) -> None:
        self.max_keys: int = max_keys  # of the table; 0: no bound
        self.items: int = 0  # pairs of a key and a client in the table
        self.clients: dict[Session, Interest] = {}
        self.current: Session | None = None  # who tracks, and whose command is at work
        self._events: Events = events
        self._router: Router = router
        self._sessions: dict[int, Session] = sessions
        self._call_soon: Callable[[Callable[[], None]], Any] = call_soon
        self._trackable: bool = any(route.kind != UPSTREAM for route in router.map.values())
        self._readers: dict[bytes, int | set[int]] = {}  # ids: by far most keys have one
        self._own: list[bytes | None] = []  # for the client whose command is at work, behind its reply
        self._writer: Session | None = None  # whose changes a store has just committed
        self._prefixes: dict[bytes, dict[Session, None]] = {}
        self._changed: dict[bytes, Session | None] = {}  # by whom, since the last broadcast
        self._expiries: dict[bytes, int] = {}  # ms, of keys in stores
        self._due: list[tuple[int, bytes]] = []  # a heap of those, and of some that are not due any more
        events.invalidate = self.changed
        events.invalidate_all = self.flushed
        events.committed_for = self._committed_for

    @property
    def keys(self) -> int:
        return len(self._readers)

    @property
    def prefixes(self) -> int:
        return len(self._prefixes)

    # CLIENT TRACKING

    def track(self, session: Session, interest: Interest, prefixes: list[bytes]) -> None:
        """Begin, or go on in another way; raises CommandError."""
        if not self._trackable:
            raise CommandError(NOTHING_TO_TRACK)
        old = session.tracking
        if interest.bcast:
            mine = {} if old is None else old.prefixes
            _check_overlaps(prefixes, list(mine))
            for prefix in prefixes or [b""]:
                mine[prefix] = None
                self._prefixes.setdefault(prefix, {})[session] = None
            interest.prefixes = mine
        session.tracking = self.clients[session] = interest
        self._events.track(True)
        session.regate()

    def untrack(self, session: Session) -> None:
        interest = self.clients.pop(session, None)
        if interest is None:
            return
        session.tracking = None
        if self.current is session:
            self.current = None
            self._own.clear()
        for prefix in interest.prefixes:
            members = self._prefixes[prefix]
            del members[session]
            if not members:
                del self._prefixes[prefix]
        if not self.clients:
            self._forget_keys()
            self._changed.clear()
            self._events.track(False)
        session.regate()

    def _forget_keys(self) -> None:
        self._readers.clear()
        self._expiries.clear()
        self._due.clear()
        self.items = 0

    # What is read

    def begin(self, session: Session, spec: CommandSpec, argv: Argv) -> None:
        """A command of a client that tracks is about to run."""
        self.current = session
        if spec.group == SCRIPTING:  # before, since it may change what it has read
            self._remember(session, spec, argv)

    def ran(self, session: Session, spec: CommandSpec, argv: Argv) -> None:
        """A command of a client that tracks was run, or is under way."""
        if spec.flags & READONLY and spec.group != SCRIPTING:
            self._remember(session, spec, argv)

    def _remember(self, session: Session, spec: CommandSpec, argv: Argv) -> None:
        """What a command reads: of a script, as in Redis, the keys that it names."""
        interest = session.tracking
        if interest is None or interest.caching != interest.opt_in or not spec.has_keys:
            return
        try:
            names = [argv[position] for position in key_positions(spec, argv)]
        except InvalidKeys:
            return
        for name in names:
            if interest.bcast and not any(name.startswith(prefix) for prefix in interest.prefixes):
                continue
            route = self._router.find(name)
            home = route.home
            if route.kind == UPSTREAM or (isinstance(home, ColdHome) and home.deaf):
                self._tell(session, name)
            elif (interest.bcast or self._add(name, session.id)) and isinstance(home, ColdHome):
                # Behind the read at the same cell: nothing is loaded for it.
                home.submit(Expiry(self, name), _expiry, [name], session.db, Want.META, [name])

    def _add(self, name: bytes, id: int) -> bool:
        """Whether the client had not read the key before."""
        readers = self._readers.get(name)
        if readers is None:
            self._readers[name] = id
            self._trim(AT_ONCE)
        elif isinstance(readers, int):
            if readers == id:
                return False
            self._readers[name] = {readers, id}
        elif id in readers:
            return False
        else:
            readers.add(id)
        self.items += 1
        return True

    def _trim(self, limit: int) -> bool:
        """Give up keys over the bound, the first read first; whether some are left."""
        while self.max_keys and len(self._readers) > self.max_keys:
            if not limit:
                return True
            limit -= 1
            self._invalidate(next(iter(self._readers)))
        return False

    def settle(self, session: Session, spec: CommandSpec | None, ran: bool) -> None:
        """A command of a client that tracks has its reply, or its place in the order of replies."""
        self.current = None
        interest = session.tracking
        if self._own:
            own, self._own = self._own, []
            for key in own:
                self._tell(session, key)
        # What CLIENT CACHING says is for the next command, or the next transaction, but CLIENT's own.
        if interest is not None and interest.caching and ran:
            client = spec is not None and spec.name.startswith(b"client")
            if not client and (session.multi is None or (spec is not None and spec.name == b"exec")):
                interest.caching = False

    # What changes

    def changed(self, key: bytes) -> None:
        """A key was written or removed, by whoever it was, or it has expired."""
        if self._prefixes:
            writer = self.current or self._writer
            if not self._changed:
                self._call_soon(self._broadcast)
            if self._changed.setdefault(key, writer) is not writer:
                self._changed[key] = None
        self._invalidate(key)

    def _invalidate(self, key: bytes) -> None:
        if self._expiries:
            self._expiries.pop(key, None)
        readers = self._readers.pop(key, None)
        if readers is None:
            return
        ids = [readers] if isinstance(readers, int) else sorted(readers)
        self.items -= len(ids)
        for id in ids:
            session = self._sessions.get(id)
            interest = None if session is None else session.tracking
            if session is None or interest is None or interest.bcast:
                continue
            if not interest.no_loop or (session is not self.current and session is not self._writer):
                self._tell(session, key)

    def flushed(self) -> None:
        """All keys of a database, or of all, are gone or others, or may be."""
        self._forget_keys()
        for session in list(self.clients):
            self._tell(session, None)

    def _committed_for(self, waiters: list[Waiter]) -> None:
        """Who waits for what a store has just committed; nobody: what follows is not known to be anyone's."""
        writers = {_client_of(waiter) for waiter in waiters}
        self._writer = writers.pop() if len(writers) == 1 else None

    def _broadcast(self) -> None:
        changed, self._changed = self._changed, {}
        for prefix in sorted(self._prefixes):
            keys = sorted([key for key in changed if key.startswith(prefix)])
            for session in list(self._prefixes[prefix]):
                interest = self.clients[session]
                mine = [key for key in keys if not interest.no_loop or changed[key] is not session]
                if mine:
                    self._send(session, interest, mine)

    # Time

    def expires(self, key: bytes, at: int) -> None:
        """A key in a store, that was read, expires (ms since the epoch; 0: never)."""
        if not at or not (self._prefixes or key in self._readers):
            return
        known = self._expiries.get(key)
        if known is not None and known <= at:
            return
        self._expiries[key] = at
        heapq.heappush(self._due, (at, key))
        if len(self._due) > 2 * len(self._expiries) + _STALE_MAX:
            self._due = sorted([(when, name) for name, when in self._expiries.items()])
        if self.max_keys and len(self._expiries) > self.max_keys:
            self.changed(next(iter(self._expiries)))

    def cycle(self, now: int) -> bool:
        """Tell of what has expired in stores, and keep to the table's bound; whether there is more to do."""
        for _ in range(SLICE):
            if not self._due or self._due[0][0] > now:
                break
            at, key = heapq.heappop(self._due)
            if self._expiries.get(key) == at:
                del self._expiries[key]
                self.changed(key)
        return self._trim(SLICE) or (bool(self._due) and self._due[0][0] <= now)

    # Messages

    def _tell(self, session: Session, key: bytes | None) -> None:
        """That a client's copy of a key is old, or all that it has."""
        if session is self.current:
            self._own.append(key)
            return
        interest = session.tracking
        if interest is not None:
            self._send(session, interest, None if key is None else [key])

    def _send(self, session: Session, interest: Interest, keys: list[bytes] | None) -> None:
        other: Session | None = None
        if interest.redirect:
            other = self._sessions.get(interest.redirect)
            if other is None:
                interest.broken = True
                if session.proto == 3:
                    _push(session, [b"tracking-redir-broken", interest.redirect], False)
                return
        target = session if other is None else other
        if target.proto == 3:
            _push(target, [b"invalidate", keys], other is not None)
        elif other is not None and other.subscriptions is not None:
            _push(target, [b"message", CHANNEL, keys], True)


def _push(session: Session, items: list[Reply], at_once: bool) -> None:
    wire = encode_reply(Push(items), session.proto)
    if at_once:
        session.push(wire)
    else:
        session.push_behind(wire)


def _check_overlaps(prefixes: list[bytes], others: list[bytes]) -> None:
    """Refuse prefixes of which one begins with another: a key would be told of twice."""
    for place, prefix in enumerate(prefixes):
        for other in sorted(others):
            if prefix.startswith(other) or other.startswith(prefix):
                raise prefix_overlaps(prefix, other, "an existing")
        for other in prefixes[place + 1 :]:
            if prefix.startswith(other) or other.startswith(prefix):
                raise prefix_overlaps(prefix, other, "another provided")


def _expiry(keyspace: Keyspace, argv: Argv) -> Reply:
    """A handler: when the key, or something in it that is known, expires."""
    entry = keyspace.peek(argv[0])
    if entry is None:
        return 0
    value = entry.value
    times = [entry.expire_at, value.due if isinstance(value, Collection) else 0]
    return min([time for time in times if time], default=0)


def _client_of(waiter: Waiter) -> Session | None:
    if isinstance(waiter, (Slot, First)):
        return waiter.session
    if isinstance(waiter, Part):
        return waiter.split.session
    owner = waiter.owner if isinstance(waiter, Answer) else None
    return owner if isinstance(owner, Session) else None
