"""The request reader takes a stream cut anywhere and is as strict as redis-server; replies are as Redis'."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from proxy.errors import CommandError, ProtocolError
from proxy.resp import (
    ARGUMENT_OVERHEAD,
    INLINE_MAX,
    NULL_ARRAY,
    OK,
    Argv,
    Digits,
    Pairs,
    Push,
    Raw,
    Reply,
    RequestReader,
    Set,
    Verbatim,
    encode_command,
    encode_reply,
    first_command,
    split_inline,
)
from tests.servers import RedisServer

MEGABYTE = 1024 * 1024

# Bytes of a client, and the commands in them.
MESSAGES: dict[str, tuple[bytes, list[Argv]]] = {
    "one argument": (b"*1\r\n$4\r\nPING\r\n", [[b"PING"]]),
    "two": (b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", [[b"GET", b"k"]]),
    "an empty argument": (b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", [[b"GET", b""]]),
    "a line end within an argument": (b"*2\r\n$4\r\nECHO\r\n$5\r\na\r\n$1\r\n", [[b"ECHO", b"a\r\n$1"]]),
    "a frame within an argument": (b"*1\r\n$14\r\n*1\r\n$4\r\nPING\r\n\r\n", [[b"*1\r\n$4\r\nPING\r\n"]]),
    "any bytes": (b"*1\r\n$3\r\n\x00\xff\x80\r\n", [[b"\x00\xff\x80"]]),
    "a pipeline": (
        b"*1\r\n$1\r\na\r\n*2\r\n$1\r\nb\r\n$1\r\nc\r\n*1\r\n$1\r\nd\r\n",
        [[b"a"], [b"b", b"c"], [b"d"]],
    ),
    "empty and negative arrays are no commands": (b"*0\r\n*-1\r\n*1\r\n$1\r\na\r\n*-10\r\n", [[b"a"]]),
    "inline": (b"PING\r\n", [[b"PING"]]),
    "inline, ended by a line feed only": (b"GET k\n", [[b"GET", b"k"]]),
    "inline with quotes": (b"""SET k "a b\\x41\\n" 'c d'\r\n""", [[b"SET", b"k", b"a bA\n", b"c d"]]),
    "empty lines are no commands": (b"\r\n\n  \r\nPING\r\n\r\n", [[b"PING"]]),
    "inline between arrays": (b"*1\r\n$1\r\na\r\nb c\r\n*1\r\n$1\r\nd\r\n", [[b"a"], [b"b", b"c"], [b"d"]]),
    "twelve arguments": (b"*12\r\n" + b"$1\r\nx\r\n" * 12, [[b"x"] * 12]),
}


def make_reader(
    request_max: int = MEGABYTE, bulk_max: int = 512 * MEGABYTE, trusted: bool = True
) -> RequestReader:
    return RequestReader(request_max, bulk_max, trusted)


def commands(reader: RequestReader) -> Iterator[Argv]:
    while (argv := reader.next_command()) is not None:
        yield argv


def read(chunks: Iterable[bytes], reader: RequestReader | None = None) -> tuple[list[Argv], str]:
    """All commands of a stream that arrives in chunks, and the error that ends it, or nothing."""
    reader = reader or make_reader()
    found: list[Argv] = []
    try:
        for chunk in chunks:
            reader.feed(chunk)
            for argv in commands(reader):
                found.append(argv)  # noqa: PERF402  # what was found before an error counts
    except ProtocolError as error:
        return found, str(error)
    return found, ""


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The stream, cut at these places; empty chunks, which no socket gives, are left out."""
    return [data[a:b] for a, b in pairwise([0, *sorted(places), len(data)]) if a < b]


