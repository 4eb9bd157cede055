"""Memory, a store, a Redis: backends as commands that name no key see them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

import hiredis

from backends.base import Dedicated, Key, KeyInfo, Lane, Record, StoreError, Token, Tracker, Upstream, Want
from backends.memory import MemoryBackend
from proxy import errors
from proxy.errors import CommandError
from proxy.glob import escape
from proxy.keyspace import DATABASES, KIND_NAMES
from proxy.nearreplies import NearDedicated, NearLane, NearReplies
from proxy.observing import Observation, ObservedDedicated, ObservedLane
from proxy.resp import Reply, encode_command
from proxy.router import MEMORY, UPSTREAM, Home
from proxy.tier import Tier

T = TypeVar("T")

# How long counting or walking memory may hold the loop before it lets others in.
SLICE_NS: Final = 1_000_000
SCAN_COUNT: Final = b"1000"  # keys of one SCAN of an upstream


class MemoryHome(Home):
    """A memory backend; every method but ``walk`` of a few keys lets the loop go between slices."""

    def __init__(
        self, backend: MemoryBackend, flushable: bool, in_flight_max: int, in_flight_bytes_max: int
    ) -> None:
        super().__init__(backend.name, "memory", flushable, in_flight_max, in_flight_bytes_max)
        self.kind: int = MEMORY
        self.backend: MemoryBackend = backend

    @property
    def in_flight(self) -> int:
        return 0

    async def walk(
        self, db: int, prefix: bytes, position: object, limit: int
    ) -> tuple[Sequence[KeyInfo], object]:
        at = (0, 0)
        if isinstance(position, tuple):
            at = position
        found, after = self.backend.scan(db, at, limit)
        infos = [
            KeyInfo(entry.key, entry.kind, entry.expire_at) for entry in found if entry.key.startswith(prefix)
        ]
        return infos, after

    async def kinds(self, db: int, names: list[bytes]) -> list[str]:
        keyspace = self.backend.keyspaces[db]
        return [KIND_NAMES[entry.kind] if (entry := keyspace.peek(name)) else "none" for name in names]

    async def size(self, db: int, prefix: bytes) -> int:
        if not prefix:
            return self.backend.size(db)
        count = 0
        position: object = None
        started = time.perf_counter_ns()
        while True:
            infos, position = await self.walk(db, prefix, position, 1000)
            count += len(infos)
            if position is None:
                return count
            if time.perf_counter_ns() - started > SLICE_NS:
                await asyncio.sleep(0)
                started = time.perf_counter_ns()

    async def clear(self, db: int | None, prefix: bytes) -> int:
        return self.backend.clear(db)


class ColdHome(Tier):
    """A store, with the tier that works on it."""

    async def walk(
        self, db: int, prefix: bytes, position: object, limit: int
    ) -> tuple[Sequence[KeyInfo], object]:
        self._check_up()
        after = position if isinstance(position, bytes) else None
        return await self._asked(self.store.scan(db, prefix, after, limit))

    async def kinds(self, db: int, names: list[bytes]) -> list[str]:
        self._check_up()
        loaded = await self._asked(self.store.load([Key(db, name) for name in names], Want.META))
        return [KIND_NAMES.get(record.kind, "") if record is not None else "none" for record, _ in loaded]

    async def size(self, db: int, prefix: bytes) -> int:
        self._check_up()
        return await self._asked(self.store.size(db, prefix))

    async def clear(self, db: int | None, prefix: bytes) -> int:
        self._check_up()
        try:
            return await self._asked(self.store.clear(db, prefix))
        finally:  # it may have been done, whatever the answer
            await self.discard(db, prefix)

    async def describe(self, db: int, name: bytes, want: Want) -> tuple[Record | None, Token, bool]:
        """The record of one key as it is stored, its token, and whether a copy is in the near cache."""
        self._check_up()
        cached = self.copies.has(db, name)
        loaded = await self._asked(self.store.load([Key(db, name)], want))
        return loaded[0].record, loaded[0].token, cached

    def _check_up(self) -> None:
        if self.down:
            raise errors.backend_down(self.name, self.down)

    async def sweep(self, limit: int) -> int:
        """Remove up to ``limit`` expired records from the store."""
        count = await self.store.sweep(limit)
        self.expired += count
        return count

    async def _asked(self, request: Awaitable[T]) -> T:
        """A request of the store's whose failure is the client's answer."""
        try:
            return await request
        except StoreError as error:
            raise self.error_of(error) from error


class UpstreamHome(Home):
    """A Redis that commands are forwarded to.

    What it holds beside our keys is its own affair: nothing here looks at more than a prefix, unless
    the prefix is empty.
    """

    def __init__(
        self,
        upstream: Upstream,
        near: NearReplies | None,
        flushable: bool,
        in_flight_max: int,
        in_flight_bytes_max: int,
    ) -> None:
        super().__init__(upstream.name, "redis", flushable, in_flight_max, in_flight_bytes_max)
        self.kind: int = UPSTREAM
        self.upstream: Upstream = upstream
        self.near: NearReplies | None = near  # where a route has replies kept
        self.observation: Observation | None = None  # where somebody wants to know what is done with keys
        self._tracker: Tracker | None = None
        # By 2 * db + (0 for RESP2, 1 for RESP3), once they are there.
        self.lanes: list[Lane | None] = [None] * (2 * DATABASES)

    @property
    def in_flight(self) -> int:
        return self.upstream.in_flight

    async def walk(
        self, db: int, prefix: bytes, position: object, limit: int
    ) -> tuple[Sequence[KeyInfo], object]:
        cursor = position if isinstance(position, bytes) else b"0"
        command = [b"SCAN", cursor, b"COUNT", b"%d" % limit]
        if prefix:
            command += [b"MATCH", escape(prefix) + b"*"]
        reply = await self._call(db, command)
        assert isinstance(reply, list)
        after, names = reply
        return [KeyInfo(name, 0, 0) for name in names], None if after == b"0" else after

    async def kinds(self, db: int, names: list[bytes]) -> list[str]:
        replies = await asyncio.gather(*[self._call(db, [b"TYPE", name]) for name in names])
        return [reply.decode() if isinstance(reply, bytes) else "none" for reply in replies]

    async def size(self, db: int, prefix: bytes) -> int:
        if not prefix:
            reply = await self._call(db, [b"DBSIZE"])
            assert isinstance(reply, int)
            return reply
        names: set[bytes] = set()  # SCAN may name a key twice
        cursor = b"0"
        while True:
            command = [b"SCAN", cursor, b"MATCH", escape(prefix) + b"*", b"COUNT", SCAN_COUNT]
            page = await self._call(db, command)
            assert isinstance(page, list)
            names.update(page[1])
            cursor = page[0]
            if cursor == b"0":
                return len(names)

    async def clear(self, db: int | None, prefix: bytes) -> int:
        cleared = 0
        for number in range(DATABASES) if db is None else (db,):
            if not prefix:
                cleared += await self.size(number, prefix)
                await self._call(number, [b"FLUSHDB"])
                continue
            position: object = None
            while True:
                infos, position = await self.walk(number, prefix, position, 1000)
                if infos:
                    count = await self._call(number, [b"UNLINK", *[info.name for info in infos]])
                    assert isinstance(count, int)
                    cleared += count
                if position is None:
                    break
        return cleared

    async def open(self) -> None:
        """Connect once, to know that it is there; raises StoreError."""
        if self.near is not None and self._tracker is None:
            self._tracker = self.upstream.tracker(self.near.prefixes, self.near)
        await self.upstream.open()

    async def close(self) -> None:
        if self._tracker is not None:
            await self._tracker.close()
        await self.upstream.close()

    def connect(self, db: int, proto: int) -> Lane:
        """The lane of a database and RESP version, made at first use."""
        place = 2 * db + proto - 2
        lane = self.upstream.lane(db, proto)
        if self.near is not None:
            lane = NearLane(lane, self.near, place)
        if self.observation is not None:
            lane = ObservedLane(lane, self.observation, db)
        self.lanes[place] = lane
        return lane

    async def dedicated(self, db: int, proto: int, patient: bool) -> Dedicated:
        """A connection for one client alone; raises CommandError."""
        own: Dedicated = await answered(self.name, self.upstream.dedicated(db, proto, patient))
        if self.near is not None:
            own = NearDedicated(own, self.near)
        return own if self.observation is None else ObservedDedicated(own, self.observation)

    async def call(self, db: int, argv: list[bytes]) -> object:
        """One command and its parsed reply; raises CommandError, for a lost backend too."""
        return await self._call(db, argv)

    async def _call(self, db: int, argv: list[bytes]) -> object:
        planned = self.near.plan(encode_command(argv), -1, None) if self.near is not None else None
        try:
            return await answered(self.name, self.upstream.call(db, argv))
        finally:
            if planned is not None:
                planned.release()
            if self.observation is not None:
                self.observation.called(db, argv)


def parse_reply(wire: bytes) -> Reply:
    """A RESP2 reply that we have asked for ourselves, as a value; an error is a CommandError."""
    reader = hiredis.Reader(protocolError=CommandError, replyError=CommandError)
    reader.feed(wire)
    return reader.gets()


async def answered(name: str, request: Awaitable[T]) -> T:
    """A request of a backend's whose failure is the client's answer."""
    try:
        return await request
    except StoreError as error:
        if error.unknown:
            raise errors.maybe_applied(name, str(error)) from error
        raise errors.backend_down(name, str(error)) from error
