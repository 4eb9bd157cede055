"""One connection to a Redis for all that our clients subscribe to there.

It is made when the first channel is wanted, and again whenever it was lost: then all is subscribed to anew.
What was published in between is lost, as it is for any subscriber of Redis whose connection breaks.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, cast

import hiredis

from backends.base import Message, StoreError, Subscriber, Subscription
from backends.redis import Connection, RedisUpstream
from proxy.errors import CommandError
from proxy.resp import encode_command

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
                await link.watch()
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


class _Link(Connection):
    """The connection of a subscriber."""

    def __init__(self, subscriber: RedisSubscriber, upstream: RedisUpstream, message: Message) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self._greeted: asyncio.Future[None] = loop.create_future()
        self._subscriber = subscriber
        self._upstream = upstream
        self._message = message
        self._greeting = upstream.greeting(0, 2)
        self._unanswered = self._greeting[::-1]
        self._reader = hiredis.Reader(replyError=CommandError)
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[None] = loop.create_future()
        self._heard = True  # since the last look

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        for argv in self._greeting:
            self.send(*argv)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except Exception as error:
            self._lose(error)

    def _take(self, reply: object) -> None:
        if self._unanswered:
            self._upstream.check(self.endpoint, self._unanswered.pop(), reply)
            if not self._unanswered and not self._greeted.done():
                self._greeted.set_result(None)
        elif isinstance(reply, CommandError):
            raise reply
        elif isinstance(reply, list):
            kind = reply[0]
            if kind in UNDO:
                self._subscriber.took(Subscription(kind, reply[1]))
            elif kind == b"pmessage":
                self._message(kind, reply[1], reply[2], reply[3])
            elif kind in (b"message", b"smessage"):
                self._message(kind, reply[1], reply[1], reply[2])

    def send(self, *argv: bytes) -> None:
        if self._transport is not None:
            self._transport.write(encode_command(list(argv)))

    async def greeted(self) -> None:
        await self._greeted

    async def watch(self) -> None:
        """Return by raising what ended the connection; a silent upstream does too."""
        while True:
            self._heard = False
            self.send(b"PING")
            await asyncio.wait([self._lost], timeout=PING_EVERY)
            if self._lost.done():
                self._lost.result()
            if not self._heard:
                raise StoreError("no answer to PING")

    def connection_lost(self, error: Exception | None) -> None:
        self._lose(error or ConnectionResetError("the connection was closed"))

    def _lose(self, error: Exception) -> None:
        for future in (self._greeted, self._lost):
            if not future.done():
                future.set_exception(error)
        self._lost.exception()  # is told once, by whoever awaits it
        self._greeted.exception()
        self.close()

    def give_up(self, reason: str, retry: bool = False) -> None:
        self._lose(StoreError(f"{self.endpoint}: {reason}"))

    def close(self) -> None:
        self._upstream.forget(self)
        if self._transport is not None:
            self._transport.abort()
