"""From the backlog of a write-back backend to its store: in batches, fenced by the lease.

The keys that have waited longest go first, each with its latest change.  Where groups are atomic, a batch is
one group that asserts the lease's document: it is applied as a whole while the lease is ours, or not at all.
Elsewhere (S3) each record is written on condition of what the store had *before* it was asked whether the
lease is still ours, so that nothing is covered that the next holder wrote.  One case is left: a key that we
take to be absent, and that the next holder deletes before a request of ours arrives, which was sent while the
lease was ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from backends.backlog import Backlog, Dirty
from backends.base import ABSENT, Change, Key, Op, Store, StoreError, Token, Want
from backends.journal import Journal
from backends.known import Knowledge
from backends.lease import Lease
from proxy.clock import Clock

log = logging.getLogger("redtier.flusher")

BATCH_MAX: Final = 256  # records of one group
BATCH_BYTES: Final = 4 << 20
GENTLE: Final = 16
"""Requests at once to a store whose groups are not atomic, while the journal is nearly empty: what they cost
of the loop's time is not there for clients.  The fuller it is, the more there are; all, if somebody waits."""
LINGER: Final = 0.05
"""Seconds between two batches while the journal is not half full and nobody waits: what is written again
meanwhile is flushed once."""
RETRY_MIN, RETRY_MAX = 0.05, 2.0  # seconds after a batch that failed
IDLE: Final = 2.0  # seconds without anything to do, after which the journal is emptied


