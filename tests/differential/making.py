"""What tests make up by chance: values, and what is built of them.

Much as Hypothesis' strategies, whose names these have.  Hypothesis takes ten times as long to make up a
sequence of commands as both servers take to answer it; here it is the other way round.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from math import isfinite, isnan
from random import Random
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")

# Where arithmetic and printing have their edges; besides, any bits.
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 0.1, 1e-5, 1e15, 1e16, 1e17, 1e21, 5e-324, 2.2250738585072014e-308]
FLOATS += [
    1.7976931348623157e308,
    3.0000000000000004,
    float(2**53),
    float(2**63),
    float("inf"),
    float("-inf"),
]


class Made(Generic[T]):
    """Makes values up, each from the next numbers of a generator."""

    def __init__(self, draw: Callable[[Random], T]) -> None:
        self.draw = draw

    def __or__(self, other: Made[U]) -> Made[T | U]:
        return one_of(self, other)

    def map(self, turn: Callable[[T], U]) -> Made[U]:
        draw = self.draw
        return Made(lambda random: turn(draw(random)))

    def flatmap(self, follow: Callable[[T], Made[U]]) -> Made[U]:
        return Made(lambda random: follow(self.draw(random)).draw(random))

    def filter(self, fits: Callable[[T], object]) -> Made[T]:
        def draw(random: Random) -> T:
            while not fits(value := self.draw(random)):
                pass
            return value

        return Made(draw)


def just(value: T) -> Made[T]:
    return Made(lambda random: value)


def sampled_from(values: Sequence[T]) -> Made[T]:
    size = len(values)
    return Made(lambda random: values[int(random.random() * size)])


def booleans() -> Made[bool]:
    return sampled_from([False, True])


def one_of(*choices: Any) -> Made[Any]:
    """Of the choices, or of those in the one sequence that is given."""
    several: Sequence[Made[Any]] = choices if isinstance(choices[0], Made) else choices[0]
    draws = [each.draw for each in several]
    size = len(draws)
    return Made(lambda random: draws[int(random.random() * size)](random))


def integers(least: int, most: int) -> Made[int]:
    return Made(lambda random: least + int(random.random() * (most - least + 1)))


def floats(
    least: float = float("-inf"),
    most: float = float("inf"),
    *,
    allow_nan: bool = False,
    allow_infinity: bool = True,
) -> Made[float]:
    """None that is not a number: ``allow_nan`` is here to say so."""
    assert not allow_nan
    bounded = isfinite(least) and isfinite(most)
    edges = [each for each in FLOATS if least <= each <= most and (allow_infinity or isfinite(each))]
    edges += [each for each in (least, most) if isfinite(each)]

    def anything(random: Random) -> float:
        while True:
            (value,) = struct.unpack("<d", random.randbytes(8))
            if not isnan(value) and isfinite(value):
                return float(value)

    def within(random: Random) -> float:
        return random.uniform(least, most)

    def short(random: Random) -> float:
        value = round(random.uniform(max(least, -1000), min(most, 1000)), int(random.random() * 4))
        return min(max(value, least), most)

    return one_of(sampled_from(edges), Made(within if bounded else anything), Made(short))


def decimals(least: int, most: int, places: int) -> Made[Decimal]:
    one = 10**places
    return integers(least * one, most * one).map(lambda number: Decimal(number) / one)


def text(alphabet: str, max_size: int) -> Made[str]:
    return lists(sampled_from(alphabet), max_size=max_size).map("".join)


def binary(min_size: int = 0, max_size: int = 100) -> Made[bytes]:
    return Made(lambda random: random.randbytes(random.randint(min_size, max_size)))


def lists(each: Made[T], min_size: int = 0, max_size: int = 10) -> Made[list[T]]:
    draw = each.draw
    sizes = max_size - min_size + 1
    return Made(lambda random: [draw(random) for _ in range(min_size + int(random.random() * sizes))])


def tuples(*parts: Made[Any]) -> Made[tuple[Any, ...]]:
    draws = [each.draw for each in parts]
    return Made(lambda random: tuple([draw(random) for draw in draws]))


def builds(make: Callable[..., T], *parts: Made[Any]) -> Made[T]:
    draws = [each.draw for each in parts]
    return Made(lambda random: make(*[draw(random) for draw in draws]))
