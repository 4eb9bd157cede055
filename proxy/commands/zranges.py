"""Sorted sets, by rank, score or name: ZCOUNT ZLEXCOUNT ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANGESTORE
ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE.
"""

from __future__ import annotations

import re
from typing import Final, cast

from proxy.commands.args import Args, parse_int
from proxy.commands.spec import keys_command
from proxy.commands.zsets import find_zset, store, taken, zset_of
from proxy.datatypes.zset import MEMBER_MAX, PACKED_MAX, ZSet, of_order
from proxy.errors import (
    MIN_MAX_NOT_FLOAT,
    MIN_MAX_NOT_NAME,
    SYNTAX,
    ZRANGE_LIMIT,
    ZRANGE_WITHSCORES,
    CommandError,
)
from proxy.keyspace import Keyspace
from proxy.resp import Argv, Pairs, Reply

# What a range is of.
RANK: Final = 0
SCORE: Final = 1
NAME: Final = 2

_BLANKS: Final = b" \t\n\v\f\r"
_NOT_DECIMAL: Final = re.compile(rb"_|[ \t\n\v\f\r]\Z")
_HEXADECIMAL: Final = re.compile(rb"[+-]?0[xX]")


class Range:
    """From ``low`` to ``high``; raises CommandError for bounds that are none."""

    def __init__(self, of: int, low: bytes, high: bytes) -> None:
        self.of: int = of
        self.first: int = 0  # ranks, those below 0 from the end
        self.last: int = 0
        self.low: float = 0.0
        self.high: float = 0.0
        self.low_name: bytes | None = None  # None: no bound
        self.high_name: bytes | None = None
        self.low_open: bool = False  # the bound itself is not in the range
        self.high_open: bool = False
        self.empty: bool = False
        if of == RANK:
            self.first, self.last = parse_int(low), parse_int(high)
        elif of == SCORE:
            self.low, self.low_open = _parse_score(low)
            self.high, self.high_open = _parse_score(high)
        else:
            self.low_name, self.low_open = _parse_name(low)
            self.high_name, self.high_open = _parse_name(high)
            self.empty = low[:1] == b"+" or high[:1] == b"-"

    def span(self, zset: ZSet) -> tuple[int, int]:
        """The ranks that are in it: the first, and the one after the last."""
        if self.of == RANK:
            size = len(zset)
            first = max(self.first + size, 0) if self.first < 0 else self.first
            last = self.last + size if self.last < 0 else min(self.last, size - 1)
            return (first, last + 1) if first <= last else (0, 0)
        if self.of == SCORE:
            start = zset.rank_of_score(self.low, self.low_open)
            stop = zset.rank_of_score(self.high, not self.high_open)
        elif self.empty:
            return 0, 0
        else:
            low, high = self.low_name, self.high_name
            start = 0 if low is None else zset.rank_of_name(low, self.low_open)
            stop = len(zset) if high is None else zset.rank_of_name(high, not self.high_open)
        return (start, stop) if start < stop else (0, 0)


def _parse_score(text: bytes) -> tuple[float, bool]:
    """A bound, and whether it is open: as strtod takes it, blanks before it and up to a zero byte."""
    is_open = text[:1] == b"("
    number = text[is_open:].partition(b"\0")[0]
    if not number:
        return 0.0, is_open
    try:
        value = float(number)
    except ValueError:
        value = _parse_hexadecimal(number)
    if value != value or _NOT_DECIMAL.search(number):
        raise CommandError(MIN_MAX_NOT_FLOAT)
    return value, is_open


def _parse_hexadecimal(text: bytes) -> float:
    text = text.lstrip(_BLANKS)
    if _HEXADECIMAL.match(text):
        try:
            return float.fromhex(text.decode("ascii"))
        except OverflowError:
            return float("-inf" if text[:1] == b"-" else "inf")
        except ValueError:
            pass
    raise CommandError(MIN_MAX_NOT_FLOAT)


def _parse_name(text: bytes) -> tuple[bytes | None, bool]:
    """A bound of names, None for none, and whether it is open."""
    sign = text[:1]
    if (sign == b"-" or sign == b"+") and text[1:2] in (b"", b"\0"):
        return None, False
    if sign == b"[" or sign == b"(":
        return text[1:], sign == b"("
    raise CommandError(MIN_MAX_NOT_NAME)


