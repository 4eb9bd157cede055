"""Mirrors: what clients write on a route is put to a second backend too; answers come from the first alone.

A mirror is the set of keys in which the second backend may lag.  A key is in it from the moment at which a
write of it has taken effect, and is taken out to be copied: its value is read from the first, whole, and put
to the second, or removed there.  So it makes no difference what the command was, writes of a key that come
quickly after each other are one copy, and a copy that failed is simply made later.  The set is bounded: what
has no place in it is counted as dropped, and ``redtier copy`` is due.

Nothing that clients do waits for any of this.

To compare, some of the keys that are read, or were copied, are read from both.  What differs is looked at
again after a while and counts only if nobody has written it since.  It is not mended: which of the two is
right a mirror can't know.
"""

from __future__ import annotations

import asyncio
import logging
from binascii import crc32
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

from proxy.clock import Clock
from proxy.commands.spec import CommandSpec
from proxy.config import MirrorConfig
from proxy.datatypes.values import pack
from proxy.errors import CommandError, quote
from proxy.events import Events, Where
from proxy.homes import ColdHome, UpstreamHome
from proxy.lru import entry_size
from proxy.moves import Value
from proxy.observing import Observation, Observer
from proxy.prefixes import PrefixMap
from proxy.router import Home, Route, Router
from proxy.sides import SMALL, Away, Found, Large, Side, differ, side_of, together

log = logging.getLogger("redtier.mirror")

# Keys that are copied, or compared, at once: with more, clients would have to wait for the loop.
BATCH: Final = 64
# How long writes may gather before they are copied, where they are few: a key that is written all the time is
# copied once in so long.
GATHER: Final = 0.01  # seconds
# A value over SMALL is copied alone, and the next one after so many times what it took the first to give it.
REST: Final = 9
PAUSE_MIN, PAUSE_MAX = 0.1, 2.0  # seconds between two tries while a backend can't serve
COMPARE_EVERY: Final = 1.0  # seconds
# How long a write that one of two looks has seen may take to be told of.
SETTLE: Final = 0.2  # seconds
CLOCKS_APART: Final = 5_000  # ms, at most, of redtier and the backends


class Source(Protocol):
    """Where values are read from."""

    async def read(self, names: Sequence[bytes]) -> list[Found]: ...

    async def read_whole(self, names: Sequence[bytes]) -> list[Found]: ...

    async def life(self) -> str:
        """What is another once it may have lost keys by itself."""


class MemorySource:
    """A memory backend's keys of one database."""

    def __init__(self, route: Route, db: int) -> None:
        self._keyspace = route.keyspaces[db]

    async def read(self, names: Sequence[bytes]) -> list[Found]:
        return [self._read(name, SMALL) for name in names]

    async def read_whole(self, names: Sequence[bytes]) -> list[Found]:
        return [self._read(name, None) for name in names]

    async def life(self) -> str:
        return ""  # it has this process', and so has the mirror

    def _read(self, name: bytes, limit: int | None) -> Found:
        entry = self._keyspace.peek(name)
        if entry is None:
            return None
        size = entry_size(name, entry.value)
        if limit is not None and size > limit:
            return Large(size)
        return Value(entry.kind, pack(entry.value), entry.expire_at)


