"""One connection to a Redis for all that our clients subscribe to there.

It is made when the first channel is wanted, and again whenever it was lost: then all is subscribed to anew.
What was published in between is lost, as it is for any subscriber of Redis whose connection breaks.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from backends.base import Message, StoreError, Subscriber, Subscription
from backends.redis import RedisUpstream
from backends.redis_listener import Listener

log = logging.getLogger("redtier.subscriber")

PING_EVERY: Final = 15.0  # seconds: so often an upstream must show that it is there

UNDO: Final = {
    b"subscribe": b"unsubscribe",
    b"psubscribe": b"punsubscribe",
    b"ssubscribe": b"sunsubscribe",
}


class RedisSubscriber(Subscriber):
    """What is wanted of one upstream, and the connection that brings it."""

    def __init__(self, upstream: RedisUpstream, message: Message) -> None:
        self._upstream = upstream
        self._message = message
        self._wanted: dict[Subscription, asyncio.Future[None]] = {}  # done once the upstream has said so
        self._link: _Link | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def want(self, names: list[Subscription]) -> None:
        """Subscribe, and return when it is so; raises StoreError where the upstream can't be asked now."""
        loop = asyncio.get_running_loop()
        new = [name for name in names if name not in self._wanted]
        for name in new:
            self._wanted[name] = loop.create_future()
        if self._keeper is None:
            self._keeper = loop.create_task(self._keep())
        if self._link is not None:
            for name in new:
                self._link.send(name.command, name.name)
        try:
            async with asyncio.timeout(self._upstream.connect_timeout / 1000):
                for name in names:
                    await asyncio.shield(self._wanted[name])
        except TimeoutError:
            for name in new:
                self._wanted.pop(name, None)
            raise StoreError("it can't be subscribed to: it does not answer") from None

    def drop(self, name: Subscription) -> None:
        """Nobody wants it any more."""
        future = self._wanted.pop(name, None)
        if future is not None:
            future.cancel()
            if self._link is not None:
                self._link.send(UNDO[name.command], name.name)

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def _keep(self) -> None:
        """Connect again and again, until cancelled."""
        upstream = self._upstream
        attempt = 0
        while True:
            link = _Link(self, upstream, self._message)
            try:
                await upstream.reconnect(link, attempt)
                self._link = link
                attempt = 0
                for name in self._wanted:
                    link.send(name.command, name.name)
                await link.watch(PING_EVERY)
            except Exception as error:
                log.warning("backend '%s': no subscriptions: %s", upstream.name, upstream.reason(error))
            finally:
                self._link = None
                link.close()
            attempt += 1

    def took(self, name: Subscription) -> None:
        """The upstream says that we are subscribed."""
        future = self._wanted.get(name)
        if future is not None and not future.done():
            future.set_result(None)


class _Link(Listener):
    """The connection of a subscriber."""

    def __init__(self, subscriber: RedisSubscriber, upstream: RedisUpstream, message: Message) -> None:
        super().__init__(upstream, upstream.greeting(0, 2))
        self._subscriber = subscriber
        self._message = message

    def take(self, reply: object) -> None:
        if isinstance(reply, list):
            kind = reply[0]
            if kind in UNDO:
                self._subscriber.took(Subscription(kind, reply[1]))
            elif kind == b"pmessage":
                self._message(kind, reply[1], reply[2], reply[3])
            elif kind in (b"message", b"smessage"):
                self._message(kind, reply[1], reply[1], reply[2])
