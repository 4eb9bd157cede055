"""HyperLogLog in the form of Redis' strings, so that a value may come from there and go there, byte by byte.

A value is a header of 16 bytes and 16,384 registers of 6 bits: ``HYLL``, the encoding (0 dense, 1 sparse),
three bytes of 0, the cardinality as it was last counted (64 bits, little endian, the highest bit set if it
does not hold any more), then the registers.

- Dense: register after register, the lowest bits of the first byte first.
- Sparse: runs of equal registers.  ``00nnnnnn``: n + 1 are 0.  ``01nnnnnn nnnnnnnn``: n + 1 are 0.
  ``1vvvvvnn``: n + 1 are v + 1.

The estimate is Otmar Ertl's (arXiv:1702.01284), the hash MurmurHash64A with Redis' seed.
"""

from __future__ import annotations

import math
from typing import Final

from mypy_extensions import i64

MAGIC: Final = b"HYLL"
HEADER: Final = 16
DENSE: Final = 0
SPARSE: Final = 1
INDEX_BITS: Final = 14  # of a hash, that choose the register
REGISTERS: Final = 1 << INDEX_BITS
HASH_BITS: Final = 64 - INDEX_BITS  # in which the first 1 is looked for
DENSE_SIZE: Final = HEADER + REGISTERS * 6 // 8
SPARSE_MAX: Final = 3000  # bytes: the default of Redis' hll-sparse-max-bytes
VALUE_MAX: Final = 32  # that a sparse run can have
ZERO_MAX: Final = 64  # registers in a run of one byte that are 0
VALUE_RUN_MAX: Final = 4
STALE: Final = 0x80  # in the header's last byte

SEED: Final = 0xADC83B19
MULTIPLIER: Final = 0xC6A4A7935BD1E995
MASK: Final = (1 << 64) - 1
ALPHA: Final = 0.721347520444481703680  # 1 / (2 ln 2)

ERROR: Final = 0.0081  # the standard error, relative to the cardinality: 1.04 / sqrt(REGISTERS)

BEYOND: Final = -(2**63)  # the estimate of more than 63 bits, as Redis answers it

UNCHANGED: Final = 0
CHANGED: Final = 1
FULL: Final = 2  # it can't be held in the sparse form


class Corrupt(ValueError):
    """The runs are not 16,384 registers."""


def new() -> bytearray:
    """One to which nothing was added."""
    return bytearray(MAGIC + bytes((SPARSE,)) + bytes(HEADER - 5) + _zeros(REGISTERS))


def is_valid(value: bytes | bytearray) -> bool:
    """Whether a string looks like one; its runs are not looked at."""
    if len(value) < HEADER or not value.startswith(MAGIC):
        return False
    return value[4] == SPARSE or (value[4] == DENSE and len(value) == DENSE_SIZE)


def cached(value: bytes | bytearray) -> int:
    """The cardinality in the header, or -1 if it does not hold any more."""
    return -1 if value[HEADER - 1] & STALE else int.from_bytes(value[8:HEADER], "little")


def with_cached(value: bytes | bytearray, number: int) -> bytearray:
    return bytearray(value[:8]) + (number & MASK).to_bytes(8, "little") + value[HEADER:]


def outdate(value: bytearray) -> None:
    """The cardinality in the header does not hold any more."""
    value[HEADER - 1] |= STALE


def place(item: bytes) -> tuple[int, int]:
    """The register of an item, and what it would have it be at least."""
    number = murmur(item)
    index = number & (REGISTERS - 1)
    number = number >> INDEX_BITS | 1 << HASH_BITS
    return index, (number & -number).bit_length()


def murmur(item: bytes) -> int:
    """MurmurHash64A, by Austin Appleby."""
    size = len(item)
    number = SEED ^ (size * MULTIPLIER & MASK)
    whole = size & ~7
    for at in range(0, whole, 8):
        word = int.from_bytes(item[at : at + 8], "little") * MULTIPLIER & MASK
        word = (word ^ word >> 47) * MULTIPLIER & MASK
        number = (number ^ word) * MULTIPLIER & MASK
    if whole < size:
        number = (number ^ int.from_bytes(item[whole:], "little")) * MULTIPLIER & MASK
    number = (number ^ number >> 47) * MULTIPLIER & MASK
    return number ^ number >> 47


def add(value: bytearray, items: list[bytes]) -> tuple[bytearray, bool]:
    """The value with the items, which may be another one than was given, and whether that changed it."""
    changed = False
    sparse = Sparse(value)
    for item in items:
        index, number = place(item)
        if value[4] == SPARSE:
            outcome = sparse.set(index, number)
            if outcome == FULL:
                value = to_dense(value)
                _set_dense(value, index, number)
            elif outcome == UNCHANGED:
                continue
        elif not _set_dense(value, index, number):
            continue
        changed = True
    if changed:
        outdate(value)
    return value, changed