class Complaints:
    """Lines for the log: of each kind one a second, which says how many were left out since."""

    def __init__(self) -> None:
        self._said_at: dict[str, float] = {}  # by kind, by the loop's time
        self._unsaid: dict[str, int] = {}

    def say(self, kind: str, line: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._said_at.get(kind, -1.0) < 1.0:
            self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
            return
        self._said_at[kind] = now
        more = self._unsaid.pop(kind, 0)
        log.warning("%s%s", line, f" ({more} more like it since the last such line)" if more else "")


class Queue:
    """Keys, each once, in the order in which they came."""

    def __init__(self) -> None:
        self.bytes = 0  # of their names
        self.filled = asyncio.Event()
        self._keys: OrderedDict[Where, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, where: Where) -> bool:
        return where in self._keys

    def add(self, where: Where) -> None:
        if where not in self._keys:
            self._keys[where] = None
            self.bytes += len(where[1])
            self.filled.set()

    def __iter__(self) -> Iterator[Where]:
        return iter(self._keys)

    def take(self, most: int) -> list[Where]:
        """The first of them, at most so many."""
        taken = [self._keys.popitem(last=False)[0] for _ in range(min(most, len(self._keys)))]
        self.bytes -= sum(len(name) for _, name in taken)
        if not self._keys:
            self.filled.clear()
        return taken


class Mirror:
    """One route's keys in a second backend, ``target``, brought there from ``source``, the route's own."""

    def __init__(
        self,
        route: Route,
        source: Home,
        target: ColdHome | UpstreamHome,
        settings: MirrorConfig,
        clock: Clock,
    ) -> None:
        self.route = route
        self.source = source
        self.target = target
        self.settings = settings
        self.title = f"mirror of '{quote(route.prefix)}*' in '{target.name}'"  # for the log
        self.away = ""  # why nothing can be copied now, or empty
        self.forget_counts()
        self._clock = clock
        self._complaints = Complaints()
        self._ends: dict[int, tuple[Source, Side]] = {}  # by database
        self._changed = Queue()
        self._large = Queue()  # those whose values are copied one by one
        self._batch: set[Where] = set()  # taken from the one queue, and being copied
        self._alone: set[Where] = set()  # the same of the other: one key at most
        self._took = 0.0  # seconds for which the first backend was reading its value
        self._tried = asyncio.Event()  # set when a batch was copied, or could not be
        self._life: str | None = None  # of the first backend, once it is known
        self._maybe_lost: set[Where] = set()  # what waited when that had become another
        self._closing = asyncio.Event()
        self._sample: dict[Where, None] = {}  # to be compared next
        self._suspects: set[Where] = set()  # that differed, and were not written since

    def forget_counts(self) -> None:
        self.copied = 0  # keys put to the second backend, or removed there
        self.dropped = 0  # changes that will not get there: for these a copy is due
        self.refused = 0  # copies that either backend has refused, of keys that it can't hold
        self.compared = 0
        self.differences = 0

    @property
    def pending(self) -> int:
        """Keys in which the second backend may lag."""
        return len(self._changed) + len(self._large) + len(self._batch) + len(self._alone)

    def figures(self) -> dict[str, int]:
        """What INFO and TIER ROUTES show, by name."""
        return {
            "pending": self.pending,
            "copied": self.copied,
            "dropped": self.dropped,
            "refused": self.refused,
            "compared": self.compared,
            "differences": self.differences,
        }

    # What is told

    def covers(self, key: bytes) -> bool:
        """Whether a key of the route is among those that are mirrored: always or never."""
        percent = self.settings.percent
        return percent == 100 or crc32(key) % 100 < percent

    def written(self, db: int, key: bytes) -> None:
        """A key was changed in the first backend, or may have been."""
        where = (db, key)
        self._suspects.discard(where)
        if where in self._changed or where in self._large:
            return
        settings = self.settings
        if len(self._changed) + len(self._large) >= settings.queue_max:
            self.drop("more than queue_max keys are waiting")
        elif self._changed.bytes + self._large.bytes + len(key) > settings.queue_bytes_max:
            self.drop("the names of the keys that are waiting take more than queue_bytes_max")
        else:
            self._changed.add(where)

    def read(self, db: int, key: bytes) -> None:
        """A key was read in the first backend, or copied."""
        if self.settings.compare and len(self._sample) < self.settings.compare_rate:
            self._sample[db, key] = None

    def drop(self, reason: str) -> None:
        """Something was changed that will not be mirrored."""
        self.dropped += 1
        self._complaints.say("dropped", f"{self.title}: a change is not mirrored, so a copy is due: {reason}")

    # At work

    async def run(self) -> None:
        """Mirror until cancelled."""
        await asyncio.gather(self._copy_small(), self._copy_large(), self._compare_samples())

    async def settle(self) -> None:
        """Return once nothing is pending, or what is can't be copied now; nothing is written any more."""
        self._closing.set()
        while self.pending and not self.away:
            self._tried.clear()
            await self._tried.wait()

    async def _copy_small(self) -> None:
        pause = PAUSE_MIN
        while True:
            await self._changed.filled.wait()
            if len(self._changed) < BATCH:
                await asyncio.sleep(GATHER)
            batch: list[Where] = []
            for where in self._changed.take(BATCH):
                if where in self._alone:  # an older value must not come after a newer one
                    self._large.add(where)
                else:
                    batch.append(where)
            done = await self._try(batch, self._batch, self._changed)
            pause = PAUSE_MIN if done else await self._wait(pause)

    async def _copy_large(self) -> None:
        pause = PAUSE_MIN
        while True:
            await self._large.filled.wait()
            self._took = 0.0
            done = await self._try(self._large.take(1), self._alone, self._large)
            pause = PAUSE_MIN if done else await self._wait(pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), REST * self._took)

    async def _wait(self, pause: float) -> float:
        """Wait before the next try; how long before the one after that."""
        await asyncio.sleep(pause)
        return min(2 * pause, PAUSE_MAX)

    async def _try(self, batch: list[Where], at_work: set[Where], queue: Queue) -> bool:
        """Copy keys that were taken from a queue, ``at_work`` for so long.

        Where that can't be done now, they are in the queue again.
        """
        at_work.update(batch)
        try:
            for db, names in _by_database(batch).items():
                await self._copy(db, names, queue is self._large)
        except Away as error:
            self.away = str(error)
            self._complaints.say("away", f"{self.title}: waiting: {error}")
            for where in batch:
                queue.add(where)
            return False
        except Exception:  # a fault of ours: the others are to be mirrored all the same
            log.exception("%s: %d keys", self.title, len(batch))
            self.dropped += len(batch)
            self._maybe_lost.difference_update(batch)
        finally:
            at_work.clear()
            self._tried.set()
        self.away = ""
        return True

    # A batch

    async def _copy(self, db: int, names: list[bytes], whole: bool) -> None:
        """Make keys in the second backend what they are in the first; raises Away.

        ``whole``: whatever their sizes; else those that are large are put into the queue of these.
        """
        source, target = self._ends_of(db)
        if self._life is None:
            self._life = await source.life()
        found = dict(zip(names, await self._read(source, names, whole), strict=True))
        values: dict[bytes, Value] = {}
        gone: list[bytes] = []
        for name, value in found.items():
            if isinstance(value, Large):
                self._large.add((db, name))
            elif isinstance(value, CommandError):
                self._refuse(name, value)
            elif value is None:
                gone.append(name)
            else:
                values[name] = value
        lost = await self._maybe_lost_of(db, gone, source) if gone else []
        gone = [name for name in gone if name not in lost]
        results = await target.write(values) + await target.drop(gone)
        for name in lost:
            self.drop(f"'{quote(name)}' was removed, or lost when '{self.route.home.name}' began anew")
        self._maybe_lost.difference_update((db, name) for name in names)
        done = [*values, *gone]
        for name, result in zip(done, results, strict=True):
            if isinstance(result, CommandError):
                self._refuse(name, result)
            else:
                self.copied += 1
                self.read(db, name)
        if not isinstance(source, MemorySource):
            # Another proxy may have mirrored a newer value before this one came there.
            again = await self._read(source, done, whole)
            for name, now in zip(done, again, strict=True):
                before = found[name]
                if differ(before, now, self._clock.ms) if isinstance(before, Value) else now is not None:
                    self._changed.add((db, name))

    async def _read(self, source: Source, names: list[bytes], whole: bool) -> list[Found]:
        if not whole:
            return await source.read(names)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await source.read_whole(names)
        finally:  # a value that is too large to be read in time is asked for as seldom
            self._took += loop.time() - began

    async def _maybe_lost_of(self, db: int, gone: list[bytes], source: Source) -> list[bytes]:
        """Which of the keys that the first backend has not it may have lost, and nobody removed them."""
        life = await source.life()
        if life != self._life:  # it was started anew, or another took over, while these waited
            self._life = life
            self._maybe_lost.update(self._changed, self._large, self._batch, self._alone)
        return [name for name in gone if (db, name) in self._maybe_lost]

    def _ends_of(self, db: int) -> tuple[Source, Side]:
        """Both backends' keys of a database; raises Away."""
        for home in (self.route.home, self.target):
            if home.down:
                raise Away(f"backend '{home.name}': {home.down}")
        ends = self._ends.get(db)
        if ends is None:
            source: Source
            if isinstance(self.source, (ColdHome, UpstreamHome)):
                source = side_of(self.source, db)
            else:
                source = MemorySource(self.route, db)
            ends = self._ends[db] = (source, side_of(self.target, db))
        return ends

    def _refuse(self, name: bytes, error: CommandError) -> None:
        self.refused += 1
        self._complaints.say("refused", f"{self.title}: '{quote(name)}' can't be copied: {error.text}")

    # Comparing

    async def _compare_samples(self) -> None:
        while True:
            await asyncio.sleep(COMPARE_EVERY)
            sample, self._sample = list(self._sample), {}
            for at in range(0, len(sample), BATCH):
                for db, names in _by_database(sample[at : at + BATCH]).items():
                    try:
                        await self._compare(db, names)
                    except Away:
                        pass  # there are other samples
                    except Exception:
                        log.exception("%s: comparing", self.title)

    async def _compare(self, db: int, names: list[bytes]) -> None:
        """Compare keys in which the second backend does not lag; raises Away."""
        names = [name for name in names if not self._lags((db, name))]
        suspects = await self._differing(db, names)
        self.compared += len(names)
        if not suspects:
            return
        self._suspects = {(db, name) for name in suspects}  # less what is written from now on
        await asyncio.sleep(SETTLE)
        suspects = await self._differing(db, [name for name in suspects if not self._lags((db, name))])
        await asyncio.sleep(SETTLE)
        for name, how in suspects.items():
            if (db, name) in self._suspects:
                self.differences += 1
                self._complaints.say("differs", f"{self.title}: '{quote(name)}' {how} (database {db})")
        self._suspects.clear()

    def _lags(self, where: Where) -> bool:
        return any(where in keys for keys in (self._changed, self._large, self._batch, self._alone))

    async def _differing(self, db: int, names: list[bytes]) -> dict[bytes, str]:
        """Which keys differ, and how; those that are large, or that the first can't give, are left out."""
        found: dict[bytes, str] = {}
        pairs = await together(end.read(names) for end in self._ends_of(db))
        for name, value, other in zip(names, *pairs, strict=True):
            if isinstance(value, (Large, CommandError)) or isinstance(other, Large):
                continue
            if self._expires(value) or self._expires(other):
                continue
            if value is None:
                if other is not None:
                    found[name] = f"is there, and not in '{self.route.home.name}'"
            elif other is None:
                found[name] = "is missing"
            elif isinstance(other, CommandError):
                found[name] = f"can't be read: {other.text}"
            elif differ(value, other, self._clock.ms):
                found[name] = "has another value, or another expiry"
        return found

    def _expires(self, found: Found) -> bool:
        """Whether a key is about to go, and may be gone by the clock of one of the two."""
        return isinstance(found, Value) and 0 < found.expire_at <= self._clock.ms + CLOCKS_APART


