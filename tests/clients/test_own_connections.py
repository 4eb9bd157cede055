"""Connections to a Redis that a client has for itself: how many, how clean, and gone when it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest
import redis

from tests.faultproxy import Direction, FaultProxy
from tests.homes import toml
from tests.rawclient import RawClient
from tests.servers import RedisServer, RedtierServer, wait_until

pytestmark = pytest.mark.once

MOST: Final = 2  # connections of clients' own


class Place:
    def __init__(
        self, stack: ExitStack, redtier: RedtierServer, proxy: FaultProxy, direct: redis.Redis
    ) -> None:
        self.port, self.proxy, self.direct = redtier.port, proxy, direct
        self._stack = stack

    def occupied(self) -> int:
        """How many connections clients have for themselves, as redtier tells."""
        with redis.Redis(port=self.port) as client:
            [tier] = [
                each
                for each in client.info("tiers").values()
                if isinstance(each, dict) and each.get("name") == "main"
            ]
        return int(tier["dedicated"])

    def client(self, proto: int = 2) -> RawClient:
        return self._stack.enter_context(RawClient(self.port, proto))

    def last(self, command: str) -> set[str]:
        """The connections at the Redis, by number, whose last command was this one."""
        return {each["id"] for each in self.direct.client_list() if each["cmd"] == command}


@pytest.fixture
def place() -> Iterator[Place]:
    with ExitStack() as stack:
        upstream = stack.enter_context(RedisServer())
        proxy = stack.enter_context(FaultProxy(upstream.port))
        backend = {"type": "redis", "url": f"redis://127.0.0.1:{proxy.port}", "dedicated_max": MOST}
        redtier = stack.enter_context(RedtierServer(toml({"backends.main": backend}, {"": "main"})))
        yield Place(stack, redtier, proxy, stack.enter_context(upstream.client()))


def blocked(place: Place, count: int) -> None:
    wait_until(lambda: place.direct.info("clients")["blocked_clients"] == count)


def test_there_are_so_many_and_one_that_is_left_is_free_at_once(place: Place) -> None:
    first, second, third = (place.client() for _ in range(3))
    for number, client in enumerate((first, second), 1):
        client.send("BLPOP q 0")
        blocked(place, number)
        assert place.occupied() == number
    for line in ("BLPOP q 0", "WATCH k"):
        refused = third.ask(line)
        assert refused.startswith(b"-BACKENDDOWN backend 'main' can't serve now"), refused
        assert refused.endswith(b"which is dedicated_max\r\n")
    assert third.ask("GET k") == b"$-1\r\n"
    first.socket.close()
    blocked(place, 1)
    assert place.occupied() == 1
    third.send("BLPOP q 0")
    blocked(place, 2)
    place.direct.rpush("q", "a", "b")
    for client in (second, third):
        assert client.frame().startswith(b"*2\r\n$1\r\nq\r\n")
    assert place.direct.exists("q") == 0  # and the one that has left took none


@pytest.mark.parametrize("line", ["BLPOP q 0", "WATCH k"])
def test_a_client_may_leave_while_its_connection_is_made(place: Place, line: str) -> None:
    other = place.client()
    assert other.ask("GET k") == b"$-1\r\n"  # so that the lane is there
    before = place.proxy.connections
    place.proxy.stall(Direction.DOWN)
    try:
        leaving = [place.client(3) for _ in range(MOST)]
        for client in leaving:
            client.send(line)
        wait_until(lambda: place.proxy.connections == before + MOST)
        for client in leaving:
            client.socket.close()
        wait_until(lambda: b"connected_clients:1\r\n" in other.ask("INFO clients"))
    finally:
        place.proxy.resume(Direction.DOWN)
    for number in (1, 2):
        place.client(3).send("BLPOP q 0")
        blocked(place, number)


def test_they_are_kept_for_the_next_client(place: Place) -> None:
    client = place.client()
    place.direct.rpush("q", *range(20))
    assert client.ask("BLPOP q 0").startswith(b"*2")
    kept = place.last("blpop")
    for _ in range(9):
        assert place.client().ask("BLPOP q 0").startswith(b"*2")
    assert place.last("blpop") == kept
    for _ in range(10):
        client.send("WATCH k", "MULTI", "LPOP q", "EXEC")
        assert [client.frame() for _ in range(4)][3].startswith(b"*1")
    assert len(place.last("blpop") | place.last("select")) == 2
    assert place.occupied() == 0


def test_those_that_are_kept_make_room_for_others(place: Place) -> None:
    place.direct.rpush("q", "a", "b")
    client = place.client()
    client.send("BLPOP q 0", "WATCH k", "EXEC", "MULTI", "EXEC", "SELECT 3", "WATCH k", "MULTI", "EXEC")
    assert [client.frame() for _ in range(9)][8] == b"*0\r\n"
    for number in range(1, MOST + 1):
        place.client(3).send("BLPOP none 0")
        blocked(place, number)


def test_what_one_client_watched_is_nothing_to_the_next(place: Place) -> None:
    first, next_one = place.client(), place.client()
    for end in (["MULTI", "EXEC"], ["UNWATCH"], ["MULTI", "DISCARD"]):
        first.send("WATCH k", *end)
        assert first.frame() == b"+OK\r\n"
        for _ in end:
            first.frame()
        assert next_one.ask("WATCH l") == b"+OK\r\n"
        place.direct.set("k", "changed")
        next_one.send("MULTI", "SET mine 1", "EXEC")
        assert [next_one.frame() for _ in range(3)][2] == b"*1\r\n+OK\r\n", end
    leaving = place.client()
    assert leaving.ask("WATCH k") == b"+OK\r\n"
    leaving.socket.close()
    wait_until(lambda: not place.last("watch"))


def test_in_whatever_database_one_client_was_the_next_one_is_in_its_own(place: Place) -> None:
    first, next_one = place.client(), place.client()
    first.send("WATCH k", "SELECT 3", "WATCH l", "MULTI", "SET k three", "SELECT 5", "SET k five", "EXEC")
    assert [first.frame() for _ in range(8)][7] == b"*3\r\n+OK\r\n+OK\r\n+OK\r\n"
    next_one.send("WATCH l", "MULTI", "SET k zero", "EXEC")
    assert [next_one.frame() for _ in range(4)][3] == b"*1\r\n+OK\r\n"
    assert place.direct.get("k") == b"zero"


def test_who_is_told_to_wait_no_longer_ends_nobody_elses_wait(place: Place) -> None:
    first, next_one, other = (place.client() for _ in range(3))
    number = first.ask("CLIENT ID")[1:-2].decode()
    for _ in range(20):
        first.send("BLPOP q 0")
        blocked(place, 1)
        wait_until(lambda: other.ask(f"CLIENT UNBLOCK {number}") == b":1\r\n")
        assert first.frame() == b"*-1\r\n"
        next_one.send("BLPOP q 0")
        blocked(place, 1)
        place.direct.rpush("q", "a")
        assert next_one.frame() == b"*2\r\n$1\r\nq\r\n$1\r\na\r\n"
