"""What the arguments of the stream commands mean: ids, intervals, how to trim, what to read."""

from __future__ import annotations

import re
from typing import Final

from proxy import errors
from proxy.commands.args import Args, parse_int, parse_int_or
from proxy.datatypes import streamid
from proxy.datatypes.stream import Stream
from proxy.datatypes.streamblock import ENTRIES_MAX
from proxy.errors import SYNTAX, WRONG_TYPE, CommandError
from proxy.lru import Entry
from proxy.resp import Argv

ID_LENGTH: Final = 127  # bytes of an id as clients write it
TRIM_AT_ONCE: Final = 100 * ENTRIES_MAX  # entries that ``~`` lets go of where no LIMIT is given

NO_TRIM: Final = 0
MAXLEN: Final = 1
MINID: Final = 2

# What C's strtoull takes.
_UNSIGNED: Final = re.compile(rb"[ \t\n\v\f\r]*([+-]?)([0-9]+)")


def stream_of(entry: Entry) -> Stream:
    """A stream entry's value; raises WRONGTYPE for another kind."""
    value = entry.value
    if isinstance(value, Stream):
        return value
    raise CommandError(WRONG_TYPE)


def _parse_half(text: bytes) -> int:
    """A number of 64 bits without a sign, in any form that Redis takes."""
    try:
        number = parse_int(text)
    except CommandError:
        match = _UNSIGNED.fullmatch(text)
        # No more digits than 64 bits can have, but for zeros: int() would take long for all of an argument.
        if match is None or len(match[2]) > ID_LENGTH or int(match[2]) > streamid.SEQ_MAX:
            raise CommandError(errors.STREAM_ID) from None
        number = int(match[2])
        return -number & streamid.SEQ_MAX if match[1] == b"-" else number
    if number < 0:
        raise CommandError(errors.STREAM_ID)
    return number


def parse_id(text: bytes, missing: int = 0) -> bytes:
    """An id, ``missing`` its sequence number where none is given."""
    if len(text) > ID_LENGTH:
        raise CommandError(errors.STREAM_ID)
    ms, dash, seq = text.partition(b"-")
    return streamid.make(_parse_half(ms), _parse_half(seq) if dash else missing)


def parse_place(text: bytes, missing: int = 0) -> bytes:
    """An id, or ``-`` or ``+`` for the smallest and the largest."""
    if text == b"-":
        return streamid.FIRST
    if text == b"+":
        return streamid.LAST
    return parse_id(text, missing)


def parse_start(text: bytes) -> bytes:
    """Where an interval begins; behind ``(`` stands what is not part of it."""
    if len(text) < 2 or text[:1] != b"(":
        return parse_place(text)
    start = streamid.after(parse_id(text[1:]))
    if start is None:
        raise CommandError(errors.STREAM_START)
    return start


def parse_end(text: bytes) -> bytes:
    """Where an interval ends."""
    if len(text) < 2 or text[:1] != b"(":
        return parse_place(text, streamid.SEQ_MAX)
    end = streamid.before(parse_id(text[1:], streamid.SEQ_MAX))
    if end is None:
        raise CommandError(errors.STREAM_END)
    return end


class Addition:
    """Options of XADD and XTRIM."""

    def __init__(self) -> None:
        self.create: bool = True
        self.trim: int = NO_TRIM
        self.approximate: bool = False
        self.length: int = 0  # for MAXLEN
        self.min_id: bytes = streamid.FIRST  # for MINID
        self.limit: int = 0  # entries to let go of at most, 0: all
        self.id: bytes | None = None  # None: the next one
        self.ms: int = -1  # of an id whose sequence number is to be found
        self.fields: int = 0  # where they begin

    def check(self, stream: Stream, more: int) -> None:
        """Raise NeedChunks where ``apply`` would, once ``more`` entries were added."""
        if self.trim == MAXLEN:
            stream.plan_to(self.length, self.approximate, self.limit, more)
        elif self.trim == MINID:
            stream.plan_before(self.min_id, self.approximate, self.limit)

    def apply(self, stream: Stream) -> int:
        """Trim: how many entries went."""
        if self.trim == MAXLEN:
            return stream.trim_to(self.length, self.approximate, self.limit)
        if self.trim == MINID:
            return stream.trim_before(self.min_id, self.approximate, self.limit)
        return 0


