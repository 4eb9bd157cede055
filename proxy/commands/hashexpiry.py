"""Fields of hashes that expire, as in Redis 8: HEXPIRE HEXPIREAT HEXPIRETIME HGETDEL HGETEX HPERSIST HPEXPIRE
HPEXPIREAT HPEXPIRETIME HPTTL HSETEX HTTL.
"""

from __future__ import annotations

from typing import Final

from proxy.commands.args import EXPIRY_OPTIONS, INT32_MAX, parse_int, parse_int_or
from proxy.commands.hashes import begin, finish, hash_of
from proxy.commands.spec import keys_command
from proxy.datatypes.hash import FIELD_SIZE, TIME_MAX, Hash
from proxy.errors import (
    EXPIRE_NEGATIVE,
    EXPIRE_TIME_MISSING,
    FIELDS_DIFFER,
    FIELDS_MISSING,
    FIELDS_NOT_POSITIVE,
    FNX_AND_FXX,
    NUMFIELDS_INVALID,
    NUMFIELDS_NOT_POSITIVE,
    ONE_EXPIRY_OR_KEEPTTL,
    CommandError,
    invalid_expire,
    unknown_argument,
    wrong_arity,
)
from proxy.keyspace import Keyspace
from proxy.lru import Entry
from proxy.resp import Argv, Reply

# What is said of one field.
NO_FIELD: Final = -2
NO_TIME: Final = -1
UNCHANGED: Final = 0  # the condition is not met
CHANGED: Final = 1
DELETED: Final = 2  # the time has passed

CONDITIONS: Final = frozenset({b"NX", b"XX", b"GT", b"LT"})


def _fields(argv: Argv, at: int, error: str = FIELDS_NOT_POSITIVE) -> list[bytes]:
    """What follows FIELDS and their number, which stand at ``at``."""
    if at + 1 >= len(argv) or argv[at].upper() != b"FIELDS":
        raise CommandError(FIELDS_MISSING)
    count = parse_int_or(argv[at + 1], error)
    if count < 1:
        raise CommandError(error)
    if count != len(argv) - at - 2:
        raise CommandError(FIELDS_DIFFER)
    return argv[at + 2 :]


def _parse_time(text: bytes, unit: int, base: int, name: str) -> int:
    """When a field expires, from a time in ``unit`` ms since ``base``; 0 is a good one."""
    moment = parse_int(text) * unit
    if moment < 0:
        raise CommandError(EXPIRE_NEGATIVE)
    moment += base
    if moment > TIME_MAX:
        raise invalid_expire(name)
    return moment


def _parse_option(option: bytes, text: bytes, now: int, name: str) -> int:
    """When a field expires, by one of ``EXPIRY_OPTIONS``."""
    unit = 1000 if option == b"EX" or option == b"EXAT" else 1
    return _parse_time(text, unit, now if option == b"EX" or option == b"PX" else 0, name)


def _expire_field(found: Hash, field: bytes, moment: int, now: int) -> int:
    """Let a field that is there expire, or delete it at once."""
    if moment > now:
        found.expire(field, moment)
        return CHANGED
    found.remove(field)
    return DELETED


@keys_command("hexpire")
def hexpire(ks: Keyspace, argv: Argv) -> Reply:
    return _expire(ks, argv, "hexpire", 1000, ks.clock.ms)


@keys_command("hpexpire")
def hpexpire(ks: Keyspace, argv: Argv) -> Reply:
    return _expire(ks, argv, "hpexpire", 1, ks.clock.ms)


@keys_command("hexpireat")
def hexpireat(ks: Keyspace, argv: Argv) -> Reply:
    return _expire(ks, argv, "hexpireat", 1000, 0)


@keys_command("hpexpireat")
def hpexpireat(ks: Keyspace, argv: Argv) -> Reply:
    return _expire(ks, argv, "hpexpireat", 1, 0)


