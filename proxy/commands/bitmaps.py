"""Bits of strings: BITCOUNT BITFIELD BITFIELD_RO BITOP BITPOS GETBIT SETBIT."""

from __future__ import annotations

from typing import Final

from proxy.commands.args import Args, parse_int, parse_int_or
from proxy.commands.spec import keys_command
from proxy.commands.strings import STRING_MAX, buffer_of, content, overwrite
from proxy.datatypes import bits
from proxy.datatypes.undo import UNDO
from proxy.errors import (
    BIT_OFFSET,
    BIT_VALUE,
    BITFIELD_OVERFLOW,
    BITFIELD_RO,
    BITFIELD_TYPE,
    BITOP_NOT,
    BITPOS_BIT,
    SYNTAX,
    CommandError,
)
from proxy.keyspace import STRING, Keyspace, string_of
from proxy.resp import Argv, Reply

OVERFLOWS: Final = frozenset({b"WRAP", b"SAT", b"FAIL"})


@keys_command("setbit")
def setbit(ks: Keyspace, argv: Argv) -> Reply:
    at = parse_offset(argv[2], 0)
    bit = parse_int_or(argv[3], BIT_VALUE)
    if bit != 0 and bit != 1:
        raise CommandError(BIT_VALUE)
    key = argv[1]
    entry = ks.edit(key)
    byte = at >> 3
    if entry is None:
        buffer = bytearray(byte + 1)
        bits.write_field(buffer, 1, at, bit)
        ks.put(key, STRING, buffer)
        ks.event("setbit", key)
        return 0
    value = buffer_of(entry)
    old = bits.get(value, at)
    if old != bit or byte >= len(value):
        patch = bytearray(value[byte : byte + 1] or b"\0")
        bits.write_field(patch, 1, at & 7, bit)
        overwrite(ks, entry, byte, bytes(patch))
        ks.event("setbit", key)
    return old


@keys_command("getbit")
def getbit(ks: Keyspace, argv: Argv) -> Reply:
    at = parse_offset(argv[2], 0)
    entry = ks.find(argv[1])
    return 0 if entry is None else bits.get(content(entry), at)


@keys_command("bitcount")
def bitcount(ks: Keyspace, argv: Argv) -> Reply:
    entry = ks.find(argv[1])
    if entry is None:
        return 0
    value = content(entry)
    start, end = 0, 8 * len(value) - 1
    if len(argv) == 4 or len(argv) == 5:
        start, end = parse_int(argv[2]), parse_int(argv[3])
        if end < start < 0:
            return 0
        start, end = bit_range(start, end, len(value), len(argv) == 5 and by_bits(argv[4]))
    elif len(argv) != 2:
        raise CommandError(SYNTAX)
    return bits.count(value, start, end) if start <= end else 0


@keys_command("bitpos")
def bitpos(ks: Keyspace, argv: Argv) -> Reply:
    bit = parse_int(argv[2])
    if bit != 0 and bit != 1:
        raise CommandError(BITPOS_BIT)
    entry = ks.find(argv[1])
    if entry is None:
        return -1 if bit else 0
    value = content(entry)
    start, end = 0, 8 * len(value) - 1
    if 4 <= len(argv) <= 6:
        start = parse_int(argv[3])
        of_bits = len(argv) == 6 and by_bits(argv[5])
        end = parse_int(argv[4]) if len(argv) > 4 else len(value) - 1
        start, end = bit_range(start, end, len(value), of_bits)
    elif len(argv) != 3:
        raise CommandError(SYNTAX)
    if start > end:
        return -1
    found = bits.find(value, bit, start, end)
    # Where no end is given, the value is thought to go on with zeros.
    return 8 * len(value) if found < 0 and not bit and len(argv) < 5 else found


def by_bits(unit: bytes) -> bool:
    """Whether a range is one of bits, and not of bytes."""
    unit = unit.upper()
    if unit != b"BIT" and unit != b"BYTE":
        raise CommandError(SYNTAX)
    return unit == b"BIT"


def bit_range(start: int, end: int, size: int, of_bits: bool) -> tuple[int, int]:
    """The first and the last bit of a range in a value of ``size`` bytes; reversed, if it is empty."""
    total = 8 * size if of_bits else size
    if start < 0:
        start = max(start + total, 0)
    if end < 0:
        end = max(end + total, 0)
    end = min(end, total - 1)
    return (start, end) if of_bits else (8 * start, 8 * end + 7)


@keys_command("bitop")
def bitop(ks: Keyspace, argv: Argv) -> Reply:
    operation, key = argv[1].upper(), argv[2]
    if operation not in (b"AND", b"OR", b"XOR", b"NOT"):
        raise CommandError(SYNTAX)
    if operation == b"NOT" and len(argv) != 4:
        raise CommandError(BITOP_NOT)
    values: list[bytes] = []
    for at in range(3, len(argv)):
        entry = ks.find(argv[at])
        values.append(b"" if entry is None else string_of(entry))
    result = bits.invert(values[0]) if operation == b"NOT" else bits.combine(operation, values)
    if result:
        ks.put(key, STRING, bytearray(result))  # which, as in Redis, is no number whatever it reads like
        ks.event("set", key)
    elif ks.remove(key):
        ks.event("del", key)
    return len(result)


