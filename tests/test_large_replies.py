"""Clients that get large replies from a Redis use another connection to it than the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from proxy.session import LARGE_REPLY, SMALL_REPLIES
from tests.homes import toml
from tests.rawclient import RawClient
from tests.servers import RedisServer, RedtierServer


@pytest.fixture
def monitor(upstream: RedisServer) -> Iterator[RawClient]:
    with RawClient(upstream.port) as client:
        assert client.ask("MONITOR") == b"+OK\r\n"
        yield client


@pytest.fixture
def upstream(redis_server: RedisServer) -> RedisServer:
    with redis_server.client() as direct:
        direct.flushall()
        direct.set("large", "x" * LARGE_REPLY)
    return redis_server


@contextmanager
def proxied(upstream: RedisServer, lanes: int) -> Iterator[RedtierServer]:
    settings = {"type": "redis", "url": upstream.url, "lanes": lanes}
    with RedtierServer(toml({"backends.main": settings}, {"": "main"})) as server:
        yield server


def ways(monitor: RawClient, *clients: RawClient) -> list[bytes]:
    """Each client's connection to the Redis."""
    return [_way(monitor, client) for client in clients]


def _way(monitor: RawClient, client: RawClient) -> bytes:
    client.ask("GET small")
    while True:
        line = monitor.frame()
        if b'"GET" "small"' in line:
            found = re.search(rb"\[0 (\S+)\]", line)
            assert found is not None
            return found[1]


def test_who_gets_large_replies_leaves_the_others_connection_and_comes_back(
    upstream: RedisServer, monitor: RawClient
) -> None:
    with proxied(upstream, 2) as server, RawClient(server.port) as reader, RawClient(server.port) as other:
        before, shared = ways(monitor, reader, other)
        assert before == shared
        assert len(reader.ask("GET large")) > LARGE_REPLY
        apart, still = ways(monitor, reader, other)
        assert still == shared
        assert apart != shared
        for _ in range(SMALL_REPLIES):
            reader.ask("STRLEN small")
        assert ways(monitor, reader, other) == [shared, shared]


def test_with_one_lane_all_share_it(upstream: RedisServer, monitor: RawClient) -> None:
    with proxied(upstream, 1) as server, RawClient(server.port) as reader, RawClient(server.port) as other:
        reader.ask("GET large")
        assert len(set(ways(monitor, reader, other))) == 1


@pytest.mark.parametrize("script", [False, True])
def test_a_client_that_changes_lanes_keeps_its_order(upstream: RedisServer, script: bool) -> None:
    with proxied(upstream, 2) as server, RawClient(server.port) as client:
        for start in range(0, 20 * SMALL_REPLIES, SMALL_REPLIES):
            lines = ["INCR count"] * SMALL_REPLIES
            lines[7] = lines[21] = "GET large"  # there, and back again in the next round
            lines[40] = "EVAL return(redis.call([[GET]],KEYS[1])) 1 count" if script else "GET count"
            client.send(*lines)
            replies = [client.frame() for _ in lines]
            counted = start // SMALL_REPLIES * (SMALL_REPLIES - 3)
            for line, reply in zip(lines, replies, strict=True):
                if line == "INCR count":
                    counted += 1
                    assert reply == b":%d\r\n" % counted
                elif "large" not in line:
                    assert reply.split(b"\r\n")[1] == b"%d" % counted
