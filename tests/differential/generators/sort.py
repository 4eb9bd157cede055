"""SORT of lists and sets, over few elements, with weights and objects under names that patterns find."""

from __future__ import annotations

from tests.differential import making
from tests.differential.generators import INTEGERS, KEYS, any_case, command

ITEMS = making.one_of(
    making.integers(-3, 12).map(b"%d".__mod__),
    making.sampled_from([b"a", b"b", b"", b"1.5", b"x", b"0x1", b" 2", b"1e2"]),
)
NUMBERS = making.integers(-3, 12).map(b"%d".__mod__)
# The first letters are those of KEYS: what a pattern finds has the same home.
PATTERNS = making.sampled_from([b"w_*", b"h_*->f", b"h_*->g", b"nosort", b"*", b"#", b"w_*x", b"h_*->"])
LIMITS = making.one_of(making.integers(-2, 6).map(b"%d".__mod__), INTEGERS)
OPTION = making.one_of(
    making.sampled_from([[b"ASC"], [b"DESC"], [b"ALPHA"], [b"alpha"], [b"BOGUS"]]),
    making.tuples(making.sampled_from([b"BY", b"GET", b"GET", b"get"]), PATTERNS).map(list),
    making.tuples(making.just(b"LIMIT"), LIMITS, LIMITS).map(list),
)
STORE = making.lists(KEYS, max_size=1).map(lambda keys: [word for key in keys for word in (b"STORE", key)])
SORT = making.tuples(
    KEYS, making.lists(OPTION, max_size=4), STORE, making.sampled_from([b"SORT", b"SORT", b"SORT_RO"])
)


def pushing(items: making.Made[bytes]) -> making.Made[list[bytes]]:
    return making.tuples(KEYS, making.lists(items, min_size=1, max_size=6)).map(
        lambda both: [b"RPUSH", both[0], *both[1]]
    )


SETS = b"c"


def sorting(key: bytes, options: list[list[bytes]], store: list[bytes], name: bytes) -> list[bytes]:
    words = [word for option in options for word in option]
    said = {word.upper() for word in words}
    # Texts that are alike stay in the order in which Redis comes upon them: of a set, that of its hashes.
    return [name, b"a" if key == SETS and {b"ALPHA", b"BY"} <= said else key, *words, *store]


COMMANDS = any_case(
    SORT.map(lambda each: sorting(*each)),
    pushing(NUMBERS),
    pushing(NUMBERS),
    pushing(ITEMS),
    making.tuples(NUMBERS, NUMBERS).map(lambda both: [b"SET", b"w_" + both[0], both[1]]),
    making.tuples(NUMBERS, ITEMS).map(lambda both: [b"HSET", b"h_" + both[0], b"f", both[1]]),
    command("ZADD", making.just(SETS), NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    command("SADD", making.just(SETS), NUMBERS, NUMBERS, NUMBERS),
    command("LRANGE", KEYS, making.just(b"0"), making.just(b"-1")),
    command("DEL", KEYS),
    command("SET", KEYS, NUMBERS),
)
START = [
    [b"RPUSH", b"a", b"3", b"1", b"2"],
    [b"SADD", b"c", b"1", b"2", b"3"],
    [b"MSET", b"w_1", b"7", b"w_2", b"5", b"w_3", b"9", b"w_4", b"x"],
    [b"HSET", b"h_1", b"f", b"7", b"g", b"z"],
    [b"HSET", b"h_2", b"f", b"9"],
]
