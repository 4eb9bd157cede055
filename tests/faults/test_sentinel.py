"""Failovers by sentinels while clients write and read back counters of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from typing import Final

import pytest

from tests.faults.counters import counting
from tests.faults.load import Client
from tests.homes import toml
from tests.sentinels import Watched, hung
from tests.servers import RedtierServer

pytestmark = [pytest.mark.once, pytest.mark.timeout(150)]

ALLOWED: Final = 1.0  # seconds that we may take beyond the sentinels' own failover


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with Watched() as watched:
        yield watched


@pytest.fixture(scope="module")
def redtier(watched: Watched) -> Iterator[RedtierServer]:
    tables = {"backends.main": {"type": "redis", "url": watched.url}}
    with RedtierServer(toml(tables, {"": "main"})) as redtier:
        yield redtier


async def switched(watched: Watched) -> float:
    """When the first of the sentinels said that another node is the primary, by the loop's time."""
    async with AsyncExitStack() as stack:
        watchers = []
        for sentinel in watched.sentinels:
            client = await stack.enter_async_context(await Client.connect(sentinel.port))
            await client.ask("SUBSCRIBE", "+switch-master")
            watchers.append(asyncio.create_task(client.reply()))
        await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
        at = asyncio.get_running_loop().time()
        for watcher in watchers:
            watcher.cancel()
        await asyncio.wait(watchers)
    return at


@contextmanager
def asked(watched: Watched) -> Iterator[None]:
    watched.fail_over()
    yield


@contextmanager
def killed(watched: Watched) -> Iterator[None]:
    primary = watched.primary
    primary.kill()
    try:
        yield
    finally:
        primary.start()


@contextmanager
def stopped(watched: Watched) -> Iterator[None]:
    with hung(watched.primary):
        yield


@pytest.mark.parametrize("failing", [asked, killed, stopped])
async def test_a_failover_costs_errors_for_no_longer_than_the_sentinels_need(
    failing: Callable[[Watched], AbstractContextManager[None]], watched: Watched, redtier: RedtierServer
) -> None:
    watched.settle()
    before = watched.primary
    async with counting(redtier.port) as counters:
        await asyncio.sleep(0.5)
        assert not any(counter.failed_at or counter.setbacks for counter in counters)
        switch = asyncio.create_task(switched(watched))
        await asyncio.sleep(0.1)
        with failing(watched):
            at = await switch
            await asyncio.sleep(ALLOWED + 0.5)
            for counter in counters:
                assert counter.failed_at < at + ALLOWED, counter.error
                assert any(at < answered < at + ALLOWED for answered in counter.answered)
            setbacks = [counter.setbacks for counter in counters]
        await asyncio.to_thread(watched.settle)  # the old primary has become a replica
        # Nobody was sent from one node to the other and back.
        assert max(setbacks) <= 1
        assert [counter.setbacks for counter in counters] == setbacks
        assert all(counter.failed_at < at + ALLOWED for counter in counters)
    assert watched.primary is not before
    with watched.primary.client() as client:
        assert [int(client.get(counter.name)) for counter in counters] == [c.count for c in counters]
