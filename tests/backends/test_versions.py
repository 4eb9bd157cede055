"""Stores as earlier and later releases leave them: brought up in place, or refused and left as they are."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest

from backends import postgres, sqlite
from backends.base import Key, Record, Store, StoreError, Want
from backends.postgres import PostgresStore
from backends.s3 import S3Store
from backends.s3_client import Bucket
from backends.s3_layout import content, payload
from backends.sqlite import SqliteStore
from backends.versions import Versions
from proxy.clock import ManualClock
from tests import s3
from tests.servers import MotoServer, PgBouncer, PostgresServer

pytestmark = pytest.mark.once  # what keeps it is not compiled

A = Key(0, b"long:a")
SQLITE = Versions(2, 2)
POSTGRES = Versions(3, 2)

# What the first layout was, word for word.
SQLITE_1 = """
CREATE TABLE redtier_meta (schema_version INTEGER NOT NULL);
CREATE TABLE redtier (
    db INTEGER NOT NULL, key BLOB NOT NULL,
    kind INTEGER NOT NULL, write_id INTEGER NOT NULL, expire_at INTEGER NOT NULL,
    raw_size INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (db, key));
CREATE INDEX redtier_expiry ON redtier (expire_at) WHERE expire_at > 0;
CREATE TABLE redtier_quarantine (
    db INTEGER NOT NULL, key BLOB NOT NULL, write_id INTEGER NOT NULL,
    kind INTEGER NOT NULL, expire_at INTEGER NOT NULL, raw_size INTEGER NOT NULL,
    reason TEXT NOT NULL, moved_at INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (db, key, write_id));
INSERT INTO redtier_meta VALUES (1);
INSERT INTO redtier VALUES (0, CAST('long:a' AS BLOB), 1, 7, 0, 5, CAST('value' AS BLOB));
"""
POSTGRES_TABLES = """
create table {0} (
    write_id bigint not null, expire_at bigint not null, raw_size bigint not null,
    db smallint not null, kind smallint not null, key bytea not null,
    value bytea not null,
    primary key (db, key)) with (fillfactor = 90);
alter table {0} alter value set storage external;
create index {0}_expire_at on {0} (expire_at) where expire_at > 0;
create table {0}_quarantine (
    db smallint not null, key bytea not null, write_id bigint not null, kind smallint not null,
    expire_at bigint not null, raw_size bigint not null, value bytea,
    reason text not null, moved_at bigint not null,
    primary key (db, key, write_id));
