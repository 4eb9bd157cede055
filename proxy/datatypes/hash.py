"""Hashes: a few short fields are packed, as in Redis' listpack; everything else is a ``Table``.

Some fields may expire (``FieldTimes``).  What has expired stays until somebody who changes the hash takes
it out; until then no method that is told the time shows it.
"""

from __future__ import annotations

import random
from typing import Final

from mypy_extensions import i64

from proxy.datatypes import packed
from proxy.datatypes.collection import Collection
from proxy.datatypes.fieldtimes import FieldTimes
from proxy.datatypes.packed import head
from proxy.datatypes.table import Table
from proxy.datatypes.undo import UNDO

PACKED_FIELDS: Final = 512  # hash-max-listpack-entries
PACKED_ITEM: Final = 64  # bytes of a field or value: hash-max-listpack-value

# Measured on 64-bit CPython, compiled: the object with an empty sequence, and a table without elements.
HASH_SIZE: Final = 144
TABLE_SIZE: Final = 256
# A field of a table: its slot, and what two objects have beside their bytes.
FIELD_SIZE: Final = 128

# Bits of the first byte of the stored form: they are never reused.
LARGE: Final = 1
EXPIRING: Final = 2
TIME_BYTES: Final = 6
TIME_MAX: Final = (1 << 46) - 1  # ms since the epoch, as in Redis

DRAWS: Final = 16  # of a field at random, before those are listed that have not expired


