"""A store whose writes are acknowledged once they are in a local journal, and flushed to it later.

``WriteBackStore`` keeps the contract of ``Store`` before any other store.  A commit is decided here, put in
the journal (``journal``) and acknowledged; the latest change of each key waits in the ``Backlog``, which
loads and walks look at before the store; the ``Flusher`` brings it to the store and then removes the segments
of the journal that nothing needs any more.

**One writer.**  Conditions can be judged here because nobody else writes: whoever writes has the store's
lease (``lease``), by which every flush is fenced.  Without it commits raise ``NotTheWriter``, and reads see
what the store has.

**Tokens** are write ids, of records in the backlog and in the store alike.  For conditions on keys that are
not in the backlog there is what is ``known`` of the store; what is not is asked for.  A change of the expiry
of a key that is not in the backlog loads its record, so that whatever is in the journal is complete.

**What another holder has overtaken.**  When the lease was taken over while we had a backlog, that backlog is
older than what the other has written, and is not applied: its segments are set aside in the journal's
directory, and said so.

Documents pass by the journal, in both directions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

from backends.backlog import Backlog, Dirty
from backends.base import (
    ABSENT,
    BESIDE,
    CHUNKED_KINDS,
    CONFLICT,
    Changes,
    Group,
    Key,
    KeyInfo,
    KeyTooLong,
    Loaded,
    NotTheWriter,
    Op,
    Outcome,
    Quarantined,
    Record,
    Store,
    StoreError,
    Token,
    Tracker,
    Want,
)
from backends.flusher import Flusher
from backends.handover import Handover, Listening
from backends.journal import CLEAR, DELETE, EVERY_DB, PUT, Journal, Logged
from backends.known import Knowledge
from backends.lease import Lease, Terms
from proxy.clock import Clock

log = logging.getLogger("redtier.writeback")

COMMIT_MAX: Final = 1024  # groups in one commit
PRESSED: Final = 0.75  # of journal_max, from which on writers are slowed
SLOWED: Final = 0.1  # seconds, at most, by which a commit is
CLOSING: Final = 1.0  # seconds to release the lease, and to close the store, each
PATIENCE: Final = 30.0  # seconds that a count, or a URL, waits for what is dirty to be flushed


class WriteBackStore(Store):
    """``inner`` behind a journal in the directory ``path`` of at most ``limit`` bytes.

    ``duration``: of the lease, ms.
    """

    def __init__(self, inner: Store, path: Path, limit: int, duration: int, clock: Clock) -> None:
        self.inner = inner
        self.name, self.type = inner.name, inner.type
        self.concurrency, self.load_max, self.commit_max = inner.concurrency, inner.load_max, COMMIT_MAX
        self.key_max, self.bulk_max = inner.key_max, inner.bulk_max
        self.shared = True  # who writes is told by ``listen``
        self.atomic_groups = True  # the journal has a group as a whole, whatever the store can do
        self.journal = Journal(path, limit)
        self.backlog = Backlog(inner.place)
        self.known = Knowledge()
        self.lease = Lease(inner, str(path), duration)
        self.flusher = Flusher(
            inner, self.journal, self.backlog, self.known, self.lease, clock, lambda: self._holds
        )
        self.overtaken = 0  # keys whose last changes were set aside
        self._left: int | None = None  # keys whose last changes are to be, which has failed
        self._handover: Handover | None = None
        self._clock = clock
        self._ready = False  # the backlog is what it has to be
        self._tasks: list[asyncio.Task[None]] = []

    # Life

    async def open(self) -> None:
        journal = self.journal
        if not journal.is_open:
            await asyncio.to_thread(journal.open)
            self.lease.holder, self.lease.epoch = journal.id, journal.recovered_epoch
        await self.inner.open()
        loop = asyncio.get_running_loop()
        journal.start(loop)
        await self._keep_lease()
        self._tasks = [loop.create_task(self._keep()), loop.create_task(self.flusher.run())]

    async def close(self) -> None:
        """Flush what can be flushed; who has waited for long enough cancels this, and the rest stays."""
        try:
            while self._tasks and self._holds and self.backlog.entries:
                await self.flusher.moved()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            done = not self.backlog.entries and not self.journal.pending
            if self._tasks and self._holds and done:
                with suppress(StoreError, TimeoutError):
                    async with asyncio.timeout(CLOSING):
                        await self.journal.drop_before(None)
                        await self.lease.release()
            self._tasks = []
            await asyncio.to_thread(self.journal.close)
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSING):
                    await self.inner.close()

    async def ping(self) -> None:
        await self.inner.ping()

    @property
    def _holds(self) -> bool:
        return self._ready and self.lease.held

    @property
    def holder(self) -> str:
        """Who has the lease, for people; empty: we."""
        return "" if self._holds else self.lease.other or "nobody"

    @property
    def age(self) -> int:
        """For how many ms the oldest change has waited for the store."""
        since = self.backlog.since
        return max(0, self._clock.ms - since) if since else 0

    def state(self) -> dict[str, int | str]:
        """For people and metrics; sizes in bytes, times in ms."""
        return {
            "journal_bytes": self.journal.size,
            "journal_max": self.journal.limit,
            "journal_syncs": self.journal.synced,
            "dirty_keys": len(self.backlog.entries),
            "dirty_bytes": self.backlog.bytes,
            "dirty_age": self.age,
            "flushed": self.flusher.flushed,
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
            flushes = self.known.flushes
            again = []
            for key, loaded in zip(asked, await self.inner.load(asked, want), strict=True):
                dirty = self.backlog.entries.get(key)
                if key.db == BESIDE:
                    found[key] = loaded
                elif dirty is not None:
                    found[key] = self._dirty_record(dirty, want, now)
                elif self.known.changed_since(key, flushes):
                    again.append(key)  # it was flushed meanwhile: what was loaded may be from before
                else:
                    found[key] = self.known.loaded(key, loaded)
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

    async def scan(
        self, db: int, prefix: bytes, after: bytes | None, limit: int
    ) -> tuple[list[KeyInfo], bytes | None]:
        if db == BESIDE:
            return await self.inner.scan(db, prefix, after, limit)
        # Before the store is asked: what is flushed meanwhile must be in one of the two.
        dirty = self._dirty_names(db, prefix, after, limit)
        records = {name: self.backlog.entries[Key(db, name)].record for name in dirty}
        infos, end = await self.inner.scan(db, prefix, after, limit)
        live = {info.name: info for info in infos if info.name not in records}
        now = self._clock.ms
        for name, record in records.items():
            if record is not None and not 0 < record.expire_at <= now:
                live[name] = KeyInfo(name, record.kind, record.expire_at)
        names, stop = self._page(db, live, dirty, end, limit)
        return [live[name] for name in names], stop

    async def names(
        self, db: int, prefix: bytes, after: bytes | None, limit: int
    ) -> tuple[list[bytes], bytes | None]:
        dirty = [] if db == BESIDE else self._dirty_names(db, prefix, after, limit)
        names, end = await self.inner.names(db, prefix, after, limit)
        return self._page(db, {*names, *dirty}, dirty, end, limit) if dirty else (names, end)

    def _dirty_names(self, db: int, prefix: bytes, after: bytes | None, limit: int) -> list[bytes]:
        return list(islice(self.backlog.between(db, prefix, after), limit))

    def _page(
        self, db: int, names: Iterable[bytes], dirty: list[bytes], end: bytes | None, limit: int
    ) -> tuple[list[bytes], bytes | None]:
        """The first of ``names``, from the backlog and the store, in order; where the next page begins.

        Each of the two knows the keys up to where it has stopped.
        """
        ends = [] if end is None else [end]
        if len(dirty) == limit:
            ends.append(dirty[-1])
        found = sorted(names, key=lambda name: self._place(db, name))
        stop = min(ends, key=lambda name: self._place(db, name), default=None)
        if stop is not None:
            bound = self._place(db, stop)
            found = [name for name in found if self._place(db, name) <= bound]
        if len(found) > limit:
            found = found[:limit]
            stop = found[-1]
        return found, stop

    def _place(self, db: int, name: bytes) -> bytes:
        return self.inner.place(Key(db, name))

    async def size(self, db: int, prefix: bytes) -> int:
        """Waits until what is dirty now is flushed."""
        if db != BESIDE and self.backlog.entries:
            await self._flush_out(list(self.backlog.entries))
        return await self.inner.size(db, prefix)

    async def settle(self, key: Key) -> None:
        if key in self.backlog.entries:
            await self._flush_out([key])

    async def _flush_out(self, keys: Sequence[Key]) -> None:
        """Return when the store has what is dirty of these keys now.  Raises StoreError."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._flushed(keys)
        except TimeoutError:
            raise StoreError(_because("its backlog could not be flushed", self.flusher.failed)) from None

    async def _flushed(self, keys: Sequence[Key]) -> None:
        entries = self.backlog.entries
        async with self.flusher.at_work:  # what is under way may be older than what is dirty now
            turns = {key: entries[key].turn for key in keys if key in entries}
        while turns:
            for key, turn in list(turns.items()):
                dirty = entries.get(key)
                if dirty is None or dirty.turn != turn:
                    del turns[key]
            if turns:
                await self.flusher.moved()

    # Writes

    async def commit(self, groups: Sequence[Group]) -> list[Outcome]:
        beside = [group for group in groups if group[0].key.db == BESIDE and _all_beside(group)]
        if not beside:
            return await self._commit(groups)
        documents = iter(await self.inner.commit(beside))
        rest = [group for group in groups if not any(group is each for each in beside)]
        records = iter(await self._commit(rest) if rest else [])
        return [next(documents if any(group is each for each in beside) else records) for group in groups]

    async def _commit(self, groups: Sequence[Group]) -> list[Outcome]:
        await self._admit()
        loaded: dict[Key, Loaded] = {}
        if wanted := self._wanted(groups):
            loaded = await self._load_all(wanted)
            self._check_writer()  # that may have taken long
        now = self._clock.ms
        changes: list[Logged] = []
        outcomes = [self._decide(group, loaded, now, changes) for group in groups]
        if changes:
            await self._log(changes)
        return outcomes

    async def _admit(self) -> None:
        """Whether writes are taken now; waits where the journal fills.  Raises StoreError."""
        self._check_writer()
        limit = self.journal.limit
        fill = (self.journal.size + self.journal.pending) / limit
        if fill > PRESSED:
            with suppress(TimeoutError):
                async with asyncio.timeout(SLOWED * min(1.0, (fill - PRESSED) / (1 - PRESSED))):
                    await self.flusher.moved()
            self._check_writer()
            if self.journal.size + self.journal.pending >= limit:
                what = f"the journal {self.journal.path} is full (journal_max), the store takes it too slowly"
                raise StoreError(_because(what, self.flusher.failed))

    def _check_writer(self) -> None:
        if not self._holds:
            lease = self.lease
            if not lease.other:
                raise StoreError(_because("its lease was not had or renewed in time", self.flusher.failed))
            raise NotTheWriter(f"the lease is held by {lease.other}; write there, or here once it has lapsed")

    def _wanted(self, groups: Sequence[Group]) -> dict[Want, list[Key]]:
        """What must be loaded to judge conditions, and to change the expiry of what the store has."""
        wanted: dict[Want, list[Key]] = {}
        for group in groups:
            for change in group:
                key = change.key
                if change.op is Op.EXPIRE:
                    if key not in self.backlog.entries:
                        wanted.setdefault(Want.WHOLE, []).append(key)
                elif change.expect is not None and (
                    key.db == BESIDE or (key not in self.backlog.entries and self.known.get(key) is None)
                ):
                    wanted.setdefault(Want.META, []).append(key)
        return wanted

    async def _load_all(self, wanted: dict[Want, list[Key]]) -> dict[Key, Loaded]:
        loaded: dict[Key, Loaded] = {}
        for want, keys in wanted.items():
            pages = [keys[at : at + self.load_max] for at in range(0, len(keys), self.load_max)]
            for at in range(0, len(pages), self.concurrency):
                some = pages[at : at + self.concurrency]
                answers = await asyncio.gather(*(self.load(page, want) for page in some))
                for page, found in zip(some, answers, strict=True):
                    loaded.update(zip(page, found, strict=True))
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
            if record.kind in CHUNKED_KINDS:  # its chunks may be gone before it is flushed
                return Outcome(None, StoreError("what is in chunks can't stand in a journal"))
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
        known = self.known.get(key)
        if known is not None:
            return known.local(now)
        return loaded[key].token if key in loaded else None

    async def _log(self, changes: list[Logged]) -> None:
        """Have changes in the journal, then in the backlog.  Raises StoreError."""
        logged: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(result: int | StoreError) -> None:
            # Not where it is awaited: who waits may be cancelled, and the changes are there all the same.
            if isinstance(result, int) and not self._ready:
                result = NotTheWriter(f"the lease was taken over by {self.lease.other}")
            if isinstance(result, int):
                self._take(changes, result)
                if not self.lease.held:
                    result = StoreError("its lease ended before the change was on the disk", unknown=True)
            if logged.cancelled():
                return
            if isinstance(result, int):
                logged.set_result(None)
            else:
                logged.set_exception(result)

        self.journal.append(changes, done)
        await logged

    def _take(self, changes: list[Logged], segment: int) -> None:
        now = self._clock.ms
        for op, key, record in changes:
            if op == CLEAR:
                self.backlog.clear(None if key.db == EVERY_DB else key.db, key.name)
            else:
                self.backlog.put(key, record, segment, now)
        self.flusher.wake.set()

    async def sweep(self, limit: int) -> int:
        # What is dirty is complete, whatever the store has under its key.
        return await self.inner.sweep(limit)

    async def clear(self, db: int | None, prefix: bytes) -> int:
        if db == BESIDE:
            return await self.inner.clear(db, prefix)
        self._check_writer()
        async with self.flusher.at_work:
            async with self.lease.lock:
                if not await self.lease.confirm():
                    raise NotTheWriter(f"the lease was taken over by {self.lease.other}")
                count = await self.inner.clear(db, prefix)
            self.known.forget()
            await self._log([Logged(CLEAR, Key(EVERY_DB if db is None else db, prefix), None)])
            await self.flusher.tidy()
        self.flusher.tell()
        return count

    async def quarantine(self, key: Key, record: Record, reason: str) -> None:
        await self.inner.quarantine(key, record, reason)

    async def stored(self, key: Key) -> Loaded:
        while key.db != BESIDE and key not in self.backlog.entries:
            flushes = self.known.flushes
            loaded = await self.inner.stored(key)
            if key not in self.backlog.entries and not self.known.changed_since(key, flushes):
                return self.known.loaded(key, loaded)
        return (await self.load([key], Want.WHOLE))[0]

    async def url(self, record: Record, seconds: int) -> str | None:
        return await self.inner.url(record, seconds)

    async def load_chunks(self, wanted: Sequence[tuple[Key, int]]) -> list[bytes | None]:
        return await self.inner.load_chunks(wanted)

    def figures(self) -> dict[str, int]:
        return self.inner.figures()

    async def quarantined(self, after: tuple[Key, int] | None, limit: int) -> list[Quarantined]:
        return await self.inner.quarantined(after, limit)

    async def release(self, key: Key, write_id: int) -> bool:
        return await self.inner.release(key, write_id)

    def place(self, key: Key) -> bytes:
        return self.inner.place(key)

    def listen(self, told: Changes) -> Tracker | None:
        self._handover = Handover(told, self.inner.listen, self._holds)
        return Listening(self._handover)

    # The lease

    async def _keep(self) -> None:
        while True:
            await self.lease.due()
            await self._keep_lease()
            if self._handover is not None:
                self._handover.writer(self._holds, doubt=False)

    async def _keep_lease(self) -> None:
        before = self.lease.epoch
        try:
            terms = await self.lease.keep()
            if terms is not None:
                try:
                    await self._take_over(terms, before)
                except BaseException:
                    self.lease.put_off()
                    raise
            elif not self.lease.held and self._ready and self.lease.other:
                await self._lose(f"{self.lease.other} has taken over the lease")
        except StoreError as error:
            log.warning("%s: the lease can't be had: %s", self.name, error)
        except Exception:
            log.exception("%s: the lease can't be had", self.name)

    async def _take_over(self, terms: Terms, before: int) -> None:
        """We have the lease: with what is left from before, if nobody else has had it since."""
        alone = terms.epoch == 0 or (terms.holder == self.journal.id and terms.epoch == before)
        if self._ready and not alone:
            await self._lose("another has had the lease meanwhile")
        elif self._left is not None:
            await self._set_aside(self._left)
        self.journal.epoch = self.lease.epoch
        if not self._ready and self.journal.recovered:
            if alone and terms.epoch in (0, self.journal.recovered_epoch):
                for segment, change in self.journal.recovered:
                    self._take([change], segment)
                log.info(
                    "%s: %d changes to be flushed from the journal", self.name, len(self.backlog.entries)
                )
            else:
                await self._set_aside(len({change.key for _, change in self.journal.recovered}))
            self.journal.recovered = []
        doubt = not (alone and self._ready)  # what was read before may have been written over
        if doubt:
            self.known.forget()
        self.lease.other = ""
        self._ready = True
        if self._handover is not None:
            self._handover.writer(True, doubt)
        self.flusher.wake.set()

    async def _lose(self, reason: str) -> None:
        log.error("%s: %s", self.name, reason)
        self._ready = False
        count = len(self.backlog.entries)
        self.backlog.clear(None, b"")
        self.known.forget()
        self.flusher.tell()
        if self._handover is not None:
            self._handover.writer(False, doubt=True)
        await self._set_aside(count)

    async def _set_aside(self, count: int) -> None:
        self._left = count
        if not count:
            await self.journal.drop_before(None)
        place = await self.journal.set_aside() if count else None
        self._left = None
        if place is not None:
            self.overtaken += count
            log.error(
                "%s: another took over the lease; changes of %d keys may not have been flushed before: "
                "they are set aside in %s",
                *(self.name, count, place),
            )


def _all_beside(group: Group) -> bool:
    return all(change.key.db == BESIDE for change in group)


def _because(what: str, why: str) -> str:
    return f"{what}: {why}" if why else what