def merge(target: bytearray, registers: bytes, dense: bool) -> bytearray:
    """The target with registers that are nowhere less than its own: ``dense``, or as it is, if it can be."""
    if target[4] == SPARSE and not dense:
        sparse = Sparse(target)
        for index, number in enumerate(registers):
            if number and sparse.set(index, number) == FULL:
                dense = True
                break
    if target[4] == DENSE or dense:
        target = bytearray(target[:HEADER]) + pack(registers)
        target[4] = DENSE
    outdate(target)
    return target


def to_dense(value: bytearray) -> bytearray:
    """The same in the dense form; the value itself if it is dense."""
    if value[4] == DENSE:
        return value
    dense = bytearray(value[:HEADER]) + pack(registers_of(value))
    dense[4] = DENSE
    return dense


def estimate(registers: bytes) -> int:
    """The cardinality that registers, a byte each, stand for."""
    counts = [0] * 64
    left = REGISTERS
    for number in range(64):
        counts[number] = registers.count(number)
        left -= counts[number]
        if not left:  # mostly before the twentieth
            break
    total = REGISTERS * _tau((REGISTERS - counts[HASH_BITS + 1]) / REGISTERS)
    for number in range(HASH_BITS, 0, -1):
        total = (total + counts[number]) * 0.5
    total += REGISTERS * _sigma(counts[0] / REGISTERS)
    # Registers that nobody can have filled by adding may stand for more than 63 bits, or for infinity.
    if total * 2.0**63 <= ALPHA * REGISTERS * REGISTERS:
        return BEYOND
    return math.floor(ALPHA * REGISTERS * REGISTERS / total + 0.5)


def self_test() -> bool:
    """Whether both forms agree, and estimate as well as they should."""
    value = new()
    for size in (0, 10, 300):
        value, _ = add(value, [b"%d" % number for number in range(size)])
        registers = registers_of(value)
        dense = to_dense(bytearray(value))
        if registers_of(dense) != registers or merge(new(), registers, True)[HEADER:] != dense[HEADER:]:
            return False
        if abs(estimate(registers) - size) > size * 4 * ERROR:
            return False
    return True


def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    y, z = 1.0, x
    while True:
        x *= x
        before = z
        z += x * y
        y += y
        if z == before:
            return z


def _tau(x: float) -> float:
    if x == 0.0 or x == 1.0:
        return 0.0
    y, z = 1.0, 1 - x
    while True:
        x = math.sqrt(x)
        before = z
        y *= 0.5
        z -= (1 - x) * (1 - x) * y
        if z == before:
            return z / 3


# Registers as bytes.  A loop over them would take a millisecond in plain Python: they are taken apart, put
# together and compared column by column, each column one translation or one large number.

_LOW_6: Final = bytes(n & 63 for n in range(256))
_HIGH_2: Final = bytes(n >> 6 for n in range(256))
_LOW_4_UP_2: Final = bytes((n & 15) << 2 for n in range(256))
_HIGH_4: Final = bytes(n >> 4 for n in range(256))
_LOW_2_UP_4: Final = bytes((n & 3) << 4 for n in range(256))
_DOWN_2: Final = bytes(n >> 2 for n in range(256))
_LOW_2_UP_6: Final = bytes((n & 3) << 6 for n in range(256))
_UP_2: Final = bytes(n << 2 & 255 for n in range(256))
_UP_4: Final = bytes(n << 4 & 255 for n in range(256))
_TOPS: Final = int.from_bytes(b"\x80" * REGISTERS, "little")


def registers_of(value: bytes | bytearray) -> bytes:
    """All registers, a byte each; raises Corrupt."""
    if value[4] == SPARSE:
        return _expand(value)
    first, second, third = (bytes(value[HEADER + n :: 3]) for n in range(3))
    registers = bytearray(REGISTERS)
    registers[0::4] = first.translate(_LOW_6)
    registers[1::4] = _either(first.translate(_HIGH_2), second.translate(_LOW_4_UP_2))
    registers[2::4] = _either(second.translate(_HIGH_4), third.translate(_LOW_2_UP_4))
    registers[3::4] = third.translate(_DOWN_2)
    return bytes(registers)


def pack(registers: bytes) -> bytes:
    """Registers, a byte each, in the dense form."""
    one, two, three, four = (registers[n::4] for n in range(4))
    packed = bytearray(DENSE_SIZE - HEADER)
    packed[0::3] = _either(one, two.translate(_LOW_2_UP_6))
    packed[1::3] = _either(two.translate(_DOWN_2), three.translate(_UP_4))
    packed[2::3] = _either(three.translate(_HIGH_4), four.translate(_UP_2))
    return bytes(packed)


def _either(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "little") | int.from_bytes(b, "little")).to_bytes(len(a), "little")


def highest(a: bytes, b: bytes) -> bytes:
    """Of each register the higher one."""
    one, other = int.from_bytes(a, "little"), int.from_bytes(b, "little")
    # A register has 6 bits: the difference of two borrows nothing from the next beyond bit 7.
    not_less = ((one | _TOPS) - other & _TOPS) >> 7
    chosen = (not_less << 8) - not_less
    return (one & chosen | other & ~chosen).to_bytes(REGISTERS, "little")


