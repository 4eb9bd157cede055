"""When the fields of a hash expire.

Beside the times by field, large ones are kept in their order too: so what has expired is found, and counted,
without looking at what has not.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from sortedcontainers import SortedList

from proxy.datatypes.table import Table
from proxy.datatypes.undo import UNDO

FEW: Final = 64  # times among which all may be looked at
# Measured: a time's number, its slot, and beyond the few its place in the order.
TIME_SIZE: Final = 96
ORDERED_SIZE: Final = 256


class FieldTimes:
    """Milliseconds since the epoch by field; ``size`` is the bytes of memory that it holds."""

    def __init__(self) -> None:
        self._times: Table[int] = Table()
        # Of (time, field), once they are not few; sortedcontainers has no types.
        self._order: Any = None

    def __len__(self) -> int:
        return len(self._times)

    @property
    def size(self) -> int:
        return len(self._times) * (TIME_SIZE if self._order is None else ORDERED_SIZE)

    def get(self, field: bytes) -> int:
        """When it expires; 0: never."""
        return self._times.get(field) or 0

    def set(self, field: bytes, moment: int) -> None:
        times = self._times
        if self._order is not None:
            old = times.get(field)
            if old is not None:
                self._unorder(old, field)
            if UNDO.open:
                UNDO.step(self._order.remove, (moment, field))
            self._order.add((moment, field))
        times.put(field, moment)
        if self._order is None and len(times) > FEW:
            if UNDO.open:
                UNDO.step(self._disorder)
            self._order = SortedList([(moment, field) for field, moment in times.items()])

    def remove(self, field: bytes) -> bool:
        moment = self._times.get(field)
        if moment is None:
            return False
        self._times.remove(field)
        if self._order is not None:
            self._unorder(moment, field)
        return True

    def _unorder(self, moment: int, field: bytes) -> None:
        if UNDO.open:
            UNDO.step(self._order.add, (moment, field))
        self._order.remove((moment, field))

    def _disorder(self) -> None:
        self._order = None

    def first(self) -> int:
        """The earliest time; there must be one."""
        if self._order is not None:
            moment: int = self._order[0][0]
            return moment
        return min(self._times.values())

    def last(self) -> int:
        """The latest time; there must be one."""
        if self._order is not None:
            moment: int = self._order[-1][0]
            return moment
        return max(self._times.values())

    def passed(self, now: int, limit: int) -> list[bytes]:
        """Fields that have expired, up to ``limit`` of them."""
        if self._order is not None:
            expired = self._order.irange(maximum=(now + 1,), inclusive=(True, False))
            return [field for _, field in islice(expired, limit)]
        return [field for field, moment in self._times.items() if moment <= now][:limit]

    def count_passed(self, now: int) -> int:
        """How many fields have expired."""
        if self._order is not None:
            count: int = self._order.bisect_left((now + 1,))
            return count
        return len(self.passed(now, FEW))

    def copy(self) -> FieldTimes:
        other = FieldTimes()
        other._times = self._times.copy()
        if self._order is not None:
            other._order = self._order.copy()
        return other

    def dismantle(self, count: int) -> bool:
        """Let go of about ``count`` of them; whether there are more."""
        order = self._order
        for _ in range(min(count, len(order) if order is not None else 0)):
            order.pop()
        return self._times.dismantle(count) or bool(order)
