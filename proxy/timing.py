"""How long commands took: what INFO's ``commandstats`` and ``latencystats`` and LATENCY HISTOGRAM tell.

The clock is not read for each call of a quick command, which would take longer than the command does: of
those, one chunk of input a millisecond is timed and stands for the rest (see ``proxy.dispatch``).

Redis' histograms, whose bounds are shown: https://redis.io/commands/latency-histogram, HdrHistogram with two
significant digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mypy_extensions import i64

SHORT_BITS: Final = 8
SHORT_US: Final = 1 << SHORT_BITS  # up to which each microsecond has a bucket of its own
HALF: Final = SHORT_US // 2  # buckets of each power of two above


class Histogram:
    """How many calls took how long.

    Buckets are as in Redis' own histograms: exact up to 255 us, and two digits above.
    """

    def __init__(self) -> None:
        self.calls: int = 0
        self.sum_ns: int = 0
        self._counts: list[int] = []  # calls by bucket, up to the last that has had one

    def add(self, calls: int, ns: int) -> None:
        """Count calls that took so many nanoseconds each."""
        self.calls += calls
        self.sum_ns += ns * calls
        place: i64 = ns
        place //= 1000
        first: i64 = 0  # bucket of its power of two
        while place >= SHORT_US:
            place >>= 1
            first += HALF
        place += first
        counts = self._counts
        if place >= len(counts):
            counts.extend([0] * (place + 1 - len(counts)))
        counts[place] = counts[place] + calls  # which compiled is quicker than +=

    def buckets(self) -> list[tuple[int, int]]:
        """Microseconds, in order, and how many calls took so many."""
        return [(_lowest(place), calls) for place, calls in enumerate(self._counts) if calls]

    def clear(self) -> None:
        self.calls = self.sum_ns = 0
        self._counts = []


def _lowest(place: int) -> int:
    """The first microsecond of a bucket."""
    shift = max(place // HALF - 1, 0)
    return (place - shift * HALF) << shift


class Timing:
    """How long the calls of one command took: those that were timed each by itself, and of all others a
    sample, so that a reading of the clock is not what a quick command costs.
    """

    def __init__(self, name: str, fast: bool, swift: bool, logged: bool) -> None:
        self.name: str = name
        self.fast: bool = fast  # by Redis' flag
        self.swift: bool = swift  # a sample will do
        self.logged: bool = logged  # may stand in the slow log
        self.exact: Histogram = Histogram()
        self.sample: Histogram = Histogram()
        self.mark: int = -1  # how many calls there were before the sampled chunk that is at work

    def clear(self) -> None:
        self.exact.clear()
        self.sample.clear()

    def sum_us(self, calls: int) -> int:
        """What ``calls`` took: the exact ones as they were, the others at the mean of the sample."""
        return (self.exact.sum_ns + int(self._weight(calls) * self._typical().sum_ns)) // 1000

    def buckets(self, calls: int) -> dict[int, float]:
        """Microseconds, in order, and how many of ``calls`` took so many."""
        weight = self._weight(calls)
        found: dict[int, float] = dict(self.exact.buckets())
        for us, n in self._typical().buckets():
            found[us] = found.get(us, 0) + n * weight
        return dict(sorted(found.items()))

    def _typical(self) -> Histogram:
        return self.sample if self.sample.calls else self.exact

    def _weight(self, calls: int) -> float:
        """For how many calls one of the sample stands."""
        return max(calls - self.exact.calls, 0) / max(self._typical().calls, 1)


def percentile(buckets: Mapping[int, float], percent: float) -> float:
    """The microseconds within which so many percent of calls were done, as Redis would show them."""
    wanted = max(sum(buckets.values()) * percent / 100, 0.5)
    found = 0.0
    for us, calls in buckets.items():
        found += calls
        if found >= wanted - 1e-6:  # weights are fractions
            return _highest(us * 1000) / 1000
    return 0.0


def doubling(buckets: Mapping[int, float]) -> dict[int, int]:
    """How many calls took at most so many microseconds: by bounds that double, where the number changes."""
    shown: dict[int, int] = {}
    bound = 1024
    last = 0
    total = 0.0
    rest = list(buckets.items())
    while rest:
        highest = _highest(bound)
        while rest and rest[0][0] * 1000 <= highest:
            total += rest.pop(0)[1]
        if round(total) > last:
            last = round(total)
            shown[highest // 1000] = last
        bound *= 2
    return shown


def _highest(ns: int) -> int:
    """The last nanosecond of the bucket that Redis' histograms, of 256 steps to a power of two, put it in."""
    shift = max(ns.bit_length() - SHORT_BITS, 0)
    return max((((ns >> shift) + 1) << shift) - 1, 1)
