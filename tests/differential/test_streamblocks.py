"""Streams of many blocks: what ``~`` trims hangs on where Redis' nodes end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.resp import Argv
from tests.differential.compare import Open, compare
from tests.differential.refusals import REFUSALS
from tests.differential.targets import HANDLERS
from tests.servers import RedisServer


def adding(first: int, last: int) -> list[str]:
    return [f"XADD s {number}-1 f {number}" for number in range(first, last + 1)]


def deleting(first: int, last: int) -> str:
    return "XDEL s " + " ".join(f"{number}-1" for number in range(first, last + 1))


def deleting_every_third(last: int) -> list[str]:
    lines: list[str] = []
    for number in range(1, last + 1):
        lines += adding(number, number)
        if number % 3 == 0:
            lines.append(deleting(number, number))
    return lines


# At the borders of what listpacks encode in one way or another.
NUMBERS = [0, 127, 128, 4095, 4096, 2**15 - 1, 2**15, 2**23 - 1, 2**23, 2**31 - 1, 2**31, 2**63 - 1, 2**63]
ITEMS = [
    *map(str, NUMBERS),
    *(str(-number) for number in NUMBERS[1:]),
    *(str(-number - 1) for number in NUMBERS[1:]),
    "01",
    "-0",
    *("x" * size for size in (1, 63, 64, 127, 128, 700)),
]


def of_all_sizes() -> list[str]:
    lines: list[str] = []
    for number in range(1, 400):
        field = ["f", "f", "12", "g" * (number % 90 + 1)][number % 4]
        item, other = ITEMS[number % len(ITEMS)], ITEMS[number * 7 % len(ITEMS)]
        more = "" if number % 5 else f" {other} {item}"
        lines.append(f"XADD s {number * number * number * 1000}-{number * 37 % 500} {field} {item}{more}")
        lines.append("XINFO STREAM s")
    return lines


AT_ONCE = [
    *adding(1, 10201),
    "XTRIM s MAXLEN ~ 1",
    "XTRIM s MAXLEN ~ 1",
    *adding(20000, 30100),
    "XTRIM s MINID ~ 40000-1",
    "XTRIM s MAXLEN ~ 1 LIMIT 0",
    "XINFO STREAM s",
]
LARGE = "x" * 5000
SEQUENCES = {
    "a hundred entries": [
        *adding(1, 250),
        "XTRIM s MAXLEN ~ 120",
        "XLEN s",
        "XTRIM s MAXLEN ~ 50 LIMIT 99",
        "XTRIM s MAXLEN ~ 50 LIMIT 100",
        "XINFO STREAM s",
        "XTRIM s MAXLEN ~ 0",
        "XINFO STREAM s",
        "XADD s MAXLEN ~ 5 300-1 f 1",
        "XLEN s",
    ],
    "trimmed by ids": [
        *adding(1, 250),
        "XTRIM s MINID ~ 100-0",
        "XTRIM s MINID ~ 100-1",
        "XTRIM s MINID ~ 100-2",
        "XLEN s",
        "XTRIM s MINID ~ 250-9 LIMIT 100",
        "XTRIM s MINID 240",
        "XINFO STREAM s",
        "XRANGE s - + COUNT 1",
        "XTRIM s MINID 240-2",
        "XTRIM s MINID ~ 250-2",
        "XINFO STREAM s",
    ],
    "exactly": [
        *adding(1, 350),
        "XTRIM s MAXLEN 233",
        "XINFO STREAM s",
        "XTRIM s MAXLEN 200",
        "XTRIM s MINID 300-1",
        "XTRIM s MINID 301-2",
        "XINFO STREAM s",
    ],
    "deleted entries": [
        *adding(1, 250),
        deleting(2, 99),
        "XINFO STREAM s",
        "XTRIM s MAXLEN ~ 150",
        "XTRIM s MAXLEN ~ 149",
        deleting(101, 200),
        "XINFO STREAM s",
        deleting(240, 250),
        *adding(300, 301),
        "XINFO STREAM s",
        "XRANGE s 90 202",
        "XREVRANGE s + 236",
        "XREVRANGE s 205 -",
    ],
    "filled while entries go": [
        *deleting_every_third(150),
        "XINFO STREAM s",
        "XTRIM s MAXLEN ~ 20",
        "XINFO STREAM s",
    ],
    "ranges over blocks": [
        *adding(1, 350),
        "XRANGE s 90 110",
        "XRANGE s 100-1 101",
        "XRANGE s 50 + COUNT 160",
        "XREVRANGE s 210 190",
        "XREVRANGE s 101-0 99",
        "XREVRANGE s + - COUNT 155",
        "XREAD COUNT 5 STREAMS s 198",
        "XGROUP CREATE s g 150",
        "XREADGROUP GROUP g c COUNT 100 STREAMS s >",
        "XPENDING s g",
        "XPENDING s g 199 + 3",
        "XREADGROUP GROUP g c COUNT 2 STREAMS s 200-1",
    ],
    "items of all sizes": [*of_all_sizes(), "XTRIM s MAXLEN ~ 60", "XLEN s"],
    "large entries": [
        f"XADD s 1-1 f {LARGE}",
        "XADD s 2-1 f 1",
        f"XADD s 3-1 f {LARGE}",
        "XADD s 4-1 f " + "x" * 4000,
        "XADD s 5-1 f 1",
        "XINFO STREAM s",
        "XTRIM s MAXLEN ~ 1",
        "XINFO STREAM s",
    ],
}


@pytest.mark.parametrize("target", [HANDLERS, "sqlite"])
@pytest.mark.parametrize("title", SEQUENCES)
async def test_blocks_are_those_of_redis(
    redis_server: RedisServer, opener: Callable[[str], Open], title: str, target: str
) -> None:
    requests: list[Argv] = [line.encode().split() for line in SEQUENCES[title]]
    await compare(redis_server.port, opener(target), 2, requests, REFUSALS[target])


async def test_no_more_than_ten_thousand_entries_are_trimmed_at_once(
    redis_server: RedisServer, opener: Callable[[str], Open]
) -> None:
    requests: list[Argv] = [line.encode().split() for line in AT_ONCE]
    await compare(redis_server.port, opener(HANDLERS), 2, requests, REFUSALS[HANDLERS])
