"""The stores that keep the contract.

To add one: a function like ``sqlite`` and its line in ``STORES``.  It gets the test's ``request`` (for
the fixtures of its server: ``request.getfixturevalue``) and clock, prepares a place that is empty, and
yields what makes store objects on that place, not opened yet, as many as are asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import pytest

from backends.base import Store
from backends.postgres import PostgresStore
from backends.sqlite import SqliteStore
from backends.writeback import WriteBackStore
from proxy.clock import ManualClock
from tests import offloads, s3

NewStore = Callable[[], Store]
StoreFactory = Callable[[pytest.FixtureRequest, ManualClock], AbstractAsyncContextManager[NewStore]]
OpenStore = Callable[[], Awaitable[Store]]


@asynccontextmanager
async def sqlite(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[NewStore]:
    path = request.getfixturevalue("tmp_path") / "redtier.db"
    yield lambda: SqliteStore("local", str(path), clock)


@asynccontextmanager
async def postgres(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[NewStore]:
    server, table = request.getfixturevalue("postgres"), f"redtier_{next(_tables)}"
    yield lambda: PostgresStore("archive", server.url, clock=clock, table=table)


@asynccontextmanager
async def pgbouncer(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[NewStore]:
    pooler, table = request.getfixturevalue("pgbouncer"), f"redtier_{next(_tables)}"
    yield lambda: PostgresStore("archive", pooler.url, clock=clock, table=table, statement_cache_size=0)


@asynccontextmanager
async def offloading(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[NewStore]:
    server, table = request.getfixturevalue("postgres"), f"redtier_{next(_tables)}"
    where = offloads.place(s3.place(request.getfixturevalue("s3_moto")))
    yield lambda: offloads.new_store(server.url, table, where, clock)


_tables = itertools.count()


def s3_on(fixture: str | None) -> StoreFactory:
    """On the server that a fixture gives, or on that of S3_TEST_ENDPOINT."""

    @asynccontextmanager
    async def on(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[NewStore]:
        where = s3.place(request.getfixturevalue(fixture) if fixture else None)
        yield lambda: s3.new_store(clock, where)

    return on


def back(factory: StoreFactory) -> StoreFactory:
    """Behind a journal, which all stores on the place share: one of them can be open at a time."""

    @asynccontextmanager
    async def behind(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[NewStore]:
        path = request.getfixturevalue("tmp_path") / "journal"
        async with factory(request, clock) as new_store:
            yield lambda: WriteBackStore(new_store(), path, 1 << 28, 60_000, clock)

    return behind


STORES: dict[str, StoreFactory] = {
    "sqlite": sqlite,
    "postgres": postgres,
    "pgbouncer": pgbouncer,
    "offloading": offloading,
    "s3-moto": s3_on("s3_moto"),
    "s3-swift": s3_on("s3_swift"),
    "sqlite-back": back(sqlite),
    "postgres-back": back(postgres),
    "offloading-back": back(offloading),
    "s3-back": back(s3_on("s3_moto")),
}
if s3.OTHER_ENDPOINT:
    STORES["s3-other"] = s3_on(None)

# Stores that promise nothing when two processes write to the same place.
SINGLE_WRITER: frozenset[str] = frozenset(
    {"s3-swift", "sqlite-back", "postgres-back", "offloading-back", "s3-back"}
    | ({"s3-other"} if s3.OTHER_SINGLE_WRITER else set())
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=STORES)
async def open_store(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[OpenStore]:
    """Opens stores on one place, which is empty at first; closes them when the test ends."""
    async with _opener(request, clock) as open_store:
        yield open_store


@pytest.fixture(params=[name for name in STORES if name not in SINGLE_WRITER])
async def open_shared(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[OpenStore]:
    """As ``open_store``, for those stores that several processes may write to."""
    async with _opener(request, clock) as open_store:
        yield open_store


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()


@asynccontextmanager
async def _opener(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[OpenStore]:
    async with STORES[request.param](request, clock) as new_store, AsyncExitStack() as opened:

        async def open_store() -> Store:
            store = new_store()
            opened.push_async_callback(store.close)
            await store.open()
            return store

        yield open_store
