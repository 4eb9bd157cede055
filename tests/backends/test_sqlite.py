"""SQLite beyond the contract: files that can't be used, locks, other processes, and what is left behind."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import backends
from backends.base import Change, Key, Op, Record, StoreError, Want
from backends.sqlite import SqliteStore
from proxy.clock import ManualClock

pytestmark = pytest.mark.once  # what keeps it is not compiled

A, B = Key(0, b"a"), Key(0, b"b")


def put(key: Key, payload: bytes = b"value", write_id: int = 1) -> list[Change]:
    return [Change(Op.PUT, key, None, Record(payload, 1, write_id, 0, len(payload), len(payload)))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "redtier.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore("local", str(path), ManualClock(), timeout=50)
    await store.open()
    yield store
    await store.close()


async def payload(store: SqliteStore, key: Key) -> bytes | None:
    ((record, _),) = await store.load([key], Want.WHOLE)
    return None if record is None else record.payload


def no_directory(path: Path) -> Path:
    return path.parent / "missing" / "redtier.db"


def a_directory(path: Path) -> Path:
    path.mkdir()
    return path


def another_format(path: Path) -> Path:
    path.write_bytes(b"This is a letter, not a database. " * 100)
    return path


def a_newer_release(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE redtier_meta (schema_version INTEGER NOT NULL)")
        connection.execute("INSERT INTO redtier_meta VALUES (7)")
    return path


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (no_directory, "unable to open database file; its directory must exist, and both be readable and"),
        (a_directory, "unable to open database file; its directory must exist, and both be readable and"),
        (another_format, "file is not a database; it is no SQLite database: name another path"),
        (
            a_newer_release,
            "is of a newer release (layout 7, this one knows 2): use the release that wrote it",
        ),
    ],
)
async def test_a_file_that_cannot_be_used_is_refused_in_one_line_that_says_what_to_do(
    path: Path, prepare: Callable[[Path], Path], reason: str
) -> None:
    wrong = prepare(path)
    store = SqliteStore("local", str(wrong), ManualClock())
    with pytest.raises(StoreError) as caught:
        await store.open()
    await store.close()
    message = str(caught.value)
    assert message.startswith(str(wrong))
    assert reason in message
    assert "\n" not in message


async def test_a_newer_schema_is_left_as_it_was(path: Path) -> None:
    store = SqliteStore("local", str(a_newer_release(path)), ManualClock())
    with pytest.raises(StoreError):
        await store.open()
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("redtier_meta",)]


async def test_it_serves_only_between_open_and_close(path: Path) -> None:
    store = SqliteStore("local", str(path), ManualClock())
    with pytest.raises(StoreError, match="is not open"):
        await store.load([A], Want.META)
    await store.close()
    await store.open()
    await store.ping()
    await store.close()
    with pytest.raises(StoreError, match="is not open"):
        await store.ping()
    with pytest.raises(StoreError, match="is not open"):
        await store.commit([put(A)])


async def test_close_waits_for_what_is_under_way_and_leaves_no_thread_or_file_open(path: Path) -> None:
    def open_files() -> set[str]:
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return {os.readlink(link) for link in links if os.path.lexists(link)}

    store = SqliteStore("local", str(path), ManualClock())
    await store.open()
    commits = [asyncio.create_task(store.commit([put(Key(0, b"%d" % n))])) for n in range(20)]
    loads = [asyncio.create_task(store.load([A], Want.WHOLE)) for _ in range(20)]
    await asyncio.sleep(0)  # they are handed over to the threads
    assert str(path) in open_files()
    await store.close()
    for (outcome,) in await asyncio.gather(*commits):
        assert outcome.tokens == (1,)
    await asyncio.gather(*loads)
    assert not any(name.startswith(str(path)) for name in open_files())
    assert not any(thread.name.startswith("sqlite") for thread in threading.enumerate())
    # The WAL went into the file, which can be copied as it is.
    assert os.listdir(path.parent) == [path.name]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM redtier").fetchone() == (20,)


async def test_many_may_open_a_new_file_at_once(path: Path) -> None:
    stores = [SqliteStore("local", str(path), ManualClock()) for _ in range(8)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.commit([put(Key(0, b"%d" % n))]) for n, store in enumerate(stores)))
    assert [await store.size(0, b"") for store in stores] == [8] * 8
    await asyncio.gather(*(store.close() for store in stores))


async def test_while_another_process_writes_reads_go_on_and_writes_fail_in_time(
    store: SqliteStore, path: Path
) -> None:
    await store.commit([put(A, b"old")])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await payload(store, A) == b"old"
        with pytest.raises(
            StoreError, match="database is locked; another process holds its write lock"
        ) as caught:
            await store.commit([put(A, b"new")])
        assert not caught.value.unknown
        other.execute("ROLLBACK")
    assert await payload(store, A) == b"old"
    await store.commit([put(A, b"new")])
    assert await payload(store, A) == b"new"


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_write_that_finds_no_room_changes_nothing(store: SqliteStore) -> None:
    await store.commit([put(A, b"old")])
    with no_room_beyond(200_000):
        with pytest.raises(StoreError):
            await store.commit([put(A, b"new"), put(B, bytes(5_000_000))])
        assert await payload(store, A) == b"old"
    assert await payload(store, B) is None
    await store.commit([put(A, b"new")])
    assert await payload(store, A) == b"new"


async def test_a_damaged_file_is_an_error_that_says_so(path: Path) -> None:
    store = SqliteStore("local", str(path), ManualClock())
    await store.open()
    await store.commit([put(Key(0, b"%d" % n), bytes(1000)) for n in range(500)])
    await store.close()
    with path.open("r+b") as file:
        file.seek(8 * 4096)
        file.write(b"\xa5" * 400_000)
    await store.open()
    with pytest.raises(StoreError, match="malformed; restore it from a backup"):
        await store.load([Key(0, b"%d" % n) for n in range(200)], Want.WHOLE)
    await store.close()


async def test_a_value_that_sqlite_cannot_hold_fails_alone(store: SqliteStore) -> None:
    huge = Change(Op.PUT, A, None, Record(b"", 1, 1, 0, 0, stored_size=1_000_000_000))
    refused, kept = await store.commit([[huge], put(B)])
    assert refused.tokens is None
    assert "at most 999000000 bytes" in str(refused.error)
    assert kept.tokens == (1,)
    assert await payload(store, A) is None


async def test_quarantine_keeps_the_record_and_the_reason(store: SqliteStore, path: Path) -> None:
    damaged = Record(b"damaged", 1, 77, 0, 20, 7)
    await store.quarantine(A, damaged, "the digest does not match")
    await store.quarantine(A, damaged, "the digest does not match")
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT db, key, write_id, reason, value FROM redtier_quarantine"
        ).fetchall()
    assert rows == [(0, b"a", 77, "the digest does not match", b"damaged")]


WRITER = """
import asyncio, itertools, sys
from backends.base import Change, Key, Op, Record
from backends.sqlite import SqliteStore
from proxy.clock import Clock

async def main():
    store = SqliteStore("local", sys.argv[1], Clock())
    await store.open()
    for n in itertools.count(1):
        key = Key(0, b"%s:%d" % (sys.argv[2].encode(), n))
        (outcome,) = await store.commit([[Change(Op.PUT, key, None, Record(b"v", 1, n, 0, 1, 1))]])
        assert outcome.tokens
        print(n, flush=True)

asyncio.run(main())
"""


def test_what_killed_processes_had_acknowledged_is_there(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(backends.__file__).parents[1])}
    acknowledged = {}
    with (
        subprocess.Popen([*command, "x"], stdout=subprocess.PIPE, env=environment) as x,
        subprocess.Popen([*command, "y"], stdout=subprocess.PIPE, env=environment) as y,
    ):
        for name, process in (("x", x), ("y", y)):
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) == 50:
                    break
            process.kill()
            acknowledged[name] = int((process.stdout.read().split() or [line])[-1])

    async def stored(name: str) -> int:
        store = SqliteStore("local", str(path), ManualClock())
        await store.open()
        size = await store.size(0, name.encode() + b":")
        await store.close()
        return size

    for name, last in acknowledged.items():
        assert last <= asyncio.run(stored(name)) <= last + 1
