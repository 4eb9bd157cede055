"""Dictionaries beside the records: found by everyone, never changed, and never used when damaged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from backends.base import ABSENT, Store, StoreError
from backends.codecs import Codec
from backends.dictionaries import Dictionaries, Trained
from backends.documents import delete_document, document_key, read_document, write_document
from backends.s3 import S3Store
from backends.seal import IntegrityError, SealPolicy, UnknownDictionary, seal, unseal
from backends.sqlite import SqliteStore
from backends.training import train, with_dictionary
from proxy.clock import ManualClock
from tests import s3
from tests.chats import messages
from tests.coldhomes import WatchedStore, failing

pytestmark = pytest.mark.once  # what keeps it is not compiled

LIMIT = 1 << 20
PLAIN = SealPolicy()
MESSAGES = list(messages(600))
CANDIDATE = train(MESSAGES, PLAIN, 4096)
assert CANDIDATE is not None

OpenStore = Callable[[], Awaitable[WatchedStore]]


def trained(route: bytes = b"long:") -> Trained:
    assert CANDIDATE is not None
    return Trained(route, 1000, 450, 150, 300, 100, CANDIDATE.dictionary)


@pytest.fixture(params=["sqlite", "s3"])
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Stores on one place."""
    where = s3.place(request.getfixturevalue("s3_moto")) if request.param == "s3" else None
    opened: list[Store] = []

    async def open_one() -> WatchedStore:
        clock = ManualClock()
        store: Store
        if where is None:
            store = SqliteStore("local", str(tmp_path / "redtier.db"), clock)
        else:
            store = s3.new_store(clock, where)
            assert isinstance(store, S3Store)
        await store.open()
        opened.append(store)
        return WatchedStore(store, False)

    yield open_one
    for store in opened:
        await store.close()


async def sealed_with(dictionaries: Dictionaries, raw: bytes) -> tuple[int, bytes]:
    """A dictionary's id, and a value that can't be read without it."""
    id = await dictionaries.add(trained())
    policy = with_dictionary(PLAIN, id, trained().dictionary)
    return id, seal(0, b"k", 1, raw, policy)


async def test_whoever_reads_the_store_can_unseal(open_store: OpenStore) -> None:
    id, sealed = await sealed_with(Dictionaries(await open_store()), MESSAGES[0])
    dictionaries = await Dictionaries.load(await open_store())
    assert unseal(0, b"k", 1, sealed, LIMIT, dictionaries.known) == MESSAGES[0]
    about = dictionaries.about[id]
    assert (about.route, about.size, about.samples) == (b"long:", len(trained().dictionary), 450)


async def test_one_that_others_trained_meanwhile_is_fetched_once_for_all_who_need_it(
    open_store: OpenStore,
) -> None:
    store = await open_store()
    reader = await Dictionaries.load(store)
    _, sealed = await sealed_with(Dictionaries(await open_store()), MESSAGES[0])
    with pytest.raises(UnknownDictionary):
        unseal(0, b"k", 1, sealed, LIMIT, reader.known)
    store.loads.clear()
    found = await asyncio.gather(*[reader.of(sealed) for _ in range(5)])
    assert {unseal(0, b"k", 1, sealed, LIMIT, by_id) for by_id in found} == {MESSAGES[0]}
    assert len(store.loads) == 1
    assert reader.fetched == 1


async def test_proxies_that_train_at_once_get_ids_of_their_own(open_store: OpenStore) -> None:
    store = await open_store()
    one, other = Dictionaries(store), Dictionaries(await open_store())
    theirs: list[int] = []

    async def be_quicker() -> None:
        if len(theirs) < 3:  # each time that one is about to write
            theirs.append(await other.add(trained(b"other:")))

    store.before_commit = be_quicker
    assert await one.add(trained(b"one:")) == 4
    assert theirs == [1, 2, 3]
    found = await Dictionaries.load(await open_store())
    assert {id: about.route for id, about in found.about.items()} == {
        **dict.fromkeys(theirs, b"other:"),
        4: b"one:",
    }


async def test_an_id_is_not_given_again_where_one_is_missing(open_store: OpenStore) -> None:
    store = await open_store()
    dictionaries = Dictionaries(store)
    for _ in range(11):  # in a store's order 10 is before 2
        await dictionaries.add(trained())
    assert await Dictionaries(store).add(trained()) == 12


async def spoil(store: Store, id: int, value: bytes) -> None:
    """Have this in the place of both copies of a dictionary."""
    for name in (f"dictionary/{id}", f"dictionary-copy/{id}"):
        await write_document(store, name, value, None)


async def stored(store: Store, name: str) -> bytes | None:
    document = await read_document(store, name)
    return None if document is None else document.value


