"""Sealed values on a Redis: sealed on their way in, verified and unsealed on their way out.

These are whole strings, in requests of the commands in ``VALUES`` and replies to those in ``SHOWN``; their
form, and which stay as they are, is told in ``backends.sealed_strings``.  A command that would work on the
inside of a string is refused by its name alone (``works_inside``), since whether a value is sealed can't be
known before.

What is large is sealed and unsealed in a worker thread, so that it holds up nobody but its own client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from backends.base import Lane, Waiter
from backends.seal import IntegrityError, SealPolicy
from backends.sealed_strings import HEAD, is_sealed, raw_length, seal_string, unseal_string
from proxy import errors
from proxy.commands.spec import CommandSpec
from proxy.errors import CommandError
from proxy.prefixes import PrefixMap
from proxy.resp import BULK_MAX, DOLLAR, Argv, encode_command
from proxy.tally import Load

log = logging.getLogger("redtier.sealing")

VALUES: Final = {b"set": 2, b"setnx": 2, b"getset": 2, b"setex": 3, b"psetex": 3, b"mset": 2, b"msetnx": 2}
"""Commands that write values, and the place of the first one among the arguments."""
PAIRS: Final = (b"mset", b"msetnx")  # with a key before each value
SHOWN: Final = (b"get", b"getdel", b"getex", b"getset", b"mget", b"set")
"""Commands whose replies have values in them, in the order of the keys."""
NUMBERS: Final = (b"incr", b"incrby", b"incrbyfloat", b"decr", b"decrby")
INSIDE: Final = ("string", "bitmap")
"""ACL categories of what works on strings; HyperLogLogs are a type of their own, and never sealed."""
COMPARING: Final = (b"IFEQ", b"IFNE", b"IFDEQ", b"IFDNE")
"""Options of ``SET`` in later releases of Redis and Valkey, which look at the value that is there."""

# Values from this size on (bytes, together) are sealed and unsealed in a worker thread.
LARGE: Final = 64 * 1024
THREADS: Final = 2  # for each of the two


def has_values(name: bytes) -> bool:
    """Whether a command's request or reply may have sealed values in it."""
    return name in VALUES or name in SHOWN


def works_inside(spec: CommandSpec, argv: Argv) -> bool:
    """Whether a command works on the inside of a string, or on its length."""
    if has_values(spec.name):
        return spec.name == b"set" and any(arg.upper() in COMPARING for arg in argv[3:])
    if spec.name in NUMBERS:
        return False
    return any(category in INSIDE for category in spec.categories)


class Damaged(Exception):
    """A value does not verify."""

    def __init__(self, key: bytes, reason: str) -> None:
        super().__init__(reason)
        self.key: bytes = key
        self.reason: str = reason


class Found(NamedTuple):
    """A sealed value in a reply."""

    key: bytes
    start: int  # of its bulk string's header
    payload: int  # where it stands
    size: int  # bytes