class Query:
    """A range, and how much of it is asked for in which order."""

    def __init__(self, argv: Argv, at: int, of: int, backwards: bool, free: bool, storing: bool) -> None:
        """``at`` is where the bounds begin; ``free``: options may say of what it is, and which way."""
        self.scored: bool = False
        self.offset: int = 0
        self.limit: int = -1
        by_name = by_score = False
        args = Args(argv, at + 2)
        while args.more():
            option = args.option()
            if option == b"WITHSCORES" and not storing:
                self.scored = True
            elif option == b"LIMIT" and args.end - args.at >= 2:
                self.offset = args.next_int()
                self.limit = args.next_int()
            elif option == b"REV" and free and not backwards:
                backwards = True
            elif option == b"BYLEX" and free and not (by_name or by_score):
                by_name, of = True, NAME
            elif option == b"BYSCORE" and free and not (by_name or by_score):
                by_score, of = True, SCORE
            else:
                raise CommandError(SYNTAX)
        if self.limit != -1 and of == RANK:
            raise CommandError(ZRANGE_LIMIT)
        if self.scored and of == NAME:
            raise CommandError(ZRANGE_WITHSCORES)
        low, high = argv[at], argv[at + 1]
        if backwards and of != RANK:
            low, high = high, low
        self.range: Range = Range(of, low, high)
        self.backwards: bool = backwards

    def run(self, zset: ZSet) -> tuple[list[bytes], list[object]]:
        """Members and scores, in the order that is asked for."""
        start, stop = self.range.span(zset)
        offset = self.offset if self.range.of != RANK else 0
        count = stop - start - offset
        if offset < 0 or count <= 0:
            return [], []
        if self.limit >= 0:
            count = min(count, self.limit)
        if self.backwards:
            if self.range.of == RANK:
                size = len(zset)
                start, stop = size - stop, size - start
            start = stop - offset - count
        else:
            start += offset
        members, scores = zset.slice(start, start + count)
        if self.backwards:
            members.reverse()
            scores.reverse()
        return members, scores


def _query(ks: Keyspace, argv: Argv, of: int, backwards: bool, free: bool) -> Reply:
    query = Query(argv, 2, of, backwards, free, False)
    zset = find_zset(ks, argv[1])
    if zset is None:
        return []
    members, scores = query.run(zset)
    return Pairs(members, scores) if query.scored else members


@keys_command("zrange")
def zrange(ks: Keyspace, argv: Argv) -> Reply:
    return _query(ks, argv, RANK, False, True)


@keys_command("zrevrange")
def zrevrange(ks: Keyspace, argv: Argv) -> Reply:
    return _query(ks, argv, RANK, True, False)


@keys_command("zrangebyscore")
def zrangebyscore(ks: Keyspace, argv: Argv) -> Reply:
    return _query(ks, argv, SCORE, False, False)


@keys_command("zrevrangebyscore")
def zrevrangebyscore(ks: Keyspace, argv: Argv) -> Reply:
    return _query(ks, argv, SCORE, True, False)


@keys_command("zrangebylex")
def zrangebylex(ks: Keyspace, argv: Argv) -> Reply:
    return _query(ks, argv, NAME, False, False)


@keys_command("zrevrangebylex")
def zrevrangebylex(ks: Keyspace, argv: Argv) -> Reply:
    return _query(ks, argv, NAME, True, False)


@keys_command("zrangestore")
def zrangestore(ks: Keyspace, argv: Argv) -> Reply:
    query = Query(argv, 3, RANK, False, True, True)
    zset = find_zset(ks, argv[2])
    result = ZSet()
    if zset is not None:
        members, scores = query.run(zset)
        if query.range.of != RANK or len(members) <= PACKED_MAX:
            _fill_packed(members, scores)
        if query.backwards:
            members.reverse()
            scores.reverse()
        result = of_order(members, scores, False)
    return store(ks, argv[1], result, "zrangestore")


def _fill_packed(members: list[bytes], scores: list[object]) -> None:
    """Make a score of -0 one of 0 where Redis does: in its packed form, in which it begins a range's copy."""
    for at, member in enumerate(members[:PACKED_MAX]):
        if len(member) > MEMBER_MAX:
            return
        scores[at] = cast(float, scores[at]) + 0.0


@keys_command("zcount")
def zcount(ks: Keyspace, argv: Argv) -> Reply:
    return _count(ks, argv, SCORE)


@keys_command("zlexcount")
def zlexcount(ks: Keyspace, argv: Argv) -> Reply:
    return _count(ks, argv, NAME)


def _count(ks: Keyspace, argv: Argv, of: int) -> Reply:
    wanted = Range(of, argv[2], argv[3])
    zset = find_zset(ks, argv[1])
    if zset is None:
        return 0
    start, stop = wanted.span(zset)
    return stop - start


@keys_command("zremrangebyrank")
def zremrangebyrank(ks: Keyspace, argv: Argv) -> Reply:
    return _remove(ks, argv, RANK, "zremrangebyrank")


@keys_command("zremrangebyscore")
def zremrangebyscore(ks: Keyspace, argv: Argv) -> Reply:
    return _remove(ks, argv, SCORE, "zremrangebyscore")


@keys_command("zremrangebylex")
def zremrangebylex(ks: Keyspace, argv: Argv) -> Reply:
    return _remove(ks, argv, NAME, "zremrangebylex")


def _remove(ks: Keyspace, argv: Argv, of: int, event: str) -> Reply:
    wanted = Range(of, argv[2], argv[3])
    key = argv[1]
    entry = ks.edit(key)
    if entry is None:
        return 0
    zset = zset_of(entry)
    start, stop = wanted.span(zset)
    if start < stop:
        zset.cut(start, stop)
        ks.event(event, key)
        taken(ks, entry, zset)
    return stop - start
