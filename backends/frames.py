"""RESP replies without I/O: where each ends, and its bytes as they came.

``ReplyFramer`` takes whatever an upstream's socket gives and cuts it at the ends of replies.  It frames and
does not parse: the bytes go to the client as they are, so that every type stays exact, in RESP2 and RESP3
(https://redis.io/docs/latest/develop/reference/protocol-spec/).  An attribute is part of the reply that
follows it; a push is no reply and is left out.  Streamed types, which Redis does not send, are malformed.

Nesting needs no stack: the end is where no value is still to come, however deep.  Payloads are skipped by
their length, and what spans chunks is kept in slices and joined once.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from proxy.errors import reply_too_large
from proxy.resp import COMPILED, CR, DOLLAR, LF, MALFORMED, STAR, UNFINISHED, read_length

# The option that bounds a reply, for the error's text: a larger one could never be handed to a client.
LIMIT_OPTION: Final = "output_buffer_max"

# What a first byte announces; 0 for what begins no value.
_LINE: Final = 1  # a value that ends with its line
_BULK: Final = 2  # a value of so many bytes and a line end
_ARRAY: Final = 3  # so many values, together one
_MAP: Final = 4  # twice so many values, together one
_ATTRIBUTE: Final = 5  # twice so many values, beside the one that follows
_KINDS: Final = {
    **dict.fromkeys(b"+-:_#,(", _LINE),
    **dict.fromkeys(b"$!=", _BULK),
    **dict.fromkeys(b"*~>", _ARRAY),
    **dict.fromkeys(b"%", _MAP),
    **dict.fromkeys(b"|", _ATTRIBUTE),
}
_KIND: Final = bytes([_KINDS.get(byte, 0) for byte in range(256)])

_PUSH: Final = 62  # >
_IN_LINE: Final = -1  # in the place of a length: up to the end of the line
# More values than any memory holds; keeps a sum of lengths far below 2**63.
_VALUES_MAX: Final = 2**40


class FramingError(Exception):
    """The upstream's bytes are no RESP: nothing that follows them can be told apart."""


