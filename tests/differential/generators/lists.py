"""Lists: few different elements, so that they are found, and some large ones, so that nodes are cut."""

from __future__ import annotations

from tests.differential import making
from tests.differential.generators import ANY_TYPE, INTEGERS, KEYS, any_case, command, with_options

ITEMS = making.one_of(
    making.sampled_from([b"a", b"b", b"c", b"", b"10", b"-1", b"1.5"]),
    making.binary(max_size=10),
    making.integers(100, 9000).map(lambda size: b"%d" % size * (size // 4)),
)
INDEXES = making.one_of(making.integers(-8, 8).map(b"%d".__mod__), INTEGERS)
SIDES = making.sampled_from([b"LEFT", b"RIGHT", b"left", b"NEAR"])
MORE = making.lists(ITEMS, min_size=1, max_size=5)


def pushing(name: str) -> making.Made[list[bytes]]:
    """Some elements at once, or so many that a list becomes large."""
    many = making.tuples(making.integers(20, 150), ITEMS.filter(lambda item: len(item) < 100)).map(
        lambda both: [both[1] + b"%d" % (number % 7) for number in range(both[0])]
    )
    return making.tuples(making.just(name.encode()), KEYS, MORE | many).map(
        lambda each: [each[0], each[1], *each[2]]
    )


COMMANDS = any_case(
    pushing("LPUSH"),
    pushing("RPUSH"),
    pushing("LPUSHX"),
    pushing("RPUSHX"),
    command("LPOP", KEYS),
    command("RPOP", KEYS),
    command("LPOP", KEYS, INDEXES),
    command("RPOP", KEYS, INDEXES),
    command("LLEN", KEYS),
    command("LRANGE", KEYS, INDEXES, INDEXES),
    command("LRANGE", KEYS, making.just(b"0"), making.just(b"-1")),
    command("LINDEX", KEYS, INDEXES),
    command("LSET", KEYS, INDEXES, ITEMS),
    command("LINSERT", KEYS, making.sampled_from([b"BEFORE", b"after", b"NEAR"]), ITEMS, ITEMS),
    command("LREM", KEYS, INDEXES, ITEMS),
    command("LTRIM", KEYS, INDEXES, INDEXES),
    with_options(
        command("LPOS", KEYS, ITEMS),
        b"BOGUS",
        times={b"RANK": INDEXES, b"COUNT": INDEXES, b"MAXLEN": INDEXES},
    ),
    command("LMOVE", KEYS, KEYS, SIDES, SIDES),
    command("RPOPLPUSH", KEYS, KEYS),
    with_options(command("LMPOP", making.just(b"1"), KEYS, SIDES), b"BOGUS", times={b"COUNT": INDEXES}),
    with_options(command("LMPOP", making.just(b"2"), KEYS, KEYS, SIDES), b"BOGUS", times={b"COUNT": INDEXES}),
    ANY_TYPE,
)
START = [
    [b"RPUSH", b"a", b"a", b"b", b"a", b"c", b"10"],
    [b"RPUSH", b"b", *(b"%d" % (number % 10) for number in range(200))],
    [b"EXPIREAT", b"b", b"33177117420"],
]
