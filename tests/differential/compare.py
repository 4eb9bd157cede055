"""Plays requests against redis-server and a target, and says where their replies differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from proxy.resp import Argv
from tests.differential.frames import decode, integer
from tests.differential.refusals import Refusal
from tests.differential.targets import Target, connect

# Replies that depend on the time of day, and how far they may be apart: the two servers don't run a
# command in the same millisecond, and a busy machine can hold one up.
TOLERANCE = {b"TTL": 5, b"PTTL": 5000, b"EXPIRETIME": 5, b"PEXPIRETIME": 5000, b"OBJECT": 5}
# Where in a reply there are numbers that tell the time: idle times, and when something was seen or delivered.
_PENDING = rb"\*4\r\n\$\d+\r\n\d+-\d+\r\n\$\d+\r\n[^\r]*\r\n:(\d+)"  # an id, whose it is, the time
TIMES = {
    b"XPENDING": re.compile(_PENDING),
    b"XINFO": re.compile(
        _PENDING + rb"|\*3\r\n\$\d+\r\n\d+-\d+\r\n:(\d+)|\r\n(?:idle|seen-time)\r\n:(\d+)"
        # How Redis' radix tree branches is its own affair: there is none here.
        rb"|\r\nradix-tree-nodes\r\n:(\d+)"
    ),
}
TIMES_APART = 5000  # ms
# Arrays, sets and maps whose order is the server's own affair.
UNORDERED = {b"KEYS", b"HGETALL", b"HKEYS", b"HVALS"}
UNORDERED |= {b"SMEMBERS", b"SUNION", b"SINTER", b"SDIFF", b"SPOP", b"SRANDMEMBER"}
# Pages of a scan, and how many replies an element has.
PAGES = {b"SSCAN": 1, b"HSCAN": 2, b"ZSCAN": 2}
REHEARSED = (b":1\r\n", b"+OK\r\n")
REFUSED = (b"-CROSSTIER ", b"-ERR '")  # as refusals begin, unlike errors that say what a request lacks

Open = Callable[[int], AbstractAsyncContextManager[Target]]


async def compare(
    redis_port: int,
    open_target: Open,
    proto: int,
    requests: list[Argv],
    refusals: Mapping[bytes, Refusal],
) -> None:
    """Raises AssertionError with the requests up to the first that is answered differently.

    They are pipelined.  What the target refuses by one of ``refusals`` is only rehearsed by redis-server.
    """
    async with connect(redis_port, proto) as redis, open_target(proto) as target:
        got = await target.send_all(requests)
        refused = [refusal_of(argv, ours, refusals) for argv, ours in zip(requests, got, strict=True)]
        expected = await redis.send_all(
            [
                refusal.instead(argv) if refusal else argv
                for argv, refusal in zip(requests, refused, strict=True)
            ]
        )
    for at, (argv, theirs, ours) in enumerate(zip(requests, expected, got, strict=True)):
        if not (theirs in REHEARSED if refused[at] else same(argv, theirs, ours)):
            played = "\n".join(str(argv) for argv in requests[: at + 1])
            raise AssertionError(f"{played}\nredis-server: {theirs!r}\ntarget:       {ours!r}")


def elements(name: bytes, frame: bytes) -> list[Any]:
    found = decode(frame)
    return list(zip(found[::2], found[1::2], strict=True)) if name == b"HGETALL" else list(found)


def page(name: bytes, frame: bytes) -> tuple[Any, list[Any]]:
    cursor, found = decode(frame)
    return cursor, sorted(zip(*[iter(found)] * PAGES[name], strict=True))


def refusal_of(argv: Argv, reply: bytes, refusals: Mapping[bytes, Refusal]) -> Refusal | None:
    refusal = refusals.get(argv[0].upper())
    return refusal if refusal and reply.startswith(REFUSED) and reply == refusal.error(argv).wire else None


def same(argv: Argv, theirs: bytes, ours: bytes) -> bool:
    if theirs == ours:
        return True
    name = argv[0].upper()
    if name in UNORDERED and theirs[:1] == ours[:1] and theirs.startswith((b"*", b"~", b"%")):
        return sorted(elements(name, theirs)) == sorted(elements(name, ours))
    if name in PAGES and theirs[:1] == ours[:1] == b"*":
        return page(name, theirs) == page(name, ours)
    if name in TIMES:
        return same_but_for_times(TIMES[name], theirs, ours)
    tolerance = TOLERANCE.get(name)
    if tolerance is None:
        return False
    a, b = integer(theirs), integer(ours)
    return a is not None and b is not None and min(a, b) >= 0 and abs(a - b) <= tolerance


def same_but_for_times(pattern: re.Pattern[bytes], theirs: bytes, ours: bytes) -> bool:
    (one, some), (other, others) = without_times(pattern, theirs), without_times(pattern, ours)
    return one == other and all(abs(a - b) <= TIMES_APART for a, b in zip(some, others, strict=True))


def without_times(pattern: re.Pattern[bytes], frame: bytes) -> tuple[list[bytes], list[int]]:
    """A reply in pieces, without the numbers that a pattern's groups match; and those numbers."""
    pieces, times, at = [], [], 0
    for match in pattern.finditer(frame):
        start, end = match.span(match.lastindex or 0)
        pieces.append(frame[at:start])
        times.append(int(frame[start:end]))
        at = end
    return [*pieces, frame[at:]], times
