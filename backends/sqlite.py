"""A cold store in one SQLite file, for one machine; nothing to install.

The standard library's ``sqlite3`` in worker threads: one thread and connection that writes, a few
that read.  Several processes may open the same file.  WAL lets them read while one writes, and
``synchronous=FULL`` makes a commit durable before it is acknowledged.

A commit is one transaction for all its groups, since the fsync at its end is what costs.  It first
reads the tokens that the groups expect, decides each group, then applies those that hold; as
``BEGIN IMMEDIATE`` keeps all other writers out, no savepoints are needed.

A rowid table with an index for the key, not ``WITHOUT ROWID``: values in the key's own b-tree make it
sparse, and with values from 1.5 KB on writes cost 2 to 4 times as much (measured).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, TypeVar

from backends.base import (
    ABSENT,
    BESIDE,
    CONFLICT,
    Change,
    Finding,
    Grade,
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
    Want,
)
from backends.examining import try_out, usable
from backends.versions import SEALS, Versions
from proxy.clock import Clock

_Result = TypeVar("_Result")
_Job = Callable[[sqlite3.Connection], _Result]

LAYOUT: Final = 2

_SCHEMA: Final = (
    "CREATE TABLE redtier_meta (schema_version INTEGER NOT NULL, seal_version INTEGER NOT NULL)",
    f"INSERT INTO redtier_meta VALUES ({LAYOUT}, {SEALS})",
    # The value stands last: what comes before it is read without its overflow pages.
    """CREATE TABLE redtier (
        db INTEGER NOT NULL, key BLOB NOT NULL,
        kind INTEGER NOT NULL, write_id INTEGER NOT NULL, expire_at INTEGER NOT NULL,
        raw_size INTEGER NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (db, key))""",
    "CREATE INDEX redtier_expiry ON redtier (expire_at) WHERE expire_at > 0",
    """CREATE TABLE redtier_quarantine (
        db INTEGER NOT NULL, key BLOB NOT NULL, write_id INTEGER NOT NULL,
        kind INTEGER NOT NULL, expire_at INTEGER NOT NULL, raw_size INTEGER NOT NULL,
        reason TEXT NOT NULL, moved_at INTEGER NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (db, key, write_id))""",
)

# What makes a file of the version before one of a version.
_STEPS: Final = {
    2: ("ALTER TABLE redtier_meta ADD COLUMN seal_version INTEGER NOT NULL DEFAULT 1",),
}
_HAS_META: Final = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'redtier_meta')"

_META: Final = "key, kind, write_id, expire_at, raw_size, length(value)"
_PAYLOAD: Final = {
    Want.NOTHING: "NULL",
    Want.META: "NULL",
    Want.VALUE: "CASE WHEN length(value) <= {bulk_max} THEN value END",
    Want.WHOLE: "value",
}
_RANGE: Final = "db = :db AND key >= :low AND key < :high"
_SCAN: Final = f"""SELECT key, kind, expire_at FROM redtier
    WHERE {_RANGE} AND (expire_at = 0 OR expire_at > :now) ORDER BY key LIMIT :limit"""
# The first count walks the key's index alone; the second, what has expired and is not swept yet (the
# plus sign keeps it off the key's index).
_SIZE: Final = f"""SELECT (SELECT count(*) FROM redtier WHERE {_RANGE})
    - (SELECT count(*) FROM redtier WHERE expire_at > 0 AND expire_at <= :now AND +{_RANGE})"""
_SWEEP: Final = """DELETE FROM redtier WHERE rowid IN
    (SELECT rowid FROM redtier WHERE expire_at > 0 AND expire_at <= ? ORDER BY expire_at LIMIT ?)"""
_CLEAR: Final = f"DELETE FROM redtier WHERE {_RANGE}"
_CLEAR_ALL: Final = "DELETE FROM redtier WHERE db >= 0 AND key >= :low AND key < :high"
_PUT: Final = """INSERT INTO redtier (db, key, kind, write_id, expire_at, raw_size, value)
    VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (db, key) DO UPDATE SET
    kind = excluded.kind, write_id = excluded.write_id, expire_at = excluded.expire_at,
    raw_size = excluded.raw_size, value = excluded.value"""
_DELETE: Final = "DELETE FROM redtier WHERE db = ? AND key = ?"
_EXPIRE: Final = "UPDATE redtier SET expire_at = ?, write_id = ? WHERE db = ? AND key = ?"
_QUARANTINE: Final = """INSERT OR IGNORE INTO redtier_quarantine
    (db, key, write_id, kind, expire_at, raw_size, reason, moved_at, value)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_QUARANTINED: Final = """SELECT db, key, write_id, kind, length(value), moved_at, reason
    FROM redtier_quarantine WHERE (db, key, write_id) > (?, ?, ?) ORDER BY db, key, write_id LIMIT ?"""
