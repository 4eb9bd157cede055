"""Routes with trained dictionaries, on real stores: when one is used, and who reads what it sealed."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from backends.base import ABSENT, Key, StoreError, Want
from backends.documents import document_key, document_names, read_document, write_document
from backends.postgres import PostgresStore
from backends.seal import describe as describe_seal
from backends.sqlite import SqliteStore
from backends.writeback import WriteBackStore
from proxy.clock import ManualClock
from proxy.commands.spec import load_table
from proxy.dictionaries import TrainedRoute, Training, describe
from proxy.errors import CommandError
from proxy.glob import Glob
from proxy.resp import OK, Reply
from proxy.verifying.walk import Tally, Walk
from tests.chats import messages
from tests.coldhomes import Gate, Tier, failing

pytestmark = pytest.mark.once  # what trains them is not compiled

BATCH = 200  # dictionary_samples


class TrainedTier(Tier):
    """A tier whose catch-all route has dictionaries trained."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        home = self.home
        self.route = TrainedRoute(b"", home.policies.find(b""), 8192, BATCH, 1 << 20)
        self.training = Training(home.dictionaries, home.clock, [self.route])
        home.training = self.training

    async def write(self, values: Iterable[bytes], name: str = "k") -> None:
        handler = load_table()[b"set"].handler
        assert handler is not None
        argvs = [[b"set", f"{name}{number}".encode(), value] for number, value in enumerate(values)]
        async with asyncio.timeout(20):
            replies = await asyncio.gather(
                *[self.run(handler, argv[1], argv=argv, need=Want.NOTHING) for argv in argvs]
            )
        assert set(replies) == {OK}

    async def idle(self) -> None:
        """Return once no training is under way."""
        async with asyncio.timeout(20):
            while self.training._tasks:
                await asyncio.wait(self.training._tasks)

    async def dictionary_of(self, name: str) -> int:
        """The dictionary that a key's record is sealed with; 0: none."""
        ((record, _),) = await self.store.load([Key(0, name.encode())], Want.WHOLE)
        assert record is not None
        assert record.payload is not None
        return describe_seal(record.payload).dictionary_id


NewTier = Callable[[], Awaitable[TrainedTier]]


