"""What is S3's own: names and bytes in the bucket, servers that can do less, markers, lost answers."""

from __future__ import annotations

import asyncio
import itertools
import string
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import (
    ABSENT,
    CONFLICT,
    Change,
    Foreign,
    Key,
    KeyTooLong,
    Op,
    Record,
    StoreError,
    Token,
    Want,
)
from backends.s3 import S3Store
from backends.s3_client import Bucket
from backends.s3_layout import (
    NAME_MAX,
    Access,
    Head,
    Names,
    content,
    is_tombstone,
    payload,
    stored,
    tombstone,
)
from proxy.clock import ManualClock
from tests.faultproxy import Direction, FaultProxy
from tests.s3 import BUCKET, new_store, place, raw_client
from tests.servers import MotoServer, S3Server, SwiftServer, eventually, free_port

pytestmark = pytest.mark.once  # what keeps it is not compiled

A, B = Key(0, b"long:a"), Key(0, b"long:b")
HOUR = 3_600_000

_write_ids = itertools.count(1)

Place = dict[str, Any]
Open = Callable[..., AbstractAsyncContextManager[S3Store]]


def record(value: bytes = b"value", expire_at: int = 0) -> Record:
    return Record(value, 1, next(_write_ids), expire_at, len(value), len(value))


def put(key: Key, new: Record, expect: Token | None = None) -> Change:
    return Change(Op.PUT, key, expect, new)


async def commit(store: S3Store, change: Change) -> Token:
    (outcome,) = await store.commit([[change]])
    assert outcome.tokens is not None, outcome
    return outcome.tokens[0]


async def failure(store: S3Store, change: Change) -> StoreError:
    (outcome,) = await store.commit([[change]])
    assert outcome.error is not None, outcome
    return outcome.error


async def value(store: S3Store, key: Key) -> bytes | None:
    found = (await store.load([key], Want.WHOLE))[0].record
    return None if found is None else found.payload


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def open_at(clock: ManualClock) -> Open:
    @asynccontextmanager
    async def open_at(where: Place, **options: Any) -> AsyncIterator[S3Store]:
        store = new_store(clock, where, **options)
        try:
            await store.open()
            yield store
        finally:
            await store.close()

    return open_at


@pytest.fixture(params=["s3_moto", "s3_swift"])
def server(request: pytest.FixtureRequest) -> S3Server:
    server: S3Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def where(server: S3Server) -> Place:
    return place(server)


@pytest.fixture
def objects(server: S3Server, where: Place) -> Callable[[], dict[str, int]]:
    """Names, without the test's prefix, and sizes of all objects, as the server lists them.

    That with the versions, which is always there, is left out.
    """

    def objects() -> dict[str, int]:
        prefix = where["prefix"] + "/"
        listed = raw_client(server).list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        found = {entry["Key"].removeprefix(prefix): entry["Size"] for entry in listed}
        del found["versions"]
        return found

    return objects


# --- names and bytes ---


def test_an_object_is_named_readably_after_its_key() -> None:
    names = Names("team/redtier")
    key = Key(3, b"long:chat:42/\xc3\xa4=b@c.d")
    assert names.record(key) == "team/redtier/k/3:long:chat:42=2F=C3=A4=3Db@c.d"
    assert names.marker(key, 1_700_000_000_000) == "team/redtier/x/00472222/3:long:chat:42=2F=C3=A4=3Db@c.d"
    assert names.quarantined(key, 255) == "team/redtier/q/00000000000000ff/3:long:chat:42=2F=C3=A4=3Db@c.d"
    assert Names("").record(Key(0, b"")) == "k/0:"


@given(st.binary(max_size=700), st.binary(max_size=300), st.integers(0, 15))
def test_a_name_gives_its_key_back_and_a_prefix_of_the_key_a_prefix_of_the_name(
    prefix: bytes, rest: bytes, db: int
) -> None:
    names = Names("p")
    try:
        name = names.record(Key(db, prefix + rest))
    except KeyTooLong:
        return
    assert names.key(name) == Key(db, prefix + rest)
    assert name.startswith(names.records(db, prefix))
    assert names.marked(names.marker(Key(db, prefix + rest), 5 * HOUR)) == (5, Key(db, prefix + rest))


