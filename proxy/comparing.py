"""Comparing keys of a mirror's two backends: some of those that are read, or were copied.

What differs is looked at again after a while.  It counts only if both sides have stayed as they were and
nobody has written the key: else the value may be on its way, maybe by another proxy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from proxy.clock import Clock
from proxy.complaints import Complaints
from proxy.errors import CommandError, quote
from proxy.events import Where
from proxy.moves import Value
from proxy.sides import BATCH, Away, Found, Large, Side, Source, by_database, differ, together

log = logging.getLogger("redtier.mirror")

EVERY: Final = 1.0  # seconds
# How long a write that one of two looks has seen may take to be told of.
SETTLE: Final = 0.2  # seconds
CLOCKS_APART: Final = 5_000  # ms, at most, of redtier and the backends


class Difference(NamedTuple):
    how: str
    first: Found
    second: Found


class Comparison:
    """At most ``most`` keys a second.

    ``ends_of`` gives both backends' keys of a database, or raises ``Away``; ``lags`` tells of a key whether
    the second may rightly have an older value.
    """

    def __init__(
        self,
        title: str,
        most: int,
        ends_of: Callable[[int], tuple[Source, Side]],
        lags: Callable[[Where], bool],
        clock: Clock,
        complaints: Complaints,
    ) -> None:
        self.compared = 0
        self.differences = 0
        self._title = title
        self._most = most
        self._ends_of = ends_of
        self._lags = lags
        self._clock = clock
        self._complaints = complaints
        self._sample: dict[Where, None] = {}  # to be compared next
        self._suspects: set[Where] = set()  # that differed, and were not written since

    def add(self, where: Where) -> None:
        if len(self._sample) < self._most:
            self._sample[where] = None

    def written(self, where: Where) -> None:
        self._suspects.discard(where)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            sample, self._sample = list(self._sample), {}
            for at in range(0, len(sample), BATCH):
                for db, names in by_database(sample[at : at + BATCH]).items():
                    try:
                        await self._compare(db, names)
                    except Away:
                        pass  # there are other samples
                    except Exception:
                        log.exception("%s: comparing", self._title)

    async def _compare(self, db: int, names: list[bytes]) -> None:
        """Compare keys in which the second backend does not lag; raises Away."""
        names = [name for name in names if not self._lags((db, name))]
        before = await self._differing(db, names)
        self.compared += len(names)
        if not before:
            return
        self._suspects = {(db, name) for name in before}  # less what is written from now on
        await asyncio.sleep(SETTLE)
        after = await self._differing(db, [name for name in before if not self._lags((db, name))])
        await asyncio.sleep(SETTLE)
        for name, difference in after.items():
            if (db, name) in self._suspects and self._stays(before[name], difference):
                self.differences += 1
                line = f"{self._title}: '{quote(name)}' {difference.how} (database {db})"
                self._complaints.say("differs", line)
        self._suspects.clear()

    def _stays(self, before: Difference, after: Difference) -> bool:
        return self._same(before.first, after.first) and self._same(before.second, after.second)

    def _same(self, before: Found, after: Found) -> bool:
        if isinstance(before, Value):
            return not differ(before, after, self._clock.ms)
        return type(before) is type(after)

    async def _differing(self, db: int, names: list[bytes]) -> dict[bytes, Difference]:
        """Which keys differ, and how; those that are large, or that the first can't give, are left out."""
        found: dict[bytes, Difference] = {}
        pairs = await together(end.read(names) for end in self._ends_of(db))
        for name, first, second in zip(names, *pairs, strict=True):
            how = self._difference(first, second)
            if how:
                found[name] = Difference(how, first, second)
        return found

    def _difference(self, first: Found, second: Found) -> str:
        """How they differ, as a log says it, or empty."""
        if isinstance(first, (Large, CommandError)) or isinstance(second, Large):
            return ""
        if self._expires(first) or self._expires(second):
            return ""
        if first is None:
            return "" if second is None else "is there, and not in the first backend"
        if second is None:
            return "is missing"
        if isinstance(second, CommandError):
            return f"can't be read: {second.text}"
        return "has another value, or another expiry" if differ(first, second, self._clock.ms) else ""

    def _expires(self, found: Found) -> bool:
        """Whether a key is about to go, and may be gone by the clock of one of the two."""
        return isinstance(found, Value) and 0 < found.expire_at <= self._clock.ms + CLOCKS_APART
