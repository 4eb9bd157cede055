"""Sets."""

from __future__ import annotations

from tests.differential import making
from tests.differential.generators import ANY_TYPE, INTEGERS, KEYS, VALUES, any_case, command

MEMBERS = making.one_of(
    making.integers(-5, 5).map(b"%d".__mod__), making.sampled_from([b"x", b"y", b"01", b""]), VALUES
)
LISTS = making.lists(MEMBERS, min_size=1, max_size=5)
# All of a set, or none of it: which members else is chance's affair.
ALL_OR_NONE = making.sampled_from([b"0", b"1000", b"-1", b"x"])


def of_members(name: str) -> making.Made[list[bytes]]:
    return making.tuples(command(name, KEYS), LISTS).map(lambda both: both[0] + both[1])


def of_keys(*words: bytes) -> making.Made[list[bytes]]:
    return making.lists(KEYS, min_size=1, max_size=3).map(lambda keys: [*words, *keys])


def counted(keys: list[bytes]) -> list[bytes]:
    return [b"SINTERCARD", b"%d" % len(keys), *keys]


LIMITS = making.one_of(making.just([]), INTEGERS.map(lambda number: [b"LIMIT", number]))

COMMANDS = any_case(
    of_members("SADD"),
    of_members("SADD"),
    of_members("SREM"),
    of_members("SMISMEMBER"),
    command("SISMEMBER", KEYS, MEMBERS),
    command("SMEMBERS", KEYS),
    command("SCARD", KEYS),
    command("SMOVE", KEYS, KEYS, MEMBERS),
    command("SPOP", KEYS, ALL_OR_NONE),
    command("SRANDMEMBER", KEYS, making.sampled_from([b"0", b"1000", b"x"])),
    command("SSCAN", KEYS, making.just(b"0"), making.just(b"COUNT"), making.just(b"1000")),
    of_keys(b"SUNION"),
    of_keys(b"SINTER"),
    of_keys(b"SDIFF"),
    making.tuples(making.lists(KEYS, min_size=1, max_size=3).map(counted), LIMITS).map(
        lambda both: both[0] + both[1]
    ),
    KEYS.flatmap(lambda key: of_keys(b"SUNIONSTORE", key)),
    KEYS.flatmap(lambda key: of_keys(b"SINTERSTORE", key)),
    KEYS.flatmap(lambda key: of_keys(b"SDIFFSTORE", key)),
    ANY_TYPE,
)
START = [[b"SADD", b"a", b"1", b"2", b"3"], [b"SADD", b"b", b"2", b"x"], [b"SADD", b"c", b"3", b"1000000"]]
