"""Histograms and samples of how long commands took."""

from __future__ import annotations

import pytest

from proxy.timing import Histogram, Timing, doubling, percentile


def test_times_are_exact_up_to_255_us_and_to_two_digits_above() -> None:
    histogram = Histogram()
    for ns in (0, 999, 1000, 255_999, 256_000, 257_999, 1_234_567_000):
        histogram.add(1, ns)
    assert histogram.buckets() == [(0, 2), (1, 1), (255, 1), (256, 2), (150 << 13, 1)]


def test_a_long_time_is_rounded_down_by_less_than_a_hundredth() -> None:
    for us in (256, 1000, 12_345, 999_999, 7_777_777):
        histogram = Histogram()
        histogram.add(1, us * 1000)
        ((bucket, _),) = histogram.buckets()
        assert us * 0.99 < bucket <= us


def test_no_more_buckets_than_there_are_two_digit_numbers() -> None:
    histogram = Histogram()
    for us in range(0, 2_000_000, 7):
        histogram.add(1, us * 1000)
    assert len(histogram.buckets()) < 256 + 128 * 14


class TestTiming:
    def timing(self) -> Timing:
        return Timing("get", True, True, True)

    def test_calls_that_were_timed_are_told_as_they_were(self) -> None:
        timing = self.timing()
        timing.exact.add(2, 5_000)
        timing.exact.add(1, 50_000)
        assert timing.sum_us(3) == 60
        assert timing.buckets(3) == {5: 2, 50: 1}

    def test_a_sample_stands_for_the_calls_that_were_not_timed(self) -> None:
        timing = self.timing()
        timing.exact.add(1, 1_000_000)
        timing.sample.add(10, 2_000)
        assert timing.sum_us(101) == 1000 + 100 * 2
        assert timing.buckets(101) == {2: pytest.approx(100), 1000: 1}

    def test_without_a_sample_the_timed_calls_stand_for_the_others(self) -> None:
        timing = self.timing()
        timing.exact.add(2, 3_000)
        assert timing.sum_us(10) == 30
        assert timing.buckets(10) == {3: pytest.approx(10)}

    def test_nothing_was_called(self) -> None:
        assert (self.timing().sum_us(0), self.timing().buckets(0)) == (0, {})


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 1.003), (99, 9.023), (99.9, 1003.519), (100, 1003.519), (0, 0.001)]
)
def test_percentiles_are_the_upper_ends_of_redis_buckets(percent: float, expected: float) -> None:
    assert percentile({0: 1, 1: 600, 9: 397, 1000: 2}, percent) == expected


def test_bounds_double_and_stand_only_where_the_number_changes() -> None:
    assert doubling({0: 1, 1: 1, 2: 3, 20: 1, 33: 1, 400: 5}) == {1: 2, 2: 5, 33: 7, 528: 12}
    assert doubling({}) == {}
