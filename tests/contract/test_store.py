"""What every cold store promises (backends/base.py), one test for each promise."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable

import pytest

from backends import lease
from backends.base import (
    ABSENT,
    BESIDE,
    CONFLICT,
    Change,
    Group,
    Key,
    KeyInfo,
    KeyTooLong,
    NotAtomic,
    Op,
    Quarantined,
    Record,
    Store,
    Token,
    Want,
)
from backends.documents import (
    delete_document,
    document_key,
    document_names,
    read_document,
    write_document,
)
from proxy.clock import ManualClock

pytestmark = pytest.mark.once

OpenStore = Callable[[], Awaitable[Store]]

A, B, C, D = (Key(0, name) for name in (b"long:a", b"long:b", b"long:c", b"long:d"))
HOUR = 3_600_000
EVERY_BYTE = bytes(range(256))

_write_ids = itertools.count(2**62)


def record(payload: bytes = b"value", kind: int = 1, expire_at: int = 0) -> Record:
    """A record with a write id of its own."""
    return Record(payload, kind, next(_write_ids), expire_at, 3 * len(payload), len(payload))


def put(key: Key, new: Record, expect: Token | None = None) -> Change:
    return Change(Op.PUT, key, expect, new)


def delete(key: Key, expect: Token | None = None) -> Change:
    return Change(Op.DELETE, key, expect)


def expire(key: Key, expect: Token, expire_at: int) -> Change:
    return Change(Op.EXPIRE, key, expect, Record(None, 0, next(_write_ids), expire_at, 0, 0))


def hold(key: Key, expect: Token) -> Change:
    return Change(Op.ASSERT, key, expect)


async def commit(store: Store, *changes: Change) -> tuple[Token, ...]:
    """Commit one group, which must succeed."""
    (outcome,) = await store.commit([changes])
    assert outcome.tokens is not None, outcome
    return outcome.tokens


async def conflicts(store: Store, *changes: Change) -> bool:
    return await store.commit([changes]) == [CONFLICT]


async def fill(store: Store, keys: Iterable[Key]) -> None:
    groups: list[Group] = [[put(key, record())] for key in keys]
    for start in range(0, len(groups), store.commit_max):
        outcomes = await store.commit(groups[start : start + store.commit_max])
        assert all(outcome.tokens for outcome in outcomes)


async def fetch(store: Store, key: Key, want: Want = Want.WHOLE) -> Record | None:
    return (await store.load([key], want))[0].record


async def token(store: Store, key: Key) -> Token:
    return (await store.load([key], Want.META))[0].token


async def walk(store: Store, db: int = 0, prefix: bytes = b"", limit: int = 3) -> list[KeyInfo]:
    found: list[KeyInfo] = []
    after: bytes | None = None
    while True:
        page, after = await store.scan(db, prefix, after, limit)
        assert len(page) <= limit
        found += page
        if after is None:
            return found


async def names(store: Store, db: int = 0, prefix: bytes = b"") -> list[bytes]:
    return sorted(info.name for info in await walk(store, db, prefix))


# --- load ---


async def test_what_was_put_is_loaded(store: Store, clock: ManualClock) -> None:
    new = record(EVERY_BYTE * 20, kind=5, expire_at=clock.ms + HOUR)
    (written,) = await commit(store, put(A, new))
    ((loaded, found),) = await store.load([A], Want.WHOLE)
    assert loaded == new
    assert found == written != ABSENT


async def test_metadata_comes_without_the_payload(store: Store) -> None:
    new = record(b"payload")
    await commit(store, put(A, new))
    assert await fetch(store, A, Want.META) == new._replace(payload=None)


async def test_a_payload_over_bulk_max_is_brought_only_whole(store: Store) -> None:
    largest, larger = record(bytes(store.bulk_max)), record(bytes(store.bulk_max + 1))
    await fill(store, [C])
    await store.commit([[put(A, largest)], [put(B, larger)]])
    at_most, over, small = await store.load([A, B, C], Want.VALUE)
    assert at_most.record == largest
    assert over.record == larger._replace(payload=None)
    assert small.record is not None
    assert small.record.payload == b"value"
    assert await fetch(store, B, Want.WHOLE) == larger


async def test_results_come_in_the_order_of_the_keys(store: Store) -> None:
    records = {Key(db, name): record(name) for db in (0, 1) for name in (b"x", b"y", b"z")}
    await store.commit([[put(key, new)] for key, new in records.items()])
    keys = [Key(1, b"z"), Key(0, b"?"), Key(0, b"y"), Key(1, b"x"), Key(0, b"x"), Key(2, b"x")]
    loaded = await store.load(keys, Want.VALUE)
    assert [each.record for each in loaded] == [records.get(key) for key in keys]


async def test_what_was_never_written_is_absent(store: Store) -> None:
    assert await store.load([A, B], Want.VALUE) == [(None, ABSENT)] * 2
    assert await store.load([], Want.VALUE) == []


async def test_a_record_is_absent_from_its_expiry_on(store: Store, clock: ManualClock) -> None:
    await commit(store, put(A, record(expire_at=clock.ms + 1000)))
    clock.advance(999)
    assert await fetch(store, A) is not None
    clock.advance(1)
    assert await store.load([A], Want.META) == [(None, ABSENT)]
    assert await store.load([A], Want.WHOLE) == [(None, ABSENT)]
    assert await walk(store) == []
    assert await store.size(0, b"") == 0


async def test_one_load_may_ask_for_load_max_keys(store: Store) -> None:
    keys = [Key(0, b"%d" % n) for n in range(min(store.load_max, 300))]
    await fill(store, keys)
    assert all(loaded.record for loaded in await store.load(keys, Want.VALUE))


# --- names and values ---


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"\0",
        b"\xff" * 8,
        EVERY_BYTE,
        b"/",
        b"a//b/",
        b"../..",
        b".",
        "ключ".encode(),
        b"%00",
        b"a b+c\r\n",
    ],
    ids=repr,
)
async def test_any_bytes_are_a_name(store: Store, name: bytes) -> None:
    new = record(name * 3)
    await commit(store, put(Key(0, name), new))
    assert await fetch(store, Key(0, name)) == new
    assert await names(store) == [name]
    assert await names(store, prefix=name[:2]) == [name]
    await commit(store, delete(Key(0, name)))
    assert await names(store) == []


async def test_names_that_look_alike_are_different_keys(store: Store) -> None:
    alike = [b"a", b"A", b"a ", b"a\0", b"a/", b"/a", b"%61", b"a%2F"]
    await fill(store, [Key(0, name) for name in alike])
    assert await names(store) == sorted(alike)


async def test_a_payload_may_be_empty(store: Store) -> None:
    new = record(b"")
    await commit(store, put(A, new))
    assert await fetch(store, A) == new
    assert await fetch(store, A, Want.VALUE) == new


async def test_databases_are_apart(store: Store) -> None:
    in_0, in_15 = record(b"0"), record(b"15")
    await store.commit([[put(Key(0, b"k"), in_0)], [put(Key(15, b"k"), in_15)]])
    assert await fetch(store, Key(0, b"k")) == in_0
    assert await fetch(store, Key(15, b"k")) == in_15
    await commit(store, delete(Key(0, b"k")))
    assert await fetch(store, Key(15, b"k")) == in_15
    assert (await store.size(0, b""), await store.size(15, b"")) == (0, 1)


async def test_a_name_over_key_max_is_refused_and_nothing_else(store: Store) -> None:
    longest, too_long = Key(0, b"k" * store.key_max), Key(0, b"k" * (store.key_max + 1))
    kept, refused = await store.commit([[put(longest, record())], [put(too_long, record())]])
    assert kept.tokens is not None
    assert refused.tokens is None
    assert isinstance(refused.error, KeyTooLong)
    there, absent = await store.load([longest, too_long], Want.META)
    assert there.record is not None
    assert absent == (None, ABSENT)
    assert await names(store) == [longest.name]


# --- commit ---


async def test_a_blind_put_writes_whatever_is_there(store: Store) -> None:
    await commit(store, put(A, record(b"old")))
    new = record(b"new")
    await commit(store, put(A, new))
    assert await fetch(store, A) == new


async def test_a_conditional_put_needs_its_token(store: Store) -> None:
    first, second, third = record(b"1"), record(b"2"), record(b"3")
    (one,) = await commit(store, put(A, first, ABSENT))
    assert await conflicts(store, put(A, second, ABSENT))
    assert await fetch(store, A) == first
    (two,) = await commit(store, put(A, second, one))
    assert two != one
    assert await conflicts(store, put(A, third, one))
    assert await fetch(store, A) == second
    assert await conflicts(store, put(B, third, one))
    assert await fetch(store, B) is None


async def test_a_commit_gives_the_token_that_a_load_gives(store: Store, clock: ManualClock) -> None:
    (written,) = await commit(store, put(A, record()))
    assert await token(store, A) == written
    (expiring,) = await commit(store, expire(A, written, clock.ms + HOUR))
    assert await token(store, A) == expiring != written
    assert await commit(store, hold(A, expiring)) == (expiring,)
    assert await token(store, A) == expiring
    assert await commit(store, delete(A, expiring)) == (ABSENT,)
    assert await token(store, A) == ABSENT


async def test_delete_removes_what_its_token_names(store: Store) -> None:
    (written,) = await commit(store, put(A, record()))
    assert await conflicts(store, delete(A, ABSENT))
    await commit(store, delete(A, written))
    assert await fetch(store, A) is None
    assert await conflicts(store, delete(A, written))


async def test_a_blind_delete_succeeds_whatever_is_there(store: Store) -> None:
    await commit(store, put(A, record()))
    assert await commit(store, delete(A)) == (ABSENT,)
    assert await fetch(store, A) is None
    assert await commit(store, delete(A)) == (ABSENT,)


async def test_expire_changes_expiry_and_token_and_keeps_the_rest(store: Store, clock: ManualClock) -> None:
    old = record(b"payload", kind=4)
    (written,) = await commit(store, put(A, old))
    change = expire(A, written, clock.ms + HOUR)
    assert change.record is not None
    await commit(store, change)
    assert await fetch(store, A) == old._replace(expire_at=clock.ms + HOUR, write_id=change.record.write_id)
    assert await conflicts(store, expire(A, written, 0))

    await commit(store, expire(A, await token(store, A), 0))
    clock.advance(2 * HOUR)
    persistent = await fetch(store, A)
    assert persistent is not None
    assert (persistent.payload, persistent.expire_at) == (b"payload", 0)


async def test_expire_in_the_past_makes_it_absent(store: Store, clock: ManualClock) -> None:
    (written,) = await commit(store, put(A, record()))
    await commit(store, expire(A, written, clock.ms - 1))
    assert await token(store, A) == ABSENT


async def test_assert_holds_only_while_nothing_is_written(store: Store) -> None:
    (written,) = await commit(store, put(A, record()))
    await commit(store, hold(A, written))
    assert await commit(store, hold(B, ABSENT)) == (ABSENT,)
    assert await conflicts(store, hold(A, ABSENT))
    assert await conflicts(store, hold(B, written))
    await commit(store, put(A, record()))
    assert await conflicts(store, hold(A, written))


async def test_deleted_and_recreated_alike_is_not_unchanged(store: Store) -> None:
    (before,) = await commit(store, put(A, record(b"same")))
    await commit(store, delete(A, before))
    (again,) = await commit(store, put(A, record(b"same"), ABSENT))
    assert again != before
    for change in (put(A, record(), before), delete(A, before), expire(A, before, 0), hold(A, before)):
        assert await conflicts(store, change)
    assert await token(store, A) == again


async def test_rewritten_alike_is_not_unchanged(store: Store) -> None:
    (before,) = await commit(store, put(A, record(b"same")))
    (again,) = await commit(store, put(A, record(b"same"), before))
    assert again != before
    assert await conflicts(store, put(A, record(), before))


async def test_what_has_expired_counts_as_absent_for_conditions(store: Store, clock: ManualClock) -> None:
    (written,) = await commit(store, put(A, record(b"old", expire_at=clock.ms + 1)))
    clock.advance(1)
    for change in (put(A, record(), written), delete(A, written), expire(A, written, 0), hold(A, written)):
        assert await conflicts(store, change)
    assert await commit(store, hold(A, ABSENT)) == (ABSENT,)
    new = record(b"new")
    await commit(store, put(A, new, ABSENT))
    assert await fetch(store, A) == new


async def test_the_groups_of_one_commit_have_fates_of_their_own(store: Store) -> None:
    (at_a,) = await commit(store, put(A, record(b"a")))
    outcomes = await store.commit(
        [
            [put(B, record(b"b"), ABSENT)],
            [put(A, record(b"no"), ABSENT)],
            [delete(C, at_a)],
            [put(D, record(b"d"))],
        ]
    )
    assert [outcome.tokens is not None for outcome in outcomes] == [True, False, False, True]
    assert [outcome.error for outcome in outcomes] == [None] * 4
    assert await names(store) == [A.name, B.name, D.name]
    assert await token(store, A) == at_a
    assert await store.commit([]) == []


async def test_a_group_of_several_keys_is_all_or_nothing(store: Store) -> None:
    (at_a,), (at_b,) = await commit(store, put(A, record(b"a"))), await commit(store, put(B, record(b"b")))
    held: Group = [put(A, record(b"a2"), at_a), delete(B, at_b), put(C, record(b"c"), ABSENT)]
    if not store.atomic_groups:
        (outcome,) = await store.commit([held])
        assert outcome.tokens is None
        assert isinstance(outcome.error, NotAtomic)
        assert (await token(store, A), await token(store, B)) == (at_a, at_b)
        return

    broken: Group = [put(D, record(b"d")), hold(Key(0, b"other"), at_b)]
    outcomes = await store.commit([held, broken])
    tokens = outcomes[0].tokens
    assert tokens is not None
    assert [await token(store, key) for key in (A, B, C)] == list(tokens)
    assert outcomes[1] == CONFLICT
    assert await names(store) == [A.name, C.name]

    # The failing condition is first, last, and on a key that would not change.
    at_a, _, at_c = tokens
    for group in (
        [put(A, record(), at_b), delete(C, at_c)],
        [delete(C, at_c), put(A, record(), at_b)],
        [delete(C), put(A, record()), hold(B, at_b)],
    ):
        assert await conflicts(store, *group)
        assert [await token(store, key) for key in (A, B, C)] == list(tokens)


async def test_a_refused_name_takes_its_whole_group(store: Store) -> None:
    (outcome,) = await store.commit([[put(A, record()), put(Key(0, b"k" * (store.key_max + 1)), record())]])
    assert outcome.tokens is None
    assert isinstance(outcome.error, KeyTooLong | NotAtomic)
    assert await names(store) == []


async def test_one_commit_may_carry_commit_max_groups(store: Store) -> None:
    keys = [Key(0, b"%d" % n) for n in range(min(store.commit_max, 300))]
    outcomes = await store.commit([[put(key, record(), ABSENT)] for key in keys])
    assert all(outcome.tokens for outcome in outcomes)
    assert await store.commit([[put(key, record(), ABSENT)] for key in keys]) == [CONFLICT] * len(keys)


# --- scan, size, clear, sweep ---


@pytest.mark.parametrize("limit", [1, 3, 10, 11, 1000])
async def test_a_walk_finds_every_key_once(store: Store, limit: int, clock: ManualClock) -> None:
    keys = [Key(0, b"k%d" % n) for n in range(10)]
    await fill(store, keys)
    await commit(store, put(keys[3], record(kind=4, expire_at=clock.ms + HOUR)))
    found = await walk(store, limit=limit)
    assert sorted(info.name for info in found) == [key.name for key in keys]
    assert {info.name: info for info in found}[b"k3"] == KeyInfo(b"k3", 4, clock.ms + HOUR)
    assert {info.name: info for info in found}[b"k4"] == KeyInfo(b"k4", 1, 0)


NAMES = [
    b"a",
    b"a\xff",
    b"a\xff\xff",
    b"a\xffz",
    b"b",
    b"b:",
    b"b:1",
    b"b:10",
    b"b;",
    b"\xff",
    b"\xff\xff",
    b"\xffa",
]


@pytest.mark.parametrize(
    "prefix", [b"", b"a", b"a\xff", b"b", b"b:", b"b:1", b"\xff", b"\xff\xff", b"c"], ids=repr
)
async def test_a_prefix_bounds_scan_size_and_clear(store: Store, prefix: bytes) -> None:
    await fill(store, [Key(0, name) for name in NAMES])
    await fill(store, [Key(1, prefix), Key(1, prefix + b"1")])
    under = sorted(name for name in NAMES if name.startswith(prefix))
    assert await names(store, prefix=prefix) == under
    assert await store.size(0, prefix) == len(under)
    assert await store.clear(0, prefix) == len(under)
    assert await names(store) == sorted(set(NAMES) - set(under))
    assert await store.size(1, b"") == 2
    assert await store.clear(None, prefix) == 2
    assert await store.size(0, b"") == len(NAMES) - len(under)


async def test_a_walk_misses_nothing_that_stands_while_others_come_and_go(store: Store) -> None:
    standing = {b"%03d" % n for n in range(0, 60, 2)}
    passing = {b"%03d" % n for n in range(1, 60, 2)}
    await fill(store, [Key(0, name) for name in standing | passing])
    found: list[bytes] = []
    after: bytes | None = None
    fresh = iter(range(1000))
    while True:
        page, after = await store.scan(0, b"", after, 7)
        found += [info.name for info in page]
        if after is None:
            break
        gone = [passing.pop() for _ in range(2)]
        await store.commit([[delete(Key(0, name))] for name in gone])
        # Names that sort before, between and after all others.
        number = next(fresh)
        await fill(store, [Key(0, name % number) for name in (b"!%d", b"0%d", b"~%d")])
    assert standing <= set(found)
    assert len(found) == len(set(found))


async def test_sweep_removes_what_has_expired_and_nothing_else(store: Store, clock: ManualClock) -> None:
    soon, later = clock.ms + 1000, clock.ms + 24 * HOUR
    await fill(store, [Key(0, b"forever")])
    expiring = [Key(n % 2, b"soon%d" % n) for n in range(7)]
    await store.commit([[put(key, record(expire_at=soon))] for key in expiring])
    await store.commit([[put(Key(0, name), record(expire_at=soon))] for name in (b"rewritten", b"extended")])
    await commit(store, put(Key(0, b"later"), record(expire_at=later)))
    await commit(store, put(Key(0, b"rewritten"), record()))
    extended = Key(0, b"extended")
    await commit(store, expire(extended, await token(store, extended), later))
    assert await store.sweep(100) == 0

    await store.size(0, b"")  # what is not flushed needs no sweeping
    clock.advance(3 * HOUR)
    removed = []
    while count := await store.sweep(3):
        removed.append(count)
    assert max(removed) <= 3
    assert sum(removed) == 7
    assert await names(store) == [b"extended", b"forever", b"later", b"rewritten"]
    assert await names(store, db=1) == []


async def test_a_swept_key_can_be_written_again(store: Store, clock: ManualClock) -> None:
    await commit(store, put(A, record(expire_at=clock.ms + 1)))
    await store.size(0, b"")
    clock.advance(3 * HOUR)
    assert await store.sweep(10) == 1
    await commit(store, put(A, record(b"new"), ABSENT))
    assert await store.sweep(10) == 0
    assert await names(store) == [A.name]


async def test_names_come_page_by_page_too(store: Store) -> None:
    for key in (A, B, C):
        await commit(store, put(key, record()))
    await commit(store, put(Key(1, A.name), record()))
    await commit(store, put(Key(0, b"other"), record()))
    first, after = await store.names(0, b"long:", None, 2)
    rest, end = await store.names(0, b"long:", after, 2)
    assert (first + rest, end) == ([A.name, B.name, C.name], None)


# --- quarantine, durability ---


async def test_a_quarantined_record_is_kept_out_of_sight(store: Store) -> None:
    damaged = record(EVERY_BYTE)
    await commit(store, put(A, damaged))
    await store.quarantine(A, damaged, "the digest does not match")
    await store.quarantine(A, damaged, "the digest does not match")
    new = record(b"new")
    await commit(store, put(A, new))
    await store.quarantine(A, new, "another write of it")
    assert await names(store) == [A.name]
    assert await store.size(0, b"") == 1
    assert await fetch(store, A) == new


async def test_what_is_in_quarantine_is_listed_page_by_page_and_released(
    store: Store, clock: ManualClock
) -> None:
    assert await store.quarantined(None, 10) == []
    found_at = clock.ms
    kept = []
    for key in (A, B, Key(3, A.name), Key(0, EVERY_BYTE)):
        damaged = record(EVERY_BYTE)
        kept.append(Quarantined(key, damaged.write_id, 1, 256, found_at, "38 bytes where 40 belong"))
        await store.quarantine(key, damaged, "38 bytes where\n40 belong" if key == A else kept[-1].reason)
        clock.advance(1)
        await store.quarantine(key, damaged, "found again")
        clock.advance(-1)
    page = await store.quarantined(None, 3)
    rest = await store.quarantined(page[-1][:2], 3)
    listed = [each._replace(reason=" ".join(each.reason.split())) for each in page + rest]
    assert (len(page), sorted(listed)) == (3, sorted(kept))

    assert await store.release(A, kept[0].write_id)
    assert not await store.release(A, kept[0].write_id)
    assert not await store.release(B, kept[0].write_id)
    assert {each.key for each in await store.quarantined(None, 10)} == {each.key for each in kept[1:]}


async def test_documents_stand_beside_the_records(store: Store) -> None:
    await commit(store, put(Key(0, b"mine/a"), record(b"a key's value")))
    written = await write_document(store, "mine/a", EVERY_BYTE, ABSENT)
    assert written is not None
    assert await read_document(store, "mine/a") == (EVERY_BYTE, written)
    assert await write_document(store, "mine/a", b"late", ABSENT) is None
    renewed = await write_document(store, "mine/a", EVERY_BYTE, written)
    assert renewed not in (None, written)
    assert await write_document(store, "mine/a", b"late", written) is None
    await write_document(store, "mine/b", b"another", None)
    await write_document(store, "schema", b"1", None)

    assert await names(store) == [b"mine/a"]
    assert await store.size(0, b"") == 1
    await store.clear(None, b"")
    assert await store.size(0, b"") == 0
    assert await document_names(store, "mine/") == ["mine/a", "mine/b"]
    everything = await document_names(store, "")
    assert [name for name in everything if name != lease.NAME] == ["mine/a", "mine/b", "schema"]
    assert not await delete_document(store, "mine/a", written)
    assert await delete_document(store, "mine/a", renewed)
    assert await read_document(store, "mine/a") is None
    await store.clear(BESIDE, b"")
    assert await document_names(store, "") == []


async def test_a_record_is_written_only_while_a_document_is_unchanged(store: Store) -> None:
    held = await write_document(store, "lease", b"mine", None)
    fence = Change(Op.ASSERT, document_key("lease"), held)
    (done,) = await store.commit([[put(A, record(b"1")), put(B, record(b"1")), fence]])
    if not store.atomic_groups:
        assert isinstance(done.error, NotAtomic)
        return
    assert done.tokens is not None
    await write_document(store, "lease", b"another's", None)
    assert await store.commit([[put(A, record(b"2")), put(B, record(b"2")), fence]]) == [CONFLICT]
    found = await fetch(store, A)
    assert found is not None
    assert found.payload == b"1"


async def test_what_was_acknowledged_is_there_when_it_is_opened_again(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = await open_store()
    kept, removed = record(EVERY_BYTE, expire_at=clock.ms + HOUR), record()
    written, _ = await store.commit([[put(A, kept)], [put(B, removed)]])
    await commit(store, delete(B))
    await store.close()
    await store.close()

    again = await open_store()
    await again.ping()
    ((found, at_a), (gone, _)) = await again.load([A, B], Want.WHOLE)
    assert (found, gone) == (kept, None)
    assert (at_a,) == written.tokens


# --- concurrency ---


async def test_loads_and_commits_may_run_together(store: Store) -> None:
    keys = [Key(0, b"%d" % n) for n in range(store.concurrency * 10)]

    async def one_after_the_other(keys: list[Key]) -> None:
        for key in keys:
            new = record(key.name)
            await commit(store, put(key, new, ABSENT))
            assert await fetch(store, key) == new

    await asyncio.gather(
        *(one_after_the_other(keys[n :: store.concurrency]) for n in range(store.concurrency))
    )
    assert await store.size(0, b"") == len(keys)


async def test_a_cancelled_commit_leaves_a_store_that_works(store: Store) -> None:
    for _ in range(5):
        task = asyncio.create_task(store.commit([[put(A, new := record(b"cancelled"))], [put(B, record())]]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        after = record(b"after")
        await commit(store, put(C, after))
        assert await fetch(store, C) == after
        assert await fetch(store, A) in (None, new)
        await store.clear(None, b"")


async def test_of_two_conditional_writes_exactly_one_wins(open_shared: OpenStore) -> None:
    one, two = await open_shared(), await open_shared()
    expect: Token = ABSENT
    for _ in range(10):
        mine, theirs = record(b"mine"), record(b"theirs")
        outcomes = await asyncio.gather(
            one.commit([[put(A, mine, expect)]]), two.commit([[put(A, theirs, expect)]])
        )
        won = [outcome != CONFLICT for (outcome,) in outcomes]
        assert sorted(won) == [False, True]
        assert await fetch(one, A) == await fetch(two, A) == (mine if won[0] else theirs)
        expect = await token(two, A)


async def test_increments_through_retries_all_land(open_shared: OpenStore) -> None:
    stores = [await open_shared(), await open_shared()]
    await commit(stores[0], put(A, record(b"0")))

    async def increment(store: Store) -> None:
        while True:
            ((found, seen),) = await store.load([A], Want.VALUE)
            assert found is not None
            assert found.payload is not None
            new = record(b"%d" % (int(found.payload) + 1))
            (outcome,) = await store.commit([[put(A, new, seen)]])
            assert outcome.error is None
            if outcome.tokens is not None:
                return

    async def client(store: Store) -> None:
        for _ in range(8):
            await increment(store)

    await asyncio.gather(*(client(store) for store in stores for _ in range(2)))
    final = await fetch(stores[0], A)
    assert final is not None
    assert final.payload == b"32"
