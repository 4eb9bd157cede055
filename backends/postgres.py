"""A cold store in Postgres: one row a key, a batch in one statement.

Groups of different clients share statements, not fates.  A group of one change needs no transaction but
its statement's own, nor does one of unconditional writes only; all of a kind go in one statement, so that
a batch of plain writes is one round trip and one flush of the server's log.  Groups of several changes
with conditions lock their keys, are judged here, and are applied in one transaction.

What the server has refused was not applied.  What it has not answered is asked for again on another
connection, behind the same locks that the lost statement may be waiting for, so that it has ended by
then; the one case left open is a statement that had not even begun when its connection was long lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from backends import postgres_check
from backends.base import (
    ABSENT,
    BESIDE,
    CONFLICT,
    Change,
    Changes,
    Finding,
    Group,
    Key,
    KeyInfo,
    KeyTooLong,
    Loaded,
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
from backends.examining import try_out, usable
from backends.postgres_groups import (
    WRITES,
    Held,
    chunk_columns,
    committed,
    decide,
    group_size,
    payload_size,
    recognise,
    row_of,
    token_of,
    unknown,
)
from backends.postgres_notices import Listener, everything, messages, new_origin
from backends.postgres_pool import Link, Lost, Pool, Refused, Rows
from backends.postgres_sql import LAYOUT, Statements
from backends.versions import SEALS, Versions
from proxy.clock import Clock

# Rolled back by the server for another transaction's sake: to be tried again, a few times.
_RETRIABLE: Final = frozenset({"40001", "40P01"})
_ATTEMPTS: Final = 5
# Payload bytes in one statement.  The protocol's limit is 1 GB; the server copies its arguments thrice.
_STATEMENT_MAX: Final = 16 * 1024 * 1024
# A field, and the message that brings it, are at most 1 GB (MaxAllocSize), and the rest needs room too.
_VALUE_MAX: Final = 1_000_000_000
# An index entry takes at most 2,704 bytes, of which 16 are the database, lengths and padding.
_KEY_MAX: Final = 2600
# Sorts after every key that can be stored, so that a range without an end needs no other statement.
_LAST: Final = b"\xff" * (_KEY_MAX + 1)
# Records that one transaction of clear removes: what else writes to them waits no longer than that.
_CLEAR_CHUNK: Final = 5000
# How often it is tried to learn what became of a lost statement, in seconds.
_SETTLE_PAUSE: Final = 0.1

_MISSING: Final = Loaded(None, ABSENT)

_Apply = Callable[[Link, Sequence[Group]], Awaitable[list[Outcome]]]
_Item = TypeVar("_Item")


class PostgresStore(Store):
    """``pool`` connections to the database of ``url``, and records in ``table`` (or ``schema.table``).

    Times are in milliseconds.  ``statement_cache_size=0`` makes do without prepared statements, for a
    transaction pooler that does not know them; ``listen_url`` then leads past the pooler.

    With ``notify``, commits tell other proxies of their keys, and ``listen`` hears what others tell, within
    ``listen_heartbeat``.  ``single_writer`` promises that no other process writes here: nobody is told then.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        clock: Clock,
        table: str = "redtier",
        pool: int = 4,
        connect_timeout: int = 5000,
        timeout: int = 10_000,
        statement_cache_size: int = 1024,
        listen_url: str = "",
        notify: bool = True,
        listen_heartbeat: int = 2000,
        single_writer: bool = False,
    ) -> None:
        self.name = name
        self.type = "postgres"
        self.concurrency = pool
        self.load_max = 256  # times bulk_max: at most 64 MB in one load
        self.commit_max = 256
        self.key_max = _KEY_MAX
        self._listen_url = listen_url or url
        self.chunked = True
        self.shared = not single_writer
        self._notify = notify and not single_writer
        self._listen_heartbeat = listen_heartbeat / 1000
        self._connect_timeout = connect_timeout / 1000
        self._origin = new_origin()
        self._channel = ""  # known once it is open
        self._clock = clock
        self._timeout = timeout / 1000
        self._swept_to = 0  # an expiry; 0: the sweep was through
        self._sql = Statements(table, self.bulk_max, self._notify)
        self._url = url
        self._cached = statement_cache_size > 0
        self._new_pool = partial(Pool, name, connect_timeout=self._connect_timeout, timeout=self._timeout)
        self._pool = self._new_pool(url, size=pool, statement_cache_size=statement_cache_size)

    async def open(self) -> None:
        self._pool.open()
        async with self._pool.link() as link:
            if not (await link.fetch(self._sql.exist, list(self._sql.rights)))[0][0]:
                await link.run(self._sql.create)
            await self._check_rights(link, self._sql.rights)
            await self._bring_up(link)
            await self._check_rights(link, self._sql.later_rights)
            self._channel = (await link.fetch(self._sql.channel, self._sql.table))[0][0]
            # Another program's table of this name shows itself now, not at the first request.
            await link.fetch(self._sql.load[Want.META], 0, [], 0)

    async def close(self) -> None:
        await self._pool.close()

    async def ping(self) -> None:
        async with self._pool.link() as link:
            await link.run("select 1")

    async def examine(self) -> list[Finding]:
        urls = list(dict.fromkeys((self._url, self._listen_url)))
        pools = [self._new_pool(url, size=2, statement_cache_size=0) for url in urls]
        try:
            for pool in pools:
                pool.open()
            findings = await postgres_check.examine(
                pools[0], pools[1] if len(pools) > 1 else None, self._cached
            )
        finally:
            for pool in pools:
                await pool.close()
        return [*findings, await try_out(self)] if usable(findings) else findings

    async def load(self, keys: Sequence[Key], want: Want) -> list[Loaded]:
        new = tuple.__new__
        found: dict[int, dict[bytes, Loaded]] = {}
        for db, names in _by_db(keys).items():
            rows = await self._fetch(self._sql.load[want], db, names, self._clock.ms)
            # Past the constructors, which take longer than all else that is done with a row here.
            found[db] = {row[0]: new(Loaded, (new(Record, row[1:]), row[3])) for row in rows}
        return [found[db].get(name, _MISSING) for db, name in keys]

    async def load_chunks(self, wanted: Sequence[tuple[Key, int]]) -> list[bytes | None]:
        columns = [(key.db, key.name, id) for key, id in wanted]
        rows = await self._fetch(self._sql.load_chunks, *zip(*columns, strict=True))
        found = {(row[0], row[1], row[2]): row[3] for row in rows}
        return [found.get(each) for each in columns]

    async def commit(self, groups: Sequence[Group]) -> list[Outcome]:
        outcomes = [CONFLICT] * len(groups)
        ways: dict[_Apply, list[int]] = {}
        for index, group in enumerate(groups):
            error = self._unfit(group)
            if error is None:
                ways.setdefault(self._way(group), []).append(index)
            else:
                outcomes[index] = Outcome(None, error)
        answered = False
        for apply, indices in ways.items():
            for part in _portions(indices, lambda index: group_size(groups[index])):
                try:
                    settled = await self._settled(apply, [groups[index] for index in part])
                except StoreError as error:
                    if not answered:
                        raise
                    settled = [Outcome(None, error)] * len(part)
                answered = True
                for index, outcome in zip(part, settled, strict=True):
                    outcomes[index] = outcome
        return outcomes

    async def scan(
        self, db: int, prefix: bytes, after: bytes | None, limit: int
    ) -> tuple[list[KeyInfo], bytes | None]:
        first = prefix if after is None else max(prefix, after + b"\0")
        rows = await self._fetch(self._sql.scan, db, first, _end(prefix), self._clock.ms, limit)
        infos = [KeyInfo(*row) for row in rows]
        return infos, infos[-1].name if len(infos) == limit else None

    async def size(self, db: int, prefix: bytes) -> int:
        return await self._count(self._sql.size, db, prefix, _end(prefix), self._clock.ms)

    async def sweep(self, limit: int) -> int:
        rows = await self._fetch(self._sql.sweep, self._clock.ms, limit, self._swept_to)
        count, last = rows[0]
        # What went stays in the index until no older transaction can see it: a sweep that follows upon a full
        # one would go over all of that.  The first after that begins anew, for what was locked meanwhile.
        self._swept_to = last if count == limit else 0
        return int(count)

    async def clear(self, db: int | None, prefix: bytes) -> int:
        gone = 0
        told = (self._channel, [everything(self._origin)]) if self._notify else ()
        for each in await self._dbs() if db is None else [db]:
            first, end = prefix, _end(prefix)
            while first < end:
                rows = await self._fetch(self._sql.boundary, each, first, end, _CLEAR_CHUNK)
                bound = rows[0][0] if rows else end
                gone += await self._count(self._sql.clear, each, first, bound, *told)
                first = bound
        return gone

    async def quarantine(self, key: Key, record: Record, reason: str) -> None:
        await self._fetch(
            self._sql.quarantine,
            *(key.db, key.name, record.kind, record.write_id, record.expire_at, record.raw_size),
            *(record.payload, reason, self._clock.ms),
        )

    async def quarantined(self, after: tuple[Key, int] | None, limit: int) -> list[Quarantined]:
        key, write_id = after or (Key(BESIDE - 1, b""), 0)
        rows = await self._fetch(self._sql.quarantined, *key, write_id, limit)
        return [Quarantined(Key(*row[:2]), *row[2:]) for row in map(tuple, rows)]

    async def release(self, key: Key, write_id: int) -> bool:
        return await self._count(self._sql.release, *key, write_id) > 0

    def listen(self, told: Changes) -> Tracker | None:
        if not self._notify:
            return None
        return Listener(
            self._pool.title,
            self._listen_url,
            self._channel,
            self._origin,
            lambda message: self._fetch(self._sql.notify, self._channel, message),
            told,
            heartbeat=self._listen_heartbeat,
            connect_timeout=self._connect_timeout,
        )

    def _telling(self, keys: Collection[Key]) -> tuple[object, ...]:
        """The last arguments of a statement that changes ``keys``."""
        return (self._channel, messages(self._origin, keys)) if self._notify else ()

    async def _fetch(self, statement: str, *args: object, attempts: int = _ATTEMPTS) -> Rows:
        """For what does no harm if it is done twice: a connection that turns out to be dead is replaced."""
        link = await self._pool.acquire()
        try:
            return await link.fetch(statement, *args)
        except Refused as error:
            if error.sqlstate not in _RETRIABLE or attempts == 1:
                raise
        except Lost as error:
            if isinstance(error.__cause__, TimeoutError) or attempts == 1:
                raise
        finally:
            self._pool.release(link)
        return await self._fetch(statement, *args, attempts=attempts - 1)

    async def _count(self, statement: str, *args: object) -> int:
        count: int = (await self._fetch(statement, *args))[0][0]
        return count

    async def _dbs(self) -> list[int]:
        """The databases that hold records."""
        dbs = [-1]
        while (rows := await self._fetch(self._sql.next_db, dbs[-1]))[0][0] is not None:
            dbs.append(rows[0][0])
        return dbs[1:]

    async def _bring_up(self, link: Link) -> None:
        """Make the tables those of this release, unless they are of a newer one: then refuse."""
        found = await self._versions(link)
        found.check(LAYOUT, self._pool.title)
        if found == Versions(LAYOUT, SEALS):
            return
        async with link.transaction():
            await link.run(self._sql.lock_layout)
            found = await self._versions(link)  # another proxy may have been at it
            found.check(LAYOUT, self._pool.title)
            for version in range(found.layout + 1, LAYOUT + 1):
                await link.run(self._sql.steps[version])
            await link.run(self._sql.record)

    async def _versions(self, link: Link) -> Versions:
        layout = (await link.fetch(self._sql.layout))[0][0]
        if not 2 <= layout <= LAYOUT:  # before 2 all seals were of the first version, and it was not recorded
            return Versions(layout, 1)
        return Versions(layout, (await link.fetch(self._sql.seals))[0][0])

    async def _check_rights(self, link: Link, wanted: Mapping[str, Sequence[str]]) -> None:
        needed = [(table, right) for table, rights in wanted.items() for right in rights]
        if not (await link.fetch(self._sql.usable, *zip(*needed, strict=True)))[0][0]:
            tables = {**self._sql.rights, **self._sql.later_rights}
            grants = (f"{', '.join(rights)} on {table}" for table, rights in tables.items())
            raise self._refusal(f"this user may not use its tables: grant {'; '.join(grants)}")

    def _unfit(self, group: Group) -> StoreError | None:
        for change in group:
            if len(change.key.name) > _KEY_MAX:
                return KeyTooLong(f"{self.name}: keys in Postgres are at most {_KEY_MAX} bytes long")
            if payload_size(change) > _VALUE_MAX:
                return StoreError(f"{self.name}: values in Postgres are at most {_VALUE_MAX} bytes long")
        return None

    def _way(self, group: Group) -> _Apply:
        """What applies such a group; groups with the same way share statements."""
        change = group[0]
        if len(group) > 1:
            plain = all(change.op is Op.PUT and change.expect is None for change in group)
            return self._put if plain and group_size(group) <= _STATEMENT_MAX else self._together
        if change.op is Op.PUT:
            return self._put if change.expect is None else self._put_if
        if change.op is Op.ASSERT or change.expect == ABSENT:
            return self._check
        if change.op is Op.EXPIRE:
            return self._put_if
        return self._delete

    async def _put(self, link: Link, groups: Sequence[Group]) -> list[Outcome]:
        rows = sorted(row_of(change) for group in groups for change in group)
        telling = self._telling([Key(row[0], row[1]) for row in rows])
        await link.fetch(self._sql.put, *tuple(zip(*rows, strict=True))[:-1], *telling)
        return [committed(group) for group in groups]

    async def _put_if(self, link: Link, groups: Sequence[Group]) -> list[Outcome]:
        done = await self._put_rows(link, [group[0] for group in groups], self._clock.ms)
        return [committed(group) if _written(group[0]) in done else CONFLICT for group in groups]

    async def _put_rows(self, link: Link, changes: Sequence[Change], now: int) -> set[Token]:
        """The write ids of those rows whose condition held."""
        columns = tuple(zip(*sorted(map(row_of, changes)), strict=True))
        fresh = [
            write_id for write_id, expect in zip(columns[3], columns[7], strict=True) if expect == ABSENT
        ]
        telling = self._telling(list(map(Key, columns[0], columns[1])))
        statement, chunks = self._sql.put_if, chunk_columns(changes)
        if chunks:
            statement = self._sql.put_chunks
        return {row[0] for row in await link.fetch(statement, *columns, fresh, now, *chunks, *telling)}

    async def _delete(self, link: Link, groups: Sequence[Group]) -> list[Outcome]:
        changes = [group[0] for group in groups]
        gone = await self._delete_rows(link, {change.key: change.expect for change in changes})
        deleted = [change.expect is None or change.expect in gone for change in changes]
        return [committed(group) if done else CONFLICT for group, done in zip(groups, deleted, strict=True)]

    async def _delete_rows(self, link: Link, expected: Mapping[Key, Token | None]) -> set[Token]:
        """The tokens of what was deleted."""
        now = self._clock.ms
        gone: set[Token] = set()
        for db, names in _by_db(sorted(expected)).items():
            tokens = [expected[Key(db, name)] for name in names]
            telling = self._telling([Key(db, name) for name in names])
            rows = await link.fetch(self._sql.delete, db, names, tokens, now, *telling)
            gone.update(row[0] for row in rows)
        return gone

    async def _check(self, link: Link, groups: Sequence[Group]) -> list[Outcome]:
        held = await self._held(link, [group[0].key for group in groups])
        return [decide(group, held, self._clock.ms) for group in groups]

    async def _together(self, link: Link, groups: Sequence[Group]) -> list[Outcome]:
        keys = sorted(change.key for group in groups for change in group)
        now = self._clock.ms
        async with link.transaction():
            held = await self._locked(link, keys)
            outcomes = [decide(group, held, now) for group in groups]
            decided = zip(groups, outcomes, strict=True)
            changes = [change for group, outcome in decided if outcome.tokens is not None for change in group]
            puts = [change for change in changes if change.op in WRITES]
            for part in _portions(puts, payload_size):
                await self._put_rows(link, part, now)
            gone = {change.key for change in changes if change.op is Op.DELETE}
            gone.update(key for key in keys if token_of(key, held, now) == ABSENT)
            gone.difference_update(change.key for change in puts)
            await self._delete_rows(link, dict.fromkeys(gone))
        return outcomes

    async def _held(self, link: Link, keys: Iterable[Key]) -> dict[Key, Held]:
        return {
            Key(db, name): Held(write_id, expire_at)
            for db, names in _by_db(keys).items()
            for name, write_id, expire_at in await link.fetch(self._sql.tokens, db, names)
        }

    async def _locked(self, link: Link, keys: Sequence[Key]) -> dict[Key, Held]:
        await link.fetch(self._sql.lock, *zip(*keys, strict=True))
        return await self._held(link, keys)

    async def _settled(
        self, apply: _Apply, groups: Sequence[Group], attempts: int = _ATTEMPTS
    ) -> list[Outcome]:
        """What became of one part of a commit; raises StoreError if it could not even be sent."""
        try:
            async with self._pool.link() as link:
                return await apply(link, groups)
        except Refused as error:
            if error.sqlstate in _RETRIABLE and attempts > 1:
                return await self._settled(apply, groups, attempts - 1)
            return [Outcome(None, error)] * len(groups)
        except Lost as error:
            return await self._learned(groups, error)

    async def _learned(self, groups: Sequence[Group], lost: Lost) -> list[Outcome]:
        """Asks the server, for as long as one request may take, what became of a lost statement."""
        keys = sorted(change.key for group in groups for change in group)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        while True:
            try:
                async with self._pool.link() as link, link.transaction(end="rollback"):
                    held = await self._locked(link, keys)
                return [recognise(group, held, self._clock.ms, lost) for group in groups]
            except StoreError:
                if loop.time() >= deadline:
                    return [unknown(lost)] * len(groups)
            await asyncio.sleep(_SETTLE_PAUSE)

    def _refusal(self, text: str) -> StoreError:
        return StoreError(f"{self._pool.title}: {text}")


def _written(change: Change) -> Token | None:
    return None if change.record is None else change.record.write_id


def _portions(items: Iterable[_Item], size: Callable[[_Item], int]) -> Iterator[list[_Item]]:
    """``items`` in lists that hold ``_STATEMENT_MAX`` bytes, or one item that is larger."""
    portion: list[_Item] = []
    total = 0
    for item in items:
        total += size(item)
        if portion and total > _STATEMENT_MAX:
            yield portion
            portion, total = [], size(item)
        portion.append(item)
    if portion:
        yield portion


def _by_db(keys: Iterable[Key]) -> dict[int, list[bytes]]:
    names: dict[int, list[bytes]] = {}
    for db, name in keys:
        names.setdefault(db, []).append(name)
    return names


def _end(prefix: bytes) -> bytes:
    """The key after the last with ``prefix``: bytes that can't be counted up are cut off first."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else _LAST