@pytest.mark.parametrize(("wire", "expected"), MESSAGES.values(), ids=MESSAGES)
class TestEachMessage:
    def test_whole(self, wire: bytes, expected: list[Argv]) -> None:
        assert read([wire]) == (expected, "")

    def test_byte_by_byte(self, wire: bytes, expected: list[Argv]) -> None:
        assert read(cut(wire, range(len(wire)))) == (expected, "")

    def test_cut_at_every_two_places(self, wire: bytes, expected: list[Argv]) -> None:
        for places in combinations(range(1, len(wire)), 2):
            assert read(cut(wire, places)) == (expected, ""), places

    def test_with_the_beginning_of_another_behind_it(self, wire: bytes, expected: list[Argv]) -> None:
        another = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"
        for size in range(1, len(another)):
            reader = make_reader()
            assert read([wire + another[:size]], reader) == (expected, "")
            assert not reader.idle
            assert read([another[size:]], reader) == ([[b"GET", b"key"]], "")
            assert reader.idle

    def test_idle_only_between_messages(self, wire: bytes, expected: list[Argv]) -> None:
        reader = make_reader()
        read([wire], reader)
        assert reader.idle


ARGVS = st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=14), max_size=6)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Argv], list[bytes]]:
    """Commands, and their bytes in chunks."""
    argvs = draw(ARGVS)
    wire = b"".join(map(encode_command, argvs))
    return argvs, cut(wire, draw(st.lists(st.integers(0, len(wire)), max_size=8)))


@given(streams())
def test_what_is_encoded_is_read_however_it_is_cut(stream: tuple[list[Argv], list[bytes]]) -> None:
    argvs, chunks = stream
    assert read(chunks) == (argvs, "")


@given(streams())
def test_a_command_that_says_where_it_stands_stands_there(stream: tuple[list[Argv], list[bytes]]) -> None:
    argvs, chunks = stream
    reader = make_reader()
    found = 0
    for chunk in chunks:
        reader.feed(chunk)
        for argv in commands(reader):
            if reader.start >= 0:
                assert reader.data[reader.start : reader.pos] == encode_command(argv)
            found += 1
    assert found == len(argvs)


def skim(chunks: Iterable[bytes], take_back: bool) -> tuple[list[Argv], str]:
    """As ``read``, by way of what ``skim`` finds; ``take_back``: only to read it once more."""
    reader = make_reader()
    found: list[Argv] = []
    try:
        for chunk in chunks:
            reader.feed(chunk)
            while True:
                if reader.skim():
                    name, key, size, pos = reader.name, reader.key, reader.size, reader.pos
                    argv = first_command(reader.data[reader.start : pos])
                    assert (argv[0], argv[1], len(argv)) == (name, key, size)
                    if take_back:
                        reader.pos = reader.start
                        assert (reader.next_command(), reader.pos) == (argv, pos)
                    found.append(argv)
                elif (following := reader.next_command()) is not None:
                    found.append(following)
                else:
                    break
    except ProtocolError as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize("take_back", [False, True])
@given(streams())
def test_what_is_skimmed_is_what_would_be_read(
    take_back: bool, stream: tuple[list[Argv], list[bytes]]
) -> None:
    argvs, chunks = stream
    assert skim(chunks, take_back) == (argvs, "")


def test_commands_with_heads_of_every_length_are_skimmed() -> None:
    argvs = [
        [bytes([65 + size % 26]) * size, b"k", *[b"v"] * more] for size in range(70) for more in (0, 5, 90)
    ]
    for each in (argvs, [argv for argv in argvs for _ in range(2)], argvs[::-1]):
        wire = b"".join(map(encode_command, each))
        assert skim([wire], take_back=False) == (each, "")


def test_what_may_be_skimmed_is_bounded_as_what_is_read() -> None:
    for bounds in ((90, MEGABYTE), (MEGABYTE, 4500)):
        reader = make_reader(*bounds)
        reader.feed(encode_command([b"SET", b"k", b"v" * 5000]))
        assert not reader.skim()
        with pytest.raises(ProtocolError):
            reader.next_command()


