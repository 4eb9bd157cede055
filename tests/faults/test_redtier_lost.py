"""A redtier that is killed, and clients whose connections to it are cut: what was acknowledged is there."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests import s3
from tests.faultproxy import Direction, FaultProxy
from tests.faults.load import Client, load
from tests.homes import PREFIXES, config, wait_for_homes
from tests.servers import MotoServer, PostgresServer, RedisServer, RedtierServer, eventually

pytestmark = pytest.mark.once

LASTING = [prefix for kind, prefix in PREFIXES.items() if kind != "memory"]


@pytest.fixture(scope="module")
def redtier(
    mortal_redis: RedisServer, mortal_postgres: PostgresServer, s3_moto: MotoServer
) -> Iterator[RedtierServer]:
    with RedtierServer(config(mortal_redis.url, mortal_postgres.url, s3.place(s3_moto))) as redtier:
        wait_for_homes(redtier.port)
        yield redtier


async def test_killed_under_load_it_has_lost_nothing_that_it_acknowledged(redtier: RedtierServer) -> None:
    before = []
    for _ in range(3):
        async with load(redtier.port, PREFIXES.values(), mortal=True) as at_work:
            await at_work.progress(*PREFIXES.values())
            redtier.kill()
        redtier.start()
        async with await Client.connect(redtier.port) as client:
            await client.until_served(*LASTING)
        before.append(at_work)
        for each in before:
            await each.verify(redtier.port, *LASTING)


@pytest.mark.parametrize("direction", Direction)
async def test_clients_that_are_cut_off_harm_nobody_else(
    direction: Direction, redtier: RedtierServer
) -> None:
    places = random.Random(direction.name)
    async with await Client.connect(redtier.port) as client:
        with FaultProxy(redtier.port) as network:
            async with load(redtier.port, PREFIXES.values()) as others:
                for _ in range(10):
                    async with load(network.port, PREFIXES.values(), mortal=True) as cut_off:
                        network.truncate(direction, places.randrange(1, 5000))
                        await eventually(lambda: not network.truncating(direction))
                    await cut_off.verify(redtier.port, *PREFIXES.values())
                assert not others.errors(*PREFIXES.values())
            await others.verify(redtier.port, *PREFIXES.values())

        async def left() -> int:
            info: bytes = await client.ask("INFO", "clients")
            return int(info.partition(b"connected_clients:")[2].split()[0])

        counts = [await left()]
        while counts[-1] > 1:
            counts.append(await left())


async def test_half_a_request_is_never_executed(redtier: RedtierServer) -> None:
    request = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$5\r\nvalue\r\n"
    async with await Client.connect(redtier.port) as client:
        for prefix in PREFIXES.values():
            key = prefix.encode() + b"half"
            whole = request % (len(key), key)
            for end in range(1, len(whole)):
                async with await Client.connect(redtier.port) as stranger:
                    stranger.writer.write(whole[:end])
                    stranger.writer.write_eof()
                    assert await stranger.reader.read() == b""
            assert await client.ask("EXISTS", key) == 0