insert into {0} values (7, 0, 5, 0, 1, 'long:a', 'value');
"""
POSTGRES_1 = f"""{POSTGRES_TABLES}
create table {{0}}_meta (schema_version integer not null);
insert into {{0}}_meta values (1);
"""
POSTGRES_2 = f"""{POSTGRES_TABLES}
create table {{0}}_meta (schema_version integer not null, seal_version integer not null);
insert into {{0}}_meta values (2, 2);
"""
RECORD = Record(b"value", 1, 7, 0, 5, 5)

_tables = itertools.count()


async def opened(stores: Sequence[Store]) -> list[StoreError | None]:
    """Open them all at once, load the one record by each that could be, and close them; their errors."""

    async def use(store: Store) -> StoreError | None:
        try:
            await store.open()
            ((record, _),) = await store.load([A], Want.WHOLE)
            assert record == RECORD
        except StoreError as error:
            return error
        finally:
            await store.close()
        return None

    return await asyncio.gather(*map(use, stores))


# --- SQLite ---


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "redtier.db"


def in_file(path: Path, statement: str = "SELECT * FROM redtier_meta") -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchall()


def first_layout(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(SQLITE_1)


async def test_a_file_of_the_first_layout_is_brought_up_by_whoever_comes_first(path: Path) -> None:
    first_layout(path)
    stores = [SqliteStore("local", str(path), ManualClock()) for _ in range(4)]
    assert await opened(stores) == [None] * 4
    assert in_file(path) == [SQLITE]
    assert await opened(stores[:1]) == [None]


async def test_a_step_that_fails_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_layout(path)
    monkeypatch.setitem(sqlite._STEPS, 2, (*sqlite._STEPS[2], "ALTER TABLE missing ADD COLUMN a"))
    (error,) = await opened([SqliteStore("local", str(path), ManualClock())])
    assert "no such table: missing" in str(error)
    assert in_file(path) == [(1,)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("schema_version = 3", "layout 3, this one knows 2"),
        ("seal_version = 3", "seals 3, this one knows 2"),
    ],
)
async def test_a_file_of_a_newer_release_is_refused_and_left_as_it_is(
    path: Path, change: str, reason: str
) -> None:
    store = SqliteStore("local", str(path), ManualClock())
    await store.open()
    await store.close()
    in_file(path, f"UPDATE redtier_meta SET {change}")
    before = in_file(path)
    (error,) = await opened([store])
    assert str(error) == (
        f"{path} is of a newer release ({reason}): use the release that wrote it, or a newer one"
    )
    assert in_file(path) == before


async def test_new_seals_are_recorded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_layout(path)
    store = SqliteStore("local", str(path), ManualClock())
    assert await opened([store]) == [None]
    monkeypatch.setattr(sqlite, "SEALS", 3)
    monkeypatch.setattr("backends.versions.SEALS", 3)
    assert await opened([store]) == [None]
    monkeypatch.undo()
    (error,) = await opened([store])
    assert "seals 3, this one knows 2" in str(error)


# --- Postgres ---


@pytest.fixture
def table() -> str:
    return f"versions_{next(_tables)}"


@pytest.fixture
async def sql(postgres: PostgresServer) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(postgres.url)
    yield connection
    await connection.close()


def in_postgres(server: PostgresServer, table: str, url: str = "") -> PostgresStore:
    return PostgresStore("archive", url or server.url, clock=ManualClock(), table=table)


@pytest.mark.parametrize("before", [POSTGRES_1, POSTGRES_2])
async def test_tables_of_an_older_layout_are_brought_up_by_whoever_comes_first(
    postgres: PostgresServer, sql: asyncpg.Connection[asyncpg.Record], table: str, before: str
) -> None:
    await sql.execute(before.format(table))
    assert await opened([in_postgres(postgres, table) for _ in range(6)]) == [None] * 6
    assert await sql.fetch(f"select * from {table}_meta") == [POSTGRES]
    assert await opened([in_postgres(postgres, table)]) == [None]


async def test_tables_are_brought_up_through_a_pooler(
    pgbouncer: PgBouncer, sql: asyncpg.Connection[asyncpg.Record], table: str
) -> None:
    await sql.execute(POSTGRES_1.format(table))
    store = PostgresStore("archive", pgbouncer.url, clock=ManualClock(), table=table, statement_cache_size=0)
    assert await opened([store]) == [None]
    assert await sql.fetch(f"select * from {table}_meta") == [POSTGRES]


async def test_a_step_that_fails_leaves_the_tables_as_they_were(
    postgres: PostgresServer, sql: asyncpg.Connection[asyncpg.Record], table: str
) -> None:
    await sql.execute(POSTGRES_1.format(table))
    store = in_postgres(postgres, table)
    store._sql.steps[2] += "; alter table nothing add column a int"
    (error,) = await opened([store])
    assert 'relation "nothing" does not exist' in str(error)
    assert await sql.fetch(f"select * from {table}_meta") == [(1,)]


async def test_who_does_not_own_the_tables_is_told_who_may_bring_them_up(
    postgres: PostgresServer, sql: asyncpg.Connection[asyncpg.Record], table: str
) -> None:
    await sql.execute(POSTGRES_1.format(table))
    guest = f"guest_{table}"
    await sql.execute(f"create role {guest} login")
    await sql.execute(f"grant all on {table}, {table}_meta, {table}_quarantine to {guest}")
    url = f"postgresql://{guest}@127.0.0.1:{postgres.port}/postgres"
    try:
        (error,) = await opened([in_postgres(postgres, table, url)])
        assert f"must be owner of table {table}_meta" in str(error)
        assert "let the tables' owner start redtier once" in str(error)
        assert await opened([in_postgres(postgres, table)]) == [None]
        assert await opened([in_postgres(postgres, table, url)]) == [None]
    finally:
        await sql.execute(f"drop owned by {guest}; drop role {guest}")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("schema_version = 4", "layout 4, this one knows 3"),
        ("seal_version = 3", "seals 3, this one knows 2"),
    ],
)
async def test_tables_of_a_newer_release_are_refused(
    postgres: PostgresServer,
    sql: asyncpg.Connection[asyncpg.Record],
    table: str,
    change: str,
    reason: str,
) -> None:
    store = in_postgres(postgres, table)
    await store.open()
    await store.close()
    await sql.execute(f"update {table}_meta set {change}")
    before = await sql.fetch(f"select * from {table}_meta")
    (error,) = await opened([store])
    assert f"is of a newer release ({reason}): use the release that wrote it" in str(error)
    assert await sql.fetch(f"select * from {table}_meta") == before


# --- S3 ---


@pytest.fixture
async def blobs(s3_moto: MotoServer) -> AsyncIterator[list[S3Store]]:
    """Stores on one place in which the first layout left a record."""
    where = s3.place(s3_moto)
    stores = [s3.new_store(ManualClock(), where) for _ in range(4)]
    yield stores
    for store in stores:
        await store.close()


async def reach(store: S3Store) -> Bucket:
    bucket = Bucket("blobs", store._access)
    await bucket.open()
    return bucket


async def test_a_bucket_without_versions_is_brought_up_by_whoever_comes_first(blobs: list[S3Store]) -> None:
    bucket = await reach(blobs[0])
    old = content(RECORD)
    await bucket.put(blobs[0]._names.record(A), old.body, old.meta)
    assert await opened(blobs) == [None] * 4
    _, body = await bucket.get(blobs[0]._names.versions, None) or (None, None)
    assert body is not None
    assert json.loads(payload(body)) == {"layout": 1, "seal": 2}
    assert await opened(blobs[:1]) == [None]
    await bucket.close()


@pytest.mark.parametrize(
    ("versions", "reason"),
    [
        ({"layout": 2, "seal": 1, "more": 0}, "is of a newer release (layout 2, this one knows 1): use the"),
        ({"layout": 1, "seal": 3}, "is of a newer release (seals 3, this one knows 2): use the release"),
        ([], "is no redtier's: choose another prefix"),
    ],
)
async def test_a_bucket_of_a_newer_release_is_refused(
    versions: object, reason: str, blobs: list[S3Store]
) -> None:
    bucket = await reach(blobs[0])
    text = json.dumps(versions).encode()
    new = content(Record(text, 0, 1, 0, len(text), len(text)))
    await bucket.put(blobs[0]._names.versions, new.body, new.meta)
    (error,) = await opened(blobs[:1])
    assert reason in str(error)
    found = await bucket.get(blobs[0]._names.versions, None)
    assert found is not None
    assert found[1] == new.body
    await bucket.close()


def test_what_is_tested_here_is_the_layout_that_there_is() -> None:
    found = (sqlite.LAYOUT, postgres.LAYOUT)
    assert found == (SQLITE.layout, POSTGRES.layout), "give each older one its own tests"
