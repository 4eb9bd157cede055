"""RESP without I/O: requests in, replies out.

``RequestReader`` takes whatever the socket gives and returns whole commands; ``write_reply`` turns a
handler's reply value into RESP2 or RESP3.  Framing and error texts are those of Redis' protocol
specification (https://redis.io/docs/latest/develop/reference/protocol-spec/) and of a running server.

Requests are read here, and not by hiredis' Reader, because that one takes any RESP type for a request,
allocates what a header announces, and does not say where a frame ends: a proxy that forwards frames as
they came needs all three.  Compiled, this reader is also faster.

Reply values (``Reply``): ``bytes`` are a bulk string, ``int`` an integer, ``None`` null, ``list`` an
array, ``dict`` a map, ``float`` a double, ``bool`` a boolean; the rest has a class below.  What RESP2
lacks is written as Redis writes it there.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from librt.strings import BytesWriter, read_i64_le
from mypy_extensions import i64

from proxy.datatypes.digits import digits
from proxy.errors import CommandError, ProtocolError

Argv: TypeAlias = list[bytes]
# A reply nests, and mypyc has no recursive aliases: any value of the kinds that the docstring names.
Reply: TypeAlias = Any

INLINE_MAX: Final = 64 * 1024  # bytes of an inline command, as in Redis
MULTIBULK_MAX: Final = 2**31 - 1  # arguments of one command, as in Redis
BULK_MAX: Final = 512 * 1024 * 1024  # bytes of one argument, as Redis' proto-max-bulk-len
# Before a client has authenticated, as in Redis: what a stranger may make us hold.
UNAUTHENTICATED_ARGS: Final = 10
UNAUTHENTICATED_BULK: Final = 16 * 1024
# What a browser that a web page has sent here opens with, or gets to say next.  Its body would be commands
# of our own: whoever speaks HTTP is closed before, as in Redis.
HTTP: Final = (b"post", b"host:")
# What an argument costs beside its bytes (object header and list slot), so that a request of a great
# many tiny arguments can't hold more memory than its limit says.
ARGUMENT_OVERHEAD: Final = 48

# Arguments, and bytes of a name, of a command that is forwarded without being taken apart.
SKIM_MAX: Final = 64

CR: Final = 13
LF: Final = 10
STAR: Final = 42
DOLLAR: Final = 36

# Whether this module runs compiled: walking bytes one by one pays only then.
COMPILED: Final = not __file__.endswith(".py")


class RequestReader:
    """Splits a client's byte stream into commands.

    ``feed`` a chunk, then call ``next_command`` until it returns ``None``.  For a command that lay
    whole within the chunk, ``data[start:pos]`` are its bytes as they came; otherwise ``start`` is -1.

    ``request_max`` bounds what an unfinished command may hold and ``bulk_max`` one argument, both in
    bytes; ``trusted`` is false until the client has authenticated.  These are security limits.
    """

    def __init__(self, request_max: int, bulk_max: int, trusted: bool) -> None:
        self.request_max: i64 = request_max
        self.bulk_max: i64 = bulk_max
        self.trusted: bool = trusted
        self.data: bytes = b""
        self.pos: i64 = 0
        self.start: i64 = -1
        self._tail: bytes = b""  # an unfinished header or line
        self._argv: Argv = []  # of the unfinished command
        self._missing: i64 = 0  # its arguments that are still to come
        self._held: i64 = 0  # its cost so far
        self._parts: list[bytes] = []  # of its unfinished argument
        self._bulk_missing: i64 = 0  # bytes of that argument that are still to come
        self._crlf_due: bool = False  # its end is still to come
        # What ``skim`` found.
        self.name: bytes = b""
        self.size: i64 = 0  # how many arguments, the name among them
        self.key_size: i64 = 0  # bytes of the first one
        self._key_at: i64 = 0
        # Its head, up to the end of the name, which most often is that of the next one too: its length, 0 if
        # that is over 16 bytes, and the first and the last eight.
        self._head: i64 = 0
        self._head_first: i64 = 0
        self._head_last: i64 = 0
        # Plain Python only: what _split_chunk found, last first.  Take it from here before next_command.
        self.ready: list[Argv] = []

    def feed(self, data: bytes) -> None:
        """Add a chunk; the one before it must have been read until ``None``."""
        if self._bulk_missing:
            size: i64 = len(data)
            if size < self._bulk_missing:
                self._parts.append(data)
                self._bulk_missing -= size
                self.data = b""
                self.pos = 0
                return
            self._parts.append(data[: self._bulk_missing])
            self._argv.append(b"".join(self._parts))
            self._parts = []
            self.pos = self._bulk_missing
            self._bulk_missing = 0
            self._crlf_due = True
            self.data = data
            return
        if len(self._tail) > 0:
            data = self._tail + data
            self._tail = b""
        self.data = data
        self.pos = 0
        if not COMPILED and not self._missing:
            self._split()

    @property
    def idle(self) -> bool:
        """True if no unfinished command is held."""
        return not (self._missing or self._tail)

    def next_command(self) -> Argv | None:
        """The next whole command, or ``None`` when more bytes are needed.

        Raises ``ProtocolError`` with Redis' text; the stream can't be read on after that.
        """
        if not COMPILED and self.ready:
            return self.ready.pop()
        data = self.data
        end: i64 = len(data)
        pos = self.pos
        missing = self._missing
        resumed = missing > 0
        if resumed:
            argv = self._argv
            self.start = -1
        else:
            while True:  # over what Redis answers nothing to: empty lines, empty and negative arrays
                if pos >= end:
                    self._keep(pos)
                    return None
                self.start = pos
                if data[pos] != STAR:
                    inline, pos = self._next_line(pos)
                    if inline is None:
                        self._keep(pos)
                        return None
                    if inline:
                        if inline[0].lower() in HTTP:
                            raise ProtocolError("this is no HTTP server")
                        self.start = -1
                        self.pos = pos
                        return inline
                    continue
                missing, at = read_length(data, pos + 1)
                if at == UNFINISHED:
                    self._keep(pos)
                    return None
                if at == MALFORMED or missing > MULTIBULK_MAX:
                    raise ProtocolError("invalid multibulk length")
                pos = at
                if missing > 0:
                    break
            if missing > UNAUTHENTICATED_ARGS and not self.trusted:
                raise ProtocolError("unauthenticated multibulk length")
            argv = []
            self._held = 0
        while True:
            if self._crlf_due:
                if pos + 2 > end:
                    break
                if data[pos] != CR or data[pos + 1] != LF:
                    raise ProtocolError("expected CRLF after a bulk string")
                self._crlf_due = False
                pos += 2
                missing -= 1
                if not missing:
                    break
            if pos >= end:
                break
            if data[pos] != DOLLAR:
                raise ProtocolError(f"expected '$', got '{chr(data[pos])}'")
            size, at = read_length(data, pos + 1)
            if at == UNFINISHED:
                break
            if at == MALFORMED or size < 0 or size > self.bulk_max:
                raise ProtocolError("invalid bulk length")
            if size > UNAUTHENTICATED_BULK and not self.trusted:
                raise ProtocolError("unauthenticated bulk length")
            self._held += size + ARGUMENT_OVERHEAD
            if self._held > self.request_max:
                raise ProtocolError("request is larger than query_buffer_max")
            pos = at + size
            if pos > end:
                self._parts = [data[at:]]
                self._bulk_missing = pos - end
                pos = end
                break
            argv.append(data[at:pos])
            # The usual case of _crlf_due, without the round over the attribute.
            if pos + 2 <= end and data[pos] == CR and data[pos + 1] == LF:
                pos += 2
                missing -= 1
                if not missing:
                    break
            else:
                self._crlf_due = True
        self._missing = missing
        if missing:
            self._argv = argv
            self._keep(pos)
            return None
        self.pos = pos
        if not COMPILED and resumed:
            self._split()
        return argv

    def skim(self) -> bool:
        """Find the ends of the next command, its name and its first argument, and leave the others alone.

        False where it is not whole within the chunk, not plain or not well formed: then it is still to be
        read by ``next_command``, as it is once ``pos`` is set back to ``start``.  It pays only when compiled.
        """
        data = self.data
        end: i64 = len(data)
        pos = self.pos
        if pos >= end:
            self._keep(pos)
            return False
        if self._missing or (not COMPILED and self.ready):
            return False
        at: i64 = pos + self._head
        if (
            at == pos
            or at > end
            or read_i64_le(data, at - 8) != self._head_last
            or read_i64_le(data, pos) != self._head_first
        ):
            at = self._skim_head(pos)
            if at < 0:
                return False
        size: i64 = 0
        for number in range(self.size - 1):
            if at >= end or data[at] != DOLLAR:
                return False
            size, begin = read_length(data, at + 1)
            if begin < 0 or size < 0 or size > self.bulk_max:
                return False
            at = begin + size + 2
            if at > end or data[at - 2] != CR or data[at - 1] != LF:
                return False
            if number == 0:
                self._key_at = begin
                self.key_size = size
        if at - pos + ARGUMENT_OVERHEAD * self.size > self.request_max:
            return False
        self.start = pos
        self.pos = at
        return True

    @property
    def key(self) -> bytes:
        """The first argument of the command that was skimmed."""
        return self.data[self._key_at : self._key_at + self.key_size]

    def _skim_head(self, pos: i64) -> i64:
        """The place after the name of the command at ``pos``, or less than 0."""
        data = self.data
        end: i64 = len(data)
        self._head = 0
        if data[pos] != STAR:
            return -1
        count, at = read_length(data, pos + 1)
        if at < 0 or count < 2 or count > SKIM_MAX or at >= end or data[at] != DOLLAR:
            return -1
        size, begin = read_length(data, at + 1)
        if begin < 0 or size < 0 or size > SKIM_MAX:
            return -1
        at = begin + size
        if at + 2 > end or data[at] != CR or data[at + 1] != LF:
            return -1
        self.name = data[begin:at]
        self.size = count
        at += 2
        if at - pos <= 16:
            self._head = at - pos
            self._head_first = read_i64_le(data, pos)
            self._head_last = read_i64_le(data, at - 8)
        return at

    def _split(self) -> None:
        """Plain Python: take what lies ahead in one go, as far as it is plain."""
        # No argument costs more than ten times its bytes on the wire: none can be over the limit.
        if 10 * len(self.data) <= self.request_max:
            self.start = -1
            self.ready, taken = _split_chunk(self.data[self.pos :] if self.pos else self.data)
            self.pos += taken

    def _next_line(self, pos: i64) -> tuple[Argv | None, i64]:
        """An inline command and the place after it; ``None`` without its line end."""
        end: i64 = self.data.find(b"\n", pos)
        if (end if end >= 0 else len(self.data)) - pos > INLINE_MAX:
            raise ProtocolError("too big inline request")
        if end < 0:
            return None, pos
        return split_inline(self.data[pos:end]), end + 1

    def _keep(self, pos: i64) -> None:
        if len(self.data) > 0:  # else it is kept already
            if pos < len(self.data):
                self._tail = self.data[pos:]
            self.data = b""
            self.pos = 0


def first_command(frames: bytes) -> Argv:
    """The first of whole commands."""
    reader = RequestReader(2 * len(frames) + ARGUMENT_OVERHEAD * len(frames), BULK_MAX, True)
    reader.feed(frames)
    return reader.next_command() or []


UNFINISHED: Final = -1
MALFORMED: Final = -2


def read_length(data: bytes, pos: i64) -> tuple[i64, i64]:
    """The number of a header whose digits begin at ``pos``, and the place after its line end.

    The place is ``UNFINISHED`` where the line end is still to come, ``MALFORMED`` where it is no number
    as Redis takes them: decimal, without leading zeros, a minus sign before it or not.
    """
    end: i64 = len(data)
    value: i64 = 0
    at = pos
    negative = at < end and data[at] == 45
    if negative:
        at += 1
    first = at
    while at < end:
        c: i64 = data[at]
        if c == CR:
            if at == first or (negative and value == 0):
                return 0, MALFORMED
            if at + 1 == end:
                break
            if data[at + 1] != LF:
                return 0, MALFORMED
            return -value if negative else value, at + 2
        # No length has more than ten digits, so value can't overflow.
        if c < 48 or c > 57 or at - first > 10 or (value == 0 and at > first):
            return 0, MALFORMED
        value = value * 10 + c - 48
        at += 1
    return 0, UNFINISHED


_COUNT: Final = {b"*%d" % n: n for n in range(1, UNAUTHENTICATED_ARGS + 1)}
_LENGTH: Final = [b"$%d" % n for n in range(4096)]


def _split_chunk(data: bytes) -> tuple[list[Argv], int]:
    """The commands that a chunk begins with, last first, and how many bytes they are.

    For plain Python, where one ``split`` beats any loop over bytes.  It checks as strictly as the loop,
    and leaves to it what follows the first command that is large, cut, or odd in any way (a CRLF within
    a value too).
    """
    parts = data.split(b"\r\n")
    commands = _alike(parts)
    if commands:
        return commands, len(data)
    at = 0
    end = len(parts) - 1
    while at < end:
        count = _COUNT.get(parts[at])
        if count is None:
            break
        stop = at + 1 + 2 * count
        if stop > end:
            break
        argv = parts[at + 2 : stop : 2]
        header = at + 1
        for arg in argv:
            size = len(arg)
            if size >= len(_LENGTH) or _LENGTH[size] != parts[header]:
                break
            header += 2
        if header < stop:
            break
        commands.append(argv)
        at = stop
    commands.reverse()
    taken = len(data) if at == end and not parts[end] else sum(map(len, parts[:at])) + 2 * at
    return commands, taken


def _alike(parts: list[bytes]) -> list[Argv]:
    """The commands of a chunk that is a pipeline of whole ones with as many arguments each, last first.

    Column by column, which takes half the time.  Empty for any other chunk.
    """
    count = _COUNT.get(parts[0], 0)
    width = 2 * count + 1
    rows, rest = divmod(len(parts), width)
    if not count or rows < 2 or rest != 1 or parts[-1] or parts[:-1:width] != [parts[0]] * rows:
        return []
    columns = []
    for first in range(1, width, 2):
        column = parts[first + 1 :: width]
        sizes = list(map(len, column))
        try:
            if sizes.count(sizes[0]) == rows:
                headers = [_LENGTH[sizes[0]]] * rows
            else:
                headers = list(map(_LENGTH.__getitem__, sizes))
        except IndexError:
            return []
        if parts[first:-1:width] != headers:
            return []
        columns.append(column)
    commands = list(map(list, zip(*columns, strict=True)))
    commands.reverse()
    return commands


_ESCAPES: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}
_SPACE: Final = b" \t\n\r\x0b\x0c\x00"
_BORDER: Final = b" \t\n\r\x00"  # Redis ends an argument at fewer than it skips before one


def split_inline(line: bytes) -> Argv:
    """Arguments of an inline command, by Redis' quoting rules; ``ProtocolError`` for unbalanced quotes."""
    argv: Argv = []
    at = 0
    end = len(line)
    while True:
        while at < end and line[at : at + 1] in _SPACE:
            at += 1
        if at >= end:
            return argv
        arg = bytearray()
        quote = b""
        while at < end:
            c = line[at : at + 1]
            at += 1
            if quote:
                if c == quote:
                    if at < end and line[at : at + 1] not in _SPACE:
                        raise ProtocolError("unbalanced quotes in request")
                    quote = b""
                    break
                if c == b"\\" and quote == b'"' and at < end:
                    c = line[at : at + 1]
                    at += 1
                    if c == b"x" and len(line) >= at + 2 and _is_hex(line[at : at + 2]):
                        c = bytes([int(line[at : at + 2], 16)])
                        at += 2
                    else:
                        c = _ESCAPES.get(c, c)
                elif c == b"\\" and quote == b"'" and line[at : at + 1] == b"'":
                    c = b"'"
                    at += 1
                arg += c
            elif c in _BORDER:
                break
            elif c == b'"' or c == b"'":
                quote = c
            else:
                arg += c
        if quote:
            raise ProtocolError("unbalanced quotes in request")
        argv.append(bytes(arg))


