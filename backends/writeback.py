"""A store whose writes are acknowledged once they are in a local journal, and flushed to it later.

``WriteBackStore`` keeps the contract of ``Store`` before any other store.  A commit is decided here, put in the
journal (``journal``) and acknowledged; the latest change of each key waits in the ``Backlog``, which loads
and walks look at before the store; a flusher brings it to the store in batches and then removes the
segments of the journal that nothing needs any more.

**One writer.**  Conditions can be judged here because nobody else writes: whoever writes has the store's
lease (``lease``).  Without it commits raise ``NotTheWriter``, and reads see what the store has.  A flush is
fenced:

- where groups are atomic, a batch is one group, which asserts the lease's document: it is applied as a whole
  while the lease is ours, or not at all;
- elsewhere (S3) each record is written on condition of what the store had there *before* the store was asked
  whether the lease is still ours.  So whatever the next holder writes is not covered by what we had under
  way.  One case is left: a key that we take to be absent, which the next holder created and deleted again
  before a request of ours arrives that was sent while the lease was ours.

**Tokens** are write ids, of records in the backlog and in the store alike.  For conditions on keys that are not
in the backlog the last ``KNOWN_MAX`` keys that were loaded or flushed are remembered; others are asked for.

**What another holder has overtaken.**  When the lease was taken over while we had a backlog, that backlog is
older than what the other has written, and is not applied: its segments are set aside in the journal's
directory, and said so.

Documents pass by the journal, in both directions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from backends.backlog import Backlog, Dirty
from backends.base import (
    ABSENT,
    BESIDE,
    CONFLICT,
    Change,
    Group,
    Key,
    KeyInfo,
    KeyTooLong,
    Loaded,
    NotTheWriter,
    Op,
    Outcome,
    Record,
    Store,
    StoreError,
    Token,
    Want,
)
from backends.journal import CLEAR, DELETE, EVERY_DB, PUT, Journal, Logged, encode
from backends.lease import Lease, Terms
from proxy.clock import Clock

log = logging.getLogger("redtier.writeback")

KNOWN_MAX: Final = 65_536
COMMIT_MAX: Final = 1024  # groups in one commit
BATCH_MAX: Final = 256  # records in one flush to a store whose groups are atomic
BATCH_BYTES: Final = 4 << 20
GENTLE: Final = 8
"""Requests at once to a store whose groups are not atomic, while the journal is nearly empty: what they cost
of the loop's time is not there for clients.  The fuller it is the more there are."""
PRESSED: Final = 0.75  # of journal_max, from which on writers are slowed
SLOWED: Final = 0.1  # seconds, at most, by which a commit is
RETRY_MIN, RETRY_MAX = 0.05, 2.0  # seconds after a flush that failed
CLOSING: Final = 1.0  # seconds to release the lease, and to close the store, each
PATIENCE: Final = 30.0  # seconds that a count waits for the backlog to be flushed


class Known(NamedTuple):
    """What the store has for a key that is not in the backlog, or had before that."""

    write_id: Token  # ABSENT: nothing
    expire_at: int
    token: Token | None  # the store's own; None: not known
    flush: int  # the number of the flush that has put it there; 0: it was loaded

    def local(self, now: int) -> Token:
        return ABSENT if 0 < self.expire_at <= now else self.write_id


