"""The order of last use over a million entries: each of these is to cost the same however many there are.

pytest bench/test_lru.py
"""

from __future__ import annotations

from random import Random

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from proxy.lru import Database, Entry, Lru

ENTRIES = 1_000_000
AT_ONCE = 10_000
SIZE = 300  # bytes; what an entry is accounted for here does not matter


class Filled:
    """A database of ``ENTRIES`` entries."""

    def __init__(self) -> None:
        self.lru = Lru()
        self.database = Database(0)
        self.created = 0
        self.add(ENTRIES)

    def add(self, count: int) -> None:
        for number in range(self.created, self.created + count):
            self.lru.add(self.database, Entry(b"key:%012d" % number, 1, b"", 0), SIZE, True)
        self.created += count

    def evict(self, count: int) -> None:
        for _ in range(count):
            oldest = self.lru.oldest()
            assert oldest is not None
            self.lru.discard(oldest)


@pytest.fixture(scope="module")
def filled() -> Filled:
    return Filled()


def test_touch(benchmark: BenchmarkFixture, filled: Filled) -> None:
    """Found by their keys, in no order."""
    names = [b"key:%012d" % number for number in Random(1).sample(range(ENTRIES), AT_ONCE)]
    database, lru = filled.database, filled.lru

    def touch_all() -> None:
        for name in names:
            entry = database.get(name)
            assert entry is not None
            lru.touch(entry)

    benchmark(touch_all)
    assert lru.count == ENTRIES


def test_add_and_evict(benchmark: BenchmarkFixture, filled: Filled) -> None:
    """As in a full LRU: each new entry takes the place of the oldest."""

    def turn_over() -> None:
        filled.add(AT_ONCE)
        filled.evict(AT_ONCE)

    benchmark(turn_over)
    assert filled.lru.count == ENTRIES
    assert filled.lru.used == ENTRIES * SIZE