async def test_no_flipped_bit_and_no_cut_end_gives_other_bytes(open_store: OpenStore) -> None:
    store = await open_store()
    id, sealed = await sealed_with(Dictionaries(store), MESSAGES[0])
    good = await stored(store, f"dictionary/{id}")
    assert good is not None
    for bit in [*range(0, 8 * 40, 17), *range(8 * 40, 8 * len(good), 8 * len(good) // 20)]:
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        await spoil(store, id, bytes(flipped))
        with pytest.raises(IntegrityError, match=f"dictionary {id} "):
            await Dictionaries(store).of(sealed)
    await spoil(store, id, good[:-1])
    with pytest.raises(IntegrityError):
        await Dictionaries(store).of(sealed)
    damaged = await Dictionaries.load(store)
    assert list(damaged.damaged) == [id]
    assert damaged.newest(b"long:") == 0
    [told] = await damaged.mend()
    assert told.good is None
    assert "what was sealed with it can't be read" in told.line
    await spoil(store, id, good)  # once it is mended, all is well
    assert unseal(0, b"k", 1, sealed, LIMIT, await damaged.of(sealed)) == MESSAGES[0]


@pytest.mark.parametrize("name", ["dictionary/1", "dictionary-copy/1"])
@pytest.mark.parametrize("way", ["damaged", "missing"])
@pytest.mark.parametrize("who", ["reader", "start", "scrub"])
async def test_where_one_copy_is_lost_the_other_serves_and_it_is_made_anew(
    name: str, way: str, who: str, open_store: OpenStore
) -> None:
    store = await open_store()
    id, sealed = await sealed_with(Dictionaries(store), MESSAGES[0])
    assert id == 1
    good = await stored(store, name)
    if way == "damaged":
        await write_document(store, name, b"spoilt", None)
    else:
        await delete_document(store, name, None)
    dictionaries = Dictionaries(store)
    if who == "start":
        await dictionaries.refresh()
        assert dictionaries.newest(b"long:") == 1
    elif who == "scrub":
        [told] = await dictionaries.mend()
        assert told.line.startswith(f"{name}: dictionary 1 is ")
        assert told.line.endswith("; made anew of the other copy")
        assert await dictionaries.mend() == []
    assert unseal(0, b"k", 1, sealed, LIMIT, await dictionaries.of(sealed)) == MESSAGES[0]
    if (
        who == "scrub" or name == "dictionary/1"
    ):  # while the first is good, none but a scrub looks at the second
        assert await stored(store, name) == good
    assert await dictionaries.add(trained()) == 2


async def test_one_copy_serves_though_the_other_can_not_be_made_anew(open_store: OpenStore) -> None:
    store = await open_store()
    _, sealed = await sealed_with(Dictionaries(store), MESSAGES[0])
    await write_document(store, "dictionary/1", b"spoilt", None)
    store.before_commit = failing(StoreError("it is full"))
    dictionaries = Dictionaries(store)
    assert unseal(0, b"k", 1, sealed, LIMIT, await dictionaries.of(sealed)) == MESSAGES[0]
    [told] = await dictionaries.mend()
    assert told.line.endswith("; not made anew: it is full")
    assert told.good is not None


async def test_one_that_stands_under_the_id_of_another_is_damaged(open_store: OpenStore) -> None:
    store = await open_store()
    await Dictionaries(store).add(trained())
    other = await stored(store, "dictionary/1")
    assert other is not None
    await spoil(store, 2, other)
    dictionaries = await Dictionaries.load(store)
    assert (list(dictionaries.known), list(dictionaries.damaged)) == ([1], [2])


async def test_one_of_a_form_that_is_not_known_is_not_used(open_store: OpenStore) -> None:
    store = await open_store()
    magic = (0xEC30A437).to_bytes(4, "little")  # RFC 8878, 5
    broken = msgspec.msgpack.encode(Trained(b"long:", 1, 1, 1, 2, 1, magic + bytes(100)))
    for id, raw in ((1, b"\x91\x01"), (2, b"no msgpack"), (3, broken)):
        name = f"dictionary/{id}"
        sealed = seal(document_key("").db, name.encode(), 0, raw, SealPolicy(Codec.NONE))
        await write_document(store, name, sealed, ABSENT)
        with pytest.raises(IntegrityError, match=f"dictionary {id} is not readable by this release"):
            await Dictionaries(store).fetch(id)
    assert list((await Dictionaries.load(store)).damaged) == [1, 2, 3]


async def test_as_many_are_held_as_may_be_and_what_is_in_use_stays(open_store: OpenStore) -> None:
    dictionaries = Dictionaries(await open_store(), keep=3)
    assert await dictionaries.add(trained()) == 1
    dictionaries.pin(b"long:", 1)
    for _ in range(4):
        await dictionaries.add(trained(b"other:"))
    assert list(dictionaries.known) == [1, 4, 5]
    assert sorted(dictionaries.about) == [1, 2, 3, 4, 5]
    await dictionaries.fetch(2)
    assert list(dictionaries.known) == [1, 5, 2]


async def test_one_that_is_missing_and_a_store_that_is_away_are_told_apart(open_store: OpenStore) -> None:
    store = await open_store()
    id, sealed = await sealed_with(Dictionaries(store), MESSAGES[0])
    reader = Dictionaries(store)
    store.before_load = failing(StoreError("away"))
    with pytest.raises(StoreError, match="away"):
        await reader.of(sealed)
    with pytest.raises(StoreError, match="away"):
        await reader.refresh()
    store.before_load = (await open_store()).before_load
    assert list(await reader.of(sealed)) == [id]
    with pytest.raises(IntegrityError, match="dictionary 9 is not there"):
        await reader.fetch(9)
