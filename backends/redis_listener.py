"""A connection to a Redis that listens: what it brings unasked is what it is there for."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import cast

import hiredis

from backends.base import StoreError
from proxy.errors import CommandError
from proxy.resp import Argv, encode_command


class Listener(asyncio.Protocol):
    """One connection; it begins with a greeting, of whose replies only errors matter."""

    def __init__(self, greeting: list[Argv]) -> None:
        loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = loop.create_future()
        self._greeting = greeting
        self._answered = 0  # of the greeting
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
        if self._answered < len(self._greeting):
            command = self._greeting[self._answered][0]
            # A user who may not PING may be all the same who was meant.
            if isinstance(reply, CommandError) and (command != b"PING" or reply.code != "NOPERM"):
                raise reply
            self._answered += 1
            if self._answered == len(self._greeting) and not self.greeted.done():
                self.greeted.set_result(None)
        elif isinstance(reply, CommandError):
            raise reply
        else:
            self.take(reply)

    def send(self, *argv: bytes) -> None:
        if self._transport is not None:
            self._transport.write(encode_command(list(argv)))

    async def watch(self, every: float) -> None:
        """Return by raising what ended the connection, a silence of ``every`` seconds too."""
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
        for future in (self.greeted, self._lost):
            if not future.done():
                future.set_exception(error)
        self._lost.exception()  # is told once, by whoever awaits it
        self.greeted.exception()
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
