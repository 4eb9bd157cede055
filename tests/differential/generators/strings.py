"""Strings and what is done with keys of any type."""

from __future__ import annotations

from tests.differential import making
from tests.differential.generators import (
    DATABASES,
    INTEGERS,
    KEYS,
    MOMENTS,
    NUMBERS,
    SECONDS,
    UNITS,
    VALUES,
    any_case,
    command,
    with_options,
)

COMMANDS = any_case(
    command("GET", KEYS),
    command("SET", KEYS, VALUES),
    with_options(command("SET", KEYS, VALUES), b"NX", b"XX", b"GET", b"KEEPTTL", b"get", times=UNITS),
    command("SETNX", KEYS, VALUES),
    command("SETEX", KEYS, SECONDS, VALUES),
    command("PSETEX", KEYS, UNITS[b"PX"], VALUES),
    command("GETSET", KEYS, VALUES),
    command("GETDEL", KEYS),
    with_options(command("GETEX", KEYS), b"PERSIST", b"NX", times=UNITS),
    command("MGET", KEYS, KEYS, KEYS),
    command("MSET", KEYS, VALUES, KEYS, VALUES),
    command("MSETNX", KEYS, VALUES, KEYS, VALUES),
    command("APPEND", KEYS, VALUES),
    command("STRLEN", KEYS),
    command("GETRANGE", KEYS, INTEGERS, INTEGERS),
    command("SETRANGE", KEYS, making.integers(-2, 40).map(b"%d".__mod__), VALUES),
    command("INCR", KEYS),
    command("DECR", KEYS),
    command("INCRBY", KEYS, VALUES),
    command("DECRBY", KEYS, INTEGERS),
    command("INCRBYFLOAT", KEYS, NUMBERS),
    with_options(
        command("LCS", KEYS, KEYS), b"LEN", b"IDX", b"WITHMATCHLEN", times={b"MINMATCHLEN": INTEGERS}
    ),
    command("DEL", KEYS, KEYS),
    command("UNLINK", KEYS),
    command("EXISTS", KEYS, KEYS),
    command("TOUCH", KEYS, KEYS),
    command("TYPE", KEYS),
    command("EXPIRE", KEYS, SECONDS),
    command("PEXPIRE", KEYS, UNITS[b"PX"]),
    with_options(command("EXPIREAT", KEYS, MOMENTS), b"NX", b"XX", b"GT", b"LT"),
    with_options(command("PEXPIREAT", KEYS, MOMENTS), b"nx", b"xx", b"gt", b"lt"),
    command("TTL", KEYS),
    command("PTTL", KEYS),
    command("EXPIRETIME", KEYS),
    command("PEXPIRETIME", KEYS),
    command("PERSIST", KEYS),
    command("RENAME", KEYS, KEYS),
    command("RENAMENX", KEYS, KEYS),
    with_options(command("COPY", KEYS, KEYS), b"REPLACE", times={b"DB": DATABASES}),
    command("MOVE", KEYS, DATABASES),
    command("SELECT", making.sampled_from([b"0", b"1"])),
)
START = [[b"MSET", b"a", b"10", b"b", b"abcabc", b"c", b"ab"], [b"EXPIREAT", b"b", b"33177117420"]]