class Field:
    """One operation of BITFIELD."""

    def __init__(
        self, action: bytes, signed: bool, width: int, at: int, number: int, overflow: bytes
    ) -> None:
        self.action: bytes = action  # GET, SET or INCRBY
        self.signed: bool = signed
        self.width: int = width  # bits
        self.at: int = at  # the first bit
        self.number: int = number  # to set, or to add
        self.overflow: bytes = overflow


@keys_command("bitfield")
def bitfield(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    fields = parse_fields(argv)
    end = max([field.at + field.width for field in fields if field.action != b"GET"], default=0)
    if not end:
        return read_fields(ks, key, fields)
    size = (end + 7) >> 3
    entry = ks.edit(key)
    if entry is None:
        buffer = bytearray(size)
        ks.put(key, STRING, buffer)
        replies, changes = apply_fields(buffer, fields, True)
    else:
        buffer = buffer_of(entry)
        grown = size > len(buffer)
        if grown:
            overwrite(ks, entry, size - 1, b"\0")
        replies, changes = apply_fields(buffer, fields, grown)
        if changes and not grown:
            try:
                ks.update(entry, buffer)
            except CommandError:
                for at, old in reversed(changes):
                    buffer[at : at + len(old)] = old
                raise
    if changes:
        ks.event("setbit", key)
    return replies


@keys_command("bitfield_ro")
def bitfield_ro(ks: Keyspace, argv: Argv) -> Reply:
    fields = parse_fields(argv)
    for field in fields:
        if field.action != b"GET":
            raise CommandError(BITFIELD_RO)
    return read_fields(ks, argv[1], fields)


def parse_fields(argv: Argv) -> list[Field]:
    fields: list[Field] = []
    overflow = b"WRAP"
    args = Args(argv, 2)
    while args.more():
        action = args.option()
        if action == b"OVERFLOW":
            overflow = args.option()
            if overflow not in OVERFLOWS:
                raise CommandError(BITFIELD_OVERFLOW)
            continue
        needed = 2 if action == b"GET" else 3
        if action not in (b"GET", b"SET", b"INCRBY") or args.end - args.at < needed:
            raise CommandError(SYNTAX)
        signed, width = parse_width(args.next())
        at = parse_offset(args.next(), width)
        number = 0 if action == b"GET" else args.next_int()
        fields.append(Field(action, signed, width, at, number, overflow))
    return fields


def parse_width(text: bytes) -> tuple[bool, int]:
    """Of a type such as ``i16`` or ``u8``: whether it is signed, and its bits."""
    signed = text[:1] == b"i"
    if not signed and text[:1] != b"u":
        raise CommandError(BITFIELD_TYPE)
    width = parse_int_or(text[1:], BITFIELD_TYPE)
    if not 1 <= width <= (64 if signed else 63):
        raise CommandError(BITFIELD_TYPE)
    return signed, width


def parse_offset(text: bytes, width: int) -> int:
    """The position of a bit; where ``width`` is given, ``#3`` is that of the fourth field of so many bits."""
    if width and text[:1] == b"#":
        at = parse_int_or(text[1:], BIT_OFFSET) * width
    else:
        at = parse_int_or(text, BIT_OFFSET)
    if at < 0 or at >> 3 >= STRING_MAX:
        raise CommandError(BIT_OFFSET)
    return at


def read_fields(ks: Keyspace, key: bytes, fields: list[Field]) -> list[int | None]:
    entry = ks.find(key)
    value = b"" if entry is None else content(entry)
    return [bits.read_field(value, field.signed, field.width, field.at) for field in fields]


def apply_fields(
    buffer: bytearray, fields: list[Field], grown: bool
) -> tuple[list[int | None], list[tuple[int, bytes]]]:
    """Do the operations in order: their replies, and where each change was made and what stood there.

    In a value that has ``grown`` every write is a change.
    """
    replies: list[int | None] = []
    changes: list[tuple[int, bytes]] = []
    for field in fields:
        old = bits.read_field(buffer, field.signed, field.width, field.at)
        if field.action == b"GET":
            replies.append(old)
            continue
        wanted = old + field.number if field.action == b"INCRBY" else field.number
        if not field.signed and field.action == b"SET":
            wanted &= (1 << 64) - 1  # a negative one is a large one
        new = bits.fit(wanted, field.signed, field.width, field.overflow)
        if new is None:
            replies.append(None)
            continue
        replies.append(new if field.action == b"INCRBY" else old)
        if grown or new != old:
            first = field.at >> 3
            changed = bytes(buffer[first : first + 9])
            changes.append((first, changed))
            if UNDO.open:
                UNDO.patch(buffer, first, len(changed), changed)
            bits.write_field(buffer, field.width, field.at, new)
    return replies, changes