class Hash(Collection):
    """Values by field.

    The stored form is a byte of flags (``LARGE``: Redis would keep it as a hash table; ``EXPIRING``), then
    the items in the form of ``packed``: field, value, field, value …; where fields expire, each value is
    followed by an item more, empty or the time in six bytes, lowest first.
    """

    def __init__(self) -> None:
        self.size = HASH_SIZE
        self.due = 0
        self.filed = 0
        self._count: int = 0  # of the fields that are packed
        self._packed: bytes = b""  # field, value, field, value …
        self._table: Table[bytes] | None = None  # in its place
        self._times: FieldTimes | None = None

    def __len__(self) -> int:
        """Fields, with those that have expired."""
        table = self._table
        return self._count if table is None else table.count

    def encoding(self) -> bytes:
        return b"listpack" if self._table is None else b"hashtable"

    # Reading, as of a time

    def get(self, field: bytes, now: int) -> bytes | None:
        if self.due and self.due <= now and self._has_passed(field, now):
            return None
        table = self._table
        if table is not None:
            return table.get(field)
        data = self._packed
        at: i64 = packed.find(data, field, 2)
        if at < 0:
            return None
        _, at = packed.read(data, at)
        begin, end = packed.read(data, at)
        return data[begin:end]

    def _has_passed(self, field: bytes, now: int) -> bool:
        times = self._times
        return times is not None and 0 < times.get(field) <= now

    def count(self, now: int) -> int:
        """How many fields it has."""
        if self.due and self.due <= now and self._times is not None:
            return len(self) - self._times.count_passed(now)
        return len(self)

    def items(self, now: int) -> dict[bytes, bytes]:
        """All values by field."""
        table = self._table
        if table is not None:
            found = dict(table.items())
        else:
            items = packed.items(self._packed)
            found = dict(zip(items[::2], items[1::2], strict=True))
        if self.due and self.due <= now and self._times is not None:
            for field in self._times.passed(now, len(self)):
                del found[field]
        return found

    def fields(self, now: int) -> list[bytes]:
        if self.due and self.due <= now:
            return list(self.items(now))
        table = self._table
        return packed.items(self._packed)[::2] if table is None else table.names()

    def values(self, now: int) -> list[bytes]:
        if self.due and self.due <= now:
            return list(self.items(now).values())
        table = self._table
        return packed.items(self._packed)[1::2] if table is None else table.values()

    def scan(self, cursor: int, count: int, now: int) -> tuple[int, dict[bytes, bytes]]:
        """Where to go on, and about ``count`` fields or more with their values: as ``Table.scan``."""
        table = self._table
        if table is None:
            return 0, self.items(now)
        cursor, fields = table.scan(cursor, count)
        found: dict[bytes, bytes] = {}
        for field in fields:
            value = self.get(field, now)
            if value is not None:
                found[field] = value
        return cursor, found

    def random(self, now: int) -> bytes | None:
        """Any field, each as likely as another."""
        table = self._table
        if table is not None and table.count:
            for _ in range(DRAWS):
                field = table.random()
                if not self._has_passed(field, now):
                    return field
        fields = self.fields(now)
        return random.choice(fields) if fields else None

    def sample(self, count: int, now: int) -> list[bytes]:
        """``count`` different fields at random, or all if there are no more."""
        there = self.count(now)
        if count >= there:
            return self.fields(now)
        table = self._table
        if table is None or 3 * count > there:
            return random.sample(self.fields(now), count)
        found: dict[bytes, None] = {}
        for _ in range(DRAWS * count):
            field = table.random()
            if not self._has_passed(field, now):
                found[field] = None
                if len(found) == count:
                    return list(found)
        return random.sample(self.fields(now), count)  # most have expired

    def draw(self, count: int, now: int) -> list[bytes]:
        """``count`` fields at random, the same one again and again perhaps."""
        table = self._table
        if table is None or (self.due and self.due <= now):
            fields = self.fields(now)
            return random.choices(fields, k=count) if fields else []
        return [table.random() for _ in range(count)]

    def expires_at(self, field: bytes) -> int:
        """When a field expires; 0: never."""
        times = self._times
        return 0 if times is None else times.get(field)

    # Changing, once the fields in question are gone if they have expired

    def drop(self, field: bytes, now: int) -> bool:
        """Take out a field if it has expired; whether it has."""
        return self._has_passed(field, now) and self.remove(field)

    def set(self, field: bytes, value: bytes, keep: bool = False) -> bool:
        """Add a field or replace its value; whether it is new.

        It does not expire any more, but where it is to ``keep`` its time.
        """
        if UNDO.open:
            self._keep()
        if self._times is not None and not keep:
            self.persist(field)
        table = self._table
        if table is None:
            if len(field) <= PACKED_ITEM and len(value) <= PACKED_ITEM:
                return self._set_packed(field, value)
            table = self._convert()
        old = table.get(field)
        table.put(field, value)
        if old is None:
            self.size += FIELD_SIZE + len(field) + len(value)
            return True
        self.size += len(value) - len(old)
        return False

    def _set_packed(self, field: bytes, value: bytes) -> bool:
        data = self._packed
        at: i64 = packed.find(data, field, 2)
        if at >= 0:
            _, at = packed.read(data, at)
            begin, end = packed.read(data, at)
            if end - begin == len(value):
                self._packed = data[:begin] + value + data[end:]
            else:
                self._packed = data[:at] + (head(len(value)) + value) + data[end:]
                self.size += len(self._packed) - len(data)
            return False
        data += head(len(field)) + field + head(len(value)) + value
        self.size += len(data) - len(self._packed)
        self._packed = data
        self._count += 1
        if self._count > PACKED_FIELDS:
            self._convert()
        return True

    def _convert(self) -> Table[bytes]:
        """From packed to a table."""
        items = packed.items(self._packed)
        table: Table[bytes] = Table()
        self.size += TABLE_SIZE + self._count * FIELD_SIZE + sum(map(len, items)) - len(self._packed)
        for at in range(0, len(items), 2):
            table.put(items[at], items[at + 1])
        self._table = table
        self._packed = b""
        self._count = 0
        return table

    def remove(self, field: bytes) -> bool:
        if UNDO.open:
            self._keep()
        if self._times is not None:
            self.persist(field)
        table = self._table
        if table is not None:
            old = table.get(field)
            if old is None:
                return False
            table.remove(field)
            self.size -= FIELD_SIZE + len(field) + len(old)
            return True
        data = self._packed
        at: i64 = packed.find(data, field, 2)
        if at < 0:
            return False
        _, end = packed.read(data, at)
        _, end = packed.read(data, end)
        self._packed = data[:at] + data[end:]
        self.size -= end - at
        self._count -= 1
        return True

    def expire(self, field: bytes, moment: int) -> None:
        """Let a field that is there expire, at a time that is not 0."""
        if UNDO.open:
            self._keep()
        times = self._times
        if times is None:
            times = self._times = FieldTimes()
        before = times.size
        times.set(field, moment)
        self._count_times(times, before)

    def persist(self, field: bytes) -> bool:
        """Let a field not expire; whether it would have."""
        if UNDO.open:
            self._keep()
        times = self._times
        if times is None:
            return False
        before = times.size
        if not times.remove(field):
            return False
        self._count_times(times, before)
        return True

    def _count_times(self, times: FieldTimes, before: int) -> None:
        self.size += times.size - before
        if len(times):
            self.due = times.first()
        else:
            self.due = 0
            self._times = None

    def _keep(self) -> None:
        """Have it undone what is about to be done, but for what the table and the times see to."""
        if UNDO.first(self):
            UNDO.step(self._restore, self.size, self.due, self._count, self._packed, self._table, self._times)

    def _restore(
        self,
        size: int,
        due: int,
        count: int,
        data: bytes,
        table: Table[bytes] | None,
        times: FieldTimes | None,
    ) -> None:
        self.size = size
        self.due = due
        self._count = count
        self._packed = data
        self._table = table
        self._times = times

    def spent(self, now: int) -> bool:
        return 0 < self.due <= now and not self.count(now)

    def last_due(self) -> int:
        times = self._times
        return 0 if times is None or len(times) < len(self) else times.last()

    def purge(self, now: int, limit: int) -> list[bytes]:
        if not self.due or self.due > now or self._times is None:
            return []
        passed = self._times.passed(now, limit)
        for field in passed:
            self.remove(field)
        return passed

    # The whole

    def copy(self) -> Hash:
        other = Hash()
        other.size = self.size
        other.due = self.due
        other._count = self._count
        other._packed = self._packed
        other._table = None if self._table is None else self._table.copy()
        other._times = None if self._times is None else self._times.copy()
        return other

    def pack(self) -> bytes:
        table = self._table
        flags = (0 if table is None else LARGE) | (0 if self._times is None else EXPIRING)
        if flags == 0:
            return b"\0" + self._packed
        out = bytearray((flags,))
        times = self._times
        items = packed.items(self._packed)
        pairs = list(zip(items[::2], items[1::2], strict=True)) if table is None else list(table.items())
        for field, value in pairs:
            packed.append(out, field)
            packed.append(out, value)
            if times is not None:
                moment = times.get(field)
                packed.append(out, moment.to_bytes(TIME_BYTES, "little") if moment else b"")
        return bytes(out)

    def dismantle(self, count: int) -> bool:
        times = self._times
        if times is not None and times.dismantle(count):
            return True
        table = self._table
        return table is not None and table.dismantle(count)


def unpack(raw: bytes) -> Hash:
    """The hash of which ``raw`` is the stored form; raises ValueError for one of a later version."""
    flags = raw[0]
    if flags & ~(LARGE | EXPIRING):
        raise ValueError(f"a hash of the unknown form {flags}")
    found = Hash()
    if flags == 0:
        found._packed = raw[1:]
        found._count = len(packed.items(found._packed)) // 2
        found.size += len(found._packed)
        return found
    if flags & LARGE:
        found._convert()
    items = packed.items(raw[1:])
    step = 3 if flags & EXPIRING else 2
    for at in range(0, len(items), step):
        found.set(items[at], items[at + 1])
        if step == 3 and items[at + 2]:
            found.expire(items[at], int.from_bytes(items[at + 2], "little"))
    return found
