"""What write-back adds to a store's contract: the lease, the journal's life, and what outlives a process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from backends import lease as leases
from backends.base import (
    ABSENT,
    BESIDE,
    Change,
    Changes,
    Group,
    Key,
    Loaded,
    NotTheWriter,
    Op,
    Outcome,
    Record,
    Store,
    StoreError,
    Token,
    Want,
)
from backends.documents import delete_document, document_key
from backends.postgres import PostgresStore
from backends.sqlite import SqliteStore
from backends.writeback import WriteBackStore
from proxy.clock import ManualClock
from tests import s3
from tests.coldhomes import Gate, WatchedStore, failing
from tests.servers import eventually

pytestmark = pytest.mark.once  # it takes long

A, B = Key(0, b"a"), Key(0, b"b")
LONG = 3_600_000
SHORT = 400  # ms

_write_ids = iter(range(1, 1 << 30))


def record(payload: bytes, expire_at: int = 0) -> Record:
    return Record(payload, 1, next(_write_ids), expire_at, len(payload), len(payload))


def put(key: Key, payload: bytes, expect: Token | None = None, expire_at: int = 0) -> Change:
    return Change(Op.PUT, key, expect, record(payload, expire_at))


async def commit(store: Store, *changes: Change) -> Outcome:
    (outcome,) = await store.commit([changes])
    return outcome


async def value(store: Store, key: Key) -> bytes | None:
    ((found, _),) = await store.load([key], Want.WHOLE)
    return None if found is None else found.payload


class Proxies:
    """Processes on one store, each with a journal of its own; ``crash`` leaves one as SIGKILL does."""

    def __init__(self, new_store: Callable[[], Store], directory: Path, clock: ManualClock) -> None:
        self.new_store = new_store
        self.directory = directory
        self.clock = clock
        self.plain = new_store()
        self.opened = AsyncExitStack()

    async def start(self, name: str, duration: int = LONG, limit: int = 1 << 24) -> WriteBackStore:
        inner = WatchedStore(self.new_store(), True)
        store = WriteBackStore(inner, self.directory / name, limit, duration, self.clock)
        self.opened.push_async_callback(self.crash, store)
        await store.open()
        return store

    async def crash(self, store: WriteBackStore) -> None:
        for task in store._tasks:
            task.cancel()
        await asyncio.gather(*store._tasks, return_exceptions=True)
        store._tasks = []
        store.journal.close()
        await store.inner.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite", "postgres", "s3"])
async def proxies(
    request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path
) -> AsyncIterator[Proxies]:
    new_store: Callable[[], Store]
    if request.param == "sqlite":
        new_store = lambda: SqliteStore("cold", str(tmp_path / "cold.db"), clock)  # noqa: E731
    elif request.param == "postgres":
        url, table = request.getfixturevalue("postgres").url, f"back_{next(_write_ids)}"
        new_store = lambda: PostgresStore("cold", url, clock=clock, table=table)  # noqa: E731
    else:
        place = s3.place(request.getfixturevalue("s3_moto"))
        new_store = lambda: s3.new_store(clock, place)  # noqa: E731
    found = Proxies(new_store, tmp_path, clock)
    async with found.opened:
        await found.plain.open()
        found.opened.push_async_callback(found.plain.close)
        yield found


def hold(store: WriteBackStore) -> Gate:
    """Let no flush through until the gate is opened."""
    inner = store.inner
    assert isinstance(inner, WatchedStore)
    gate = Gate()
    inner.before_commit = gate
    return gate


async def test_a_write_is_acknowledged_and_seen_before_the_store_has_it(proxies: Proxies) -> None:
    store = await proxies.start("one")
    gate = hold(store)
    assert (await commit(store, put(A, b"1"))).tokens
    assert await value(store, A) == b"1"
    assert [info.name for info in (await store.scan(0, b"", None, 10))[0]] == [b"a"]
    assert await value(proxies.plain, A) is None
    gate.open()
    assert await store.size(0, b"") == 1
    assert await value(proxies.plain, A) == b"1"


async def test_what_is_written_again_is_flushed_once(proxies: Proxies) -> None:
    store = await proxies.start("one")
    gate = hold(store)
    await commit(store, put(B, b"first"))
    await gate.reached.wait()
    for number in range(100):
        await commit(store, put(A, b"%d" % number))
    gate.open()
    await store.size(0, b"")
    assert await value(proxies.plain, A) == b"99"
    assert store.flusher.flushed == 2


async def test_a_journal_outlives_its_process(proxies: Proxies) -> None:
    store = await proxies.start("one")
    await commit(store, put(A, b"old"))
    await store.size(0, b"")
    hold(store)
    await commit(store, put(A, b"new"), put(B, b"b"))
    await commit(store, Change(Op.DELETE, B, None))
    await proxies.crash(store)
    again = await proxies.start("one")
    assert (await value(again, A), await value(again, B)) == (b"new", None)
    assert await again.size(0, b"") == 1
    assert await value(proxies.plain, A) == b"new"


async def test_a_damaged_journal_is_refused_as_often_as_it_is_opened(proxies: Proxies) -> None:
    store = await proxies.start("one")
    hold(store)
    for number in range(3):
        await commit(store, put(Key(0, b"%d" % number), b"value"))
    await proxies.crash(store)
    [segment] = store.journal.path.glob("*.journal")
    data = segment.read_bytes()
    segment.write_bytes(data[:60] + bytes((data[60] ^ 1,)) + data[61:])
    again = WriteBackStore(proxies.new_store(), store.journal.path, 1 << 24, LONG, proxies.clock)
    for _ in range(2):
        with pytest.raises(StoreError, match="is damaged at byte"):
            await again.open()
    segment.write_bytes(data)
    await again.open()
    assert await again.size(0, b"") == 3
    await again.close()


async def test_a_lease_that_ends_before_the_disk_is_done_acknowledges_nothing(
    proxies: Proxies, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await proxies.start("one")
    reached, let_go = threading.Event(), threading.Event()
    fdatasync = os.fdatasync

    def slow(file: int) -> None:
        reached.set()
        assert let_go.wait(10)
        fdatasync(file)

    monkeypatch.setattr(os, "fdatasync", slow)
    writing = asyncio.ensure_future(commit(store, put(A, b"1")))
    assert await asyncio.to_thread(reached.wait, 10)
    store.lease._until = 0.0
    let_go.set()
    with pytest.raises(StoreError, match="lease ended") as refused:
        await writing
    assert refused.value.unknown
    store.lease.doubt()
    await eventually(lambda: store.lease.held)
    assert await value(store, A) == b"1"  # nobody else has had it


async def test_what_was_cleared_does_not_come_back_from_the_journal(proxies: Proxies) -> None:
    store = await proxies.start("one")
    gate = hold(store)
    await commit(store, put(A, b"a"), put(B, b"b"))
    await commit(store, put(Key(1, b"other"), b"kept"))
    clearing = asyncio.ensure_future(store.clear(0, b""))
    gate.open()
    await clearing
    hold(store)
    await commit(store, put(B, b"after"))
    await proxies.crash(store)
    again = await proxies.start("one")
    assert (await value(again, A), await value(again, B)) == (None, b"after")
    assert await value(again, Key(1, b"other")) == b"kept"


async def test_what_expired_before_it_was_flushed_does_not_come_back(proxies: Proxies) -> None:
    store = await proxies.start("one")
    await commit(store, put(A, b"for ever"))
    await store.size(0, b"")
    gate = hold(store)
    await commit(store, put(A, b"for a while", expire_at=proxies.clock.ms + 1000))
    proxies.clock.advance(1000)
    assert await value(store, A) is None
    gate.open()
    assert await store.size(0, b"") == 0
    assert await value(proxies.plain, A) is None


async def test_an_expiry_that_is_taken_back_holds_while_the_store_is_away(proxies: Proxies) -> None:
    store = await proxies.start("one")
    outcome = await commit(store, put(A, b"kept", expire_at=proxies.clock.ms + 1000))
    await store.size(0, b"")
    gate = hold(store)
    assert outcome.tokens
    persisted = await commit(store, Change(Op.EXPIRE, A, outcome.tokens[0], record(b"")))
    assert persisted.tokens
    proxies.clock.advance(10_000)
    gate.open()
    assert await store.size(0, b"") == 1
    assert await value(proxies.plain, A) == b"kept"


async def test_conditions_hold_across_a_flush(proxies: Proxies) -> None:
    store = await proxies.start("one")
    first = await commit(store, put(A, b"1", ABSENT))
    await store.size(0, b"")
    assert first.tokens
    second = await commit(store, put(A, b"2", first.tokens[0]))
    assert second.tokens
    await store.size(0, b"")
    assert (await commit(store, put(A, b"3", first.tokens[0]))).tokens is None
    store.known.forget()
    assert (await commit(store, put(A, b"3", first.tokens[0]))).tokens is None
    assert (await commit(store, put(A, b"3", second.tokens[0]))).tokens


def hold_records(store: WriteBackStore, answers: bool = False) -> Gate:
    """As ``hold``, but for documents; ``answers``: let flushes through, and their answers wait."""
    inner = store.inner
    assert isinstance(inner, WatchedStore)
    gate, commit_all = Gate(), inner.inner.commit

    async def late(groups: Sequence[Group]) -> list[Outcome]:
        if all(change.key.db == BESIDE for group in groups for change in group):
            return await commit_all(groups)
        if not answers:
            await gate()
            return await commit_all(groups)
        outcomes = await commit_all(groups)
        await gate()
        return outcomes

    inner.inner.commit = late  # type: ignore[method-assign]
    return gate


def hold_loads(store: WriteBackStore, key: Key) -> Gate:
    """Let what was loaded of a key be told when the gate is opened."""
    inner = store.inner
    assert isinstance(inner, WatchedStore)
    gate, load = Gate(), inner.inner.load

    async def late(keys: Sequence[Key], want: Want) -> list[Loaded]:
        loaded = await load(keys, want)
        if key in keys:
            await gate()
        return loaded

    inner.inner.load = late  # type: ignore[method-assign]
    return gate


async def test_what_was_loaded_before_a_clear_is_not_written_after_it(proxies: Proxies) -> None:
    store = await proxies.start("one")
    outcome = await commit(store, put(A, b"a"))
    await store.size(0, b"")
    assert outcome.tokens
    gate = hold_loads(store, A)
    expiring = asyncio.ensure_future(commit(store, Change(Op.EXPIRE, A, outcome.tokens[0], record(b""))))
    await gate.reached.wait()
    await store.clear(None, b"")
    gate.open()
    assert (await expiring).tokens is None
    assert await value(store, A) is None


async def test_what_is_stored_is_not_taken_for_what_was_flushed_since(proxies: Proxies) -> None:
    store = await proxies.start("one")
    await commit(store, put(A, b"old"))
    await store.size(0, b"")
    gate = hold_loads(store, A)
    asking = asyncio.ensure_future(store.stored(A))
    await gate.reached.wait()
    outcome = await commit(store, put(A, b"new"))
    await store.size(0, b"")
    assert outcome.tokens
    gate.open()
    assert (await asking).token == outcome.tokens[0]
    assert (await commit(store, put(A, b"newest", outcome.tokens[0]))).tokens


@pytest.mark.parametrize("removed", [False, True], ids=["released", "removed"])
async def test_what_was_loaded_before_a_takeover_covers_nothing_that_was_written_since(
    proxies: Proxies, removed: bool
) -> None:
    one = await proxies.start("one", SHORT)
    await commit(one, put(A, b"old"))
    await one.size(0, b"")
    two = await proxies.start("two", SHORT)
    gate = hold_loads(two, A)
    loading = asyncio.ensure_future(two.load([A], Want.WHOLE))
    await gate.reached.wait()
    await commit(one, put(A, b"new"))
    await one.size(0, b"")
    if removed:
        await proxies.crash(one)
        await delete_document(proxies.plain, leases.NAME, None)
    else:
        await one.close()
    await eventually(lambda: not two.holder)
    gate.open()
    [(found, token)] = await loading
    assert found is not None
    if found.payload != b"new":
        assert (await commit(two, put(A, b"made of what is old", token))).tokens is None


async def test_one_writes_and_the_others_are_told_who(proxies: Proxies) -> None:
    one = await proxies.start("one")
    two = await proxies.start("two")
    await commit(one, put(A, b"1"))
    await one.size(0, b"")
    assert await value(two, A) == b"1"
    with pytest.raises(NotTheWriter, match=r"journal .*one"):
        await commit(two, put(A, b"2"))
    with pytest.raises(NotTheWriter):
        await two.clear(None, b"")


async def test_without_a_lease_that_another_has_the_store_is_at_fault(proxies: Proxies) -> None:
    inner = WatchedStore(proxies.new_store(), True)
    inner.before_commit = failing(StoreError("read only"))
    store = WriteBackStore(inner, proxies.directory / "one", 1 << 24, LONG, proxies.clock)
    proxies.opened.push_async_callback(proxies.crash, store)
    await store.open()
    with pytest.raises(StoreError, match="was not had") as refused:
        await commit(store, put(A, b"1"))
    assert not isinstance(refused.value, NotTheWriter)


async def test_a_proxy_that_is_started_anew_writes_at_once(proxies: Proxies) -> None:
    store = await proxies.start("one")
    await commit(store, put(A, b"1"))
    await proxies.crash(store)
    again = await proxies.start("one")
    assert (await commit(again, put(A, b"2"))).tokens


async def test_a_proxy_that_stops_lets_another_write_at_once(proxies: Proxies) -> None:
    one = await proxies.start("one")
    await commit(one, put(A, b"1"))
    await one.close()
    assert await value(proxies.plain, A) == b"1"
    two = await proxies.start("two")
    assert (await commit(two, put(A, b"2"))).tokens


async def test_a_lease_that_lapses_is_taken_over(proxies: Proxies) -> None:
    one = await proxies.start("one", SHORT)
    two = await proxies.start("two", SHORT)
    await proxies.crash(one)
    await eventually(lambda: not two.holder)
    assert (await commit(two, put(A, b"2"))).tokens
    assert two.lease.epoch == one.lease.epoch + 1
    again = await proxies.start("one", SHORT)
    with pytest.raises(NotTheWriter, match=r"journal .*two"):
        await commit(again, put(A, b"1"))


async def test_a_lease_that_is_renewed_is_not_taken_over(proxies: Proxies) -> None:
    one = await proxies.start("one", SHORT)
    two = await proxies.start("two", SHORT)
    token = one.lease.token
    for _ in range(8):  # twice as long as it would last
        await eventually(lambda before=token: one.lease.token != before)
        token = one.lease.token
        assert (await commit(one, put(A, b"1"))).tokens
    assert two.holder


class Heard(Changes):
    def __init__(self) -> None:
        self.live = False
        self.doubts = 0

    def began(self) -> None:
        assert not self.live
        self.live = True

    def changed(self, keys: list[Key] | None) -> None:
        self.doubts += keys is None

    def ended(self) -> None:
        assert self.live
        self.live = False


async def test_who_writes_may_believe_what_it_has_read_and_who_takes_over_begins_anew(
    proxies: Proxies,
) -> None:
    tells = proxies.plain.type == "postgres"
    one, two = await proxies.start("one", SHORT), await proxies.start("two", SHORT)
    first, second = Heard(), Heard()
    trackers = [one.listen(first), two.listen(second)]
    assert first.live
    await eventually(lambda: second.live == tells)
    doubts = second.doubts
    await proxies.crash(one)
    await eventually(lambda: not two.holder)
    assert second.live
    assert second.doubts == doubts + tells

    async def away() -> None:
        raise StoreError("away")

    two.lease.keep = away  # type: ignore[assignment,method-assign]
    await eventually(lambda: second.live == tells and two.holder)
    for tracker in trackers:
        assert tracker is not None
        await tracker.close()


async def test_what_was_read_is_not_believed_past_the_lease_though_its_renewal_has_no_answer(
    proxies: Proxies,
) -> None:
    tells = proxies.plain.type == "postgres"
    store, heard = await proxies.start("one", SHORT), Heard()
    tracker = store.listen(heard)
    assert tracker is not None
    assert heard.live
    gate = hold(store)
    await gate.reached.wait()
    await eventually(lambda: store.holder != "")
    await eventually(lambda: heard.live == tells and not store._handover._writes)  # type: ignore[union-attr]
    gate.open()
    await eventually(lambda: store.holder == "" and heard.live)
    await tracker.close()


@pytest.fixture
def _no_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder counts on its lease for longer than it has it, as one whose clock stands still."""
    monkeypatch.setattr(leases, "SHARE", 1000.0)


