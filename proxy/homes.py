"""Memory, a store, a Redis: backends as commands that name no key see them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar
from zlib import crc32

import hiredis
from mypy_extensions import i64

from backends.base import (
    LANES,
    Dedicated,
    Key,
    KeyInfo,
    Lane,
    Record,
    StoreError,
    Token,
    Tracker,
    Upstream,
    Want,
)
from backends.lanes import FallbackLane, RefusingLane
from backends.memory import MemoryBackend
from proxy import errors
from proxy.commands.spec import CommandSpec, key_positions
from proxy.dictionaries import Training
from proxy.errors import CommandError
from proxy.glob import escape
from proxy.keyspace import DATABASES, KIND_NAMES
from proxy.nearreplies import NearDedicated, NearLane, NearReplies
from proxy.observing import Observation, ObservedDedicated, ObservedLane
from proxy.resp import Argv, Reply, encode_command
from proxy.router import ANY, MEMORY, PREFER_REPLICA, REPLICA, UPSTREAM, Home
from proxy.sealing import Sealing
from proxy.tier import Tier

if TYPE_CHECKING:
    from backends.writeback import WriteBackStore

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

    training: Training | None = None  # where routes have dictionaries trained
    write_back: WriteBackStore | None = None  # the store, where it is behind a journal
    _is_open: bool = False  # the store

    async def open(self) -> None:
        """Open the store, and learn with what its values are sealed; raises StoreError, to be tried again."""
        if not self._is_open:
            await self.store.open()
            self._is_open = True
        if self.training is not None:
            await self.training.open()

    async def close(self) -> None:
        if self.training is not None:
            await self.training.close()
        await super().close()

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

    async def stored(self, db: int, name: bytes) -> tuple[Record | None, Token, bool]:
        """As ``describe``, with what the store itself has of the value: maybe only where it lies."""
        self._check_up()
        cached = self.copies.has(db, name)
        record, token = await self._asked(self.store.stored(Key(db, name)))
        return record, token, cached

    async def settle(self, db: int, name: bytes) -> None:
        """As ``Store.settle``; raises CommandError."""
        self._check_up()
        await self._asked(self.store.settle(Key(db, name)))

    async def url(self, record: Record, seconds: int) -> str | None:
        """As ``Store.url``; raises CommandError."""
        return await self._asked(self.store.url(record, seconds))

    async def train_dictionary(self, prefix: bytes) -> Reply:
        """Train one now for a route of this home; see ``Training.train``.  Raises CommandError."""
        self._check_up()
        if self.training is None:
            raise errors.no_training(prefix)
        return await self._asked(self.training.train(prefix))

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


def lane_place(db: i64, proto: i64, number: i64) -> i64:
    """Where ``UpstreamHome.lanes`` has a lane."""
    return 2 * (number * DATABASES + db) + proto - 2


class UpstreamHome(Home):
    """A Redis that commands are forwarded to.

    What it holds beside our keys is its own affair: nothing here looks at more than a prefix, unless
    the prefix is empty.
    """

    def __init__(
        self,
        upstream: Upstream,
        near: NearReplies | None,
        sealing: Sealing | None,
        flushable: bool,
        in_flight_max: int,
        in_flight_bytes_max: int,
    ) -> None:
        super().__init__(upstream.name, "redis", flushable, in_flight_max, in_flight_bytes_max)
        self.kind: int = UPSTREAM
        self.upstream: Upstream = upstream
        self.near: NearReplies | None = near  # where a route has replies kept
        self.observation: Observation | None = None  # where somebody wants to know what is done with keys
        self.patience: float = 0.0  # for how many seconds a request may be tried again while its key moves
        self.has_readers: bool = False  # whether a route reads from replicas
        self.sealing: Sealing | None = sealing  # where a route has values sealed
        self._tracker: Tracker | None = None
        self._replicas: dict[tuple[Upstream, bool], UpstreamHome] = {}
        self._refusing: UpstreamHome | None = None  # where a replica is wanted, and there is none
        # By place, see ``lane_place``, once they are there.
        self.lanes: list[Lane | None] = [None] * (2 * DATABASES * LANES)

    @property
    def in_flight(self) -> int:
        return self.upstream.in_flight

    def of(self, key: bytes) -> UpstreamHome:
        """The server that has a key, or is to hear of a channel."""
        return self

    def of_request(self, spec: CommandSpec, argv: Argv) -> UpstreamHome:
        """The server that a request of some keys, a channel or nothing is for."""
        return self

    def redirect(self, server: UpstreamHome, error: bytes) -> tuple[UpstreamHome, bool] | None:
        """As ``Upstream.redirect``."""
        return None

    def server_for(self, spec: CommandSpec, argv: Argv, reads: int) -> UpstreamHome:
        """As ``of_request``, by a route's policy for what only reads."""
        server = self.of_request(spec, argv)
        if not reads or not spec.reads:
            return server
        position = spec.first_key
        if not position:
            positions = key_positions(spec, argv)
            if not positions:
                return server
            position = positions[0]
        return server.replica_for(argv[position], reads)

    def server_of(self, spec: CommandSpec, key: bytes, reads: int) -> UpstreamHome:
        """As ``server_for``, for a command whose only key is known."""
        server = self.of(key)
        return server.replica_for(key, reads) if reads and spec.reads else server

    def replica_for(self, key: bytes, reads: int) -> UpstreamHome:
        """A replica, or what stands in for one; for one key always the same while the replicas are."""
        replicas = self.upstream.replicas
        count = len(replicas) + (reads == ANY)
        if not count:
            return self if reads == PREFER_REPLICA else self._without_replica()
        number = crc32(key) % count
        if number == len(replicas):
            return self
        replica = replicas[number]
        strict = reads == REPLICA
        home = self._replicas.get((replica, strict))
        if home is None:
            if len(self._replicas) > 4 * count:  # those that are gone among them
                self._replicas.clear()
            home = ReplicaHome(self, replica, None if strict else self)
            self._replicas[replica, strict] = home
        return home

    def _without_replica(self) -> UpstreamHome:
        if self._refusing is None:
            self._refusing = RefusingHome(self, errors.no_replica(self.name))
        return self._refusing

    @property
    def servers(self) -> list[UpstreamHome]:
        """All that have keys."""
        return [self]

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
                    cleared += await self.unlink(number, [info.name for info in infos])
                if position is None:
                    break
        return cleared

    async def unlink(self, db: int, names: list[bytes]) -> int:
        """Delete keys, however many servers have them; how many there were."""
        steps: dict[object, list[bytes]] = {}
        for name in names:
            steps.setdefault(self.step(name), []).append(name)
        counts = await asyncio.gather(*(self.call(db, [b"UNLINK", *each]) for each in steps.values()))
        return sum(count for count in counts if isinstance(count, int))

    @property
    def replica_count(self) -> int:
        """How many there are to be read from."""
        return sum(len(server.upstream.replicas) for server in self.servers)

    async def open(self) -> None:
        """Connect once, to know that it is there; raises StoreError."""
        if self.near is not None and self._tracker is None:
            self._tracker = self.upstream.tracker(self.near.prefixes, self.near)
        if self.has_readers:
            self.upstream.find_replicas()
        await self.upstream.open()

    async def close(self) -> None:
        if self._tracker is not None:
            await self._tracker.close()
        await self.upstream.close()

    def connect(self, db: int, proto: int, number: int) -> Lane:
        """A lane of a database and RESP version, made at first use."""
        lane = self.upstream.lane(db, proto, number)
        if self.near is not None:
            lane = NearLane(lane, self.near, lane_place(db, proto, 0))
        if self.observation is not None:
            lane = ObservedLane(lane, self.observation, db)
        self.lanes[lane_place(db, proto, number)] = lane
        return lane

    def shared(self, db: int, proto: int, number: int = 0) -> Lane:
        """The lane, whether it is there already or not."""
        return self.lanes[lane_place(db, proto, number)] or self.connect(db, proto, number)

    async def dedicated(self, db: int, proto: int, patient: bool) -> Dedicated:
        """A connection for one client alone; raises CommandError."""
        own: Dedicated = await answered(self.name, self.upstream.dedicated(db, proto, patient))
        if self.near is not None:
            own = NearDedicated(own, self.near)
        return own if self.observation is None else ObservedDedicated(own, self.observation)

    async def call(self, db: int, argv: list[bytes]) -> object:
        """One command and its parsed reply, with nothing sealed or unsealed.

        Raises CommandError, for a lost backend too.
        """
        return await self._call(db, argv)

    @property
    def layout(self) -> str:
        """What is another once keys have gone from server to server, so that a walk may have missed some."""
        return ""

    async def life(self) -> str:
        """What is another once it may lack keys that nobody has removed.

        Of one server its run id: one that was started anew, or that took over, may lack any.
        """
        reply = await self._call(0, [b"INFO", b"server"])
        lines = reply.decode("utf-8", "replace").split("\r\n") if isinstance(reply, bytes) else []
        return next((line for line in lines if line.startswith("run_id:")), "")

    async def read_string(self, db: int, name: bytes) -> tuple[bytes, bytes] | None:
        """A string's value, and that as it stands there, which may be sealed; None: no such key.

        Raises CommandError.
        """
        stored = await self._call(db, [b"GET", name])
        if not isinstance(stored, bytes):
            return None
        value = stored if self.sealing is None else await self.sealing.unseal_value(name, stored)
        return value, stored

    async def _call(self, db: int, argv: list[bytes]) -> object:
        planned = self.near.plan(encode_command(argv), -1, None) if self.near is not None else None
        try:
            return await answered(self.name, self.upstream.call(db, argv))
        finally:
            if planned is not None:
                planned.release()
            if self.observation is not None:
                self.observation.called(db, argv)


