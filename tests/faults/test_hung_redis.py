"""A Redis that hangs under load: the clients of another one don't notice, and memory does not grow."""

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
from tests.servers import RedisServer, RedtierServer

pytestmark = pytest.mark.once

CLIENTS: Final = 50  # of each Redis
AT_REST: Final = 4.0  # seconds
HUNG: Final = 12.0
MB: Final = 1 << 20
VALUE: Final = "x" * 100


@pytest.fixture
def servers() -> Iterator[tuple[RedtierServer, RedisServer]]:
    with RedisServer() as well, RedisServer() as ill:
        tables = {
            "backends.well": {"type": "redis", "url": well.url},
            "backends.ill": {"type": "redis", "url": ill.url},
        }
        with RedtierServer(toml(tables, {"": "well", "ill:": "ill"})) as redtier:
            yield redtier, ill


class Crowd:
    """Clients at work; ``times`` are the seconds that each of the well one's replies took."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.stopping = False

    async def well(self, port: int, number: int) -> None:
        async with await Client.connect(port) as client:
            while not self.stopping:
                began = time.perf_counter()
                assert await client.ask("SET", f"well:{number}", VALUE) == b"OK"
                self.times.append(time.perf_counter() - began)
                await asyncio.sleep(0.01)

    async def ill(self, port: int, number: int) -> None:
        async with await Client.connect(port) as client:
            while not self.stopping:
                commands = [("SET", f"ill:{number}", VALUE), ("GET", f"ill:{number}")] * 8
                for reply in await client.pipeline(commands):
                    failed = isinstance(reply, hiredis.ReplyError)
                    assert not failed or str(reply).split(" ")[0] in CODES, reply
                await asyncio.sleep(0.05)

    def percentile(self) -> float:
        times, self.times = sorted(self.times), []
        return times[len(times) * 99 // 100]


def memory(server: RedtierServer) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


async def test_others_are_served_as_before_and_memory_does_not_grow(
    servers: tuple[RedtierServer, RedisServer],
) -> None:
    redtier, ill = servers
    crowd = Crowd()
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(crowd.well(redtier.port, number))
            group.create_task(crowd.ill(redtier.port, number))
        try:
            await asyncio.sleep(1)
            crowd.percentile()
            await asyncio.sleep(AT_REST)
            at_rest, before = crowd.percentile(), memory(redtier)
            with hung(ill):
                await asyncio.sleep(HUNG)
                during, grown = crowd.percentile(), memory(redtier) - before
        finally:
            crowd.stopping = True
    print(f"p99 {at_rest * 1e3:.2f} ms at rest, {during * 1e3:.2f} ms; {grown / MB:.1f} MB more")
    assert during < 1.5 * at_rest
    assert grown < 20 * MB