class Sealing:
    """How the keys of one Redis are sealed.

    ``name`` is the backend's; ``policies`` has for each route how its values are sealed, None: they are not.
    ``reply_max`` bounds a reply, in bytes, with its values unsealed.
    """

    def __init__(self, name: str, policies: PrefixMap[SealPolicy | None], reply_max: int) -> None:
        self.raw_bytes: int = 0  # of all values sealed
        self.stored_bytes: int = 0  # what was stored for them
        self.damaged: int = 0  # values that did not verify
        self.load: Load = Load()  # of the backend, where what is being unsealed is counted
        self._name: str = name
        self._policies: PrefixMap[SealPolicy | None] = policies
        self._reply_max: int = reply_max
        # Apart, so that what is slow to be sealed holds up no read.
        self._sealers: ThreadPoolExecutor = ThreadPoolExecutor(THREADS, f"{name}-seal")
        self._unsealers: ThreadPoolExecutor = ThreadPoolExecutor(THREADS, f"{name}-unseal")
        self._tasks: set[asyncio.Task[None]] = set()

    def seals(self, key: bytes) -> bool:
        return self._policies.find(key) is not None

    # Requests

    def send(self, lane: Lane, name: bytes, argv: Argv, waiter: Waiter) -> bool:
        """Send a command whose values are to be sealed; the waiter gets the reply unsealed.

        False: it will be sent once its values are sealed in a thread, and nothing else of its client's may
        be sent until it is answered.
        """
        if self._is_large(name, argv):
            self._in_background(self._send_large(lane, name, argv, waiter))
            return False
        try:
            sealed = self._counted(argv, self._sealed(name, argv))
        except CommandError as error:
            waiter.resolve(error)
            return True
        except Exception:
            log.exception("%s: values can't be sealed", self._name)
            waiter.resolve(CommandError(errors.INTERNAL))
            return True
        lane.send(encode_command(sealed), self.unsealing(name, argv, waiter))
        return True

    async def _send_large(self, lane: Lane, name: bytes, argv: Argv, waiter: Waiter) -> None:
        try:
            sealed = await self.seal(name, argv)
        except CommandError as error:
            waiter.resolve(error)
        except Exception:
            log.exception("%s: values can't be sealed", self._name)
            waiter.resolve(CommandError(errors.INTERNAL))
        else:
            lane.send(encode_command(sealed), self.unsealing(name, argv, waiter))

    async def seal(self, name: bytes, argv: Argv) -> Argv:
        """A command as it is to be sent; raises CommandError."""
        if not self._is_large(name, argv):
            return self._counted(argv, self._sealed(name, argv))
        loop = asyncio.get_running_loop()
        return self._counted(argv, await loop.run_in_executor(self._sealers, self._sealed, name, argv))

    def _is_large(self, name: bytes, argv: Argv) -> bool:
        size = 0
        for place in _value_places(name, len(argv)):
            size += len(argv[place])
        return size >= LARGE

    def _sealed(self, name: bytes, argv: Argv) -> Argv:
        sealed = argv.copy()
        for place in _value_places(name, len(argv)):
            key = argv[place - 1] if name in PAIRS else argv[1]
            policy = self._policies.find(key)
            if policy is not None:
                value = seal_string(argv[place], policy)
                if len(value) > BULK_MAX:  # over which a Redis closes the connection
                    raise errors.too_large_sealed(len(argv[place]), BULK_MAX)
                sealed[place] = value
        return sealed

    def _counted(self, argv: Argv, sealed: Argv) -> Argv:
        for raw, stored in zip(argv, sealed, strict=True):
            if raw is not stored:
                self.raw_bytes += len(raw)
                self.stored_bytes += len(stored)
        return sealed

    # Replies

    def unsealing(self, name: bytes, argv: Argv, waiter: Waiter) -> Waiter:
        """Who is to wait for the reply to a command, so that ``waiter`` gets it unsealed."""
        keys = keys_shown(name, argv)
        return Unsealing(self, keys, waiter) if any(map(self.seals, keys)) else waiter

    def answer(self, keys: list[bytes], wire: bytes, failed: int, waiter: Waiter) -> None:
        """Give a waiter its reply, in which the values of ``keys`` stand, unsealed."""
        refused: CommandError | None = None
        try:
            found = self._find(keys, wire)
            if found:
                size = self._size(found, wire)
                if size >= LARGE:
                    self._in_background(self._answer_large(found, wire, size, waiter))
                    return
                wire = _unsealed(found, wire)
        except (Damaged, CommandError) as error:
            refused = self._refused(error)
        except Exception:  # a fault of ours, which is not to break the connection of all
            log.exception("%s: values can't be unsealed", self._name)
            refused = CommandError(errors.INTERNAL)
        if refused is None:
            waiter.done(wire, failed)
        else:
            waiter.resolve(refused)

    async def _answer_large(self, found: list[Found], wire: bytes, size: int, waiter: Waiter) -> None:
        try:
            wire = await self._unseal_large(found, wire, size)
        except CommandError as error:
            waiter.resolve(error)
        except Exception:
            log.exception("%s: values can't be unsealed", self._name)
            waiter.resolve(CommandError(errors.INTERNAL))
        else:
            waiter.done(wire, 0)

    async def unseal(self, keys: list[bytes], wire: bytes) -> bytes:
        """A reply in which the values of ``keys`` stand, unsealed; raises CommandError."""
        found = self._find(keys, wire)
        if not found:
            return wire
        try:
            size = self._size(found, wire)
            if size < LARGE:
                return _unsealed(found, wire)
        except Damaged as damage:
            raise self._refused(damage) from None
        return await self._unseal_large(found, wire, size)

    async def unseal_value(self, key: bytes, stored: bytes) -> bytes:
        """A value as its client has set it; raises CommandError."""
        if not self.seals(key) or not is_sealed(stored):
            return stored
        try:
            if max(len(stored), _raw_length(key, stored)) < LARGE:
                return _unsealed_value(key, stored)
            return await asyncio.get_running_loop().run_in_executor(
                self._unsealers, _unsealed_value, key, stored
            )
        except Damaged as damage:
            raise self._refused(damage) from None

    async def _unseal_large(self, found: list[Found], wire: bytes, size: int) -> bytes:
        self.load.bytes += size
        try:
            return await asyncio.get_running_loop().run_in_executor(self._unsealers, _unsealed, found, wire)
        except Damaged as damage:
            raise self._refused(damage) from None
        finally:
            self.load.bytes -= size

    def _find(self, keys: list[bytes], wire: bytes) -> list[Found]:
        """The sealed values in a reply: of a bulk string, or an array of them; an error has none."""
        found: list[Found] = []
        if not wire.startswith((b"$", b"*")):
            return found
        at = 0 if wire[0] == DOLLAR else wire.index(b"\r\n") + 2
        for key in keys:
            payload = wire.index(b"\r\n", at) + 2
            size = int(wire[at + 1 : payload - 2]) if wire[at] == DOLLAR else -1  # else RESP3's null
            if size < 0:
                at = payload
                continue
            if self._policies.find(key) is not None and is_sealed(wire[payload : payload + min(size, HEAD)]):
                found.append(Found(key, at, payload, size))
            at = payload + size + 2
        return found

    def _size(self, found: list[Found], wire: bytes) -> int:
        """Bytes of a reply as it came and unsealed, together; raises Damaged and CommandError."""
        unsealed = len(wire)
        for key, _, payload, stored in found:
            unsealed += _raw_length(key, wire[payload : payload + min(stored, HEAD)]) - stored
        self.check_reply(unsealed)
        return len(wire) + unsealed

    def check_reply(self, size: int) -> None:
        """Refuse a reply of so many bytes, if it could never be handed to a client; raises CommandError."""
        if size > self._reply_max:
            raise errors.reply_too_large(size, self._reply_max, "output_buffer_max")

    def _refused(self, error: Damaged | CommandError) -> CommandError:
        """What a client is told."""
        if isinstance(error, CommandError):
            return error
        self.damaged += 1
        log.error("%s: the value of %r is damaged: %s", self._name, error.key, error.reason)
        return errors.integrity_there(error.key, error.reason, self._name)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Unsealing(Waiter):
    """Stands between a lane and whoever waits for a reply with values of ``keys`` in it."""

    def __init__(self, sealing: Sealing, keys: list[bytes], waiter: Waiter) -> None:
        super().__init__(1)
        self._sealing: Sealing = sealing
        self._keys: list[bytes] = keys
        self._waiter: Waiter = waiter

    def done(self, wire: bytes, failed: int) -> None:
        self._sealing.answer(self._keys, wire, failed, self._waiter)

    def retry(self) -> bytes:
        return self._waiter.retry()  # a read, which has no values in it

    def alone(self) -> bool:
        return self._waiter.alone()

    def resolve(self, reply: object) -> None:
        raise TypeError("a lane answers in frames")


