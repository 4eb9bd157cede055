"""Hashes: HDEL HEXISTS HGET HGETALL HINCRBY HINCRBYFLOAT HKEYS HLEN HMGET HMSET HRANDFIELD HSCAN HSET HSETNX
HSTRLEN HVALS.

What expires in a hash has handlers of its own (``hashexpiry``).  Here what has expired is not there: who
reads does not see it, and who writes begins by taking it out.
"""

from __future__ import annotations

from typing import Final

from proxy.commands.args import (
    INT64_MAX,
    INT64_MIN,
    parse_cursor,
    parse_int,
    parse_int_or,
    parse_page,
)
from proxy.commands.spec import keys_command
from proxy.datatypes import longdouble
from proxy.datatypes.digits import digits
from proxy.datatypes.hash import FIELD_SIZE, Hash
from proxy.errors import (
    COUNT_OUT_OF_RANGE,
    HASH_NOT_A_FLOAT,
    HASH_NOT_AN_INTEGER,
    NAN_OR_INFINITE_VALUE,
    NAN_OR_INFINITY,
    NOT_A_COUNT,
    NOT_A_FLOAT,
    OVERFLOW,
    SYNTAX,
    WRONG_TYPE,
    CommandError,
    too_many,
    wrong_arity,
)
from proxy.keyspace import HASH, Keyspace
from proxy.lru import Entry
from proxy.resp import OK, Argv, Pairs, Reply

DRAWS_MAX: Final = 1 << 20  # fields that may be drawn again and again: a short request's reply is bounded
NUMBER_SIZE: Final = 32  # bytes of a number as text, at most, for what is asked of ``reserve``
PURGED: Final = 128  # expired fields that one write takes out, at most


def hash_of(entry: Entry | None) -> Hash | None:
    """An entry's hash; raises WRONGTYPE for another kind."""
    if entry is None:
        return None
    value = entry.value
    if isinstance(value, Hash):
        return value
    raise CommandError(WRONG_TYPE)


def begin(ks: Keyspace, key: bytes, entry: Entry | None, fields: list[bytes]) -> Hash:
    """The hash to change, a new one where there is none; those of ``fields`` that have expired are gone."""
    found = hash_of(entry)
    if entry is None or found is None:
        return Hash()
    now = ks.clock.ms
    if found.due and found.due <= now:
        if entry.expire_at and not found.count(now):
            ks.expire(entry, 0)  # it was another hash's: that one is gone
        expired = [field for field in fields if found.drop(field, now)] + found.purge(now, PURGED)
        if expired:
            ks.event("hexpired", key)
    return found


def finish(ks: Keyspace, key: bytes, entry: Entry | None, changed: Hash) -> None:
    """Keep the hash that ``begin`` gave, now that it has been changed; an empty one is no more."""
    if entry is None:
        ks.put(key, HASH, changed)
    elif changed.count(ks.clock.ms):
        ks.update(entry, changed)
    else:
        ks.remove(key)
        ks.event("del", key)


@keys_command("hset")
def hset(ks: Keyspace, argv: Argv) -> Reply:
    return _set(ks, argv, "hset")


@keys_command("hmset")
def hmset(ks: Keyspace, argv: Argv) -> Reply:
    _set(ks, argv, "hmset")
    return OK


def _set(ks: Keyspace, argv: Argv, name: str) -> int:
    size = len(argv)
    if size % 2:
        raise wrong_arity(name)
    key = argv[1]
    entry = ks.edit(key)
    if size == 4:
        more = len(argv[2]) + len(argv[3]) + FIELD_SIZE
        fields = [argv[2]]
    else:
        fields = argv[2::2]
        more = sum(map(len, argv)) + len(fields) * FIELD_SIZE
    hash_of(entry)
    ks.reserve(key, entry, more)

    found = begin(ks, key, entry, fields)
    added = 0
    for at in range(2, size, 2):
        if found.set(argv[at], argv[at + 1]):
            added += 1
    finish(ks, key, entry, found)
    ks.event("hset", key)
    return added


@keys_command("hsetnx")
def hsetnx(ks: Keyspace, argv: Argv) -> Reply:
    key, field, value = argv[1], argv[2], argv[3]
    entry = ks.edit(key)
    found = hash_of(entry)
    if found is not None and found.get(field, ks.clock.ms) is not None:
        return 0
    _set_one(ks, key, entry, field, value, "hset")
    return 1


def _set_one(ks: Keyspace, key: bytes, entry: Entry | None, field: bytes, value: bytes, event: str) -> None:
    """Set a field that goes on to expire when it would have."""
    ks.reserve(key, entry, len(field) + len(value) + FIELD_SIZE)
    found = begin(ks, key, entry, [field])
    found.set(field, value, keep=True)
    finish(ks, key, entry, found)
    ks.event(event, key)


@keys_command("hget")
def hget(ks: Keyspace, argv: Argv) -> Reply:
    found = hash_of(ks.find(argv[1]))
    return None if found is None else found.get(argv[2], ks.clock.ms)


