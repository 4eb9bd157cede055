"""Numbers in decimal."""

from __future__ import annotations

from typing import Any, Final

SHORT: Final = 1 << 62  # from here on compiled code holds a number as an object


def digits(number: int) -> bytes:
    """A number of any size in decimal.

    Compiled, formatting what is known to be an ``int`` never lets go of an object that holds a large one, in
    mypyc 2.4 and before: such a number is formatted as an object of any kind.
    """
    if -SHORT <= number < SHORT:
        return b"%d" % number
    large: Any = number
    return str(large).encode()
