"""Commands whose connection to a Redis is lost before the reply: what only reads is sent once more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.faultproxy import Direction, FaultProxy
from tests.homes import toml
from tests.rawclient import RawClient
from tests.servers import RedisServer, RedtierServer, wait_until


class Place:
    """A redtier and, behind a network, the Redis of all its keys; another redtier that never retries."""

    def __init__(self, stack: ExitStack, redis: RedisServer) -> None:
        self.redis = redis
        self.network = stack.enter_context(FaultProxy(redis.port))
        options = {
            "type": "redis",
            "url": f"redis://127.0.0.1:{self.network.port}",
            "backoff_max": "1ms",  # what has lasted longer is not lost at once
        }
        tables = {"backends.hot": {"type": "memory"}}
        self.redtiers = [
            stack.enter_context(
                RedtierServer(toml(tables | {"backends.main": options | more}, {"": "main", "short:": "hot"}))
            )
            for more in ({}, {"retry_reads": False})
        ]

    def lose(self, redtier: RedtierServer, *chunks: list[str]) -> list[bytes]:
        """The replies to chunks of commands, which Redis has run when their connection is cut."""
        with RawClient(redtier.port) as client, self.redis.client() as direct:

            def calls() -> int:
                stats = direct.info("commandstats")
                return sum(stats[name]["calls"] for name in stats if name != "cmdstat_info")

            client.ask("GET first")  # connects
            self.network.stall(Direction.DOWN)
            try:
                for chunk in chunks:
                    before = calls()
                    client.send(*chunk)
                    wait_until(lambda before=before: calls() > before)
                self.network.cut()
            finally:
                self.network.resume(Direction.DOWN)
            return [client.frame() for chunk in chunks for _ in chunk]

    def retried(self, redtier: RedtierServer) -> int:
        with redtier.client() as client:
            [fields] = [tier for tier in client.info("tiers").values() if tier.get("type") == "redis"]
        return int(fields["retried"])


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(stack, stack.enter_context(RedisServer()))


@pytest.fixture
def redtier(place: Place) -> RedtierServer:
    with place.redis.client() as client:
        client.flushall()
        client.mset({"a": "1", "b": "2"})
    return place.redtiers[0]


LOST = b"-UPSTREAM "


def test_reads_are_answered_in_their_order(place: Place, redtier: RedtierServer) -> None:
    before = place.retried(redtier)
    replies = place.lose(redtier, ["GET a", "STRLEN b", "GET none"], ["GET b", "GET a"])
    assert replies == [b"$1\r\n1\r\n", b":1\r\n", b"$-1\r\n", b"$1\r\n2\r\n", b"$1\r\n1\r\n"]
    assert place.retried(redtier) == before + 5


@pytest.mark.parametrize(
    "chunks",
    [
        [["GET a", "INCR a", "GET a"]],
        [["GET a"], ["INCR a"]],
        [["MULTI", "GET a", "EXEC"]],
        [["EVAL return{redis.call('get',KEYS[1])} 1 a"]],
    ],
)
def test_nothing_is_retried_where_its_client_writes(
    chunks: list[list[str]], place: Place, redtier: RedtierServer
) -> None:
    before = place.retried(redtier)
    replies = place.lose(redtier, *chunks)
    assert replies[-1].startswith(LOST)
    assert all(reply.startswith((LOST, b"+OK", b"+QUEUED")) for reply in replies)
    assert place.retried(redtier) == before
    with place.redis.client() as client:
        writes = sum(line == "INCR a" for chunk in chunks for line in chunk)
        assert client.get("a") == b"%d" % (1 + writes)


def test_a_read_after_a_lost_write_says_what_became_of_it(place: Place, redtier: RedtierServer) -> None:
    lost, read = place.lose(redtier, ["INCR a"], ["GET a"])
    assert lost.startswith(LOST)
    assert read == b"$1\r\n2\r\n"


def test_a_part_of_a_read_of_several_backends_is_retried(place: Place, redtier: RedtierServer) -> None:
    before = place.retried(redtier)
    assert place.lose(redtier, ["MGET a short:none b"]) == [b"*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n"]
    [lost] = place.lose(redtier, ["DEL a short:none b"])
    assert lost.startswith(LOST)
    assert place.retried(redtier) == before + 1


def test_reads_are_not_retried_where_the_configuration_says_so(place: Place, redtier: RedtierServer) -> None:
    replies = place.lose(place.redtiers[1], ["GET a", "GET b"])
    assert all(reply.startswith(LOST) for reply in replies)