@pytest.fixture(params=["sqlite", "postgres"])
async def new_tier(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[NewTier]:
    """Proxies' tiers on one place."""
    clock = ManualClock()
    table = f"redtier_dict_{random.randrange(1 << 40)}"
    made: list[TrainedTier] = []

    async def make() -> TrainedTier:
        if request.param == "sqlite":
            store: Any = SqliteStore("local", str(tmp_path / "redtier.db"), clock)
        else:
            url = request.getfixturevalue("postgres").url
            store = PostgresStore("archive", url, clock=clock, table=table)
        tier = TrainedTier(store, clock, cache=False)
        made.append(tier)
        await tier.home.open()
        return tier

    yield make
    for tier in made:
        async with asyncio.timeout(10):
            await tier.home.close()


async def read(tier: Tier, name: str) -> Reply:
    async with asyncio.timeout(10):
        reply = await tier.send(f"GET {name}")
    return reply.text if isinstance(reply, CommandError) else reply


async def test_enough_values_bring_a_dictionary_and_later_ones_are_sealed_with_it(new_tier: NewTier) -> None:
    tier = await new_tier()
    await tier.write(messages(BATCH - 1))
    await tier.idle()
    assert tier.route.id == 0
    await tier.write(messages(1, 5), "last")
    await tier.idle()
    assert tier.route.id == 1
    assert await tier.dictionary_of("last0") == 0
    [new] = messages(1, 9)
    await tier.write([new], "new")
    assert await tier.dictionary_of("new0") == 1
    assert await read(tier, "new0") == new
    assert await read(tier, "last0") == next(messages(1, 5))


async def test_a_proxy_that_has_not_heard_of_it_reads_what_was_sealed_with_it(
    new_tier: NewTier,
) -> None:
    first, second = await new_tier(), await new_tier()
    await first.write(messages(BATCH))
    await first.idle()
    [new] = messages(1, 9)
    await first.write([new])
    assert await first.dictionary_of("k0") == 1
    async with asyncio.timeout(10):
        assert await asyncio.gather(*[read(second, "k0") for _ in range(5)]) == [new] * 5
    assert second.home.dictionaries.fetched == 1
    third = await new_tier()
    assert third.route.id == 1  # and it goes on sealing with it
    assert await read(third, "k0") == new
    assert third.home.damaged == second.home.damaged == 0


async def test_a_proxy_takes_what_another_has_trained_instead_of_training(new_tier: NewTier) -> None:
    first, second = await new_tier(), await new_tier()
    await first.write(messages(BATCH))
    await first.idle()
    await second.write(messages(BATCH, 2), "s")
    await second.idle()
    assert second.route.id == first.route.id == 1
    assert (first.route.trained, second.route.trained) == (1, 0)


async def test_it_is_not_used_before_the_store_has_acknowledged_it(new_tier: NewTier) -> None:
    tier = await new_tier()
    await tier.write(messages(BATCH - 1))
    reached, go = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        if tier.store.commits[-1][0].key == document_key("dictionary/1"):
            reached.set()
            await go.wait()

    tier.store.after_commit = hold
    await tier.write(messages(1, 5), "last")
    async with asyncio.timeout(20):
        await reached.wait()
    await tier.write(messages(1, 6), "meanwhile")
    assert await tier.dictionary_of("meanwhile0") == 0
    go.set()
    await tier.idle()
    await tier.write(messages(1, 6), "then")
    assert await tier.dictionary_of("then0") == 1


async def test_a_store_that_does_not_take_it_costs_nothing_but_the_gain(new_tier: NewTier) -> None:
    tier = await new_tier()
    await tier.write(messages(BATCH - 1))

    async def refuse() -> None:
        if tier.store.commits[-1][0].key.db < 0:
            raise StoreError("it is full", unknown=True)

    tier.store.before_commit = refuse
    await tier.write(messages(1, 5), "last")
    await tier.idle()
    assert (tier.route.id, tier.route.vain) == (0, 1)
    tier.store.before_commit = _nothing
    for seed in (6, 7, 8):  # a pause, then values are gathered anew
        await tier.write(messages(BATCH, seed))
        await tier.idle()
    assert tier.route.id == 1


async def _nothing() -> None:
    pass


async def test_values_that_do_not_profit_get_none_and_are_tried_ever_more_seldom(new_tier: NewTier) -> None:
    tier = await new_tier()
    draw = random.Random(3)
    tries = []
    for batch in range(10):
        await tier.write([draw.randbytes(100) for _ in range(BATCH)])
        await tier.idle()
        if tier.route.vain > len(tries):
            tries.append(batch)
    assert tries == [0, 3, 7]
    assert await document_names(tier.store, "dictionary/") == []
    assert await tier.dictionary_of("k0") == 0


async def test_one_is_trained_anew_when_values_are_no_longer_what_they_were(new_tier: NewTier) -> None:
    tier = await new_tier()
    await tier.write(messages(BATCH))
    await tier.idle()
    for seed in (1, 2, 3):  # as before: nothing to be done
        await tier.write(messages(BATCH, seed))
        await tier.idle()
    assert (tier.route.id, tier.route.trained, tier.route.vain) == (1, 1, 0)
    draw = random.Random(4)

    def other() -> Iterable[bytes]:
        for _ in range(BATCH):
            degrees, sensor = draw.random() * 40, draw.randrange(50)
            yield b'{"sensor":"temperature-%d","unit":"degrees celsius","reading":%f}' % (sensor, degrees)

    for _ in range(2):  # the first shows it, the second is trained from
        await tier.write(other())
        await tier.idle()
    assert tier.route.id == 2
    await tier.write(other(), "new")
    assert await tier.dictionary_of("new0") == 2
    assert await document_names(tier.store, "dictionary/") == ["dictionary/1", "dictionary/2"]


async def test_a_damaged_dictionary_gives_an_error_and_never_other_bytes(
    new_tier: NewTier,
) -> None:
    first = await new_tier()
    await first.write(messages(BATCH))
    await first.idle()
    await first.write(messages(1, 9))
    document = await read_document(first.store, "dictionary/1")
    assert document is not None
    damaged = bytearray(document.value)
    damaged[len(damaged) // 2] ^= 1
    for name in ("dictionary/1", "dictionary-copy/1"):
        await write_document(first.store, name, bytes(damaged), None)
    second = await new_tier()  # starts all the same
    assert second.route.id == 0
    for name in ("k0", "k0"):
        reply = await read(second, name)
        assert isinstance(reply, str)
        assert reply.startswith("INTEGRITY")
        assert "dictionary 1 is damaged" in reply
    assert await read(first, "k0") == next(messages(1, 9))  # it has the right one
    await write_document(first.store, "dictionary/1", document.value, None)
    assert await read(second, "k0") == next(messages(1, 9))


async def test_what_was_sealed_with_one_is_verified_with_it(new_tier: NewTier) -> None:
    first = await new_tier()
    await first.write(messages(BATCH))
    await first.idle()
    await first.write(messages(1, 9))
    assert await first.dictionary_of("k0") == 1

    async def verify() -> Tally:
        walk = Walk((await new_tier()).home, Glob(b"k*"), 64, 2)
        while walk.position is not None:
            await walk.step()
        return walk.tally

    tally = await verify()
    assert (tally.checked, tally.damaged, tally.unhashed) == (BATCH, 0, 0)
    document = await read_document(first.store, "dictionary/1")
    assert document is not None
    for name in ("dictionary/1", "dictionary-copy/1"):
        await write_document(first.store, name, document.value[:-1], None)
    assert (await verify()).damaged == 1


async def test_a_store_that_is_away_while_a_dictionary_is_fetched_is_no_damage(new_tier: NewTier) -> None:
    first, second = await new_tier(), await new_tier()
    await first.write(messages(BATCH))
    await first.idle()
    await first.write(messages(1, 9))

    async def fail() -> None:
        if second.store.loads[-1][0] == b"dictionary/1":
            raise StoreError("it went away")

    second.store.before_load = fail
    reply = await read(second, "k0")
    assert isinstance(reply, str)
    assert reply.startswith("BACKENDDOWN")
    second.store.before_load = _nothing
    assert await read(second, "k0") == next(messages(1, 9))
    assert second.home.damaged == 0


async def test_it_is_trained_at_a_wish_from_what_the_store_has(new_tier: NewTier) -> None:
    first = await new_tier()
    with pytest.raises(CommandError, match="there are 0 values"):
        await first.home.train_dictionary(b"")
    await first.write(messages(BATCH - 20))
    second = await new_tier()
    row = await second.home.train_dictionary(b"")
    assert isinstance(row, dict)
    assert (row["id"], row["in_use"], row["samples"]) == (1, 1, 135)
    assert float(row["gain"]) > 1.5
    with pytest.raises(CommandError, match="makes its values smaller"):
        await second.home.train_dictionary(b"")  # a second one would save nothing
    with pytest.raises(CommandError, match="no route"):
        await second.home.train_dictionary(b"other:")
    await second.write(messages(50, 4), "s")
    await first.home.dictionaries.refresh()
    [told] = describe(second.home.dictionaries, second.training)
    assert told["records"] == 50
    assert told["raw_bytes"] == sum(map(len, messages(50, 4)))
    assert float(told["ratio"]) > 2
    [told] = describe(first.home.dictionaries, None)
    assert (told["id"], told["in_use"], told["records"]) == (1, 0, 0)


async def test_the_end_does_not_wait_for_a_training(new_tier: NewTier) -> None:
    tier = await new_tier()
    gate = Gate()
    await write_document(tier.store, "dictionary/1", b"to be looked at", ABSENT)
    tier.store.before_load = gate  # never opened
    await tier.write(messages(BATCH))
    async with asyncio.timeout(10):
        await gate.reached.wait()
        await tier.home.close()


async def test_without_the_store_the_start_fails_and_says_so(new_tier: NewTier) -> None:
    tier = await new_tier()
    await tier.write(messages(BATCH))
    await tier.idle()
    tier.home.dictionaries.about.clear()
    tier.store.before_load = failing(StoreError("away"))
    with pytest.raises(StoreError, match="away"):
        await tier.home.open()


async def test_a_store_that_is_open_is_not_opened_again_for_want_of_its_dictionaries(tmp_path: Path) -> None:
    clock = ManualClock()
    inner = SqliteStore("local", str(tmp_path / "redtier.db"), clock)
    tier = TrainedTier(WriteBackStore(inner, tmp_path / "journal", 1 << 24, 3_600_000, clock), clock)
    try:
        learn = tier.training.open
        tier.training.open = failing(StoreError("away"))  # type: ignore[method-assign]
        for _ in range(2):
            with pytest.raises(StoreError, match="away"):
                await tier.home.open()
        tier.training.open = learn  # type: ignore[method-assign]
        await tier.home.open()
        # Two would write to one file, each where the other has.
        assert [thread.name for thread in threading.enumerate()].count("journal") == 1
    finally:
        await tier.home.close()
