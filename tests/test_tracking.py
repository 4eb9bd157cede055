"""Client-side caching over several homes, and what is not compared with Redis step by step."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection

from tests.homes import toml, wait_for_homes
from tests.rawclient import RawClient, tree
from tests.servers import RedisServer, RedtierServer, wait_until

PREFIXES = {"": "memory", "note:": "sqlite", "working:": "redis"}
HOMES = {"memory": "k", "sqlite": "note:k"}
"""A key of each kind of home whose keys can be tracked."""


@pytest.fixture(scope="module")
def server(redis_server: RedisServer) -> Iterator[RedtierServer]:
    tables = {
        "server": {"tracking_table_max_keys": 10},
        "backends.memory": {"type": "memory", "max_bytes": "1mb"},
        "backends.sqlite": {"type": "sqlite", "path": "redtier.db", "flushable": True},
        "backends.redis": {"type": "redis", "url": redis_server.url, "flushable": True},
    }
    with RedtierServer(toml(tables, PREFIXES)) as server:
        wait_for_homes(server.port, PREFIXES)
        yield server


@pytest.fixture
def port(server: RedtierServer) -> int:
    with RawClient(server.port) as client:
        client.ask("FLUSHALL")
    return server.port


def told(client: RawClient, count: int = 1) -> list[list[bytes]]:
    """The keys of the messages that come next."""
    messages = []
    for _ in range(count):
        kind, items = tree(client.frame())
        assert (kind, items[0]) == (">", ("$", b"invalidate"))
        messages.append([key for _, key in items[1][1]])
    return messages


def info(client: RawClient, field: str) -> int:
    found = re.search(rb"\b%b:([0-9]+)" % field.encode(), client.ask("INFO"))
    assert found
    return int(found[1])


@pytest.mark.parametrize("key", HOMES.values(), ids=HOMES)
def test_the_cache_of_redis_py_is_kept_coherent(port: int, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CacheProxyConnection, "MIN_ALLOWED_VERSION", "7.0.0")  # else it asks for 7.4
    with (
        redis.Redis(port=port, protocol=3, cache_config=CacheConfig()) as reader,
        redis.Redis(port=port) as writer,
    ):
        cache = reader.get_cache()
        assert cache is not None
        writer.set(key, "1")
        assert reader.get(key) == b"1"
        assert cache.size == 1
        writer.set(key, "2")
        wait_until(lambda: reader.get(key) == b"2")
        writer.delete(key)
        wait_until(lambda: reader.get(key) is None)
        reader.set(key, "3")
        assert reader.get(key) == b"3"


@pytest.mark.parametrize("key", HOMES.values(), ids=HOMES)
def test_no_copy_comes_after_the_word_that_it_is_old(port: int, key: str) -> None:
    keys = [f"{key}{n}" for n in range(8)]
    copies: dict[bytes, bytes] = {}
    with RawClient(port, 3) as reader, RawClient(port) as writer:
        reader.ask("CLIENT TRACKING ON")
        for turn in range(30):
            writer.send(*(f"SET {name} {turn}" for name in keys))
            reader.send(*(f"GET {name}" for name in keys))
            for name in keys:
                writer.frame()
                copies[name.encode()] = take(reader, copies)
        reader.send("ECHO end")
        while take(reader, copies) != b"end":
            pass
        for name, copy in copies.items():
            assert tree(writer.ask(f"GET {name.decode()}"))[1] == copy, name


def take(client: RawClient, copies: dict[bytes, bytes]) -> bytes:
    """The next reply; what comes before it drops copies."""
    while True:
        kind, value = tree(client.frame())
        if kind != ">":
            assert isinstance(value, bytes)
            return value
        for _, key in value[1][1]:
            copies.pop(key, None)


@pytest.mark.parametrize("options", ["", " BCAST"])
def test_a_key_of_a_store_is_told_of_when_it_expires(port: int, options: str) -> None:
    with RawClient(port, 3) as reader, RawClient(port) as writer:
        writer.ask("SET note:k v PX 300")
        reader.ask(f"CLIENT TRACKING ON{options}")
        reader.ask("GET note:k")
        assert told(reader) == [[b"note:k"]]
        assert reader.ask("GET note:k") == b"_\r\n"


def test_a_key_that_is_evicted_is_told_of(port: int) -> None:
    with RawClient(port, 3) as reader, RawClient(port) as writer:
        writer.ask("SET k v")
        reader.ask("CLIENT TRACKING ON")
        reader.ask("GET k")
        value = "x" * 1000
        writer.send(*(f"SET fill:{n} {value}" for n in range(2000)))
        for _ in range(2000):
            writer.frame()
        assert told(reader) == [[b"k"]]


def test_the_table_is_bounded(port: int) -> None:
    with RawClient(port, 3) as reader:
        reader.ask("CLIENT TRACKING ON")
        for n in range(10):
            reader.ask(f"GET k{n}")
        assert info(reader, "tracking_total_keys") == info(reader, "tracking_total_items") == 10
        reader.ask("GET k10")
        assert told(reader) == [[b"k0"]]
        assert info(reader, "tracking_total_keys") == info(reader, "tracking_total_items") == 10
        reader.ask("CONFIG SET tracking-table-max-keys 4")
        assert told(reader, 6) == [[b"k%d" % n] for n in range(1, 7)]
        assert info(reader, "tracking_total_keys") == 4
        reader.ask("CONFIG SET tracking-table-max-keys 10")


def test_info_counts_what_is_tracked_and_forgets_who_leaves(port: int) -> None:
    fields = ["tracking_clients", "tracking_total_keys", "tracking_total_items", "tracking_total_prefixes"]
    with RawClient(port) as admin:
        wait_until(lambda: info(admin, "tracking_clients") == 0)
        with RawClient(port, 3) as one, RawClient(port, 3) as two, RawClient(port, 3) as three:
            for each in one, two:
                each.ask("CLIENT TRACKING ON")
                each.ask("GET a")
            one.ask("GET b")
            three.ask("CLIENT TRACKING ON BCAST PREFIX x PREFIX y")
            assert [info(admin, field) for field in fields] == [3, 2, 3, 2]
        wait_until(lambda: [info(admin, field) for field in fields] == [0, 0, 0, 0])


def test_a_key_of_a_redis_is_said_to_be_old_as_soon_as_it_was_read(port: int) -> None:
    with RawClient(port, 3) as reader:
        reader.ask("CLIENT TRACKING ON")
        reader.ask("SET working:k v")
        assert reader.ask("GET working:k") == b"$1\r\nv\r\n"
        assert told(reader) == [[b"working:k"]]


def test_tracking_is_refused_where_all_keys_are_a_redis_own(redis_server: RedisServer) -> None:
    tables = {"backends.redis": {"type": "redis", "url": redis_server.url}}
    with RedtierServer(toml(tables, {"": "redis"})) as server, RawClient(server.port, 3) as client:
        assert client.ask("CLIENT TRACKING ON").startswith(b"-ERR all routes lead to Redis")
        assert b"flags=N" in client.ask("CLIENT INFO")


def test_a_redirection_breaks_as_in_redis(port: int, redis_server: RedisServer) -> None:
    assert broken(port) == broken(redis_server.port)


def broken(port: int) -> list[object]:
    with RawClient(port, 3) as reader, RawClient(port) as writer:
        with RawClient(port, 3) as other:
            id = other.ask("CLIENT ID")[1:-2]
            reader.ask(f"CLIENT TRACKING ON NOLOOP REDIRECT {id.decode()}")
            reader.ask("GET k")
            seen: list[object] = [described(reader, id)]
        wait_until(lambda: b"id=%b " % id not in writer.ask("CLIENT LIST"))
        writer.ask("SET k v")
        seen.append(tree(reader.frame().replace(b":%b\r\n" % id, b":1\r\n")))
        seen.append(described(reader, id))
        seen.append(tree(reader.ask("CLIENT TRACKINGINFO").replace(b":%b\r\n" % id, b":1\r\n")))
        reader.ask("CLIENT TRACKING OFF")
        reader.ask("CLIENT TRACKING ON BCAST")
        seen.append(described(reader, id))
        return seen


def described(client: RawClient, id: bytes) -> list[bytes]:
    """What CLIENT INFO says of tracking."""
    text = client.ask("CLIENT INFO").replace(b"redir=%b " % id, b"redir=other ")
    return re.findall(rb"flags=\S+|redir=\S+", text)


def test_a_client_that_blocks_is_told_meanwhile(port: int) -> None:
    with RawClient(port, 3) as reader, RawClient(port) as writer:
        reader.ask("CLIENT TRACKING ON")
        reader.ask("GET k")
        reader.send("BLPOP q 0")
        wait_until(lambda: b"flags=bt" in writer.ask("CLIENT LIST"))
        writer.ask("SET k v")
        assert told(reader) == [[b"k"]]
        writer.ask("RPUSH q x")
        assert tree(reader.frame()) == ("*", [("$", b"q"), ("$", b"x")])
