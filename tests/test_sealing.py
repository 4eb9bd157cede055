"""Sealed values on a Redis: what its clients see, what stands there, and what is refused."""

from __future__ import annotations

import random
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis

import proxy.sealing
from backends.seal import SealPolicy
from backends.sealed_strings import MAGIC, seal_string
from proxy import errors
from proxy.errors import CommandError
from proxy.prefixes import PrefixMap
from proxy.resp import encode_command
from tests.faultproxy import Direction, FaultProxy
from tests.homes import toml
from tests.rawclient import RawClient
from tests.servers import RedisServer, RedtierServer, free_port, wait_until

TEXT = "What did I tell you, and when did I tell you what I told you? " * 4
LARGE = TEXT * 2000  # half a megabyte
LIMIT = 1_000_000
VALUES = {"TEXT": TEXT, "LARGE": LARGE, "MOST": "x" * LIMIT, "TOO_MUCH": "x" * (LIMIT + 1)}
"""What words of requests stand for."""
RAW = TEXT.encode()
SEALED = {"compression": "zstd", "integrity": "sha256"}


def config(url: str, http: int) -> str:
    """``s:`` is sealed, ``near:`` is too and its replies are kept, ``plain:`` is not, all on one Redis."""
    tables = {
        "http": {"listen": f"127.0.0.1:{http}"},
        "backends.main": {"type": "redis", "url": url, "flushable": True, "backoff_max": "100ms"},
        "backends.hot": {"type": "memory"},
    }
    options = {"s:": SEALED | {"max_value": LIMIT}, "near:": SEALED | {"cache": True}}
    return toml(tables, {"": "hot", "plain:": "main", "s:": "main", "near:": "main"}, options)