class Flusher:
    """``holds`` says whether we are the writer now."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        backlog: Backlog,
        known: Knowledge,
        lease: Lease,
        clock: Clock,
        holds: Callable[[], bool],
    ) -> None:
        self.flushed = 0  # records
        self.failed = ""  # why the last batch did, or empty
        self.at_work = asyncio.Lock()
        self.wake = asyncio.Event()  # there is something to flush
        self._hurry = asyncio.Event()
        self._moved = asyncio.Event()
        self._waiting = 0
        self._store = store
        self._journal = journal
        self._backlog = backlog
        self._known = known
        self._lease = lease
        self._clock = clock
        self._holds = holds

    async def moved(self) -> None:
        """Return when the next batch is through; it is not put off meanwhile."""
        self._waiting += 1
        self._hurry.set()
        self._moved.clear()
        try:
            await self._moved.wait()
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._hurry.clear()

    def tell(self) -> None:
        """Something may have changed for who waits for ``moved``."""
        self._moved.set()

    async def run(self) -> None:
        """Flush until cancelled."""
        pause = RETRY_MIN
        count = BATCH_MAX
        while True:
            self.wake.clear()
            if not self._backlog.entries or not self._holds():
                await self._idle()
                continue
            try:
                failure = await self._flush(count)
            except Exception as error:
                self._note(error)
                if count == 1 and self._backlog.entries:
                    # What the store refuses must not hold up the others.
                    self._backlog.put_off(next(iter(self._backlog.entries)))
                count = max(1, count // 8)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_MAX)
            else:
                self._note(failure)
                count = min(2 * count, BATCH_MAX)
                pause = RETRY_MIN
                self.tell()
                if self._journal.size < self._journal.limit / 2:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LINGER):
                            await self._hurry.wait()

    def _note(self, failure: BaseException | None) -> None:
        if failure is None:
            self.failed = ""
            return
        if str(failure) != self.failed:
            trace = None if isinstance(failure, StoreError) else failure
            log.warning("%s: a flush failed: %s", self._store.name, failure, exc_info=trace)
        self.failed = str(failure)

    async def _idle(self) -> None:
        try:
            async with asyncio.timeout(IDLE):
                await self.wake.wait()
        except TimeoutError:
            if self._holds() and not self._backlog.entries and self._journal.quiet:
                await self._empty_journal()

    async def _empty_journal(self) -> None:
        try:
            await self._journal.drop_before(None)
        except StoreError as error:
            log.warning("%s: %s", self._store.name, error)

    async def tidy(self) -> None:
        """Remove the segments whose changes are all in the store, or were overtaken by later ones."""
        first = self._backlog.first_segment()
        if first is None and not self._journal.pending:  # else they may hold what is not in the backlog yet
            first = self._journal.latest
        if first is not None and self._journal.oldest < first:
            await self._journal.drop_before(first)

    async def _flush(self, count: int) -> BaseException | None:
        """Returns why a part of the batch was put off; raises where nothing came through."""
        failure = None
        async with self.at_work:
            if self._store.atomic_groups:
                failure = await self._flush_group(count)
            else:
                fill = 1.0 if self._waiting else self._journal.size / self._journal.limit
                await self._flush_each(min(count, max(GENTLE, int(self._store.concurrency * fill))))
            await self.tidy()
        return failure

    async def _flush_group(self, count: int) -> BaseException | None:
        epoch = self._lease.epoch
        batch = self._backlog.oldest(count, BATCH_BYTES)
        now = self._clock.ms
        changes = {key: _change(key, dirty, None, now) for key, dirty in batch.items()}
        failure = await self._prepare(changes)
        async with self._lease.lock:
            if self._lease.epoch != epoch:
                return None  # another has had it meanwhile, and the batch is older than what that has written
            (outcome,) = await self._store.commit([[self._lease.condition(), *changes.values()]])
            if outcome.error is not None:
                raise outcome.error
            if outcome.tokens is None:
                self._lease.doubt()
                return None
            self._known.flushes += 1
            for key, token in zip(changes, outcome.tokens[1:], strict=True):
                self._settle(key, batch[key], token)
        return failure

    async def _prepare(self, changes: dict[Key, Change]) -> BaseException | None:
        """Have done what takes long, while the lease can be renewed; what fails is put off."""
        large = [
            change
            for change in changes.values()
            if change.record is not None and change.record.raw_size >= self._store.large_from
        ]
        failure = None
        prepared = await asyncio.gather(*map(self._store.prepare, large), return_exceptions=True)
        for change, left in zip(large, prepared, strict=True):
            if isinstance(left, BaseException):
                failure = left
                del changes[change.key]
                self._backlog.put_off(change.key)
            else:
                changes[change.key] = left
        if failure is not None and not changes:
            raise failure
        return failure

    async def _flush_each(self, count: int) -> None:
        epoch = self._lease.epoch
        batch = self._backlog.oldest(count, BATCH_BYTES)
        now = self._clock.ms
        # What is not known is taken to be new, and its token is read for the next try if it is not.  To be
        # deleted it must be known.
        unknown = [key for key in batch if self._known.token(key) is None]
        await asyncio.gather(*(self._look(key, epoch) for key in unknown if _is_dead(batch[key], now)))
        expected = {key: self._known.token(key) or ABSENT for key in batch}
        async with self._lease.lock:  # not while it is written, which may take long: it must be renewed
            if self._lease.epoch != epoch or not await self._lease.confirm():
                return
        outcomes = await asyncio.gather(
            *(self._flush_one(key, dirty, expected[key], now, epoch) for key, dirty in batch.items()),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _flush_one(self, key: Key, dirty: Dirty, expect: Token, now: int, epoch: int) -> None:
        (outcome,) = await self._store.commit([[_change(key, dirty, expect, now)]])
        if outcome.error is not None:
            raise outcome.error
        if self._lease.epoch != epoch:
            return  # another has had it meanwhile: what we know of the store is not so any more
        self._known.flushes += 1
        if outcome.tokens is not None:
            self._settle(key, dirty, outcome.tokens[0])
            return
        loaded = await self._look(key, epoch)
        found = loaded is not None and dirty.record is not None and loaded == dirty.record.write_id
        if found and self._lease.epoch == epoch:
            self._settle(key, dirty, self._known.token(key) or ABSENT)

    async def _look(self, key: Key, epoch: int) -> Token | None:
        """Learn what the store has; its write id."""
        ((record, token),) = await self._store.load([key], Want.META)
        if self._lease.epoch == epoch:
            self._known.flushed(key, record, token)
        return None if record is None else record.write_id

    def _settle(self, key: Key, dirty: Dirty, token: Token) -> None:
        self._known.flushed(key, dirty.record, token)
        self._backlog.settle(key, dirty, self._clock.ms)
        self.flushed += 1


def _is_dead(dirty: Dirty, now: int) -> bool:
    record = dirty.record
    return record is None or 0 < record.expire_at <= now


def _change(key: Key, dirty: Dirty, expect: Token | None, now: int) -> Change:
    if _is_dead(dirty, now):  # what the store has there must not be seen again
        return Change(Op.DELETE, key, expect)
    return Change(Op.PUT, key, expect, dirty.record)
