"""The cursor, and the numbers that Redis takes."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis import ResponseError

from proxy.commands.args import (
    INT64_MAX,
    INT64_MIN,
    Args,
    parse_db,
    parse_double,
    parse_expiry,
    parse_int,
)
from proxy.errors import NOT_A_FLOAT, NOT_AN_INTEGER, SYNTAX, CommandError
from tests.servers import RedisServer

NOW = 1_700_000_000_000


def error(text: str) -> str:
    """For pytest.raises: this text and no more."""
    return f"^{text.replace('(', '[(]').replace(')', '[)]')}$"


class TestArgs:
    def test_one_after_the_other(self) -> None:
        args = Args([b"set", b"k", b"v", b"10"], 2)
        assert args.next() == b"v"
        assert args.more()
        assert args.next_int() == 10
        assert not args.more()
        args.finish()

    def test_an_option_in_any_case(self) -> None:
        args = Args([b"xx", b"Limit", b"limits"], 0)
        assert args.option() == b"XX"
        assert not args.match(b"COUNT")
        assert args.match(b"LIMIT")
        assert not args.match(b"LIMIT")
        assert args.next() == b"limits"
        assert not args.match(b"LIMIT")

    def test_too_few_are_a_syntax_error(self) -> None:
        with pytest.raises(CommandError, match=error(SYNTAX)):
            Args([b"get"], 1).next()

    def test_too_many_are_a_syntax_error(self) -> None:
        with pytest.raises(CommandError, match=error(SYNTAX)):
            Args([b"get", b"k"], 1).finish()


class TestParseInt:
    @given(st.one_of(st.integers(INT64_MIN, INT64_MAX), st.integers(-1000, 1000)))
    @example(INT64_MIN)
    @example(INT64_MAX)
    @example(10**18 - 1)
    @example(10**18)
    @example(-(10**18))
    def test_every_integer_of_64_bits(self, number: int) -> None:
        assert parse_int(b"%d" % number) == number

    @given(st.one_of(st.integers(max_value=INT64_MIN - 1), st.integers(min_value=INT64_MAX + 1)))
    @example(INT64_MIN - 1)
    @example(INT64_MAX + 1)
    @example(10**19)
    def test_none_beyond(self, number: int) -> None:
        with pytest.raises(CommandError, match=error(NOT_AN_INTEGER)):
            parse_int(b"%d" % number)

    @settings(max_examples=500)
    @given(st.one_of(st.binary(max_size=22), st.text("0123456789-+ ._ex", max_size=21).map(str.encode)))
    @example(b"")
    @example(b"-")
    @example(b"-0")
    @example(b"00")
    @example(b"+1")
    @example(b"1_0")
    @example(b"1\n")
    @example(b"-9223372036854775808\x00")
    def test_only_the_canonical_form(self, text: bytes) -> None:
        try:
            canonical = b"%d" % int(text) == text and INT64_MIN <= int(text) <= INT64_MAX
        except ValueError:
            canonical = False
        if canonical:
            assert parse_int(text) == int(text)
        else:
            with pytest.raises(CommandError, match=error(NOT_AN_INTEGER)):
                parse_int(text)


class TestParseDouble:
    @pytest.mark.parametrize(
        "text",
        [
            *(b"1", b"-1.5", b"+3", b".5", b"5.", b"1e3", b"1E-3", b"0x1p3", b"-0X.8", b"0x1.8P+1", b"-0"),
            *(b"inf", b"-INFINITY", b"+inf", b"nan", b"-nan", b"nan(1)", b"infinit", b"0x", b"0x1p", b"1e"),
            *(
                b"",
                b" 1",
                b"1 ",
                b"1\n",
                b"\x0b1",
                b"1_0",
                b"1\x00",
                b"1f",
                b"1d",
                b"--1",
                b"0b1",
                b"\xc2\xb9",
            ),
            *(b"1e308", b"1e309", b"-1e309", b"1e-307", b"4.9e-324", b"1e-400", b"-0.0e-999", b"0x1p1024"),
            *(b"0x1p-1074", b"0x1p-1080", b"0x0.0p-9999", b"1" * 400, b"0." + b"0" * 400 + b"1"),
        ],
    )
    def test_what_redis_takes_and_no_more(self, redis_server: RedisServer, text: bytes) -> None:
        with redis_server.client() as client:
            client.flushall()
            try:
                client.execute_command("ZADD", "k", text, "m")
            except ResponseError:
                with pytest.raises(CommandError, match=error(NOT_A_FLOAT)):
                    parse_double(text)
            else:
                assert parse_double(text) == client.zscore("k", "m")


class TestParseDb:
    def test_in_range(self) -> None:
        assert [parse_db(b"0"), parse_db(b"15")] == [0, 15]

    @pytest.mark.parametrize("text", [b"-1", b"16", b"2147483648", b"x", b""])
    def test_the_error_is_the_one_of_copy(self, redis_server: RedisServer, text: bytes) -> None:
        with (
            redis_server.client() as client,
            pytest.raises(ResponseError) as theirs,
        ):
            client.execute_command("COPY", "a", "b", "DB", text)
        with pytest.raises(CommandError) as ours:
            parse_db(text)
        assert ours.value.text == f"ERR {theirs.value}"


class TestParseExpiry:
    @pytest.mark.parametrize(
        ("option", "text", "expected"),
        [
            (b"EX", b"10", NOW + 10_000),
            (b"PX", b"10", NOW + 10),
            (b"EXAT", b"10", 10_000),
            (b"PXAT", b"10", 10),
            (b"PXAT", b"9223372036854775807", INT64_MAX),
            (b"PX", b"%d" % (INT64_MAX - NOW), INT64_MAX),
        ],
    )
    def test_milliseconds_since_the_epoch(self, option: bytes, text: bytes, expected: int) -> None:
        assert parse_expiry(text, option, NOW, "set") == expected

    @pytest.mark.parametrize(
        ("option", "text"),
        [
            (b"EX", b"0"),
            (b"PXAT", b"-1"),
            (b"EX", b"9223372036854775807"),
            (b"EXAT", b"9223372036854776"),
            (b"PX", b"%d" % (INT64_MAX - NOW + 1)),
        ],
    )
    def test_neither_the_past_by_number_nor_beyond_64_bits(self, option: bytes, text: bytes) -> None:
        with pytest.raises(CommandError, match=error("ERR invalid expire time in 'getex' command")):
            parse_expiry(text, option, NOW, "getex")

    def test_no_integer(self) -> None:
        with pytest.raises(CommandError, match=error(NOT_AN_INTEGER)):
            parse_expiry(b"1.5", b"EX", NOW, "set")