class WriteBackStore(Store):
    """``inner`` behind a journal in the directory ``path`` of at most ``limit`` bytes.

    ``duration``: of the lease, ms.  ``changed_hands`` is called when another process may have written since
    the last read.
    """

    def __init__(self, inner: Store, path: Path, limit: int, duration: int, clock: Clock) -> None:
        self.inner = inner
        self.name, self.type = inner.name, inner.type
        self.concurrency, self.load_max, self.commit_max = inner.concurrency, inner.load_max, COMMIT_MAX
        self.key_max, self.bulk_max = inner.key_max, inner.bulk_max
        self.atomic_groups = True  # the journal has a group as a whole, whatever the store can do
        self.journal = Journal(path, limit)
        self.backlog = Backlog(inner.place)
        self.flushed = 0  # records
        self.overtaken = 0  # records that were set aside
        self.failed = ""  # why the last flush failed, or empty
        self.changed_hands: Callable[[], None] = _nothing
        self._duration = duration
        self._clock = clock
        self._lease: Lease | None = None
        self._ready = False  # the backlog is what it has to be
        self._known: dict[Key, Known] = {}
        self._flushes = 0
        self._pending = 0  # bytes on their way to the journal
        self._tasks: list[asyncio.Task[None]] = []
        self._dirty = asyncio.Event()
        self._moved = asyncio.Event()  # something was flushed, or can't be
        self._flushing = asyncio.Lock()

    # Life

    async def open(self) -> None:
        if not self.journal.id:
            await asyncio.to_thread(self.journal.open)
        await self.inner.open()
        loop = asyncio.get_running_loop()
        journal = self.journal
        journal.start(loop)
        self._lease = Lease(
            self.inner, journal.id, str(journal.path), self._duration, journal.recovered_epoch
        )
        try:
            await self._keep_lease(self._lease)
        except StoreError as error:
            log.warning("%s: the lease can't be had: %s", self.name, error)
        self._tasks = [
            loop.create_task(self._keep(self._lease)),
            loop.create_task(self._flush_all(self._lease)),
        ]

    async def close(self) -> None:
        """Flush what can be flushed; who has waited for long enough cancels this, and the rest stays."""
        try:
            if self._tasks and self._holds:
                while self.backlog.entries:
                    await self._until_moved()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._tasks and self._holds and not self.backlog.entries and self._lease is not None:
                with suppress(StoreError, TimeoutError):
                    async with asyncio.timeout(CLOSING):
                        await self.journal.drop_before(None)
                        await self._lease.release()
            self._tasks = []
            await asyncio.to_thread(self.journal.close)
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSING):
                    await self.inner.close()

    async def ping(self) -> None:
        await self.inner.ping()

    @property
    def _holds(self) -> bool:
        return self._ready and self._lease is not None and self._lease.held

    @property
    def holder(self) -> str:
        """Who has the lease, for people; empty: we."""
        if self._holds:
            return ""
        return "nobody yet" if self._lease is None else self._lease.other

    @property
    def age(self) -> int:
        """For how many ms the oldest change has waited for the store."""
        since = self.backlog.since
        return max(0, self._clock.ms - since) if since else 0

    def figures(self) -> dict[str, int | str]:
        """For people and metrics; sizes in bytes, times in ms."""
        return {
            "journal_bytes": self.journal.size,
            "journal_max": self.journal.limit,
            "journal_syncs": self.journal.synced,
            "dirty_keys": len(self.backlog.entries),
            "dirty_bytes": self.backlog.bytes,
            "dirty_age": self.age,
            "flushed": self.flushed,
            "overtaken": self.overtaken,
            "writer": self.holder or "self",
        }

    # Reads

    async def load(self, keys: Sequence[Key], want: Want) -> list[Loaded]:
        now = self._clock.ms
        found: dict[Key, Loaded] = {}
        asked: list[Key] = []
        for key in keys:
            dirty = self.backlog.entries.get(key)
            if dirty is None or key.db == BESIDE:
                asked.append(key)
            else:
                found[key] = self._dirty_record(dirty, want, now)
        while asked:
            flushes = self._flushes
            again = []
            for key, loaded in zip(asked, await self.inner.load(asked, want), strict=True):
                dirty = self.backlog.entries.get(key)
                known = self._known.get(key)
                if key.db == BESIDE:
                    found[key] = loaded
                elif dirty is not None:
                    found[key] = self._dirty_record(dirty, want, now)
                elif known is not None and known.flush > flushes:
                    again.append(key)  # it was flushed meanwhile: what was loaded may be from before
                else:
                    found[key] = self._learn(key, loaded)
            asked = again
        return [found[key] for key in keys]

    def _dirty_record(self, dirty: Dirty, want: Want, now: int) -> Loaded:
        record = dirty.record
        if record is None or 0 < record.expire_at <= now:
            return Loaded(None, ABSENT)
        token = record.write_id
        if want <= Want.META or (want == Want.VALUE and record.stored_size > self.bulk_max):
            record = record._replace(payload=None)
        return Loaded(record, token)

    def _learn(self, key: Key, loaded: Loaded) -> Loaded:
        """Remember what the store has; the same with our token."""
        record, token = loaded
        if record is None:
            self._know(key, Known(ABSENT, 0, ABSENT, 0))
            return loaded
        self._know(key, Known(record.write_id, record.expire_at, token, 0))
        return Loaded(record, record.write_id)

    def _know(self, key: Key, known: Known) -> None:
        self._known.pop(key, None)
        self._known[key] = known
        if len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]

    async def scan(
        self, db: int, prefix: bytes, after: bytes | None, limit: int
    ) -> tuple[list[KeyInfo], bytes | None]:
        if db == BESIDE:
            return await self.inner.scan(db, prefix, after, limit)
        # Before the store is asked: what is flushed meanwhile must be in one of the two.
        names = list(islice(self.backlog.between(db, prefix, after), limit))
        dirty = {name: self.backlog.entries[Key(db, name)].record for name in names}
        infos, end = await self.inner.scan(db, prefix, after, limit)
        live = {info.name: info for info in infos if info.name not in dirty}
        now = self._clock.ms
        for name, record in dirty.items():
            if record is not None and not 0 < record.expire_at <= now:
                live[name] = KeyInfo(name, record.kind, record.expire_at)
        # Each of the two knows the keys up to where it has stopped.
        ends = [] if end is None else [end]
        if len(names) == limit:
            ends.append(names[-1])
        found = sorted(live.values(), key=lambda info: self._place(db, info.name))
        stop = min(ends, key=lambda name: self._place(db, name), default=None)
        if stop is not None:
            bound = self._place(db, stop)
            found = [info for info in found if self._place(db, info.name) <= bound]
        if len(found) > limit:
            found = found[:limit]
            stop = found[-1].name
        return found, stop

    def _place(self, db: int, name: bytes) -> bytes:
        return self.inner.place(Key(db, name))

    async def size(self, db: int, prefix: bytes) -> int:
        """Waits until what is dirty now is flushed."""
        if db != BESIDE and self.backlog.entries:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._flushed_what_is_dirty()
            except TimeoutError:
                raise StoreError(_because("its backlog could not be flushed", self.failed)) from None
        return await self.inner.size(db, prefix)

    async def _flushed_what_is_dirty(self) -> None:
        async with self._flushing:  # what is under way may be older than what is dirty now
            turns = {key: dirty.turn for key, dirty in self.backlog.entries.items()}
        while turns:
            entries = self.backlog.entries
            for key, turn in list(turns.items()):
                dirty = entries.get(key)
                if dirty is None or dirty.turn != turn:
                    del turns[key]
            if turns:
                await self._until_moved()

    async def _until_moved(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    # Writes

    async def commit(self, groups: Sequence[Group]) -> list[Outcome]:
        beside = [group for group in groups if all(change.key.db == BESIDE for change in group)]
        if not beside:
            return await self._commit(groups)
        documents = iter(await self.inner.commit(beside))
        rest = [group for group in groups if not any(group is each for each in beside)]
        records = iter(await self._commit(rest) if rest else [])
        return [next(documents if any(group is each for each in beside) else records) for group in groups]

    async def _commit(self, groups: Sequence[Group]) -> list[Outcome]:
        await self._admit()
        loaded = await self._needed(groups)
        self._check_writer()  # that may have taken long
        now = self._clock.ms
        outcomes: list[Outcome] = []
        changes: list[Logged] = []
        for group in groups:
            outcome = self._decide(group, loaded, now, changes)
            outcomes.append(outcome)
        if changes:
            await self._log(changes)
        return outcomes

    async def _admit(self) -> None:
        """Whether writes are taken now; waits where the journal fills.  Raises StoreError."""
        self._check_writer()
        limit = self.journal.limit
        fill = (self.journal.size + self._pending) / limit
        if fill > PRESSED:
            with suppress(TimeoutError):
                async with asyncio.timeout(SLOWED * min(1.0, (fill - PRESSED) / (1 - PRESSED))):
                    await self._until_moved()
            self._check_writer()
            if self.journal.size + self._pending >= limit:
                why = f"the store does not take it: {self.failed}" if self.failed else "the store is slower"
                raise StoreError(f"the journal {self.journal.path} is full (journal_max), {why}")

    def _check_writer(self) -> None:
        if not self._holds:
            lease = self._lease
            if lease is None or not lease.other:
                raise StoreError(_because("its lease could not be renewed in time", self.failed))
            raise NotTheWriter(f"the lease is held by {lease.other}; write there, or here once it has lapsed")

    async def _needed(self, groups: Sequence[Group]) -> dict[Key, Loaded]:
        """What must be loaded to judge conditions, and to change the expiry of what the store has."""
        wanted: dict[Want, list[Key]] = {}
        for group in groups:
            for change in group:
                key = change.key
                if key.db == BESIDE:
                    wanted.setdefault(Want.META, []).append(key)
                elif key not in self.backlog.entries:
                    if change.op is Op.EXPIRE:
                        wanted.setdefault(Want.WHOLE, []).append(key)
                    elif change.expect is not None and key not in self._known:
                        wanted.setdefault(Want.META, []).append(key)
        loaded: dict[Key, Loaded] = {}
        for want, keys in wanted.items():
            step = self.load_max
            parts = [keys[at : at + step] for at in range(0, len(keys), step)]
            for part, found in zip(
                parts, await asyncio.gather(*(self.load(p, want) for p in parts)), strict=True
            ):
                loaded.update(zip(part, found, strict=True))
        return loaded

    def _decide(self, group: Group, loaded: dict[Key, Loaded], now: int, changes: list[Logged]) -> Outcome:
        """The group's fate; what it changes is added to ``changes``."""
        tokens: list[Token] = []
        logged: list[Logged] = []
        for change in group:
            key, record = change.key, change.record
            if change.expect is not None and change.expect != self._token(key, loaded, now):
                return CONFLICT
            if change.op is Op.ASSERT:
                assert change.expect is not None
                tokens.append(change.expect)
                continue
            if key.db == BESIDE:
                return Outcome(None, StoreError("documents and records can't be changed as one here"))
            if change.op is Op.DELETE:
                tokens.append(ABSENT)
                logged.append(Logged(DELETE, key, None))
                continue
            assert record is not None
            if change.op is Op.EXPIRE:
                dirty = self.backlog.entries.get(key)
                old = loaded[key].record if key in loaded else None
                if dirty is not None:
                    old = dirty.record
                if old is None or old.payload is None or 0 < old.expire_at <= now:
                    return CONFLICT
                record = old._replace(write_id=record.write_id, expire_at=record.expire_at)
            try:
                self.inner.place(key)
            except KeyTooLong as error:
                return Outcome(None, error)
            tokens.append(record.write_id)
            logged.append(Logged(PUT, key, record))
        changes += logged
        return Outcome(tuple(tokens))

    def _token(self, key: Key, loaded: dict[Key, Loaded], now: int) -> Token | None:
        """None: it was known when it was looked up, and is not any more; that counts as a conflict."""
        dirty = self.backlog.entries.get(key)
        if dirty is not None:
            return self._dirty_record(dirty, Want.META, now).token
        known = self._known.get(key)
        if known is not None:
            return known.local(now)
        return loaded[key].token if key in loaded else None

    async def _log(self, changes: list[Logged]) -> None:
        """Have changes in the journal, then in the backlog.  Raises StoreError."""
        body = b"".join([encode(change) for change in changes])
        logged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        size = len(body)
        self._pending += size
        lease = self._lease

        def done(result: int | StoreError) -> None:
            # Not where it is awaited: who waits may be cancelled, and the changes are there all the same.
            self._pending -= size
            if isinstance(result, int) and not self._ready and lease is not None:
                result = NotTheWriter(f"the lease was taken over by {lease.other}")
            if isinstance(result, int):
                self._take(changes, result)
            if logged.cancelled():
                return
            if isinstance(result, int):
                logged.set_result(None)
            else:
                logged.set_exception(result)

        self.journal.append(body, done)
        await logged

    def _take(self, changes: list[Logged], segment: int) -> None:
        now = self._clock.ms
        for op, key, record in changes:
            if op == CLEAR:
                self.backlog.clear(None if key.db == EVERY_DB else key.db, key.name)
            else:
                self.backlog.put(key, record, segment, now)
        self._dirty.set()

    async def sweep(self, limit: int) -> int:
        # What is dirty is complete, whatever the store has under its key.
        return await self.inner.sweep(limit)

    async def clear(self, db: int | None, prefix: bytes) -> int:
        if db == BESIDE:
            return await self.inner.clear(db, prefix)
        self._check_writer()
        async with self._flushing:
            assert self._lease is not None
            async with self._lease.lock:
                if not await self._lease.confirm():
                    raise NotTheWriter(f"the lease was taken over by {self._lease.other}")
                count = await self.inner.clear(db, prefix)
            self._known.clear()
            self._flushes += 1
            await self._log([Logged(CLEAR, Key(EVERY_DB if db is None else db, prefix), None)])
            await self._tidy()
        self._moved.set()
        return count

    async def quarantine(self, key: Key, record: Record, reason: str) -> None:
        await self.inner.quarantine(key, record, reason)

    def place(self, key: Key) -> bytes:
        return self.inner.place(key)

    # The lease

    async def _keep(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(lease.pause)
            try:
                await self._keep_lease(lease)
            except StoreError as error:
                self.failed = str(error)
                log.warning("%s: the lease can't be renewed: %s", self.name, error)
            except Exception:
                log.exception("%s: the lease can't be renewed", self.name)

    async def _keep_lease(self, lease: Lease) -> None:
        before = lease.epoch
        terms = await lease.keep()
        if terms is not None:
            await self._take_over(terms, before)
        elif not lease.held and self._ready and lease.other:
            await self._lose(f"{lease.other} has taken over the lease")

    async def _take_over(self, terms: Terms, before: int) -> None:
        """We have the lease: with what is left from before, if nobody else has had it since."""
        assert self._lease is not None
        self._lease.other = ""
        self.journal.epoch = self._lease.epoch
        alone = terms.epoch == 0 or (terms.holder == self.journal.id and terms.epoch == before)
        if self._ready and not alone:
            await self._lose("another has had the lease meanwhile")
        if not self._ready and self.journal.recovered:
            if alone:
                for segment, change in self.journal.recovered:
                    self._take([change], segment)
                log.info(
                    "%s: %d changes to be flushed from the journal", self.name, len(self.backlog.entries)
                )
            else:
                await self._set_aside(len({change.key for _, change in self.journal.recovered}))
            self.journal.recovered = []
        if not alone:
            self._known.clear()
            self._flushes += 1
            self.changed_hands()
        self._ready = True
        self._dirty.set()

    async def _lose(self, reason: str) -> None:
        log.error("%s: %s", self.name, reason)
        self._ready = False
        count = len(self.backlog.entries)
        self.backlog.clear(None, b"")
        self._known.clear()
        self._flushes += 1
        self.changed_hands()
        await self._set_aside(count)

    async def _set_aside(self, count: int) -> None:
        if not count:
            await self.journal.drop_before(None)
            return
        place = await self.journal.set_aside()
        if place is not None:
            self.overtaken += count
            log.error(
                "%s: the last changes of %d keys were not flushed before another took over the lease; they are set "
                "aside in %s",
                *(self.name, count, place),
            )

    # Flushing

    async def _flush_all(self, lease: Lease) -> None:
        pause = RETRY_MIN
        count = BATCH_MAX
        while True:
            self._dirty.clear()
            try:
                if not self._holds:
                    await self._keep_lease(lease)
                if not self.backlog.entries or not self._holds:
                    await self._idle()
                    continue
                async with self._flushing, lease.lock:
                    if self.inner.atomic_groups:
                        await self._flush_group(lease, count)
                    else:
                        await self._flush_each(lease)
                async with self._flushing:
                    await self._tidy()
            except Exception as error:
                unexpected = None if isinstance(error, StoreError) else error
                if str(error) != self.failed:
                    log.warning(
                        "%s: can't be flushed, is tried again: %s", self.name, error, exc_info=unexpected
                    )
                self.failed = str(error)
                if (
                    count == 1 and self.backlog.entries
                ):  # one that the store refuses must not hold up the others
                    self.backlog.put_off()
                count = max(1, count // 8)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_MAX)
            else:
                self.failed = ""
                count = min(2 * count, BATCH_MAX)
                pause = RETRY_MIN
                self._moved.set()

    async def _idle(self) -> None:
        """Wait for something to do; when there was nothing for a while, remove what the journal has."""
        try:
            async with asyncio.timeout(RETRY_MAX):
                await self._dirty.wait()
        except TimeoutError:
            if self._holds and not self.backlog.entries and not self._pending and self.journal.size:
                await self.journal.drop_before(None)

    async def _flush_group(self, lease: Lease, count: int) -> None:
        batch = self.backlog.oldest(count, BATCH_BYTES)
        if not batch:
            return
        now = self._clock.ms
        group = [lease.condition(), *(_change(key, dirty, None, now) for key, dirty in batch.items())]
        (outcome,) = await self.inner.commit([group])
        if outcome.error is not None:
            raise outcome.error
        if outcome.tokens is None:
            lease.doubt()
            return
        self._flushes += 1
        for (key, dirty), token in zip(batch.items(), outcome.tokens[1:], strict=True):
            self._settle(key, dirty, token)

    async def _flush_each(self, lease: Lease) -> None:
        fill = self.journal.size / self.journal.limit
        batch = self.backlog.oldest(max(GENTLE, int(self.concurrency * fill)), BATCH_BYTES)
        now = self._clock.ms
        # A record that is not known is taken to be new; where it is not, its token is read for the next try.
        unknown = [
            key
            for key, dirty in batch.items()
            if (dirty.record is None or 0 < dirty.record.expire_at <= now) and self._store_token(key) is None
        ]
        for key, (loaded,) in zip(
            unknown,
            await asyncio.gather(*(self.inner.load([key], Want.META) for key in unknown)),
            strict=True,
        ):
            self._learn(key, loaded)
        expected = {key: self._store_token(key) or ABSENT for key in batch}
        if not await lease.confirm():
            return
        changes = [_change(key, dirty, expected[key], now) for key, dirty in batch.items()]
        results = await asyncio.gather(
            *(self.inner.commit([[change]]) for change in changes), return_exceptions=True
        )
        self._flushes += 1
        failed: BaseException | None = None
        for (key, dirty), result in zip(batch.items(), results, strict=True):
            if isinstance(result, BaseException):
                failed = result
                continue
            (outcome,) = result
            if outcome.error is not None:
                failed = outcome.error
            elif outcome.tokens is not None:
                self._settle(key, dirty, outcome.tokens[0])
            else:
                await self._look(key, dirty)
        if failed is not None:
            raise failed

    async def _look(self, key: Key, dirty: Dirty) -> None:
        """A condition did not hold: learn what the store has, which may be this very change."""
        ((record, token),) = await self.inner.load([key], Want.META)
        if record is not None and dirty.record is not None and record.write_id == dirty.record.write_id:
            self._settle(key, dirty, token)
        else:
            self._know(key, Known(ABSENT if record is None else record.write_id, 0, token, self._flushes))

    def _store_token(self, key: Key) -> Token | None:
        known = self._known.get(key)
        return None if known is None else known.token

    def _settle(self, key: Key, dirty: Dirty, token: Token) -> None:
        record = dirty.record
        if record is None or token == ABSENT:
            self._know(key, Known(ABSENT, 0, ABSENT, self._flushes))
        else:
            self._know(key, Known(record.write_id, record.expire_at, token, self._flushes))
        self.backlog.settle(key, dirty, self._clock.ms)
        self.flushed += 1

    async def _tidy(self) -> None:
        """Remove the segments whose changes are all in the store, or were overtaken by later ones."""
        first = self.backlog.first_segment()
        if first is not None and self.journal.oldest < first:
            await self.journal.drop_before(first)


def _change(key: Key, dirty: Dirty, expect: Token | None, now: int) -> Change:
    record = dirty.record
    if record is None or 0 < record.expire_at <= now:  # what the store has there must not be seen again
        return Change(Op.DELETE, key, expect)
    return Change(Op.PUT, key, expect, record)


def _because(what: str, why: str) -> str:
    return f"{what}: {why}" if why else what


def _nothing() -> None:
    pass
