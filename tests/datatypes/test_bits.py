"""Arrays of bits, against the same thing done on a string of zeros and ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.datatypes import bits

# Long enough for what is done chunk by chunk, with long runs of equal bits.
VALUES = st.lists(
    st.tuples(st.binary(min_size=1, max_size=3), st.sampled_from([1, 2, 600, 70_000])), min_size=1, max_size=4
).map(lambda runs: b"".join(unit * times for unit, times in runs))


def digits(value: bytes) -> str:
    return f"{int.from_bytes(value, 'big'):0{8 * len(value)}b}" if value else ""


@st.composite
def ranges(draw: st.DrawFn) -> tuple[bytes, int, int]:
    value = draw(VALUES)
    at = st.one_of(
        st.integers(0, 8 * len(value) - 1), st.integers(0, 20), st.integers(1, 20).map(int.__neg__)
    )
    start, end = sorted(draw(at) % (8 * len(value)) for _ in range(2))
    return value, start, end


@given(ranges())
def test_bits_are_counted_between_two_bits(case: tuple[bytes, int, int]) -> None:
    value, start, end = case
    assert bits.count(value, start, end) == digits(value)[start : end + 1].count("1")


@given(ranges(), st.sampled_from([0, 1]))
def test_the_first_bit_of_a_range_is_found(case: tuple[bytes, int, int], bit: int) -> None:
    value, start, end = case
    assert bits.find(value, bit, start, end) == digits(value).find(str(bit), start, end + 1)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4))
def test_values_of_any_lengths_are_combined_as_if_they_ended_in_zeros(values: list[bytes]) -> None:
    size = max(map(len, values))
    columns = list(zip(*[value.ljust(size, b"\0") for value in values], strict=True))
    assert bits.combine(b"AND", values) == bytes(_all(column) for column in columns)
    assert bits.combine(b"OR", values) == bytes(_any(column) for column in columns)
    assert bits.combine(b"XOR", values) == bytes(_odd(column) for column in columns)


def _all(column: tuple[int, ...]) -> int:
    return sum(1 << bit for bit in range(8) if all(byte >> bit & 1 for byte in column))


def _any(column: tuple[int, ...]) -> int:
    return sum(1 << bit for bit in range(8) if any(byte >> bit & 1 for byte in column))


def _odd(column: tuple[int, ...]) -> int:
    return sum(1 << bit for bit in range(8) if sum(byte >> bit & 1 for byte in column) % 2)


@given(st.binary(min_size=10, max_size=20), st.booleans(), st.integers(1, 64), st.integers(0, 16), st.data())
def test_a_field_reads_as_it_was_written_and_nothing_beside_it_changes(
    value: bytes, signed: bool, width: int, at: int, data: st.DataObject
) -> None:
    low = -(1 << (width - 1)) if signed else 0
    number = data.draw(st.integers(low, low + (1 << width) - 1))
    buffer = bytearray(value)
    bits.write_field(buffer, width, at, number)
    assert bits.read_field(buffer, signed, width, at) == number
    before, after = digits(value), digits(bytes(buffer))
    assert after[:at] + after[at + width :] == before[:at] + before[at + width :]


def test_a_field_beyond_the_end_reads_as_zeros() -> None:
    assert bits.read_field(b"\xff", False, 16, 4) == 0xF000
    assert bits.read_field(b"\xff", True, 8, 1000) == 0


@pytest.mark.parametrize(
    ("number", "signed", "width", "overflow", "fitted"),
    [
        (127, True, 8, b"WRAP", 127),
        (128, True, 8, b"WRAP", -128),
        (-129, True, 8, b"WRAP", 127),
        (128, True, 8, b"SAT", 127),
        (-129, True, 8, b"SAT", -128),
        (-129, True, 8, b"FAIL", None),
        (256, False, 8, b"WRAP", 0),
        (-1, False, 8, b"WRAP", 255),
        (-1, False, 8, b"SAT", 0),
        (1000, False, 8, b"SAT", 255),
        (255, False, 8, b"FAIL", 255),
    ],
)
def test_a_number_that_does_not_fit_is_dealt_with_as_was_asked(
    number: int, signed: bool, width: int, overflow: bytes, fitted: int | None
) -> None:
    assert bits.fit(number, signed, width, overflow) == fitted
