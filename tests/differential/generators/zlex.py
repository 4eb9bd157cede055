"""Sorted sets by name: all scores are equal, since what is replied is not defined where they are not."""

from __future__ import annotations

from tests.differential import making
from tests.differential.generators import KEYS, any_case, command
from tests.differential.generators.zsets import LIMIT, LONG, join

MEMBERS = making.sampled_from([b"a", b"aa", b"ab", b"b", b"c", b"d", b"", b"\xff", b"\x00", LONG])
SIGNS = making.sampled_from([b"[", b"("])
BOUNDS = making.builds(bytes.__add__, SIGNS, MEMBERS) | making.sampled_from([b"-", b"+", b"x", b"", b"-1"])
ZERO = making.just(b"0")
BY_NAME = making.just(b"BYLEX")

COMMANDS = any_case(
    command("ZADD", KEYS, ZERO, MEMBERS, ZERO, MEMBERS, ZERO, MEMBERS),
    command("ZREM", KEYS, MEMBERS),
    command("ZLEXCOUNT", KEYS, BOUNDS, BOUNDS),
    join(command("ZRANGE", KEYS, BOUNDS, BOUNDS, BY_NAME), LIMIT),
    join(command("ZRANGE", KEYS, BOUNDS, BOUNDS, BY_NAME, making.just(b"REV")), LIMIT),
    join(command("ZRANGEBYLEX", KEYS, BOUNDS, BOUNDS), LIMIT),
    join(command("ZREVRANGEBYLEX", KEYS, BOUNDS, BOUNDS), LIMIT),
    join(command("ZRANGESTORE", KEYS, KEYS, BOUNDS, BOUNDS, BY_NAME), LIMIT),
    command("ZREMRANGEBYLEX", KEYS, BOUNDS, BOUNDS),
)
START = [
    [b"ZADD", b"a", b"0", b"a", b"0", b"b", b"0", b"c", b"0", b"aa", b"0", b""],
    [b"ZADD", b"b", b"0", LONG, b"0", b"b", b"0", b"\xff", b"0", b"e", b"0", b""],
]