def _set_dense(value: bytearray, index: int, number: int) -> bool:
    at = HEADER + index * 6 // 8
    shift = index * 6 & 7
    pair = int.from_bytes(value[at : at + 2], "little")
    if pair >> shift & 63 >= number:
        return False
    pair = pair & ~(63 << shift) | number << shift
    value[at] = pair & 255
    if shift > 2:
        value[at + 1] = pair >> 8
    return True


def _expand(value: bytes | bytearray) -> bytes:
    registers = bytearray()
    for number, run in runs(value):
        registers += bytes((number,)) * run
    if len(registers) != REGISTERS:
        raise Corrupt
    return bytes(registers)


def runs(value: bytes | bytearray) -> list[tuple[int, int]]:
    """Of the sparse form: what registers are, and how many one after the other."""
    found: list[tuple[int, int]] = []
    at: i64 = HEADER
    end: i64 = len(value)
    while at < end:
        code: i64 = value[at]
        at += 1
        if code >= 0x80:
            found.append((((code >> 2) & 31) + 1, (code & 3) + 1))
        elif code < 0x40:
            found.append((0, code + 1))
        elif at < end:
            found.append((0, ((code & 63) << 8 | value[at]) + 1))
            at += 1
        else:
            raise Corrupt
    return found


def _zeros(run: int) -> bytes:
    return bytes((run - 1,)) if run <= ZERO_MAX else bytes((0x40 | (run - 1) >> 8, (run - 1) & 255))


def _values(number: int, run: int) -> bytes:
    return bytes((0x80 | (number - 1) << 2 | run - 1,))


class Sparse:
    """Sets registers of a value in the sparse form, in place.

    In ascending order each is found from where the last one was, not from the beginning.
    """

    def __init__(self, value: bytearray) -> None:
        self.value: bytearray = value
        self.index: int = -1  # of the register that was asked for last
        # Where to look from: the run before the one before that register's, or the first one.
        self.start: int = HEADER
        self.start_first: int = 0  # its first register
        self.previous: int = HEADER  # the run before the register's

    def set(self, index: int, number: int) -> int:
        """Have a register be ``number`` at least; UNCHANGED, CHANGED, or FULL: then nothing was done."""
        if number > VALUE_MAX:
            return FULL
        value = self.value
        at, first = self._seek(index)
        code = value[at]
        width = 1
        old = 0
        if code >= 0x80:
            old, run = (code >> 2 & 31) + 1, (code & 3) + 1
        elif code < 0x40:
            run = code + 1
        else:
            run = ((code & 63) << 8 | value[at + 1]) + 1
            width = 2
        if old >= number:
            return UNCHANGED
        pieces = _values(number, 1)
        left, right = index - first, first + run - 1 - index
        if left:
            pieces = (_values(old, left) if old else _zeros(left)) + pieces
        if right:
            pieces += _values(old, right) if old else _zeros(right)
        if len(pieces) > width and len(value) + len(pieces) - width > SPARSE_MAX:
            return FULL
        value[at : at + width] = pieces
        self._join()
        return CHANGED

    def _seek(self, index: int) -> tuple[int, int]:
        """Where the run is that has a register, and the first register of it."""
        value = self.value
        if index < self.index:
            self.start, self.start_first = HEADER, 0
        self.index = index
        wanted: i64 = index
        at: i64 = self.start
        first: i64 = self.start_first
        before: i64 = at
        before_first: i64 = first
        older: i64 = at
        older_first: i64 = first
        end: i64 = len(value)
        while at < end:
            code: i64 = value[at]
            width: i64 = 1
            if code >= 0x80:
                run: i64 = (code & 3) + 1
            elif code < 0x40:
                run = code + 1
            elif at + 1 < end:
                run = ((code & 63) << 8 | value[at + 1]) + 1
                width = 2
            else:
                break
            if wanted < first + run:
                self.start, self.start_first = older, older_first
                self.previous = before
                return at, first
            older, older_first = before, before_first
            before, before_first = at, first
            at += width
            first += run
        raise Corrupt

    def _join(self) -> None:
        """Make one run of two of equal registers, where Redis does: from the previous run, five steps on."""
        value = self.value
        at: i64 = self.previous
        for _ in range(5):
            if at >= len(value):
                break
            code: i64 = value[at]
            if code < 0x80:
                at += 1 if code < 0x40 else 2
                continue
            if at + 1 < len(value):
                other: i64 = value[at + 1]
                if other >= 0x80 and code >> 2 == other >> 2:
                    run: i64 = (code & 3) + (other & 3) + 2
                    if run <= VALUE_RUN_MAX:
                        value[at : at + 2] = _values((code >> 2 & 31) + 1, run)
                        continue
            at += 1