class Mirrors(Observer):
    """All mirrors, by the prefixes of their routes."""

    def __init__(self, mirrors: Mapping[bytes, Mirror | None]) -> None:
        self.all = [mirror for mirror in mirrors.values() if mirror is not None]
        self.targets = list(dict.fromkeys(mirror.target for mirror in self.all))
        own = [mirror.source for mirror in self.all if mirror.source is not mirror.route.home]
        self.homes: list[Home] = list(dict.fromkeys([*self.targets, *own]))  # of mirrors alone
        self._map: PrefixMap[Mirror | None] = PrefixMap(mirrors.items())

    def attach(self, router: Router, events: Events, table: dict[bytes, CommandSpec]) -> None:
        """Have told what is done with keys: what changes in memory and in stores, what a Redis is asked."""
        for mirror in self.all:
            home = mirror.route.home
            if not isinstance(home, UpstreamHome):
                events.mirror(self.written)
            elif home.observation is None:
                home.observation = Observation(home.name, table, self)
            if mirror.settings.compare:
                router.observe(mirror.route, self)
                if isinstance(home, UpstreamHome) and home.observation is not None:
                    home.observation.reads = True

    def of(self, route: Route) -> Mirror | None:
        return self._map.find(route.prefix)

    # What is told

    def written(self, db: int, key: bytes) -> None:
        mirror = self._map.find(key)
        if mirror is not None and mirror.covers(key):
            mirror.written(db, key)

    def read(self, db: int, key: bytes) -> None:
        mirror = self._map.find(key)
        if mirror is not None and mirror.covers(key):
            mirror.read(db, key)

    def unknown(self, backend: str, command: str) -> None:
        for mirror in self.all:
            if mirror.route.home.name == backend:
                mirror.drop(f"{command} named no key, and may have changed any")

    def replaced(self, command: str) -> None:
        """All keys of a database, or of all, are gone or others."""
        for mirror in self.all:
            mirror.drop(f"{command} is not mirrored")

    # At work

    def start(self, spawn: Callable[[Coroutine[object, object, None]], object]) -> None:
        for mirror in self.all:
            spawn(mirror.run())

    async def settle(self, patience: float) -> None:
        """Copy what is pending, within so many seconds and as far as the backends can; no more is written."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await asyncio.gather(*[mirror.settle() for mirror in self.all])
        for mirror in self.all:
            if mirror.pending:
                log.warning(
                    "%s: %d keys were not copied before the end, so a copy is due",
                    mirror.title,
                    mirror.pending,
                )


def _by_database(keys: Iterable[Where]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for db, name in keys:
        found.setdefault(db, []).append(name)
    return found
