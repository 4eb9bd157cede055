"""How fast records are read, in stored bytes a second."""

from __future__ import annotations

import asyncio
from typing import Final

from backends.base import Record
from proxy.keyspace import UNCHUNKED

LEAST: Final = 4096
"""What a record counts as, at least: so that one bound holds for small records, which cost a store requests
and pages, and for large ones."""


def cost(record: Record) -> int:
    return max(LEAST, record.raw_size if record.kind in UNCHUNKED else record.stored_size)


class Pace:
    """At most ``rate`` bytes a second, on the average; 0: as fast as it goes."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._due = 0.0  # when the next may be read, by the loop's time

    def batch(self, most: int) -> int:
        """How many records to read at once, so that a slow pace is no row of bursts."""
        return max(1, min(most, self._rate // LEAST)) if self._rate else most

    def spend(self, size: int) -> float:
        """A step has read so many bytes, and counts as a record at least; how many seconds to wait now."""
        if not self._rate:
            return 0.0
        now = asyncio.get_running_loop().time()
        self._due = max(self._due, now) + max(LEAST, size) / self._rate
        return self._due - now
