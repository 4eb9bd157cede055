"""The ends of a copy or a mirror: a Redis or a store, whose keys are walked, read, written and removed in
batches.

A batch is bounded in bytes as in keys: of what is larger than ``SMALL`` it gives the size, and no more.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from backends.base import Key, Loaded, Record, StoreError, Want
from backends.seal import IntegrityError, unseal
from backends.sealed_strings import HEAD, is_sealed, raw_length, unseal_string
from proxy.datatypes.compare import same
from proxy.datatypes.values import from_record, pack
from proxy.errors import CommandError
from proxy.events import Where
from proxy.homes import ColdHome, UpstreamHome
from proxy.keyspace import DATABASES, STRING, UNCHUNKED, VOLATILE_HASH, KeyPolicy
from proxy.lru import entry_size
from proxy.moves import Place, Value, dumped
from proxy.resp import BULK_MAX
from proxy.router import Home, Route

T = TypeVar("T")

SMALL: Final = 64 * 1024  # bytes
# Bytes of dumps that are read in one go.
SLICE: Final = 16 * 1024
# Keys that a mirror copies, or compares, at once: with more, clients would have to wait for the loop.
BATCH: Final = 64
# What one pass over a backend asks of it at once, in keys.
PAGE: Final = 1000
LARGE_AT_ONCE: Final = 16 << 20  # bytes of larger values that are read at once, unless one has more

# A key's expiry and its dump in one step, as ``moves.READ``; of what takes more memory than that, how much.
READ_SMALL: Final = b"""
    local size = redis.call('MEMORY', 'USAGE', KEYS[1])
    if not size then return false end
    if size > tonumber(ARGV[1]) then return size end
    return {redis.call('PEXPIRETIME', KEYS[1]), redis.call('DUMP', KEYS[1])}
"""

# The same whatever its size; a string as it stands, which is less work than its dump.
READ_WHOLE: Final = b"""
    local string = redis.call('TYPE', KEYS[1])['ok'] == 'string'
    return {redis.call('PEXPIRETIME', KEYS[1]), redis.call(string and 'GET' or 'DUMP', KEYS[1]), string}
"""

# Errors of a backend that can't do for any key what it is asked; all others are a key's own.
AWAY: Final = frozenset(
    {
        "BACKENDDOWN",
        "BUSY",
        "CLUSTERDOWN",
        "CONFLICT",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOAUTH",
        "NOPERM",
        "NOREPLICAS",
    }
    | {"OOM", "READONLY", "TRYAGAIN", "UPSTREAM"}
)


class Away(Exception):
    """A backend can't serve now; the message is one line that says which and why."""


class Large(NamedTuple):
    """Stands for a value that is not to be read in a batch."""

    size: int  # bytes, about


Found = Value | Large | CommandError | None
"""What was found of a key; an error says why it can't be read, None that it isn't there."""


class Source(Protocol):
    """One backend's keys of one database, to be read.  Every method raises ``Away``."""

    async def read(self, names: Sequence[bytes]) -> list[Found]:
        """What there is of each key."""

    async def read_whole(self, names: Sequence[bytes]) -> list[Found]:
        """As ``read``, whatever the values' sizes."""

    async def life(self) -> str:
        """Words of which one is missing once the backend may have lost keys by itself; a store does not."""


class Side(ABC):
    """One backend's keys of one database.  Every method raises ``Away``."""

    def __init__(self, home: ColdHome | UpstreamHome, db: int) -> None:
        self.name = home.name
        self.db = db
        self._home = home
        self._route = Route(b"", home, KeyPolicy(0, BULK_MAX), [])

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def size(self, prefix: bytes) -> int | None:
        """How many keys start with ``prefix``; None where counting them takes as long as a pass."""

    async def databases(self) -> list[int]:
        """The backend's databases that may have keys; of a Redis also those past ``DATABASES``."""
        return list(range(DATABASES))

    @abstractmethod
    async def read(self, names: Sequence[bytes]) -> list[Found]:
        """What there is of each key."""

    async def life(self) -> str:
        """As ``Source.life``."""
        return ""

    async def course(self) -> str:
        """What is another once a walk that began before may have missed keys."""
        return await self.life()

    @abstractmethod
    async def have(self, names: Sequence[bytes]) -> list[bool]:
        """Which of the keys are there."""

    async def walk(self, prefix: bytes, position: object) -> tuple[list[bytes], object]:
        """Some keys that start with ``prefix``, and the next position; None is the first and the last."""
        infos, after = await self._own(self._home.walk(self.db, prefix, position, PAGE))
        return list(dict.fromkeys(info.name for info in infos)), after

    async def read_whole(self, names: Sequence[bytes]) -> list[Found]:
        """As ``read``, whatever the values' sizes."""
        return await together(fate(self.place(name).read()) for name in names)

    async def write(self, values: dict[bytes, Value]) -> list[CommandError | bool]:
        """Put the values there; for each an error, if it is refused."""
        return await together(fate(self.place(name).write(value, True)) for name, value in values.items())

    async def drop(self, names: Sequence[bytes]) -> list[CommandError | bool]:
        """Remove the keys, whatever they hold; for each whether it was there, or the error that it got."""
        return await together(fate(self.place(name).drop()) for name in names)

    def place(self, name: bytes) -> Place:
        """One key, for steps of its own; see ``fate``."""
        return Place(self._route, self.db, name, blind=True)

    async def _own(self, request: Awaitable[T]) -> T:
        """A request of which no error is a key's own."""
        try:
            return await request
        except CommandError as error:
            raise Away(_reason(error)) from error
        except StoreError as error:
            raise Away(f"backend '{self.name}': {error}") from error


