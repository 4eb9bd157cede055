"""A Redis that does not keep up: who comes too many waits, or is refused at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.request import urlopen

import pytest

from tests.faults.load import Client
from tests.homes import toml
from tests.sentinels import hung
from tests.servers import RedisServer, RedtierServer, free_port

pytestmark = pytest.mark.once

Start = Callable[[str], tuple[RedtierServer, RedisServer]]
HTTP = free_port()
IN_FLIGHT_MAX = 100
FILL = [("INCR", "n")] * 60  # of each of two clients: what began is sent whole


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def start(overload: str) -> tuple[RedtierServer, RedisServer]:
            upstream = stack.enter_context(RedisServer())
            main = {"type": "redis", "url": upstream.url, "timeout": "30s", "in_flight_max": IN_FLIGHT_MAX}
            tables = {
                "backends.main": {**main, "overload": overload},
                "backends.hot": {"type": "memory"},
                "http": {"listen": f"127.0.0.1:{HTTP}"},
            }
            return stack.enter_context(RedtierServer(toml(tables, {"": "main", "hot:": "hot"}))), upstream

        yield start


async def test_who_comes_too_many_is_refused_at_once(start: Start) -> None:
    redtier, upstream = start("refuse")
    async with (
        await Client.connect(redtier.port) as one,
        await Client.connect(redtier.port) as two,
        await Client.connect(redtier.port) as client,
    ):
        await client.ask("SET", "n", 0)
        with hung(upstream):
            filling = [asyncio.create_task(each.pipeline(FILL)) for each in (one, two)]
            async with asyncio.timeout(5):
                while b"in_flight=120" not in await client.ask("INFO", "tiers"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            began = time.monotonic()
            for _ in range(200):
                replies = await client.pipeline([("SET", "hot:k", 1), ("INCR", "n"), ("GET", "hot:k")])
                assert replies[::2] == [b"OK", b"1"]
                assert str(replies[1]).startswith("UPSTREAM backend 'main': as much waits for it as may ")
                assert "was not executed" in str(replies[1])
            for blocking in (("BLPOP", "q", 0), ("MGET", "n", "hot:k")):
                assert str(await client.ask(*blocking)).startswith("UPSTREAM backend 'main': as much waits")
            assert time.monotonic() - began < 5
        first, second = await asyncio.gather(*filling)
        assert sorted(first + second) == list(range(1, 121))
        assert await client.ask("INCR", "n") == 121  # none of what was refused
    metrics = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{HTTP}/metrics", timeout=10).read())
    assert b'\nredtier_upstream_overloaded_total{backend="main"} 202.0\n' in metrics


async def test_or_waits_and_is_served(start: Start) -> None:
    redtier, upstream = start("wait")
    async with await Client.connect(redtier.port) as one, await Client.connect(redtier.port) as two:
        await one.ask("SET", "n", 0)
        with hung(upstream):
            filling = [asyncio.create_task(each.pipeline(FILL * 5)) for each in (one, two)]
            async with await Client.connect(redtier.port) as other:
                async with asyncio.timeout(5):
                    while b"in_flight=1" not in await other.ask("INFO", "tiers"):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                for _ in range(100):
                    assert await other.ask("SET", "hot:k", 1) == b"OK"
                assert b"in_flight=1" in await other.ask("INFO", "tiers")  # a hundred and some: it is full
        first, second = await asyncio.gather(*filling)
        assert sorted(first + second) == list(range(1, 601))
