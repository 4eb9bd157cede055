"""A cursor over a command's arguments, and the numbers in them, by Redis' rules.

Everything here raises CommandError with Redis' text.
"""

from __future__ import annotations

import re
from typing import Final

from mypy_extensions import i64

from proxy.errors import (
    DB_OUT_OF_RANGE,
    INVALID_CURSOR,
    NOT_A_FLOAT,
    NOT_AN_INT32,
    NOT_AN_INTEGER,
    SYNTAX,
    CommandError,
    invalid_expire,
)
from proxy.glob import Glob
from proxy.keyspace import DATABASES
from proxy.resp import Argv

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
INT32_MIN: Final = -(2**31)
INT32_MAX: Final = 2**31 - 1

CURSOR_DIGITS: Final = 20  # of the largest one that Redis takes, 2**64 - 1
SCAN_COUNT: Final = 10  # elements of a page where the client asks for no number, as in Redis

EXPIRY_OPTIONS: Final = frozenset({b"EX", b"PX", b"EXAT", b"PXAT"})


class Args:
    """The arguments from ``at`` on; whatever is missing is a syntax error."""

    def __init__(self, argv: Argv, at: int) -> None:
        self.argv: Argv = argv
        self.at: int = at
        self.end: int = len(argv)

    def more(self) -> bool:
        return self.at < self.end

    def next(self) -> bytes:
        at = self.at
        if at >= self.end:
            raise CommandError(SYNTAX)
        self.at = at + 1
        return self.argv[at]

    def next_int(self) -> int:
        return parse_int(self.next())

    def option(self) -> bytes:
        """The next argument in upper case."""
        return self.next().upper()

    def match(self, option: bytes) -> bool:
        """Step over the next argument if it is ``option`` (upper case here, any case there)."""
        if self.at < self.end and self.argv[self.at].upper() == option:
            self.at += 1
            return True
        return False

    def finish(self) -> None:
        if self.at < self.end:
            raise CommandError(SYNTAX)


def parse_int(text: bytes) -> int:
    """A signed 64-bit integer, only in its canonical decimal form: no blanks, plus or leading zeros."""
    size: i64 = len(text)
    at: i64 = 0
    negative = size > 0 and text[0] == 45
    if negative:
        at = 1
    digits = size - at
    value: i64 = 0
    if 0 < digits <= 19:
        first: i64 = text[at]
        if 49 <= first <= 57 or (first == 48 and size == 1):
            # Eighteen digits can't overflow; the nineteenth is left to an unbounded integer.
            stop: i64 = size if digits < 19 else size - 1
            while at < stop:
                c: i64 = text[at]
                if c < 48 or c > 57:
                    raise CommandError(NOT_AN_INTEGER)
                value = value * 10 + c - 48
                at += 1
            if at == size:
                return -value if negative else value
            last = text[at] - 48
            if 0 <= last <= 9:
                large: int = value
                large = large * 10 + last
                if negative:
                    large = -large
                if INT64_MIN <= large <= INT64_MAX:
                    return large
    raise CommandError(NOT_AN_INTEGER)


def parse_int_or(text: bytes, error: str) -> int:
    """``parse_int`` where a command has a text of its own for what is no integer."""
    try:
        return parse_int(text)
    except CommandError:
        raise CommandError(error) from None


def parse_double(text: bytes, error: str = NOT_A_FLOAT) -> float:
    """A number as C's strtod takes it, all of the text: hexadecimal and ``inf`` too, but no NaN.

    What is over a double's range is refused, and so is what is so small that it becomes 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = _hexadecimal(text, error)
    # What float() takes and Redis does not: NaN, blanks, underscores; and what strtod tells by errno.
    if value != value or text[0] <= 32 or text[-1] <= 32 or b"_" in text:
        raise CommandError(error)
    if (value == 0 and _SIGNIFICANT.match(text)) or (value - value != 0 and b"n" not in text.lower()):
        raise CommandError(error)
    return value


_SIGNIFICANT: Final = re.compile(rb"[+-]?(0[xX][0.]*[1-9a-fA-F]|[0.]*[1-9])")
_HEXADECIMAL: Final = re.compile(rb"[+-]?0[xX]")


def _hexadecimal(text: bytes, error: str) -> float:
    if _HEXADECIMAL.match(text):
        try:
            return float.fromhex(text.decode("ascii"))
        except (ValueError, OverflowError):
            pass
    raise CommandError(error)


def parse_db(text: bytes) -> int:
    """The number of a database."""
    db = parse_int(text)
    if not INT32_MIN <= db <= INT32_MAX:
        raise CommandError(NOT_AN_INT32)
    if not 0 <= db < DATABASES:
        raise CommandError(DB_OUT_OF_RANGE)
    return db


def parse_expiry(text: bytes, option: bytes, now: int, name: str) -> int:
    """When a key expires, in ms since the epoch, by one of ``EXPIRY_OPTIONS``; ``name`` is the command's.

    A time that has passed is a good one; one that is not positive, or over 64 bits, is not.
    """
    moment = parse_int(text)
    if moment <= 0:
        raise invalid_expire(name)
    if option == b"EX" or option == b"EXAT":
        moment *= 1000
    if option == b"EX" or option == b"PX":
        moment += now
    if moment > INT64_MAX:
        raise invalid_expire(name)
    return moment


def parse_cursor(text: bytes) -> int:
    """Where a SCAN, or one of a collection, is to go on, read as C's ``strtoul`` does, which takes signs."""
    digits = text[1:] if text.startswith((b"+", b"-")) else text
    if not text:
        return 0
    if not digits.isdigit() or len(digits) > CURSOR_DIGITS or int(digits) >= 2**64:
        raise CommandError(INVALID_CURSOR)
    return int(text) % 2**64


def parse_page(argv: Argv, at: int) -> tuple[Glob | None, int]:
    """The options of HSCAN, SSCAN and ZSCAN: what names have to match, and about how many a page has."""
    pattern: Glob | None = None
    count = SCAN_COUNT
    args = Args(argv, at)
    while args.more():
        option = args.option()
        if option == b"MATCH":
            pattern = Glob(args.next())
        elif option == b"COUNT":
            count = args.next_int()
            if count < 1:
                raise CommandError(SYNTAX)
        else:
            raise CommandError(SYNTAX)
    return pattern, count
