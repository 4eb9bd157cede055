"""Keys of any type: COPY DEL EXISTS EXPIRE EXPIREAT EXPIRETIME MOVE OBJECT PERSIST PEXPIRE PEXPIREAT
PEXPIRETIME PTTL RENAME RENAMENX TOUCH TTL TYPE UNLINK.
"""

from __future__ import annotations

from typing import Final

from backends.base import Want
from proxy.commands.args import INT64_MAX, INT64_MIN, Args, parse_db, parse_int
from proxy.commands.help import help_lines
from proxy.commands.spec import keys_command, session_command
from proxy.datatypes.collection import Collection
from proxy.errors import (
    INVALID_EXPIRE_OPTIONS,
    INVALID_GT_LT,
    NO_LFU,
    NO_SUCH_KEY,
    SAME_OBJECT,
    SYNTAX,
    CommandError,
    invalid_expire,
    unsupported_option,
)
from proxy.keyspace import KIND_NAMES, UNLOADED, Keyspace
from proxy.lru import Entry
from proxy.resp import OK, Argv, Reply, Simple
from proxy.session import Session

EMBSTR_MAX: Final = 44  # bytes of a string that Redis keeps in one piece with its object

_TYPES: Final = {kind: Simple(name.encode()) for kind, name in KIND_NAMES.items()}
_NO_TYPE: Final = Simple(b"none")


@keys_command("del", need=Want.META)
@keys_command("unlink", need=Want.META)
def del_(ks: Keyspace, argv: Argv) -> Reply:
    removed = 0
    for at in range(1, len(argv)):
        key = argv[at]
        if ks.remove(key):
            ks.event("del", key)
            removed += 1
    return removed


@keys_command("exists", need=Want.META)
def exists(ks: Keyspace, argv: Argv) -> Reply:
    found = 0
    for at in range(1, len(argv)):
        if ks.peek(argv[at]) is not None:
            found += 1
    return found


@keys_command("touch", need=Want.META)
def touch(ks: Keyspace, argv: Argv) -> Reply:
    found = 0
    for at in range(1, len(argv)):
        entry = ks.peek(argv[at])
        if entry is not None:
            found += 1
            # Only what is in memory has an order of use: nothing is loaded for it.
            if entry.value is not UNLOADED:
                ks.edit_part(argv[at])
    return found


@keys_command("type", need=Want.META)
def type_(ks: Keyspace, argv: Argv) -> Reply:
    entry = ks.peek(argv[1])
    return _NO_TYPE if entry is None else _TYPES[entry.kind]


@keys_command("expire", need=Want.META)
def expire(ks: Keyspace, argv: Argv) -> Reply:
    return _expire(ks, argv, "expire", 1000, ks.clock.ms)


@keys_command("pexpire", need=Want.META)
def pexpire(ks: Keyspace, argv: Argv) -> Reply:
    return _expire(ks, argv, "pexpire", 1, ks.clock.ms)


@keys_command("expireat", need=Want.META)
def expireat(ks: Keyspace, argv: Argv) -> Reply:
    return _expire(ks, argv, "expireat", 1000, 0)


@keys_command("pexpireat", need=Want.META)
def pexpireat(ks: Keyspace, argv: Argv) -> Reply:
    return _expire(ks, argv, "pexpireat", 1, 0)


def _expire(ks: Keyspace, argv: Argv, name: str, unit: int, base: int) -> Reply:
    nx = xx = gt = lt = False
    for at in range(3, len(argv)):
        option = argv[at].upper()
        if option == b"NX":
            nx = True
        elif option == b"XX":
            xx = True
        elif option == b"GT":
            gt = True
        elif option == b"LT":
            lt = True
        else:
            raise unsupported_option(argv[at])
    if nx and (xx or gt or lt):
        raise CommandError(INVALID_EXPIRE_OPTIONS)
    if gt and lt:
        raise CommandError(INVALID_GT_LT)
    moment = parse_int(argv[2]) * unit
    if moment < INT64_MIN or moment + base > INT64_MAX:
        raise invalid_expire(name)
    moment += base

    key = argv[1]
    entry = ks.peek(key)
    if entry is None:
        return 0
    current = entry.expire_at  # 0, never, is later than any other
    if nx and current:
        return 0
    if xx and not current:
        return 0
    if gt and (not current or moment <= current):
        return 0
    if lt and current and moment >= current:
        return 0
    if moment > ks.clock.ms:
        ks.expire(entry, moment)
        ks.event("expire", key)
    else:
        ks.remove(key)
        ks.event("del", key)
    return 1


