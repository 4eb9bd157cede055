"""A Redis that hangs under load: the clients of another one are served, and memory does not grow.

How long these wait meanwhile is measured by ``bench/hang.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import hiredis
import pytest

from tests.faults.load import CODES, Client
from tests.homes import toml
from tests.sentinels import hung
from tests.servers import RedisServer, RedtierServer, eventually

pytestmark = pytest.mark.once

CLIENTS: Final = 50  # of each Redis
TIMEOUT: Final = "1s"
HUNG: Final = 5.0  # seconds
MB: Final = 1 << 20
VALUE: Final = "x" * 100


@pytest.fixture
def servers() -> Iterator[tuple[RedtierServer, RedisServer]]:
    with RedisServer() as well, RedisServer() as ill:
        tables = {
            "backends.well": {"type": "redis", "url": well.url},
            "backends.ill": {"type": "redis", "url": ill.url, "timeout": TIMEOUT},
        }
        with RedtierServer(toml(tables, {"": "well", "ill:": "ill"})) as redtier:
            yield redtier, ill


class Crowd:
    """Clients at work, and what those of the ill one are told."""

    def __init__(self) -> None:
        self.well_done = [0] * CLIENTS
        self.ill_done = [0] * CLIENTS
        self.told: set[str] = set()
        self.stopping = False

    async def well(self, port: int, number: int) -> None:
        async with await Client.connect(port) as client:
            while not self.stopping:
                assert await client.ask("SET", f"well:{number}", VALUE) == b"OK"
                self.well_done[number] += 1
                await asyncio.sleep(0.01)

    async def ill(self, port: int, number: int) -> None:
        async with await Client.connect(port) as client:
            while not self.stopping:
                commands = [("SET", f"ill:{number}", VALUE), ("GET", f"ill:{number}")] * 8
                for reply in await client.pipeline(commands):
                    if isinstance(reply, hiredis.ReplyError):
                        self.told.add(str(reply).split(" ")[0])
                    else:
                        self.ill_done[number] += 1
                await asyncio.sleep(0.02)


def memory(server: RedtierServer) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


async def test_others_are_served_as_before_and_memory_does_not_grow(
    servers: tuple[RedtierServer, RedisServer],
) -> None:
    redtier, ill = servers
    crowd = Crowd()

    async def all_more(done: list[int]) -> None:
        before = list(done)
        await eventually(lambda: all(now > then for now, then in zip(done, before, strict=True)))

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(crowd.well(redtier.port, number))
            group.create_task(crowd.ill(redtier.port, number))
        try:
            await all_more(crowd.ill_done)
            assert not crowd.told
            before = memory(redtier)
            with hung(ill):
                until = time.monotonic() + HUNG
                while time.monotonic() < until:
                    await all_more(crowd.well_done)
                assert memory(redtier) - before < 20 * MB
            await all_more(crowd.ill_done)
        finally:
            crowd.stopping = True
    assert crowd.told == CODES