class ReplyFramer:
    """Cuts an upstream's byte stream into replies.

    ``feed`` a chunk, then ``take`` until it returns ``None``.  A reply of more than ``reply_max`` bytes that
    spans chunks is not held: an error reply takes its place.
    """

    def __init__(self, reply_max: int) -> None:
        self._reply_max: i64 = reply_max
        self._data: bytes = b""
        self._pos: i64 = 0
        self._tail: bytes = b""  # the beginning of a header, or of a line's end
        self._due: i64 = 0  # replies still to come of those being taken, if any of their bytes has come
        self._parts: list[bytes] = []  # what earlier chunks had of them
        self._whole: i64 = 0  # how many of the parts are of replies that were whole then
        # Of the unfinished reply or push:
        self._values: i64 = 0  # how many are still to come
        self._skip: i64 = 0  # bytes still to come of a payload with its line end, or _IN_LINE
        self._push: bool = False
        self._held: i64 = 0  # its bytes in earlier chunks

    def feed(self, data: bytes) -> None:
        """Add a chunk; the one before it must have been taken until ``None``."""
        if self._tail:
            data = self._tail + data
            self._tail = b""
        self._data = data
        self._pos = 0

    @property
    def quiet(self) -> bool:
        """True if no part of a reply has come since the last one taken."""
        return not self._due

    def take(self, count: i64) -> bytes | None:
        """The next ``count`` replies, or ``None`` when more bytes are needed; then ask for as many again.

        Raises ``FramingError``; the stream can't be read on after that.
        """
        data = self._data
        end: i64 = len(data)
        pos = self._pos
        start = pos  # of what is not in the parts yet
        due = self._due or count
        while due:
            begin = pos  # of a reply, or of the rest of one
            if not self._values:
                if pos >= end:
                    break
                self._values = 1
                self._push = data[pos] == _PUSH
                if self._push and begin > start:
                    self._parts.append(data[start:begin])
                    start = begin
            pos = self._walk(begin)
            if pos == UNFINISHED:
                self._keep(due, start, begin)
                return None
            if self._push:
                start = pos
                continue
            due -= 1
            if self._held:
                self._held += pos
                if self._held > self._reply_max:
                    del self._parts[self._whole :]
                    self._parts.append(reply_too_large(self._held, self._reply_max, LIMIT_OPTION).wire)
                    start = pos
                self._held = 0
        if due:
            self._keep(due, start, end)
            return None
        self._due = 0
        self._pos = pos
        if self._parts:
            self._parts.append(data[start:pos])
            wire = b"".join(self._parts)
            self._parts = []
            return wire
        return data if pos - start == end else data[start:pos]

    def abandon(self) -> tuple[bytes, int]:
        """For the end of the stream: the whole replies of those being taken, and how many are still to come
        (0 if no part of them has come)."""
        wire = b"".join(self._parts[: self._whole]) if self._due else b""
        return wire, self._due

    def _keep(self, due: i64, start: i64, begin: i64) -> None:
        """Put aside whole replies, from ``start``, and what has come of the next, from ``begin``."""
        data = self._data
        parts = self._parts
        unfinished = self._values and not self._push
        if begin > start:
            parts.append(data[start:begin])
        if not self._held:
            self._whole = len(parts)
        if unfinished:
            stop: i64 = len(data) - len(self._tail)
            self._held += stop - begin
            if self._held > self._reply_max:
                del parts[self._whole :]
            else:
                parts.append(data[begin:stop])
        self._due = due if unfinished or parts else 0
        self._data = b""
        self._pos = 0

    def _walk(self, pos: i64) -> i64:
        """The end of the reply or push that begins or goes on at ``pos``.

        UNFINISHED if it is not in the chunk; the tail is then what must be seen again with the next one.
        """
        data = self._data
        end: i64 = len(data)
        values = self._values
        skip = self._skip
        while values:
            if not skip:
                if pos >= end:
                    break
                kind: i64 = _KIND[data[pos]]
                if kind == _LINE:
                    pos += 1
                    skip = _IN_LINE
                elif kind:
                    size, at = read_length(data, pos + 1)
                    if at == UNFINISHED:
                        break
                    if at == MALFORMED or (size < 0 and not _is_null(data[pos], size)):
                        raise FramingError("a length that is none")
                    if data[pos] == _PUSH and not self._push:
                        raise FramingError("a push within a reply")
                    pos = at
                    if kind == _BULK and size >= 0:
                        skip = size + 2
                    else:
                        if kind == _ATTRIBUTE:
                            values += 2 * size
                        elif size < 0:
                            values -= 1
                        else:
                            values += (2 * size if kind == _MAP else size) - 1
                        if values > _VALUES_MAX:
                            raise FramingError("more values than any memory holds")
                        continue
                else:
                    raise FramingError(f"no type begins with byte {data[pos]}")
            if skip == _IN_LINE:
                at = _line_end(data, pos)
                if at == UNFINISHED:
                    pos = end - 1 if pos < end and data[end - 1] == CR else end
                    break
                pos = at
            else:
                stop = pos + skip
                # Its line end may be split: what is in the chunk is checked.
                if (pos < stop - 1 <= end and data[stop - 2] != CR) or (stop <= end and data[stop - 1] != LF):
                    raise FramingError("a payload without its line end")
                if stop > end:
                    skip = stop - end
                    pos = end
                    break
                pos = stop
            skip = 0
            values -= 1
        self._values = values
        self._skip = skip
        if values:
            self._tail = data[pos:]
            return UNFINISHED
        return pos


def _is_null(first: i64, size: i64) -> bool:
    return size == -1 and first in (DOLLAR, STAR)


def _line_end(data: bytes, pos: i64) -> i64:
    """The place after the next line end; UNFINISHED if there is none."""
    if not COMPILED:
        found = data.find(b"\r\n", pos)
        return found + 2 if found >= 0 else UNFINISHED
    last: i64 = len(data) - 1
    while pos < last:
        if data[pos] == CR and data[pos + 1] == LF:
            return pos + 2
        pos += 1
    return UNFINISHED