@given(st.binary(max_size=900).map(lambda some: some.replace(b"\x00", b"/").replace(b"\x01", b".")))
def test_no_name_has_anything_that_a_server_could_change_or_refuse(name: bytes) -> None:
    try:
        segments = Names("").record(Key(0, name)).split("/")
    except KeyTooLong:
        return
    assert all(0 < len(segment) <= 255 and segment not in (".", "..") for segment in segments)
    assert not any(set(segment) & set('%+ \\"<>') or not segment.isascii() for segment in segments)


def test_key_max_is_the_longest_that_all_names_of_a_key_have_room_for() -> None:
    for prefix in ("", "p", "p" * 300, "ä" * 100, "p" * 123):
        names = Names(prefix)
        longest = Key(0, b"k" * names.key_max)
        named = (names.record(longest), names.marker(longest, 1), names.quarantined(longest, 2**63 - 1))
        assert max(len(name.encode()) for name in named) <= NAME_MAX
        with pytest.raises(KeyTooLong):
            names.record(Key(0, b"k" * (names.key_max + 1)))
    with pytest.raises(KeyTooLong):
        Names("").record(Key(0, b"\xff" * 400))
    with pytest.raises(StoreError, match="no room"):
        Names("p" * 900)


def test_what_others_put_beside_our_objects_is_not_ours() -> None:
    names = Names("p")
    for other in ("p/k/", "p/k/readme", "p/k/0:a/b", "p/k/0:=2f", "p/k/x:a", "p/k/0:é", "p/k/²:a"):
        assert names.key(other) is None
    for other in ("p/x/", "p/x/00000001", "p/x/1/0:a", "p/x/0000000a/0:a", "p/x/00000001/a"):
        assert names.marked(other) is None


def test_golden_bytes() -> None:
    written = content(Record(b"sealed", 5, 0x0102030405060708, 1_700_000_000_000, 1234, 6))
    assert written.body == b"\x01\x05\x01\x02\x03\x04\x05\x06\x07\x08sealed"
    assert written.meta == "1.5.72623859790382856.1700000000000.1234"
    buried = tombstone(0x0102030405060708)
    assert buried.body == b"\x01\x01\x02\x03\x04\x05\x06\x07\x08"
    assert buried.meta == "1.0.72623859790382856.0.0"


def test_what_is_stored_tells_all_but_the_value() -> None:
    new = Record(b"", 5, 7, 1000, 0, 0)
    written = content(new)
    found = stored("k/0:a", Head("etag", len(written.body), written.meta))
    assert found.record == Record(None, 5, 7, 1000, 0, 0)
    assert payload(written.body) == b""
    assert not is_tombstone(len(written.body))
    assert (found.token(999), found.token(1000)) == ("etag@1000", ABSENT)
    buried = tombstone(8)
    assert stored("k/0:a", Head("etag", len(buried.body), buried.meta)).token(0) == ABSENT


@pytest.mark.parametrize("meta", [None, "", "1.1.1", "1.1.x.0.0", "2.1.1.0.0"])
def test_an_object_of_others_is_named(meta: str | None) -> None:
    with pytest.raises(Foreign, match=r"k/0:a.*(metadata|layout 2)"):
        stored("k/0:a", Head("etag", 20, meta))


async def test_any_bytes_can_be_a_key(open_at: Open, where: Place) -> None:
    names = {bytes([byte]) for byte in b"\x00\t\n \x7f\x80\xff" + string.punctuation.encode()} | {
        *(b"", b"..", b"//", b"a/../b", b"/a", b"a/", b"a/b", b"a/b/c", b"a//b", b"./a", b"%41", b"=41"),
        *(b"A B+C", "日本語".encode(), b"a" * 200, b"a" * 201, b"a" * 401, bytes(range(255))),
    }
    async with open_at(where) as store:
        names.add(b"k" * store.key_max)
        await asyncio.gather(*(commit(store, put(Key(0, name), record(name))) for name in names))
        loaded = await asyncio.gather(*(value(store, Key(0, name)) for name in names))
        assert loaded == list(names)
        found: list[bytes] = []
        after: bytes | None = None
        while after is not None or not found:
            page, after = await store.scan(0, b"", after, 100)
            found += [info.name for info in page]
        assert sorted(found) == sorted(names)
        page, after = await store.scan(0, b"a/", None, 100)
        assert ({info.name for info in page}, after) == ({b"a/", b"a/../b", b"a/b", b"a/b/c", b"a//b"}, None)
        assert await store.clear(None, b"") == len(names)
        assert await store.size(0, b"") == 0