def _expire(ks: Keyspace, argv: Argv, name: str, unit: int, base: int) -> Reply:
    key = argv[1]
    entry = ks.edit(key)
    found = hash_of(entry)
    moment = _parse_time(argv[2], unit, base, name)
    condition = argv[3].upper()
    if condition not in CONDITIONS:
        condition = b""
    fields = _fields(argv, 4 if condition else 3, NUMFIELDS_NOT_POSITIVE)
    now = ks.clock.ms
    codes = [_verdict(found, field, condition, moment, now) for field in fields]
    if CHANGED not in codes:
        return codes

    found = begin(ks, key, entry, fields)
    for at, field in enumerate(fields):
        codes[at] = _verdict(found, field, condition, moment, now)
        if codes[at] == CHANGED:
            codes[at] = _expire_field(found, field, moment, now)
    ks.event("hdel" if moment <= now else "hexpire", key)
    finish(ks, key, entry, found)
    return codes


def _verdict(found: Hash | None, field: bytes, condition: bytes, moment: int, now: int) -> int:
    """NO_FIELD, UNCHANGED, or CHANGED if it is to expire at another time; never is later than any time."""
    if found is None or found.get(field, now) is None:
        return NO_FIELD
    current = found.expires_at(field)
    if condition == b"NX":
        met = not current
    elif condition == b"XX":
        met = current != 0
    elif condition == b"GT":
        met = current != 0 and moment > current
    elif condition == b"LT":
        met = not current or moment < current
    else:
        met = True
    return CHANGED if met else UNCHANGED


@keys_command("httl")
def httl(ks: Keyspace, argv: Argv) -> Reply:
    return _times(ks, argv, 1000, ks.clock.ms)


@keys_command("hpttl")
def hpttl(ks: Keyspace, argv: Argv) -> Reply:
    return _times(ks, argv, 1, ks.clock.ms)


@keys_command("hexpiretime")
def hexpiretime(ks: Keyspace, argv: Argv) -> Reply:
    return _times(ks, argv, 1000, 0)


@keys_command("hpexpiretime")
def hpexpiretime(ks: Keyspace, argv: Argv) -> Reply:
    return _times(ks, argv, 1, 0)


