"""Lua as Redis 7.0 has it: scripts compiled, run within limits, and values converted both ways.

An ``Interpreter`` is one Lua state, whose sandbox and libraries are the files of ``proxy/lua``.  It knows
nothing of commands or keys: a script's ``redis.call`` goes to the ``Calls`` that it is run with.

Limits: a hook stops a script that has run for too long, and Lua's allocator one that holds too much.  The
allocator's limit holds only while Lua itself is at work.  Where the host moves values in or out there is
none, since an error of Lua's could not be raised through it.  A state that a limit was met in is not used
again.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
import struct
import time
from abc import abstractmethod
from collections.abc import Callable
from importlib import resources
from typing import Any, Final

from lupa.lua51 import LuaError, LuaMemoryError, LuaRuntime

from proxy.datatypes.undo import UndoLimit
from proxy.errors import CommandError, one_line
from proxy.resp import Argv, BigNumber, Map, NullArray, Reply, Set, Simple, Verbatim, encode_reply

log = logging.getLogger("redtier.script")

VERSION: Final = b"7.0.15"
VERSION_NUMBER: Final = 0x0007000F
LIBRARIES: Final = ("bit", "cjson", "cmsgpack", "struct")
LOG_LEVELS: Final = (logging.DEBUG, logging.DEBUG, logging.INFO, logging.WARNING)

# What the host answers a call with, as sandbox.lua reads it.
OK: Final = 0
FAILED: Final = 1
STOP: Final = 2


class ScriptFailed(Exception):
    """A script has ended with an error: its reply.  What it changed before stays changed."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.error: CommandError = script_error(text)


def script_error(text: bytes) -> CommandError:
    """An error reply whose ``wire`` keeps bytes that are no UTF-8."""
    error = CommandError(text.decode("utf-8", "replace"))
    error.wire = b"-" + one_line(text) + b"\r\n"
    return error


class TooLong(Exception):
    """The script was stopped: it ran for longer than it may."""


class TooMuchMemory(Exception):
    """The script was stopped: it held more memory than it may, or its changes took more to be undone."""


class Calls:
    """What a script may ask of the server; errors of a call are CommandErrors, all else ends the script."""

    @abstractmethod
    def call(self, argv: Argv) -> Reply: ...

    @abstractmethod
    def is_command(self, argv: Argv) -> bool: ...