async def test_objects_of_others_are_passed_over_and_never_overwritten_silently(
    open_at: Open, where: Place, server: S3Server, clock: ManualClock
) -> None:
    async with open_at(where) as store:
        await commit(store, put(B, record()))
        for name in ("k/0:long:a", "k/readme", "x/readme", "x/00000001/0:long:a"):
            raw_client(server).put_object(Bucket=BUCKET, Key=f"{where['prefix']}/{name}", Body=b"?")
        page, after = await store.scan(0, b"", None, 10)
        assert ([info.name for info in page], after) == ([B.name], None)
        assert await store.names(0, b"", None, 10) == ([A.name, B.name], None)
        with pytest.raises(Foreign, match="k/0:long:a"):
            await store.load([A], Want.VALUE)
        assert "k/0:long:a" in str(await failure(store, put(A, record(), ABSENT)))
        clock.advance(3 * HOUR)
        assert await store.sweep(10) == 0


@pytest.mark.parametrize("size", [0, 8, 9, 10])
async def test_an_object_that_was_cut_to_next_to_nothing_is_a_record_without_a_payload(
    size: int, open_at: Open, where: Place, server: S3Server
) -> None:
    async with open_at(where) as store:
        await commit(store, put(A, record()))
        client, name = raw_client(server), f"{where['prefix']}/k/0:long:a"
        whole = client.get_object(Bucket=BUCKET, Key=name)
        body = whole["Body"].read()[:size]
        client.put_object(Bucket=BUCKET, Key=name, Body=body, Metadata=whole["Metadata"])
        [(found, _)] = await store.load([A], Want.WHOLE)
        assert found is not None
        assert (found.payload, found.stored_size) == (b"", 0)


async def test_a_quarantined_record_lies_apart_with_the_reason(
    open_at: Open, where: Place, server: S3Server
) -> None:
    async with open_at(where) as store:
        damaged = record(b"damaged")
        await store.quarantine(A, damaged, "the digest\ndoes not match, ä")
        name = f"{where['prefix']}/q/{damaged.write_id:016x}/0:long:a"
        found = raw_client(server).get_object(Bucket=BUCKET, Key=name)
        assert found["Body"].read().endswith(b"damaged")
        assert found["Metadata"]["redtier"].endswith(" the digest does not match, \\xe4")


# --- what the server can do ---


async def test_what_the_server_can_do_is_tried_out(
    open_at: Open, s3_moto: MotoServer, s3_swift: SwiftServer
) -> None:
    async with open_at(place(s3_moto)) as store:
        assert (store.conditional_puts, store.conditional_deletes) == (True, True)
    async with open_at(place(s3_swift)) as store:
        assert not store.conditional_puts
    with pytest.raises(StoreError, match=r"'blobs'.*conditional writes; set single_writer = true"):
        async with open_at(place(s3_swift), single_writer=False):
            pass


async def test_trying_out_leaves_nothing_behind(
    open_at: Open, where: Place, objects: Callable[[], dict[str, int]]
) -> None:
    async with open_at(where):
        assert objects() == {}