class RedisSide(Side):
    def __init__(self, home: UpstreamHome, db: int) -> None:
        super().__init__(home, db)
        self._redis = home

    async def open(self) -> None:
        await self._own(self._redis.open())

    async def close(self) -> None:
        await self._redis.close()

    async def size(self, prefix: bytes) -> int | None:
        return None if prefix else await self._own(self._redis.size(self.db, prefix))

    async def read(self, names: Sequence[bytes]) -> list[Found]:
        limit = b"%d" % SMALL
        ask = [fate(self._redis.call(self.db, [b"EVAL_RO", READ_SMALL, b"1", name, limit])) for name in names]
        found: list[Found] = []
        handled = 0  # bytes since others had a turn: large ones take their time
        for name, reply in zip(names, await together(ask), strict=True):
            if isinstance(reply, list) and isinstance(reply[1], bytes):
                handled += len(reply[1])
            if handled >= SLICE:
                handled = 0
                await asyncio.sleep(0)
            if isinstance(reply, int) and self._seals(name):
                reply = await self._raw_size(name, reply)
            found.append(self._found(name, reply))
        return found

    async def read_whole(self, names: Sequence[bytes]) -> list[Found]:
        # In one step each: a value, and the time at which another one expires, would be no state of the key.
        return await together(fate(self._read_whole(name)) for name in names)

    async def _read_whole(self, name: bytes) -> Value | None:
        reply = await self._redis.call(self.db, [b"EVAL_RO", READ_WHOLE, b"1", name])
        assert isinstance(reply, list)
        expire_at, data, string = reply
        if data is None:
            return None
        if string is None:
            return dumped(data, expire_at, name, self.name)
        sealing = self._redis.sealing
        raw = data if sealing is None else await sealing.unseal_value(name, data)
        return Value(STRING, raw, max(0, expire_at))

    def _seals(self, name: bytes) -> bool:
        return self._redis.sealing is not None and self._redis.sealing.seals(name)

    async def _raw_size(self, name: bytes, size: int) -> int:
        """Bytes of a value once it is unsealed, of which so many are stored."""
        head = await fate(self._redis.call(self.db, [b"GETRANGE", name, b"0", b"%d" % (HEAD - 1)]))
        if isinstance(head, bytes) and is_sealed(head):  # else it is no string
            with suppress(IntegrityError):
                return max(size, raw_length(head))
        return size

    def _found(self, name: bytes, reply: object) -> Found:
        if isinstance(reply, CommandError):
            return reply
        if isinstance(reply, int):
            return Large(reply)
        if not isinstance(reply, list) or reply[1] is None:
            return None
        try:
            value = dumped(reply[1], reply[0], name, self.name)
        except CommandError as error:
            return error
        if value.kind != STRING or not self._seals(name):
            return value
        try:
            size = raw_length(value.data) if is_sealed(value.data) else 0
            return Large(size) if size > SMALL else value._replace(data=unseal_string(value.data, SMALL))
        except IntegrityError:
            return Large(len(value.data))  # read by itself its error is told

    async def have(self, names: Sequence[bytes]) -> list[bool]:
        replies = await together(fate(self._redis.call(self.db, [b"EXISTS", name])) for name in names)
        return [
            reply != 0 for reply in replies
        ]  # of one that can't be asked for it is not said that it is gone

    async def databases(self) -> list[int]:
        found: set[int] = set()
        for server in self._redis.servers:
            reply = await self._own(server.call(0, [b"INFO", b"keyspace"]))
            assert isinstance(reply, bytes)
            found.update(int(number) for number in re.findall(rb"^db(\d+):", reply, re.MULTILINE))
        return sorted(found)

    async def life(self) -> str:
        return await self._own(self._redis.life())

    async def course(self) -> str:
        return f"{self._redis.layout} {await self.life()}"


