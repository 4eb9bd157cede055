"""Which keys of a Redis the requests of clients write and read, whatever sends them.

Where somebody wants to know (a mirror), all requests for that Redis pass through here.  What they name is
told once they are answered, and before whoever sent them hears of it: an acknowledged write has been told of.
A write that was refused, or whose answer was lost, is told of too: it may have been applied.

Scripts are known by the keys that they declare.  Of a command that may write and names no key, it is told
that anything may have changed.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

from mypy_extensions import mypyc_attr

from backends.base import Dedicated, Lane, Waiter
from proxy.commands.spec import READONLY, CommandSpec, InvalidKeys, key_flags, lookup
from proxy.events import Where
from proxy.keyspace import DATABASES
from proxy.resp import BULK_MAX, Argv, RequestReader

UNBOUNDED: Final = 1 << 60  # bytes

# Their key specs, or their flags, speak of reading. Yet the one keeps in its key what it has counted, and the
# other what it has given to whom.
KEEPING: Final = (b"pfcount", b"xreadgroup")


@mypyc_attr(allow_interpreted_subclasses=True)
class Observer:
    """Who wants to know."""

    @abstractmethod
    def written(self, db: int, key: bytes) -> None:
        """A key may have been changed or removed."""

    @abstractmethod
    def read(self, db: int, key: bytes) -> None:
        """A key was read."""

    @abstractmethod
    def unknown(self, backend: str, command: str) -> None:
        """A command of this name may have changed any key of a backend."""


class Use:
    """What some requests do with keys."""

    def __init__(self) -> None:
        self.written: list[Where] = []
        self.read: list[Where] = []
        self.unknown: list[str] = []

    def tell(self, observer: Observer, backend: str) -> None:
        for db, key in self.written:
            observer.written(db, key)
        for db, key in self.read:
            observer.read(db, key)
        for command in self.unknown:
            observer.unknown(backend, command)


class Observation:
    """One Redis under observation."""

    def __init__(self, backend: str, table: dict[bytes, CommandSpec], observer: Observer) -> None:
        self.backend: str = backend  # its name in the configuration
        self.observer: Observer = observer
        self.reads: bool = False  # whether it is to hear of those too
        self._table: dict[bytes, CommandSpec] = table

    def send(self, lane: Lane, db: int, frames: bytes, waiter: Waiter) -> None:
        """Send requests on a lane that is at a database, and tell what they do when they are answered."""
        use = self.use_of(db, frames)
        lane.send(frames, waiter if use is None else Observed(self, use, waiter))

    def called(self, db: int, argv: Argv) -> None:
        """One request of our own was answered; what we read for ourselves is nobody's use of a key."""
        use = Use()
        self._look(use, db, argv)
        use.read.clear()
        use.tell(self.observer, self.backend)

    def use_of(self, db: int, frames: bytes) -> Use | None:
        """What requests do with keys, the first of them in a database; None: nothing."""
        reader = RequestReader(UNBOUNDED, BULK_MAX, True)  # they have been bounded
        reader.feed(frames)
        use = Use()
        while True:
            argv = reader.next_command()
            if argv is None:
                break
            if argv[0] == b"SELECT" and len(argv) == 2:  # our own: of clients no Redis hears it
                db = int(argv[1])
            else:
                self._look(use, db, argv)
        return use if use.written or use.read or use.unknown else None

    def _look(self, use: Use, db: int, argv: Argv) -> None:
        spec = lookup(self._table, argv)
        if spec is None:
            return
        writes = spec.write or spec.name in KEEPING
        reads = self.reads and spec.flags & READONLY and (spec.has_keys or spec.upstream)
        if not writes and not reads:
            return
        if spec.first_key:
            found = use.written if writes else use.read
            found.append((db, argv[spec.first_key]))
        else:
            self._look_closer(use, db, spec, argv)
        if spec.name == b"move":
            use.written += _elsewhere(argv[1], argv[2])
        elif spec.name == b"copy":
            for position in range(3, len(argv) - 1):
                if argv[position].upper() == b"DB":
                    use.written += _elsewhere(argv[2], argv[position + 1])

    def _look_closer(self, use: Use, db: int, spec: CommandSpec, argv: Argv) -> None:
        try:
            keys = key_flags(spec, argv)
        except InvalidKeys:
            keys = []
        keeping = spec.name in KEEPING
        for position, flags in keys:
            if not spec.write and not keeping:
                use.read.append((db, argv[position]))
            elif "RO" not in flags or keeping:
                use.written.append((db, argv[position]))
        if not keys and spec.write and (spec.has_keys or spec.group != "scripting"):  # FUNCTION has no keys
            use.unknown.append(spec.title)


def _elsewhere(key: bytes, db: bytes) -> list[Where]:
    """A key in a database, as a request names that."""
    known = db.isdigit() and len(db) <= 2 and int(db) < DATABASES
    return [(int(db), key)] if known else []


class Observed(Waiter):
    """Requests on their way, and what is to be told when they are answered."""

    def __init__(self, observation: Observation, use: Use, waiter: Waiter) -> None:
        super().__init__(waiter.frames)
        self._observation: Observation = observation
        self._use: Use = use
        self._waiter: Waiter = waiter
        self.step = waiter.step

    def retry(self) -> bytes:
        return self._waiter.retry()

    def redirected(self) -> None:
        self._waiter.redirected()

    def alone(self) -> bool:
        return self._waiter.alone()

    def done(self, wire: bytes, failed: int) -> None:
        try:
            self._use.tell(self._observation.observer, self._observation.backend)
        finally:
            self._waiter.done(wire, failed)

    def resolve(self, reply: object) -> None:
        raise TypeError("a lane answers in frames")


class ObservedLane(Lane):
    """A shared lane of the Redis."""

    def __init__(self, lane: Lane, observation: Observation, db: int) -> None:
        self._lane: Lane = lane
        self._observation: Observation = observation
        self._db: int = db

    def send(self, frames: bytes, waiter: Waiter) -> None:
        self._observation.send(self._lane, self._db, frames, waiter)


class ObservedDedicated(Dedicated):
    """A connection of one client's own; what it owes when it is given back is told of too."""

    def __init__(self, dedicated: Dedicated, observation: Observation) -> None:
        self.db = dedicated.db
        self.proto = dedicated.proto
        self._dedicated: Dedicated = dedicated
        self._observation: Observation = observation

    def send(self, frames: bytes, waiter: Waiter) -> None:
        self._observation.send(self._dedicated, self.db, frames, waiter)

    def release(self, clean: bool) -> None:
        self._dedicated.release(clean)
