"""Counters of what was served and how fast: plain integers, turned into metrics only when scraped."""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

# Upper bounds of the latency histograms' buckets, in microseconds; above the last there is one more.
LATENCY_BUCKETS: Final = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
]  # fmt: skip
# The place of a bucket by microseconds, up to the bound that most replies are within.
_PLACES: Final = bytes(
    next(place for place, bound in enumerate(LATENCY_BUCKETS) if us <= bound) for us in range(2_501)
)


class Tally:
    """How many commands, how many error replies, and a histogram of latencies."""

    def __init__(self) -> None:
        self.calls: int = 0
        self.errors: int = 0
        self.buckets: list[int] = [0] * (len(LATENCY_BUCKETS) + 1)
        self.sum_us: int = 0

    def add(self, calls: int, us: int) -> None:
        """Count ``calls`` commands that took ``us`` microseconds each, from their arrival to the reply."""
        self.calls += calls
        self.sum_us += us * calls
        short: i64 = us
        if short < len(_PLACES):
            at: i64 = _PLACES[short]
        else:
            at = _PLACES[-1]
            for bound in LATENCY_BUCKETS[at:]:
                if us <= bound:
                    break
                at += 1
        buckets = self.buckets
        buckets[at] = buckets[at] + calls  # which compiled is quicker than +=


class Load:
    """What is under way to a backend: bytes of requests that it has not answered."""

    def __init__(self) -> None:
        self.bytes: int = 0


class Overload:
    """Of a backend that takes no more than it may have in flight: what came beyond that is refused."""

    def __init__(self) -> None:
        self.refused: int = 0  # commands
