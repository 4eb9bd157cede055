"""Numbers in decimal."""

from __future__ import annotations

import sys

import pytest

from proxy.datatypes.digits import digits

NUMBERS = [0, -1, 10, (1 << 62) - 1, -(1 << 62), 1 << 62, -(1 << 62) - 1, (1 << 64) - 1, 10**40]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_of_any_size(number: int) -> None:
    assert digits(number) == str(number).encode()


def test_a_large_number_is_let_go_of() -> None:
    number = (1 << 62) + len(NUMBERS)
    before = sys.getrefcount(number)
    for _ in range(100):
        digits(number)
    assert sys.getrefcount(number) == before