_RELEASE: Final = "DELETE FROM redtier_quarantine WHERE db = ? AND key = ? AND write_id = ?"

_READERS: Final = 2
_KEY_MAX: Final = 64 * 1024
# Sorts after every key that can be stored, so that a range without an end needs no other statement.
_LAST: Final = b"\xff" * (_KEY_MAX + 1)
# SQLite's default limit of a row is 10^9 bytes (SQLITE_MAX_LENGTH); the key and the rest need room too.
_VALUE_MAX: Final = 999_000_000
# Keys that one statement asks for: far below SQLite's 32,766 parameters, and few enough statements
# to stay prepared, since their number of parameters is rounded up to a power of two.
_LOOKUP_MAX: Final = 512

_LOCKED: Final = "another process holds its write lock for too long: end that process"
_DENIED: Final = "make the file and its directory writable for this user"
_REMEDIES: Final = {
    sqlite3.SQLITE_PERM: _DENIED,
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_READONLY: _DENIED,
    sqlite3.SQLITE_IOERR: "check its disk",
    sqlite3.SQLITE_CORRUPT: "restore it from a backup, or save what is left with sqlite3's .recover",
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_CANTOPEN: "its directory must exist, and both be readable and writable for this user",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database: name another path",
}


class SqliteStore(Store):
    """``path`` names a file in a directory that exists; ``timeout`` is how long, in milliseconds, to
    wait for another process that writes."""

    def __init__(self, name: str, path: str, clock: Clock, timeout: int = 5000) -> None:
        self.name = name
        self.type = "sqlite"
        self.shared = False  # by processes: its file is one's own
        self.concurrency = _READERS
        self.load_max = 256  # times bulk_max: at most 64 MB in one load
        self.commit_max = 1024
        self.key_max = _KEY_MAX
        self._columns = {
            want: f"{_META}, {payload.format(bulk_max=self.bulk_max)}" for want, payload in _PAYLOAD.items()
        }
        self._path = path
        self._clock = clock
        self._writer = _Pool(path, 1, timeout)
        self._readers = _Pool(path, _READERS, timeout)

    async def open(self) -> None:
        self._writer.start()
        self._readers.start()
        await self._writer.run(self._create)
        await self.ping()

    async def close(self) -> None:
        # The writer last: whoever closes the last connection moves the WAL into the file.
        await self._readers.close()
        await self._writer.close()

    async def ping(self) -> None:
        await self._readers.run(_ping)

    async def examine(self) -> list[Finding]:
        version = Finding(Grade.FINE, f"SQLite {sqlite3.sqlite_version}, {self._path}, synced at each commit")
        tried = await try_out(self)
        return [version, tried] if usable([tried]) else [tried]

    async def load(self, keys: Sequence[Key], want: Want) -> list[Loaded]:
        return await self._readers.run(partial(self._load, keys, want))

    async def commit(self, groups: Sequence[Group]) -> list[Outcome]:
        return await self._writer.run(partial(self._commit, groups))

    async def scan(
        self, db: int, prefix: bytes, after: bytes | None, limit: int
    ) -> tuple[list[KeyInfo], bytes | None]:
        bounds = _bounds(db, prefix)
        if after is not None:
            bounds["low"] = after + b"\0"  # the next key there can be
        where = {**bounds, "now": self._clock.ms, "limit": limit}
        rows = await self._readers.run(lambda connection: connection.execute(_SCAN, where).fetchall())
        infos = [KeyInfo(*row) for row in rows]
        return infos, infos[-1].name if len(infos) == limit else None

    async def size(self, db: int, prefix: bytes) -> int:
        where = {**_bounds(db, prefix), "now": self._clock.ms}
        count: int
        (count,) = await self._readers.run(lambda connection: connection.execute(_SIZE, where).fetchone())
        return count

    async def sweep(self, limit: int) -> int:
        return await self._writer.run(partial(_write, _SWEEP, (self._clock.ms, limit)))

    async def clear(self, db: int | None, prefix: bytes) -> int:
        if db is None:
            return await self._writer.run(partial(_write, _CLEAR_ALL, _bounds(0, prefix)))
        return await self._writer.run(partial(_write, _CLEAR, _bounds(db, prefix)))

    async def quarantine(self, key: Key, record: Record, reason: str) -> None:
        row = (
            *(key.db, key.name, record.write_id, record.kind, record.expire_at, record.raw_size),
            *(reason, self._clock.ms, record.payload),
        )
        await self._writer.run(partial(_write, _QUARANTINE, row))

    async def quarantined(self, after: tuple[Key, int] | None, limit: int) -> list[Quarantined]:
        key, write_id = after or (Key(BESIDE - 1, b""), 0)
        where = (*key, write_id, limit)
        rows = await self._readers.run(lambda connection: connection.execute(_QUARANTINED, where).fetchall())
        return [Quarantined(Key(*row[:2]), *row[2:]) for row in rows]

    async def release(self, key: Key, write_id: int) -> bool:
        return await self._writer.run(partial(_write, _RELEASE, (*key, write_id))) > 0

    def _create(self, connection: sqlite3.Connection) -> None:
        with _transaction(connection):
            if not connection.execute(_HAS_META).fetchone()[0]:
                for statement in _SCHEMA:
                    connection.execute(statement)
                return
            found = _versions(connection)
            found.check(LAYOUT, self._path)
            if found == (LAYOUT, SEALS):
                return
            for version in range(found.layout + 1, LAYOUT + 1):
                for statement in _STEPS[version]:
                    connection.execute(statement)
            connection.execute(
                "UPDATE redtier_meta SET schema_version = ?, seal_version = ?", (LAYOUT, SEALS)
            )

    def _load(self, keys: Sequence[Key], want: Want, connection: sqlite3.Connection) -> list[Loaded]:
        now = self._clock.ms
        found: dict[Key, Record] = {}
        for db, row in _lookup(connection, self._columns[want], keys):
            name, kind, write_id, expire_at, raw_size, stored_size, payload = row
            if expire_at == 0 or expire_at > now:
                found[Key(db, name)] = Record(payload, kind, write_id, expire_at, raw_size, stored_size)
        records = map(found.get, keys)
        return [Loaded(record, ABSENT if record is None else record.write_id) for record in records]

    def _commit(self, groups: Sequence[Group], connection: sqlite3.Connection) -> list[Outcome]:
        now = self._clock.ms
        conditional = [change.key for group in groups for change in group if change.expect is not None]
        with _transaction(connection):
            tokens: dict[Key, Token] = {}
            for db, row in _lookup(connection, "key, write_id, expire_at", conditional):
                name, write_id, expire_at = row
                if expire_at == 0 or expire_at > now:
                    tokens[Key(db, name)] = write_id
            outcomes = [_decide(group, tokens) for group in groups]
            decided = zip(groups, outcomes, strict=True)
            _apply(connection, [c for group, outcome in decided if outcome.tokens is not None for c in group])
        return outcomes


