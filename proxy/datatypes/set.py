"""Sets: different byte strings, in no order.

A set is kept in one of three forms.  Integers are sorted numbers of two, four or eight bytes side by side, as
in Redis' intset; a few short members are packed (``packed``); everything else is a ``Table``.  A set that has
become a table stays one, and integers that have met another member are members like others from then on, as
in Redis, which shows in OBJECT ENCODING.
"""

from __future__ import annotations

import random
import struct
import sys
from array import array
from bisect import bisect_left
from typing import Final, Literal, TypeAlias

import msgspec
from mypy_extensions import i64, mypyc_attr

from proxy.datatypes import packed
from proxy.datatypes.collection import Collection
from proxy.datatypes.digits import digits
from proxy.datatypes.table import DICT_OVERHEAD, SLOT_SIZE, Table, place
from proxy.datatypes.undo import UNDO

INTEGERS_MAX: Final = 512  # set-max-intset-entries
# Redis 7.0 has no packed form for these, so its limits are ours to choose: what is quick to look through.
PACKED_ENTRIES: Final = 32
PACKED_LENGTH: Final = 64  # bytes of a member

INTEGER_DIGITS: Final = 20  # of the longest: -(2**63)
TYPECODES: Final[dict[int, Literal["h", "i", "q"]]] = {2: "h", 4: "i", 8: "q"}

# Bytes of memory, measured on 64-bit CPython.
# The object has 48; an entry that holds none but small objects takes some less than it is reckoned.
SET_OVERHEAD: Final = 32
BYTES_OVERHEAD: Final = 33
BYTEARRAY_OVERHEAD: Final = 57
TABLE_OVERHEAD: Final = 160 + DICT_OVERHEAD
MEMBER_OVERHEAD: Final = BYTES_OVERHEAD + SLOT_SIZE  # of a member of a table

# Shapes of the packed form.  They stand in stored records: they are never reused.
INTEGERS: Final = 1
MEMBERS: Final = 2

Names: TypeAlias = Table[None]


def integer(member: bytes) -> int | None:
    """The number that a member is, if it is one of 64 bits in its canonical decimal form."""
    if not member or len(member) > INTEGER_DIGITS or not (member[0] == 45 or 48 <= member[0] <= 57):
        return None
    if not member.lstrip(b"-").isdigit():
        return None
    try:
        number = int(member)
    except ValueError:
        return None
    return number if -(2**63) <= number < 2**63 and digits(number) == member else None


def _width(number: int) -> int:
    """Bytes that hold a number."""
    if -(2**15) <= number < 2**15:
        return 2
    return 4 if -(2**31) <= number < 2**31 else 8


