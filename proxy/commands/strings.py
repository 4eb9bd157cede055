"""Strings: APPEND DECR DECRBY GET GETDEL GETEX GETRANGE GETSET INCR INCRBY INCRBYFLOAT LCS MGET MSET
MSETNX PSETEX SET SETEX SETNX SETRANGE STRLEN SUBSTR.

GET and plain SET are the hottest code there is: they do nothing that they need not do.
"""

from __future__ import annotations

from typing import Final

from backends.base import Want
from proxy.commands.args import EXPIRY_OPTIONS, INT64_MAX, INT64_MIN, Args, parse_expiry, parse_int
from proxy.commands.spec import keys_command
from proxy.datatypes import lcs as subsequence
from proxy.datatypes import longdouble
from proxy.datatypes.digits import digits
from proxy.datatypes.undo import UNDO
from proxy.errors import (
    DECREMENT_OVERFLOW,
    LCS_BOTH,
    LCS_TOO_LARGE,
    LCS_TYPE,
    NAN_OR_INFINITY,
    NOT_A_FLOAT,
    OFFSET_OUT_OF_RANGE,
    OVERFLOW,
    STRING_TOO_LONG,
    SYNTAX,
    WRONG_TYPE,
    CommandError,
    wrong_arity,
)
from proxy.keyspace import STRING, Keyspace, string_of
from proxy.lru import Entry
from proxy.resp import OK, Argv, Reply

STRING_MAX: Final = 512 * 1024 * 1024  # bytes: the default of Redis' proto-max-bulk-len


@keys_command("get")
def get(ks: Keyspace, argv: Argv) -> Reply:
    entry = ks.find(argv[1])
    if entry is None:
        return None
    value = entry.value
    return value if isinstance(value, bytes) else string_of(entry)


@keys_command("set", need=Want.NOTHING)
def set_(ks: Keyspace, argv: Argv) -> Reply:
    if len(argv) > 3:
        return _set_with_options(ks, argv)
    key = argv[1]
    ks.put(key, STRING, argv[2])
    ks.event("set", key)
    return OK


def _set_with_options(ks: Keyspace, argv: Argv) -> Reply:
    nx = xx = read = keep = False
    unit = amount = b""
    args = Args(argv, 3)
    while args.more():
        option = args.option()
        if option == b"NX" and not xx:
            nx = True
        elif option == b"XX" and not nx:
            xx = True
        elif option == b"GET":
            read = True
        elif option == b"KEEPTTL" and not unit:
            keep = True
        elif option in EXPIRY_OPTIONS and not keep and (not unit or unit == option):
            unit, amount = option, args.next()
        else:
            raise CommandError(SYNTAX)
    expire_at = parse_expiry(amount, unit, ks.clock.ms, "set") if unit else 0

    key = argv[1]
    entry = None
    old = None
    if read:
        entry = ks.find(key)
        old = None if entry is None else string_of(entry)
    elif nx or xx or keep:
        entry = ks.peek(key)
    if entry is None:
        if xx:
            return None
    elif nx:
        return old
    elif keep:
        expire_at = entry.expire_at

    ks.put(key, STRING, argv[2], expire_at)
    ks.event("set", key)
    if unit:
        ks.event("expire", key)
    return old if read else OK


@keys_command("setex", need=Want.NOTHING)
def setex(ks: Keyspace, argv: Argv) -> Reply:
    return _set_expiring(ks, argv, b"EX", "setex")


@keys_command("psetex", need=Want.NOTHING)
def psetex(ks: Keyspace, argv: Argv) -> Reply:
    return _set_expiring(ks, argv, b"PX", "psetex")


def _set_expiring(ks: Keyspace, argv: Argv, unit: bytes, name: str) -> Reply:
    key = argv[1]
    ks.put(key, STRING, argv[3], parse_expiry(argv[2], unit, ks.clock.ms, name))
    ks.event("set", key)
    ks.event("expire", key)
    return OK


