"""What a sweep and a ``SCAN MATCH`` read of a large table in Postgres: only what they are about.

    python -m bench.expiry [--keys 1000000] [--markdown FILE]

Of a million keys, a hundred for each user, one in a hundred has expired, all over the table; ten times as
many will later.  The statements are explained as Postgres ran them, and its own counters tell what was read:

- scan: ``SCAN 0 MATCH long:user1:*`` to its end, by a client of redtier;
- sweeps: in portions of a thousand, as the server does it, until nothing is left; then as many once more
  while an older transaction is open, so that what is deleted stays in the index.

Ends with 1 where the table was read from its begin, or more of it, or of an index, than is removed or found.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

from backends.postgres import PostgresStore
from backends.postgres_sql import Statements
from bench.measure import markdown
from proxy.clock import Clock
from tests.homes import toml
from tests.servers import PostgresServer, RedtierServer

PORTION: Final = 1000  # of one sweep, as in proxy.server
A_USERS: Final = 100  # keys
SPARE: Final = 10  # rows, or entries, that something else may have read
TABLE: Final = "redtier"

FILL: Final = f"""
    insert into {TABLE} (write_id, expire_at, raw_size, db, kind, key, value)
    select n,
        case when n % 100 = 7 then $2::bigint - n when n % 10 = 3 then $2::bigint + 86400000 + n else 0 end,
        300, 0, 0,
        convert_to('long:user' || n % $1::bigint || ':' || n, 'utf8'), decode(repeat(md5(n::text), 6), 'hex')
    from generate_series(1, $3::bigint) n order by hashint8(n)"""

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


class Read(NamedTuple):
    """What Postgres counted for the table and its indexes between two moments."""

    whole: int  # reads of the table from its begin
    rows: int  # fetched by an index
    entries: int  # of indexes that were gone over
    pages: int  # of table and indexes

    def __sub__(self, other: tuple[int, ...]) -> Read:
        return Read(*(a - b for a, b in zip(self, other, strict=True)))


async def read(connection: Connection) -> Read:
    """All that was read until now by this session, and by those that have ended."""
    await connection.fetchval("select pg_stat_force_next_flush()")
    await connection.fetchval("select pg_stat_clear_snapshot()")
    row = await connection.fetchrow(
        f"""select seq_scan, idx_tup_fetch,
            (select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname = '{TABLE}'),
            heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit
        from pg_stat_user_tables join pg_statio_user_tables using (relid) where relid = '{TABLE}'::regclass"""
    )
    assert row is not None
    return Read(*row)


@asynccontextmanager
async def opened(server: PostgresServer) -> AsyncIterator[PostgresStore]:
    store = PostgresStore("archive", server.url, clock=Clock(), table=TABLE, timeout=600_000)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def explained(connection: Connection, statement: str, *args: object) -> str:
    """The nodes that read something, as they were run, with their buffers; what it does is undone."""
    transaction = connection.transaction()
    await transaction.start()
    rows = await connection.fetch(f"explain (analyze, buffers, costs off, timing off) {statement}", *args)
    await transaction.rollback()
    lines = [row[0] for row in rows]
    wanted = re.compile(r"Scan|Cond|Buffers|Delete on")
    return "\n".join(line for line in lines if wanted.search(line) and "Planning" not in line)


class Swept(NamedTuple):
    records: int
    times: str


async def swept(server: PostgresServer) -> Swept:
    """Sweep until nothing is left."""
    took: list[float] = []
    gone, count = 0, PORTION
    async with opened(server) as store:
        while count == PORTION:
            began = time.perf_counter()
            count = await store.sweep(PORTION)
            took.append(time.perf_counter() - began)
            gone += count
    last = took[-2] if len(took) > 1 else took[-1]  # full one
    return Swept(gone, f"{sum(took):.2f} s; portions: first {took[0] * 1e3:.0f}, last {last * 1e3:.0f} ms")


async def run(
    server: PostgresServer, keys: int, redtier: RedtierServer
) -> tuple[list[list[str]], list[str], list[str]]:
    async with opened(server):
        pass  # which creates the table
    connection = await asyncpg.connect(server.url, timeout=600)
    now = Clock().ms
    users = keys // A_USERS
    await connection.execute("set maintenance_work_mem = '256MB'")
    await connection.fetch(FILL, users, now, keys, timeout=900)
    await connection.execute(f"vacuum analyze {TABLE}", timeout=900)
    pages = await connection.fetchval(
        f"select pg_table_size('{TABLE}') / 8192 + pg_indexes_size('{TABLE}') / 8192"
    )
    expired = await connection.fetchval(
        f"select count(*) from {TABLE} where expire_at > 0 and expire_at <= $1", now
    )
    of_user = await connection.fetchval(
        f"select count(*) from {TABLE} where key >= 'long:user1:' and key < 'long:user1;'"
        " and (expire_at = 0 or expire_at > $1)",
        now,
    )
    sql = Statements(TABLE, 0)
    plans = [
        "sweep of the first thousand:",
        await explained(connection, sql.sweep, now, PORTION, 0),
        "scan of long:user1:*",
        await explained(connection, sql.scan, 0, b"long:user1:", b"long:user1;", now, 1000),
    ]
    rows = [["table and indexes", f"{keys:,} rows", f"{pages:,} pages", ""]]
    missed: list[str] = []

    def tell(what: str, done: int, found: Read, time: str) -> None:
        text = f"{found.rows:,} rows, {found.entries:,} entries, {found.pages:,} page accesses"
        rows.append([what, f"{done:,}", text, time])
        # One more entry for each portion: where the one before has ended.
        if found.whole or max(found.rows, found.entries) > done + done // PORTION + SPARE:
            missed.append(f"{what}: {found}")

    before = await read(connection)
    with redtier, redtier.client() as client:
        began = time.perf_counter()
        names = set(client.scan_iter(match="long:user1:*", count=1000))
        seconds = time.perf_counter() - began
    assert len(names) == of_user, (len(names), of_user)
    after = await read(connection)
    tell("SCAN MATCH long:user1:*", len(names), after - before, f"{seconds * 1e3:.0f} ms")

    sweep = await swept(server)
    assert sweep.records == expired, (sweep, expired)
    before, after = after, await read(connection)
    tell("sweeps", sweep.records, after - before, sweep.times)

    await connection.execute(
        f"update {TABLE} set expire_at = write_id where key in"
        f" (select key from {TABLE} where expire_at > 0 limit {expired})",
        timeout=900,
    )
    await connection.execute(f"vacuum analyze {TABLE}", timeout=900)
    holder = await asyncpg.connect(server.url)
    async with holder.transaction(isolation="repeatable_read"):
        await holder.fetchval(f"select count(*) from {TABLE} where db = 1")
        before = await read(connection)
        sweep = await swept(server)
        after = await read(connection)
    tell("sweeps beside an older transaction", sweep.records, after - before, sweep.times)
    await holder.close()
    await connection.close()
    return rows, plans, missed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    with PostgresServer(fast=True) as server:
        archive = {"type": "postgres", "url": server.url, "sweep_interval": "0"}
        tables = {"backends.archive": archive, "backends.hot": {"type": "memory"}}
        redtier = RedtierServer(toml(tables, {"": "hot", "long:": "archive"}))
        rows, plans, missed = asyncio.run(run(server, options.keys, redtier))
    table = markdown("What is read of a large table", ["what", "how many", "read", "time"], rows)
    print(table)
    print("\n".join(plans))
    if options.markdown:
        options.markdown.write_text(table)
    if missed:
        raise SystemExit("\n".join(missed))


if __name__ == "__main__":
    main()
