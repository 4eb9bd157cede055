"""What can be compared with redis-server: anything that takes requests and gives raw replies."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

import pytest
from _pytest.mark import ParameterSet

from backends.memory import MemoryBackend
from proxy import commands
from proxy.clock import Clock
from proxy.commands import spec
from proxy.commands.spec import KEPT
from proxy.errors import CommandError, wrong_arity
from proxy.keyspace import Block, KeyPolicy, Keyspace
from proxy.prefixes import PrefixMap
from proxy.resp import OK, Argv, Reply, encode_command, encode_reply
from tests.differential.frames import Incomplete, frame_end

TIMEOUT = 20.0  # seconds for one reply
FLUSH = [b"FLUSHALL"]


def asked_twice(requests: list[Argv]) -> list[Argv]:
    """The same with each read that a near cache keeps repeated, which is answered from there."""
    return [argv for argv in requests for _ in range(1 + (argv[0].lower() in KEPT))]


class Target(ABC):
    """One client's session; its databases are empty at the start."""

    @abstractmethod
    async def send(self, argv: Argv) -> bytes:
        """The raw reply to one request."""

    async def send_all(self, requests: list[Argv]) -> list[bytes]:
        return [await self.send(argv) for argv in requests]


class SocketTarget(Target):
    """A server behind a socket: redis-server itself, or redtier with any backend."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.data = bytearray()

    async def send(self, argv: Argv) -> bytes:
        return (await self.send_all([argv]))[0]

    async def send_all(self, requests: list[Argv]) -> list[bytes]:
        """All in one write, so that the server has them in one pipeline."""
        self.writer.write(b"".join(map(encode_command, requests)))
        async with asyncio.timeout(TIMEOUT):
            return [await self.next_frame() for _ in requests]

    async def next_frame(self) -> bytes:
        while True:
            try:
                end = frame_end(self.data)
            except Incomplete:
                chunk = await self.reader.read(65536)
                if not chunk:
                    raise EOFError(f"closed after {bytes(self.data)!r}") from None
                self.data += chunk
            else:
                frame = bytes(self.data[:end])
                del self.data[:end]
                return frame


@asynccontextmanager
async def connect(port: int, proto: int) -> AsyncIterator[SocketTarget]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        target = SocketTarget(reader, writer)
        *_, flushed = await target.send_all([*([[b"HELLO", b"3"]] if proto == 3 else []), FLUSH])
        assert flushed == b"+OK\r\n", flushed
        yield target
    finally:
        writer.close()


class HandlerTarget(Target):
    """The handlers on a memory keyspace, without dispatch and connection."""

    def __init__(self, proto: int, clock: Clock | None = None) -> None:
        self.proto = proto
        self.clock = clock or Clock()
        policies = PrefixMap([(b"", KeyPolicy(ttl=0, max_value=512 * 1024 * 1024))])
        self.backend = MemoryBackend("hot", 256 * 1024 * 1024, "allkeys-lru", self.clock, policies)
        self.db = 0
        commands.load()
        self.table = spec.load_table()
        spec.bind(self.table)

    async def send(self, argv: Argv) -> bytes:
        self.clock.tick()
        try:
            reply = self._run(argv)
        except CommandError as error:
            reply = error
        return encode_reply(reply, self.proto)

    def _run(self, argv: Argv) -> Reply:
        command = spec.lookup(self.table, argv)
        assert command is not None, f"the corpus asks for an unknown command: {argv}"
        if len(argv) < abs(command.arity) or (command.arity > 0 and len(argv) != command.arity):
            raise wrong_arity(command.title)
        if command.name == b"select":
            self.db = int(argv[1])
            return OK
        reply = self.call(self.backend.keyspaces[self.db], argv)
        return reply.empty if isinstance(reply, Block) else reply  # nobody waits here

    def call(self, keyspace: Keyspace, argv: Argv) -> Reply:
        command = spec.lookup(self.table, argv)
        assert command is not None
        assert command.handler is not None, f"no handler: {argv}"
        return command.handler(keyspace, argv)


@cache
def one_backend() -> HandlerTarget:
    """For all sequences: to make one takes as long as to play ten requests."""
    return HandlerTarget(2)


@asynccontextmanager
async def handlers(proto: int) -> AsyncIterator[HandlerTarget]:
    target = one_backend()
    target.proto = proto
    target.db = 0
    for db, keyspace in enumerate(target.backend.keyspaces):
        if keyspace.database.count:
            target.backend.clear(db)
    while target.backend.cycle(1_000_000):  # takes down what was cleared
        pass
    yield target


HANDLERS = "handlers"
SERVERS = {
    "memory": {"": "memory"},
    "sqlite": {"": "sqlite"},
    "postgres": {"": "postgres"},
    "redis": {"": "redis"},
    "near": {"": "redis"},  # with replies kept in the near cache
    "sealed": {"": "redis"},  # with every string sealed that may be
    "s3": {"": "s3"},
    # By the first letters of the corpus' keys: what takes several has them on several.
    "mixed": {"": "memory", "a": "sqlite", "b": "redis"},
}
"""redtier's routes, each prefix to a backend that has its type's name, by the name of the target."""
ROUTE_OPTIONS = {
    "postgres": {"": {"chunk_over": 1, "chunk_size": 32}},  # lists in chunks, however short
    "near": {"": {"cache": True}},
    "sealed": {"": {"compression": "zstd", "integrity": "sha256", "compress_min": 0}},
}
"""What a target's routes have beside that."""
LONG = bool(os.environ.get("REDTIER_LONG"))
"""Whether every target is to be asked in both protocol versions, and on both trees."""


def session(name: str, proto: int) -> ParameterSet:
    """What is a backend's own affair, and not compiled, need not be asked twice."""
    once = name in ("sqlite", "postgres", "redis", "near", "sealed", "s3", "mixed") and not LONG
    return pytest.param(name, proto, marks=pytest.mark.once if once else ())


# How replies are encoded is not a backend's affair: those of memory, and those of a Redis, which come as they
# are, are looked at in both versions.
PROTOS = {
    "memory": (2, 3),
    "sqlite": (3,),
    "postgres": (2,),
    "redis": (2, 3),
    "near": (2, 3),
    "sealed": (2, 3),
    "s3": (3,),
    "mixed": (3,),
}
SERVER_SESSIONS = [session(name, proto) for name in SERVERS for proto in ((2, 3) if LONG else PROTOS[name])]
"""A target and a protocol version."""
SESSIONS = [pytest.param(HANDLERS, 2), pytest.param(HANDLERS, 3), *SERVER_SESSIONS]