@keys_command("setnx", need=Want.META)
def setnx(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    if ks.peek(key) is not None:
        return 0
    ks.put(key, STRING, argv[2])
    ks.event("set", key)
    return 1


@keys_command("getset")
def getset(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    entry = ks.find(key)
    old = None if entry is None else string_of(entry)
    ks.put(key, STRING, argv[2])
    ks.event("set", key)
    return old


@keys_command("getdel")
def getdel(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    entry = ks.find(key)
    if entry is None:
        return None
    old = string_of(entry)
    ks.remove(key)
    ks.event("del", key)
    return old


@keys_command("getex")
def getex(ks: Keyspace, argv: Argv) -> Reply:
    persist = False
    unit = amount = b""
    args = Args(argv, 2)
    while args.more():
        option = args.option()
        if option == b"PERSIST" and not unit:
            persist = True
        elif option in EXPIRY_OPTIONS and not persist and (not unit or unit == option):
            unit, amount = option, args.next()
        else:
            raise CommandError(SYNTAX)

    key = argv[1]
    entry = ks.edit(key)
    if entry is None:
        return None
    value = string_of(entry)
    if unit:
        now = ks.clock.ms
        expire_at = parse_expiry(amount, unit, now, "getex")
        if expire_at > now:
            ks.expire(entry, expire_at)
            ks.event("expire", key)
        else:
            ks.remove(key)
            ks.event("del", key)
    elif persist and entry.expire_at:
        ks.expire(entry, 0)
        ks.event("persist", key)
    return value


@keys_command("mget")
def mget(ks: Keyspace, argv: Argv) -> Reply:
    values: list[bytes | None] = []
    for at in range(1, len(argv)):
        entry = ks.find(argv[at])
        values.append(None if entry is None or entry.kind != STRING else string_of(entry))
    return values


@keys_command("mset", need=Want.NOTHING)
def mset(ks: Keyspace, argv: Argv) -> Reply:
    if len(argv) % 2 == 0:
        raise wrong_arity("mset")
    _put_pairs(ks, argv)
    return OK


@keys_command("msetnx", need=Want.META)
def msetnx(ks: Keyspace, argv: Argv) -> Reply:
    if len(argv) % 2 == 0:
        raise wrong_arity("msetnx")
    for at in range(1, len(argv), 2):
        if ks.peek(argv[at]) is not None:
            return 0
    _put_pairs(ks, argv)
    return 1


def _put_pairs(ks: Keyspace, argv: Argv) -> None:
    keys, values = argv[1::2], argv[2::2]
    ks.admit(keys, values)
    for key, value in zip(keys, values, strict=True):
        ks.put(key, STRING, value)
        ks.event("set", key)


@keys_command("strlen")
def strlen(ks: Keyspace, argv: Argv) -> Reply:
    entry = ks.find(argv[1])
    return 0 if entry is None else len(content(entry))


@keys_command("getrange")
@keys_command("substr")
def getrange(ks: Keyspace, argv: Argv) -> Reply:
    start, end = parse_int(argv[2]), parse_int(argv[3])
    entry = ks.find(argv[1])
    if entry is None:
        return b""
    value = content(entry)
    if end < start < 0:
        return b""
    if start < 0:
        start = max(start + len(value), 0)
    if end < 0:
        end = max(end + len(value), 0)
    return bytes(value[start : end + 1])


@keys_command("append")
def append(ks: Keyspace, argv: Argv) -> Reply:
    key, suffix = argv[1], argv[2]
    entry = ks.edit(key)
    if entry is None:
        size = len(suffix)
        ks.put(key, STRING, suffix)
    else:
        size = overwrite(ks, entry, len(content(entry)), suffix)
    ks.event("append", key)
    return size


@keys_command("setrange")
def setrange(ks: Keyspace, argv: Argv) -> Reply:
    key, offset, patch = argv[1], parse_int(argv[2]), argv[3]
    if offset < 0:
        raise CommandError(OFFSET_OUT_OF_RANGE)
    entry = ks.edit(key)
    size = 0 if entry is None else len(content(entry))
    if not patch:
        return size
    if entry is None:
        size = offset + len(patch)
        check_length(size)
        ks.put(key, STRING, bytearray(offset) + patch)
    else:
        size = overwrite(ks, entry, offset, patch)
    ks.event("setrange", key)
    return size


def content(entry: Entry) -> bytes | bytearray:
    """The value itself, not a copy: good only within the handler's run."""
    value = entry.value
    if isinstance(value, (bytes, bytearray)):
        return value
    raise CommandError(WRONG_TYPE)


def buffer_of(entry: Entry) -> bytearray:
    """The value for changing it in place; from now on it is kept so that this copies nothing."""
    value = content(entry)
    if not isinstance(value, bytearray):
        value = bytearray(value)
        entry.value = value
    return value


def check_length(size: int) -> None:
    """Refuse a string that a client could never have sent as one."""
    if size > STRING_MAX:
        raise CommandError(STRING_TOO_LONG)


def overwrite(ks: Keyspace, entry: Entry, offset: int, patch: bytes) -> int:
    """Put ``patch`` into a string in place, zeros before it where the string ends earlier; its new length.

    ``entry`` was got by ``edit``; if the new value is refused, it keeps the old one.
    """
    end = offset + len(patch)
    check_length(end)
    value = content(entry)
    buffer = value if isinstance(value, bytearray) else bytearray(value)
    size = len(buffer)
    replaced = buffer[offset:end]
    if UNDO.open:
        UNDO.patch(buffer, min(offset, size), end - min(offset, size), replaced)
    if offset > size:
        buffer.extend(bytes(offset - size))
    buffer[offset:end] = patch
    try:
        ks.update(entry, buffer)
    except CommandError:
        buffer[offset:end] = replaced
        del buffer[size:]
        raise
    return len(buffer)


@keys_command("incr")
def incr(ks: Keyspace, argv: Argv) -> Reply:
    return _increment(ks, argv[1], 1)


@keys_command("decr")
def decr(ks: Keyspace, argv: Argv) -> Reply:
    return _increment(ks, argv[1], -1)


@keys_command("incrby")
def incrby(ks: Keyspace, argv: Argv) -> Reply:
    return _increment(ks, argv[1], parse_int(argv[2]))


@keys_command("decrby")
def decrby(ks: Keyspace, argv: Argv) -> Reply:
    decrement = parse_int(argv[2])
    if decrement == INT64_MIN:
        raise CommandError(DECREMENT_OVERFLOW)
    return _increment(ks, argv[1], -decrement)


def _increment(ks: Keyspace, key: bytes, step: int) -> Reply:
    entry = ks.edit(key)
    if entry is None:
        ks.put(key, STRING, digits(step))
        ks.event("incrby", key)
        return step
    total = parse_int(string_of(entry)) + step
    if total > INT64_MAX or total < INT64_MIN:
        raise CommandError(OVERFLOW)
    ks.update(entry, digits(total))
    ks.event("incrby", key)
    return total


@keys_command("incrbyfloat")
def incrbyfloat(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    entry = ks.edit(key)
    old = b"0" if entry is None else string_of(entry)
    try:
        value, increment = longdouble.parse(old), longdouble.parse(argv[2])
    except ValueError:
        raise CommandError(NOT_A_FLOAT) from None
    try:
        total = longdouble.to_text(longdouble.add(value, increment))
    except OverflowError:
        raise CommandError(NAN_OR_INFINITY) from None
    if entry is None:
        ks.put(key, STRING, total)
    else:
        ks.update(entry, total)
    ks.event("incrbyfloat", key)
    return total


@keys_command("lcs")
def lcs(ks: Keyspace, argv: Argv) -> Reply:
    texts: list[bytes] = []
    for at in range(1, 3):
        entry = ks.find(argv[at])
        if entry is not None and entry.kind != STRING:
            raise CommandError(LCS_TYPE)
        texts.append(b"" if entry is None else string_of(entry))
    only_length = indexes = sizes = False
    shortest = 0
    args = Args(argv, 3)
    while args.more():
        option = args.option()
        if option == b"LEN":
            only_length = True
        elif option == b"IDX":
            indexes = True
        elif option == b"WITHMATCHLEN":
            sizes = True
        elif option == b"MINMATCHLEN":
            shortest = args.next_int()
        else:
            raise CommandError(SYNTAX)
    if only_length and indexes:
        raise CommandError(LCS_BOTH)
    a, b = texts
    # The size of the table that Redis would make of it: it bounds the time that this takes, too.
    if (len(a) + 1) * (len(b) + 1) * 4 > STRING_MAX:
        raise CommandError(LCS_TOO_LARGE)

    if only_length:
        return subsequence.length(a, b)
    runs = subsequence.runs(a, b)
    if not indexes:
        return b"".join([a[run.at_a : run.at_a + run.size] for run in reversed(runs)])
    matches: list[list[list[int] | int]] = []
    for run in runs:
        if run.size >= shortest:
            match: list[list[int] | int] = [
                [run.at_a, run.at_a + run.size - 1],
                [run.at_b, run.at_b + run.size - 1],
            ]
            if sizes:
                match.append(run.size)
            matches.append(match)
    return {b"matches": matches, b"len": sum([run.size for run in runs])}
