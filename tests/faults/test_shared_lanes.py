"""Clients that share a lane to Redis: whatever one sends, no other sees a byte of its replies.

What a client may not send must be found before it is on the lane: Redis answers ``*0`` with nothing and
``+GET`` by closing, and either would shift all later replies to others.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.resp import encode_command
from tests.rawclient import RawClient
from tests.servers import RedisServer, RedtierServer

CONFIG = """
[backends.main]
type = "redis"
url = "{url}"
[backends.hot]
type = "memory"
[[routes]]
prefix = ""
backend = "main"
[[routes]]
prefix = "short:"
backend = "hot"
"""


def command(line: str) -> bytes:
    return encode_command(line.encode().split())


class Neighbour:
    """A client that reads its own keys all the time: it knows each byte that it must get."""

    def __init__(self, port: int, proto: int) -> None:
        self.client = RawClient(port, proto)
        self.names = [f"neighbour:{proto}:{number}" for number in range(8)]
        self.expected = b""
        for name in self.names:
            assert self.client.ask(f"SET {name} {name * 3}") == b"+OK\r\n"
            self.expected += b"$%d\r\n%b\r\n" % (len(name) * 3, name.encode() * 3)

    def send(self) -> None:
        self.client.send(*(f"GET {name}" for name in self.names))

    def check(self, times: int) -> None:
        for _ in range(times):
            assert b"".join(self.client.frame() for _ in self.names) == self.expected
        assert self.client.data == b""


class Street:
    """A redtier with one lane for each protocol version, and a neighbour on each of them."""

    def __init__(self, redtier: RedtierServer, redis: RedisServer) -> None:
        self.redtier, self.redis = redtier, redis
        self.neighbours = [Neighbour(redtier.port, proto) for proto in (2, 3)]
        self.lanes = self.connected()

    def connected(self) -> set[str]:
        """Whom Redis sees, by the numbers that it gives to connections, and never again."""
        with self.redis.client() as client:
            here = str(client.client_id())
            return {each["id"] for each in client.client_list()} - {here}

    def disturb(self, proto: int, data: bytes, *, abruptly: bool = False) -> bytes | None:
        """What a client gets that sends ``data`` and no more, between requests of its neighbours.

        None if the connection was reset, which may take along what it had been sent.
        """
        for neighbour in self.neighbours:
            neighbour.send()
        received: bytes | None = b""
        with RawClient(self.redtier.port, proto) as client:
            client.socket.sendall(data)
            for neighbour in self.neighbours:
                neighbour.send()
            if not abruptly:
                received = everything(client)
        # What these wait for comes after all that was sent before.
        for neighbour in self.neighbours:
            neighbour.send()
        for neighbour in self.neighbours:
            neighbour.check(3)
        # Only MONITOR shows what others send, each command in a line of its own.
        assert received is None or b"neighbour" not in MONITORED.sub(b"", received)
        return received


def everything(client: RawClient) -> bytes | None:
    """All that a client gets that sends no more; None if its connection is reset, since not all was read."""
    received = b""
    try:
        client.socket.shutdown(socket.SHUT_WR)
        while chunk := client.socket.recv(65536):
            received += chunk
    except OSError:
        return None
    return received


@pytest.fixture(scope="module")
def street() -> Iterator[Street]:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        redtier = stack.enter_context(RedtierServer(CONFIG.format(url=redis.url)))
        street = Street(redtier, redis)
        for neighbour in street.neighbours:
            stack.enter_context(neighbour.client)
        yield street


MONITORED: Final = re.compile(rb"(?m)^\+\d+\.\d{6} \[\d+ [^]]+\] \"[^\r]*\r\n")
MALFORMED: Final = {
    "empty array": b"*0\r\n",
    "null array": b"*-1\r\n",
    "negative array": b"*-2\r\n",
    "array of no number": b"*x\r\n",
    "array of nothing": b"*\r\n",
    "array with a sign": b"*+1\r\n$4\r\nPING\r\n",
    "array with a space": b"* 1\r\n$4\r\nPING\r\n",
    "array with a leading zero": b"*01\r\n$4\r\nPING\r\n",
    "huge array": b"*1048577\r\n",
    "array over 64 bits": b"*18446744073709551617\r\n$4\r\nPING\r\n",
    "endless header": b"*" + b"1" * 70_000,
    "header with a line feed alone": b"*2\n$3\nGET\n$1\na\n",
    "header with a carriage return alone": b"*2\r$3\r\nGET\r\n",
    "null bulk string": b"*2\r\n$3\r\nGET\r\n$-1\r\n",
    "negative bulk string": b"*2\r\n$3\r\nGET\r\n$-5\r\nab\r\n",
    "bulk string of no number": b"*2\r\n$3\r\nGET\r\n$a\r\na\r\n",
    "huge bulk string": b"*2\r\n$3\r\nGET\r\n$536870913\r\n",
    "bulk string over 64 bits": b"*2\r\n$3\r\nGET\r\n$18446744073709551617\r\na\r\n",
    "bulk string too long": b"*2\r\n$3\r\nGET\r\n$1\r\nab\r\n",
    "bulk string too short": b"*2\r\n$3\r\nGET\r\n$9\r\na\r\n",
    "bulk string without its line end": b"*2\r\n$3\r\nGET\r\n$1\r\naXX*1\r\n$4\r\nPING\r\n",
    "empty name": b"*1\r\n$0\r\n\r\n",
    "empty name and a key": b"*2\r\n$0\r\n\r\n$1\r\na\r\n",
    "simple string": b"+GET\r\n",
    "simple string for an argument": b"*2\r\n$3\r\nGET\r\n+a\r\n",
    "integer": b":1\r\n",
    "integer for an argument": b"*2\r\n$3\r\nGET\r\n:1\r\n",
    "error": b"-ERR no\r\n",
    "array in an array": b"*2\r\n$3\r\nGET\r\n*1\r\n$1\r\na\r\n",
    "array in the place of a name": b"*1\r\n*1\r\n$4\r\nPING\r\n",
    "null": b"_\r\n",
    "push": b">2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    "attribute": b"|1\r\n$1\r\na\r\n$1\r\nb\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    "attribute for an argument": b"*2\r\n$3\r\nGET\r\n|1\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\na\r\n",
    "map": b"%1\r\n$3\r\nGET\r\n$1\r\na\r\n",
    "set": b"~2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    "verbatim string": b"=7\r\ntxt:GET\r\n",
    "streamed array": b"*?\r\n$3\r\nGET\r\n$1\r\na\r\n.\r\n",
    "streamed string": b"*2\r\n$3\r\nGET\r\n$?\r\n;1\r\na\r\n;0\r\n",
    "inline": b"GET a\r\n",
    "inline with nothing": b"\r\n\r\n\n\r\n",
    "inline with open quotes": b'GET "a\r\n',
    "inline with quotes": b'GET "\\x61\\r\\n" \r\n',
    "inline, endless": b"G" * 70_000,
    "inline and zero bytes": b"GET a\0\r\n\0\0\0\r\n",
    "HTTP": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    "TLS": bytes.fromhex("16030100f8010000f40303") + b"\0" * 240,
    "noise": bytes(range(256)),
}
HOSTILE: Final = [
    "redis.call('SELECT', 1)",
    "redis.setresp(3) return {map={a={double=1},b={set={c=true}}}}",
    "return {ok='a\\r\\n+OK'}",
    "return {err='a\\r\\n+OK'}",
    "return {big_number='1\\r\\n+OK'}",
    "return {verbatim_string={format='a\\r\\n',string='+OK\\r\\n'}}",
    "error('a\\r\\n+OK\\r\\n')",
    "error({err='a\\r\\n+OK\\r\\n'})",
    "return redis.call('CLIENT', 'REPLY', 'OFF')",
    "return redis.call('SUBSCRIBE', 'a')",
    "return redis.call('MULTI')",
    "return redis.call('HELLO', 3)",
    "return redis.call('BLPOP', 'none', 0)",
    "return",
]
"""Scripts that would make a connection another, or their reply more than one."""
SWITCHES: Final = [
    *("SUBSCRIBE a", "PSUBSCRIBE *", "SSUBSCRIBE a", "UNSUBSCRIBE", "MONITOR", "SYNC", "PSYNC ? -1"),
    *("REPLCONF ACK 0", "CLIENT REPLY OFF", "CLIENT REPLY SKIP", "CLIENT REPLY ON", "CLIENT REPLY x"),
    *("CLIENT TRACKING ON", "CLIENT TRACKING ON BCAST", "CLIENT CACHING YES", "CLIENT NO-EVICT ON"),
    *("CLIENT NO-TOUCH ON", "CLIENT NO-TOUCH OFF"),
    *("MULTI", "EXEC", "DISCARD", "WATCH a", "UNWATCH", "HELLO", "HELLO 2", "HELLO 3", "HELLO 4"),
    *("HELLO 3 AUTH default x", "AUTH x", "QUIT", "RESET", "SELECT 1", "SELECT 99", "READONLY", "ASKING"),
    *("BLPOP a 0", "BLMPOP 0 1 a LEFT", "BRPOPLPUSH a b 0", "XREAD BLOCK 0 STREAMS a $", "WAIT 0 0"),
    *("BZPOPMIN a 0", "XREADGROUP GROUP g c BLOCK 0 STREAMS a >", "SHUTDOWN NOSAVE", "DEBUG SLEEP 0"),
    *("CLIENT PAUSE 0", "SWAPDB 0 1", "FAILOVER", "REPLICAOF NO ONE"),
    *("EVAL return(1) 0", "FCALL f 0", "SCRIPT LOAD x", "SORT a BY b", "MIGRATE h 1 a 0 1", "nosuch a"),
    *("GET", "GET a b", "SET a", "MGET a short:a", "DUMP a", "OBJECT ENCODING a", "OBJECT", "MEMORY USAGE a"),
]
AROUND = command("SET mine 1"), command("GET mine")


@pytest.mark.parametrize("proto", [2, 3])
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_a_request_that_is_none(data: bytes, proto: int, street: Street) -> None:
    before, after = AROUND
    street.disturb(proto, data)
    received = street.disturb(proto, before + data + after)
    assert received is None or received.startswith(b"+OK\r\n")
    street.disturb(proto, before + data, abruptly=True)


@pytest.mark.parametrize("proto", [2, 3])
def test_commands_that_change_what_a_connection_is(proto: int, street: Street) -> None:
    before, after = AROUND
    for line in SWITCHES:
        received = street.disturb(proto, before + command(line) + after)
        assert received is not None
        assert received.startswith(b"+OK\r\n")
        street.disturb(proto, before + command(line) * 2 + after, abruptly=True)


@pytest.mark.parametrize("proto", [2, 3])
def test_scripts_that_would_change_what_a_connection_is(proto: int, street: Street) -> None:
    before, after = AROUND
    for text in HOSTILE:
        eval_ = encode_command([b"EVAL", text.encode(), b"1", b"a"])
        received = street.disturb(proto, before + eval_ + after)
        assert received is not None
        assert received.startswith(b"+OK\r\n")
        street.disturb(proto, before + eval_ * 2 + after, abruptly=True)


def test_half_a_request(street: Street) -> None:
    whole = b"".join(AROUND)
    for end in range(1, len(whole)):
        street.disturb(2 + end % 2, whole[:end], abruptly=bool(end % 3))


FRAMES = [
    *map(command, ("SET a 1", "GET a", "MGET a b", "LPUSH l 1 2 3", "LRANGE l 0 -1", "INCR n", "DEL a l")),
    *map(command, ("PING", "ECHO hello", "HELLO 3", "CLIENT REPLY SKIP", "SET short:a 1", "GET short:a")),
    *(b"GET a\r\n", b"PING\r\n", b"*0\r\n", b"SET a 'b c'\r\n"),
]
PIECES = st.one_of(
    st.sampled_from(
        [b"\r\n", b"\r", b"\n", b"*", b"$", b"$-1\r\n", b"*-1\r\n", b"+", b">", b"|", b"0", b"-", b"9999"]
    ),
    st.binary(max_size=6),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Valid requests, in which bytes were removed, replaced, added or said twice."""
    data = b"".join(draw(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=6)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(start + 12, len(data))))
        piece = draw(st.one_of(PIECES, st.just(data[start:stop] * 2)))
        data = data[:start] + piece + data[stop:]
    return data


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=mutated(), proto=st.sampled_from([2, 3]), abruptly=st.booleans())
def test_whatever_a_client_sends(data: bytes, proto: int, abruptly: bool, street: Street) -> None:
    street.disturb(proto, data, abruptly=abruptly)


def test_the_lanes_have_never_been_closed(street: Street) -> None:
    assert street.connected() >= street.lanes
