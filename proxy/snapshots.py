"""Memory that survives a restart: memory backends' snapshots, written while clients go on, read at start.

A snapshot is no moment's picture: each key is in it as it was when the walk came by, whole and by itself, and
one that is created or removed meanwhile may be in it or not.  The loop is held for ``SLICE_NS`` at a time,
but for a large collection, which is packed in one go.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from backends.memory import MemoryBackend
from backends.snapshot import (
    BLOCK,
    DamagedSnapshot,
    SnapshotError,
    SnapshotRecord,
    SnapshotWriter,
    encode,
    read,
    records,
    set_aside,
    verify,
)
from proxy.clock import Clock
from proxy.datatypes.values import from_record, to_record
from proxy.keyspace import DATABASES

T = TypeVar("T")

log = logging.getLogger("redtier.snapshots")

PAGE: Final = 64  # keys between two looks at the time
# How long the walk may hold the loop before it lets others in; and, while clients are served, for how long.
SLICE_NS: Final = 200_000
PAUSE: Final = 0.001  # seconds


class Snapshot:
    """The snapshot of one memory backend, at ``path``, written every ``interval`` ms, 0: on demand alone."""

    def __init__(self, backend: MemoryBackend, path: Path, interval: int, clock: Clock) -> None:
        self.backend = backend
        self.path = path
        self.interval = interval
        self.began_at = 0.0  # of the one that is being written, by the monotonic clock; 0: none is
        self.saved_at = 0  # ms since the epoch; 0: not by this process
        self.took = -1.0  # seconds, the last one
        self.keys = 0  # in the last one
        self.size = 0  # bytes of its file
        self.saves = 0
        self.failures = 0
        self.failed = ""  # why the last one could not be written, or empty
        self._clock = clock
        self._lock = asyncio.Lock()

    async def restore(self) -> None:
        """Read back what the last process has written.

        What is damaged is set aside.  Raises SnapshotError where it can't be read, or is of a later release.
        """
        run = asyncio.get_running_loop().run_in_executor
        try:
            found = await run(None, verify, self.path)
        except DamagedSnapshot as damage:
            aside = await run(None, set_aside, self.path, self._clock.ms)
            log.error("the snapshot %s is damaged, and set aside as %s: %s", self.path, aside.name, damage)
            return
        if not found:
            return
        began = time.monotonic()
        taken = left = 0
        for block in read(self.path):
            for record in records(block):
                if self._take(record):
                    taken += 1
                else:
                    left += 1
            await asyncio.sleep(0)
        self.backend.make_order()
        log.info(
            "backend '%s': %d keys from %s in %.1f s; %d were left out: expired, routed elsewhere, no room",
            *(self.backend.name, taken, self.path, time.monotonic() - began, left),
        )

    def _take(self, record: SnapshotRecord) -> bool:
        # It comes twice if it was removed and created anew while the walk was near: the later one counts.
        self.backend.keyspaces[record.db].remove(record.name)
        if 0 < record.expire_at <= self._clock.ms:
            return False
        try:
            kind, value, expire_at = from_record(record.kind, record.raw, record.expire_at)
        except ValueError as error:
            raise SnapshotError(f"the snapshot {self.path} is of a later release: {error}") from None
        return self.backend.restore(record.db, record.name, kind, value, expire_at, record.used_at)

    async def save(self, patient: bool) -> None:
        """Write all keys; ``patient``: while clients are served.  Raises SnapshotError."""
        async with self._lock:
            self.began_at = time.monotonic()
            try:
                await self._write(patient)
            except SnapshotError as error:
                self.failed = str(error)
                self.failures += 1
                raise
            finally:
                self.took = time.monotonic() - self.began_at
                self.began_at = 0.0
            self.failed = ""
            self.saved_at = self._clock.ms
            self.saves += 1

    async def _write(self, patient: bool) -> None:
        writer = SnapshotWriter(self.path)
        count = 0
        try:
            await _to_its_end(writer.begin)
            block: list[bytes] = []
            size = 0
            due = time.perf_counter_ns() + SLICE_NS
            for db in range(DATABASES):
                at: tuple[int, int] | None = (0, 0)
                while at is not None:
                    entries, at = self.backend.scan(db, at, PAGE)
                    for entry in entries:
                        stored = to_record(entry.kind, entry.value, entry.expire_at)
                        encoded = encode(SnapshotRecord(db, entry.key, *stored, entry.used_at))
                        block.append(encoded)
                        size += len(encoded)
                    count += len(entries)
                    if size >= BLOCK:
                        await _to_its_end(writer.add, b"".join(block))
                        block, size = [], 0
                    if time.perf_counter_ns() >= due:
                        await asyncio.sleep(PAUSE if patient else 0)
                        due = time.perf_counter_ns() + SLICE_NS
            if block:
                await _to_its_end(writer.add, b"".join(block))
            self.size = await _to_its_end(writer.finish, count)
        except BaseException:
            writer.abandon()
            raise
        self.keys = count


class Snapshots:
    """Those of all memory backends that have one, by the backends' names."""

    def __init__(self, snapshots: dict[str, Snapshot]) -> None:
        self.all: dict[str, Snapshot] = snapshots

    async def restore(self) -> None:
        """Before anybody is served; raises SnapshotError."""
        for snapshot in self.all.values():
            await snapshot.restore()

    async def save(self, patient: bool = True) -> None:
        """Write them all, one after the other; raises SnapshotError once all were tried."""
        failed: SnapshotError | None = None
        for snapshot in self.all.values():
            try:
                await snapshot.save(patient)
            except SnapshotError as error:
                log.error("%s", error)
                failed = error
        if failed is not None:
            raise failed

    async def save_quietly(self) -> None:
        with suppress(SnapshotError):  # it was logged
            await self.save()

    async def keep(self) -> None:
        """Write each at its interval, until cancelled."""
        await asyncio.gather(*(self._keep(snapshot) for snapshot in self.all.values() if snapshot.interval))

    async def _keep(self, snapshot: Snapshot) -> None:
        while True:
            await asyncio.sleep(snapshot.interval / 1000)
            try:
                await snapshot.save(True)
            except SnapshotError as error:
                log.error("%s", error)


async def _to_its_end(call: Callable[..., T], *args: object) -> T:
    """``call`` in a worker thread, which is through even where this is cancelled.

    Else it would go on with a file of which the next snapshot has taken the name.
    """
    work = asyncio.get_running_loop().run_in_executor(None, call, *args)
    try:
        return await asyncio.shield(work)
    finally:
        if not work.done():
            await asyncio.wait((work,))
