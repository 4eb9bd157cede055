"""A restore verifies an archive from its first byte to its last before it writes anything of it.

Each key becomes what the archive has of it, whatever was there; keys that the archive has not stay.  What has
expired since is left out.  Writes may be repeated, so after any end a restore goes on behind the last block
of which all is written; only where the backend may have lost keys since, it begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from backends.archive import ArchiveReader, ArchiveRecord, Block, Totals
from proxy.clock import Clock
from proxy.errors import CommandError, quote
from proxy.glob import Glob
from proxy.moves import Value
from proxy.pace import Pace, patiently
from proxy.sides import Away, Side
from proxy.statefile import StateFile
from proxy.views import Stage, View

T = TypeVar("T")

BATCH: Final = 250  # keys that are written at once
EXAMPLES: Final = 5  # keys that are named of those that were refused
TRIES: Final = 5  # goes over the archive


@dataclass(slots=True)
class Restored:
    """How far a restore is; counts are of this go over the archive."""

    end: int = 0  # offset of what follows the last block of which all is written
    life: str = ""  # of the backend, when this go began
    read: int = 0  # records
    written: int = 0
    expired: int = 0  # since the backup
    refused: int = 0
    refusals: list[str] = field(default_factory=list)  # the first of them, with their errors


async def verified(path: Path, file: BinaryIO, view: View) -> Totals:
    """What an archive holds; raises DamagedArchive unless all of it is as it was written."""
    reader = ArchiveReader(path, file)
    done = 0
    async for block in _blocks(reader):
        await asyncio.to_thread(block.content)
        done = block.end
        view.show(_verifying(done, reader.size))
    assert reader.totals is not None
    view.passed(_verifying(done, reader.size))
    return reader.totals


def _verifying(done: int, size: int) -> Stage:
    return Stage("verification", "verification", done, size, "bytes verified", "")


class Restore:
    """One restore at work, from ``state`` on, of the records of ``db`` (None: all) that match ``pattern``.

    ``side`` gives the backend's side for a database; ``rate`` bounds the keys that are written in a second,
    0: not at all.
    """

    def __init__(
        self,
        path: Path,
        file: BinaryIO,
        side: Callable[[int], Side],
        pattern: Glob,
        db: int | None,
        state: Restored,
        states: StateFile[Restored],
        view: View,
        clock: Clock,
        rate: int,
    ) -> None:
        self.state = state
        self._path = path
        self._file = file
        self._total = 0  # records
        self._side = side
        self._pattern = pattern
        self._db = db
        self._states = states
        self._view = view
        self._clock = clock
        self._pace = Pace(rate, clock)
        self._batch = self._pace.batch(BATCH)

    async def run(self, total: int) -> None:
        """Write all of it, ``total`` records.  Raises Away, ArchiveError and BadState."""
        self._total = total
        side = self._side(self._db or 0)
        for _ in range(TRIES):
            life = await self._patiently(side.life)
            if life != self.state.life:
                if self.state.life:
                    self._view.note(
                        f"'{side.name}' was started anew, and may lack keys: once more from the begin"
                    )
                self.state = Restored(life=life)
            await self._go_over()
            if await self._patiently(side.life) == life:
                self._view.passed(self._stage())
                return
        raise Away(f"backend '{side.name}' was started anew again and again while it was written to")

    async def _go_over(self) -> None:
        async for block in _blocks(ArchiveReader(self._path, self._file)):
            if block.end <= self.state.end:
                continue
            await self._write(await asyncio.to_thread(_records, block))
            self.state.end = block.end
            self.state.read += block.holds
            self._states.keep(self.state)
            self._view.show(self._stage())

    async def _write(self, records: list[ArchiveRecord]) -> None:
        values: dict[int, dict[bytes, Value]] = {}
        now = self._clock.tick()
        for db, name, kind, raw, expire_at in records:
            if self._db not in (None, db) or not self._pattern.matches(name):
                continue
            if 0 < expire_at <= now:
                self.state.expired += 1
                continue
            values.setdefault(db, {})[name] = Value(kind, raw, expire_at)
        for db, by_name in values.items():
            items = list(by_name.items())
            for at in range(0, len(items), self._batch):
                batch = dict(items[at : at + self._batch])
                await self._pace.keep(len(batch))
                await self._write_batch(self._side(db), batch)

    async def _write_batch(self, side: Side, values: dict[bytes, Value]) -> None:
        results = await self._patiently(partial(side.write, values))
        for name, result in zip(values, results, strict=True):
            if not isinstance(result, CommandError):
                self.state.written += 1
                continue
            self.state.refused += 1
            if len(self.state.refusals) < EXAMPLES:
                self.state.refusals.append(f"{quote(name)}: {result.text}")

    def _stage(self) -> Stage:
        counts = f"{self.state.written:,} written"
        if self.state.expired:
            counts += f", {self.state.expired:,} had expired"
        if self.state.refused:
            counts += f", {self.state.refused:,} refused"
        return Stage("restore", "restore", self.state.read, self._total, "keys read", counts)

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        return await patiently(step, self._clock, self._view)


def _records(block: Block) -> list[ArchiveRecord]:
    return list(block.records())


async def _blocks(reader: ArchiveReader) -> AsyncIterator[Block]:
    """The blocks of an archive, read beside the loop."""
    blocks = reader.blocks()
    while (block := await asyncio.to_thread(next, blocks, None)) is not None:
        yield block
