"""A connection to a Redis that listens: what it brings unasked is what it is there for."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import cast

import hiredis

from backends.base import StoreError
from backends.redis import Connection, RedisUpstream
from proxy.errors import CommandError
from proxy.resp import Argv, encode_command


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
        self._lost.exception()  # is told once, by whoever awaits it
        self._greeted.exception()
        self.close()

    def give_up(self, reason: str, retry: bool = False) -> None:
        self._lose(StoreError(f"{self.endpoint}: {reason}"))

    def close(self) -> None:
        self._upstream.forget(self)
        if self._transport is not None:
            self._transport.abort()