def _is_hex(two: bytes) -> bool:
    return all(chr(c) in "0123456789abcdefABCDEF" for c in two)


class Simple:
    """A simple string, such as ``OK``."""

    def __init__(self, text: bytes) -> None:
        self.text: bytes = text
        self.wire: bytes = b"+" + text + b"\r\n"


class Set:
    """A set of values: a RESP3 set, a RESP2 array."""

    def __init__(self, items: list[Any]) -> None:
        self.items: list[Any] = items


class Pairs:
    """Names, each with what belongs to it: a RESP3 array of arrays of two, a flat RESP2 array."""

    def __init__(self, names: list[Any], values: list[Any]) -> None:
        self.names: list[Any] = names
        self.values: list[Any] = values


class PairedMap:
    """Names, each with what belongs to it: a RESP3 map, a RESP2 array of arrays of two."""

    def __init__(self, names: list[Any], values: list[Any]) -> None:
        self.names: list[Any] = names
        self.values: list[Any] = values


class Digits:
    """A number whose digits are given: a RESP3 double, a RESP2 bulk string."""

    def __init__(self, text: bytes) -> None:
        self.text: bytes = text


class Push:
    """An out-of-band message: a RESP3 push, a RESP2 array."""

    def __init__(self, items: list[Any]) -> None:
        self.items: list[Any] = items