def _times(ks: Keyspace, argv: Argv, unit: int, base: int) -> Reply:
    found = hash_of(ks.find(argv[1]))
    fields = _fields(argv, 2)
    now = ks.clock.ms
    times: list[int] = []
    for field in fields:
        if found is None or found.get(field, now) is None:
            times.append(NO_FIELD)
            continue
        moment = found.expires_at(field)
        times.append((moment - base + unit - 1) // unit if moment else NO_TIME)
    return times


@keys_command("hpersist")
def hpersist(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    entry = ks.edit(key)
    found = hash_of(entry)
    fields = _fields(argv, 2)
    now = ks.clock.ms
    codes: list[int] = []
    for field in fields:
        if found is None or found.get(field, now) is None:
            codes.append(NO_FIELD)
        else:
            codes.append(CHANGED if found.expires_at(field) else NO_TIME)
    if CHANGED in codes:
        found = begin(ks, key, entry, fields)
        for at, field in enumerate(fields):
            if codes[at] == CHANGED and not found.persist(field):
                codes[at] = NO_TIME  # it was named before
        ks.event("hpersist", key)
        finish(ks, key, entry, found)
    return codes


@keys_command("hgetex")
def hgetex(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    entry = ks.edit(key)
    found = hash_of(entry)
    now = ks.clock.ms
    option = argv[2].upper()
    at = 2
    moment = 0
    if option in EXPIRY_OPTIONS:
        moment = _parse_option(option, argv[3], now, "hgetex")
        at = 4
    elif option == b"PERSIST":
        at = 3
    fields = _fields(argv, at)
    if found is None:
        return [None] * len(fields)
    there = [field for field in fields if found.get(field, now) is not None]
    if option == b"PERSIST":
        there = [field for field in there if found.expires_at(field)]
    if at == 2 or not there:
        return [found.get(field, now) for field in fields]

    found = begin(ks, key, entry, fields)
    values: list[bytes | None] = []
    for field in fields:
        value = found.get(field, now)
        values.append(value)
        if option == b"PERSIST":
            found.persist(field)
        elif value is not None:
            _expire_field(found, field, moment, now)
    if option == b"PERSIST":
        ks.event("hpersist", key)
    else:
        ks.event("hdel" if moment <= now else "hexpire", key)
    finish(ks, key, entry, found)
    return values


@keys_command("hgetdel")
def hgetdel(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    entry = ks.edit(key)
    found = hash_of(entry)
    fields = _fields(argv, 2)
    now = ks.clock.ms
    if found is None or not any(found.get(field, now) is not None for field in fields):
        return [None] * len(fields)
    found = begin(ks, key, entry, fields)
    values: list[bytes | None] = []
    for field in fields:
        values.append(found.get(field, now))
        found.remove(field)
    ks.event("hdel", key)
    finish(ks, key, entry, found)
    return values


class Settings:
    """The options of one HSETEX."""

    def __init__(self) -> None:
        self.fnx: bool = False
        self.fxx: bool = False
        self.keep: bool = False
        self.option: bytes = b""  # one of EXPIRY_OPTIONS
        self.moment: int = 0
        self.pairs: int = 0  # where the first field stands


@keys_command("hsetex")
def hsetex(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    entry = ks.edit(key)
    found = hash_of(entry)
    now = ks.clock.ms
    settings = _parse_settings(argv, now)
    fields = argv[settings.pairs :: 2]
    there = 0
    for field in fields:
        if found is not None and found.get(field, now) is not None:
            there += 1
    if (settings.fnx and there) or (settings.fxx and there < len(fields)):
        return 0
    ks.reserve(key, entry, sum(map(len, argv)) + len(fields) * FIELD_SIZE)
    _set_expiring(ks, key, entry, argv, settings)
    return 1


def _set_expiring(ks: Keyspace, key: bytes, entry: Entry | None, argv: Argv, settings: Settings) -> None:
    now = ks.clock.ms
    found = begin(ks, key, entry, argv[settings.pairs :: 2])
    for at in range(settings.pairs, len(argv), 2):
        found.set(argv[at], argv[at + 1], settings.keep)
    ks.event("hset", key)
    if settings.option:
        for at in range(settings.pairs, len(argv), 2):
            _expire_field(found, argv[at], settings.moment, now)
        ks.event("hdel" if settings.moment <= now else "hexpire", key)
    if entry is not None or len(found):
        finish(ks, key, entry, found)


def _parse_settings(argv: Argv, now: int) -> Settings:
    settings = Settings()
    at = 2
    end = len(argv)
    while at < end:
        option = argv[at].upper()
        at += 1
        if option == b"FNX" or option == b"FXX":
            if settings.fnx or settings.fxx:
                raise CommandError(FNX_AND_FXX)
            settings.fnx = option == b"FNX"
            settings.fxx = not settings.fnx
        elif option == b"KEEPTTL" or option in EXPIRY_OPTIONS:
            if settings.keep or settings.option:
                raise CommandError(ONE_EXPIRY_OR_KEEPTTL)
            if option == b"KEEPTTL":
                settings.keep = True
                continue
            if at >= end:
                raise CommandError(EXPIRE_TIME_MISSING)
            settings.option = option
            settings.moment = _parse_option(option, argv[at], now, "hsetex")
            at += 1
        elif option == b"FIELDS":
            if at >= end:
                raise wrong_arity("hsetex")
            count = parse_int_or(argv[at], NUMFIELDS_INVALID)
            if not 1 <= count <= INT32_MAX:
                raise CommandError(NUMFIELDS_INVALID)
            if end - at - 1 != 2 * count:
                raise wrong_arity("hsetex")
            settings.pairs = at + 1
            return settings
        else:
            raise unknown_argument(argv[at - 1])
    raise CommandError(FIELDS_MISSING)
