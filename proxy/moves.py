"""``RENAME``, ``RENAMENX`` and ``COPY`` where the two keys can't be changed in one step.

The value is read, written to its new place, and only then removed from the old one, if it is still what
was read: at no moment is it nowhere.  Between the steps others may see it in both places.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha1
from typing import Final, NamedTuple

from backends.base import Want
from proxy import errors
from proxy.answers import Answer
from proxy.commands.args import Args, parse_db
from proxy.datatypes import rdb
from proxy.datatypes.collection import Collection
from proxy.datatypes.rdb import BadFooter, BadFormat
from proxy.datatypes.values import pack, unpack
from proxy.errors import DUMP_FOOTER, DUMP_FORMAT, NO_SUCH_KEY, SAME_OBJECT, SYNTAX, CommandError
from proxy.homes import ColdHome, UpstreamHome
from proxy.keyspace import STRING, Keyspace
from proxy.resp import OK, Argv, Reply
from proxy.router import Route, Router

# How often a value that changes while it is moved is read again.
TRIES: Final = 8

# A collection in one step: its expiry, and its dump.
READ: Final = b"return {redis.call('PEXPIRETIME', KEYS[1]), redis.call('DUMP', KEYS[1])}"
# Puts one there, and gives a digest of how it is dumped now: a Redis may keep it otherwise than it was sent.
WRITE: Final = b"""
    redis.call('RESTORE', KEYS[1], unpack(ARGV))
    return redis.sha1hex(redis.call('DUMP', KEYS[1]) or '')
"""
REMOVE_KEPT: Final = b"""
    local kept = redis.sha1hex(redis.call('DUMP', KEYS[1]) or '')
    return kept == ARGV[1] and redis.call('DEL', KEYS[1]) or 0
