"""MULTI, EXEC and WATCH on keys of every home, with other clients and other proxies in between."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.homes import PREFIXES, toml
from tests.rawclient import RawClient
from tests.servers import PostgresServer, RedisServer, RedtierServer, wait_until

EACH = pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)


@EACH
def test_what_another_client_writes_between_watch_and_exec_undoes_it(port: int, prefix: str) -> None:
    with RawClient(port) as client, RawClient(port) as other:
        client.ask(f"SET {prefix}k 1")
        assert client.ask(f"WATCH {prefix}k") == b"+OK\r\n"
        client.ask("MULTI")
        client.ask(f"INCR {prefix}k")
        other.ask(f"SET {prefix}k 5")
        assert client.ask("EXEC") == b"*-1\r\n"
        assert client.ask(f"GET {prefix}k") == b"$1\r\n5\r\n"
        client.send("MULTI", f"INCR {prefix}k", "EXEC")
        assert [client.frame() for _ in range(3)] == [b"+OK\r\n", b"+QUEUED\r\n", b"*1\r\n:6\r\n"]


@EACH
def test_what_another_client_only_reads_does_not(port: int, prefix: str) -> None:
    with RawClient(port) as client, RawClient(port) as other:
        client.ask(f"SET {prefix}k 1")
        client.ask(f"WATCH {prefix}k")
        other.ask(f"GET {prefix}k")
        client.send("MULTI", f"INCR {prefix}k", "EXEC")
        assert [client.frame() for _ in range(3)][2] == b"*1\r\n:2\r\n"


@EACH
def test_redis_py_counts_without_losing_one(port: int, prefix: str) -> None:
    """Its ``transaction`` tries again for as long as others are quicker."""
    clients = [redis.Redis(port=port) for _ in range(4)]
    for _ in range(5):
        for client in clients:

            def step(pipe: redis.client.Pipeline) -> None:
                value = int(pipe.get(f"{prefix}n") or 0)
                pipe.multi()
                pipe.set(f"{prefix}n", value + 1)

            client.transaction(step, f"{prefix}n")
    assert clients[0].get(f"{prefix}n") == b"20"
    for client in clients:
        client.close()


@EACH
def test_a_watched_key_that_expires_undoes_it(port: int, prefix: str) -> None:
    with RawClient(port) as client, RawClient(port) as other:
        client.ask(f"SET {prefix}k 1 PX 400")
        client.ask(f"WATCH {prefix}k")
        wait_until(lambda: other.ask(f"EXISTS {prefix}k") == b":0\r\n")
        client.send("MULTI", "PING", "EXEC")
        assert [client.frame() for _ in range(3)][2] == b"*-1\r\n"


def test_a_watched_key_that_is_flushed_undoes_it_if_it_was_there(port: int) -> None:
    with RawClient(port) as client, RawClient(port) as other:
        client.ask("SET short:k 1")
        client.ask("WATCH short:k")
        other.ask("FLUSHALL")
        client.send("MULTI", "PING", "EXEC")
        assert [client.frame() for _ in range(3)][2] == b"*-1\r\n"
        client.ask("WATCH short:none")
        other.ask("FLUSHALL")
        client.send("MULTI", "PING", "EXEC")
        assert [client.frame() for _ in range(3)][2] == b"*1\r\n+PONG\r\n"


def test_nothing_of_a_refused_transaction_is_done(port: int) -> None:
    with RawClient(port) as client:
        client.send("MULTI", "SET short:k 1", "SET long:k 1", "EXEC")
        *_, refusal = [client.frame() for _ in range(4)]
        assert refusal.startswith(b"-CROSSTIER")
        assert b"pipeline(transaction=False)" in refusal
        assert client.ask("EXISTS short:k long:k") == b":0\r\n"
        assert client.ask("EXEC") == b"-ERR EXEC without MULTI\r\n"


@pytest.mark.parametrize("proto", [2, 3])
def test_split_each_backend_executes_its_part_and_replies_come_in_order(proto: int) -> None:
    with RedisServer() as upstream:
        tables = {
            "transactions": {"across": "split"},
            "backends.hot": {"type": "memory"},
            "backends.main": {"type": "redis", "url": upstream.url},
            "backends.local": {"type": "sqlite"},
        }
        routes = {"": "hot", "working:": "main", "long:": "local"}
        with (
            RedtierServer(toml(tables, routes)) as server,
            redis.Redis(port=server.port, protocol=proto) as client,
        ):
            wait_until(lambda: all(client.exists(f"{prefix}k") == 0 for prefix in ("working:", "long:")))
            pipe = client.pipeline()
            for number, prefix in enumerate(["short:", "working:", "long:"] * 2):
                pipe.set(f"{prefix}{number}", number)
                pipe.get(f"{prefix}{number}")
            pipe.ping()
            pipe.incr("working:text")
            expected = [each for n in range(6) for each in (True, b"%d" % n)]
            assert pipe.execute() == [*expected, True, 1]
            assert client.get("long:5") == b"5"


@pytest.fixture
def two_proxies(postgres: PostgresServer) -> Iterator[list[RawClient]]:
    tables = {"backends.archive": {"type": "postgres", "url": postgres.url, "table": "shared"}}
    config = toml(tables, {"": "archive"})
    with (
        RedtierServer(config) as one,
        RedtierServer(config) as two,
        RawClient(one.port) as first,
        RawClient(two.port) as second,
    ):
        for client in (first, second):
            wait_until(lambda client=client: client.ask("EXISTS k") == b":0\r\n")  # type: ignore[misc]
        yield [first, second]


def test_another_proxy_undoes_it_too(two_proxies: list[RawClient]) -> None:
    first, second = two_proxies
    first.ask("MSET k 1 other 1")
    first.ask("WATCH k")
    second.ask("SET k 2")
    first.send("MULTI", "SET other 9", "EXEC")
    assert [first.frame() for _ in range(3)][2] == b"*-1\r\n"
    assert second.ask("GET other") == b"$1\r\n1\r\n"


def test_a_client_that_leaves_watches_nothing(port: int) -> None:
    for _ in range(3):
        with RawClient(port) as client:
            for prefix in PREFIXES.values():
                assert client.ask(f"WATCH {prefix}k") == b"+OK\r\n"
            client.ask("MULTI")
    with RawClient(port) as client:
        assert client.ask("SET short:k 1") == b"+OK\r\n"


def test_a_transaction_is_bounded() -> None:
    with RedtierServer('[server]\nquery_buffer_max = "1mb"\n') as server, RawClient(server.port) as client:
        client.ask("MULTI")
        value = "x" * 100_000
        replies = [client.ask(f"SET short:k {value}") for _ in range(12)]
        assert replies[0] == b"+QUEUED\r\n"
        assert replies[-1].startswith(b"-TOOLARGE")
        assert client.ask("EXEC").startswith(b"-EXECABORT")
        assert client.ask("EXISTS short:k") == b":0\r\n"
