"""Sorted sets by member, rank and score, and several of them together."""

from __future__ import annotations

from tests.differential import making
from tests.differential.generators import ANY_TYPE, INTEGERS, KEYS, any_case, command, with_options

LONG = b"0123456789" * 7  # longer than what is kept packed
MEMBERS = making.sampled_from([b"a", b"b", b"c", b"d", b"e", b"", b"\xff", LONG])
SCORES = making.one_of(
    making.integers(-3, 3).map(b"%d".__mod__),
    making.sampled_from([b"inf", b"-inf", b"0.1", b"-0.7", b"1.5", b"1e17", b"-0", b"x", b"nan", b"0x1p-3"]),
    making.floats(allow_nan=False).map(lambda number: repr(number).encode()),
)
RANKS = making.integers(-6, 6).map(b"%d".__mod__) | INTEGERS
BOUNDS = making.builds(bytes.__add__, making.sampled_from([b"", b"("]), SCORES) | making.sampled_from(
    [b"+inf", b"-inf"]
)
COUNTS = making.integers(-1, 5).map(b"%d".__mod__)
LIMIT = making.tuples(making.just(b"LIMIT"), COUNTS, COUNTS).map(list) | making.just([])
SCORED = making.sampled_from([[], [b"WITHSCORES"]])


def join(*parts: making.Made[list[bytes]]) -> making.Made[list[bytes]]:
    return making.tuples(*parts).map(lambda lists: [word for each in lists for word in each])


PAIRS = join(*[making.tuples(SCORES, MEMBERS).map(list)] * 3) | making.tuples(SCORES, MEMBERS).map(list)
ADD_OPTIONS = making.lists(making.sampled_from([b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"]), max_size=2)
SEVERAL = making.lists(KEYS, min_size=1, max_size=3).map(lambda keys: [b"%d" % len(keys), *keys])
MERGED = join(
    making.just([])
    | making.lists(SCORES, min_size=1, max_size=3).map(lambda weights: [b"WEIGHTS", *weights]),
    making.just([])
    | making.sampled_from([b"SUM", b"MIN", b"MAX", b"AVG"]).map(lambda word: [b"AGGREGATE", word]),
)

COMMANDS = any_case(
    join(command("ZADD", KEYS), PAIRS),
    join(command("ZADD", KEYS), PAIRS),
    join(command("ZADD", KEYS), ADD_OPTIONS, PAIRS),
    command("ZINCRBY", KEYS, SCORES, MEMBERS),
    command("ZREM", KEYS, MEMBERS, MEMBERS),
    command("ZCARD", KEYS),
    command("ZSCORE", KEYS, MEMBERS),
    command("ZMSCORE", KEYS, MEMBERS, MEMBERS),
    command("ZRANK", KEYS, MEMBERS),
    command("ZREVRANK", KEYS, MEMBERS),
    command("ZCOUNT", KEYS, BOUNDS, BOUNDS),
    join(command("ZRANGE", KEYS, RANKS, RANKS), SCORED),
    with_options(command("ZRANGE", KEYS, RANKS, RANKS), b"WITHSCORES", b"REV", b"BYSCORE", b"LIMIT"),
    join(command("ZRANGE", KEYS, BOUNDS, BOUNDS, making.just(b"BYSCORE")), LIMIT, SCORED),
    join(
        command("ZRANGE", KEYS, BOUNDS, BOUNDS, making.just(b"BYSCORE"), making.just(b"REV")), LIMIT, SCORED
    ),
    join(command("ZREVRANGE", KEYS, RANKS, RANKS), SCORED),
    join(command("ZRANGEBYSCORE", KEYS, BOUNDS, BOUNDS), SCORED, LIMIT),
    join(command("ZREVRANGEBYSCORE", KEYS, BOUNDS, BOUNDS), LIMIT, SCORED),
    with_options(command("ZRANGESTORE", KEYS, KEYS, RANKS, RANKS), b"REV", b"BYSCORE"),
    join(command("ZRANGESTORE", KEYS, KEYS, BOUNDS, BOUNDS, making.just(b"BYSCORE")), LIMIT),
    command("ZREMRANGEBYRANK", KEYS, RANKS, RANKS),
    command("ZREMRANGEBYSCORE", KEYS, BOUNDS, BOUNDS),
    command("ZPOPMIN", KEYS),
    command("ZPOPMAX", KEYS),
    command("ZPOPMIN", KEYS, COUNTS),
    command("ZPOPMAX", KEYS, COUNTS),
    join(
        making.just([b"ZMPOP"]),
        SEVERAL,
        making.sampled_from([[b"MIN"], [b"MAX", b"COUNT", b"2"], [b"MIN", b"x"]]),
    ),
    command("ZRANDMEMBER", KEYS, making.sampled_from([b"100", b"0", b"x"])),
    command("ZRANDMEMBER", KEYS, making.just(b"100"), making.just(b"WITHSCORES")),
    join(making.just([b"ZUNION"]), SEVERAL, MERGED, SCORED),
    join(making.just([b"ZINTER"]), SEVERAL, MERGED, SCORED),
    join(making.just([b"ZDIFF"]), SEVERAL, SCORED),
    join(command("ZUNIONSTORE", KEYS), SEVERAL, MERGED),
    join(command("ZINTERSTORE", KEYS), SEVERAL, MERGED),
    join(command("ZDIFFSTORE", KEYS), SEVERAL),
    join(
        making.just([b"ZINTERCARD"]),
        SEVERAL,
        making.just([]) | making.tuples(making.just(b"LIMIT"), COUNTS).map(list),
    ),
    command("SADD", KEYS, MEMBERS, MEMBERS),
    ANY_TYPE,
)
START = [
    [b"ZADD", b"a", b"1", b"a", b"2", b"b", b"2.5", b"c", b"3", b"d"],
    [b"ZADD", b"b", b"1", LONG, b"2", b"b", b"0.1", b"c", b"-inf", b"e", b"-0", b""],
    [b"SADD", b"c", b"a", b"b"],
]
