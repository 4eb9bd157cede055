"""A backup is a walk over all keys, written to an archive.

Each key is in it as it was at one moment, whole and by itself; one that is created or removed meanwhile may
be in it or not.  So that no key that stood throughout is missed, a database whose walk may have lost its way,
since its backend was started anew or its keys have moved, is read again; later records replace earlier ones.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Final, TypeVar

from backends.archive import BLOCK, ArchiveError, ArchiveRecord, ArchiveWriter, encode
from proxy.clock import Clock
from proxy.errors import CommandError, quote
from proxy.glob import Glob
from proxy.pace import Pace, patiently
from proxy.sides import Away, Found, Large, Side, by_size
from proxy.statefile import as_position, as_text
from proxy.views import Stage, View

T = TypeVar("T")

BATCH: Final = 250  # keys that are read at once
EXAMPLES: Final = 5  # keys that are named of those that could not be read
TRIES: Final = 5  # walks over one database


@dataclass(slots=True)
class Progress:
    """How far a backup is: what a mark in the archive holds."""

    db: int = 0  # the database that is being read; those before it are through
    position: str = ""  # in its walk, empty at its begin
    course: str = ""  # of the database, when its walk began; empty: it has not begun
    unread: int = 0  # keys that could not be read
    unread_before: int = 0  # those of the databases before
    examples: list[str] = field(default_factory=list)  # the first of them, with their errors

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, mark: bytes) -> Progress:
        return cls(**json.loads(mark))


class Backup:
    """One backup at work, of ``sides``, one for each database and in their order, from ``progress`` on.

    ``rate`` bounds the keys that are read in a second, 0: not at all.
    """

    def __init__(
        self,
        sides: Sequence[Side],
        pattern: Glob,
        writer: ArchiveWriter,
        progress: Progress,
        view: View,
        clock: Clock,
        rate: int,
    ) -> None:
        self.progress = progress
        self._sides = sides
        self._pattern = pattern
        self._writer = writer
        self._view = view
        self._clock = clock
        self._pace = Pace(rate, clock)
        self._batch = self._pace.batch(BATCH)
        self._total: int | None = None  # keys, as far as they can be counted
        self._block: list[bytes] = []  # encoded records that are not in the archive yet
        self._filled = 0  # bytes of them
        self._unmarked = 0  # bytes of records behind the last mark

    async def run(self) -> None:
        """Read all keys and finish the archive.  Raises Away and ArchiveError."""
        sizes = [await self._patiently(partial(side.size, self._pattern.prefix)) for side in self._sides]
        self._total = None if None in sizes else sum(size for size in sizes if size is not None)
        for side in self._sides:
            if side.db < self.progress.db:
                continue
            if side.db > self.progress.db:
                self._begin(side.db)
            await self._read_database(side)
        await self._flush()
        await asyncio.to_thread(self._writer.finish, self.progress.unread)
        self._view.passed(self._stage())

    def _begin(self, db: int) -> None:
        before = self.progress
        self.progress = Progress(
            db, unread=before.unread, unread_before=before.unread, examples=before.examples
        )

    async def _read_database(self, side: Side) -> None:
        for _ in range(TRIES):
            course = await self._patiently(side.course)
            if course != self.progress.course:
                self._begin_anew(side, course)
            await self._walk(side)
            if await self._patiently(side.course) == course:
                return
        raise Away(f"backend '{side.name}' was started anew again and again while it was read")

    def _begin_anew(self, side: Side, course: str) -> None:
        state = self.progress
        if state.course:
            self._view.note(
                f"'{side.name}' was started anew, or its keys have moved: database {side.db} is read again"
            )
        state.course, state.position, state.unread = course, "", state.unread_before

    async def _walk(self, side: Side) -> None:
        state = self.progress
        position: object = as_position(state.position)
        while True:
            page = partial(side.walk, self._pattern.prefix, position)
            names, position = await self._patiently(page)
            names = [name for name in names if self._pattern.matches(name)]
            for at in range(0, len(names), self._batch):
                batch = names[at : at + self._batch]
                await self._pace.keep(len(batch))
                await self._read(side, batch)
                self._view.show(self._stage())
            state.position = as_text(position)
            if position is None:
                return
            if self._unmarked >= BLOCK:
                await self._mark()

    async def _read(self, side: Side, names: Sequence[bytes]) -> None:
        large: dict[bytes, int] = {}
        found = await self._patiently(partial(side.read, names))
        for name, value in zip(names, found, strict=True):
            if isinstance(value, Large):
                large[name] = value.size
            else:
                await self._take(side.db, name, value)
        for group in by_size(large):
            whole = await self._patiently(partial(side.read_whole, group))
            for name, value in zip(group, whole, strict=True):
                await self._take(side.db, name, value)

    async def _take(self, db: int, name: bytes, found: Found) -> None:
        if found is None:
            return  # it was removed since the walk came by
        assert not isinstance(found, Large)
        if isinstance(found, CommandError):
            self._refuse(name, found.text)
            return
        try:
            record = encode(ArchiveRecord(db, name, found.kind, found.data, found.expire_at))
        except ArchiveError as error:
            self._refuse(name, str(error))
            return
        # Before, not after: a large value has a block of its own.
        if self._filled + len(record) > BLOCK:
            await self._flush()
        self._block.append(record)
        self._filled += len(record)
        self._unmarked += len(record)

    def _refuse(self, name: bytes, reason: str) -> None:
        self.progress.unread += 1
        if len(self.progress.examples) < EXAMPLES:
            self.progress.examples.append(f"{quote(name)}: {reason}")

    async def _flush(self) -> None:
        if self._block:
            block, self._block, self._filled = self._block, [], 0
            await asyncio.to_thread(self._writer.add, block)

    async def _mark(self) -> None:
        await self._flush()
        await asyncio.to_thread(self._writer.mark, self.progress.encode())
        self._unmarked = 0

    def _stage(self) -> Stage:
        done = self._writer.records + len(self._block)
        counts = f"{self._writer.size / 1e6:,.1f} MB"
        if self.progress.unread:
            counts += f", {self.progress.unread:,} could not be read"
        return Stage("backup", f"database {self.progress.db}", done, self._total, "keys read", counts)

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        return await patiently(step, self._clock, self._view)