class Verbatim:
    """Text with a format: a RESP3 verbatim string, a RESP2 bulk string."""

    def __init__(self, text: bytes, format: bytes = b"txt") -> None:
        self.text: bytes = text
        self.format: bytes = format


class Raw:
    """Frames that are RESP already, such as an upstream's reply."""

    def __init__(self, wire: bytes) -> None:
        self.wire: bytes = wire


class Map:
    """A map whose keys a dict can't hold, or would not tell apart: a RESP3 map, a flat RESP2 array."""

    def __init__(self, pairs: list[tuple[Any, Any]]) -> None:
        self.pairs: list[tuple[Any, Any]] = pairs


class BigNumber:
    """A number of any size, in decimal: a RESP3 big number, a RESP2 bulk string."""

    def __init__(self, text: bytes) -> None:
        self.text: bytes = text


class NullArray:
    """No array, where Redis answers so rather than by null: they are the same in RESP3, and not in RESP2."""


NULL_ARRAY: Final = NullArray()
OK: Final = Simple(b"OK")
PONG: Final = Simple(b"PONG")

_SMALL: Final = 1024
_BULK: Final = [b"$%d\r\n" % n for n in range(_SMALL)]
_INT: Final = [b":%d\r\n" % n for n in range(_SMALL)]


def write_bulk(out: BytesWriter, value: bytes) -> None:
    size = len(value)
    out.write(_BULK[size] if size < _SMALL else b"$%d\r\n" % size)
    out.write(value)
    out.write(b"\r\n")


