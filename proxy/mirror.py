"""Mirrors: what clients write on a route is put to a second backend too; answers come from the first alone.

A mirror is the set of keys in which the second backend may lag.  A key is in it from the moment at which a
write of it has taken effect, and is taken out to be copied: its value is read from the first, whole, and put
to the second, or removed there.  So it makes no difference what the command was, writes of a key that come
quickly after each other are one copy, and a copy that failed is simply made later.  The set is bounded: what
has no place in it is counted as dropped, and ``redtier copy`` is due.

Nothing that clients do waits for any of this.

Some keys are compared (``proxy.comparing``).  A difference is not mended: which of the two is right a mirror
can't know.
"""

from __future__ import annotations

import asyncio
import logging
from binascii import crc32
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from proxy.clock import Clock
from proxy.comparing import Comparison
from proxy.complaints import Complaints
from proxy.config import MirrorConfig
from proxy.errors import CommandError, quote
from proxy.events import Where
from proxy.homes import ColdHome, UpstreamHome
from proxy.keyspace import DATABASES
from proxy.moves import Value
from proxy.router import Home, Route
from proxy.sides import BATCH, Away, Found, Large, Side, Source, by_database, differ, side_of, source_of

log = logging.getLogger("redtier.mirror")

# How long writes may gather before they are copied, where they are few: a key that is written all the time is
# copied once in so long.
GATHER: Final = 0.01  # seconds
# A value over SMALL is copied alone, and the next one after so many times what it took the first to give it.
REST: Final = 9
PAUSE_MIN, PAUSE_MAX = 0.1, 2.0  # seconds between two tries while a backend can't serve
LOOK_EVERY: Final = 1.0  # seconds between two looks whether the first backend is another one