class StoreSide(Side):
    def __init__(self, home: ColdHome, db: int) -> None:
        super().__init__(home, db)
        self._store = home.store
        self._dictionaries = home.dictionaries
        self._slots = asyncio.Semaphore(home.store.concurrency)

    async def open(self) -> None:
        await self._own(self._home.open())
        self._home.down = ""

    async def close(self) -> None:
        assert isinstance(self._home, ColdHome)
        await self._home.close()

    async def size(self, prefix: bytes) -> int | None:
        return await self._own(self._store.size(self.db, prefix))

    async def read(self, names: Sequence[bytes]) -> list[Found]:
        loaded = await self._load(names, Want.VALUE)
        return [self._found(name, record) for name, (record, _) in zip(names, loaded, strict=True)]

    def _found(self, name: bytes, record: Record | None) -> Found:
        if record is None:
            return None
        if record.payload is None or record.raw_size > SMALL or record.kind in UNCHUNKED:
            return Large(record.raw_size)
        try:
            raw = unseal(self.db, name, record.kind, record.payload, SMALL, self._dictionaries.known)
        except IntegrityError:
            # Read by its tier its dictionary is fetched, or it is kept aside, and its error told.
            return Large(record.raw_size)
        if record.kind != VOLATILE_HASH:
            return Value(record.kind, raw, record.expire_at)
        kind, value, expire_at = from_record(record.kind, raw, record.expire_at)
        return Value(kind, pack(value), expire_at)

    async def have(self, names: Sequence[bytes]) -> list[bool]:
        return [record is not None for record, _ in await self._load(names, Want.META)]

    async def _load(self, names: Sequence[bytes], want: Want) -> list[Loaded]:
        most = self._store.load_max
        parts = [names[at : at + most] for at in range(0, len(names), most)]
        return [
            found for part in await together(self._load_part(part, want) for part in parts) for found in part
        ]

    async def _load_part(self, names: Sequence[bytes], want: Want) -> list[Loaded]:
        async with self._slots:
            return await self._own(self._store.load([Key(self.db, name) for name in names], want))


class MemorySource:
    """A memory backend's keys of one database."""

    def __init__(self, route: Route, db: int) -> None:
        self._keyspace = route.keyspaces[db]

    async def read(self, names: Sequence[bytes]) -> list[Found]:
        return [self._read(name, SMALL) for name in names]

    async def read_whole(self, names: Sequence[bytes]) -> list[Found]:
        return [self._read(name, None) for name in names]

    async def life(self) -> str:
        return ""  # it has this process', and so has the mirror

    def _read(self, name: bytes, limit: int | None) -> Found:
        entry = self._keyspace.peek(name)
        if entry is None:
            return None
        size = entry_size(name, entry.value)
        if limit is not None and size > limit:
            return Large(size)
        return Value(entry.kind, pack(entry.value), entry.expire_at)


def source_of(route: Route, home: Home, db: int) -> Source:
    """A route's keys of one database, read from ``home``."""
    return side_of(home, db) if isinstance(home, (ColdHome, UpstreamHome)) else MemorySource(route, db)


def side_of(home: ColdHome | UpstreamHome, db: int) -> Side:
    """A backend's keys of one database."""
    return RedisSide(home, db) if isinstance(home, UpstreamHome) else StoreSide(home, db)


def by_database(keys: Iterable[Where]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for db, name in keys:
        found.setdefault(db, []).append(name)
    return found


def by_size(large: dict[bytes, int]) -> Iterator[list[bytes]]:
    """Keys by their values' sizes: as many together as may be read at once."""
    group: list[bytes] = []
    total = 0
    for name, size in large.items():
        if group and total + size > LARGE_AT_ONCE:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    if group:
        yield group


def differ(value: Value, other: Found, now: int) -> bool:
    """Whether what was found of a key is not ``value`` with its expiry, at ``now`` (ms)."""
    if not isinstance(other, Value) or value.kind != other.kind or value.expire_at != other.expire_at:
        return True
    return not same(value.kind, value.data, other.data, now)


async def fate(request: Awaitable[T]) -> T | CommandError:
    """What became of one key: the result, or the error that is its own.  Raises ``Away``."""
    try:
        return await request
    except CommandError as error:
        if error.code in AWAY:
            raise Away(_reason(error)) from error
        return error
    except ValueError as error:  # a type of a later version's
        return CommandError(f"ERR {error}")


# Any: of the coroutine's other two types nothing is used.
async def together(requests: Any) -> list[Any]:
    """The results of all; when all have ended, raises the first exception."""
    results = await asyncio.gather(*requests, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, CommandError):
            raise result
    return results


def _reason(error: CommandError) -> str:
    return error.text.partition(" ")[2] if error.code in ("BACKENDDOWN", "UPSTREAM") else error.text
