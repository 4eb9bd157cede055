"""The x87 80-bit ``long double``, in which Redis counts ``INCRBYFLOAT``: a mantissa of 64 bits.

Python has no such type, and a double gives other digits; so here it is in exact integers.  A number is
``(mantissa, exponent)``, worth ``mantissa * 2**exponent``; ``None`` stands for an infinity.

Sources: C11 7.22.1.3 (what strtold takes), IEEE 754 (rounding to nearest, ties to even), and
redis.io/commands/incrbyfloat (17 digits after the point, without trailing zeros).
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final, TypeAlias

Number: TypeAlias = tuple[int, int]

MANTISSA_BITS: Final = 64
EXPONENT_MAX: Final = 16384  # every finite number is below 2**EXPONENT_MAX
EXPONENT_MIN: Final = -16445  # of the least number above 0
TEXT_MAX: Final = 5 * 1024  # bytes; Redis takes no number that is as long
DECIMALS: Final = 17
BITS: Final = 3.3219280948873626  # of a decimal digit

_ZERO: Final[Number] = (0, 0)
# The point is what parts two runs of digits: were it optional by itself, one run could be parted anywhere.
_DECIMAL: Final = re.compile(rb"([+-]?)(?:(\d+)(?:\.(\d*))?|\.(\d+))(?:[eE]([+-]?\d+))?")
_HEX: Final = re.compile(
    rb"([+-]?)0[xX](?:([0-9a-fA-F]+)(?:\.([0-9a-fA-F]*))?|\.([0-9a-fA-F]+))(?:[pP]([+-]?\d+))?"
)
_INFINITY: Final = re.compile(rb"[+-]?inf(?:inity)?", re.IGNORECASE)


def parse(text: bytes) -> Number | None:
    """The number nearest to ``text``.

    Raises ValueError for what is no number, for NaN, and for what is over the type's range or so small
    that it becomes 0.
    """
    if len(text) < TEXT_MAX:
        if match := _DECIMAL.fullmatch(text):
            return _scaled(match, 10, 10)
        if match := _HEX.fullmatch(text):
            return _scaled(match, 16, 2)
        if _INFINITY.fullmatch(text):
            return None
    raise ValueError("not a number")


def _scaled(match: re.Match[bytes], base: int, power_base: int) -> Number:
    sign, whole, fraction, only_fraction, power_text = match.groups(b"")
    fraction += only_fraction
    digits = whole + fraction
    # Decimal, since int() refuses more than 4,300 decimal digits.
    mantissa = int(digits, 16) if base == 16 else int(Decimal(digits.decode()))
    if not mantissa:
        return _ZERO
    power = int(Decimal(power_text.decode() or "0"))
    power -= len(fraction) * (4 if base == 16 else 1)
    # Far outside the range; without this, a short text would ask for an enormous power.
    bits = len(digits.lstrip(b"0")) * 4 + power if base == 16 else (len(digits.lstrip(b"0")) + power) * BITS
    if not EXPONENT_MIN - 8 < bits < EXPONENT_MAX + 8:
        raise ValueError("out of range")
    if power >= 0:
        number = _nearest(mantissa * power_base**power, 1)
    else:
        number = _nearest(mantissa, power_base**-power)
    if number is None or not number[0]:
        raise ValueError("out of range")
    return (-number[0], number[1]) if sign == b"-" else number


def _nearest(numerator: int, denominator: int) -> Number | None:
    """The number nearest to a positive fraction; ``None`` above the range, 0 below it."""
    exponent = max(numerator.bit_length() - denominator.bit_length() - MANTISSA_BITS, EXPONENT_MIN)
    if exponent < 0:
        numerator <<= -exponent
    else:
        denominator <<= exponent
    if numerator >= denominator << MANTISSA_BITS:  # the bit lengths tell the quotient's but for one
        denominator <<= 1
        exponent += 1
    mantissa = _rounded(numerator, denominator)
    if mantissa.bit_length() + exponent > EXPONENT_MAX:
        return None
    return mantissa, exponent


def _rounded(numerator: int, denominator: int) -> int:
    quotient, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and quotient & 1):
        quotient += 1
    return quotient


def add(left: Number | None, right: Number | None) -> Number:
    """The rounded sum; raises OverflowError where it is not finite."""
    if left is None or right is None:
        raise OverflowError
    exponent = min(left[1], right[1])
    total = (left[0] << left[1] - exponent) + (right[0] << right[1] - exponent)
    if not total:
        return _ZERO
    size = abs(total)
    number = _nearest(size << exponent, 1) if exponent >= 0 else _nearest(size, 1 << -exponent)
    if number is None:
        raise OverflowError
    return (-number[0], number[1]) if total < 0 else number


def to_text(number: Number) -> bytes:
    """As ``%.17Lf`` writes it, without trailing zeros, and never ``-0``."""
    mantissa, exponent = number
    size = abs(mantissa) * 10**DECIMALS
    units = size << exponent if exponent >= 0 else _rounded(size, 1 << -exponent)
    digits = str(Decimal(units)).rjust(DECIMALS + 1, "0")
    text = f"{digits[:-DECIMALS]}.{digits[-DECIMALS:]}".rstrip("0").rstrip(".")
    return f"-{text}".encode() if mantissa < 0 and units else text.encode()
