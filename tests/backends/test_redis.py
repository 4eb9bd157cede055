"""Lanes to a real redis-server: exact replies to whom they belong; and where it is and who we are there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.base import StoreError, Waiter
from backends.redis import RedisUpstream
from backends.topology import Endpoint, Service, parse_url
from proxy.errors import CommandError
from proxy.resp import encode_command
from tests.rawclient import RawClient
from tests.servers import RedisServer, make_certificate
from tests.upstreams import DOWN, Connect, send


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer("--enable-debug-command", "yes", unixsocket=True) as server:
        yield server


@pytest.fixture
def upstream(connect: Connect, server: RedisServer) -> RedisUpstream:
    with server.client() as client:
        client.flushall()
    return connect(server.url)


def direct(server: RedisServer, proto: int, commands: list[str]) -> list[bytes]:
    """Replies on a connection of our own, without the pushes among them."""
    replies: list[bytes] = []
    with RawClient(server.port, proto) as client:
        client.send(*commands)
        while len(replies) < len(commands):
            if not (frame := client.frame()).startswith(b">"):
                replies.append(frame)
    return replies


CORPUS = [
    *("SET s value", "GET s", "GET missing", "STRLEN s", "LPUSH s x", "NOSUCH a b", "APPEND s more"),
    *("HSET h a 1 b 2", "HGETALL h", "HMGET h a x", "HRANDFIELD h 2 WITHVALUES", "INCRBYFLOAT f 3.25"),
    *("ZADD z 1 a 2.5 b inf c", "ZRANGE z 0 -1 WITHSCORES", "ZSCORE z b", "ZMSCORE z a x", "ZPOPMIN z"),
    *("SADD set a", "SMEMBERS set", "SISMEMBER set a", "RPUSH l 1 2 3", "LRANGE l 0 -1", "LPOP nolist 2"),
    *("XADD x 1-1 a 1 b 2", "XRANGE x - +", "XREAD STREAMS x 0", "XINFO STREAM x", "XREAD STREAMS x 5"),
    *("GEOADD g 13.36 38.11 P", "GEOPOS g P Q", "GEODIST g P P", "OBJECT ENCODING s", "TYPE z", "TTL s"),
    *(
        "EVAL return{1,redis.error_reply(ARGV[1]),redis.status_reply(ARGV[1]),false,ARGV[1]} 0 E",
        "CONFIG GET maxmemory",
        "COMMAND INFO get nosuch",
    ),
    *(f"DEBUG PROTOCOL {kind}" for kind in ("string", "integer", "double", "bignum", "null", "array", "set")),
    *(f"DEBUG PROTOCOL {kind}" for kind in ("map", "attrib", "push", "verbatim", "true", "false")),
    *("MULTI", "SET s 1", "INCR s", "EXEC", "EXEC", "LOLWUT VERSION 1", "DEBUG STRINGMATCH-LEN 1 a"),
]


@pytest.mark.parametrize("proto", [2, 3])
async def test_replies_are_byte_for_byte_those_of_a_direct_connection(
    proto: int, upstream: RedisUpstream, server: RedisServer
) -> None:
    expected = direct(server, proto, CORPUS)
    with server.client() as client:
        client.flushall()
    lane = upstream.lane(0, proto)
    replies = await asyncio.gather(*(send(lane, command) for command in CORPUS))
    assert [wire for wire, _ in replies] == expected
    with server.client() as client:
        client.flushall()
    assert await send(lane, *CORPUS) == (b"".join(expected), 0)


async def test_every_waiter_gets_its_own_replies(upstream: RedisUpstream) -> None:
    lanes = [upstream.lane(db, proto) for db in (0, 1) for proto in (2, 3)]
    sent = []
    for number in range(2000):
        words = [b"%d." % number * size for size in range(1, number % 7 + 2)]
        sent.append((words, send(lanes[number % 4], *(b"ECHO " + word for word in words))))
    for words, replies in sent:
        assert await replies == (b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words), 0)


async def test_the_requests_of_a_turn_go_in_one_write(upstream: RedisUpstream, server: RedisServer) -> None:
    await upstream.open()
    with server.client() as client:
        before = client.info("stats")["total_reads_processed"]
        await asyncio.gather(*(send(upstream.lane(0, 2), f"SET {number} x") for number in range(100)))
        assert client.info("stats")["total_reads_processed"] - before == 2  # the other is INFO


async def test_pushes_between_replies_are_left_out(upstream: RedisUpstream) -> None:
    lane, other = upstream.lane(0, 3), upstream.lane(0, 2)
    await send(lane, "CLIENT TRACKING ON BCAST")
    for number in range(100):
        written = send(other, f"SET k{number} {number}")
        assert await send(lane, "ECHO a", "ECHO b") == (b"$1\r\na\r\n$1\r\nb\r\n", 0)
        assert await written == (b"+OK\r\n", 0)


async def test_large_requests_and_replies(upstream: RedisUpstream) -> None:
    value = os.urandom(4 << 20).translate(bytes(range(33, 127)) * 2 + bytes(range(33, 101)))
    lane = upstream.lane(0, 2)
    stored = send(lane, b"SET large " + value)
    many = send(lane, *["RPUSH list " + "item " * 1000] * 100)
    replies = send(lane, "GET large", "LRANGE list 0 -1", "ECHO end")
    assert await stored == (b"+OK\r\n", 0)
    assert (await many)[0].endswith(b":100000\r\n")
    expected = b"$%d\r\n%b\r\n*100000\r\n%b$3\r\nend\r\n" % (len(value), value, b"$4\r\nitem\r\n" * 100_000)
    assert await replies == (expected, 0)


async def test_a_reply_over_the_limit_fails_alone(connect: Connect, server: RedisServer) -> None:
    lane = connect(server.url, reply_max=1 << 20).lane(0, 2)
    requests = ["ECHO before", "SETRANGE big 3000000 x", "GET big", "ECHO after"]
    before, _, big, after = await asyncio.gather(*(send(lane, request) for request in requests))
    assert before == (b"$6\r\nbefore\r\n", 0)
    assert big[0].startswith(b"-TOOLARGE a reply of 3000013 bytes is over the limit of 1048576: ask for less")
    assert after == (b"$5\r\nafter\r\n", 0)


async def test_a_waiter_that_fails_harms_nobody(
    upstream: RedisUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Waiter):
        def done(self, wire: bytes, failed: int) -> None:
            raise RuntimeError("out of order")

        def resolve(self, reply: object) -> None:
            raise NotImplementedError

    lane = upstream.lane(0, 2)
    lane.send(encode_command([b"ECHO", b"a"]), Failing(1))
    assert await send(lane, "ECHO b") == (b"$1\r\nb\r\n", 0)
    assert "out of order" in caplog.text


# Commands of our own


async def test_call_returns_values_and_raises_errors(upstream: RedisUpstream) -> None:
    assert await upstream.call(0, [b"RPUSH", b"l", b"1", b"2"]) == 2
    assert await upstream.call(0, [b"LRANGE", b"l", b"0", b"-1"]) == [b"1", b"2"]
    assert await upstream.call(0, [b"GET", b"missing"]) is None
    assert await upstream.call(1, [b"EXISTS", b"l"]) == 0
    with pytest.raises(CommandError, match=r"^WRONGTYPE "):
        await upstream.call(0, [b"GET", b"l"])


async def test_a_cancelled_call_takes_its_reply_with_it(upstream: RedisUpstream) -> None:
    calls = [asyncio.create_task(upstream.call(0, [b"ECHO", b"%d" % number])) for number in range(3)]
    await asyncio.sleep(0)  # all are sent
    calls[1].cancel()
    assert (await calls[0], await calls[2]) == (b"0", b"2")
    assert calls[1].cancelled()


async def test_counters_and_state(upstream: RedisUpstream) -> None:
    assert upstream.state == "connecting"
    await upstream.open()
    assert upstream.state == "up"
    before = upstream.counters()
    replies = send(upstream.lane(0, 2), "ECHO a", "ECHO b")
    assert upstream.in_flight == 2
    await replies
    assert upstream.in_flight == 0
    requests = 2 * len(encode_command([b"ECHO", b"a"]))
    expected = before._replace(
        answered=before.answered + 2, bytes_in=before.bytes_in + 14, bytes_out=before.bytes_out + requests
    )
    assert upstream.counters() == expected


# Where it is, and who we are there


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("redis://127.0.0.1", Endpoint("127.0.0.1", 6379, "", False, "", "")),
        ("rediss://u:p%40%3A@redis.example:7000/0", Endpoint("redis.example", 7000, "", True, "u", "p@:")),
        ("redis://:secret@[::1]:1", Endpoint("::1", 1, "", False, "", "secret")),
        ("unix://u:p@/run/a%20b.sock", Endpoint("", 0, "/run/a b.sock", False, "u", "p")),
        ("redis+sentinel://a/main", Service("main", ("a:26379",), False, "", "")),
        (
            "rediss+sentinel://u:p%40%2F@a:1,[::1]:2/the%20main",
            Service("the main", ("a:1", "[::1]:2"), True, "u", "p@/"),
        ),
    ],
)
def test_urls(url: str, endpoint: Endpoint | Service) -> None:
    assert parse_url(url) == endpoint


@pytest.mark.parametrize(
    "url",
    [
        *("redis://", "http://host", "unix://", "redis://u:secret@host/3", "redis://h:x"),
        *("redis+sentinel://u:secret@h", "redis+sentinel://:secret@h:1,/main", "redis+sentinel://h:x/main"),
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(?!.*secret)"):
        parse_url(url)


async def test_databases_are_apart(upstream: RedisUpstream) -> None:
    await send(upstream.lane(3, 2), "SET where three")
    assert await send(upstream.lane(3, 3), "GET where") == (b"$5\r\nthree\r\n", 0)
    assert await send(upstream.lane(0, 3), "GET where") == (b"_\r\n", 0)


async def test_a_database_that_the_server_lacks(connect: Connect) -> None:
    with RedisServer("--databases", "2") as server:
        upstream = connect(server.url)
        assert await send(upstream.lane(1, 2), "ECHO a") == (b"$1\r\na\r\n", 0)
        wire, failed = await send(upstream.lane(2, 2), "ECHO a", "ECHO b")
        assert wire.startswith(DOWN + b"127.0.0.1:%d answers: ERR DB index is out of range" % server.port)
        assert failed == wire.count(b"\r\n") == 2


async def test_a_unix_socket(connect: Connect, server: RedisServer) -> None:
    assert await connect(f"unix://{server.unixsocket}").call(0, [b"ECHO", b"a"]) == b"a"
    with pytest.raises(StoreError, match=r"^/missing: No such file or directory$"):
        await connect("unix:///missing").open()


async def test_users_and_passwords(connect: Connect) -> None:
    with RedisServer(password="s3cret") as server:
        port = server.port
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "bot", "on", ">hunter2", "~*", "+get")
        for upstream in (
            connect(f"redis://:s3cret@127.0.0.1:{port}"),
            connect(f"redis://127.0.0.1:{port}", password="s3cret"),
            connect(f"redis://bot:hunter2@127.0.0.1:{port}"),  # may not even PING
        ):
            await upstream.open()
            assert await upstream.call(0, [b"GET", b"a"]) is None
            assert await send(upstream.lane(0, 3), "GET a") == (b"_\r\n", 0)
        for secret in ("", "bot:wrong@", ":wrong@"):
            upstream = connect(f"redis://{secret}127.0.0.1:{port}")
            with pytest.raises(
                StoreError, match=rf"^127.0.0.1:{port} answers: (NOAUTH|WRONGPASS) .*"
            ) as error:
                await upstream.open()
            assert "wrong" not in str(error.value)
            assert upstream.state == f"down: {error.value}"


async def test_tls(connect: Connect, tmp_path: Path) -> None:
    stranger = make_certificate(tmp_path)
    with RedisServer(tls=True) as server:
        with server.client() as client:
            client.config_set("tls-auth-clients", "yes")
        cert, key = map(str, server.certificate)
        upstream = connect(server.url, tls_ca=cert, tls_cert=cert, tls_key=key)
        assert await upstream.call(0, [b"ECHO", b"a" * 100_000]) == b"a" * 100_000
        for options, reason in (
            ({"tls_cert": cert, "tls_key": key}, "the server's certificate is not trusted: "),
            ({"tls_ca": cert}, ""),  # the server's refusal comes as OpenSSL pleases
            ({"tls_ca": cert, "tls_cert": str(stranger.cert), "tls_key": str(stranger.key)}, ""),
        ):
            with pytest.raises(StoreError, match=rf"^127.0.0.1:{server.port}: {reason}"):
                await connect(server.url, **options).open()
        with pytest.raises(StoreError, match=f"^127.0.0.1:{server.port}: "):
            await connect(server.url.replace("rediss:", "redis:")).open()
        with pytest.raises(
            StoreError, match=r"^backend 'main': TLS files /missing: No such file or directory$"
        ):
            connect(server.url, tls_ca="/missing")


async def test_tls_to_a_server_that_speaks_none(connect: Connect, server: RedisServer) -> None:
    with pytest.raises(StoreError, match=f"^127.0.0.1:{server.port}: "):
        await connect(server.url.replace("redis:", "rediss:"), connect_timeout=200).open()


@asynccontextmanager
async def speaking(reply: bytes) -> AsyncIterator[int]:
    """What is no Redis: answers the first bytes with ``reply``; gives its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(reply)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what came is no RESP: no type begins with byte 72"),
        (b"+OK\r\n+PONG\r\n+MORE\r\n", "what came is no RESP: a reply that nobody asked for"),
        (b"+OK\r\n+PONG\r\n$10", "what came is no RESP: a reply that nobody asked for"),
    ],
)
async def test_a_server_that_is_no_redis(connect: Connect, reply: bytes, reason: str) -> None:
    async with speaking(reply) as port:
        with pytest.raises(StoreError, match=f"^127.0.0.1:{port}: {reason}$"):
            await connect(f"redis://:secret@127.0.0.1:{port}").open()


async def test_a_server_that_is_full(connect: Connect) -> None:
    with RedisServer("--maxclients", "1") as server, server.client() as client:
        client.ping()
        with pytest.raises(StoreError, match=r" answers: ERR max number of clients reached$"):
            await connect(f"redis://:any@127.0.0.1:{server.port}").open()


async def test_a_password_that_a_server_quotes_is_not_passed_on(connect: Connect) -> None:
    reply = b"-ERR unknown command `AUTH`, with args beginning with: `s3cret`, \r\n+PONG\r\n"
    async with speaking(reply) as port:
        upstream = connect(f"redis://:s3cret@127.0.0.1:{port}")
        wire, _ = await send(upstream.lane(0, 2), "GET a")
        assert b"unknown command `AUTH`" in wire
        assert b"s3cret" not in wire
