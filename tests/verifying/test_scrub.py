"""The scrub in the background: what it finds, where it goes on, and that one proxy does it for all."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from backends.base import Key, StoreError, Want
from backends.documents import read_document, write_document
from backends.sqlite import SqliteStore
from proxy.clock import ManualClock
from proxy.verifying.scrub import DOCUMENT, Scrub
from tests.coldhomes import Gate, Tier, failing
from tests.damage import SqliteVault

pytestmark = pytest.mark.plain  # a store that can be held up is interpreted

DAY = 86_400_000  # ms
NewTier = Callable[[], Awaitable[Tier]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def vault(tmp_path: Path) -> SqliteVault:
    return SqliteVault(tmp_path / "redtier.db")


@pytest.fixture
async def new_tier(vault: SqliteVault, clock: ManualClock) -> AsyncIterator[NewTier]:
    tiers: list[Tier] = []

    async def new_tier() -> Tier:
        tiers.append(Tier(SqliteStore("local", str(vault.file), clock), clock))
        await tiers[-1].store.open()
        return tiers[-1]

    yield new_tier
    for tier in tiers:
        await tier.home.close()


class Running:
    """A scrub at work, whose document is anybody's after a quarter of a second."""

    def __init__(self, tier: Tier, clock: ManualClock, owner: str, rate: int = 1 << 30) -> None:
        self.tier = tier
        self.scrub = Scrub(tier.home, rate, DAY, clock, owner, lease=0.25)
        self.task = asyncio.create_task(self.scrub.keep())

    async def until(self, condition: Callable[[Scrub], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition(self.scrub):
                assert not self.task.done()
                await asyncio.sleep(0.005)

    async def end(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def fill(tier: Tier, count: int) -> None:
    for number in range(count):
        await tier.send(f"SET k{number:04} value", db=number % 3)


async def document(tier: Tier) -> bytes:
    found = await read_document(tier.store, DOCUMENT)
    assert found is not None
    return found.value


async def test_every_record_is_verified_and_what_is_damaged_is_kept_and_told(
    new_tier: NewTier, clock: ManualClock, vault: SqliteVault, caplog: pytest.LogCaptureFixture
) -> None:
    tier = await new_tier()
    await fill(tier, 300)
    await tier.send("SET large " + "x" * 300_000)
    vault.flip(b"k0003")
    with caplog.at_level(logging.INFO):
        running = Running(tier, clock, "one")
        await running.until(lambda scrub: scrub.state == "idle" and scrub.progress.done)
    await running.end()
    assert (running.scrub.tally.checked, running.scrub.tally.damaged) == (301, 1)
    assert (tier.home.damaged, running.scrub.progress.last_checked) == (1, 301)
    [kept] = await tier.store.quarantined(None, 10)
    assert kept.key == Key(0, b"k0003")
    assert "local: db 0: b'k0003' is damaged: the digest does not match" in caplog.text
    assert "backend 'local': 301 records are scrubbed; 1 are damaged, 0 can't be read" in caplog.text


async def test_the_next_one_begins_when_it_is_due(new_tier: NewTier, clock: ManualClock) -> None:
    tier = await new_tier()
    await fill(tier, 3)
    running = Running(tier, clock, "one")
    await running.until(lambda scrub: scrub.state == "idle")
    await running.end()
    loads = len(tier.store.loads)

    other = Running(await new_tier(), clock, "two")
    await other.until(lambda scrub: scrub.state == "idle")
    assert other.scrub.tally.checked == 0
    clock.advance(DAY)
    await other.until(lambda scrub: scrub.tally.checked == 3)
    await other.end()
    assert len(tier.store.loads) == loads


async def test_a_walk_goes_on_where_it_was_when_the_server_stopped(
    new_tier: NewTier, clock: ManualClock
) -> None:
    tier = await new_tier()
    await fill(tier, 300)
    first = Running(tier, clock, "one", rate=64 << 10)  # 16 records a second
    await first.until(lambda scrub: scrub.tally.checked > 0)
    await first.end()
    assert b'"owner":""' in await document(tier)

    second = Running(await new_tier(), clock, "two")
    await second.until(lambda scrub: scrub.progress.done)
    await second.end()
    assert first.scrub.tally.checked + second.scrub.tally.checked == 300
    assert second.scrub.progress.last_checked == 300


async def test_one_proxy_scrubs_and_another_goes_on_when_it_is_gone(
    new_tier: NewTier, clock: ManualClock
) -> None:
    tier = await new_tier()
    await fill(tier, 300)
    first = Running(tier, clock, "one", rate=64 << 10)
    await first.until(lambda scrub: scrub.tally.checked > 0)
    second = Running(await new_tier(), clock, "two")
    await second.until(lambda scrub: scrub.state == "elsewhere")
    written = first.scrub._token
    await first.until(lambda scrub: scrub._token != written)  # it is at it still
    assert (first.scrub.state, second.scrub.state) == ("running", "elsewhere")

    gate = tier.store.before_load = Gate()  # it hangs, as if it were killed
    await gate.reached.wait()
    await second.until(lambda scrub: scrub.progress.done)
    assert second.scrub.tally.checked <= 300
    gate.open()
    await first.until(lambda scrub: scrub.state != "running")
    await first.end()
    await second.end()
    assert second.scrub.progress.last_checked >= 300


@pytest.mark.parametrize(
    ("error", "told"), [(StoreError("it is away"), ": it is away"), (KeyError("unforeseen"), "")]
)
async def test_a_store_that_can_not_serve_is_tried_again(
    error: Exception,
    told: str,
    new_tier: NewTier,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("proxy.verifying.scrub.PAUSE", 0.01)
    tier = await new_tier()
    await fill(tier, 3)
    before = tier.store.before_load
    tier.store.before_load = failing(error)
    running = Running(tier, clock, "one")
    await running.until(lambda scrub: f"backend 'local' could not be scrubbed{told}" in caplog.text)
    assert running.scrub.state == "waiting"
    tier.store.before_load = before
    await running.until(lambda scrub: scrub.tally.checked == 3)
    await running.end()


async def test_a_value_that_can_not_be_read_holds_up_no_other(
    new_tier: NewTier, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    tier = await new_tier()
    await fill(tier, 3)
    await tier.send("SET large " + os.urandom(400_000).hex())  # so that it is not read with others

    async def before_load() -> None:
        if tier.store.loads[-1] == (b"large", Want.WHOLE):
            raise StoreError("it takes too long")

    tier.store.before_load = before_load
    with caplog.at_level(logging.INFO):
        running = Running(tier, clock, "one")
        await running.until(lambda scrub: scrub.state == "idle")
    await running.end()
    assert (running.scrub.tally.checked, running.scrub.tally.unknown) == (4, 1)
    assert "backend 'local': 4 records are scrubbed; 0 are damaged, 1 can't be read" in caplog.text
    assert "b'large' is unknown: it takes too long" in caplog.text


async def test_clients_go_first(new_tier: NewTier, clock: ManualClock) -> None:
    tier = await new_tier()
    await fill(tier, 3)
    gate = tier.store.before_load = Gate()
    replies = [tier.send(f"GET n{number}") for number in range(tier.store.concurrency)]
    await gate.reached.wait()
    tier.store.before_load = _pass
    running = Running(tier, clock, "one")
    await running.until(lambda scrub: scrub.state == "running")
    await asyncio.sleep(0)
    assert running.scrub.tally.checked == 0
    gate.open()
    assert await asyncio.gather(*replies) == [None] * len(replies)
    await running.until(lambda scrub: scrub.tally.checked == 3)
    await running.end()


async def test_a_document_that_is_not_understood_is_written_anew(
    new_tier: NewTier, clock: ManualClock
) -> None:
    tier = await new_tier()
    await fill(tier, 3)
    await write_document(tier.store, DOCUMENT, b'{"db": "all"}', None)
    running = Running(tier, clock, "one")
    await running.until(lambda scrub: scrub.progress.last_checked == 3)
    await running.end()


async def _pass() -> None:
    pass
