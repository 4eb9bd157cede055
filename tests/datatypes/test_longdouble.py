"""Long doubles against the machine's own, by way of redis-server."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis import Redis, ResponseError

from proxy.datatypes.longdouble import add, parse, to_text

pytestmark = pytest.mark.once  # it is not compiled

DECIMAL = st.from_regex(
    rb"[+-]?([0-9]{1,25}\.?[0-9]{0,25}|\.[0-9]{1,25})([eE][+-]?[0-9]{1,4})?", fullmatch=True
)
HEX = st.from_regex(rb"-?0x([0-9a-f]{1,20}\.?[0-9a-f]{0,8})(p[+-]?[0-9]{1,5})?", fullmatch=True)
ODD = st.text("0123456789.+-eExpinfaty_ \t", max_size=8).map(str.encode)
TEXTS = st.one_of(DECIMAL, HEX, ODD, st.integers(-(2**70), 2**70).map(b"%d".__mod__))


def outcome(left: bytes, right: bytes) -> bytes:
    """As INCRBYFLOAT answers."""
    try:
        return to_text(add(parse(left), parse(right)))
    except ValueError:
        return b"ERR value is not a valid float"
    except OverflowError:
        return b"ERR increment would produce NaN or Infinity"


@settings(max_examples=600)
@given(TEXTS, TEXTS)
@example(b"9223372036854775807", b"0.5")  # a tie: 64 bits are full
@example(b"18446744073709551615", b"0.5")
@example(b"18446744073709551614", b"1.5")
@example(b"0x1p16383", b"0x1p16383")
@example(b"0x1.fffffffffffffffep16383", b"0x0.8p16320")
@example(b"0x1.ffffffffffffffffp16383", b"0")
@example(b"0x1p-16445", b"0x1p-16445")
@example(b"0x1p-16446", b"1")
@example(b"0x1.8p-16446", b"1")
@example(b"3.3621031431120935063e-4932", b"0")
@example(b"0.1" + b"0" * 5200, b"1")
@example(b"1" * 4500, b"-1")
@example(b"0." + b"3" * 5100, b"0")
@example(b"1e" + b"0" * 5000 + b"1", b"0")
@example(b"-0.000000000000000005", b"0")
@example(b"0.000000000000000005", b"0")
@example(b"-1", b"1")
def test_a_sum_has_the_digits_of_the_machine(redis_client: Redis, left: bytes, right: bytes) -> None:
    redis_client.set("f", left)
    try:
        redis_client.execute_command("INCRBYFLOAT", "f", right)
        expected = redis_client.get("f")
    except ResponseError as error:
        expected = f"ERR {error}".encode()
    assert outcome(left, right) == expected


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=30))
def test_integers_add_up_exactly(steps: list[int]) -> None:
    total = b"0"
    for step in steps:
        total = outcome(total, b"%d" % step)
    assert total == b"%d" % sum(steps)