@mypyc_attr(acyclic=True)
class Set(Collection):
    """One set; adding, removing and finding a member are O(1), or O(log n) where all are integers."""

    def __init__(self) -> None:
        self.size: int = SET_OVERHEAD + BYTES_OVERHEAD
        self._count: int = 0
        # ``bytes`` are integers (each of len / count bytes), a ``bytearray`` is packed members.
        self._data: bytes | bytearray | Names = b""

    def __len__(self) -> int:
        return self._count

    def encoding(self) -> bytes:
        return b"intset" if isinstance(self._data, bytes) else b"hashtable"

    def has(self, member: bytes) -> bool:
        data = self._data
        if isinstance(data, Table):
            return data.has(member)
        if isinstance(data, bytearray):
            return packed.find(data, member, 1) >= 0
        number = integer(member)
        if number is None or not data:
            return False
        numbers = self._numbers(data)
        at = bisect_left(numbers, number)
        return at < len(numbers) and numbers[at] == number

    def add(self, member: bytes) -> bool:
        """Whether it is a new one."""
        if UNDO.open:
            self._keep()
        data = self._data
        if isinstance(data, bytes):
            number = integer(member)
            if number is not None:
                return self._add_number(data, number)
            self._leave_integers(data)
            data = self._data
        if isinstance(data, bytearray):
            if packed.find(data, member, 1) >= 0:
                return False
            if self._count < PACKED_ENTRIES and len(member) <= PACKED_LENGTH:
                packed.append(data, member)
                self._count += 1
                self.size = SET_OVERHEAD + BYTEARRAY_OVERHEAD + len(data)
                return True
            self._become_table(packed.items(data))
            data = self._data
        assert isinstance(data, Table)
        if not data.put(member, None):
            return False
        self._count += 1
        self.size += MEMBER_OVERHEAD + len(member)
        return True

    def _add_number(self, data: bytes, number: int) -> bool:
        width = _width(number)
        if not data:
            self._set_numbers(number.to_bytes(width, sys.byteorder, signed=True), 1)
            return True
        numbers = self._numbers(data)
        at = bisect_left(numbers, number)
        if at < len(numbers) and numbers[at] == number:
            return False
        if self._count >= INTEGERS_MAX:
            self._become_table(self.members())
            return self.add(digits(number))
        own = len(data) // self._count
        if width > own:
            data = array(TYPECODES[width], numbers.tolist()).tobytes()
            own = width
        cut = at * own
        data = data[:cut] + number.to_bytes(own, sys.byteorder, signed=True) + data[cut:]
        self._set_numbers(data, self._count + 1)
        return True

    def remove(self, member: bytes) -> bool:
        """Whether it was there."""
        if UNDO.open:
            self._keep()
        data = self._data
        if isinstance(data, Table):
            if not data.remove(member):
                return False
            self._count -= 1
            self.size -= MEMBER_OVERHEAD + len(member)
            return True
        if isinstance(data, bytearray):
            begin: i64 = packed.find(data, member, 1)
            if begin < 0:
                return False
            _, end = packed.read(data, begin)
            del data[begin:end]
            self._count -= 1
            self.size = SET_OVERHEAD + BYTEARRAY_OVERHEAD + len(data)
            return True
        number = integer(member)
        if number is None or not data:
            return False
        numbers = self._numbers(data)
        at = bisect_left(numbers, number)
        if at == len(numbers) or numbers[at] != number:
            return False
        own = len(data) // self._count
        self._set_numbers(data[: at * own] + data[(at + 1) * own :], self._count - 1)
        return True

    def _keep(self) -> None:
        """Have it undone what is about to be done, but for what the table sees to."""
        if UNDO.first(self):
            data = self._data
            UNDO.step(self._restore, self.size, self._count, data[:] if isinstance(data, bytearray) else data)

    def _restore(self, size: int, count: int, data: bytes | bytearray | Names) -> None:
        self.size = size
        self._count = count
        self._data = data

    def elements(self) -> list[bytes]:
        return self.members()

    def members(self) -> list[bytes]:
        """All members: integers in ascending order."""
        data = self._data
        if isinstance(data, Table):
            return data.names()
        if isinstance(data, bytearray):
            return packed.items(data)
        return [digits(number) for number in self._numbers(data).tolist()] if data else []

    def random(self) -> bytes:
        """Any member, each as likely as another; there must be one."""
        data = self._data
        if isinstance(data, Table):
            return data.random()
        at = int(random.random() * self._count)
        if isinstance(data, bytearray):
            return packed.items(data)[at]
        return digits(self._numbers(data)[at])

    def sample(self, count: int) -> list[bytes]:
        """So many different members, of which there must be as many."""
        data = self._data
        if not isinstance(data, Table) or 3 * count > self._count:
            return random.sample(self.members(), count)
        found: dict[bytes, None] = {}
        while len(found) < count:
            found[data.random()] = None
        return list(found)

    def draws(self, count: int) -> list[bytes]:
        """So many members, any of which may come more than once; there must be one."""
        data = self._data
        if isinstance(data, Table):
            return [data.random() for _ in range(count)]
        return random.choices(self.members(), k=count)

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """As ``Table.scan``; what is not a table is met in one page."""
        data = self._data
        if isinstance(data, Table):
            return data.scan(cursor, count)
        members = self.members()
        return 0, members if cursor == 0 else [member for member in members if place(member) >= cursor]

    def growth(self, members: list[bytes]) -> int:
        """How many bytes of memory more adding these takes, at most."""
        data = self._data
        count = self._count + len(members)
        more = sum(map(len, members))
        if isinstance(data, Table):
            return more + len(members) * MEMBER_OVERHEAD
        if isinstance(data, bytearray):
            if count <= PACKED_ENTRIES and max(map(len, members)) <= PACKED_LENGTH:
                return more + len(members)
        elif count <= INTEGERS_MAX and all(integer(member) is not None for member in members):
            return 8 * count
        return more + TABLE_OVERHEAD + count * (MEMBER_OVERHEAD + INTEGER_DIGITS)

    def copy(self) -> Set:
        other = Set()
        data = self._data
        if isinstance(data, Table):
            other._data = data.copy()
        elif isinstance(data, bytearray):
            other._data = data[:]
        else:
            other._data = data
        other._count = self._count
        other.size = self.size
        return other

    def pack(self) -> bytes:
        """A byte that tells the shape, then either

        1. ``INTEGERS``: a byte, how many bytes a number has (2, 4 or 8), and the numbers in ascending order,
           signed and little-endian; or
        2. ``MEMBERS``: the members, as a msgpack array of binaries.
        """
        data = self._data
        if not isinstance(data, bytes):
            return bytes((MEMBERS,)) + msgspec.msgpack.encode(self.members())
        width = len(data) // self._count if data else 2
        numbers = self._numbers(data).tolist() if data else []
        return bytes((INTEGERS, width)) + struct.pack(f"<{len(numbers)}{TYPECODES[width]}", *numbers)

    def dismantle(self, count: int) -> bool:
        data = self._data
        return isinstance(data, Table) and data.dismantle(count)

    def _numbers(self, data: bytes) -> memoryview[int]:
        """The integers, of which there must be one."""
        return memoryview(data).cast(TYPECODES[len(data) // self._count])

    def _set_numbers(self, data: bytes, count: int) -> None:
        self._data = data
        self._count = count
        self.size = SET_OVERHEAD + BYTES_OVERHEAD + len(data)

    def _leave_integers(self, data: bytes) -> None:
        """From now on members of any kind can be added."""
        if self._count > PACKED_ENTRIES:
            self._become_table(self.members())
            return
        items = bytearray()
        for member in self.members():
            packed.append(items, member)
        self._data = items
        self.size = SET_OVERHEAD + BYTEARRAY_OVERHEAD + len(items)

    def _become_table(self, members: list[bytes]) -> None:
        table: Names = Table()
        size = SET_OVERHEAD + TABLE_OVERHEAD
        for member in members:
            table.put(member, None)
            size += MEMBER_OVERHEAD + len(member)
        self._data = table
        self.size = size


def set_of(members: list[bytes]) -> Set:
    """A set of these members, some of which may be the same."""
    made = Set()
    for member in members:
        made.add(member)
    return made


def ascending(members: list[bytes]) -> list[bytes]:
    """Different members in the order in which a set made of them would list them."""
    if len(members) > INTEGERS_MAX or any(integer(member) is None for member in members):
        return members
    return sorted(members, key=int)


def unpack(raw: bytes) -> Set:
    """The set of which ``pack`` made these bytes; raises ValueError for others."""
    made = Set()
    if raw[:1] == bytes((INTEGERS,)):
        width = raw[1]
        count = (len(raw) - 2) // width
        numbers = struct.unpack_from(f"<{count}{TYPECODES[width]}", raw, 2)
        made._set_numbers(array(TYPECODES[width], numbers).tobytes(), count)
    elif raw[:1] == bytes((MEMBERS,)):
        made._leave_integers(b"")  # even if all of them look like numbers
        for member in msgspec.msgpack.decode(memoryview(raw)[1:], type=list[bytes]):
            made.add(member)
    else:
        raise ValueError("a set of a shape that is not known to this version")
    return made