class Interpreter:
    """One Lua state; ``timeout`` is in ms, ``max_memory`` in bytes."""

    def __init__(self, timeout: int, max_memory: int) -> None:
        self.timeout: int = timeout
        self.max_memory: int = max_memory
        self.usable: bool = True  # until a limit is met
        # No object of Python's reaches a script; that none would show it anything is for good measure.
        self._lua: LuaRuntime = LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            attribute_filter=_deny,
            max_memory=0,
        )
        self._calls: Calls | None = None
        self._deadline: float = 0.0
        self._stopped: Exception | None = None
        self._resp: int = 2
        self._random: int = random.getrandbits(48)
        functions: dict[bytes, object] = {
            b"version": VERSION,
            b"version_number": VERSION_NUMBER,
            b"over": self._over,
            b"out_of_memory": self._out_of_memory,
            b"limit": self._limit,
            b"no_limit": self._no_limit,
            b"call": self._unlimited(self._call),
            b"is_command": self._unlimited(self._is_command),
            b"setresp": self._set_resp,
            b"sha1hex": self._unlimited(sha1hex),
            b"log": self._unlimited(_log),
            b"random": self._draw,
            b"seed": self._seed,
            b"bit": bit_operation,
            b"tohex": self._unlimited(tohex),
            b"pack_number": self._unlimited(pack_number),
            b"pack_real": self._unlimited(_pack_real),
            b"read_number": read_number,
        }
        host = self._lua.table_from(functions)
        host[b"null"] = self._lua.execute(NULL)
        libraries = self._lua.table_from({name.encode(): self._load(name) for name in LIBRARIES})
        runner = self._execute("sandbox", host, libraries)
        self._compile = runner[b"compile"]
        self._load_code = runner[b"load"]
        self._run = runner[b"run"]

    # Any: what lives in Lua has no type here.
    def _execute(self, name: str, *args: object) -> Any:
        source = resources.files("proxy").joinpath("lua", f"{name}.lua").read_bytes()
        code = self._lua.execute(b"return string.dump(assert(loadstring((...), '=redtier')))", source)
        return self._lua.execute(b"return loadstring((...))", keep_frames(code))(*args)

    def _load(self, name: str) -> Any:
        return self._execute(name)

    def compile(self, body: bytes) -> Any:
        """A script's function in this state; raises CommandError."""
        found = self._compile(body)
        if isinstance(found, tuple):
            raise script_error(b"ERR Error compiling script (new function): " + (found[1] or b""))
        return self._load_code(keep_frames(found))

    def run(self, function: Any, sha: bytes, keys: list[bytes], argv: list[bytes], calls: Calls) -> Reply:
        """A script's reply.  Raises ScriptFailed, TooLong, TooMuchMemory, and what a call raised but for its
        CommandErrors."""
        self._calls = calls
        self._stopped = None
        self._resp = 2
        self._deadline = time.monotonic() + self.timeout / 1000
        if self._lua.get_memory_used(total=True) > self.max_memory // 4:
            self._lua.gccollect()  # Lua's allocator does not collect before it gives up
        try:
            found = self._run(function, self._lua.table_from(keys), self._lua.table_from(argv))
        except (LuaError, LuaMemoryError) as error:
            found = (False, str(error).encode())
            self._out_of_memory()
        finally:
            self._lua.set_max_memory(0)
            self._calls = None
        if self._stopped is not None:
            stopped, self._stopped = self._stopped, None
            if isinstance(stopped, (TooLong, TooMuchMemory)):
                self.usable = False
            raise stopped
        if found[0]:
            return read_reply(found[1])
        raise ScriptFailed(_located(sha, *found[1:]))

    # What the sandbox calls.  Nothing is raised into Lua.

    def _limit(self) -> None:
        self._lua.set_max_memory(self.max_memory)

    def _no_limit(self) -> None:
        self._lua.set_max_memory(0)

    def _unlimited(self, f: Callable[..., object]) -> Callable[..., object]:
        """``f``, whose result is handed to Lua without a limit; the sandbox puts the limit back."""
        set_max_memory = self._lua.set_max_memory

        def call(*args: object) -> object:
            set_max_memory(0)
            return f(*args)

        return call

    def _over(self) -> bool:
        if self._calls is None:
            return False
        if self._stopped is None and time.monotonic() >= self._deadline:
            self._stopped = TooLong()
        return self._stopped is not None

    def _out_of_memory(self) -> None:
        if self._stopped is None:
            self._stopped = TooMuchMemory()

    def _call(self, *argv: bytes) -> tuple[int, object]:
        if self._over():
            return STOP, False
        assert self._calls is not None
        try:
            reply = self._calls.call(list(argv))
            if not isinstance(reply, CommandError):
                return OK, self._to_lua(reply)
            error = reply
        except CommandError as refused:
            error = refused
        except UndoLimit:
            self._out_of_memory()
            return STOP, False
        except Exception as problem:  # NeedKeys, or a fault of ours
            self._stopped = problem
            return STOP, False
        return FAILED, error.wire[1:-2]

    def _is_command(self, *argv: bytes) -> bool:
        assert self._calls is not None
        return self._calls.is_command(list(argv))

    def _set_resp(self, version: float) -> None:
        self._resp = int(version)

    def _seed(self, seed: float) -> None:
        self._random = ((int(seed) & 0xFFFFFFFF) << 16) + 0x330E

    def _draw(self) -> float:
        """The next number of lrand48's sequence, in [0, 1)."""
        self._random = (self._random * 0x5DEECE66D + 0xB) & 0xFFFFFFFFFFFF
        return (self._random >> 17) % RANDOM_MAX / RANDOM_MAX

    def _to_lua(self, reply: Reply) -> object:
        """A reply as a script sees it, by the RESP version that it has chosen."""
        if isinstance(reply, (bytes, float)) and not isinstance(reply, bool):
            if isinstance(reply, bytes):
                return reply
            return b"%.17g" % reply if self._resp == 2 else self._table({b"double": reply})
        if isinstance(reply, bool):
            return reply if self._resp == 3 else int(reply)
        if isinstance(reply, int):
            return reply
        if reply is None or isinstance(reply, NullArray):
            return False if self._resp == 2 else None
        if isinstance(reply, (list, tuple)):
            return self._array(list(reply))
        return self._rare_to_lua(reply)

    def _rare_to_lua(self, reply: Reply) -> object:
        if isinstance(reply, Simple):
            return self._table({b"ok": reply.text})
        if isinstance(reply, CommandError):
            return self._table({b"err": reply.wire[1:-2]})
        if isinstance(reply, (bytearray, str)):
            return reply.encode() if isinstance(reply, str) else bytes(reply)
        if isinstance(reply, Set):
            if self._resp == 2:
                return self._array(reply.items)
            members = self._table({self._to_lua(item): True for item in reply.items})
            return self._table({b"set": members})
        if isinstance(reply, Map):
            if self._resp == 2:
                return self._array([each for pair in reply.pairs for each in pair])
            fields = {self._to_lua(name): self._to_lua(value) for name, value in reply.pairs}
            return self._table({b"map": self._table(fields)})
        if isinstance(reply, Verbatim):
            if self._resp == 2:
                return reply.text
            text = self._table({b"format": reply.format, b"string": reply.text})
            return self._table({b"verbatim_string": text})
        if isinstance(reply, BigNumber):
            return reply.text if self._resp == 2 else self._table({b"big_number": reply.text})
        # Whatever else there is has its form on the wire, in the version that the script has chosen.
        return self._to_lua(read_reply(encode_reply(reply, self._resp)))

    def _array(self, items: list[Reply]) -> object:
        # By position, since nulls leave holes.
        values = {at: self._to_lua(item) for at, item in enumerate(items, 1)}
        return self._table(values)

    def _table(self, fields: dict[Any, Any]) -> object:
        return self._lua.table_from({name: value for name, value in fields.items() if value is not None})


