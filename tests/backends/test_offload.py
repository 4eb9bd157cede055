"""A store that offloads, by itself: blobs that are shared and collected while rows come and go."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import asyncpg
import pytest

from backends.base import Change, Key, Op, Outcome, Record, StoreError, Want
from backends.offload import OffloadingStore, Rule
from backends.pointers import BlobName, Pointer
from backends.postgres import PostgresStore
from backends.seal import IntegrityError, SealPolicy, seal, unseal
from proxy.clock import ManualClock
from tests import s3
from tests.offloads import OVER, new_store, place
from tests.servers import MotoServer, PostgresServer, eventually

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.once  # what keeps it is not compiled

ONE, TWO, THREE = (random.Random(seed).randbytes(300) for seed in range(3))
A, B = Key(0, b"long:a"), Key(0, b"long:b")

_tables = itertools.count()
_write_ids = itertools.count(1)


def put(key: Key, raw: bytes, policy: SealPolicy | None = None) -> Change:
    sealed = seal(*key, 1, raw, policy or SealPolicy(compress_max=OVER))
    return Change(Op.PUT, key, None, Record(sealed, 1, next(_write_ids), 0, len(raw), len(sealed)))


class Home:
    """Stores on one table and one place in a bucket, and the insides of both."""

    def __init__(self, postgres: PostgresServer, moto: MotoServer, stack: AsyncExitStack) -> None:
        self.url, self.table = postgres.url, f"blobs_{next(_tables)}"
        self._stack = stack
        self._where = s3.place(moto)
        self.bucket = s3.raw_client(moto)
        stack.callback(self.bucket.close)

    async def store(self, rules: dict[bytes, Rule] | None = None, **where: str) -> OffloadingStore:
        store = new_store(self.url, self.table, place({**self._where, **where}), ManualClock(), rules)
        self._stack.push_async_callback(store.close)
        await store.open()
        return store

    async def database(self) -> Connection:
        connection = await asyncpg.connect(self.url)
        self._stack.push_async_callback(connection.close)
        return connection

    def objects(self) -> list[str]:
        listed = self.bucket.list_objects_v2(Bucket=s3.BUCKET, Prefix=f"{self._where['prefix']}/b/")
        return [entry["Key"] for entry in listed.get("Contents", ())]


@pytest.fixture
async def home(postgres: PostgresServer, s3_moto: MotoServer) -> AsyncIterator[Home]:
    async with AsyncExitStack() as stack:
        yield Home(postgres, s3_moto, stack)


async def commit(store: PostgresStore, *changes: Change) -> Outcome:
    (outcome,) = await store.commit([changes])
    return outcome


async def read(store: PostgresStore, key: Key) -> bytes | None:
    [(record, _)] = await store.load([key], Want.WHOLE)
    if record is None:
        return None
    assert record.payload is not None
    return unseal(*key, record.kind, record.payload, 1 << 20)


async def test_whatever_way_a_value_was_sealed_its_blob_is_raw(home: Home) -> None:
    store = await home.store()
    text = b"text " * 100
    assert (await commit(store, put(A, text, SealPolicy()))).tokens
    assert (await commit(store, put(B, text))).tokens
    assert len(home.objects()) == 1
    assert await read(store, A) == await read(store, B) == text


async def test_only_what_needs_the_value_fetches_it(home: Home) -> None:
    store = await home.store()
    await commit(store, put(A, ONE))
    [(meta, _)] = await store.load([A], Want.META)
    [(value, _)] = await store.load([A], Want.VALUE)
    assert meta is not None
    assert value is not None
    assert meta.raw_size == len(ONE)
    assert value.payload is None  # as of any that is large
    assert store.figures()["blobs_fetched"] == 0


async def test_each_route_offloads_by_its_own_rule(home: Home) -> None:
    rules = {b"": Rule(2**62, "none"), b"long:": Rule(OVER, "none"), b"long:b": Rule(1000, "none")}
    store = await home.store(rules=rules)
    await commit(store, put(A, ONE), put(B, TWO), put(Key(0, b"other"), THREE))
    assert len(home.objects()) == 1
    assert await read(store, A) == ONE
    assert await read(store, B) == TWO
    document = Key(-1, b"long:document")
    await commit(store, put(document, THREE))
    assert len(home.objects()) == 1


async def test_the_database_takes_no_row_without_its_blob(home: Home) -> None:
    store = await home.store()
    await commit(store, put(A, ONE))
    [(record, _)] = [await store.stored(A)]
    assert record is not None
    nowhere = Pointer(BlobName(bytes(32), bytes(8)), b"\x01\x00\x00").encode()
    plain = PostgresStore("archive", home.url, table=home.table, clock=ManualClock())
    await plain.open()
    outcome = await commit(plain, Change(Op.PUT, B, None, record._replace(payload=nowhere)))
    await plain.close()
    assert outcome.tokens is None
    assert "blob" in str(outcome.error)
    assert await read(store, B) is None


async def test_rows_are_counted_whatever_the_search_path_of_who_writes(home: Home) -> None:
    store = await home.store()
    await commit(store, put(A, ONE))
    database = await home.database()
    await database.execute("set search_path = ''")
    await database.execute(f"delete from public.{home.table}")
    assert await database.fetchval(f"select refs from public.{home.table}_blobs") == 0


async def test_a_blob_that_is_collected_before_its_row_comes_is_uploaded_anew(home: Home) -> None:
    store = await home.store()
    database = await home.database()
    async with database.transaction():
        await database.execute(f"lock table {home.table} in share row exclusive mode")
        write = asyncio.create_task(commit(store, put(A, ONE)))
        await eventually(lambda: len(home.objects()) == 1)
        other = await home.database()
        await other.execute(f"update {home.table}_blobs set deleting = true")
    assert (await write).tokens
    assert len(home.objects()) == 2
    assert await read(store, A) == ONE


async def test_to_write_a_damaged_value_anew_mends_it_for_all_who_share_it(home: Home) -> None:
    store = await home.store()
    await commit(store, put(A, ONE))
    await commit(store, put(B, ONE))
    [name] = home.objects()
    home.bucket.delete_object(Bucket=s3.BUCKET, Key=name)
    with pytest.raises(IntegrityError):
        await read(store, B)
    await commit(store, put(A, ONE))
    assert await read(store, A) == await read(store, B) == ONE


async def test_what_a_clear_removes_is_collected(home: Home) -> None:
    store = await home.store()
    await store.commit([[put(Key(0, b"long:%d" % number), bytes([number]) * 200)] for number in range(20)])
    assert len(home.objects()) == 20
    assert await store.clear(0, b"long:1") == 11
    await (await home.database()).execute(f"update {home.table}_blobs set idle_since = 0")
    await store.sweep(100)
    assert len(home.objects()) == 9
    assert store.figures()["blobs_collected"] == 11


async def test_what_has_expired_goes_on_going_while_the_bucket_is_away(home: Home) -> None:
    store = await home.store()
    await commit(store, put(A, ONE))
    await commit(store, Change(Op.DELETE, A, None))
    await (await home.database()).execute(f"update {home.table}_blobs set idle_since = 0")
    for number in range(5):
        record = put(Key(0, b"%d" % number), b"short").record
        assert record is not None
        await commit(store, Change(Op.PUT, Key(0, b"%d" % number), None, record._replace(expire_at=1)))
    away = await home.store(endpoint_url="http://127.0.0.1:9")
    assert [await away.sweep(2), await away.sweep(2)] == [2, 2]
    with pytest.raises(StoreError, match="blobs"):
        await away.sweep(2)
    assert await (await home.database()).fetchval(f"select count(*) from {home.table}") == 0


async def test_writers_and_collectors_in_each_others_way_leave_no_row_without_its_blob(home: Home) -> None:
    stores = [await home.store() for _ in range(2)]
    database = await home.database()
    keys = [Key(0, b"long:%d" % number) for number in range(4)]
    chance = random.Random(7)
    values = [chance.randbytes(300) for _ in range(6)]
    at_work = True

    async def collect(store: OffloadingStore) -> None:
        while at_work:
            await database.execute(f"update {home.table}_blobs set idle_since = 0 where refs = 0 and ready")
            await store.sweep(100)

    async def write(store: OffloadingStore, key: Key) -> None:
        for _ in range(25):
            if chance.random() < 0.3:
                await commit(store, Change(Op.DELETE, key, None))
            else:
                await commit(store, put(key, chance.choice(values)))
            assert await reads_soundly(store, key)

    async def reads_soundly(store: OffloadingStore, key: Key) -> bool:
        return await read(store, key) in (None, *values)

    collector = asyncio.create_task(collect(stores[1]))
    await asyncio.gather(*(write(store, key) for store in stores for key in keys))
    at_work = False
    await collector
    for key in keys:
        assert await reads_soundly(stores[0], key)
        await commit(stores[0], Change(Op.DELETE, key, None))
    await database.execute(f"update {home.table}_blobs set idle_since = 0")
    await stores[0].sweep(100)
    assert home.objects() == []
    assert await database.fetchval(f"select count(*) from {home.table}_blobs") == 0
    assert stores[1].figures()["blobs_collected"] > 0
