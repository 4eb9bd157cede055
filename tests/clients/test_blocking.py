"""Clients that wait for an element, on keys of every home."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
import redis

from tests.faultproxy import Direction, FaultProxy
from tests.homes import PREFIXES, toml
from tests.rawclient import RawClient
from tests.servers import RedisServer, RedtierServer, wait_until

EACH = pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)


def waiting(client: RawClient) -> int:
    """How many clients wait, here or at a Redis behind."""
    line = next(
        line for line in client.ask("INFO clients").split(b"\r\n") if line.startswith(b"blocked_clients")
    )
    return int(line.partition(b":")[2])


def bulk(*items: str) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(item.encode()), item.encode()) for item in items)


@EACH
def test_who_came_first_is_served_first(port: int, prefix: str) -> None:
    # Several objects in S3 can't be looked at in one step.
    keys = f"{prefix}q" if prefix == PREFIXES["s3"] else f"{prefix}other {prefix}q"
    with ExitStack() as stack:
        writer, *clients = [stack.enter_context(RawClient(port)) for _ in range(4)]
        for number, client in enumerate(clients):
            client.send(f"BLPOP {keys} 0")
            wait_until(lambda number=number: waiting(writer) == number + 1)  # type: ignore[misc]
        assert writer.ask(f"RPUSH {prefix}q a b") in (b":2\r\n",)
        for client, item in zip(clients, "ab", strict=False):
            assert client.frame() == b"*2\r\n" + bulk(f"{prefix}q", item)
        assert writer.ask(f"EXISTS {prefix}q") == b":0\r\n"
        writer.ask(f"RPUSH {prefix}q c")
        assert clients[2].frame() == b"*2\r\n" + bulk(f"{prefix}q", "c")
        assert waiting(writer) == 0


def test_who_came_first_is_served_first_though_its_connection_to_a_redis_comes_later() -> None:
    with ExitStack() as stack:
        upstream = stack.enter_context(RedisServer())
        proxy = stack.enter_context(FaultProxy(upstream.port))
        redis_only = toml(
            {"backends.main": {"type": "redis", "url": f"redis://127.0.0.1:{proxy.port}"}}, {"": "main"}
        )
        port = stack.enter_context(RedtierServer(redis_only)).port
        first, leaving, other, writer = (
            stack.enter_context(RawClient(port, proto)) for proto in (3, 3, 2, 2)
        )
        other.send("BLPOP q 1")
        assert writer.ask("RPUSH q a") == b":1\r\n"
        assert other.frame() == b"*2\r\n" + bulk(
            "q", "a"
        )  # and its connection is there for the next such one
        proxy.stall(Direction.DOWN)
        first.send("BLPOP q 0")
        wait_until(lambda: proxy.held(Direction.DOWN))
        number = leaving.ask("CLIENT ID")[1:-2].decode()
        leaving.send("BLPOP q 0")
        assert writer.ask("CLIENT ID").startswith(b":")
        assert writer.ask(f"CLIENT KILL ID {number}") == b":1\r\n"
        other.send("BLPOP q 0")
        assert writer.ask("CLIENT ID").startswith(b":")  # redtier has read the other's
        proxy.resume(Direction.DOWN)
        wait_until(lambda: waiting(writer) == 2)
        assert writer.ask("RPUSH q b c") == b":2\r\n"
        assert first.frame() == b"*2\r\n" + bulk("q", "b")
        assert other.frame() == b"*2\r\n" + bulk("q", "c")


@EACH
def test_each_kind_of_wait_ends_when_there_is_something(port: int, prefix: str) -> None:
    q, z = f"{prefix}q", f"{prefix}z"
    with RawClient(port) as client, RawClient(port) as writer:
        for request, write, reply in [
            (f"BRPOP {q} 0", f"RPUSH {q} a", b"*2\r\n" + bulk(q, "a")),
            (f"BLMPOP 0 1 {q} LEFT", f"RPUSH {q} b", b"*2\r\n" + bulk(q) + b"*1\r\n" + bulk("b")),
            (f"BZPOPMIN {z} 0", f"ZADD {z} 1 m", b"*3\r\n" + bulk(z, "m", "1")),
            (f"BZPOPMAX {z} 0", f"ZADD {z} 2 n", b"*3\r\n" + bulk(z, "n", "2")),
            (f"BZMPOP 0 1 {z} MIN", f"ZADD {z} 3 o", b"*2\r\n" + bulk(z) + b"*1\r\n*2\r\n" + bulk("o", "3")),
        ]:
            client.send(request)
            wait_until(lambda: waiting(writer) == 1)
            assert writer.ask(write) == b":1\r\n"
            assert client.frame() == reply


@EACH
def test_readers_of_a_stream_all_get_what_is_new(port: int, prefix: str) -> None:
    key = f"{prefix}s"
    with (
        RawClient(port) as one,
        RawClient(port) as two,
        RawClient(port) as grouped,
        RawClient(port) as writer,
    ):
        writer.ask(f"XADD {key} 1-1 old entry")
        writer.ask(f"XGROUP CREATE {key} g $")
        one.send(f"XREAD BLOCK 0 STREAMS {key} $")
        two.send(f"XREAD BLOCK 0 STREAMS {key} 1-1")
        grouped.send(f"XREADGROUP GROUP g me BLOCK 0 STREAMS {key} >")
        wait_until(lambda: waiting(writer) == 3)
        writer.ask(f"XADD {key} 2-1 f v")
        entry = b"*1\r\n*2\r\n" + bulk(key) + b"*1\r\n*2\r\n" + bulk("2-1") + b"*2\r\n" + bulk("f", "v")
        for reader in (one, two, grouped):
            assert reader.frame() == entry


@EACH
def test_what_is_moved_into_a_list_wakes_who_waits_for_that(port: int, prefix: str) -> None:
    if prefix == PREFIXES["s3"]:  # which can't change two keys at once
        return
    with RawClient(port) as mover, RawClient(port) as taker, RawClient(port) as writer:
        mover.send(f"BLMOVE {prefix}a {prefix}b LEFT RIGHT 0")
        taker.send(f"BLPOP {prefix}b 0")
        wait_until(lambda: waiting(writer) == 2)
        writer.ask(f"RPUSH {prefix}a x")
        assert mover.frame() == bulk("x")
        assert taker.frame() == b"*2\r\n" + bulk(f"{prefix}b", "x")


@EACH
def test_a_client_that_leaves_takes_nothing_with_it(port: int, prefix: str) -> None:
    with RawClient(port) as writer:
        with RawClient(port) as client:
            client.send(f"BLPOP {prefix}q 0")
            wait_until(lambda: waiting(writer) == 1)
        wait_until(lambda: waiting(writer) == 0)
        assert writer.ask(f"RPUSH {prefix}q a") == b":1\r\n"
        assert writer.ask(f"LRANGE {prefix}q 0 -1") == b"*1\r\n" + bulk("a")


@EACH
def test_client_unblock_ends_a_wait(port: int, prefix: str) -> None:
    with RawClient(port) as client, RawClient(port) as other:
        id = client.ask("CLIENT ID")[1:-2].decode()
        assert other.ask(f"CLIENT UNBLOCK {id}") == b":0\r\n"
        for how, reply in [
            ("TIMEOUT", b"*-1\r\n"),
            ("ERROR", b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"),
        ]:
            client.send(f"BLPOP {prefix}q 0")
            wait_until(lambda: waiting(other) == 1)
            wait_until(lambda how=how: other.ask(f"CLIENT UNBLOCK {id} {how}") == b":1\r\n")  # type: ignore[misc]
            assert client.frame() == reply


@EACH
def test_a_transaction_wakes_a_client_once_it_is_done(port: int, prefix: str) -> None:
    with RawClient(port) as client, RawClient(port) as writer:
        client.send(f"BLPOP {prefix}q 0")
        wait_until(lambda: waiting(writer) == 1)
        writer.send("MULTI", f"RPUSH {prefix}q a", f"LPUSH {prefix}q b", "EXEC")
        assert client.frame() == b"*2\r\n" + bulk(f"{prefix}q", "b")


def test_a_key_of_another_type_serves_nobody(port: int) -> None:
    with RawClient(port) as client, RawClient(port) as writer:
        client.send("BLPOP short:q 0")
        wait_until(lambda: waiting(writer) == 1)
        writer.send("SET short:q text", "DEL short:q", "SADD short:q a", "DEL short:q", "RPUSH short:q a")
        assert client.frame() == b"*2\r\n" + bulk("short:q", "a")


def test_a_renamed_list_serves_too(port: int) -> None:
    with RawClient(port) as client, RawClient(port) as writer:
        client.send("BLPOP short:q 0")
        wait_until(lambda: waiting(writer) == 1)
        writer.send("RPUSH short:other a", "RENAME short:other short:q")
        assert client.frame() == b"*2\r\n" + bulk("short:q", "a")


@EACH
def test_a_queue_of_redis_py_loses_nothing(port: int, prefix: str) -> None:
    count = 30
    taken: list[bytes] = []

    def take() -> None:
        with redis.Redis(port=port) as client:
            while (popped := client.blpop([f"{prefix}jobs"], timeout=5)) and popped[1] != b"end":
                taken.append(popped[1])

    workers = [threading.Thread(target=take) for _ in range(3)]
    for worker in workers:
        worker.start()
    with redis.Redis(port=port) as client:
        for number in range(count):
            client.rpush(f"{prefix}jobs", number)
        client.rpush(f"{prefix}jobs", *["end"] * len(workers))
    for worker in workers:
        worker.join(timeout=30)
    assert sorted(map(int, taken)) == list(range(count))


def test_the_server_stops_while_clients_wait() -> None:
    with RedtierServer() as server, RawClient(server.port) as client, RawClient(server.port) as other:
        client.send("BLPOP short:q 0")
        wait_until(lambda: waiting(other) == 1)
        assert server.stop(timeout=5) == 0


def test_wait_tells_how_many_replicas_a_redis_has_for_what_was_written() -> None:
    with ExitStack() as stack:
        upstream = stack.enter_context(RedisServer("--repl-diskless-sync-delay", "0"))
        backends = {
            "backends.main": {"type": "redis", "url": upstream.url},
            "backends.hot": {"type": "memory"},
        }
        port = stack.enter_context(RedtierServer(toml(backends, {"": "main", "hot:": "hot"}))).port
        client, other = (stack.enter_context(RawClient(port)) for _ in range(2))
        client.send("SET k v", "WAIT 1 50")
        assert [client.frame(), client.frame()] == [b"+OK\r\n", b":0\r\n"]
        client.send("SET k w", "WAIT 1 0")
        assert client.frame() == b"+OK\r\n"
        wait_until(lambda: waiting(other) == 1)
        replica = stack.enter_context(RedisServer("--replicaof", "127.0.0.1", str(upstream.port)))
        assert client.frame() == b":1\r\n"
        with replica.client() as direct:
            assert direct.get("k") == b"w"
        client.send("WAIT 2 0")
        wait_until(lambda: waiting(other) == 1)
        client.socket.close()
        wait_until(lambda: waiting(other) == 0)
        with upstream.client() as direct:
            wait_until(lambda: direct.info("clients")["blocked_clients"] == 0)