NULL: Final = b"""
local null = newproxy(true)
getmetatable(null).__tostring = function() return "userdata: (nil)" end
getmetatable(null).__metatable = false
return null
"""

# Redis draws from the sequence of lrand48.
RANDOM_MAX: Final = 2**31 - 1


def _deny(target: object, name: object, setting: bool) -> object:
    raise AttributeError("not for scripts")


def _log(level: float, text: bytes) -> None:
    log.log(LOG_LEVELS[int(level)], "%s", text.decode("utf-8", "replace"))


def sha1hex(text: bytes) -> bytes:
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()


def _located(sha: bytes, text: bytes, source: bytes = b"", line: float = 0) -> bytes:
    """An error's text with the script and the place in it that it comes from."""
    if not source:
        return b"%b script: %b." % (text, sha)
    return b"%b script: %b, on %b:%d." % (text, sha, source, line)


# Numbers


def _int32(number: float) -> int:
    """A number as "bit" takes it: rounded, then its lowest 32 bits."""
    if math.isnan(number) or math.isinf(number):
        return 0
    return round(number) & 0xFFFFFFFF


_BIT: Final[dict[bytes, Callable[[list[int]], int]]] = {
    b"tobit": lambda n: n[0],
    b"bnot": lambda n: ~n[0],
    b"bswap": lambda n: int.from_bytes(n[0].to_bytes(4, "little"), "big"),
    b"lshift": lambda n: n[0] << (n[1] & 31),
    b"rshift": lambda n: n[0] >> (n[1] & 31),
    b"arshift": lambda n: _signed(n[0]) >> (n[1] & 31),
    b"rol": lambda n: n[0] << (n[1] & 31) | n[0] >> (-n[1] & 31),
    b"ror": lambda n: n[0] >> (n[1] & 31) | n[0] << (-n[1] & 31),
}


def _signed(number: int) -> int:
    number &= 0xFFFFFFFF
    return number - 0x100000000 if number & 0x80000000 else number


def bit_operation(name: bytes, *numbers: float) -> int:
    """An operation of the "bit" library."""
    bits = [_int32(number) for number in numbers]
    operation = _BIT.get(name)
    if operation is not None:
        return _signed(operation(bits))
    result = bits[0]
    for each in bits[1:]:
        result = result & each if name == b"band" else result | each if name == b"bor" else result ^ each
    return _signed(result)


def tohex(number: float, digits: float) -> bytes:
    count = _signed(_int32(digits))
    text = b"%08x" % _int32(number)
    if count < 0:
        text, count = text.upper(), -count
    return text[8 - min(count, 8) :]


def pack_number(number: float) -> bytes:
    """A number that is no integer, in MessagePack: with four bytes where they hold it exactly."""
    number = float(number)
    try:
        short = struct.pack(">f", number)
    except OverflowError:
        short = b""
    if short and (struct.unpack(">f", short)[0] == number):
        return b"\xca" + short
    return b"\xcb" + struct.pack(">d", number)


