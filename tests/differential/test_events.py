"""Keyspace events: the same requests must tell of the same things, in the same order, as in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.keyspace import EventSink
from tests.differential.frames import decode
from tests.differential.targets import HandlerTarget, SocketTarget, connect
from tests.differential.test_corpus import SEQUENCES
from tests.servers import RedisServer

Event = tuple[int, str, bytes]


class Told(EventSink):
    def __init__(self) -> None:
        self.events: list[Event] = []

    def event(self, db: int, name: str, key: bytes) -> None:
        self.events.append((db, name, key))


@pytest.fixture
async def telling(redis_server: RedisServer) -> AsyncIterator[RedisServer]:
    async with connect(redis_server.port, 2) as admin:
        await admin.send([b"CONFIG", b"SET", b"notify-keyspace-events", b"EA"])
        yield redis_server
        await admin.send([b"CONFIG", b"SET", b"notify-keyspace-events", b""])


async def events_until_end(subscriber: SocketTarget) -> list[Event]:
    events: list[Event] = []
    while True:
        async with asyncio.timeout(10):
            _, _, channel, key = decode(await subscriber.next_frame())
        if channel == b"__keyevent@0__:end":
            return events
        db, _, name = channel.removeprefix(b"__keyevent@").partition(b"__:")
        events.append((int(db), name.decode(), key))


@pytest.mark.parametrize("title", SEQUENCES)
async def test_a_sequence_tells_what_it_tells_in_redis(telling: RedisServer, title: str) -> None:
    target = HandlerTarget(proto=2)
    told = target.backend.sink = Told()
    async with connect(telling.port, 2) as redis, connect(telling.port, 2) as subscriber:
        await subscriber.send([b"PSUBSCRIBE", b"__keyevent@*__:*"])
        await redis.send_all(SEQUENCES[title])
        await redis.send([b"PUBLISH", b"__keyevent@0__:end", b""])
        expected = await events_until_end(subscriber)
    await target.send_all(SEQUENCES[title])
    assert told.events == expected