def _versions(connection: sqlite3.Connection) -> Versions:
    (layout,) = connection.execute("SELECT max(schema_version) FROM redtier_meta").fetchone()
    if not 2 <= layout <= LAYOUT:  # before 2 all seals were of the first version, and it was not recorded
        return Versions(layout, 1)
    return Versions(layout, *connection.execute("SELECT max(seal_version) FROM redtier_meta").fetchone())


def _decide(group: Group, tokens: dict[Key, Token]) -> Outcome:
    after: list[Token] = []
    for change in group:
        if change.expect is not None and change.expect != tokens.get(change.key, ABSENT):
            return CONFLICT
        record = change.record
        if change.op is Op.PUT and record is not None:
            if len(change.key.name) > _KEY_MAX:
                return Outcome(None, KeyTooLong(f"keys are at most {_KEY_MAX} bytes long in SQLite"))
            if record.stored_size > _VALUE_MAX:
                return Outcome(None, StoreError(f"values are at most {_VALUE_MAX} bytes long in SQLite"))
        if change.op is Op.DELETE:
            after.append(ABSENT)
        elif change.op is Op.ASSERT:
            after.append(tokens.get(change.key, ABSENT))
        elif record is not None:
            after.append(record.write_id)
    return Outcome(tuple(after))


def _apply(connection: sqlite3.Connection, changes: Sequence[Change]) -> None:
    puts: list[tuple[int, bytes, int, int, int, int, bytes | None]] = []
    expires: list[tuple[int, int, int, bytes]] = []
    deletes: list[Key] = []
    for change in changes:
        (db, name), record = change.key, change.record
        if change.op is Op.DELETE:
            deletes.append(change.key)
        elif record is None:
            continue
        elif change.op is Op.PUT:
            row = (record.kind, record.write_id, record.expire_at, record.raw_size, record.payload)
            puts.append((db, name, *row))
        elif change.op is Op.EXPIRE:
            expires.append((record.expire_at, record.write_id, db, name))
    connection.executemany(_PUT, puts)
    connection.executemany(_EXPIRE, expires)
    connection.executemany(_DELETE, deletes)