def _pack_real(size: float, number: float) -> bytes:
    """A float (4 bytes) or a double (8), big-endian."""
    if size == 8:
        return struct.pack(">d", number)
    try:
        return struct.pack(">f", number)
    except OverflowError:
        return struct.pack(">f", math.copysign(math.inf, number))


def read_number(digits: bytes) -> float:
    """A float or a double, big-endian, by its length."""
    number: float = struct.unpack(">f" if len(digits) == 4 else ">d", digits)[0]
    return number


# What a script returns


def read_reply(wire: bytes) -> Reply:
    """A value of RESP2 or RESP3; the sandbox gives what a script returns as the latter."""
    return _read(wire, 0)[0]


def _read(wire: bytes, at: int) -> tuple[Reply, int]:
    end = wire.index(b"\r\n", at)
    kind = wire[at : at + 1]
    head = wire[at + 1 : end]
    at = end + 2
    if kind == b"$":
        size = int(head)
        if size < 0:
            return None, at
        return wire[at : at + size], at + size + 2
    if kind == b":":
        return int(head), at
    if kind == b"*":
        if head == b"-1":
            return None, at
        items = []
        for _ in range(int(head)):
            item, at = _read(wire, at)
            items.append(item)
        return items, at
    if kind == b"_":
        return None, at
    return _read_rare(kind, head, wire, at)


def _read_rare(kind: bytes, head: bytes, wire: bytes, at: int) -> tuple[Reply, int]:
    if kind == b"+":
        return Simple(head), at
    if kind == b"-":
        return script_error(head), at
    if kind == b"#":
        return head == b"t", at
    if kind == b",":
        return float(head), at
    if kind == b"(":
        return BigNumber(head), at
    if kind == b"=":
        size = int(head)
        return Verbatim(wire[at + 4 : at + size], wire[at : at + 3]), at + size + 2
    items: list[Reply] = []
    for _ in range(int(head) * (2 if kind == b"%" else 1)):
        item, at = _read(wire, at)
        items.append(item)
    if kind == b"~":
        return Set(items), at
    return Map(list(zip(items[::2], items[1::2], strict=True))), at


# Scripts as the interpreter's frames need them

TAILCALL: Final = 29
CALL: Final = 28
OPCODE: Final = 0x3F  # the bits of an instruction that tell its operation


def keep_frames(code: bytes) -> bytes:
    """Compiled code (string.dump of Lua 5.1) whose tail calls are plain ones.

    Redis' functions are C's, which have no tail calls; ours are Lua's, and a call that replaces its caller
    takes away the line that its error must name.
    """
    patched = bytearray(code)
    _patch(patched, HEADER)
    return bytes(patched)


HEADER: Final = 12  # bytes before the main function
_INT: Final = struct.Struct("<i")
_SIZE: Final = struct.Struct("<Q")


def _patch(code: bytearray, at: int) -> int:
    """Patch the function at this place, and those in it; the place after it."""
    at = _skip_string(code, at) + 8 + 4  # the lines that it is defined on; four bytes of counts
    (count,) = _INT.unpack_from(code, at)
    at += 4
    for place in range(at, at + 4 * count, 4):
        if code[place] & OPCODE == TAILCALL:
            code[place] = code[place] & ~OPCODE | CALL
    at += 4 * count
    (count,) = _INT.unpack_from(code, at)
    at += 4
    for _ in range(count):  # constants
        kind = code[at]
        at += 1
        if kind == 1:
            at += 1
        elif kind == 3:
            at += 8
        elif kind == 4:
            at = _skip_string(code, at)
    (count,) = _INT.unpack_from(code, at)
    at += 4
    for _ in range(count):
        at = _patch(code, at)
    (count,) = _INT.unpack_from(code, at)  # lines
    at += 4 + 4 * count
    (count,) = _INT.unpack_from(code, at)  # local variables
    at += 4
    for _ in range(count):
        at = _skip_string(code, at) + 8
    (count,) = _INT.unpack_from(code, at)  # upvalues
    at += 4
    for _ in range(count):
        at = _skip_string(code, at)
    return at


def _skip_string(code: bytearray, at: int) -> int:
    (size,) = _SIZE.unpack_from(code, at)
    return at + 8 + int(size)
