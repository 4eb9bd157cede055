"""Commands that only read, on keys of several backends: ``SUNION``, ``PFCOUNT``, ``LCS`` and their like.

Each value is read where it is at home and the command's handler runs on what was read, so it answers as it
does for keys of one backend.  It sees each backend as it was at one moment, memory as it is when it answers.
What is read from a store or a Redis is copied whole: as large as they are, so long it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from backends.base import Want
from proxy.answers import Answer
from proxy.cells import Gathered
from proxy.clock import Clock
from proxy.commands.spec import BLOCKING, KEYS, NOSCRIPT, READONLY, CommandSpec
from proxy.datatypes import set as sets
from proxy.datatypes import zset as zsets
from proxy.datatypes.collection import Collection
from proxy.datatypes.hash import Hash
from proxy.datatypes.list import List
from proxy.errors import CommandError, NeedKeys
from proxy.homes import ColdHome, UpstreamHome
from proxy.keyspace import HASH, KIND_NAMES, LIST, SET, STREAM, STRING, UNLOADED, ZSET, Keyspace
from proxy.lru import Entry
from proxy.resp import Argv, Reply
from proxy.router import Home, Router

Loaded = dict[bytes, Entry | None]

KINDS: Final = {KIND_NAMES[kind].encode(): kind for kind in (STRING, LIST, SET, ZSET, HASH, STREAM)}


class Reading(NamedTuple):
    """How a value is read from a Redis: a command, what follows the key, and what its reply means."""

    command: bytes
    options: list[bytes]
    value: Callable[[list[bytes]], object]


def _hash(reply: list[bytes]) -> Hash:
    """Of fields, each with its value after it."""
    made = Hash()
    for field, value in zip(reply[::2], reply[1::2], strict=True):
        made.set(field, value)
    return made


READINGS: Final[dict[int, Reading]] = {
    HASH: Reading(b"HGETALL", [], _hash),
    LIST: Reading(b"LRANGE", [b"0", b"-1"], List.of),
    SET: Reading(b"SMEMBERS", [], sets.set_of),
    ZSET: Reading(b"ZRANGE", [b"0", b"-1", b"WITHSCORES"], zsets.of_texts),
}
"""By kind, but for strings; of a kind that is not here no command reads several keys."""


def can_gather(spec: CommandSpec) -> bool:
    """Whether a command does nothing but read the keys that its request names."""
    reads = spec.flags & READONLY and not spec.flags & (BLOCKING | NOSCRIPT)
    return bool(reads) and spec.scope == KEYS and spec.handler is not None


class Gather:
    """One such command; ``refusal`` is the answer if it needs more than its keys' values after all."""

    def __init__(
        self,
        spec: CommandSpec,
        router: Router,
        clock: Clock,
        db: int,
        argv: Argv,
        names: list[bytes],
        refusal: CommandError,
    ) -> None:
        self._spec = spec
        self._router = router
        self._clock = clock
        self._db = db
        self._argv = argv
        self._names = names
        self._refusal = refusal

    async def run(self) -> Reply:
        memory: dict[bytes, Keyspace] = {}
        elsewhere: dict[Home, list[bytes]] = {}
        for name in dict.fromkeys(self._names):
            route = self._router.find(name)
            if isinstance(route.home, (ColdHome, UpstreamHome)):
                elsewhere.setdefault(route.home, []).append(name)
            else:
                memory[name] = route.keyspaces[self._db]
        loads = [_load(home, self._db, names) for home, names in elsewhere.items()]
        loaded: Loaded = {}
        for each in await asyncio.gather(*loads):
            loaded |= each
        handler = self._spec.handler
        assert handler is not None
        try:
            return handler(Gathered(self._clock, self._db, loaded, memory), self._argv)
        except NeedKeys:
            raise self._refusal from None


async def _load(home: Home, db: int, names: list[bytes]) -> Loaded:
    if isinstance(home, UpstreamHome):
        entries = await asyncio.gather(*[_read(home, db, name) for name in names])
        return dict(zip(names, entries, strict=True))
    assert isinstance(home, ColdHome)
    answer = Answer()
    home.submit(answer, _copies, names, db, Want.VALUE, names)
    reply = await answer.future
    if isinstance(reply, CommandError):
        raise reply
    loaded: Loaded = reply
    return loaded


def _copies(keyspace: Keyspace, names: list[bytes]) -> Loaded:
    """A handler: the others that wait for these keys may change their values as soon as it is done."""
    return {name: _copy(keyspace.find(name)) for name in names}


def _copy(entry: Entry | None) -> Entry | None:
    if entry is None:
        return None
    value = entry.value
    if isinstance(value, Collection):
        value = value.copy()
    elif isinstance(value, bytearray):
        value = bytes(value)
    return Entry(entry.key, entry.kind, value, entry.expire_at)


async def _read(home: UpstreamHome, db: int, name: bytes) -> Entry | None:
    """One key of a Redis, which is not what it was if it changes its type in between: WRONGTYPE then."""
    type = await home.call(db, [b"TYPE", name])
    if type == b"none":
        return None
    assert isinstance(type, bytes)
    kind = KINDS.get(type, 0)
    if kind == STRING:
        string = await home.read_string(db, name)
        return None if string is None else Entry(name, kind, string[0], 0)
    reading = READINGS.get(kind)
    if reading is None:
        return Entry(name, kind, UNLOADED, 0)  # which the handler will find to be of the wrong type
    reply = await home.call(db, [reading.command, name, *reading.options])
    assert isinstance(reply, list)
    return Entry(name, kind, reading.value(reply), 0) if reply else None
