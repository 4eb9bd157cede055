"""What is seen of a route's values as they are sealed: how small they get, and some to train from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from backends.seal import payload_size

# Bytes of a value that are kept; a dictionary is of no use to what comes later in one.
SAMPLE_MAX: Final = 16 * 1024


class Samples:
    """Counts a route's values, and gathers the next ones while that is asked for.

    Of at most ``count_max`` values and ``bytes_max`` bytes; values shorter than ``least`` bytes are only
    counted.  Each time that ``count_max`` values have been sealed, ``told`` is called with what they took:
    their raw bytes, and those of their payloads.
    """

    def __init__(self, count_max: int, bytes_max: int, least: int, told: Callable[[int, int], None]) -> None:
        self.values: list[bytes] = []
        self.count_max: int = count_max
        self.records: int = 0  # sealed since ``restart``
        self.raw_bytes: int = 0
        self.payload_bytes: int = 0
        self._bytes_max: int = bytes_max
        self._room: int = 0  # bytes that may still be gathered
        self._least: int = least
        self._told: Callable[[int, int], None] = told
        self._records: int = 0  # of these, when ``told`` was called last
        self._raw_bytes: int = 0
        self._payload_bytes: int = 0

    def saw(self, raw: bytes, sealed: bytes) -> None:
        """A value was sealed."""
        self.records += 1
        self.raw_bytes += len(raw)
        self.payload_bytes += payload_size(sealed)
        if self._room > 0 and len(raw) >= self._least:
            self._keep(raw)
        if self.records - self._records >= self.count_max:
            raw_bytes = self.raw_bytes - self._raw_bytes
            payload_bytes = self.payload_bytes - self._payload_bytes
            self._mark()
            self._told(raw_bytes, payload_bytes)

    def gather(self) -> None:
        """Keep the values from now on."""
        self.values = []
        self._room = self._bytes_max

    def take(self) -> list[bytes]:
        """What was gathered; it is not held any longer, and no more is."""
        values, self.values = self.values, []
        self._room = 0
        return values

    def restart(self) -> None:
        """Count anew."""
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
        self._room -= len(value)
        if self._room >= 0:
            self.values.append(value)
            if len(self.values) >= self.count_max:
                self._room = 0
