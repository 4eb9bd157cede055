"""What the contract suite can't ask of every store: Postgres' plans, locks, poolers, faults and errors."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from backends.base import (
    ABSENT,
    CHUNKED_KINDS,
    CONFLICT,
    Change,
    Chunks,
    Group,
    Key,
    Op,
    Outcome,
    Record,
    Store,
    StoreError,
    Token,
    Want,
)
from backends.postgres import PostgresStore
from backends.postgres_sql import Statements
from proxy.clock import Clock, ManualClock
from tests.faultproxy import Direction, FaultProxy
from tests.servers import PgBouncer, PostgresServer, eventually, free_port

pytestmark = pytest.mark.once  # what keeps it is not compiled

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
NewStore = Callable[..., Awaitable[PostgresStore]]

A, B, C = Key(0, b"long:a"), Key(0, b"long:b"), Key(0, b"long:c")
HOUR = 3_600_000
CHUNKED_KIND = min(CHUNKED_KINDS)

_tables = itertools.count()
_write_ids = itertools.count(1)


def record(payload: bytes = b"value", expire_at: int = 0) -> Record:
    return Record(payload, 1, next(_write_ids), expire_at, len(payload), len(payload))


def put(key: Key, new: Record | None = None, expect: Token | None = None) -> Change:
    return Change(Op.PUT, key, expect, new or record())


def delete(key: Key, expect: Token | None = None) -> Change:
    return Change(Op.DELETE, key, expect)


def expire(key: Key, expect: Token, expire_at: int) -> Change:
    return Change(Op.EXPIRE, key, expect, record(expire_at=expire_at))


def hold(key: Key, expect: Token) -> Change:
    return Change(Op.ASSERT, key, expect)


async def commit(store: Store, *changes: Change) -> Outcome:
    (outcome,) = await store.commit([changes])
    return outcome


async def token(store: Store, key: Key) -> Token:
    return (await store.load([key], Want.META))[0].token


@pytest.fixture
def table() -> str:
    return f"twin_{next(_tables)}"


@pytest.fixture
async def new_store(postgres: PostgresServer, table: str) -> AsyncIterator[NewStore]:
    """Opens stores on one table, which is not there at first; closes them when the test ends."""
    async with AsyncExitStack() as opened:

        async def new_store(
            url: str = postgres.url, clock: Clock | None = None, **options: Any
        ) -> PostgresStore:
            store = PostgresStore("archive", url, clock=clock or ManualClock(), **{"table": table, **options})
            opened.push_async_callback(store.close)
            await store.open()
            return store

        yield new_store


@pytest.fixture
async def store(new_store: NewStore) -> PostgresStore:
    return await new_store()


@asynccontextmanager
async def session(server: PostgresServer) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(server.url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def sql(postgres: PostgresServer) -> AsyncIterator[Connection]:
    async with session(postgres) as connection:
        yield connection


@pytest.fixture
def relay(postgres: PostgresServer) -> Iterator[FaultProxy]:
    with FaultProxy(postgres.port) as relay:
        yield relay


def through(relay: FaultProxy) -> str:
    return f"postgresql://postgres@127.0.0.1:{relay.port}/postgres"


# --- statements and plans ---


async def test_writes_of_many_clients_are_one_transaction(
    store: PostgresStore, sql: Connection, table: str
) -> None:
    outcomes = await store.commit([[put(Key(0, b"%d" % n))] for n in range(50)] + [[put(A), put(B)]])
    assert all(outcome.tokens for outcome in outcomes)
    assert await sql.fetchval(f"select count(distinct xmin::text) from {table}") == 1

    held = [loaded.token for loaded in await store.load([Key(0, b"%d" % n) for n in range(20)], Want.META)]
    conditional: list[Group] = [[put(Key(0, b"%d" % n), None, held[n])] for n in range(10)]
    conditional += [[expire(Key(0, b"%d" % n), held[n], HOUR)] for n in range(10, 20)]
    conditional += [[put(Key(0, b"new%d" % n), None, ABSENT)] for n in range(10)]
    await store.commit(conditional)
    assert await sql.fetchval(f"select count(distinct xmin::text) from {table}") == 2


async def test_no_plan_reads_the_whole_table_even_without_statistics(
    store: PostgresStore, sql: Connection, table: str
) -> None:
    statements = Statements(table, store.bulk_max)
    texts = {f"load {want.name}": text for want, text in statements.load.items()}
    for name in ("tokens", "put", "put_if", "delete", "lock", "scan", "size", "boundary", "clear"):
        texts[name] = getattr(statements, name)
    # The plan that the server makes once and keeps.
    await sql.execute("set plan_cache_mode = force_generic_plan")

    async def check() -> None:
        for name, text in texts.items():
            await sql.execute(f"prepare planned as {text}")
            arguments = ", ".join("null" for _ in set(re.findall(r"\$\d+", text)))
            plan = "\n".join(row[0] for row in await sql.fetch(f"explain execute planned({arguments})"))
            await sql.execute("deallocate planned")
            assert f"{table}_pkey" in plan or f"{table}_expire_at" in plan, (name, plan)
            assert "Seq Scan" not in plan, (name, plan)

    await check()
    await sql.execute(
        f"""insert into {table} select n, n, 0, 0, 1, convert_to(n::text, 'utf8'), ''
        from generate_series(1, 20000) n"""
    )
    texts["sweep"] = statements.sweep
    await check()


async def test_expire_does_not_rewrite_the_payload(store: PostgresStore, sql: Connection, table: str) -> None:
    outcome = await commit(store, put(A, record(os.urandom(1_000_000))))
    size = f"select pg_total_relation_size('{table}')"
    before = await sql.fetchval(size)
    for n in range(5):
        assert outcome.tokens is not None
        outcome = await commit(store, expire(A, outcome.tokens[0], HOUR * 10**6 + n))
    assert await sql.fetchval(size) - before < 100_000


# --- groups of several keys ---


async def test_overlapping_groups_of_two_proxies_never_lose_an_update(new_store: NewStore) -> None:
    stores = [await new_store(), await new_store()]
    keys = [Key(db, b"%d" % n) for db in (0, 1) for n in range(3)]
    applied = dict.fromkeys(keys, 0)

    async def client(store: PostgresStore, choice: random.Random) -> None:
        for _ in range(15):
            chosen = choice.sample(keys, choice.randint(1, 4))
            while True:
                seen = await store.load(chosen, Want.VALUE)
                group = []
                for key, (found, held) in zip(chosen, seen, strict=True):
                    count = int(found.payload or b"0") if found else 0
                    group.append(put(key, record(b"%d" % (count + 1)), held))
                outcome = await commit(store, *group)
                assert outcome.error is None
                if outcome.tokens is not None:
                    break
            for key in chosen:
                applied[key] += 1

    await asyncio.gather(*(client(store, random.Random(n)) for n, store in enumerate(stores * 3)))
    counts = [loaded.record.payload for loaded in await stores[0].load(keys, Want.VALUE) if loaded.record]
    assert counts == [b"%d" % applied[key] for key in keys]


async def test_writes_of_any_kind_in_any_order_do_not_end_in_a_deadlock(
    new_store: NewStore, postgres: PostgresServer
) -> None:
    logged = len(postgres.log.read_bytes())
    stores = [await new_store(), await new_store()]
    keys = [Key(0, b"%d" % n) for n in range(8)]

    async def client(store: PostgresStore, choice: random.Random) -> None:
        for _ in range(25):
            chosen = choice.sample(keys, 6)
            seen = [loaded.token for loaded in await store.load(chosen, Want.META)]
            changes = [
                choice.choice(
                    (
                        put(key),
                        put(key, None, held),
                        delete(key),
                        delete(key, held),
                        expire(key, held, 0),
                    )
                )
                for key, held in zip(chosen, seen, strict=True)
            ]
            groups = [changes[:3], *([change] for change in changes[3:])]
            assert [outcome.error for outcome in await store.commit(groups)] == [None] * 4

    await asyncio.gather(*(client(store, random.Random(n)) for n, store in enumerate(stores * 3)))
    assert b"deadlock detected" not in postgres.log.read_bytes()[logged:]


async def test_two_groups_that_exclude_each_other_never_both_happen(new_store: NewStore) -> None:
    one, two = await new_store(), await new_store()
    for n in range(20):
        a, b = Key(0, b"a%d" % n), Key(0, b"b%d" % n)
        outcomes = await asyncio.gather(
            commit(one, hold(a, ABSENT), put(b)), commit(two, hold(b, ABSENT), put(a))
        )
        assert [outcome.tokens is not None for outcome in outcomes].count(True) == 1
        assert outcomes.count(CONFLICT) == 1


def chunked(key: Key, expect: Token, new: dict[int, bytes], gone: Sequence[int] = ()) -> Change:
    return Change(
        Op.PUT, key, expect, record()._replace(kind=CHUNKED_KIND), Chunks(list(new.items()), list(gone))
    )


async def chunks_of(store: Store, key: Key, *ids: int) -> list[bytes | None]:
    return await store.load_chunks([(key, id) for id in ids])


async def test_chunks_change_with_their_record_or_not_at_all(store: PostgresStore) -> None:
    await commit(store, put(A))
    first = await token(store, A)
    assert (await commit(store, chunked(A, first, {1: b"one", 2: b"two"}))).tokens
    assert await commit(store, chunked(A, first, {3: b"three"}, [1])) == CONFLICT
    assert await chunks_of(store, A, 1, 2, 3) == [b"one", b"two", None]
    assert (await commit(store, chunked(A, await token(store, A), {3: b"three"}, [1]))).tokens
    assert await chunks_of(store, A, 3, 1, 2) == [b"three", None, b"two"]
    assert await chunks_of(store, B, 3) == [None]


async def test_only_who_reads_the_whole_record_pays_for_the_sum_of_its_chunks(store: PostgresStore) -> None:
    await commit(store, put(A))
    assert (await commit(store, chunked(A, await token(store, A), {1: b"one", 2: b"two"}))).tokens
    sizes = {want: (await store.load([A], want))[0].record for want in (Want.META, Want.VALUE, Want.WHOLE)}
    root = len(record().payload or b"")
    assert {want: each and each.stored_size for want, each in sizes.items()} == {
        Want.META: root,
        Want.VALUE: root,
        Want.WHOLE: root + 6,
    }


async def test_chunks_of_a_batch_have_fates_of_their_own(store: PostgresStore) -> None:
    await store.commit([[put(A)], [put(B)], [put(C)]])
    a, b, c = [await token(store, key) for key in (A, B, C)]
    outcomes = await store.commit(
        [
            [chunked(A, a, {1: b"a"})],
            [chunked(B, b + 1 if isinstance(b, int) else b, {2: b"b"})],
            [put(C, expect=c)],
        ]
    )
    assert [outcome.tokens is not None for outcome in outcomes] == [True, False, True]
    assert await chunks_of(store, A, 1) == [b"a"]
    assert await chunks_of(store, B, 2) == [None]


async def test_chunks_of_a_transaction_change_together(store: PostgresStore) -> None:
    await store.commit([[put(A)], [put(B)]])
    a, b = await token(store, A), await token(store, B)
    assert (await commit(store, chunked(A, a, {1: b"a"}), chunked(B, b, {2: b"b"}))).tokens
    failed = await commit(store, chunked(A, await token(store, A), {3: b"c"}, [1]), put(B, expect=b))
    assert failed == CONFLICT
    assert await chunks_of(store, A, 1, 3) == [b"a", None]
    assert (
        await commit(store, delete(A, await token(store, A)), put(B, expect=await token(store, B)))
    ).tokens
    assert await chunks_of(store, A, 1) == [None]
    assert await chunks_of(store, B, 2) == [None]


async def test_locks_on_absent_keys_leave_nothing_behind(
    store: PostgresStore, sql: Connection, table: str
) -> None:
    await commit(store, put(A))
    assert (await commit(store, hold(B, ABSENT), put(C, None, ABSENT), delete(A))).tokens is not None
    assert await commit(store, hold(A, ABSENT), put(B, None, 1)) == CONFLICT
    assert [row[0] for row in await sql.fetch(f"select key from {table}")] == [C.name]


async def test_a_commit_of_more_than_one_statement_can_carry_is_still_all_or_nothing(
    store: PostgresStore, sql: Connection, table: str
) -> None:
    large = [put(Key(0, b"%d" % n), record(bytes(6_000_000))) for n in range(5)]
    assert (await commit(store, *large)).tokens is not None
    assert await sql.fetchval(f"select count(*) from {table} where octet_length(value) = 6000000") == 5
    assert await sql.fetchval(f"select count(distinct xmin::text) from {table}") == 1
    outcomes = await store.commit([[put(Key(1, b"%d" % n), record(bytes(6_000_000)))] for n in range(5)])
    assert all(outcome.tokens for outcome in outcomes)


# --- keys, names, schema ---


async def test_the_longest_key_is_stored_even_if_it_does_not_compress(store: PostgresStore) -> None:
    key = Key(15, os.urandom(store.key_max))
    outcome = await commit(store, put(key))
    assert outcome.tokens == (await token(store, key),)


@pytest.mark.parametrize("name", ["order", "apart.user"])
async def test_a_table_may_have_any_name_and_schema(new_store: NewStore, sql: Connection, name: str) -> None:
    await sql.execute("create schema if not exists apart")
    store = await new_store(table=name)
    await commit(store, put(A))
    assert await store.size(0, b"") == 1
    await store.quarantine(A, record(), "why")
    assert await store.clear(None, b"") == 1


async def test_proxies_that_start_at_once_create_the_table_once(new_store: NewStore) -> None:
    stores = await asyncio.gather(*(new_store() for _ in range(6)))
    for store in stores:
        await commit(store, put(Key(0, b"%d" % id(store))))
    assert await stores[0].size(0, b"") == len(stores)


async def test_another_programs_table_is_left_alone(new_store: NewStore, sql: Connection, table: str) -> None:
    await sql.execute(f"create table {table} (id int)")
    with pytest.raises(StoreError, match="choose a name for table"):
        await new_store()
    assert await sql.fetchval(f"select to_regclass('{table}_meta')") is None


async def test_clear_takes_large_ranges_in_parts(store: PostgresStore, sql: Connection, table: str) -> None:
    await sql.execute(
        f"""insert into {table} select n, 0, 0, n % 2, 1, convert_to(n::text, 'utf8'), ''
        from generate_series(1, 24000) n"""
    )
    assert await store.clear(1, b"1") == 5556
    assert await store.size(1, b"") == 12000 - 5556
    assert await store.clear(None, b"") == 24000 - 5556
    assert await store.size(0, b"") == 0


# --- rights ---


@pytest.fixture
async def guest(postgres: PostgresServer, sql: Connection) -> AsyncIterator[str]:
    """A user who may log in and nothing else, as a URL."""
    name = f"guest_{next(_tables)}"
    await sql.execute(f"create role {name} login")
    yield f"postgresql://{name}@127.0.0.1:{postgres.port}/postgres"
    await sql.execute(f"drop owned by {name}; drop role {name}")


async def test_who_may_not_create_tables_is_told_what_to_grant(new_store: NewStore, guest: str) -> None:
    with pytest.raises(StoreError, match="permission denied for schema public; grant it to this user"):
        await new_store(guest)


async def test_existing_tables_need_no_right_to_create(
    new_store: NewStore, sql: Connection, guest: str, table: str
) -> None:
    await new_store()
    with pytest.raises(StoreError, match=f'may not use its tables: grant select, .* on "{table}"'):
        await new_store(guest)
    user = urlsplit(guest).username
    await sql.execute(f"grant select, insert, update, delete on {table} to {user}")
    await sql.execute(f"grant select on {table}_meta to {user}")
    await sql.execute(f"grant select, insert, delete on {table}_quarantine, {table}_chunks to {user}")
    store = await new_store(guest)
    assert (await commit(store, put(A), put(B, None, ABSENT))).tokens is not None
    await store.quarantine(A, record(), "why")
    assert await store.clear(0, b"") == 2


# --- errors ---


class GuardedServer(PostgresServer):
    """Asks for passwords."""

    def prepare(self) -> None:
        super().prepare()
        (self.directory / "data" / "pg_hba.conf").write_text("host all all all scram-sha-256\n")


async def test_a_wrong_password_is_one_clear_line_without_it(
    new_store: NewStore,
) -> None:
    with GuardedServer(fast=True) as guarded, pytest.raises(StoreError) as caught:
        await new_store(f"postgresql://postgres:hunter2@127.0.0.1:{guarded.port}/postgres")
    text = str(caught.value)
    assert text.startswith(f"archive (127.0.0.1:{guarded.port}/postgres): password authentication failed")
    assert "check user and password in url" in text
    assert "hunter2" not in text
    assert "\n" not in text


async def test_errors_of_connecting_say_what_to_do(new_store: NewStore, postgres: PostgresServer) -> None:
    server = f"127.0.0.1:{postgres.port}"
    for url, told in {
        f"postgresql://postgres@{server}/nowhere": 'database "nowhere" does not exist; create it',
        f"postgresql://nobody@{server}/postgres": "check user and password in url",
        f"postgresql://postgres@127.0.0.1:{free_port()}/postgres": "can't be reached: .*is it running",
        "postgresql://postgres:sec/ret@127.0.0.1/postgres": "percent-encode what is special",
    }.items():
        with pytest.raises(StoreError, match=told) as caught:
            await new_store(url)
        assert "sec" not in str(caught.value).replace("second", "")


async def test_a_store_that_is_not_open_says_so(postgres: PostgresServer, table: str) -> None:
    store = PostgresStore("archive", postgres.url, clock=ManualClock(), table=table)
    await store.close()
    for call in (store.ping(), store.load([A], Want.META), store.commit([[put(A)]])):
        with pytest.raises(StoreError, match="not open"):
            await call


async def test_a_server_that_does_not_answer_is_not_asked_by_everyone(new_store: NewStore) -> None:
    asked = 0

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        url = f"postgresql://postgres@127.0.0.1:{silent.sockets[0].getsockname()[1]}/postgres"
        store = PostgresStore("archive", url, clock=ManualClock(), connect_timeout=100, pool=1)
        with pytest.raises(StoreError, match=r"no answer within 0.1 s"):
            await store.open()
        answers = await asyncio.gather(
            *(store.load([A], Want.META) for _ in range(50)), return_exceptions=True
        )
        assert all(isinstance(answer, StoreError) for answer in answers)
        assert asked <= 2
        await store.close()


# --- faults ---


async def tokens(sql: Connection, table: str, keys: list[Key]) -> list[Token]:
    """Past the store, what the rows say."""
    rows = await sql.fetch(f"select db, key, write_id from {table}")
    held = {Key(db, name): write_id for db, name, write_id in rows}
    return [held.get(key, ABSENT) for key in keys]


@pytest.mark.parametrize("direction", Direction)
async def test_wherever_a_commit_is_cut_its_outcome_is_what_happened(
    new_store: NewStore, relay: FaultProxy, sql: Connection, table: str, direction: Direction
) -> None:
    store = await new_store(through(relay))
    keys = [A, B, C]
    applied = set()
    shapes: dict[str, Callable[[list[Token]], list[Change]]] = {
        "put": lambda held: [put(A, None, held[0])],
        "expire": lambda held: [expire(A, held[0], 0)],
        "delete": lambda held: [delete(B, held[1])],
        "several": lambda held: [put(A, None, held[0]), delete(B, held[1]), put(C, None, held[2])],
        "blind": lambda held: [put(A), put(C)],
    }
    for cut in range(0, 2400, 80):
        for name, shape in shapes.items():
            relay.truncate(direction, 10**9)
            await commit(store, put(A), put(B), put(C))  # warm: the statement is prepared, the link open
            await store.commit([shape([1, 1, 1])])
            before = await tokens(sql, table, keys)
            changes = shape(before)
            relay.truncate(direction, cut)
            try:
                outcome = await commit(store, *changes)
            except StoreError:  # it could not even be sent
                outcome = Outcome(None, StoreError("not sent"))
            relay.truncate(direction, 10**9)
            after = dict(zip(keys, await tokens(sql, table, keys), strict=True))
            if outcome.tokens is not None:
                assert [after[change.key] for change in changes] == list(outcome.tokens), (name, cut)
            else:
                assert outcome.error is not None, (name, cut)
                assert not outcome.error.unknown or name == "blind", (name, cut)
                if not outcome.error.unknown:
                    assert list(after.values()) == before, (name, cut)
            applied.add((name, outcome.tokens is not None))
    # The cuts came where they were meant to: before a request was complete, or after it had its effect.
    whole = {(name, True) for name in shapes}
    cut_short = {(name, False) for name in (shapes if direction is Direction.UP else ["several"])}
    assert applied == whole | cut_short


async def test_without_a_way_to_ask_the_outcome_is_unknown(
    new_store: NewStore, relay: FaultProxy, table: str
) -> None:
    store = await new_store(through(relay), timeout=300)
    first = await commit(store, put(A))
    assert first.tokens is not None
    relay.refuse()
    relay.truncate(Direction.DOWN, 0)
    outcome = await commit(store, put(A))
    assert outcome.error is not None
    assert outcome.error.unknown
    assert "it may have been applied" in str(outcome.error)
    with pytest.raises(StoreError, match="can't be reached"):
        await store.load([A], Want.META)
    relay.refuse(False)
    await until_up(store)
    assert await token(store, A) != first.tokens[0]


async def until_up(store: Store) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                return await store.ping()
            except StoreError:
                await asyncio.sleep(0.01)


async def test_what_waits_for_a_lock_too_long_is_cancelled(
    new_store: NewStore, sql: Connection, table: str
) -> None:
    store = await new_store(timeout=200)
    outcome = await commit(store, put(A))
    assert outcome.tokens is not None
    (before,) = outcome.tokens
    async with sql.transaction():
        await sql.execute(f"select from {table} for update")
        outcome = await commit(store, put(A, None, before))
        assert outcome.error is not None
        assert "no answer in time" in str(outcome.error)
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like $1"
        async with asyncio.timeout(5):
            while await sql.fetchval(waiting, f"%{table}%"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert await token(store, A) == before
    assert (await commit(store, put(A, None, before))).tokens is not None


async def test_a_load_outlives_its_connection(new_store: NewStore, sql: Connection, table: str) -> None:
    store = await new_store()
    await commit(store, put(A))
    before = await token(store, A)
    ended = await sql.fetchval(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where query like $1 and pid <> pg_backend_pid()",
        f"%{table}%",
    )
    assert ended == 1
    assert await token(store, A) == before


async def test_acknowledged_writes_survive_a_killed_server(table: str) -> None:
    with PostgresServer() as server:
        stores = [PostgresStore("archive", server.url, clock=Clock(), table=table) for _ in range(2)]
        for store in stores:
            await store.open()
        written: dict[Key, Outcome] = {}
        killed = False

        async def client(store: PostgresStore, db: int) -> None:
            """Writes until the server was gone and is back; alone, then in a group of two."""
            done = False
            for n in itertools.count():
                keys = [Key(db, b"%d:%d" % (n, part)) for part in range(1 + n % 2)]
                done = killed
                try:
                    outcome = await commit(store, *(put(key, None, ABSENT) for key in keys))
                except StoreError:
                    await asyncio.sleep(0.01)
                    continue
                written.update(dict.fromkeys(keys, outcome))
                if done and outcome.tokens is not None:
                    return

        clients = [asyncio.create_task(client(store, db)) for db, store in enumerate(stores * 8)]
        await eventually(lambda: len(written) > 300)
        server.kill()
        killed = True
        server.start()
        async with asyncio.timeout(30):
            await asyncio.gather(*clients)

        keys = list(written)
        for start in range(0, len(keys), 256):
            part = keys[start : start + 256]
            for key, (_, there) in zip(part, await stores[0].load(part, Want.META), strict=True):
                outcome = written[key]
                if outcome.tokens is not None:
                    assert there in outcome.tokens
                else:
                    assert outcome.error is not None
                    # For all that it can know, another may have deleted what was written.
                    assert outcome.error.unknown == ("may have been applied" in str(outcome.error))
                    assert there == ABSENT
        for store in stores:
            await store.close()


# --- behind a transaction pooler ---


async def test_a_pooler_may_give_each_transaction_another_connection(
    new_store: NewStore, pgbouncer: PgBouncer
) -> None:
    stores = [await new_store(pgbouncer.url, statement_cache_size=0) for _ in range(3)]

    async def client(store: PostgresStore, number: int) -> None:
        for n in range(20):
            alone, one, two = (Key(number, b"%d:%s" % (n, name)) for name in (b"alone", b"one", b"two"))
            outcomes = await store.commit(
                [
                    [put(alone, record(alone.name))],
                    [put(one, record(one.name), ABSENT), put(two, record(two.name))],
                ]
            )
            assert all(outcome.tokens for outcome in outcomes)
            loaded = await store.load([alone, one, two], Want.VALUE)
            assert [each.record and each.record.payload for each in loaded] == [
                alone.name,
                one.name,
                two.name,
            ]

    await asyncio.gather(*(client(store, number) for number, store in enumerate(stores * 4)))
    assert sum([await stores[0].size(number, b"") for number in range(12)]) == 12 * 60


@pytest.mark.parametrize("statement_cache_size", [0, 100])
async def test_nothing_is_left_in_the_session(statement_cache_size: int, table: str) -> None:
    clock = ManualClock()
    with PostgresServer(fast=True, settings={"log_statement": "all"}) as server:
        store = PostgresStore(
            "archive", server.url, clock=clock, table=table, statement_cache_size=statement_cache_size
        )
        await store.open()
        await store.ping()
        held = (await commit(store, put(A, record(expire_at=clock.ms + 1)), put(B))).tokens
        assert held is not None
        await commit(store, expire(A, held[0], clock.ms + 2), delete(B, held[1]), hold(C, ABSENT))
        await store.load([A, B], Want.WHOLE)
        await store.quarantine(A, record(), "why")
        clock.advance(HOUR)
        await store.scan(0, b"", None, 10)
        await store.size(0, b"")
        assert await store.sweep(10) == 1
        await store.clear(None, b"")
        await store.close()
        log = server.log.read_text()
    assert table in log
    assert not re.search(
        r"(?i)(:|;)\s*(set|reset|listen|unlisten|declare|discard)\b|set_config|typeinfo", log
    )
    assert re.findall(r"(?i)pg_\w*advisory\w*", log) == ["pg_advisory_xact_lock"]
    assert (statement_cache_size == 0) == ("__asyncpg_stmt" not in log)


# --- what has expired ---


async def test_sweeps_that_follow_each_other_go_on_where_the_last_ended(
    new_store: NewStore, postgres: PostgresServer, sql: Connection, table: str
) -> None:
    store = await new_store()
    await sql.execute(
        f"""insert into {table} select n, n, 0, 0, 1, convert_to(n::text, 'utf8'), ''
        from generate_series(1, 25) n"""
    )
    async with session(postgres) as other, other.transaction():
        await other.execute(f"select from {table} where write_id = 3 for update")
        assert [await store.sweep(10) for _ in range(4)] == [10, 10, 4, 0], "one of them is locked"
        assert await sql.fetch(f"select write_id from {table}") == [(3,)]
    assert await store.sweep(10) == 1
    assert await store.sweep(10) == 0
