"""What is seen of a route's values as they are sealed: how small they get, and some to train from."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Final

from backends.seal import payload_size

# Bytes of a value that are kept; a dictionary is of no use to what comes later in one.
SAMPLE_MAX: Final = 16 * 1024
# Once there are enough, one value of so many is kept, in the place of the oldest.
_STRIDE: Final = 16


class Samples:
    """The last values of a route, at most ``count_max`` of them and ``bytes_max`` bytes.

    Values shorter than ``least`` bytes are counted and not kept.  Each time that ``count_max`` values have
    been sealed, ``told`` is called with what they took: their raw bytes, and those of their payloads.
    """

    def __init__(self, count_max: int, bytes_max: int, least: int, told: Callable[[int, int], None]) -> None:
        self.values: deque[bytes] = deque()
        self.bytes: int = 0
        self.count_max: int = count_max
        self.bytes_max: int = bytes_max
        self.records: int = 0  # sealed since ``restart``
        self.raw_bytes: int = 0
        self.payload_bytes: int = 0
        self._least: int = least
        self._told: Callable[[int, int], None] = told
        self._full: bool = False
        self._pass: int = 0  # values until the next one is kept
        self._records: int = 0  # of these, when ``told`` was called last
        self._raw_bytes: int = 0
        self._payload_bytes: int = 0

    def saw(self, raw: bytes, sealed: bytes) -> None:
        """A value was sealed."""
        self.records += 1
        self.raw_bytes += len(raw)
        self.payload_bytes += payload_size(sealed)
        self._pass -= 1
        if self._pass < 0 and len(raw) >= self._least:
            self._keep(raw)
        if self.records - self._records >= self.count_max:
            raw_bytes, payload_bytes = (
                self.raw_bytes - self._raw_bytes,
                self.payload_bytes - self._payload_bytes,
            )
            self._mark()
            self._told(raw_bytes, payload_bytes)

    def restart(self) -> None:
        """Count anew; the values stay."""
        self.records = 0
        self.raw_bytes = 0
        self.payload_bytes = 0
        self._mark()

    def _mark(self) -> None:
        self._records = self.records
        self._raw_bytes = self.raw_bytes
        self._payload_bytes = self.payload_bytes

    def _keep(self, raw: bytes) -> None:
        value = raw[:SAMPLE_MAX]
        self.values.append(value)
        self.bytes += len(value)
        while len(self.values) > self.count_max or self.bytes > self.bytes_max:
            self._full = True
            self.bytes -= len(self.values.popleft())
        if self._full:  # by chance, so that no rhythm of the writers' chooses them
            self._pass = random.randrange(2 * _STRIDE)