"""
# Deletes a string that is still what was read: one step, so that no write in between is lost.
REMOVE_SAME: Final = b"return redis.call('GET',KEYS[1])==ARGV[1] and redis.call('DEL',KEYS[1]) or 0"


class Value(NamedTuple):
    """A value on its way; ``data`` is the form in which it would be stored."""

    kind: int
    data: bytes
    expire_at: int


class Place:
    """One key of one route.

    ``blind``: what is written replaces whatever is there, which a store need not load for that.
    """

    def __init__(self, route: Route, db: int, name: bytes, blind: bool = False) -> None:
        self.route = route
        self.db = db
        self.name = name
        self.need = Want.NOTHING if blind else Want.VALUE  # of what a write finds
        # Of what a Redis holds, when it was last read or written here: a string, or a collection's digest.
        self.kept: bytes = b""

    async def read(self) -> Value | None:
        home = self.route.home
        if not isinstance(home, UpstreamHome):
            value: Value | None = await self._perform(_read, Want.VALUE)
            return value
        kind = await home.call(self.db, [b"TYPE", self.name])
        if kind == b"none":
            return None
        if kind != b"string":
            return await self._read_collection(home)
        expire_at = await home.call(self.db, [b"PEXPIRETIME", self.name])
        string = await home.read_string(self.db, self.name)
        assert isinstance(expire_at, int)
        if string is None:
            return None
        data, self.kept = string
        return Value(STRING, data, max(0, expire_at))

    async def _read_collection(self, home: UpstreamHome) -> Value | None:
        reply = await home.call(self.db, [b"EVAL_RO", READ, b"1", self.name])
        assert isinstance(reply, list)
        expire_at, dump = reply
        if dump is None:
            return None
        self.kept = sha1(dump).hexdigest().encode()
        value = dumped(dump, expire_at, self.name, home.name)
        return value if value.kind != STRING else await self.read()  # it has become one meanwhile

    async def write(self, value: Value, replace: bool) -> bool:
        """Put the value there; false if it is not to replace what is there."""
        home = self.route.home
        if not isinstance(home, UpstreamHome):

            def write(keyspace: Keyspace, argv: Argv) -> Reply:
                if not replace and keyspace.peek(self.name) is not None:
                    return False
                made = unpack(value.kind, value.data)
                if isinstance(made, Collection):
                    keyspace.reserve(self.name, None, made.size)
                keyspace.put(self.name, value.kind, made, value.expire_at)
                return True

            return bool(await self._perform(write, self.need))
        if value.kind != STRING:
            return await self._write_collection(home, value, replace)
        command = [b"SET", self.name, value.data]
        if home.sealing is not None:
            command = await home.sealing.seal(b"set", command)
        self.kept = command[2]
        if value.expire_at:
            command += [b"PXAT", b"%d" % value.expire_at]
        if not replace:
            command.append(b"NX")
        return await home.call(self.db, command) is not None

    async def _write_collection(self, home: UpstreamHome, value: Value, replace: bool) -> bool:
        # As of the beginning of time: fields that have expired go with their times.
        dump = rdb.dump(value.kind, unpack(value.kind, value.data), 0)
        options = [b"ABSTTL", b"REPLACE"] if replace else [b"ABSTTL"]
        expire_at = b"%d" % value.expire_at
        try:
            kept = await home.call(self.db, [b"EVAL", WRITE, b"1", self.name, expire_at, dump, *options])
        except CommandError as error:
            if error.code == "BUSYKEY":
                return False
            if DUMP_FOOTER in error.text or DUMP_FORMAT in error.text:
                raise errors.not_movable(self.name, home.name) from None
            raise
        assert isinstance(kept, bytes)
        self.kept = kept
        return True

    async def remove(self, value: Value) -> bool:
        """Remove the key if it still has this value."""
        home = self.route.home
        if not isinstance(home, UpstreamHome):

            def remove(keyspace: Keyspace, argv: Argv) -> Reply:
                if _read(keyspace, argv) != value:
                    return False
                return keyspace.remove(self.name)

            return bool(await self._perform(remove, Want.VALUE))
        script = REMOVE_SAME if value.kind == STRING else REMOVE_KEPT
        return await home.call(self.db, [b"EVAL", script, b"1", self.name, self.kept]) == 1

    async def drop(self) -> bool:
        """Remove the key, whatever it holds; false if it is not there."""
        home = self.route.home
        if isinstance(home, UpstreamHome):
            return await home.call(self.db, [b"UNLINK", self.name]) == 1

        def drop(keyspace: Keyspace, argv: Argv) -> Reply:
            return keyspace.remove(self.name)

        return bool(await self._perform(drop, Want.META))

    async def _perform(self, handler: Callable[[Keyspace, Argv], Reply], need: Want) -> Reply:
        """Run a handler on this key where it is at home."""
        home, argv = self.route.home, [self.name]
        if not isinstance(home, ColdHome):
            return handler(self.route.keyspaces[self.db], argv)
        waiter = Answer()
        home.submit(waiter, handler, argv, self.db, need, [self.name])
        reply = await waiter.future
        if isinstance(reply, CommandError):
            raise reply
        return reply


def dumped(dump: bytes, expire_at: int, name: bytes, backend: str) -> Value:
    """What a Redis has dumped of a key, and when it expires there (below 0: never); raises CommandError."""
    try:
        kind, made = rdb.restore(dump)
    except (BadFooter, BadFormat):
        raise errors.not_movable(name, backend) from None
    return Value(kind, pack(made), max(0, expire_at))


def _read(keyspace: Keyspace, argv: Argv) -> Value | None:
    entry = keyspace.find(argv[0])
    if entry is None:
        return None
    return Value(entry.kind, pack(entry.value), entry.expire_at)


async def _rename(source: Place, target: Place, only_new: bool) -> Reply:
    done: Reply = 1 if only_new else OK
    for _ in range(TRIES):
        value = await source.read()
        if value is None:
            raise CommandError(NO_SUCH_KEY)
        if source.name == target.name:
            return 0 if only_new else done
        if not await target.write(value, not only_new):
            return 0
        if await source.remove(value):
            return done
        await target.remove(value)  # it was changed in the meantime: again, with what it is now
    raise errors.conflict(source.name)


async def rename(source: Place, target: Place, args: Args) -> Reply:
    return await _rename(source, target, False)


async def renamenx(source: Place, target: Place, args: Args) -> Reply:
    return await _rename(source, target, True)


async def copy(source: Place, target: Place, args: Args) -> Reply:
    replace = False
    while args.more():
        if args.match(b"REPLACE"):
            replace = True
        elif args.match(b"DB"):
            target.db = parse_db(args.next())
        else:
            raise CommandError(SYNTAX)
    if source.name == target.name and source.db == target.db:
        raise CommandError(SAME_OBJECT)
    value = await source.read()
    if value is None:
        return 0
    return 1 if await target.write(value, replace) else 0


MOVES: Final = {b"rename": rename, b"renamenx": renamenx, b"copy": copy}


class Move:
    """One such command: its two keys and what follows them."""

    def __init__(
        self, move: Callable[[Place, Place, Args], Awaitable[Reply]], router: Router, db: int, argv: Argv
    ) -> None:
        self._move = move
        self._source = Place(router.find(argv[1]), db, argv[1])
        self._target = Place(router.find(argv[2]), db, argv[2])
        self._args = Args(argv, 3)

    async def run(self) -> Reply:
        return await self._move(self._source, self._target, self._args)
