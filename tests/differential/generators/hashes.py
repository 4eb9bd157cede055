"""Hashes."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.differential.generators import ANY_TYPE, INTEGERS, KEYS, NUMBERS, VALUES, any_case, command

FIELDS = st.sampled_from(
    [b"f", b"g", b"h", b"", b"a field of so many bytes that no listpack of Redis will take it on"]
)
LONG = st.just(b"v" * 70)
COUNTS = st.sampled_from([b"0", b"1", b"9", b"-1", b"x", b"9223372036854775807", b"-9223372036854775808"])

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
    command("HRANDFIELD", st.just(b"missing"), COUNTS),
    command("HRANDFIELD", KEYS, st.sampled_from([b"0", b"x"]), st.sampled_from([b"WITHVALUES", b"y"])),
    command("HSCAN", KEYS, st.sampled_from([b"0", b"x"])),
    command("HSCAN", KEYS, st.just(b"0"), st.just(b"MATCH"), st.sampled_from([b"*", b"[f-g]", b""])),
    command("HSCAN", KEYS, st.just(b"0"), st.just(b"COUNT"), st.sampled_from([b"100", b"0", b"x"])),
    ANY_TYPE,
)
START = [
    [b"HSET", b"a", b"f", b"10", b"g", b"abc"],
    [b"SET", b"b", b"1"],
    [b"EXPIREAT", b"a", b"33177117420"],
]