@keys_command("hmget")
def hmget(ks: Keyspace, argv: Argv) -> Reply:
    found = hash_of(ks.find(argv[1]))
    if found is None:
        return [None] * (len(argv) - 2)
    now = ks.clock.ms
    return [found.get(argv[at], now) for at in range(2, len(argv))]


@keys_command("hgetall")
def hgetall(ks: Keyspace, argv: Argv) -> Reply:
    found = hash_of(ks.find(argv[1]))
    return {} if found is None else found.items(ks.clock.ms)


@keys_command("hkeys")
def hkeys(ks: Keyspace, argv: Argv) -> Reply:
    found = hash_of(ks.find(argv[1]))
    return [] if found is None else found.fields(ks.clock.ms)


@keys_command("hvals")
def hvals(ks: Keyspace, argv: Argv) -> Reply:
    found = hash_of(ks.find(argv[1]))
    return [] if found is None else found.values(ks.clock.ms)


@keys_command("hlen")
def hlen(ks: Keyspace, argv: Argv) -> Reply:
    found = hash_of(ks.find(argv[1]))
    return 0 if found is None else found.count(ks.clock.ms)


@keys_command("hstrlen")
def hstrlen(ks: Keyspace, argv: Argv) -> Reply:
    found = hash_of(ks.find(argv[1]))
    value = None if found is None else found.get(argv[2], ks.clock.ms)
    return 0 if value is None else len(value)


@keys_command("hexists")
def hexists(ks: Keyspace, argv: Argv) -> Reply:
    found = hash_of(ks.find(argv[1]))
    return 1 if found is not None and found.get(argv[2], ks.clock.ms) is not None else 0


@keys_command("hdel")
def hdel(ks: Keyspace, argv: Argv) -> Reply:
    key, fields = argv[1], argv[2:]
    now = ks.clock.ms
    entry = ks.edit(key)
    found = hash_of(entry)
    if found is None or not any(found.get(field, now) is not None for field in fields):
        return 0
    found = begin(ks, key, entry, fields)
    removed = 0
    for field in fields:
        if found.remove(field):
            removed += 1
    ks.event("hdel", key)
    finish(ks, key, entry, found)
    return removed


@keys_command("hincrby")
def hincrby(ks: Keyspace, argv: Argv) -> Reply:
    key, field, step = argv[1], argv[2], parse_int(argv[3])
    entry = ks.edit(key)
    found = hash_of(entry)
    old = None if found is None else found.get(field, ks.clock.ms)
    total = step if old is None else step + parse_int_or(old, HASH_NOT_AN_INTEGER)
    if total > INT64_MAX or total < INT64_MIN:
        raise CommandError(OVERFLOW)
    _set_one(ks, key, entry, field, digits(total), "hincrby")
    return total


@keys_command("hincrbyfloat")
def hincrbyfloat(ks: Keyspace, argv: Argv) -> Reply:
    key, field = argv[1], argv[2]
    step = _parse_long_double(argv[3], NOT_A_FLOAT)
    if step is None:
        raise CommandError(NAN_OR_INFINITE_VALUE)
    entry = ks.edit(key)
    found = hash_of(entry)
    old = None if found is None else found.get(field, ks.clock.ms)
    before = _parse_long_double(b"0" if old is None else old, HASH_NOT_A_FLOAT)
    try:
        total = longdouble.to_text(longdouble.add(before, step))
    except OverflowError:
        raise CommandError(NAN_OR_INFINITY) from None
    _set_one(ks, key, entry, field, total, "hincrbyfloat")
    return total


def _parse_long_double(text: bytes, error: str) -> longdouble.Number | None:
    try:
        return longdouble.parse(text)
    except ValueError:
        raise CommandError(error) from None


@keys_command("hrandfield")
def hrandfield(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    now = ks.clock.ms
    if len(argv) == 2:
        found = hash_of(ks.find(key))
        return None if found is None else found.random(now)
    count = parse_int(argv[2])
    if count < -INT64_MAX:
        raise CommandError(NOT_A_COUNT)
    with_values = len(argv) > 3
    if with_values:
        if len(argv) > 4 or argv[3].upper() != b"WITHVALUES":
            raise CommandError(SYNTAX)
        if abs(count) > INT64_MAX // 2:
            raise CommandError(COUNT_OUT_OF_RANGE)
    found = hash_of(ks.find(key))
    if found is None:
        return []
    if -count > DRAWS_MAX:
        raise too_many(-count, DRAWS_MAX)
    fields = found.sample(count, now) if count >= 0 else found.draw(-count, now)
    return Pairs(fields, [found.get(field, now) for field in fields]) if with_values else fields


@keys_command("hscan")
def hscan(ks: Keyspace, argv: Argv) -> Reply:
    cursor = parse_cursor(argv[2])
    found = hash_of(ks.find(argv[1]))
    if found is None:
        return [b"0", []]
    pattern, count = parse_page(argv, 3)
    cursor, page = found.scan(cursor, count, ks.clock.ms)
    items: list[bytes] = []
    for field, value in page.items():
        if pattern is None or pattern.matches(field):
            items += [field, value]
    return [digits(cursor), items]
