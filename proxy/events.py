"""What happens to keys, and who wants to know: watches of transactions, clients that wait for an element or
keep copies.

Every home of keys tells its changes here once they have taken effect (``EventSink``).  While nobody waits or
watches, ``watching`` is false and a change costs one look at it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from backends.base import ABSENT, Token, Waiter
from proxy.keyspace import SHARD_MESSAGE, EventSink

Where = tuple[int, bytes]
"""A database and a key's name."""


def _unheard(db: int, name: str, key: bytes) -> None:
    pass


def _unsent(shard: bool, channel: bytes, message: bytes) -> None:
    pass


def _nobody() -> None:
    pass


def _untold(key: bytes) -> None:
    pass


def _unasked(waiters: list[Waiter]) -> None:
    pass


class Watch:
    """One key that a client watches, as it was then.

    ``existed`` is for a key in memory, ``token`` for one in a store; ``home`` is where it lives.
    """

    def __init__(self, where: Where, home: object) -> None:
        self.where: Where = where
        self.home: object = home
        self.existed: bool = False
        self.token: Token = ABSENT
        self.touched: bool = False


class Interest:
    """What a client that keeps copies wants to be told, by CLIENT TRACKING.  See ``proxy.tracking``."""

    def __init__(self) -> None:
        self.redirect: int = 0  # id of the client that gets the messages; 0: itself
        self.broken: bool = False  # which was gone when there was something to tell
        self.bcast: bool = False  # of all keys with one of its prefixes, read or not
        self.opt_in: bool = False  # of keys only that it has read after CLIENT CACHING YES
        self.opt_out: bool = False  # not of keys that it has read after CLIENT CACHING NO
        self.caching: bool = False  # which one of them was sent, for the next command
        self.no_loop: bool = False  # not of its own changes
        self.prefixes: dict[bytes, None] = {}


class Awaited:
    """A command that waits for one of its keys to be written.  See ``proxy.blocking``."""

    def __init__(self, keys: list[Where]) -> None:
        self.keys: list[Where] = keys


class Events(EventSink):
    """The keys that somebody wants to hear of."""

    def __init__(self) -> None:
        self.listening: bool = False
        self.watching: bool = False
        self.notify: Callable[[int, str, bytes], object] = _unheard  # told of events while ``listening``
        self.publish: Callable[[bool, bytes, bytes], object] = _unsent  # sends scripts' messages
        self.wake: Callable[[], object] = _nobody  # called when there is something in ``ready``
        self.ready: list[Where] = []  # keys written since they were looked at last, for which clients wait
        self.tracking: bool = False  # clients keep copies
        self.invalidate: Callable[[bytes], object] = _untold  # told of changes while they do
        self.invalidate_all: Callable[[], object] = _nobody  # told that any key may be another
        self.committed_for: Callable[[list[Waiter]], object] = _unasked
        self._mirror: Callable[[int, bytes], object] | None = None
        self._watches: dict[Where, list[Watch]] = {}
        self._awaited: dict[Where, deque[Awaited]] = {}

    def event(self, db: int, name: str, key: bytes) -> None:
        if db < 0:
            self.publish(db == SHARD_MESSAGE, name.encode("latin-1"), key)
        elif self.listening:
            self.notify(db, name, key)

    def changed(self, db: int, key: bytes) -> None:
        where = (db, key)
        watches = self._watches.get(where)
        if watches is not None:
            for watch in watches:
                watch.touched = True
        self._serve(where)
        if self.tracking:
            self.invalidate(key)
        if self._mirror is not None:
            self._mirror(db, key)

    def changed_elsewhere(self, db: int, key: bytes) -> None:
        """A transaction finds out by its tokens, and the other proxy mirrors it."""
        self._serve((db, key))
        if self.tracking:
            self.invalidate(key)

    def changed_all(self) -> None:
        for where in list(self._awaited):
            self._serve(where)
        self.unheard()

    def unheard(self) -> None:
        if self.tracking:
            self.invalidate_all()

    def _serve(self, where: Where) -> None:
        if where in self._awaited and where not in self.ready:
            if not self.ready:
                self.wake()
            self.ready.append(where)

    def expired(self, db: int, key: bytes) -> None:
        if self.tracking:
            self.invalidate(key)

    def by(self, waiters: list[Waiter]) -> None:
        if self.tracking:
            self.committed_for(waiters)

    def track(self, tracking: bool) -> None:
        """Whether clients keep copies."""
        self.tracking = tracking
        self._look()

    def mirror(self, changed: Callable[[int, bytes], object]) -> None:
        """Tell of every change, from now on."""
        self._mirror = changed
        self._look()

    def cleared(self, db: int) -> None:
        for where, watches in self._watches.items():
            if where[0] == db:
                for watch in watches:
                    watch.touched = watch.touched or watch.existed
        for where in list(self._awaited):
            if where[0] == db:
                self.changed(db, where[1])

    def watch(self, watch: Watch) -> None:
        self._watches.setdefault(watch.where, []).append(watch)
        self.watching = True

    def unwatch(self, watch: Watch) -> None:
        watches = self._watches[watch.where]
        watches.remove(watch)
        if not watches:
            del self._watches[watch.where]
        self._look()

    def wait(self, awaited: Awaited) -> None:
        """Put a command at the end of the queues of its keys."""
        for where in awaited.keys:
            self._awaited.setdefault(where, deque()).append(awaited)
        self.watching = True

    def leave(self, awaited: Awaited) -> None:
        """Take a command out of all queues."""
        for where in awaited.keys:
            queue = self._awaited.get(where)
            if queue is not None:
                queue.remove(awaited)
                if not queue:
                    del self._awaited[where]
        self._look()

    def queue(self, where: Where) -> list[Awaited]:
        """The commands that wait for a key, in the order in which they came."""
        return list(self._awaited.get(where, ()))

    @property
    def waiting(self) -> int:
        """How many keys are waited for."""
        return len(self._awaited)

    def _look(self) -> None:
        self.watching = bool(self._watches or self._awaited or self.tracking or self._mirror)