PIECES = st.one_of(
    st.sampled_from(
        [
            b"*",
            b"$",
            b"\r\n",
            b"\r",
            b"\n",
            b"0",
            b"1",
            b"-1",
            b"-0",
            b"2",
            b"10",
            b"+",
            b":",
            b" ",
            b'"',
            b"'",
        ]
    ),
    st.sampled_from(
        [b"*1\r\n", b"*2\r\n", b"$1\r\na\r\n", b"$2\r\nab\r\n", b"$0\r\n\r\n", b"PING\r\n", b"\\x"]
    ),
    st.binary(max_size=3),
)


@settings(max_examples=2000)
@given(st.lists(PIECES, max_size=12).map(b"".join), st.data())
def test_any_bytes_mean_the_same_however_they_are_cut(wire: bytes, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(wire)), max_size=5))
    whole = read([wire])
    assert read(cut(wire, places)) == whole
    assert skim(cut(wire, places), take_back=False) == whole
    assert read(cut(wire, range(len(wire)))) == whole


def refusal(error: str) -> bytes:
    return CommandError(f"ERR Protocol error: {error}").wire


def answer(port: int, wire: bytes) -> bytes:
    """All that a server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(wire)
        data = b""
        while chunk := connection.recv(65536):
            data += chunk
        return data


MALFORMED = [
    b"*\r\n",
    b"*a\r\n",
    b"*+1\r\n",
    b"*01\r\n",
    b"*-0\r\n",
    b"*-\r\n",
    b"* 1\r\n",
    b"*1 \r\n",
    b"*1.0\r\n",
    b"*2147483648\r\n",
    b"*99999999999999999999\r\n",
    b"*1\r\n+PING\r\n",
    b"*1\r\n:1\r\n",
    b"*1\r\n\r\n",
    b"*1\r\n*1\r\n$4\r\nPING\r\n",
    b"*2\r\n$3\r\nGET\r\nk\r\n",
    b"*1\r\n$\r\n",
    b"*1\r\n$a\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$-0\r\n",
    b"*1\r\n$+4\r\nPING\r\n",
    b"*1\r\n$04\r\nPING\r\n",
    b"*1\r\n$4 \r\nPING\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$99999999999999999999\r\n",
    b'SET k "v\r\n',
    b"SET k 'v\r\n",
    b'SET k "v"w\r\n',
    b"SET k 'v'w\r\n",
    b'SET k "v\\"\r\n',
    b"x" * (INLINE_MAX + 1),
]


@pytest.mark.parametrize("wire", MALFORMED, ids=lambda wire: repr(wire[:40]))
def test_a_malformed_request_is_refused_in_redis_words(redis_server: RedisServer, wire: bytes) -> None:
    found, error = read([wire])
    assert found == []
    assert refusal(error) == answer(redis_server.port, wire)


@pytest.mark.parametrize("wire", MALFORMED, ids=lambda wire: repr(wire[:40]))
def test_what_came_before_a_malformed_request_is_answered(redis_server: RedisServer, wire: bytes) -> None:
    before = b"*1\r\n$4\r\nPING\r\n"
    found, error = read([before + wire])
    assert found == [[b"PING"]]
    assert b"+PONG\r\n" + refusal(error) == answer(redis_server.port, before + wire)


@pytest.mark.parametrize(
    "wire", [b"*11\r\n", b"*1\r\n$16385\r\n", b"*10\r\n$16384\r\n" + b"x" * 16384 + b"\r\n$16385\r\n"]
)
def test_a_stranger_is_given_no_room(wire: bytes) -> None:
    with RedisServer(password="secret") as guarded:
        found, error = read([wire], make_reader(trusted=False))
        assert found == []
        assert refusal(error) == answer(guarded.port, wire)
    assert read([wire]) == ([], "")


@pytest.mark.parametrize(
    "wire", [b"POST /x HTTP/1.1\r\n\r\nFLUSHALL\r\n", b"GET /x\r\nhost: us\r\nFLUSHALL\r\n"]
)
def test_a_web_page_can_not_make_a_browser_send_commands(redis_server: RedisServer, wire: bytes) -> None:
    found, error = read([wire])
    assert [b"FLUSHALL"] not in found
    assert error
    assert b"+OK" not in answer(redis_server.port, wire)  # the real one closes too


@pytest.mark.parametrize("wire", [b"*1\r\n$4\r\nPINGxx", b"*1\n\n", b"*1\r\n$4\rxPING\r\n", b"*2\rx"])
def test_a_line_end_that_is_none_is_refused_where_redis_does_not_look(wire: bytes) -> None:
    """A proxy passes frames on: whoever reads them next must find the same borders."""
    found, error = read([wire])
    assert found == []
    assert error


class TestLimits:
    def test_an_argument_over_bulk_max(self) -> None:
        assert read([b"*1\r\n$10\r\n"], make_reader(bulk_max=10)) == ([], "")
        assert read([b"*1\r\n$11\r\n"], make_reader(bulk_max=10)) == ([], "invalid bulk length")

    def test_a_request_over_request_max_is_refused_before_it_has_come(self) -> None:
        limit = 3 * (ARGUMENT_OVERHEAD + 10)
        fits = encode_command([b"x" * 10] * 3)
        assert read([fits], make_reader(request_max=limit)) == ([[b"x" * 10] * 3], "")
        announced = b"*3\r\n" + b"$10\r\nxxxxxxxxxx\r\n" * 2 + b"$11\r\n"
        assert read([announced], make_reader(request_max=limit))[1]

    def test_many_tiny_arguments_cost_what_they_cost(self) -> None:
        found, error = read([b"*1000000\r\n" + b"$0\r\n\r\n" * 1000], make_reader(request_max=10_000))
        assert found == []
        assert error

    def test_each_command_has_the_limit_for_itself(self) -> None:
        limit = ARGUMENT_OVERHEAD + 10
        wire = encode_command([b"x" * 10]) * 5
        assert read([wire], make_reader(request_max=limit)) == ([[b"x" * 10]] * 5, "")


# Not a NUL, at which Redis' search for the line end stops.
LINES = st.text(st.sampled_from(list("ab \t\v\"'\\xnrt4fg1")), max_size=24).map(str.encode)


@settings(max_examples=500)
@given(LINES)
def test_a_line_is_split_as_redis_splits_it(
    redis_server: RedisServer, redis_client: Redis, line: bytes
) -> None:
    redis_client.delete("argv")
    with socket.create_connection(("127.0.0.1", redis_server.port), timeout=10) as connection:
        connection.sendall(b"RPUSH argv . " + line + b"\r\n")
        theirs = connection.recv(65536)
    expected = [b"RPUSH", b"argv", *redis_client.lrange("argv", 0, -1)]
    if theirs.startswith(b"-"):
        with pytest.raises(ProtocolError) as refused:
            split_inline(b"RPUSH argv . " + line)
        assert theirs == refusal(str(refused.value))
    else:
        assert split_inline(b"RPUSH argv . " + line) == expected


REPLIES: dict[str, tuple[Reply, bytes, bytes]] = {
    "bulk string": (b"ab", b"$2\r\nab\r\n", b"$2\r\nab\r\n"),
    "empty bulk string": (b"", b"$0\r\n\r\n", b"$0\r\n\r\n"),
    "long bulk string": (
        b"x" * 2000,
        b"$2000\r\n" + b"x" * 2000 + b"\r\n",
        b"$2000\r\n" + b"x" * 2000 + b"\r\n",
    ),
    "value changed in place": (bytearray(b"ab"), b"$2\r\nab\r\n", b"$2\r\nab\r\n"),
    "text": ("é", b"$2\r\n\xc3\xa9\r\n", b"$2\r\n\xc3\xa9\r\n"),
    "null": (None, b"$-1\r\n", b"_\r\n"),
    "simple string": (OK, b"+OK\r\n", b"+OK\r\n"),
    "integer": (7, b":7\r\n", b":7\r\n"),
    "large integer": (2**63 - 1, b":9223372036854775807\r\n", b":9223372036854775807\r\n"),
    "negative integer": (-(2**63), b":-9223372036854775808\r\n", b":-9223372036854775808\r\n"),
    "true": (True, b":1\r\n", b"#t\r\n"),
    "false": (False, b":0\r\n", b"#f\r\n"),
    "double": (0.1, b"$19\r\n0.10000000000000001\r\n", b",0.10000000000000001\r\n"),
    "infinity": (float("-inf"), b"$4\r\n-inf\r\n", b",-inf\r\n"),
    "array": (
        [1, b"a", [None]],
        b"*3\r\n:1\r\n$1\r\na\r\n*1\r\n$-1\r\n",
        b"*3\r\n:1\r\n$1\r\na\r\n*1\r\n_\r\n",
    ),
    "empty array": ([], b"*0\r\n", b"*0\r\n"),
    "tuple": ((1, 2), b"*2\r\n:1\r\n:2\r\n", b"*2\r\n:1\r\n:2\r\n"),
    "map": ({b"a": 1}, b"*2\r\n$1\r\na\r\n:1\r\n", b"%1\r\n$1\r\na\r\n:1\r\n"),
    "set": (Set([1, 2]), b"*2\r\n:1\r\n:2\r\n", b"~2\r\n:1\r\n:2\r\n"),
    "push": (Push([b"a"]), b"*1\r\n$1\r\na\r\n", b">1\r\n$1\r\na\r\n"),
    "pairs": (
        Pairs([b"a", b"b"], [1, 2.5]),
        b"*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n$3\r\n2.5\r\n",
        b"*2\r\n*2\r\n$1\r\na\r\n:1\r\n*2\r\n$1\r\nb\r\n,2.5\r\n",
    ),
    "no pairs": (Pairs([], []), b"*0\r\n", b"*0\r\n"),
    "digits": (Digits(b"1.10"), b"$4\r\n1.10\r\n", b",1.10\r\n"),
    "null array": (NULL_ARRAY, b"*-1\r\n", b"_\r\n"),
    "verbatim string": (Verbatim(b"ab"), b"$2\r\nab\r\n", b"=6\r\ntxt:ab\r\n"),
    "raw frame": (Raw(b",1.5\r\n"), b",1.5\r\n", b",1.5\r\n"),
    "error": (CommandError("ERR bad\r\nthing"), b"-ERR bad  thing\r\n", b"-ERR bad  thing\r\n"),
}


@pytest.mark.parametrize(("reply", "resp2", "resp3"), REPLIES.values(), ids=REPLIES)
def test_a_reply_in_both_versions(reply: Reply, resp2: bytes, resp3: bytes) -> None:
    assert encode_reply(reply, 2) == resp2
    assert encode_reply(reply, 3) == resp3


def test_what_is_no_reply_value_is_refused() -> None:
    with pytest.raises(TypeError, match="object is no reply value"):
        encode_reply(object())


@settings(max_examples=300)
@given(st.floats(allow_nan=False).map(lambda number: number + 0.0))  # a small sorted set keeps -0 as 0
def test_a_double_has_the_digits_that_redis_gives_it(redis_server: RedisServer, number: float) -> None:
    with socket.create_connection(("127.0.0.1", redis_server.port), timeout=10) as connection:
        replies = connection.makefile("rb")

        def zscore(proto: int) -> bytes:
            connection.sendall(
                f"HELLO {proto}\r\nDEL z\r\nZADD z {number!r} m\r\nZSCORE z m\r\nECHO end\r\n".encode()
            )
            seen: list[bytes] = []
            while not seen or seen[-1] != b"end\r\n":
                seen.append(replies.readline())
            return b"".join(seen[-4:-2] if proto == 2 else seen[-3:-2])

        assert encode_reply(number, 2) == zscore(2)
        assert encode_reply(number, 3) == zscore(3)