class ReplicaHome(UpstreamHome):
    """A replica of another home, which answers what this one can't, if it is given."""

    def __init__(self, primary: UpstreamHome, replica: Upstream, other: UpstreamHome | None) -> None:
        super().__init__(
            replica,
            None,
            primary.sealing,
            primary.flushable,
            primary.in_flight_max,
            primary.in_flight_bytes_max,
        )
        self.overload = primary.overload
        self._other: UpstreamHome | None = other

    def connect(self, db: int, proto: int, number: int) -> Lane:
        lane = super().connect(db, proto, number)
        if self._other is not None:
            lane = FallbackLane(lane, self._other.shared(db, proto, number))
            self.lanes[lane_place(db, proto, number)] = lane
        return lane


class RefusingHome(UpstreamHome):
    """In the place of one that is not there."""

    def __init__(self, home: UpstreamHome, error: CommandError) -> None:
        super().__init__(
            home.upstream, None, None, home.flushable, home.in_flight_max, home.in_flight_bytes_max
        )
        self._error: CommandError = error

    def connect(self, db: int, proto: int, number: int) -> Lane:
        lane = RefusingLane(self.upstream, asyncio.get_running_loop().call_soon, self._error)
        self.lanes[lane_place(db, proto, number)] = lane
        return lane


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