@pytest.mark.usefixtures("_no_luck")
async def test_nothing_of_a_former_holder_covers_what_the_next_has_written(proxies: Proxies) -> None:
    one = await proxies.start("one", SHORT)
    await commit(one, put(A, b"first"), put(B, b"first"))
    await one.size(0, b"")
    two = await proxies.start("two", SHORT)
    gate = hold(one)  # a flush of its own, and its renewals, are stuck on their way
    await commit(one, put(A, b"late"))
    await gate.reached.wait()
    await eventually(lambda: not two.holder)
    await commit(two, put(A, b"second"))
    await two.size(0, b"")
    await commit(one, put(B, b"late"))  # it does not know better
    gate.open()
    await eventually(lambda: one.overtaken)
    assert (await value(proxies.plain, A), await value(proxies.plain, B)) == (b"second", b"first")
    assert (await value(one, A), await value(one, B)) == (b"second", b"first")
    assert one.overtaken == 2
    assert list(one.journal.path.glob("set-aside-*/*.journal"))
    with pytest.raises(NotTheWriter):
        await commit(one, put(A, b"1"))


async def test_a_journal_that_was_overtaken_while_its_process_was_gone_is_set_aside(proxies: Proxies) -> None:
    one = await proxies.start("one", SHORT)
    hold(one)
    await commit(one, put(A, b"late"))
    await proxies.crash(one)
    two = await proxies.start("two", SHORT)
    await eventually(lambda: not two.holder)
    await commit(two, put(A, b"second"))
    again = await proxies.start("one", SHORT)
    assert await value(again, A) != b"late"
    await two.close()
    await eventually(lambda: not again.holder)
    assert again.overtaken == 1
    assert await value(again, A) == b"second"
    assert (await commit(again, put(A, b"third"))).tokens


