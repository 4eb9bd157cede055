"""HyperLogLog: PFADD PFCOUNT PFDEBUG PFMERGE PFSELFTEST.

A value is a string, in Redis' own form (see ``proxy.datatypes.hyperloglog``): GET and SET move it.
"""

from __future__ import annotations

from contextlib import suppress

from proxy.commands.spec import keys_command, session_command
from proxy.commands.strings import buffer_of, content
from proxy.datatypes import hyperloglog
from proxy.datatypes.hyperloglog import Corrupt
from proxy.errors import (
    HLL_CORRUPT,
    HLL_INVALID,
    HLL_NOT_SPARSE,
    HLL_SELF_TEST,
    NO_SPECIFIED_KEY,
    CommandError,
    unknown_pfdebug,
)
from proxy.keyspace import STRING, Keyspace
from proxy.lru import Entry
from proxy.resp import OK, Argv, Reply, Simple
from proxy.session import Session


@keys_command("pfadd")
def pfadd(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    entry = ks.edit(key)
    value = hyperloglog.new() if entry is None else _counter(entry).copy()
    try:
        value, changed = hyperloglog.add(value, argv[2:])
    except Corrupt:
        raise CommandError(HLL_CORRUPT) from None
    if entry is None:
        hyperloglog.outdate(value)
        ks.put(key, STRING, value)
    elif changed:
        ks.update(entry, value)
    else:
        return 0
    ks.event("pfadd", key)
    return 1


@keys_command("pfcount")
def pfcount(ks: Keyspace, argv: Argv) -> Reply:
    if len(argv) == 2:
        return _count(ks, argv[1])
    registers = bytes(hyperloglog.REGISTERS)
    for at in range(1, len(argv)):
        entry = ks.find(argv[at])
        if entry is not None:
            registers = hyperloglog.highest(registers, _registers(_counter(entry)))
    return hyperloglog.estimate(registers)


def _count(ks: Keyspace, key: bytes) -> int:
    """The cardinality of one; it is kept in the value, so that it need not be estimated again."""
    entry = ks.find(key)
    if entry is None:
        return 0
    value = _counter(entry)
    known = hyperloglog.cached(value)
    if known >= 0:
        return known
    number = hyperloglog.estimate(_registers(value))
    entry = ks.edit(key)
    assert entry is not None
    with suppress(CommandError):  # full memory refuses no read
        ks.update(entry, hyperloglog.with_cached(value, number))
    return number


@keys_command("pfmerge")
def pfmerge(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    registers = bytes(hyperloglog.REGISTERS)
    dense = False
    for at in range(1, len(argv)):
        entry = ks.edit(argv[at]) if at == 1 else ks.find(argv[at])
        if entry is not None:
            value = _counter(entry)
            dense = dense or value[4] == hyperloglog.DENSE
            registers = hyperloglog.highest(registers, _registers(value))
    target = ks.edit(key)
    merged = hyperloglog.new() if target is None else _counter(target).copy()
    merged = hyperloglog.merge(merged, registers, dense)
    if target is None:
        ks.put(key, STRING, merged)
    else:
        ks.update(target, merged)
    ks.event("pfadd", key)
    return OK


@keys_command("pfdebug")
def pfdebug(ks: Keyspace, argv: Argv) -> Reply:
    entry = ks.edit(argv[2])
    if entry is None:
        raise CommandError(NO_SPECIFIED_KEY)
    value = _counter(entry)
    action = argv[1].upper()
    sparse = value[4] == hyperloglog.SPARSE
    if action == b"ENCODING":
        return Simple(b"sparse" if sparse else b"dense")
    if action == b"DECODE":
        if not sparse:
            raise CommandError(HLL_NOT_SPARSE)
        try:
            return _decoded(value)
        except Corrupt:
            raise CommandError(HLL_CORRUPT) from None
    if action != b"GETREG" and action != b"TODENSE":
        raise unknown_pfdebug(argv[1])
    registers = _registers(value)
    if sparse:
        ks.update(entry, hyperloglog.to_dense(value))
    return list(registers) if action == b"GETREG" else int(sparse)


def _decoded(value: bytearray) -> bytes:
    """Its runs: ``z`` and ``Z`` of zeros, in the one or the other form, ``v`` of a value."""
    words: list[bytes] = []
    for number, run in hyperloglog.runs(value):
        if number:
            words.append(b"v:%d,%d" % (number, run))
        else:
            words.append((b"z:%d" if run <= hyperloglog.ZERO_MAX else b"Z:%d") % run)
    return b" ".join(words)


@session_command("pfselftest")
def pfselftest(session: Session, argv: Argv) -> Reply:
    if not hyperloglog.self_test():
        raise CommandError(HLL_SELF_TEST)
    return OK


def _counter(entry: Entry) -> bytearray:
    """An entry's value, if it looks like a HyperLogLog; it is not for changing it in place."""
    if not hyperloglog.is_valid(content(entry)):
        raise CommandError(HLL_INVALID)
    return buffer_of(entry)


def _registers(value: bytearray) -> bytes:
    try:
        return hyperloglog.registers_of(value)
    except Corrupt:
        raise CommandError(HLL_CORRUPT) from None
