"""Clients that count: what they are answered shows each write that was lost, repeated or answered wrongly."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from typing import Any, Final

import hiredis

from tests.faults.load import CODES, Client
from tests.servers import eventually

CLIENTS: Final = 50


class Counter:
    """A client that counts, one by one, and looks each time what its count is."""

    def __init__(self, codes: Set[str]) -> None:
        self.codes = codes
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
            assert text.split(" ", 1)[0] in self.codes, text
            self.error = text
            self.failed_at = asyncio.get_running_loop().time()
            return True
        return False


@asynccontextmanager
async def counting(port: int, codes: Set[str] = CODES) -> AsyncIterator[list[Counter]]:
    """Clients that count until the end; ``codes`` are the errors that they may get."""
    counters = [Counter(codes) for _ in range(CLIENTS)]
    async with asyncio.TaskGroup() as group:
        for counter in counters:
            group.create_task(counter.run(port))
        try:
            await eventually(lambda: all(counter.count > 5 for counter in counters))
            yield counters
        finally:
            for counter in counters:
                counter.stopping = True