class Sealing:
    """A redtier before a Redis, and clients of both."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.upstream = stack.enter_context(RedisServer("--enable-debug-command", "yes"))
        self.relay = stack.enter_context(FaultProxy(self.upstream.port))
        self.http = free_port()
        text = config(f"redis://127.0.0.1:{self.relay.port}", self.http)
        self.server = stack.enter_context(RedtierServer(text))
        self.direct: redis.Redis = stack.enter_context(self.upstream.client())
        self.client = stack.enter_context(RawClient(self.server.port))

    def connect(self, proto: int = 2) -> RawClient:
        return self._stack.enter_context(RawClient(self.server.port, proto))

    def put(self, key: str, value: str = TEXT) -> bytes:
        """What stands there for a value that is set here."""
        assert self.client.ask(f"SET {key} '{value}'") == b"+OK\r\n"
        stored = self.direct.get(key)
        assert isinstance(stored, bytes)
        return stored

    def damage(self, key: str) -> None:
        """Flip a bit in the middle of what stands there."""
        stored = self.direct.get(key)
        assert isinstance(stored, bytes)
        at = len(stored) - 5
        self.direct.setrange(key, at, bytes([stored[at] ^ 1]))

    def figure(self, name: str) -> int:
        text = self.client.ask("INFO tiers").decode()
        line = next(line for line in text.split("\r\n") if ":name=main," in line)
        return int(dict(pair.split("=") for pair in line.partition(":")[2].split(","))[name])


@pytest.fixture(scope="module")
def running() -> Iterator[Sealing]:
    with ExitStack() as stack:
        yield Sealing(stack)


@pytest.fixture
def sealing(running: Sealing) -> Sealing:
    """One that all tests share; it has no keys."""
    running.direct.flushall()
    assert running.client.ask("FLUSHALL") == b"+OK\r\n"
    return running


def send(client: RawClient, *lines: str) -> None:
    """Requests, split at blanks, in one pipeline."""
    requests = [[VALUES.get(word, word).encode() for word in line.split()] for line in lines]
    client.socket.sendall(b"".join(map(encode_command, requests)))


def ask(client: RawClient, line: str) -> bytes:
    send(client, line)
    return client.frame()


def bulk(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return b"$%d\r\n%s\r\n" % (len(data), data)


def test_a_value_is_sealed_there_and_itself_here(sealing: Sealing) -> None:
    stored = sealing.put("s:a")
    assert stored.startswith(MAGIC)
    assert len(stored) < len(TEXT) / 2
    assert sealing.put("plain:a") == RAW
    for proto in (2, 3):
        client = sealing.connect(proto)
        assert client.ask("GET s:a") == bulk(TEXT)
        assert client.ask("GET s:none") == (b"$-1\r\n" if proto == 2 else b"_\r\n")


@pytest.mark.parametrize(
    "line",
    [
        "SET s:a TEXT EX 100",
        "SETEX s:a 100 TEXT",
        "PSETEX s:a 100000 TEXT",
        "SETNX s:a TEXT",
        "GETSET s:a TEXT",
        "SET s:a TEXT NX GET",
        "MSET s:a TEXT plain:b TEXT",
        "MSETNX s:a TEXT s:b TEXT",
        "MSET s:a TEXT hot:b TEXT",
    ],
)
def test_each_way_to_write_seals(sealing: Sealing, line: str) -> None:
    assert not ask(sealing.client, line).startswith(b"-")
    stored = sealing.direct.get("s:a")
    assert isinstance(stored, bytes)
    assert stored.startswith(MAGIC)
    assert sealing.direct.get("plain:b") in (None, RAW)
    assert sealing.client.ask("GET s:a") == bulk(TEXT)


@pytest.mark.parametrize("proto", [2, 3])
def test_each_way_to_read_unseals(sealing: Sealing, proto: int) -> None:
    client = sealing.connect(proto)
    null = b"$-1\r\n" if proto == 2 else b"_\r\n"
    sealing.put("s:a")
    sealing.put("plain:a")
    sealing.direct.rpush("s:list", "x")
    assert client.ask("GETEX s:a EX 100") == bulk(TEXT)
    assert client.ask("MGET s:a s:none plain:a s:list s:a") == b"*5\r\n" + bulk(TEXT) + null + bulk(
        TEXT
    ) + null + bulk(TEXT)
    assert client.ask("MGET s:a hot:none") == b"*2\r\n" + bulk(TEXT) + null
    assert client.ask("SET s:a other GET") == bulk(TEXT)
    sealing.put("s:a")
    assert client.ask("GETSET s:a other") == bulk(TEXT)
    sealing.put("s:a")
    assert client.ask("GETDEL s:a") == bulk(TEXT)
    assert client.ask("GET s:list").startswith(b"-WRONGTYPE")


def test_short_values_and_numbers_stay_as_they_are(sealing: Sealing) -> None:
    assert sealing.put("s:short", "token") == b"token"
    sealing.client.ask(f"SET s:number {'1' * 70}")
    assert sealing.direct.get("s:number") == b"1" * 70
    assert sealing.client.ask("INCR s:count") == b":1\r\n"
    assert sealing.client.ask("INCRBYFLOAT s:count 1.5") == bulk("2.5")
    sealing.put("s:text")
    assert sealing.client.ask("INCR s:text") == b"-ERR value is not an integer or out of range\r\n"
    assert sealing.client.ask("PFADD s:seen a b") == b":1\r\n"
    assert sealing.client.ask("PFCOUNT s:seen") == b":2\r\n"


def test_what_others_have_written_is_read_and_what_begins_like_a_seal_comes_back(sealing: Sealing) -> None:
    sealing.direct.set("s:theirs", TEXT)
    assert sealing.client.ask("GET s:theirs") == bulk(TEXT)
    with sealing.server.client() as client:
        for value in (MAGIC, MAGIC + b"x", sealing.put("s:a"), b"\xf4" + MAGIC[1:]):
            client.mset({"s:odd": value, "plain:odd": value})
            assert client.mget("s:odd", "plain:odd") == [value, value]
            assert sealing.direct.get("plain:odd") == value


@pytest.mark.parametrize(
    "line",
    [
        "APPEND s:a x",
        "STRLEN s:a",
        "GETRANGE s:a 0 1",
        "SUBSTR s:a 0 1",
        "SETRANGE s:a 0 x",
        "SETBIT s:a 0 1",
        "GETBIT s:a 0",
        "BITCOUNT s:a",
        "BITPOS s:a 1",
        "BITFIELD s:a GET u8 0",
        "BITFIELD_RO s:a GET u8 0",
        "BITOP NOT plain:a s:a",
        "LCS plain:a s:a",
        "LCS hot:a s:a",
    ],
)
def test_what_would_touch_the_inside_is_refused(sealing: Sealing, line: str) -> None:
    refusal = errors.inside_sealed(line.split()[0].lower(), b"s:").wire
    stored = sealing.put("s:a")
    assert sealing.client.ask(line) == refusal
    sealing.client.ask("MULTI")
    assert sealing.client.ask(line) == refusal
    assert sealing.client.ask("EXEC").startswith(b"-EXECABORT")
    assert sealing.direct.get("s:a") == stored
    assert not sealing.client.ask(line.replace("s:", "plain:")).startswith(b"-")


def test_sorting_by_sealed_strings_is_refused(sealing: Sealing) -> None:
    sealing.client.ask("RPUSH s:list a b")
    for line in ("SORT s:list BY nosort GET s:w_*", "SORT s:list BY s:w_* ALPHA", "SORT plain:list GET s*"):
        assert sealing.client.ask(line) == errors.sorted_by_sealed("sort", b"s:").wire
    assert (
        sealing.client.ask("SORT s:list ALPHA GET # GET s:h_*->f")
        == b"*4\r\n" + bulk("a") + b"$-1\r\n" + bulk("b") + b"$-1\r\n"
    )


def test_a_value_is_sealed_by_its_redis_under_any_name_and_moved_to_others_raw(sealing: Sealing) -> None:
    stored = sealing.put("s:a")
    for line, reply in [
        ("RENAME s:a s:b", b"+OK\r\n"),
        ("COPY s:b s:a DB 1", b":1\r\n"),
        ("COPY s:b near:a", b":1\r\n"),
        ("COPY s:b plain:a", b":1\r\n"),
        ("COPY s:b hot:a", b":1\r\n"),
        ("RENAME plain:a s:c", b"+OK\r\n"),
        ("RENAMENX hot:a s:d", b":1\r\n"),
        ("RENAME s:d plain:d", b"+OK\r\n"),
    ]:
        assert sealing.client.ask(line) == reply
    assert sealing.direct.mget("s:b", "near:a", "s:c", "plain:d") == [stored, stored, stored, RAW]
    assert sealing.direct.exists("s:a", "plain:a", "s:d") == 0
    assert sealing.client.ask("GET near:a") == bulk(TEXT)
    sealing.client.ask("MULTI")
    assert sealing.client.ask("RENAME s:b plain:b") == errors.sealed_and_not("rename", b"s:", b"plain:").wire
    assert sealing.client.ask("DISCARD") == b"+OK\r\n"


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("proto", [2, 3])
def test_transactions_seal_and_unseal(sealing: Sealing, proto: int, watched: bool) -> None:
    client = sealing.connect(proto)
    if watched:
        assert client.ask("WATCH s:a") == b"+OK\r\n"
    lines = ["MULTI", "SET s:a TEXT", "GET s:a", "SET s:large LARGE", "MGET s:a s:large", "GET s:x"]
    send(client, *lines, "EXEC")
    for _ in lines:
        client.frame()
    null = b"$-1\r\n" if proto == 2 else b"_\r\n"
    replies = [b"+OK\r\n", bulk(TEXT), b"+OK\r\n", b"*2\r\n" + bulk(TEXT) + bulk(LARGE), null]
    assert client.frame() == b"*5\r\n" + b"".join(replies)
    stored = sealing.direct.get("s:large")
    assert isinstance(stored, bytes)
    assert stored.startswith(MAGIC)


def test_a_damaged_value_is_an_error_of_the_whole_command(sealing: Sealing) -> None:
    sealing.put("s:a")
    sealing.put("s:b")
    before = sealing.figure("damaged")
    sealing.damage("s:a")
    error = errors.integrity_there(b"s:a", "decompression failed", "main").wire.partition(b" (")[0]
    for line in ("GET s:a", "MGET s:b s:a", "MGET hot:a s:a"):
        assert sealing.client.ask(line).startswith(error)
    sealing.client.send("MULTI", "GET s:a", "GET s:b", "EXEC")
    *_, reply = [sealing.client.frame() for _ in range(4)]
    assert reply.startswith(b"*2\r\n" + error)
    assert reply.endswith(bulk(TEXT))
    assert sealing.client.ask("COPY s:a hot:a").startswith(error)
    assert sealing.figure("damaged") == before + 5
    with urllib.request.urlopen(f"http://127.0.0.1:{sealing.http}/metrics", timeout=10) as metrics:
        count = f'redtier_cold_integrity_failures_total{{backend="main"}} {before + 5}.0'
        assert count in metrics.read().decode().splitlines()
    sealing.put("s:a")
    assert sealing.client.ask("GET s:a") == bulk(TEXT)


def test_what_is_large_keeps_its_place_among_what_its_client_sends(sealing: Sealing) -> None:
    client = sealing.client
    send(
        client,
        "SET s:a first",
        "SET s:a LARGE",
        "GET s:a",
        "SET s:a last",
        "GET s:a",
        "MSET s:b LARGE hot:b LARGE",
        "MGET s:b hot:b",
        "GET s:b",
        "PING",
        "DEL s:b",
        "GET s:b",
    )
    assert [client.frame() for _ in range(11)] == [
        b"+OK\r\n",
        b"+OK\r\n",
        bulk(LARGE),
        b"+OK\r\n",
        bulk("last"),
        b"+OK\r\n",
        b"*2\r\n" + bulk(LARGE) * 2,
        bulk(LARGE),
        b"+PONG\r\n",
        b":1\r\n",
        b"$-1\r\n",
    ]


def test_the_limit_of_a_route_is_of_raw_values(sealing: Sealing) -> None:
    error = errors.too_large(LIMIT + 1, LIMIT, "max_value").wire
    assert ask(sealing.client, "SET s:a TOO_MUCH") == error
    assert ask(sealing.client, "MSET plain:a x s:a TOO_MUCH") == error
    assert ask(sealing.client, "SET s:a MOST") == b"+OK\r\n"
    assert sealing.client.ask("GET s:a") == bulk("x" * LIMIT)


def test_more_than_a_client_can_be_handed_is_not_unsealed(sealing: Sealing) -> None:
    """A few bytes may stand for very many: what they say of themselves is looked at before."""
    assert ask(sealing.client, "SET s:a MOST") == b"+OK\r\n"
    client = sealing.connect()
    send(client, "MGET " + "s:a " * 600, "PING")
    assert client.frame().startswith(b"-TOOLARGE a reply of 600")
    assert client.frame() == b"+PONG\r\n"


@pytest.mark.parametrize("size", [1000, 200_000])  # those that are unsealed in a thread among them
async def test_the_limit_of_replies_is_of_raw_values(size: int) -> None:
    policies: PrefixMap[SealPolicy | None] = PrefixMap([(b"", SealPolicy())])
    raw = random.Random(1).randbytes(size)
    wire = bulk(seal_string(raw, SealPolicy()))
    enough = proxy.sealing.Sealing("main", policies, len(bulk(raw)))
    assert await enough.unseal([b"k"], wire) == bulk(raw)
    with pytest.raises(CommandError, match="TOOLARGE"):
        await proxy.sealing.Sealing("main", policies, size - 1).unseal([b"k"], wire)


async def test_no_value_is_taken_for_larger_than_any() -> None:
    policies: PrefixMap[SealPolicy | None] = PrefixMap([(b"", SealPolicy())])
    header = MAGIC + bytes([1, 0x31]) + b"\xff" * 7 + b"\x01" + bytes(40)
    sealing = proxy.sealing.Sealing("main", policies, 1 << 40)
    with pytest.raises(CommandError, match="INTEGRITY"):
        await sealing.unseal([b"k"], bulk(header))
    assert sealing.damaged == 1


def test_kept_replies_are_unsealed_and_verified(sealing: Sealing) -> None:
    def hits() -> int:
        near = sealing.client.ask("INFO tiers").decode().partition("near_cache:")[2]
        return int(near.partition("hits=")[2].partition(",")[0])

    wait_until(lambda: sealing.figure("caching"))
    sealing.put("near:a")
    sealing.client.ask("HSET near:h f v")
    for proto in (2, 3):
        client = sealing.connect(proto)
        before = hits()
        for _ in range(3):
            assert client.ask("GET near:a") == bulk(TEXT)
            assert client.ask("HGET near:h f") == bulk("v")
        assert hits() == before + 4
        send(client, "SET near:a LARGE", "GET near:a", "SET near:a TEXT", "GET near:a")
        assert [client.frame() for _ in range(4)][1::2] == [bulk(LARGE), bulk(TEXT)]
    sealing.damage("near:a")
    wait_until(lambda: sealing.client.ask("GET near:a").startswith(b"-INTEGRITY"))


def test_a_read_whose_connection_is_lost_is_sent_once_more(sealing: Sealing) -> None:
    sealing.put("s:a")
    time.sleep(0.2)  # longer than backoff_max: a connection that has lasted is made again at once
    sealing.relay.stall(Direction.DOWN)
    sealing.client.send("GET s:a", "MGET s:a s:a", "MGET s:a hot:none")
    wait_until(lambda: sealing.relay.held(Direction.DOWN))
    sealing.relay.cut()
    sealing.relay.resume(Direction.DOWN)
    replies = [bulk(TEXT), b"*2\r\n" + bulk(TEXT) * 2, b"*2\r\n" + bulk(TEXT) + b"$-1\r\n"]
    assert [sealing.client.frame() for _ in replies] == replies


def test_tier_where_tells_both_sizes_and_the_digest(sealing: Sealing) -> None:
    stored = sealing.put("s:a")
    sealing.put("s:short", "x")
    with sealing.server.client() as client:
        where = client.execute_command("TIER WHERE", "s:a")
        sizes = (where[b"raw_size"], where[b"stored_size"])
        assert (*sizes, where[b"codec"]) == (len(TEXT), len(stored), b"zstd")
        assert where[b"digest"].startswith(b"sha256:")
        assert client.execute_command("TIER WHERE", "s:short")[b"codec"] == b"none"


def test_clients_at_once_get_their_own_values(sealing: Sealing) -> None:
    """Large and small ones, so that threads answer out of turn."""
    failures: list[tuple[int, int]] = []

    def work(number: int) -> None:
        key = b"s:%d" % number
        with RawClient(sealing.server.port) as client:
            for turn in range(20):
                value = b"%d:%d " % (number, turn) * (20_000 if turn % 4 == number % 4 else 50)
                requests = [[b"SET", key, value], [b"GET", key], [b"MGET", b"s:none"], [b"GETDEL", key]]
                client.socket.sendall(b"".join(map(encode_command, requests)))
                replies = [client.frame() for _ in requests]
                if replies != [b"+OK\r\n", bulk(value), b"*1\r\n$-1\r\n", bulk(value)]:
                    failures.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
