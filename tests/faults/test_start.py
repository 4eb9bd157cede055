"""A server that is started before its backends are there."""

from __future__ import annotations

import asyncio

import hiredis
import pytest

from tests import s3
from tests.faultproxy import FaultProxy
from tests.faults.load import Client
from tests.homes import PREFIXES, config
from tests.servers import MotoServer, PostgresServer, RedisServer, RedtierServer

pytestmark = pytest.mark.once


async def test_it_serves_what_it_can_and_the_rest_when_it_comes(s3_moto: MotoServer) -> None:
    redis, postgres = RedisServer(), PostgresServer(fast=True)
    with FaultProxy(s3_moto.port) as network:
        network.refuse()
        place = {**s3.place(s3_moto), "endpoint_url": f"http://127.0.0.1:{network.port}"}
        with RedtierServer(config(redis.url, postgres.url, place)) as redtier:
            async with await Client.connect(redtier.port) as client:

                async def served() -> set[str]:
                    keys = [prefix + "key" for prefix in PREFIXES.values()]
                    replies = await client.pipeline([("SET", key, "value") for key in keys])
                    for reply in replies:
                        if isinstance(reply, hiredis.ReplyError):
                            assert str(reply).startswith("BACKENDDOWN backend '"), reply
                    return {kind for kind, reply in zip(PREFIXES, replies, strict=True) if reply == b"OK"}

                async def serves(*kinds: str) -> None:
                    async with asyncio.timeout(20):
                        while (now := await served()) != {"memory", "sqlite", *kinds}:
                            assert now < {"memory", "sqlite", *kinds}
                            await asyncio.sleep(0.02)

                assert await served() == {"memory", "sqlite"}
                with redis:
                    await serves("redis")
                    with postgres:
                        await serves("redis", "postgres")
                        network.refuse(False)
                        await serves("redis", "postgres", "s3")
