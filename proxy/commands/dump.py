"""Values in Redis' own serialization: DUMP RESTORE RESTORE-ASKING."""

from __future__ import annotations

from backends.base import Want
from proxy.commands.args import Args, parse_int
from proxy.commands.spec import keys_command
from proxy.datatypes import rdb
from proxy.datatypes.collection import Collection
from proxy.datatypes.rdb import BadFooter, BadFormat
from proxy.errors import (
    BUSY_KEY,
    DUMP_FOOTER,
    DUMP_FORMAT,
    INVALID_FREQ,
    INVALID_IDLE_TIME,
    INVALID_TTL,
    SYNTAX,
    CommandError,
)
from proxy.keyspace import Keyspace
from proxy.resp import OK, Argv, Reply


@keys_command("dump")
def dump(ks: Keyspace, argv: Argv) -> Reply:
    entry = ks.find(argv[1])
    return None if entry is None else rdb.dump(entry.kind, entry.value, ks.clock.ms)


@keys_command("restore", need=Want.META)
@keys_command("restore-asking", need=Want.META)
def restore(ks: Keyspace, argv: Argv) -> Reply:
    replace = absolute = False
    idle = freq = -1
    args = Args(argv, 4)
    while args.more():
        option = args.option()
        if option == b"REPLACE":
            replace = True
        elif option == b"ABSTTL":
            absolute = True
        elif option == b"IDLETIME" and args.more() and freq < 0:
            idle = args.next_int()
            if idle < 0:
                raise CommandError(INVALID_IDLE_TIME)
        elif option == b"FREQ" and args.more() and idle < 0:
            freq = args.next_int()
            if not 0 <= freq <= 255:
                raise CommandError(INVALID_FREQ)
        else:
            raise CommandError(SYNTAX)
    key = argv[1]
    old = ks.peek(key)
    if old is not None and not replace:
        raise CommandError(BUSY_KEY)
    expire_at = parse_int(argv[2])
    if expire_at < 0:
        raise CommandError(INVALID_TTL)
    now = ks.clock.ms
    if expire_at and not absolute:
        expire_at += now
    try:
        kind, value = rdb.restore(argv[3])
    except BadFooter:
        raise CommandError(DUMP_FOOTER) from None
    except BadFormat:
        raise CommandError(DUMP_FORMAT) from None

    if expire_at and expire_at <= now:
        if old is not None:
            ks.remove(key)
            ks.event("del", key)
        return OK
    if isinstance(value, Collection):
        ks.reserve(key, None, value.size)
    ks.put(key, kind, value, expire_at)
    if idle > 0:
        entry = ks.peek(key)
        assert entry is not None
        entry.used_at = now - 1000 * idle
    ks.event("restore", key)
    return OK
