"""A connection to a Redis that listens: what it brings unasked is what it is there for."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from typing import cast

import hiredis

from backends.base import StoreError
from backends.redis import Connection, RedisUpstream
from proxy.errors import CommandError
from proxy.resp import Argv, encode_command

log = logging.getLogger("redtier.listener")


class Keeper:
    """Keeps one such connection, from ``keep`` on.

    ``every`` is how many seconds it may be silent; ``without`` says for the log what there is not without it.
    """

    def __init__(self, upstream: RedisUpstream, every: float, without: str) -> None:
        self.upstream = upstream
        self._every = every
        self._without = without
        self._work: asyncio.Task[None] | None = None

    @abstractmethod
    def listener(self) -> Listener:
        """A new connection, which is yet to be made."""

    @abstractmethod
    def began(self, listener: Listener) -> None:
        """It is there."""

    @abstractmethod
    def ended(self) -> None:
        """It is not there, or not any more."""

    def keep(self) -> None:
        if self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def _keep(self) -> None:
        """Connect again and again, until cancelled."""
        upstream = self.upstream
        attempt = 0
        while True:
            listener = self.listener()
            try:
                await upstream.reconnect(listener, attempt)
                attempt = 0
                self.began(listener)
                await listener.watch(self._every)
            except Exception as error:
                if attempt == 0:  # it is tried again and again: once tells it
                    log.warning("backend '%s': %s: %s", upstream.name, self._without, upstream.reason(error))
            finally:
                self.ended()
                listener.close()
            attempt += 1


class Listener(Connection):
    """One connection, which begins with a greeting."""

    def __init__(self, upstream: RedisUpstream, greeting: list[Argv]) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self._greeted: asyncio.Future[None] = loop.create_future()
        self._upstream = upstream
        self._greeting = greeting
        self._unanswered = greeting[::-1]
        self._reader = hiredis.Reader(replyError=CommandError)
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[None] = loop.create_future()
        self._heard = True  # since the last look

    @abstractmethod
    def take(self, reply: object) -> None:
        """Something that came after the greeting, which is no error."""

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
            if reply.code != "MOVED":  # a shard channel's slot has: whoever wants it asks elsewhere
                raise reply
        else:
            self.take(reply)

    def send(self, *argv: bytes) -> None:
        if self._transport is not None:
            self._transport.write(encode_command(list(argv)))

    async def greeted(self) -> None:
        await self._greeted

    async def watch(self, every: float) -> None:
        """Return by raising what ended the connection; a silence of ``every`` seconds does too."""
        while True:
            self._heard = False
            self.send(b"PING")
            await asyncio.wait([self._lost], timeout=every)
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
                future.exception()  # whoever awaits it is told, and there may be nobody
        self.close()

    def give_up(self, reason: str, retry: bool = False) -> None:
        self._lose(StoreError(f"{self.endpoint}: {reason}"))

    def close(self) -> None:
        self._upstream.forget(self)
        if self._transport is not None:
            self._transport.abort()