class Queue:
    """Keys, each once, in the order in which they came."""

    def __init__(self) -> None:
        self.bytes = 0  # of their names
        self.filled = asyncio.Event()
        self._keys: OrderedDict[Where, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, where: object) -> bool:
        return where in self._keys

    def __iter__(self) -> Iterator[Where]:
        return iter(self._keys)

    def add(self, where: Where) -> None:
        if where not in self._keys:
            self._keys[where] = None
            self.bytes += len(where[1])
            self.filled.set()

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
        self._clock = clock
        self._complaints = Complaints(log)
        # By database.
        self._sources: list[Source] = [source_of(route, source, db) for db in range(DATABASES)]
        self._targets: list[Side] = [side_of(target, db) for db in range(DATABASES)]
        self._changed = Queue()
        self._large = Queue()  # those whose values are copied one by one
        self._batch: set[Where] = set()  # taken from the one queue, and being copied
        self._alone: set[Where] = set()  # the same of the other: one key at most
        self._places: list[Queue | set[Where]] = [self._changed, self._large, self._batch, self._alone]
        self._took = 0.0  # seconds for which the first backend was reading its value
        self._tried = asyncio.Event()  # set when a batch was copied, or could not be
        self._life: frozenset[str] | None = None  # of the first backend, once it is known
        self._maybe_lost: set[Where] = set()  # what waited when that had become another
        self._closing = asyncio.Event()
        most = settings.compare_rate if settings.compare else 0
        self._comparison = Comparison(self.title, most, self._ends_of, self._lags, clock, self._complaints)
        self.forget_counts()

    def forget_counts(self) -> None:
        self.copied = 0  # keys put to the second backend, or removed there
        self.dropped = 0  # changes that will not get there: for these a copy is due
        self.refused = 0  # copies that either backend has refused, of keys that it can't hold
        self._comparison.compared = 0
        self._comparison.differences = 0

    @property
    def pending(self) -> int:
        """Keys in which the second backend may lag."""
        return sum(len(place) for place in self._places)

    def figures(self) -> dict[str, int]:
        """What INFO and TIER ROUTES show, by name."""
        return {
            "pending": self.pending,
            "copied": self.copied,
            "dropped": self.dropped,
            "refused": self.refused,
            "compared": self._comparison.compared,
            "differences": self._comparison.differences,
        }

    # What is told

    def covers(self, key: bytes) -> bool:
        """Whether a key of the route is among those that are mirrored: always or never."""
        percent = self.settings.percent
        return percent == 100 or crc32(key) % 100 < percent

    def written(self, db: int, key: bytes) -> None:
        """A key was changed in the first backend, or may have been."""
        where = (db, key)
        self._comparison.written(where)
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
        self._comparison.add((db, key))

    def drop(self, reason: str) -> None:
        """Something was changed that will not be mirrored."""
        self.dropped += 1
        self._complaints.say("dropped", f"{self.title}: a change is not mirrored, so a copy is due: {reason}")

    # At work

    async def run(self) -> None:
        """Mirror until cancelled."""
        await asyncio.gather(
            self._watch_first(), self._copy_small(), self._copy_large(), self._comparison.run()
        )

    async def settle(self) -> None:
        """Return once nothing is pending; nothing is written any more."""
        self._closing.set()
        while self.pending:
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
                # An older value must not come after a newer one.
                if where in self._alone or where in self._large:
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
            await self._unless_closing(REST * self._took)

    async def _wait(self, pause: float) -> float:
        """Wait before the next try; how long before the one after that."""
        await asyncio.sleep(PAUSE_MIN)
        await self._unless_closing(pause - PAUSE_MIN)
        return min(2 * pause, PAUSE_MAX)

    async def _unless_closing(self, pause: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), pause)

    async def _try(self, batch: list[Where], at_work: set[Where], queue: Queue) -> bool:
        """Copy keys that were taken from a queue, ``at_work`` for so long.

        Where that can't be done now, they are in the queue again.
        """
        at_work.update(batch)
        try:
            for db, names in by_database(batch).items():
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
            await self._look_at_first()
        found = dict(zip(names, await self._read(source, names, whole), strict=True))
        values = {name: value for name, value in found.items() if isinstance(value, Value)}
        gone = [name for name, value in found.items() if value is None]
        if gone:
            await self._look_at_first()  # whether somebody removed them, or it may have lost them
            gone = [name for name in gone if (db, name) not in self._maybe_lost]
        results = await target.write(values) + await target.drop(gone)
        self._maybe_lost.difference_update((db, name) for name in names)
        for name, value in found.items():
            if isinstance(value, Large):
                self._large.add((db, name))
            elif isinstance(value, CommandError):
                self._refuse(name, value)
        done = [*values, *gone]
        for name, result in zip(done, results, strict=True):
            if isinstance(result, CommandError):
                self._refuse(name, result)
            else:
                self.copied += 1
                self.read(db, name)
        if not self.route.keyspaces:
            # Another proxy may have mirrored a newer value before this one came there.
            again = await self._read(source, done, whole)
            for name, now in zip(done, again, strict=True):
                before = found[name]
                if differ(before, now, self._clock.ms) if isinstance(before, Value) else now is not None:
                    self._changed.add((db, name))

    async def _read(self, source: Source, names: Sequence[bytes], whole: bool) -> list[Found]:
        if not whole:
            return await source.read(names)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await source.read_whole(names)
        finally:  # a value that is too large to be read in time is asked for as seldom
            self._took += loop.time() - began

    def _ends_of(self, db: int) -> tuple[Source, Side]:
        """Both backends' keys of a database; raises Away."""
        for home in (self.route.home, self.target):
            if home.down:
                raise Away(f"backend '{home.name}': {home.down}")
        return self._sources[db], self._targets[db]

    def _lags(self, where: Where) -> bool:
        return any(where in place for place in self._places)

    def _refuse(self, name: bytes, error: CommandError) -> None:
        self.refused += 1
        self._complaints.say("refused", f"{self.title}: '{quote(name)}' can't be copied: {error.text}")

    # The first backend's life

    async def _watch_first(self) -> None:
        while True:
            with suppress(Away):
                await self._look_at_first()
            await asyncio.sleep(LOOK_EVERY)

    async def _look_at_first(self) -> None:
        """Notice that the first backend was started anew, or that another took over; raises Away.

        It may have lost writes then: the last ones, which may be mirrored already, or all.
        """
        life = frozenset((await self._sources[0].life()).split())
        if self._life is not None and not self._life <= life:
            self._maybe_lost.update(*self._places)
            self.drop(f"'{self.route.home.name}' began anew, and may have lost what is mirrored")
        self._life = life
