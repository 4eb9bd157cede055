"""Failovers by sentinels while clients write and read back counters of their own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Final

import hiredis
import pytest

from tests.faults.load import CODES, Client
from tests.homes import toml
from tests.sentinels import Watched, hung
from tests.servers import RedtierServer, eventually

pytestmark = [pytest.mark.once, pytest.mark.timeout(150)]

CLIENTS: Final = 50
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


class Counter:
    """A client that counts, one by one, and looks each time what its count is."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(8)
        self.count = 0  # the last reply
        self.maybe = 0  # increments since then of which nobody knows
        self.answered: list[float] = []  # when, by the loop's time
        self.failed_at = 0.0  # last
        self.error = ""
        self.setbacks = 0  # an acknowledged increment was gone: the new primary had not got it
        self.stopping = False

    async def run(self, port: int) -> None:
        async with await Client.connect(port) as client:
            while not self.stopping:
                self.maybe += 1
                count = await client.ask("INCR", self.name)
                if not self._failed(count):
                    self._take(count, 1)
                count = await client.ask("GET", self.name)
                if not self._failed(count):
                    self._take(int(count or 0), 0)
                    self.answered.append(asyncio.get_running_loop().time())
                await asyncio.sleep(0.01)

    def _take(self, count: int, least: int) -> None:
        assert count <= self.count + self.maybe, f"{self.name}: {count}, which was never counted"
        if count < self.count + least:
            self.setbacks += 1
        self.count, self.maybe = count, 0

    def _failed(self, reply: Any) -> bool:
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            assert text.split(" ", 1)[0] in CODES, text
            self.error = text
            self.failed_at = asyncio.get_running_loop().time()
            return True
        return False


@asynccontextmanager
async def counting(port: int) -> AsyncIterator[list[Counter]]:
    counters = [Counter() for _ in range(CLIENTS)]
    async with asyncio.TaskGroup() as group:
        for counter in counters:
            group.create_task(counter.run(port))
        try:
            await eventually(lambda: all(counter.count > 5 for counter in counters))
            yield counters
        finally:
            for counter in counters:
                counter.stopping = True


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