@keys_command("persist", need=Want.META)
def persist(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    entry = ks.peek(key)
    if entry is None or not entry.expire_at:
        return 0
    ks.expire(entry, 0)
    ks.event("persist", key)
    return 1


@keys_command("ttl", need=Want.META)
def ttl(ks: Keyspace, argv: Argv) -> Reply:
    return _until(ks, argv[1], ks.clock.ms, 1000)


@keys_command("pttl", need=Want.META)
def pttl(ks: Keyspace, argv: Argv) -> Reply:
    return _until(ks, argv[1], ks.clock.ms, 1)


@keys_command("expiretime", need=Want.META)
def expiretime(ks: Keyspace, argv: Argv) -> Reply:
    return _until(ks, argv[1], 0, 1000)


@keys_command("pexpiretime", need=Want.META)
def pexpiretime(ks: Keyspace, argv: Argv) -> Reply:
    return _until(ks, argv[1], 0, 1)


def _until(ks: Keyspace, key: bytes, start: int, unit: int) -> Reply:
    entry = ks.peek(key)
    if entry is None:
        return -2
    if not entry.expire_at:
        return -1
    return (entry.expire_at - start + unit // 2) // unit


@keys_command("rename")
def rename(ks: Keyspace, argv: Argv) -> Reply:
    source, target = argv[1], argv[2]
    entry = ks.edit(source)
    if entry is None:
        raise CommandError(NO_SUCH_KEY)
    if source != target:
        _rename(ks, entry, target)
    return OK


@keys_command("renamenx")
def renamenx(ks: Keyspace, argv: Argv) -> Reply:
    target = argv[2]
    entry = ks.edit(argv[1])
    if entry is None:
        raise CommandError(NO_SUCH_KEY)
    if ks.peek(target) is not None:
        return 0
    _rename(ks, entry, target)
    return 1


def _rename(ks: Keyspace, entry: Entry, target: bytes) -> None:
    source = entry.key
    # The source goes last: if the target's route refuses the value, it is still there.
    ks.put(target, entry.kind, entry.value, entry.expire_at)
    entry.value = None  # it is the target's now
    ks.remove(source)
    ks.event("rename_from", source)
    ks.event("rename_to", target)


@keys_command("move")
def move(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    db = parse_db(argv[2])
    if db == ks.db:
        raise CommandError(SAME_OBJECT)
    entry = ks.edit(key)
    if entry is None:
        return 0
    target = ks.at(db)
    if target.peek(key) is not None:
        return 0
    target.put(key, entry.kind, entry.value, entry.expire_at)
    entry.value = None  # it is the target's now
    ks.remove(key)
    ks.event("move_from", key)
    target.event("move_to", key)
    return 1


@keys_command("copy")
def copy(ks: Keyspace, argv: Argv) -> Reply:
    source, key = argv[1], argv[2]
    db = ks.db
    replace = False
    args = Args(argv, 3)
    while args.more():
        option = args.option()
        if option == b"REPLACE":
            replace = True
        elif option == b"DB":
            db = parse_db(args.next())
        else:
            raise CommandError(SYNTAX)
    if db == ks.db and source == key:
        raise CommandError(SAME_OBJECT)
    entry = ks.find(source)
    if entry is None:
        return 0
    target = ks if db == ks.db else ks.at(db)
    if not replace and target.peek(key) is not None:
        return 0
    value = entry.value
    # What can be changed in place must not be shared.
    if isinstance(value, (Collection, bytearray)):
        value = value.copy()
    target.put(key, entry.kind, value, entry.expire_at)
    target.event("copy_to", key)
    return 1


@keys_command("object|encoding")
def object_encoding(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[2]
    entry = ks.peek(key)  # looking at a key is not using it
    if entry is not None and entry.value is UNLOADED:
        entry = ks.find(key)
    if entry is None:
        return None
    value = entry.value
    if isinstance(value, bytearray):
        return b"raw"
    if isinstance(value, bytes):
        return _string_encoding(value)
    assert isinstance(value, Collection)
    return value.encoding()


def _string_encoding(value: bytes) -> bytes:
    try:
        parse_int(value)
    except CommandError:
        return b"embstr" if len(value) <= EMBSTR_MAX else b"raw"
    return b"int"


@keys_command("object|idletime", need=Want.META)
def object_idletime(ks: Keyspace, argv: Argv) -> Reply:
    entry = ks.peek(argv[2])
    if entry is None:
        return None
    # 0: not known to have been used, such as a record that has just been loaded.
    return (ks.clock.ms - entry.used_at) // 1000 if entry.used_at else 0


@keys_command("object|refcount", need=Want.META)
def object_refcount(ks: Keyspace, argv: Argv) -> Reply:
    return None if ks.peek(argv[2]) is None else 1


@keys_command("object|freq", need=Want.META)
def object_freq(ks: Keyspace, argv: Argv) -> Reply:
    if ks.peek(argv[2]) is None:
        return None
    raise CommandError(NO_LFU)


@session_command("object|help")
def object_help(session: Session, argv: Argv) -> Reply:
    return help_lines(b"object")