def _ping(connection: sqlite3.Connection) -> None:
    connection.execute("SELECT schema_version FROM redtier_meta").fetchall()


def _write(
    statement: str, parameters: Sequence[object] | Mapping[str, object], connection: sqlite3.Connection
) -> int:
    """Run one statement as a transaction; the number of rows that it changed."""
    with _transaction(connection):
        return connection.execute(statement, parameters).rowcount


def _lookup(
    connection: sqlite3.Connection, columns: str, keys: Iterable[Key]
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The rows of those keys that are there, each with its database; the key is the first column."""
    for db, of_db in groupby(sorted(keys), attrgetter("db")):
        names = [key.name for key in of_db]
        for start in range(0, len(names), _LOOKUP_MAX):
            part = names[start : start + _LOOKUP_MAX]
            places = 1 << (len(part) - 1).bit_length()
            part.extend(part[-1:] * (places - len(part)))
            for row in connection.execute(_select(columns, places), (db, *part)).fetchall():
                yield db, row


@cache
def _select(columns: str, places: int) -> str:
    return f"SELECT {columns} FROM redtier WHERE db = ? AND key IN ({','.join('?' * places)})"


def _bounds(db: int, prefix: bytes) -> dict[str, int | bytes]:
    """The range of the key's index that holds what starts with ``prefix``."""
    # The next string of the same length: bytes that can't be counted up are cut off first.
    stem = prefix.rstrip(b"\xff")
    high = stem[:-1] + bytes((stem[-1] + 1,)) if stem else _LAST
    return {"db": db, "low": prefix, "high": high}


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        # Its record may have reached the WAL, and come back to life when the file is opened next.
        connection.rollback()
        raise _CommitError(error) from error


class _Pool:
    """As many threads as connections to one file, each opened when it is first needed."""

    def __init__(self, path: str, size: int, timeout: int) -> None:
        self._path = path
        self._size = size
        self._timeout = timeout
        self._idle: deque[sqlite3.Connection] = deque()
        self._threads: ThreadPoolExecutor | None = None

    def start(self) -> None:
        self._threads = ThreadPoolExecutor(self._size, "sqlite")

    async def run(self, job: _Job[_Result]) -> _Result:
        if self._threads is None:
            raise StoreError(f"{self._path} is not open")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, job)

    async def close(self) -> None:
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(self._close, threads)

    def _close(self, threads: ThreadPoolExecutor) -> None:
        threads.shutdown()
        while self._idle:
            self._idle.pop().close()

    def _run(self, job: _Job[_Result]) -> _Result:
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect()
            try:
                return job(connection)
            finally:
                self._idle.append(connection)
        except sqlite3.Error as error:
            raise self._explained(error) from error
        except _CommitError as error:
            raise self._explained(error.reason, unknown=True) from error.reason

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=self._timeout / 1000,
            isolation_level=None,  # transactions are begun and ended here, not by guesses of the driver
            check_same_thread=False,  # whichever thread is free takes it, one at a time
        )
        try:
            self._use_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = 1")  # macOS: fsync alone stops at the drive's cache
            # After a burst the WAL is cut back to this, in bytes, instead of staying as it was.
            connection.execute("PRAGMA journal_size_limit = 67108864")
        except BaseException:
            connection.close()
            raise
        return connection

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        # Where several processes switch a new file to WAL, SQLite gives up at once instead of waiting.
        deadline = time.monotonic() + self._timeout / 1000
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        if mode != "wal":
            raise StoreError(f"{self._path}: its file system can't hold a WAL: name a local path")

    def _explained(self, error: sqlite3.Error, unknown: bool = False) -> StoreError:
        # The low byte is the primary code (https://www.sqlite.org/rescode.html).
        remedy = _REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        return StoreError(f"{self._path}: {error}" + (f"; {remedy}" if remedy else ""), unknown=unknown)


class _CommitError(Exception):
    def __init__(self, reason: sqlite3.Error) -> None:
        super().__init__(str(reason))
        self.reason = reason
