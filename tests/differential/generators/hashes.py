"""Hashes."""

from __future__ import annotations

from tests.differential import making
from tests.differential.generators import ANY_TYPE, INTEGERS, KEYS, NUMBERS, VALUES, any_case, command

FIELDS = making.sampled_from(
    [b"f", b"g", b"h", b"", b"a field of so many bytes that no listpack of Redis will take it on"]
)
LONG = making.just(b"v" * 70)
COUNTS = making.sampled_from([b"0", b"1", b"9", b"-1", b"x", b"9223372036854775807", b"-9223372036854775808"])

COMMANDS = any_case(
    command("HSET", KEYS, FIELDS, VALUES),
    command("HSET", KEYS, FIELDS, VALUES | LONG, FIELDS, VALUES),
    command("HSET", KEYS, FIELDS, VALUES, FIELDS),
    command("HMSET", KEYS, FIELDS, VALUES, FIELDS, VALUES),
    command("HSETNX", KEYS, FIELDS, VALUES),
    command("HGET", KEYS, FIELDS),
    command("HMGET", KEYS, FIELDS, FIELDS),
    command("HGETALL", KEYS),
    command("HKEYS", KEYS),
    command("HVALS", KEYS),
    command("HLEN", KEYS),
    command("HSTRLEN", KEYS, FIELDS),
    command("HEXISTS", KEYS, FIELDS),
    command("HDEL", KEYS, FIELDS),
    command("HDEL", KEYS, FIELDS, FIELDS, FIELDS),
    command("HINCRBY", KEYS, FIELDS, INTEGERS | VALUES),
    command("HINCRBYFLOAT", KEYS, FIELDS, NUMBERS | VALUES),
    command("HRANDFIELD", making.just(b"missing"), COUNTS),
    command(
        "HRANDFIELD", KEYS, making.sampled_from([b"0", b"x"]), making.sampled_from([b"WITHVALUES", b"y"])
    ),
    command("HSCAN", KEYS, making.sampled_from([b"0", b"x"])),
    command(
        "HSCAN", KEYS, making.just(b"0"), making.just(b"MATCH"), making.sampled_from([b"*", b"[f-g]", b""])
    ),
    command(
        "HSCAN", KEYS, making.just(b"0"), making.just(b"COUNT"), making.sampled_from([b"100", b"0", b"x"])
    ),
    ANY_TYPE,
)
START = [
    [b"HSET", b"a", b"f", b"10", b"g", b"abc"],
    [b"SET", b"b", b"1"],
    [b"EXPIREAT", b"a", b"33177117420"],
]
