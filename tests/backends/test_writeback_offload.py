"""A journal before a store that offloads: what a bucket that is slow or away does to the lease and others."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from backends.base import Change, Key, Op, Record, Store, StoreError, Want
from backends.codecs import Codec
from backends.offload import OffloadingStore
from backends.seal import SealPolicy, seal, unseal
from backends.writeback import WriteBackStore
from proxy.clock import ManualClock
from tests import s3
from tests.faultproxy import Direction, FaultProxy
from tests.offloads import new_store, place
from tests.servers import MotoServer, PostgresServer, eventually

pytestmark = pytest.mark.once  # it takes long

A, B = Key(0, b"a"), Key(0, b"b")
LARGE = b"large " * 100
SHORT = 400  # ms

_numbers = itertools.count(1)


def put(key: Key, raw: bytes) -> Change:
    sealed = seal(*key, 1, raw, SealPolicy(Codec.NONE))
    return Change(Op.PUT, key, None, Record(sealed, 1, next(_numbers), 0, len(raw), len(sealed)))


async def commit(store: Store, *changes: Change) -> None:
    (outcome,) = await store.commit([changes])
    assert outcome.tokens


async def read(store: Store, key: Key) -> bytes | None:
    ((record, _),) = await store.load([key], Want.WHOLE)
    if record is None:
        return None
    assert record.payload is not None
    return unseal(*key, record.kind, record.payload, 1 << 20)


class Place:
    """A table and a bucket, which is reached through ``network``, and proxies with a journal each."""

    def __init__(
        self, network: FaultProxy, new: Callable[[], OffloadingStore], directory: Path, stack: AsyncExitStack
    ) -> None:
        self.network = network
        self.new_store = new
        self._directory = directory
        self._stack = stack

    async def start(self, name: str) -> WriteBackStore:
        store = WriteBackStore(self.new_store(), self._directory / name, 1 << 24, SHORT, ManualClock())
        self._stack.push_async_callback(store.close)
        await store.open()
        return store


@pytest.fixture
async def home(postgres: PostgresServer, s3_moto: MotoServer, tmp_path: Path) -> AsyncIterator[Place]:
    table = f"back_blobs_{next(_numbers)}"
    async with AsyncExitStack() as stack:
        network = stack.enter_context(FaultProxy(s3_moto.port))
        where = place({**s3.place(s3_moto), "endpoint_url": f"http://127.0.0.1:{network.port}"})
        yield Place(network, lambda: new_store(postgres.url, table, where, ManualClock()), tmp_path, stack)


async def test_a_lease_is_renewed_while_a_value_is_uploaded(home: Place) -> None:
    store, other = await home.start("one"), await home.start("two")
    home.network.stall(Direction.UP)
    await commit(store, put(A, LARGE))
    await eventually(lambda: home.network.held(Direction.UP) > 0)
    token = store.lease.token
    for _ in range(8):  # twice as long as it would last
        await eventually(lambda before=token: store.lease.token != before)
        token = store.lease.token
        assert other.holder
    assert await read(store, A) == LARGE
    home.network.resume(Direction.UP)
    await store.size(0, b"")
    assert store.figures()["blobs_uploaded"] == 1


async def test_what_was_being_uploaded_when_the_lease_went_covers_nothing(home: Place) -> None:
    one, two = await home.start("one"), await home.start("two")
    home.network.stall(Direction.UP)
    await commit(one, put(A, LARGE))
    await eventually(lambda: home.network.held(Direction.UP) > 0)
    keep = one.lease.keep

    async def away() -> None:
        raise StoreError("away")

    one.lease.keep = away  # type: ignore[assignment,method-assign]
    await eventually(lambda: not two.holder)
    await commit(two, put(A, b"second"))
    await two.close()
    one.lease.keep = keep  # type: ignore[method-assign]
    await eventually(lambda: not one.holder)
    assert one.overtaken == 1
    home.network.resume(Direction.UP)
    async with one.flusher.at_work:
        assert one.figures()["blobs_uploaded"] == 1
    assert await read(one, A) == b"second"


async def test_without_the_bucket_small_values_are_flushed(home: Place) -> None:
    store = await home.start("one")
    plain = home.new_store()
    await plain.open()
    try:
        home.network.refuse()
        home.network.cut()
        await commit(store, put(A, LARGE))
        await commit(store, put(B, b"small"))
        await eventually(lambda: list(store.backlog.entries) == [A])
        await eventually(lambda: "blobs" in store.flusher.failed)
        assert await read(plain, B) == b"small"
        home.network.refuse(False)
        await store.size(0, b"")
        assert await read(plain, A) == LARGE
    finally:
        await plain.close()
