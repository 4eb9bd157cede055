"""Several proxies on one store: what each knows of what the others have changed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from backends.base import Key, Want
from backends.documents import write_document
from backends.postgres import PostgresStore
from backends.postgres_notices import ORIGIN, everything, keys_in, messages
from proxy.clock import ManualClock
from proxy.resp import Reply
from tests import s3
from tests.coldhomes import Gate, Tier
from tests.servers import MotoServer, PostgresServer, eventually

_tables = itertools.count()


class Proxy(Tier):
    """A tier that listens."""

    def __init__(self, store: PostgresStore, **options: Any) -> None:
        super().__init__(store, ManualClock(), shared=True, **options)

    async def heard(self) -> None:
        async with asyncio.timeout(10):
            await self.store.news.wait()
        self.store.news.clear()

    async def until_it_hears(self, live: bool = True) -> None:
        while self.home.copies.hears != live:
            await self.heard()


NewTier = Callable[..., Awaitable[Tier]]
NewProxy = Callable[..., Awaitable[Proxy]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def new_proxy(postgres: PostgresServer) -> AsyncIterator[NewProxy]:
    made: list[Proxy] = []
    table = f"redtier_coherence_{next(_tables)}"

    async def make(**options: Any) -> Proxy:
        own = {
            name: options.pop(name) for name in ("listen_url", "notify", "single_writer") if name in options
        }
        store = PostgresStore("archive", postgres.url, clock=ManualClock(), table=table, **own)
        proxy = Proxy(store, **options)
        await proxy.store.open()
        made.append(proxy)
        proxy.home.listen()
        if proxy.home.hearing is not None:
            await proxy.until_it_hears()
        proxy.store.news.clear()
        return proxy

    yield make
    for proxy in made:
        await proxy.home.close()


async def reply(proxy: Tier, line: str) -> Reply:
    async with asyncio.timeout(20):
        return await proxy.send(line)


async def test_why_nothing_is_heard_is_told_without_the_password(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    table = f"redtier_coherence_{next(_tables)}"
    url = "postgresql://postgres:hush/hush@127.0.0.1/postgres"  # its slash should be percent-encoded
    store = PostgresStore("archive", postgres.url, clock=ManualClock(), table=table, listen_url=url)
    proxy = Proxy(store)
    await proxy.store.open()
    proxy.home.listen()
    await eventually(lambda: "is not heard of" in caplog.text)
    await proxy.home.close()
    assert "percent-encode what is special" in caplog.text
    assert "hush" not in caplog.text


class TestNearCaches:
    @pytest.mark.parametrize(
        "change",
        ["SET k w", "APPEND k w", "DEL k", "EXPIRE k 100", "MSET k w j w", "RENAME k j", "SETNX j w"],
    )
    async def test_they_drop_what_another_changes(self, new_proxy: NewProxy, change: str) -> None:
        one, two = await new_proxy(), await new_proxy()
        for line in ("SET k v", "GET k", "GET j", "TTL k"):
            await reply(one, line)
        asked = len(one.store.loads)
        await reply(one, "GET k")
        assert len(one.store.loads) == asked  # it was in the near cache
        await reply(two, change)
        await one.heard()
        for line in ("GET k", "GET j", "TTL k"):
            assert await reply(one, line) == await reply(two, line)

    async def test_they_drop_all_when_another_clears(self, new_proxy: NewProxy) -> None:
        one, two = await new_proxy(), await new_proxy()
        await reply(one, "SET k v")
        await two.home.clear(None, b"")
        await one.heard()
        assert await reply(one, "GET k") is None

    async def test_own_changes_drop_nothing(self, new_proxy: NewProxy) -> None:
        one, two = await new_proxy(), await new_proxy()
        await reply(one, "SET mine v")
        await reply(two, "SET other v")
        await one.heard()  # and so has heard its own message, which was sent before
        await reply(one, "GET mine")
        assert one.store.loads == []

    async def test_a_load_that_was_overtaken_leaves_nothing_behind(self, new_proxy: NewProxy) -> None:
        one, two = await new_proxy(), await new_proxy()
        await reply(two, "SET k old")
        await one.heard()
        gate = one.store.after_load = Gate()
        reading = one.send("GET k")
        await gate.reached.wait()
        await reply(two, "SET k new")
        await one.heard()
        gate.open()
        assert await reading == b"old"  # as it was when it was asked for
        assert await reply(one, "GET k") == b"new"

    async def test_what_fails_its_condition_tells_nothing(self, new_proxy: NewProxy) -> None:
        one, two = await new_proxy(), await new_proxy()
        await reply(one, "SET k 1")
        await reply(two, "GET k")
        await two.heard()
        await reply(two, "GET k")
        gate = two.store.before_commit = Gate()
        late = two.send("INCR k")
        await gate.reached.wait()
        await reply(one, "SET k 5")
        gate.open()
        assert await late == 6
        await one.heard()
        assert await reply(one, "GET k") == b"6"
        assert one.home.hearing is not None
        assert one.home.hearing.invalidations == 1


async def test_clients_are_told_of_keys_and_of_no_document(new_proxy: NewProxy) -> None:
    one, two = await new_proxy(), await new_proxy()
    one.home.sink.watching = True
    assert await write_document(two.store, "scrub", b"{}", None)
    await reply(two, "SET k v")
    while not one.events.elsewhere:
        await one.heard()
    assert one.events.elsewhere == [b"k"]


async def test_a_single_writer_believes_its_copies_and_tells_nobody(new_proxy: NewProxy) -> None:
    one, two = await new_proxy(single_writer=True), await new_proxy()
    await reply(one, "SET k v")
    assert await reply(one, "GET k") == b"v"
    assert one.store.loads == []
    await reply(await new_proxy(), "SET other v")
    await two.heard()
    assert two.home.hearing is not None
    assert two.home.hearing.invalidations == 1


class TestWhoWaits:
    async def test_a_change_during_a_load_is_told_again_when_the_load_is_answered(
        self, new_proxy: NewProxy
    ) -> None:
        """Else a command that finds nothing, and waits from then on, would not hear of it."""
        one, two = await new_proxy(), await new_proxy()
        one.events.watching = True
        gate = one.store.after_load = Gate()
        told: list[bytes] = one.events.elsewhere
        popping = one.send("LLEN list")
        await gate.reached.wait()
        await reply(two, "RPUSH list a")
        await one.heard()
        assert told == [b"list"]
        gate.open()
        assert await popping == 0
        assert told == [b"list", b"list"]


class TestListeners:
    async def test_while_none_listens_each_read_asks_the_store(
        self, new_proxy: NewProxy, postgres: PostgresServer
    ) -> None:
        one, two = await new_proxy(), await new_proxy(notify=False)
        await reply(one, "SET k v")
        for _ in range(2):
            assert await reply(two, "GET k") == b"v"
        assert two.store.loads == [(b"k", Want.VALUE), (b"k", Want.META)]  # is it still that write?
        await reply(one, "SET k w")
        assert await reply(two, "GET k") == b"w"

    async def test_one_that_was_cut_off_believes_nothing_from_before(
        self, new_proxy: NewProxy, postgres: PostgresServer
    ) -> None:
        one, two = await new_proxy(), await new_proxy(notify=False)
        await reply(one, "SET k v")
        await reply(one, "GET k")
        await two.store.inner._fetch(  # type: ignore[attr-defined]
            "select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'listen%'"
        )
        await one.until_it_hears(False)
        await reply(two, "SET k w")  # which nobody hears of
        assert await reply(one, "GET k") == b"w"
        await reply(two, "SET k x")
        await one.until_it_hears()
        assert await reply(one, "GET k") == b"x"


class TestS3:
    """Nobody tells of changes there: copies are compared by their ETags."""

    @pytest.fixture
    async def new_tier(self, s3_moto: MotoServer, clock: ManualClock) -> AsyncIterator[NewTier]:
        place = s3.place(s3_moto)
        made: list[Tier] = []

        async def make(single_writer: bool = False, **options: Any) -> Tier:
            store = s3.new_store(clock, place, single_writer=single_writer)
            tier = Tier(store, clock, shared=True, **options)
            await tier.store.open()
            made.append(tier)
            tier.home.listen()
            assert tier.home.hearing is None
            return tier

        yield make
        for tier in made:
            await tier.home.close()

    async def test_each_read_asks_whether_its_copy_is_good(self, new_tier: NewTier) -> None:
        one, two = await new_tier(), await new_tier()
        await reply(one, "SET k v")
        assert await reply(two, "GET k") == b"v"
        assert await reply(two, "GET k") == b"v"
        await reply(one, "SET k w")
        assert await reply(two, "GET k") == b"w"
        wants = [Want.VALUE, Want.META, Want.META, Want.VALUE]
        assert two.store.loads == [(b"k", want) for want in wants]
        await reply(one, "DEL k")
        assert await reply(two, "GET k") is None

    async def test_a_copy_is_compared_when_its_time_is_over(
        self, new_tier: NewTier, clock: ManualClock
    ) -> None:
        one, two = await new_tier(), await new_tier(cache_ttl=1000)
        await reply(one, "SET k v")
        assert await reply(two, "GET k") == b"v"
        for _ in range(3):
            clock.advance(999)
            assert await reply(two, "GET k") == b"v"
            asked = len(two.store.loads)
            clock.advance(1)
            assert await reply(two, "GET k") == b"v"
            assert two.store.loads[asked:] == [(b"k", Want.META)]
        await reply(one, "SET k w")
        assert await reply(two, "GET k") == b"v"
        clock.advance(1000)
        assert await reply(two, "GET k") == b"w"

    async def test_a_write_replaces_a_copy_that_is_not_believed(self, new_tier: NewTier) -> None:
        one, two = await new_tier(), await new_tier()
        await reply(one, "SET k 1")
        assert await reply(two, "INCR k") == 2
        assert await reply(one, "INCR k") == 3
        await reply(two, "SET k 10")
        assert await reply(two, "INCR k") == 11
        assert await reply(one, "GET k") == b"11"

    async def test_a_single_writer_need_not_ask(self, new_tier: NewTier) -> None:
        tier = await new_tier(single_writer=True)
        await reply(tier, "SET k v")
        assert await reply(tier, "GET k") == b"v"
        assert tier.store.loads == []


class TestMessages:
    def test_keys_come_out_as_they_went_in(self) -> None:
        keys = [Key(-1, b"\0\xff"), Key(15, b"long:user:1"), Key(0, b"")]
        [message] = messages("o" * ORIGIN, keys)
        assert keys_in(message) == keys

    def test_they_fit_into_payloads(self) -> None:
        keys = [Key(0, b"%d" % number * 400) for number in range(100, 110)]
        sent = messages("o" * ORIGIN, keys)
        assert max(map(len, sent)) < 8000
        assert [key for message in sent for key in keys_in(message) or []] == keys

    def test_too_many_keys_are_not_named(self) -> None:
        origin = "o" * ORIGIN
        keys = [Key(0, b"%d" % number) for number in range(100_000)]
        assert messages(origin, keys) == [everything(origin)]

    @pytest.mark.parametrize("payload", ["", "*", "=AAA", "=AAAFYQ==", "=not Base64!", "?later"])
    def test_what_is_not_understood_tells_of_all(self, payload: str) -> None:
        assert keys_in("o" * ORIGIN + payload) is None