def write_reply(out: BytesWriter, reply: Reply, proto: int) -> None:
    """Append ``reply`` to ``out`` in RESP version ``proto`` (2 or 3)."""
    if isinstance(reply, bytes):  # as write_bulk, without the call
        size = len(reply)
        out.write(_BULK[size] if size < _SMALL else b"$%d\r\n" % size)
        out.write(reply)
        out.write(b"\r\n")
    elif reply is None:
        out.write(b"$-1\r\n" if proto == 2 else b"_\r\n")
    elif isinstance(reply, Simple):
        out.write(reply.wire)
    elif isinstance(reply, bool):
        if proto == 2:
            out.write(b":1\r\n" if reply else b":0\r\n")
        else:
            out.write(b"#t\r\n" if reply else b"#f\r\n")
    elif isinstance(reply, int):
        out.write(_INT[reply] if 0 <= reply < _SMALL else b":" + digits(reply) + b"\r\n")
    elif isinstance(reply, list):
        out.write(b"*%d\r\n" % len(reply))
        for item in reply:
            write_reply(out, item, proto)
    else:
        _write_rare(out, reply, proto)


def _write_rare(out: BytesWriter, reply: Reply, proto: int) -> None:
    if isinstance(reply, (CommandError, Raw)):
        out.write(reply.wire)
    elif isinstance(reply, (bytearray, str)):
        write_bulk(out, reply.encode() if isinstance(reply, str) else bytes(reply))
    elif isinstance(reply, float):
        text = format_double(reply)
        if proto == 2:
            write_bulk(out, text)
        else:
            out.write(b"," + text + b"\r\n")
    elif isinstance(reply, Pairs):
        count = len(reply.names)
        out.write(b"*%d\r\n" % (2 * count if proto == 2 else count))
        for name, value in zip(reply.names, reply.values, strict=True):
            if proto != 2:
                out.write(b"*2\r\n")
            write_reply(out, name, proto)
            write_reply(out, value, proto)
    elif isinstance(reply, PairedMap):
        count = len(reply.names)
        out.write((b"*%d\r\n" if proto == 2 else b"%%%d\r\n") % count)
        for name, value in zip(reply.names, reply.values, strict=True):
            if proto == 2:
                out.write(b"*2\r\n")
            write_reply(out, name, proto)
            write_reply(out, value, proto)
    elif isinstance(reply, Digits):
        if proto == 2:
            write_bulk(out, reply.text)
        else:
            out.write(b",%b\r\n" % reply.text)
    elif isinstance(reply, dict):
        out.write(b"*%d\r\n" % (2 * len(reply)) if proto == 2 else b"%%%d\r\n" % len(reply))
        for key, value in reply.items():
            write_reply(out, key, proto)
            write_reply(out, value, proto)
    elif isinstance(reply, Map):
        out.write(b"*%d\r\n" % (2 * len(reply.pairs)) if proto == 2 else b"%%%d\r\n" % len(reply.pairs))
        for name, item in reply.pairs:
            write_reply(out, name, proto)
            write_reply(out, item, proto)
    elif isinstance(reply, (Set, Push, tuple)):
        items = list(reply) if isinstance(reply, tuple) else reply.items
        kind = b"*" if proto == 2 or isinstance(reply, tuple) else b"~" if isinstance(reply, Set) else b">"
        out.write(b"%b%d\r\n" % (kind, len(items)))
        for item in items:
            write_reply(out, item, proto)
    elif isinstance(reply, BigNumber):
        if proto == 2:
            write_bulk(out, reply.text)
        else:
            out.write(b"(" + reply.text + b"\r\n")
    elif isinstance(reply, NullArray):
        out.write(b"*-1\r\n" if proto == 2 else b"_\r\n")
    elif isinstance(reply, Verbatim):
        if proto == 2:
            write_bulk(out, reply.text)
        else:
            out.write(b"=%d\r\n%b:%b\r\n" % (len(reply.text) + 4, reply.format, reply.text))
    else:
        raise TypeError(f"{type(reply).__name__} is no reply value")


def format_double(value: float) -> bytes:
    """A double as Redis 7.0 writes it: 17 significant digits, ``inf``, ``-inf``, ``nan``."""
    return b"%.17g" % value


def encode_reply(reply: Reply, proto: int = 2) -> bytes:
    """``reply`` as RESP, for where there is no writer at hand."""
    out = BytesWriter()
    write_reply(out, reply, proto)
    return out.getvalue()


def encode_command(argv: Argv) -> bytes:
    """A request: an array of bulk strings, in its canonical form."""
    out = BytesWriter()
    out.write(b"*%d\r\n" % len(argv))
    for arg in argv:
        write_bulk(out, arg)
    return out.getvalue()