class Rewriter(FaultProxy):
    """Changes the heads of requests; for a server that closes each connection after its answer, as moto."""

    def __init__(self, target: int, rewrite: Callable[[bytes], bytes]) -> None:
        super().__init__(target)
        self._rewrite = rewrite

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _pump(self, flow: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if flow is self._flows[Direction.UP]:
            try:
                writer.write(self._rewrite(await reader.readuntil(b"\r\n\r\n")))
            except asyncio.IncompleteReadError:
                return
        await super()._pump(flow, reader, writer)


def without_conditions(method: bytes) -> Callable[[bytes], bytes]:
    """Makes a server ignore the conditions of one method, as some do."""
    return lambda head: head.replace(b"\r\nIf-", b"\r\nNo-") if head.startswith(method) else head


async def test_a_server_that_ignores_conditions_is_noticed(s3_moto: MotoServer) -> None:
    with Rewriter(s3_moto.port, without_conditions(b"PUT")) as proxy:
        store = new_store(ManualClock(), place(s3_moto), endpoint_url=proxy.url)
        with pytest.raises(StoreError, match="single_writer"):
            await store.open()


@pytest.fixture
def no_conditional_deletes(s3_moto: MotoServer) -> Iterator[Place]:
    """On a server that ignores the condition of a DELETE, as MinIO does."""
    with Rewriter(s3_moto.port, without_conditions(b"DELETE")) as proxy:
        yield {**place(s3_moto), "endpoint_url": proxy.url}


async def test_without_conditional_deletes_a_tombstone_stands_for_a_deleted_record(
    open_at: Open, no_conditional_deletes: Place
) -> None:
    async with open_at(no_conditional_deletes) as one, open_at(no_conditional_deletes) as two:
        assert (one.conditional_puts, one.conditional_deletes) == (True, False)
        written = await commit(one, put(A, record()))
        assert await two.commit([[Change(Op.DELETE, A, "0" * 32)]]) == [CONFLICT]
        await commit(one, Change(Op.DELETE, A, written))

        assert await two.load([A], Want.VALUE) == [(None, ABSENT)]
        assert await two.scan(0, b"", None, 10) == ([], None)
        assert await two.size(0, b"") == 0
        assert await two.commit([[put(A, record(), written)]]) == [CONFLICT]
        assert await two.commit([[Change(Op.DELETE, A, written)]]) == [CONFLICT]

        again = await commit(two, put(A, record(b"again"), ABSENT))
        assert await one.commit([[put(A, record(), ABSENT)]]) == [CONFLICT]
        assert await one.load([A], Want.META) == [(await one.load([A], Want.META))[0]._replace(token=again)]
        assert await one.size(0, b"") == 1
        await commit(one, Change(Op.DELETE, A, again))
        assert await one.clear(None, b"") == 0


async def test_without_conditional_deletes_expired_records_become_tombstones(
    open_at: Open, no_conditional_deletes: Place, s3_moto: MotoServer, clock: ManualClock
) -> None:
    async with open_at(no_conditional_deletes) as store:
        await commit(store, put(A, record(b"x" * 1000, expire_at=clock.ms + 1)))
        clock.advance(3 * HOUR)
        assert await store.sweep(10) == 1
        assert await store.sweep(10) == 0
        prefix = no_conditional_deletes["prefix"] + "/k/"
        (left,) = raw_client(s3_moto).list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
        assert is_tombstone(left["Size"])


async def test_the_only_writer_leaves_no_tombstones(
    open_at: Open, no_conditional_deletes: Place, s3_moto: MotoServer
) -> None:
    async with open_at(no_conditional_deletes, single_writer=True) as store:
        written = await commit(store, put(A, record()))
        await commit(store, Change(Op.DELETE, A, written))
        prefix = no_conditional_deletes["prefix"] + "/k/"
        assert raw_client(s3_moto).list_objects_v2(Bucket=BUCKET, Prefix=prefix)["KeyCount"] == 0


# --- requests ---


async def test_a_key_is_one_request_in_the_common_case(
    open_at: Open, s3_moto: MotoServer, clock: ManualClock
) -> None:
    where = place(s3_moto)

    def requests() -> list[str]:
        """The methods of all requests so far on this test's objects."""
        lines = s3_moto.log.read_text().splitlines()
        return [method for line in lines for method in METHODS if where["prefix"] in line and method in line]

    async with open_at(where) as store:
        before = len(requests())
        written = await commit(store, put(A, record()))
        written = await commit(store, put(A, record(), written))
        await store.load([A], Want.VALUE)
        await store.load([A], Want.META)
        await commit(store, Change(Op.DELETE, A, written))
        await commit(store, put(A, record(), ABSENT))
        await commit(store, Change(Op.DELETE, A, None))
        assert requests()[before:] == ["PUT", "PUT", "GET", "HEAD", "DELETE", "PUT", "DELETE"]
        await commit(store, put(A, record(expire_at=clock.ms + 1)))
        assert requests()[before + 7 :] == ["PUT", "PUT"]


METHODS = ("GET", "HEAD", "PUT", "DELETE")


@pytest.mark.parametrize("method", [b"POST", b"SEARCH"])
async def test_objects_are_deleted_together_or_where_the_server_can_not_one_by_one(
    open_at: Open, s3_moto: MotoServer, method: bytes
) -> None:
    where = place(s3_moto)
    with Rewriter(s3_moto.port, lambda head: head.replace(b"POST ", method + b" ", 1)) as proxy:
        async with open_at(where, endpoint_url=proxy.url) as store:
            for n in range(5):
                await commit(store, put(Key(0, b"%d" % n), record()))
            assert await store.clear(None, b"") == 5
            assert await store.size(0, b"") == 0
    single_deletes = [
        line
        for line in s3_moto.log.read_text().splitlines()
        if f"{where['prefix']}/k" in line and "DELETE" in line
    ]
    assert len(single_deletes) == (0 if method == b"POST" else 5)


async def test_swift_deletes_objects_together(open_at: Open, s3_swift: SwiftServer) -> None:
    where = place(s3_swift)
    async with open_at(where) as store:
        for n in range(5):
            await commit(store, put(Key(0, b"%d" % n), record()))
        assert await store.clear(None, b"") == 5
        assert await store.size(0, b"") == 0
    deletes = [
        line
        for line in s3_swift.log.read_text().splitlines()
        if f"DELETE /{BUCKET}/{where['prefix']}/k" in line
    ]
    assert deletes == []


# --- expiry ---


async def test_only_an_expiry_writes_a_marker_one_for_each_hour(
    open_at: Open, where: Place, objects: Callable[[], dict[str, int]], clock: ManualClock
) -> None:
    async with open_at(where) as store:
        await commit(store, put(A, record()))
        assert list(objects()) == ["k/0:long:a"]
        hour = clock.ms // HOUR + 2
        for expire_at in (hour * HOUR, hour * HOUR + 5, hour * HOUR + HOUR):
            await commit(store, put(A, record(expire_at=expire_at)))
        markers = {f"x/{hour:08d}/0:long:a": 0, f"x/{hour + 1:08d}/0:long:a": 0}
        assert {name: size for name, size in objects().items() if name.startswith("x/")} == markers


async def test_a_sweep_looks_at_a_marker_once_and_not_before_its_hour_is_over(
    open_at: Open, where: Place, objects: Callable[[], dict[str, int]], clock: ManualClock
) -> None:
    async with open_at(where) as store:
        clock.advance(HOUR - clock.ms % HOUR)  # to the start of an hour
        later = clock.ms + 10 * HOUR
        for name in (b"gone", b"extended", b"rewritten", b"deleted"):
            await commit(store, put(Key(0, name), record(expire_at=clock.ms + 1)))
        await commit(store, put(Key(0, b"extended"), record(expire_at=later)))
        await commit(store, put(Key(0, b"rewritten"), record()))
        await commit(store, Change(Op.DELETE, Key(0, b"deleted"), None))
        before = objects()

        clock.advance(HOUR)
        assert await store.sweep(100) == 0
        assert objects() == before

        clock.advance(HOUR)
        assert await store.size(0, b"") == 2
        assert await store.sweep(100) == 1
        assert set(objects()) == {"k/0:extended", "k/0:rewritten", f"x/{later // HOUR:08d}/0:extended"}


async def test_a_flush_takes_the_markers_of_what_it_removes(
    open_at: Open, where: Place, objects: Callable[[], dict[str, int]], clock: ManualClock
) -> None:
    async with open_at(where) as store:
        for key in (Key(0, b"a:1"), Key(0, b"a:2"), Key(0, b"b:1"), Key(1, b"a:1")):
            await commit(store, put(key, record(expire_at=clock.ms + HOUR)))
        assert await store.clear(0, b"a:") == 2
        hour = clock.ms // HOUR + 1
        assert set(objects()) == {
            f"{place}{key}" for place in ("k/", f"x/{hour:08d}/") for key in ("0:b:1", "1:a:1")
        }
        assert await store.clear(None, b"") == 2
        assert objects() == {}


async def test_a_sweep_never_takes_what_is_written_meanwhile(
    open_at: Open, where: Place, clock: ManualClock
) -> None:
    async with open_at(where) as store:
        for _ in range(5):
            keys = [Key(0, b"%d" % n) for n in range(20)]
            await asyncio.gather(*(commit(store, put(key, record(expire_at=clock.ms + 1))) for key in keys))
            clock.advance(3 * HOUR)
            await asyncio.gather(store.sweep(100), *(commit(store, put(key, record(b"new"))) for key in keys))
            assert await asyncio.gather(*(value(store, key) for key in keys)) == [b"new"] * len(keys)


# --- what networks do ---


@pytest.fixture
def fault(server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def through(open_at: Open, where: Place, fault: FaultProxy) -> AsyncIterator[S3Store]:
    """A store whose connections go through ``fault``."""
    async with open_at(where, endpoint_url=f"http://127.0.0.1:{fault.port}", timeout=1500) as store:
        yield store


async def lose(
    fault: FaultProxy, direction: Direction, store: S3Store, change: Change
) -> Token | StoreError | None:
    """Commit, the first request (UP) or its answer (DOWN) being lost: the token, the error, None for a
    conflict."""
    fault.stall(direction)
    task = asyncio.create_task(store.commit([[change]]))
    await eventually(lambda: fault.held(direction))
    fault.cut()
    fault.resume(direction)
    (outcome,) = await task
    return outcome.tokens[0] if outcome.tokens else outcome.error


async def test_a_lost_answer_to_a_write_is_settled_by_its_write_id(
    fault: FaultProxy, through: S3Store
) -> None:
    written = await lose(fault, Direction.DOWN, through, put(A, record(b"1")))
    assert [(written, b"1")] == [((await through.load([A], Want.META))[0].token, await value(through, A))]
    assert isinstance(written, str)


@pytest.mark.parametrize("server", ["s3_moto"], indirect=True)
async def test_a_conditional_write_takes_effect_once_whichever_way_it_is_lost(
    fault: FaultProxy, through: S3Store
) -> None:
    created = await lose(fault, Direction.DOWN, through, put(A, record(b"1"), ABSENT))
    assert isinstance(created, str)
    replaced = await lose(fault, Direction.DOWN, through, put(A, record(b"2"), created))
    assert isinstance(replaced, str)
    again = await lose(fault, Direction.UP, through, put(A, record(b"3"), replaced))
    assert isinstance(again, str)
    assert (await through.load([A], Want.META))[0].token == again
    assert await value(through, A) == b"3"
    assert await lose(fault, Direction.UP, through, Change(Op.DELETE, A, again)) == ABSENT


async def test_a_write_that_may_still_arrive_is_unknown(
    fault: FaultProxy, through: S3Store, open_at: Open, where: Place
) -> None:
    async with open_at(where) as direct:
        # Where conditions are checked here, the first request is that check.
        changes = [put(A, record()), put(A, record(), ABSENT)][: 1 + direct.conditional_puts]
        for change in changes:
            error = await lose(fault, Direction.UP, through, change)
            assert isinstance(error, StoreError)
            assert error.unknown
            # Nothing below the store has sent it again.
            assert await value(direct, A) is None


@pytest.mark.parametrize("server", ["s3_moto"], indirect=True)
async def test_whether_a_lost_delete_was_ours_can_not_be_told(fault: FaultProxy, through: S3Store) -> None:
    written = await commit(through, put(A, record()))
    error = await lose(fault, Direction.DOWN, through, Change(Op.DELETE, A, written))
    assert isinstance(error, StoreError)
    assert error.unknown
    # Without a condition it does not matter whose it was.
    await commit(through, put(A, record()))
    assert await lose(fault, Direction.DOWN, through, Change(Op.DELETE, A, None)) == ABSENT


async def test_a_write_is_unknown_while_the_server_can_not_be_asked(
    fault: FaultProxy, through: S3Store
) -> None:
    fault.stall(Direction.DOWN)
    task = asyncio.create_task(through.commit([[put(A, record())]]))
    await eventually(lambda: fault.held(Direction.DOWN))
    fault.refuse()
    fault.cut()
    (outcome,) = await task
    assert outcome.error is not None
    assert outcome.error.unknown


async def test_a_read_that_was_cut_short_is_asked_for_again(fault: FaultProxy, through: S3Store) -> None:
    large = bytes(300_000)
    await commit(through, put(A, record(large)))
    fault.truncate(Direction.DOWN, after=100_000)
    assert await value(through, A) == large


async def test_an_error_that_was_cut_short_is_asked_for_again(fault: FaultProxy, through: S3Store) -> None:
    for after in range(50, 501, 50):  # within its head, and within the document below it
        fault.truncate(Direction.DOWN, after=after)
        assert await value(through, A) is None


async def test_a_dead_server_is_answered_for_at_once_and_found_again(
    fault: FaultProxy, through: S3Store
) -> None:
    await commit(through, put(A, record()))
    fault.stall(Direction.DOWN)
    with pytest.raises(StoreError, match="no answer from http://127"):
        await asyncio.gather(*(through.load([A], Want.VALUE) for _ in range(3)))
    async with asyncio.timeout(1):  # less than the store waits for an answer
        with pytest.raises(StoreError, match="no answer from http://127"):
            await through.load([A], Want.VALUE)
    fault.resume(Direction.DOWN)
    async with asyncio.timeout(20):
        while True:
            try:
                assert await value(through, A) == b"value"
                break
            except StoreError:
                await asyncio.sleep(0.05)


# --- errors ---


async def test_errors_say_in_one_line_what_to_do(
    open_at: Open, where: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def error(**options: Any) -> str:
        with pytest.raises(StoreError) as raised:
            async with open_at(where, **options):
                pass
        text = str(raised.value)
        assert "\n" not in text
        assert text.startswith("s3 backend 'blobs': ")
        return text

    assert "bucket 'no-such-bucket' does not exist" in await error(bucket="no-such-bucket")
    assert (await error(endpoint_url=f"http://127.0.0.1:{free_port()}")).endswith(
        ": connection refused; is it running, and are host and port right?"
    )
    assert "ca_bundle '/nonexistent' is not a file" in await error(ca_bundle="/nonexistent")
    assert "Invalid endpoint" in await error(endpoint_url="no url")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "no credentials; set access_key" in await error(access_key="", secret_key="")


async def test_refused_credentials_are_not_shown(open_at: Open, s3_swift: SwiftServer) -> None:
    where = place(s3_swift)
    for options, text in (
        ({"secret_key": "wr0ng"}, "the secret key, or the region, is not what"),
        ({"access_key": "n0body:x"}, "not known|no access|secret key"),
    ):
        with pytest.raises(StoreError, match=text) as raised:
            async with open_at(where, **options):
                pass
        assert "wr0ng" not in str(raised.value)


async def test_ping_and_use_after_close(open_at: Open, where: Place) -> None:
    async with open_at(where) as store:
        await store.ping()
    for use in (store.ping(), store.load([A], Want.META), store.size(0, b"")):
        with pytest.raises(StoreError, match="not open"):
            await use


def test_aiobotocore_is_not_imported_before_a_store_is_opened() -> None:
    code = "import sys, backends.s3; sys.exit('aiobotocore' in sys.modules or 'aiohttp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


async def test_a_page_in_place_of_an_object_is_an_error_of_the_store() -> None:
    """As what stands before a server may answer, with 200, while that is under maintenance."""
    page = b"<html><p>Back soon<br></html>"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(page) + page)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    access = Access(BUCKET, f"http://127.0.0.1:{port}", "us-east-1", "key", "secret", "", 4, 5000, 5000)
    bucket = Bucket("blobs", access)
    async with server:
        await bucket.open()
        with pytest.raises(StoreError, match=f"no S3 server answers at http://127.0.0.1:{port}"):
            await bucket.get("redtier/k/0:a", None)
        await bucket.close()
