"""Glob patterns as Redis matches them: ``* ? [a-z] [^x]``, and a backslash before what is meant literally.

Source: redis.io/commands/keys; what that leaves open (an unclosed class, an odd range) is as a running
server has it.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

STAR: Final = 42
QUERY: Final = 63
OPEN: Final = 91
BACKSLASH: Final = 92
CLOSE: Final = 93
CARET: Final = 94
MINUS: Final = 45


class Glob:
    """A pattern, to be matched against many texts.

    ``prefix`` is the literal beginning that every match has: a scan may be narrowed by it.
    """

    def __init__(self, pattern: bytes) -> None:
        self.pattern: bytes = pattern
        self.prefix: bytes
        self._rest: bytes
        self.prefix, self._rest = _split(pattern)

    def matches(self, text: bytes) -> bool:
        """Whether the whole of ``text`` fits; O(len(pattern) * len(text)) at worst."""
        if not text.startswith(self.prefix):
            return False
        rest = self._rest
        if rest == b"*":
            return True
        if not text:
            # Redis does not look into a pattern for an empty text, "**" included.
            return not rest
        return _matches(rest, text, len(self.prefix))


def _split(pattern: bytes) -> tuple[bytes, bytes]:
    """The literal beginning, without its backslashes, and the rest from the first wildcard on."""
    prefix = bytearray()
    at = 0
    end = len(pattern)
    while at < end:
        c = pattern[at]
        if c in (STAR, QUERY, OPEN):
            break
        if c == BACKSLASH and at + 1 < end:
            at += 1
            c = pattern[at]
        prefix.append(c)
        at += 1
    return bytes(prefix), pattern[at:]


def _matches(pattern: bytes, text: bytes, start: i64) -> bool:
    """Whether ``text`` from ``start`` on fits.

    When a byte does not fit, only the last star may take one more: an earlier one could gain nothing
    by it.  So there is no recursion, and no pattern that takes exponential time.
    """
    at: i64 = 0
    pos = start
    end: i64 = len(pattern)
    stop: i64 = len(text)
    star: i64 = -1  # the place after the last star
    star_pos: i64 = 0  # where the text after it begins
    while pos < stop:
        fits = False
        if at < end:
            c: i64 = pattern[at]
            if c == STAR:
                at += 1
                star = at
                star_pos = pos
                if at == end:
                    return True
                continue
            if c == OPEN:
                fits, at = _in_class(pattern, at + 1, text[pos])
            elif c == QUERY:
                fits = True
                at += 1
            else:
                if c == BACKSLASH and at + 1 < end:
                    at += 1
                    c = pattern[at]
                fits = c == text[pos]
                at += 1
        if fits:
            pos += 1
        elif star < 0:
            return False
        else:
            star_pos += 1
            pos = star_pos
            at = star
    while at < end and pattern[at] == STAR:
        at += 1
    return at == end


def _in_class(pattern: bytes, at: i64, byte: i64) -> tuple[bool, i64]:
    """Whether ``byte`` fits the class whose inside begins at ``at``, and the place after the class.

    A class that is not closed goes to the pattern's end.  A range may have its ends in either order,
    and a closing bracket for one of them; bytes from 128 on are below the others, as C's char has them.
    """
    end: i64 = len(pattern)
    negated = at < end and pattern[at] == CARET
    if negated:
        at += 1
    fits = False
    while at < end:
        c: i64 = pattern[at]
        if c == BACKSLASH and at + 1 < end:
            at += 1
            if pattern[at] == byte:
                fits = True
        elif c == CLOSE:
            break
        elif at + 2 < end and pattern[at + 1] == MINUS:
            low = _signed(c)
            high = _signed(pattern[at + 2])
            if low > high:
                low, high = high, low
            if low <= _signed(byte) <= high:
                fits = True
            at += 2
        elif c == byte:
            fits = True
        at += 1
    return fits != negated, min(at + 1, end)


def _signed(byte: i64) -> i64:
    return byte - 256 if byte > 127 else byte


def escape(text: bytes) -> bytes:
    """A pattern that only ``text`` itself fits."""
    return b"".join(b"\\" + bytes([c]) if c in b"*?[]\\^-" else bytes([c]) for c in text)
