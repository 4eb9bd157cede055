"""Bits of strings, over few of them, so that commands change what others have set."""

from __future__ import annotations

from proxy.resp import Argv
from tests.differential import making
from tests.differential.generators import ANY_TYPE, INTEGERS, KEYS, any_case, command

BITS = making.sampled_from([b"0", b"1", b"0", b"1", b"2", b"x"])
OFFSETS = making.one_of(
    making.integers(0, 100).map(b"%d".__mod__),
    making.sampled_from([b"-1", b"x", b"4294967296", b"#1", b"1000"]),
)
ENDS = making.one_of(making.integers(-30, 30).map(b"%d".__mod__), INTEGERS)
UNITS = making.sampled_from([[], [b"BIT"], [b"bit"], [b"BYTE"], [b"WORD"]])
TYPES = making.one_of(
    making.tuples(making.sampled_from([b"i", b"u"]), making.integers(1, 64).map(b"%d".__mod__)).map(b"".join),
    making.sampled_from([b"u8", b"i8", b"u64", b"i64", b"i65", b"u0", b"8", b"U8"]),
)
# Not so far that times the width it would be beyond 64 bits, where Redis forgets the upper ones.
PLACES = making.one_of(OFFSETS, making.integers(0, 20).map(b"#%d".__mod__))
OPERATIONS = making.one_of(
    making.tuples(making.just(b"GET"), TYPES, PLACES),
    making.tuples(making.sampled_from([b"SET", b"INCRBY", b"incrby"]), TYPES, PLACES, INTEGERS),
    making.tuples(making.just(b"OVERFLOW"), making.sampled_from([b"WRAP", b"SAT", b"FAIL", b"fail", b"OFF"])),
)


def fields(name: str) -> making.Made[Argv]:
    operations = making.lists(OPERATIONS, max_size=4).map(
        lambda many: [word for each in many for word in each]
    )
    return making.builds(list.__add__, command(name, KEYS), operations)


COMMANDS = any_case(
    command("SETBIT", KEYS, OFFSETS, BITS),
    command("GETBIT", KEYS, OFFSETS),
    command("BITCOUNT", KEYS),
    making.builds(list.__add__, command("BITCOUNT", KEYS, ENDS, ENDS), UNITS),
    command("BITPOS", KEYS, BITS),
    command("BITPOS", KEYS, BITS, ENDS),
    making.builds(list.__add__, command("BITPOS", KEYS, BITS, ENDS, ENDS), UNITS),
    command("BITOP", making.sampled_from([b"AND", b"OR", b"XOR", b"NOT", b"xor"]), KEYS, KEYS),
    command("BITOP", making.sampled_from([b"AND", b"OR", b"XOR", b"NOT"]), KEYS, KEYS, KEYS, KEYS),
    fields("BITFIELD"),
    fields("BITFIELD_RO"),
    command("APPEND", KEYS, making.binary(max_size=8)),
    ANY_TYPE,
)
START = [
    [b"SET", b"a", b"\xff\xff\x0f\x00"],
    [b"SET", b"b", b"\x00\x00\x00\x00\x00\x01"],
    [b"SET", b"c", b"123"],
]