async def test_what_could_not_be_set_aside_is_not_written_by_a_later_start_either(proxies: Proxies) -> None:
    one, two = await proxies.start("one", SHORT), await proxies.start("two", SHORT)
    gate = hold(one)
    await commit(one, put(A, b"late"))
    keep = one.lease.keep
    one.lease.keep = failing(StoreError("away"))  # type: ignore[assignment,method-assign]
    await eventually(lambda: not two.holder)
    await commit(two, put(A, b"second"))
    await two.close()
    in_the_way = one.journal.path / "set-aside-0000000000000001"
    in_the_way.write_bytes(b"")
    one.lease.keep = keep  # type: ignore[method-assign]
    gate.open()
    await eventually(lambda: not one._ready and not one.backlog.entries)
    assert one.overtaken == 0
    in_the_way.unlink()
    await eventually(lambda: not one.holder)
    assert one.overtaken == 1
    hold(one)
    await commit(one, put(B, b"third"))
    await proxies.crash(one)
    again = await proxies.start("one", SHORT)
    assert (await value(again, A), await value(again, B)) == (b"second", b"third")


async def test_what_is_on_its_way_to_the_journal_when_it_is_closed_stays_there(
    proxies: Proxies, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await proxies.start("one")
    reached, let_go = threading.Event(), threading.Event()
    fdatasync = os.fdatasync

    def slow(file: int) -> None:
        reached.set()
        assert let_go.wait(10)
        fdatasync(file)

    monkeypatch.setattr(os, "fdatasync", slow)
    writing = asyncio.ensure_future(commit(store, put(A, b"1")))
    assert await asyncio.to_thread(reached.wait, 10)
    closing = asyncio.ensure_future(store.close())
    await eventually(lambda: all(task.done() for task in store._tasks))
    let_go.set()
    assert (await writing).tokens
    await closing
    again = await proxies.start("one")
    assert await value(again, A) == b"1"


async def test_who_waits_for_a_lease_counts_from_when_the_store_is_back(proxies: Proxies) -> None:
    one = await proxies.start("one", SHORT)
    two = await proxies.start("two", SHORT)
    away = failing(StoreError("away"))
    assert isinstance(one.inner, WatchedStore)
    assert isinstance(two.inner, WatchedStore)
    one.inner.before_commit = two.inner.before_load = one.inner.before_load = away
    await commit(one, put(A, b"kept"))
    await eventually(lambda: not one.lease.held)
    with pytest.raises(StoreError, match="renewed in time"):
        await commit(one, put(B, b"refused"))
    one.inner.before_commit = two.inner.before_load = one.inner.before_load = _here
    await eventually(lambda: one.lease.held)
    await one.size(0, b"")
    assert (await value(proxies.plain, A), await value(proxies.plain, B)) == (b"kept", None)
    assert two.holder


async def _here() -> None:
    pass


async def test_a_lease_whose_document_is_removed_can_be_had(proxies: Proxies) -> None:
    one = await proxies.start("one")
    await proxies.crash(one)
    two = await proxies.start("two")
    assert two.holder
    await delete_document(proxies.plain, leases.NAME, None)
    two.lease.doubt()
    await eventually(lambda: not two.holder)


async def test_a_lease_is_renewed_while_objects_are_written(proxies: Proxies) -> None:
    if proxies.plain.atomic_groups:
        pytest.skip("there a flush is one group with the lease")
    store, other = await proxies.start("one", SHORT), await proxies.start("two", SHORT)
    gate = hold_records(store)
    await commit(store, put(A, b"large"))
    await gate.reached.wait()
    token = store.lease.token
    for _ in range(8):  # twice as long as it would last
        await eventually(lambda before=token: store.lease.token != before)
        token = store.lease.token
        assert other.holder
    gate.open()
    await store.size(0, b"")
    assert await value(proxies.plain, A) == b"large"


@pytest.mark.usefixtures("_no_luck")
async def test_what_was_on_its_way_when_the_lease_went_is_not_taken_for_what_the_store_has(
    proxies: Proxies,
) -> None:
    if proxies.plain.atomic_groups:
        pytest.skip("there a flush is one group with the lease")
    one, two = await proxies.start("one", SHORT), await proxies.start("two", SHORT)
    answers = hold_records(one, answers=True)
    outcome = await commit(one, put(A, b"first"))
    assert outcome.tokens
    await answers.reached.wait()  # it is written, and that is not known
    keep = one.lease.keep
    one.lease.keep = failing(StoreError("away"))  # type: ignore[assignment,method-assign]
    await eventually(lambda: not two.holder)
    await commit(two, put(A, b"second"))
    await two.close()
    one.lease.keep = keep  # type: ignore[method-assign]
    one.lease.doubt()
    await eventually(lambda: one.overtaken == 1 and not one.holder)
    answers.open()
    async with one.flusher.at_work:
        pass
    assert (await commit(one, put(A, b"third", outcome.tokens[0]))).tokens is None
    assert await value(one, A) == b"second"


async def test_a_record_that_the_store_refuses_does_not_hold_up_the_others(proxies: Proxies) -> None:
    store = await proxies.start("one")
    inner = store.inner
    assert isinstance(inner, WatchedStore)
    commit_all = inner.inner.commit

    async def picky(groups: object) -> list[Outcome]:
        assert isinstance(groups, list)
        if any(change.key == A for group in groups for change in group):
            return [Outcome(None, StoreError("not this one")) for _ in groups]
        return await commit_all(groups)

    inner.inner.commit = picky  # type: ignore[method-assign]
    await commit(store, put(A, b"refused"))
    for number in range(5):
        await commit(store, put(Key(0, b"%d" % number), b"fine"))
    await eventually(lambda: len(store.backlog.entries) == 1)
    await eventually(lambda: store.flusher.failed == "not this one")
    assert await value(store, A) == b"refused"
    inner.inner.commit = commit_all  # type: ignore[method-assign]
    await store.size(0, b"")
    assert await value(proxies.plain, A) == b"refused"


async def test_segments_go_when_the_store_has_what_they_hold(proxies: Proxies) -> None:
    store = await proxies.start("one", limit=16 * 4096)
    for number in range(20):
        await commit(store, put(Key(0, b"%d" % number), bytes(3000)))
        await store.size(0, b"")
    assert store.journal.size < 4 * 4096


async def test_an_idle_journal_is_emptied(proxies: Proxies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.flusher.IDLE", 0.05)
    store = await proxies.start("one")
    await commit(store, put(A, b"a"))
    await eventually(lambda: store.journal.size == 0)
    await commit(store, put(B, b"b"))
    await proxies.crash(store)
    again = await proxies.start("one")
    assert (await value(again, A), await value(again, B)) == (b"a", b"b")


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_a_walk_sees_the_store_and_what_is_not_there_yet(proxies: Proxies, limit: int) -> None:
    store = await proxies.start("one")
    names = [b"%d:%s" % (number, end) for number in range(4) for end in (b"", b"/\xff", b" z", b"Z")]
    await commit(store, *(put(Key(0, name), b"") for name in names[::2]))
    await store.size(0, b"")
    hold(store)
    await commit(store, *(put(Key(0, name), b"") for name in names[1::2]))
    await commit(store, *(Change(Op.DELETE, Key(0, name), None) for name in names[:3]))
    for prefix in (b"", b"2:", b"3:/"):
        found: list[bytes] = []
        after: bytes | None = None
        while True:
            infos, after = await store.scan(0, prefix, after, limit)
            assert len(infos) <= limit
            found += [info.name for info in infos]
            if after is None:
                break
        assert sorted(found) == sorted(name for name in names[3:] if name.startswith(prefix))


async def test_documents_pass_by_the_journal(proxies: Proxies) -> None:
    store = await proxies.start("one")
    key = document_key("dictionary/1")
    assert key.db == BESIDE
    await commit(store, Change(Op.PUT, key, ABSENT, record(b"words")))
    assert await value(proxies.plain, key) == b"words"
