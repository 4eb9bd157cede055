"""One connection to a Redis for all that our clients subscribe to there.

It is made when the first channel is wanted, and again whenever it was lost: then all is subscribed to anew.
What was published in between is lost, as it is for any subscriber of Redis whose connection breaks.
"""

from __future__ import annotations

import asyncio
from typing import Final

from backends.base import Message, StoreError, Subscriber, Subscription
from backends.redis import RedisUpstream
from backends.redis_listener import Keeper, Listener

PING_EVERY: Final = 15.0  # seconds: so often an upstream must show that it is there

UNDO: Final = {
    b"subscribe": b"unsubscribe",
    b"psubscribe": b"punsubscribe",
    b"ssubscribe": b"sunsubscribe",
}


class RedisSubscriber(Keeper, Subscriber):
    """What is wanted of one upstream, and the connection that brings it."""

    def __init__(self, upstream: RedisUpstream, message: Message) -> None:
        super().__init__(upstream, PING_EVERY, "no subscriptions")
        self._message = message
        self._wanted: dict[Subscription, asyncio.Future[None]] = {}  # done once the upstream has said so
        self._link: Listener | None = None

    async def want(self, names: list[Subscription]) -> None:
        """Subscribe, and return when it is so; raises StoreError where the upstream can't be asked now."""
        loop = asyncio.get_running_loop()
        new = [name for name in names if name not in self._wanted]
        for name in new:
            self._wanted[name] = loop.create_future()
        self.keep()
        if self._link is not None:
            for name in new:
                self._link.send(name.command, name.name)
        try:
            async with asyncio.timeout(self.upstream.connect_timeout / 1000):
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

    def listener(self) -> Listener:
        return _Link(self, self._message)

    def began(self, listener: Listener) -> None:
        self._link = listener
        for name in self._wanted:
            listener.send(name.command, name.name)

    def ended(self) -> None:
        self._link = None

    def took(self, name: Subscription) -> None:
        """The upstream says that we are subscribed."""
        future = self._wanted.get(name)
        if future is not None and not future.done():
            future.set_result(None)


class _Link(Listener):
    """The connection of a subscriber."""

    def __init__(self, subscriber: RedisSubscriber, message: Message) -> None:
        super().__init__(subscriber.upstream, subscriber.upstream.greeting(0, 2))
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
