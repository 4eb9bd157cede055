"""Clients at work while things go wrong, which hold the server to every promise that it has made them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import hiredis

from proxy.resp import encode_command
from tests.servers import eventually

TIMEOUT: Final = 30.0  # seconds for the replies to one pipeline
# Seconds between rounds, so that the quick ones leave time to the slow ones, those with errors above all.
PAUSE: Final = 0.001
PAUSE_FAILED: Final = 0.05
REFUSED: Final = "can't serve now"  # in the error of a command that was not executed
CODES: Final = {"BACKENDDOWN", "UPSTREAM"}  # what a client is told while a backend is in trouble


class Client:
    """A connection that sends pipelines and gives replies as values; an error reply is one of them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.parser = hiredis.Reader()

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.writer.close()

    async def ask(self, *argv: str | bytes | int) -> Any:
        return (await self.pipeline([argv]))[0]

    async def pipeline(self, commands: Iterable[tuple[str | bytes | int, ...]]) -> list[Any]:
        """The replies, in order; reads while it writes.  Raises OSError when the connection ends."""
        requests = [encode_command([_bytes(word) for word in argv]) for argv in commands]
        self.writer.write(b"".join(requests))
        async with asyncio.timeout(TIMEOUT):
            return [await self.reply() for _ in requests]

    async def reply(self) -> Any:
        """The next reply, or message."""
        while (reply := self.parser.gets()) is False:
            data = await self.reader.read(1 << 20)
            if not data:
                raise ConnectionResetError
            self.parser.feed(data)
        return reply

    async def until_served(self, *prefixes: str) -> None:
        """Return once no backend of these prefixes is down; one may be slow to open."""
        async with asyncio.timeout(TIMEOUT):
            for prefix in prefixes:
                while isinstance(await self.ask("EXISTS", prefix), hiredis.ReplyError):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)


def _bytes(word: str | bytes | int) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


class Writer:
    """One client that writes under a prefix without pause, and knows what must be there afterwards.

    Each round is a pipeline: a counter goes up, a new key gets a value that no other has, one key is
    overwritten, and the key of the round before is read.
    """

    def __init__(self, port: int, prefix: str, mortal: bool) -> None:
        self.port = port
        self.mortal = mortal
        self.name = prefix + secrets.token_hex(4)
        self.rounds = 0
        self.successes = 0  # rounds without an error, in a row
        self.failures = 0  # rounds with one
        self.errors: set[str] = set()
        self.stopping = False
        self._counted = 0  # increments acknowledged
        self._maybe_counted = 0  # increments of which nobody knows
        self._count = 0  # the last reply
        self._written: list[bytes] = []  # by number of the key
        self._maybe_written: set[int] = set()
        self._refused: set[int] = set()
        self._latest: set[bytes | None] = {None}  # what the overwritten key may be

    async def run(self) -> None:
        """Until ``stopping``, or until the connection is lost."""
        try:
            async with await Client.connect(self.port) as client:
                while not self.stopping:
                    failures = self.failures
                    await self._round(client)
                    await asyncio.sleep(PAUSE if self.failures == failures else PAUSE_FAILED)
        except ConnectionError:
            if not self.mortal:
                raise

    async def _round(self, client: Client) -> None:
        number = self.rounds
        value = secrets.token_bytes(48)
        # What is sent may happen, until it is known that it has or has not.
        self._maybe_counted += 1
        self._written.append(value)
        self._maybe_written.add(number)
        self._latest.add(value)
        self.rounds += 1
        count, stored, overwritten, before = await client.pipeline(
            [
                ("INCR", f"{self.name}:counter"),
                ("SET", f"{self.name}:{number}", value),
                ("SET", f"{self.name}:latest", value),
                ("GET", f"{self.name}:{number - 1}"),
            ]
        )
        if not self._failed(count):
            assert self._counted < count <= self._counted + self._maybe_counted
            assert count > self._count
            self._counted += 1
            self._count = count
        if not self._failed(count) or self._is_refused(count):
            self._maybe_counted -= 1
        if not self._failed(stored):
            self._maybe_written.discard(number)
        elif self._is_refused(stored):
            self._maybe_written.discard(number)
            self._refused.add(number)
        if not self._failed(overwritten):
            self._latest = {value}
        elif self._is_refused(overwritten):
            self._latest.discard(value)
        if number and not self._failed(before):
            self._check(number - 1, before)
        if any(map(self._failed, (count, stored, overwritten, before))):
            self.failures += 1
            self.successes = 0
        else:
            self.successes += 1

    def _failed(self, reply: Any) -> bool:
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            assert text.split(" ", 1)[0] in CODES, text
            self.errors.add(text)
            return True
        return False

    def _is_refused(self, reply: Any) -> bool:
        return REFUSED in str(reply)

    def _check(self, number: int, value: Any) -> None:
        if number in self._refused:
            assert value is None, f"{self.name}:{number} was refused, and is there"
        elif number not in self._maybe_written or value is not None:
            assert value == self._written[number], f"{self.name}:{number} was acknowledged"

    async def verify(self, port: int) -> None:
        """See that all that was acknowledged is there, and nothing that was refused."""
        async with await Client.connect(port) as client:
            count, latest = await client.pipeline(
                [("GET", f"{self.name}:counter"), ("GET", f"{self.name}:latest")]
            )
            assert self._counted <= int(count or 0) <= self._counted + self._maybe_counted
            assert latest in self._latest
            keys = [("GET", f"{self.name}:{number}") for number in range(self.rounds)]
            for number, value in enumerate(await client.pipeline(keys)):
                self._check(number, value)


class Load:
    """Two writers under each prefix."""

    def __init__(self, port: int, prefixes: Iterable[str], mortal: bool) -> None:
        self.writers = {prefix: [Writer(port, prefix, mortal) for _ in range(2)] for prefix in prefixes}

    async def progress(self, *prefixes: str, rounds: int = 10) -> None:
        """Every writer under these prefixes is answered so many times from now on."""
        goals = [(writer, writer.rounds + rounds) for prefix in prefixes for writer in self.writers[prefix]]
        await eventually(lambda: all(writer.rounds >= goal for writer, goal in goals), 30)

    async def trouble(self, prefix: str) -> None:
        """Every writer under the prefix meets an error from now on."""
        goals = [(writer, writer.failures) for writer in self.writers[prefix]]
        await eventually(lambda: all(writer.failures > before for writer, before in goals), 30)

    async def success(self, prefix: str, rounds: int = 5) -> None:
        """Every writer under the prefix gets on again without an error."""
        await eventually(lambda: all(w.successes >= rounds for w in self.writers[prefix]), 30)

    def errors(self, *prefixes: str) -> set[str]:
        return {error for prefix in prefixes for writer in self.writers[prefix] for error in writer.errors}

    async def verify(self, port: int, *prefixes: str) -> None:
        for prefix in prefixes:
            for writer in self.writers[prefix]:
                await writer.verify(port)


@asynccontextmanager
async def load(port: int, prefixes: Iterable[str], *, mortal: bool = False) -> AsyncIterator[Load]:
    """Writers at work; a broken promise fails the test at once, and so does a lost connection, unless they
    are ``mortal``."""
    at_work = Load(port, prefixes, mortal)
    async with asyncio.TaskGroup() as group:
        for writers in at_work.writers.values():
            for writer in writers:
                group.create_task(writer.run())
        try:
            for prefix in at_work.writers:
                await at_work.success(prefix, 1)
            yield at_work
        finally:
            for writers in at_work.writers.values():
                for writer in writers:
                    writer.stopping = True
