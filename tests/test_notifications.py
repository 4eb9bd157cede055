"""Keyspace notifications, beside redis-server's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.notifications import CLASS_OF, Notifications, parse
from tests.homes import toml
from tests.rawclient import RawClient
from tests.servers import RedisServer, RedtierServer

COMMANDS = Path(__file__).parents[1] / "proxy" / "commands"
HAPPENINGS = [
    "SET k 1",
    "SETEX k 100 v",
    "APPEND k x",
    "DEL k",
    "INCR n",
    "INCRBYFLOAT n 1.5",
    "SETRANGE n 0 7",
    "SETBIT n 0 1",
    "EXPIRE n 100",
    "PERSIST n",
    "COPY n m",
    "RENAME m o",
    "MOVE o 1",
    "GETDEL n",
    "SADD s a b",
    "SREM s a",
    "SPOP s",
    "PFADD p a",
    "MSET a 1 b 2",
    "EXPIRE a -1",
]


@pytest.mark.parametrize("flags", ["", "K", "E", "KE", "AKE", "KEA", "g", "Kg$lshzxe", "Elx", "KEgd"])
def test_the_setting_is_told_as_redis_tells_it(flags: str, redis_server: RedisServer) -> None:
    with RawClient(redis_server.port) as redis:
        redis.ask(f"CONFIG SET notify-keyspace-events '{flags}'")
        expected = redis.ask("CONFIG GET notify-keyspace-events").split(b"\r\n")[-2].decode()
        redis.ask("CONFIG SET notify-keyspace-events ''")
    notifications = Notifications(lambda channel, message: None)
    notifications.choose(flags)
    assert notifications.flags == expected


def test_a_letter_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="Invalid event class character"):
        parse("KEy")
    with pytest.raises(ValueError, match="not told of here"):
        parse("KEm")


def test_every_event_of_every_handler_has_a_class() -> None:
    names = {
        name
        for path in COMMANDS.glob("*.py")
        for name in re.findall(r'\.event\(\s*"([a-z_-]+)"', path.read_text())
    }
    assert len(names) > 10
    assert names - CLASS_OF.keys() == set()


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def server(request: pytest.FixtureRequest) -> Iterator[RedtierServer]:
    kind = request.param
    with RedtierServer(toml({"backends.it": {"type": kind, "flushable": True}}, {"": "it"})) as server:
        yield server


@pytest.mark.parametrize("flags", ["AKE", "AE", "K$"])
def test_they_are_published_as_redis_publishes_them(
    server: RedtierServer, flags: str, redis_server: RedisServer
) -> None:
    def heard(port: int) -> list[bytes]:
        with RawClient(port) as listener, RawClient(port) as client:
            client.ask("FLUSHALL")
            assert client.ask(f"CONFIG SET notify-keyspace-events {flags}") == b"+OK\r\n"
            listener.ask("PSUBSCRIBE __key*@*__:*")
            for line in HAPPENINGS:
                client.ask(line)
            client.ask("CONFIG SET notify-keyspace-events ''")
            client.ask("PUBLISH __keyspace@0__:end end")
            frames = [listener.frame()]
            while not frames[-1].endswith(b"end\r\n"):
                frames.append(listener.frame())
            return frames

    assert heard(server.port) == heard(redis_server.port)
