"""The one source of time.

``Clock.ms`` and ``Clock.ns`` are plain attributes, so that reading them on the hot path costs nothing; the
pump calls ``tick`` once for each chunk of input, whoever handles results for each batch of them.  Tests pass
a ``ManualClock``.
"""

from __future__ import annotations

import time
from typing import Final

_perf_ns: Final = time.perf_counter_ns  # by a name of its own: one look-up less
RESET_NS: Final = 50_000_000  # how often the wall clock is looked at


class Clock:
    """The time as of the last ``tick``.

    ``ms`` is wall time, in milliseconds since the epoch; ``ns`` the performance counter, in nanoseconds.
    The wall clock runs by the counter and is set anew every ``RESET_NS``: one reading for both.
    """

    def __init__(self) -> None:
        self.ns: int = _perf_ns()
        self.ms: int = 0
        self._set_at: int = 0  # when the wall clock was looked at; of the counter, as all that follows
        self._ahead: int = 0  # what the wall clock is ahead
        self._over_at: int = 0  # when the millisecond is over
        self._advance(self.ns)

    def tick(self) -> int:
        """Look at the time; the milliseconds."""
        self.ns = ns = _perf_ns()
        if ns >= self._over_at:
            self._advance(ns)
        return self.ms

    def _advance(self, ns: int) -> None:
        if not self._set_at or ns - self._set_at >= RESET_NS:
            self._set_at = ns
            self._ahead = time.time_ns() - ns
        # The same number object for the same time: in plain Python every entry used holds on to one.
        self.ms = ms = (ns + self._ahead) // 1_000_000
        self._over_at = (ms + 1) * 1_000_000 - self._ahead


class ManualClock(Clock):
    """Stands still until it is told to move."""

    def __init__(self, ms: int = 1_700_000_000_000) -> None:
        super().__init__()
        self.ms = ms

    def tick(self) -> int:
        self.ns = _perf_ns()
        return self.ms

    def advance(self, ms: int) -> None:
        self.ms += ms