def parse_addition(argv: Argv, adding: bool) -> Addition:
    """Of XADD (``adding``) or XTRIM: all between the key and the fields."""
    found = Addition()
    limited = False
    args = Args(argv, 2)
    while args.more():
        option = args.option()
        if adding and option == b"*":
            break
        if option == b"MAXLEN" and args.more():
            _parse_trim(found, args, MAXLEN)
            found.length = args.next_int()
            if found.length < 0:
                raise CommandError(errors.TRIM_MAXLEN)
        elif option == b"MINID" and args.more():
            _parse_trim(found, args, MINID)
            found.min_id = parse_id(args.next())
        elif option == b"LIMIT" and args.more():
            found.limit = args.next_int()
            if found.limit < 0:
                raise CommandError(errors.TRIM_LIMIT)
            limited = True
        elif adding and option == b"NOMKSTREAM":
            found.create = False
        elif adding:
            _parse_new_id(found, argv[args.at - 1])
            break
        else:
            raise CommandError(SYNTAX)
    if found.limit and not found.trim:
        raise CommandError(errors.TRIM_LIMIT_ALONE)
    if not adding and not found.trim:
        raise CommandError(errors.TRIM_BY_NOTHING)
    if limited and not found.approximate:
        raise CommandError(errors.TRIM_LIMIT_EXACT)
    if found.approximate and not limited:
        found.limit = TRIM_AT_ONCE
    found.fields = args.at
    return found


def _parse_trim(found: Addition, args: Args, trim: int) -> None:
    if found.trim:
        raise CommandError(errors.TRIM_TWICE)
    found.trim = trim
    if args.end - args.at >= 2:
        found.approximate = args.match(b"~")
        if not found.approximate:
            args.match(b"=")


def _parse_new_id(found: Addition, text: bytes) -> None:
    if text.endswith(b"-*") and text.find(b"-") == len(text) - 2 and len(text) <= ID_LENGTH:
        found.ms = _parse_half(text[:-2])
    else:
        found.id = parse_id(text)


class Reading:
    """What XREAD or XREADGROUP is asked."""

    def __init__(self) -> None:
        self.keys: Argv = []
        self.places: Argv = []  # ids as they were written: ``$`` and ``>`` are still to be resolved
        self.count: int = 0  # 0: all
        self.block: int = -1  # ms to wait, 0: for ever, -1: not at all
        self.group: bytes | None = None
        self.consumer: bytes = b""
        self.acknowledged: bool = False  # at once: nothing is pending


def parse_reading(argv: Argv, grouped: bool) -> Reading:
    """The request of XREADGROUP (``grouped``) or XREAD."""
    found = Reading()
    args = Args(argv, 1)
    while args.more():
        option = args.option()
        if option == b"BLOCK" and args.more():
            found.block = parse_int_or(args.next(), errors.TIMEOUT_NOT_AN_INTEGER)
            if found.block < 0:
                raise CommandError(errors.TIMEOUT_NEGATIVE)
        elif option == b"COUNT" and args.more():
            found.count = max(args.next_int(), 0)
        elif option == b"STREAMS" and args.more():
            many, odd = divmod(args.end - args.at, 2)
            if odd:
                raise CommandError(errors.XREAD_UNBALANCED)
            found.keys = argv[args.at : args.at + many]
            found.places = argv[args.at + many :]
            break
        elif option == b"GROUP" and args.end - args.at >= 2:
            if not grouped:
                raise CommandError(errors.XREAD_GROUP)
            found.group = args.next()
            found.consumer = args.next()
        elif option == b"NOACK":
            if not grouped:
                raise CommandError(errors.XREAD_NOACK)
            found.acknowledged = True
        else:
            raise CommandError(SYNTAX)
    if not found.keys:
        raise CommandError(SYNTAX)
    if grouped and found.group is None:
        raise CommandError(errors.XREADGROUP_NO_GROUP)
    return found
