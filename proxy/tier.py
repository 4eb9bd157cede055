"""A cold backend at work: load what a command needs, run its handler, commit what changed.

Each key that is at work has a ``Cell``.  A command (``Job``) queues at the cells of all its keys at
once, and runs when it is first in every queue; so commands on one key take effect in the order of
their arrival, and one that waits for several keys can't deadlock.  Commands on a single key that queue
behind each other run on the loaded value together and share one commit, and nobody sees the result
before the store has acknowledged it: only then do the replies and the events go out.

Commits are conditional on the tokens of what was read.  If another proxy was quicker, the cells are
loaded anew and the handlers run again.  A handler may find that it needs more than was loaded
(``NeedKeys``): then more is loaded, and it runs from its start.

A client's writes to different keys keep their order too (``Order``): one waits with all that it needs
until those before it are sent to a store that commits batch after batch, or are done.

What is not at work may stand in the near cache; a cell takes its copy out of there and puts it back.
A key that is told to have changed (``Hearing``) while it is at work is forgotten when the work is done, so
that no load that was on its way leaves an old value behind; a copy that is not believed is compared with the
store by its token first.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from backends.base import (
    Change,
    Key,
    KeyTooLong,
    Loaded,
    NotAtomic,
    NotTheWriter,
    Op,
    Outcome,
    Record,
    Store,
    StoreError,
    Tracker,
    Waiter,
    Want,
)
from backends.batching import Batcher
from backends.dictionaries import Dictionaries
from backends.seal import IntegrityError, UnknownDictionary, unseal
from proxy import errors
from proxy.cells import (
    DELETE,
    EXPIRE,
    META,
    NO_OP,
    NOTHING,
    PUT,
    VALUE,
    Cell,
    ColdPolicy,
    Copy,
    Handler,
    Job,
    Order,
    Step,
    WorkingSet,
)
from proxy.chunks import DamagedChunk, Sealed, fill, portions, prepare
from proxy.clock import Clock
from proxy.datatypes.chunking import Chunked, NeedChunks, Shelf
from proxy.datatypes.collection import Collection
from proxy.datatypes.values import from_record
from proxy.errors import CommandError, NeedKeys
from proxy.hearing import Hearing
from proxy.keyspace import UNCHUNKED, UNLOADED, VOLATILE_HASH, EventSink, Keyspace
from proxy.nearcache import Copies, NearCache
from proxy.prefixes import PrefixMap
from proxy.resp import Argv, Reply
from proxy.router import COLD, Home

log = logging.getLogger("redtier.tier")

# How often a command is tried whose keys others keep changing, before it answers CONFLICT.
TRIES: Final = 16
# Sealing and unsealing from this size on (bytes) runs in a worker thread: both let go of the GIL there.
LARGE: Final = 64 * 1024
# Ranks of groups within a batch, see _rank.
BLIND: Final = 0
CONDITIONAL: Final = 1
DELETES: Final = 2
TRANSACTION: Final = 3


class Tier(Home):
    """One cold backend and all commands that are at work on it; ``ColdHome`` completes it to a home."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        policies: PrefixMap[ColdPolicy],
        cache: NearCache,
        sink: EventSink,
        flushable: bool,
        in_flight_max: int,
        in_flight_bytes_max: int,
    ) -> None:
        super().__init__(store.name, store.type, flushable, in_flight_max, in_flight_bytes_max)
        self.kind: int = COLD
        self.store: Store = store
        self.dictionaries: Dictionaries = Dictionaries(store)
        self.clock: Clock = clock
        self.policies: PrefixMap[ColdPolicy] = policies
        self.copies: Copies = Copies(clock, policies, cache, store.shared)
        self.hearing: Hearing | None = None  # of what others change, where the store can tell
        self._tracker: Tracker | None = None
        self.sink: EventSink = sink
        self.jobs: int = 0
        self.conflicts: int = 0
        self.damaged: int = 0
        self.raw_bytes: int = 0  # of all values sealed
        self.stored_bytes: int = 0  # what was stored for them
        self.expired: int = 0  # by the sweeper
        self._cells: dict[Key, Cell] = {}
        self._startable: deque[Job] = deque()  # first at all their cells, and not started
        self._starting: bool = False
        self._write_id: int = secrets.randbits(62)  # a random start: no two proxies give the same ids
        each = store.concurrency
        self._metas: Batcher[Cell, Loaded] = Batcher(self._load_metas, each, store.load_max)
        self._values: Batcher[Cell, Loaded] = Batcher(self._load_values, each, store.load_max)
        # Large values are fetched one by one, and never on all connections at once.
        large = store.large_at_once or max(1, each // 2)
        self._wholes: Batcher[Cell, Loaded] = Batcher(self._load_wholes, large, 1)
        # Where a batch may be committed whole, one follows the other: what is sent later takes effect later.
        self._serial: bool = store.atomic_groups
        at_once = 1 if self._serial else each
        self._chunks: Batcher[tuple[Key, int], bytes | None] = Batcher(
            store.load_chunks, each, store.load_max
        )
        self._commits: Batcher[list[Change], Outcome] = Batcher(store.commit, at_once, store.commit_max)
        # Requests with a large value go beside them, so that they delay nobody.
        self._large_commits: Batcher[list[Change], Outcome] = Batcher(store.commit, large, 1)
        self._background: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        return self.jobs

    def submit(
        self,
        waiter: Waiter,
        handler: Handler,
        argv: Argv,
        db: int,
        need: int,
        names: list[bytes],
        order: Order | None = None,
    ) -> None:
        """Run a command on the keys ``names``; the waiter gets its reply value.

        A write that is given its client's ``order`` takes effect after those that were given it before.
        """
        keys = [Key(db, names[0])] if len(names) == 1 else [Key(db, name) for name in dict.fromkeys(names)]
        self.submit_keys(waiter, handler, argv, db, need, keys, order)

    def submit_keys(
        self,
        waiter: Waiter,
        handler: Handler,
        argv: Argv,
        db: int,
        need: int,
        keys: list[Key],
        order: Order | None = None,
    ) -> None:
        """As ``submit``, for keys, each named once, of any databases."""
        self.jobs += 1
        if self.down:
            self._refuse(waiter, errors.backend_down(self.name, self.down))
            return
        for key in keys:
            if len(key.name) > self.store.key_max:
                self._refuse(waiter, errors.key_too_long(self.name, len(key.name), self.store.key_max))
                return
        job = Job(waiter, handler, argv, db, need, [])
        if order is not None:
            last = order.last
            if last is not None and not last.done:
                job.before = last
                last.after = job
            order.last = job
        self._enqueue(job, keys)

    def _refuse(self, waiter: Waiter, error: CommandError) -> None:
        self.jobs -= 1
        waiter.resolve(error)

    def _enqueue(self, job: Job, keys: list[Key]) -> None:
        for key in keys:
            cell = self._cells.get(key)
            if cell is None:
                cell = self._cells[key] = Cell(key, self.policies.find(key.name))
                self.copies.check_out(cell)
            if cell.queue:
                job.blocked += 1
            cell.queue.append(job)
            job.cells.append(cell)
        if not job.blocked:
            self._start(job)

    # Loading

    def _start(self, job: Job) -> None:
        """The job is first at all its cells: load what is missing, then run it."""
        want = job.need
        for cell in job.cells:
            if cell.known < want:
                job.loading += 1
        if not job.loading:
            self._run(job)
            return
        for cell in job.cells:
            if cell.known < want:
                self._load(cell, want)

    def _load(self, cell: Cell, want: int) -> None:
        cell.wanted = want
        batcher = self._metas if want == META or cell.kept is not None else self._values
        batcher.submit(cell, partial(self._loaded, cell))

    async def _load_metas(self, cells: list[Cell]) -> list[Loaded]:
        return await self.store.load([cell.key for cell in cells], Want.META)

    async def _load_values(self, cells: list[Cell]) -> list[Loaded]:
        return await self.store.load([cell.key for cell in cells], Want.VALUE)

    async def _load_wholes(self, cells: list[Cell]) -> list[Loaded]:
        return await self.store.load([cell.key for cell in cells], Want.WHOLE)

    def _loaded(self, cell: Cell, result: Loaded | Exception) -> None:
        """A load has brought the cell's record, or has failed."""
        if isinstance(result, Exception):
            self._load_failed(cell, result)
            return
        record, token = result
        cell.token = token
        kept, cell.kept = cell.kept, None
        if record is None:
            cell.entry = None
            self._cell_ready(cell, VALUE)
        elif kept is not None and kept.token == token:
            kept.cached_at = 0
            cell.entry = kept
            self._cell_ready(cell, VALUE)
        elif kept is not None and cell.wanted != META:
            self._load(cell, cell.wanted)
        elif cell.wanted == META and not _tells_more(record.kind, cell.policy):
            kind = UNCHUNKED.get(record.kind, record.kind)
            cell.entry = Copy(cell.key.name, kind, UNLOADED, record.expire_at, token)
            self._cell_ready(cell, META)
        elif record.raw_size > cell.policy.max_value:
            # No damage: the limit was higher when it was written.
            refusal = errors.too_large(record.raw_size, cell.policy.max_value, "max_value")
            self._unreadable(cell, record, refusal)
        elif record.payload is None:
            self._wholes.submit(cell, partial(self._loaded, cell))
        elif len(record.payload) < LARGE and (record.raw_size < LARGE or record.kind in UNCHUNKED):
            try:
                raw = unseal(
                    cell.key.db,
                    cell.key.name,
                    record.kind,
                    record.payload,
                    cell.policy.max_value,
                    self.dictionaries.known,
                )
            except UnknownDictionary:
                self._in_background(self._unseal_aside(cell, record))
            except IntegrityError as damage:
                self._in_background(self._quarantine(cell, record, str(damage)))
            except Exception as failure:  # not "error": compiled, that is an IntegrityError
                self._load_failed(cell, failure)
            else:
                self._keep(cell, record, raw)
        else:
            self._in_background(self._unseal_aside(cell, record))

    def _keep(self, cell: Cell, record: Record, raw: bytes) -> None:
        try:
            kind, value, expire_at = from_record(record.kind, raw, record.expire_at)
        except Exception as failure:
            self._load_failed(cell, failure)
            return
        cell.entry = Copy(cell.key.name, kind, value, expire_at, cell.token)
        self._cell_ready(cell, VALUE)

    async def _unseal_aside(self, cell: Cell, record: Record) -> None:
        """Unseal what is large, or was sealed with a dictionary that others have trained."""
        assert record.payload is not None
        key, payload = cell.key, record.payload
        try:
            by_id = await self.dictionaries.of(payload)
            raw = await asyncio.get_running_loop().run_in_executor(
                None, unseal, key.db, key.name, record.kind, payload, cell.policy.max_value, by_id
            )
        except IntegrityError as damage:
            await self._quarantine(cell, record, str(damage))
        except Exception as error:
            self._load_failed(cell, error)
        else:
            self._keep(cell, record, raw)

    async def _load_chunks(self, job: Job, need: NeedChunks) -> None:
        """Load what a job needs of a collection in chunks, then run it."""
        value = need.value
        cell = job.cells[0]
        for each in job.cells:
            if each.entry is not None and each.entry.value is value:
                cell = each
        cell.wanted = VALUE
        job.loading += 1
        try:
            for some in portions(need.chunks):
                if not await self._fill(cell, value, some):
                    self._overtaken(cell, job)
                    return
        except DamagedChunk as damage:
            await self._quarantine_chunk(cell, damage)
        except Exception as failure:
            self._load_failed(cell, failure)
        else:
            self._cell_ready(cell, VALUE)

    def _overtaken(self, cell: Cell, job: Job) -> None:
        """Another proxy has replaced chunks before they could be loaded."""
        job.tries += 1
        cell.forget()
        if job.tries < TRIES:
            self._load(cell, VALUE)
        else:
            job.handler = _failing(errors.conflict(cell.key.name))
            job.need = NOTHING
            self._cell_ready(cell, NOTHING)

    async def _fill(self, cell: Cell, value: Chunked, chunks: Sequence[Shelf]) -> bool:
        """Load and verify chunks; false if the key was changed and has them no more.

        Raises DamagedChunk and StoreError.
        """
        loop = asyncio.get_running_loop()
        loads: list[asyncio.Future[bytes | None]] = []
        for chunk in chunks:
            loads.append(loop.create_future())
            self._chunks.submit((cell.key, chunk.id), partial(_settle, loads[-1]))
        sealed: list[bytes] = []
        for chunk, payload in zip(chunks, await asyncio.gather(*loads), strict=True):
            if payload is None:
                [(_, token)] = await self.store.load([cell.key], Want.META)
                if token != cell.token:
                    return False
                raise DamagedChunk(chunk, None, "it is missing")
            sealed.append(payload)
        await fill(cell.key, value, chunks, sealed, self.dictionaries)
        return True

    async def _quarantine_chunk(self, cell: Cell, damage: DamagedChunk) -> None:
        try:
            await damage.keep_aside(self.store, cell.key)
            record, token = await self.store.stored(cell.key)
        except Exception as error:
            self._load_failed(cell, error)
            return
        if record is not None and token == cell.token:
            await self._quarantine(cell, record, str(damage))
        else:  # it was overwritten meanwhile
            cell.forget()
            self._load(cell, VALUE)

    async def _quarantine(self, cell: Cell, record: Record, reason: str) -> None:
        """A record is damaged: keep a copy aside before anyone can overwrite it, then say so."""
        self.damaged += 1
        log.error("%s: the value of %r is damaged: %s", self.name, cell.key.name, reason)
        try:
            await self.store.quarantine(cell.key, record, reason)
        except Exception as error:
            self._load_failed(cell, error)
        else:
            self._unreadable(cell, record, errors.integrity(cell.key.name, reason))

    def _unreadable(self, cell: Cell, record: Record, error: CommandError) -> None:
        """The cell has its metadata; whoever wants the value gets the error."""
        kind = UNCHUNKED.get(record.kind, record.kind)
        cell.entry = Copy(cell.key.name, kind, UNLOADED, record.expire_at, cell.token)
        cell.damage = error.text
        self._cell_ready(cell, VALUE)

    def _cell_ready(self, cell: Cell, known: int) -> None:
        if cell.stale:  # it was cleared while this was on its way, and others may know it by now
            cell.stale = False
            cell.forget()
            self._load(cell, cell.wanted)
            return
        cell.known = known
        cell.wanted = NOTHING
        job = cell.queue[0]
        job.loading -= 1
        if not job.loading:
            self._run(job)

    def _load_failed(self, cell: Cell, error: Exception) -> None:
        cell.forget()
        cell.wanted = NOTHING
        first = cell.queue[0]
        failing = _failing(self.error_of(error))
        first.handler = failing  # which runs once its other loads are through
        first.need = NOTHING
        if len(first.cells) == 1:
            # Those behind it have waited for the same load: they share its fate, instead of each trying
            # again after the other, for as long as a store takes that does not answer.
            for job in cell.queue:
                if len(job.cells) > 1 or (job.need == NOTHING and job is not first):
                    break
                job.handler = failing
                job.need = NOTHING
        first.loading -= 1
        if not first.loading:
            self._run(first)

    # Running

    def _run(self, job: Job) -> None:
        """Run the job, and with it those behind it that need only the same key."""
        cells = job.cells
        work = WorkingSet(self.clock, job.db, cells)
        steps: list[Step] = []
        settled = 0  # of the steps, those that saw and left what the store has
        if not self._has_place(job):
            job.waiting = True
            return
        if len(cells) > 1:
            if not self._step(job, work, steps):
                return
        else:
            cell = cells[0]
            for next_job in cell.queue:
                if len(next_job.cells) > 1 or (next_job.need > cell.known and not cell.change):
                    break
                if not self._has_place(next_job) or (next_job.alone and steps):
                    break
                work.db = next_job.db
                if not self._step(next_job, work, steps):
                    if not steps:
                        return
                    break
                if not cell.change:
                    settled = len(steps)
        changed = False
        for cell in cells:
            if cell.change:
                changed = True
        if not changed:
            self._emit(work.effects)
            self._finish(cells, steps)
            return
        if settled:
            early, steps = steps[:settled], steps[settled:]
            self._take_off(cells, early)
            self._answer(early)
        self._commit(cells, steps, work.effects)

    def _has_place(self, job: Job) -> bool:
        return job.before is None or job.before.placed

    def _place(self, job: Job) -> None:
        """Writes that are sent to the store from now on take effect after this one."""
        if not job.placed:
            job.placed = True
            after = job.after
            if after is not None and after.waiting:
                after.waiting = False
                self._startable.append(after)

    def _step(self, job: Job, work: WorkingSet, steps: list[Step]) -> bool:
        """Run one handler; false if it has to wait for more to be loaded, or to be run anew."""
        changed = len(work.changed)
        try:
            if job.whole:
                work.load_whole()
            steps.append((job, job.handler(work, job.argv)))
        except CommandError as error:
            if len(work.cells) > 1:  # all or nothing: what it did before it was refused is undone
                for cell in work.cells:
                    if cell.change:
                        cell.forget()
                work.effects.clear()
            steps.append((job, error))
        except NeedKeys as need:
            if len(work.changed) != changed:
                # What it has changed so far is undone by loading anew, and it runs from its start.
                job.whole = job.whole or isinstance(need, NeedChunks)
                for cell in job.cells:
                    cell.forget()
                if steps:
                    job.alone = True
                    self._start(steps[0][0])
                    steps.clear()
                    return False
            if not steps:
                if not isinstance(need, NeedChunks):
                    self._load_more(job, need)
                elif job.whole and len(work.changed) != changed:
                    self._start(job)
                else:
                    self._in_background(self._load_chunks(job, need))
            return False
        except Exception:
            log.exception("%s failed", job.argv[0])
            # It may have changed half of what it meant to: what was done with it is undone by
            # loading anew, and the commands before it run again.
            job.handler = _failing(CommandError(errors.INTERNAL))
            job.need = NOTHING
            for cell in job.cells:
                cell.forget()
            if steps:
                self._start(steps[0][0])
                steps.clear()
            else:
                self._start(job)
            return False
        return True

    def _load_more(self, job: Job, need: NeedKeys) -> None:
        keys = [Key(need.db, name) for name in need.names]
        held = {cell.key for cell in job.cells}
        if all(key in held for key in keys):
            job.need = max(job.need, need.want)
            self._start(job)
            return
        for key in keys:
            if self.policies.find(key.name).foreign:
                job.handler = _failing(errors.foreign_key(key.name, self.name))
                job.need = NOTHING
                self._start(job)
                return
        # More keys than were named: it queues anew, at all of them at once.  What came later is before it
        # then, and must not wait for its place.
        self._place(job)
        keys += [key for key in held if key not in keys]
        cells, job.cells, job.blocked = job.cells, [], 0
        for cell in cells:
            cell.queue.popleft()
            if cell.queue:
                self._next([cell])
        self._enqueue(job, keys)
        self._start_free()

    def _finish(self, cells: list[Cell], steps: list[Step]) -> None:
        """The steps have taken effect: answer, and let the next jobs at the cells."""
        self._take_off(cells, steps)
        outdated = [cell.key for cell in cells if cell.outdated]
        self._next(cells)
        self._answer(steps)
        for key in outdated:  # again: who has just begun to wait for it was not there the first time
            self._tell(key)
        self._start_free()

    def _take_off(self, cells: list[Cell], steps: list[Step]) -> None:
        for cell in cells:
            for _ in steps:
                cell.queue.popleft()
        self.jobs -= len(steps)

    def _answer(self, steps: list[Step]) -> None:
        for job, reply in steps:
            job.done = True
            job.before = None
            if job.after is not None:
                job.after.before = None
            self._place(job)
            if job.then is not None:
                job.then()
            try:
                job.waiter.resolve(reply)
            except Exception:  # one client's trouble must not take the replies of the others
                log.exception("a reply to %s could not be handed on", job.argv[0])

    def _next(self, cells: list[Cell]) -> None:
        """The jobs that are first at the cells may be started, if they are so everywhere."""
        for cell in cells:
            if cell.stale or cell.outdated:
                cell.stale = cell.outdated = False
                cell.forget()
            if cell.queue:
                if len(cells) > 1 and not self.copies.hears:
                    # The next may have come long after what is known was loaded, and nobody tells of changes.
                    cell.forget()
                job = cell.queue[0]
                job.blocked -= 1
                if not job.blocked:
                    self._startable.append(job)
            else:
                del self._cells[cell.key]
                self.copies.check_in(cell)

    def _start_free(self) -> None:
        """Start what may be started; one job after the other, since each may free the next at once and a
        chain of calls would be as long as the queue."""
        if self._starting:
            return
        self._starting = True
        try:
            while self._startable:
                self._start(self._startable.popleft())
        finally:
            self._starting = False

    def _emit(self, effects: list[tuple[int, str, bytes]]) -> None:
        for db, name, key in effects:
            self.sink.event(db, name, key)

    # Committing

    def _commit(self, cells: list[Cell], steps: list[Step], effects: list[tuple[int, str, bytes]]) -> None:
        if len(cells) > 1 and not self.store.atomic_groups:
            for cell in cells:
                cell.forget()
            name = steps[0][0].argv[0].decode("ascii", "replace").lower()
            self._finish(cells, [(job, errors.not_atomic(name, self.name)) for job, _ in steps])
            return
        for cell in cells:
            if cell.change == PUT and cell.entry is not None and _length(cell.entry.value) >= LARGE:
                self._in_background(self._commit_large(cells, steps, effects))
                return
        self._send(
            cells, [self._change(cell, None) for cell in cells if cell.known or cell.change], steps, effects
        )

    async def _commit_large(
        self, cells: list[Cell], steps: list[Step], effects: list[tuple[int, str, bytes]]
    ) -> None:
        loop = asyncio.get_running_loop()
        changes = []
        try:
            for cell in cells:
                sealed: Sealed | None = None
                entry = cell.entry
                if cell.change == PUT and entry is not None:
                    sealed = await loop.run_in_executor(None, prepare(cell, entry, self._next_write_id).seal)
                if cell.known or cell.change:
                    changes.append(self._change(cell, sealed))
        except Exception as error:
            self._committed(error, cells, [], steps, [])
        else:
            self._send(cells, changes, steps, effects)

    def _next_write_id(self) -> int:
        self._write_id = self._write_id % (2**63 - 1) + 1
        return self._write_id

    def _put(self, cell: Cell, sealed: Sealed) -> Change:
        self.raw_bytes += sealed.new_size
        stored_size = len(sealed.payload)
        self.stored_bytes += stored_size
        if sealed.chunks is not None:
            for _, chunk in sealed.chunks.new:
                self.stored_bytes += len(chunk)
        elif cell.policy.samples is not None:
            cell.policy.samples.saw(sealed.raw, sealed.payload)
        record = Record(
            sealed.payload, sealed.kind, self._next_write_id(), sealed.expire_at, sealed.raw_size, stored_size
        )
        return Change(Op.PUT, cell.key, None if cell.blind else cell.token, record, sealed.chunks)

    def _change(self, cell: Cell, sealed: Sealed | None) -> Change:
        """What is to be done in the store for one cell; ``sealed`` is what is put there, if it is made."""
        expect = None if cell.blind else cell.token
        entry = cell.entry
        if not cell.change:
            return Change(Op.ASSERT, cell.key, cell.token)
        if cell.change == DELETE or entry is None:
            return Change(Op.DELETE, cell.key, expect)
        if cell.change == EXPIRE:
            record = Record(None, entry.kind, self._next_write_id(), entry.expire_at, 0, 0)
            return Change(Op.EXPIRE, cell.key, expect, record)
        if sealed is None:
            sealed = prepare(cell, entry, self._next_write_id).seal()
        return self._put(cell, sealed)

    def _send(
        self,
        cells: list[Cell],
        changes: list[Change],
        steps: list[Step],
        effects: list[tuple[int, str, bytes]],
    ) -> None:
        rank = _rank(changes)
        large = _is_large(steps) or self._takes_long(changes)
        for job, _ in steps:
            before = job.before
            if before is not None and (large or before.rank > rank):
                # It may be under way in the same batch, and would be overtaken there.
                before.then = partial(self._send, cells, changes, steps, effects)
                return

        def committed(outcome: Outcome | Exception) -> None:
            self._committed(outcome, cells, changes, steps, effects)

        if large:
            self._large_commits.submit(changes, committed)
            return
        self._commits.submit(changes, committed)
        for job, _ in steps:
            job.rank = rank
            if self._serial and rank < TRANSACTION:
                self._place(job)
        self._start_free()

    def _takes_long(self, changes: list[Change]) -> bool:
        for change in changes:
            record = change.record
            if record is not None and change.chunks is None and record.raw_size >= self.store.large_from:
                return True
        return False

    def _committed(
        self,
        outcome: Outcome | Exception,
        cells: list[Cell],
        changes: list[Change],
        steps: list[Step],
        effects: list[tuple[int, str, bytes]],
    ) -> None:
        error = outcome if isinstance(outcome, Exception) else outcome.error
        if error is not None:
            for cell in cells:
                if cell.change and self.sink.watching:  # it may have been done all the same
                    self.sink.changed(cell.key.db, cell.key.name)
                cell.forget()
            reply = self.error_of(error)
            # What a handler refused stays refused, whatever became of the others' changes.
            self._finish(cells, [(job, r if isinstance(r, CommandError) else reply) for job, r in steps])
            return
        assert isinstance(outcome, Outcome)
        if outcome.tokens is None:
            self._conflict(cells, steps)
            return
        tokens = dict(zip([change.key for change in changes], outcome.tokens, strict=True))
        if self.sink.watching:
            self.sink.by([job.waiter for job, _ in steps])
        for cell in cells:
            if cell.key in tokens:
                cell.token = tokens[cell.key]
            if cell.change in (PUT, DELETE):
                cell.known = VALUE
            if cell.change and self.sink.watching:
                self.sink.changed(cell.key.db, cell.key.name)
            cell.change = NO_OP
            cell.blind = False
            cell.replaced = False
        if self.sink.watching:
            self.sink.by([])
        self._emit(effects)
        self._finish(cells, steps)

    def _conflict(self, cells: list[Cell], steps: list[Step]) -> None:
        """Another proxy was quicker: load anew and run again."""
        self.conflicts += 1
        for cell in cells:
            cell.forget()
        first = steps[0][0]
        first.tries += 1
        if first.tries >= TRIES:  # the others have come later, and have tries of their own
            self._finish(cells, [(first, errors.conflict(cells[0].key.name))])
        else:
            self._start(first)

    def error_of(self, error: Exception) -> CommandError:
        if isinstance(error, KeyTooLong):
            return errors.key_refused(str(error))
        if isinstance(error, NotAtomic):
            return errors.not_atomic("this command", self.name)
        if isinstance(error, NotTheWriter):
            return errors.not_the_writer(self.name, str(error))
        if isinstance(error, StoreError):
            if error.unknown:
                return errors.maybe_applied(self.name, str(error))
            return errors.backend_down(self.name, str(error))
        log.error("%s failed", self.name, exc_info=error)
        return CommandError(errors.INTERNAL)

    def _in_background(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # What others change

    def listen(self) -> None:
        """Hear of what others change in the store, which is open, if it can tell."""
        hearing = Hearing(self)
        self._tracker = self.store.listen(hearing)
        if self._tracker is not None:
            self.hearing = hearing
            self.copies.can_hear = True

    def changed(self, keys: list[Key]) -> None:
        """Others have changed these keys."""
        for key in keys:
            cell = self._cells.get(key)
            if cell is None:
                self.copies.drop(key)
            else:
                cell.outdated = True
            self._tell(key)

    def changed_all(self) -> None:
        """Others may have changed any key."""
        self._doubt()
        self.sink.changed_all()

    def hear(self, live: bool) -> None:
        """From now on others' changes are told, or they are not any more."""
        self.copies.hears = live
        if live:
            self.changed_all()
        else:
            self._doubt()
            self.sink.unheard()

    def _doubt(self) -> None:
        """Believe nothing of what was loaded before now."""
        self.copies.era += 1
        for cell in self._cells.values():
            cell.outdated = True

    @property
    def deaf(self) -> bool:
        """Whether changes that others make are not told, though the store could."""
        return self.copies.can_hear and not self.copies.hears

    def _tell(self, key: Key) -> None:
        if self.sink.watching and key.db >= 0:  # documents are no client's
            self.sink.changed_elsewhere(key.db, key.name)

    # Clearing and closing

    async def discard(self, db: int | None, prefix: bytes) -> None:
        """Keep nothing of what was loaded before now: what is at work, first, and what is cached."""
        for key, cell in self._cells.items():
            if (db is None or key.db == db) and key.name.startswith(prefix):
                cell.stale = True
        await self.copies.discard(db, prefix)

    async def close(self) -> None:
        """Let what is under way end, then close the store."""
        if self._tracker is not None:
            await self._tracker.close()
        while self._background:
            await asyncio.wait(self._background)
        for batcher in (self._metas, self._values, self._wholes):
            await batcher.close()
        await self._chunks.close()
        await self._commits.close()
        await self._large_commits.close()
        await self.store.close()


def _rank(changes: list[Change]) -> int:
    """When a group takes effect among those of its batch: stores commit blind puts first, then
    conditional ones, then deletes.  A group of several conditions is a transaction of its own."""
    for change in changes:
        if change.op != Op.PUT or change.expect is not None:
            if len(changes) > 1:
                return TRANSACTION
            return DELETES if change.op == Op.DELETE else CONDITIONAL
    return BLIND


def _is_large(steps: list[Step]) -> bool:
    for job, _ in steps:
        for arg in job.argv:
            if len(arg) >= LARGE:
                return True
    return False


def _settle(future: asyncio.Future[bytes | None], result: bytes | Exception | None) -> None:
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def _tells_more(kind: int, policy: ColdPolicy) -> bool:
    """Whether metadata are not enough for who changes when a key expires."""
    return kind == VOLATILE_HASH or (kind in UNCHUNKED and not policy.chunk_over)


def _failing(error: CommandError) -> Handler:
    def fail(keyspace: Keyspace, argv: Argv) -> Reply:
        raise error

    return fail


def _length(value: object) -> int:
    if isinstance(value, Collection):
        return value.unchunked()
    return len(value) if isinstance(value, (bytes, bytearray)) else 0