def keys_shown(name: bytes, argv: Argv) -> list[bytes]:
    """The keys whose values stand in the reply to a command, in their order."""
    if name not in SHOWN:
        return []
    return argv[1:] if name == b"mget" else argv[1:2]


def _value_places(name: bytes, size: int) -> range:
    """The places of values among so many arguments."""
    first = VALUES.get(name, size)
    return range(first, size, 2) if name in PAIRS else range(first, min(first + 1, size))


def _raw_length(key: bytes, stored: bytes) -> int:
    try:
        length = raw_length(stored)
    except IntegrityError as damage:
        raise Damaged(key, str(damage)) from None
    if length > BULK_MAX:
        raise Damaged(key, f"no value has {length} bytes")
    return length


def _unsealed_value(key: bytes, stored: bytes) -> bytes:
    try:
        return unseal_string(stored, BULK_MAX)
    except IntegrityError as damage:
        raise Damaged(key, str(damage)) from None


def _unsealed(found: list[Found], wire: bytes) -> bytes:
    """A reply with the sealed values in it unsealed; raises Damaged."""
    parts: list[bytes] = []
    at = 0
    for key, start, payload, size in found:
        raw = _unsealed_value(key, wire[payload : payload + size])
        parts += [wire[at:start], b"$%d\r\n" % len(raw), raw]
        at = payload + size
    parts.append(wire[at:])
    return b"".join(parts)
