"""A circuit breaker: after some failures in a row nobody tries any more, but for one probe at a time."""

from __future__ import annotations

import asyncio


class Breaker:
    """Opens after ``limit`` failures with no success between; ``turn`` is what a probe must hold then."""

    def __init__(self, limit: int) -> None:
        self.opened = 0  # times
        self.reason = ""  # of the last failure
        self.probing = False
        self.turn = asyncio.Lock()
        self._limit = limit
        self._failures = 0

    @property
    def open(self) -> bool:
        return self._failures >= self._limit

    @property
    def state(self) -> str:
        """``closed``, ``open``, or ``half-open``: a probe is under way."""
        if not self.open:
            return "closed"
        return "half-open" if self.probing else "open"

    def failed(self, reason: str) -> None:
        self.reason = reason
        self._failures += 1
        if self._failures == self._limit:
            self.opened += 1

    def probed(self) -> None:
        """A connection could be made.  That is no success yet: one more failure opens it again."""
        self._failures = min(self._failures, self._limit - 1)

    def worked(self) -> None:
        self._failures = 0
