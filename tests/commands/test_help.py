"""CLIENT HELP and its like: in the shape of redis-server's, and with what is served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.homes import toml, wait_for_homes
from tests.rawclient import RawClient, tree
from tests.servers import RedisServer, RedtierServer


@pytest.fixture(scope="module")
def redtier(redis_server: RedisServer) -> Iterator[RedtierServer]:
    """With a route to a Redis: more is served there."""
    tables = {"backends.redis": {"type": "redis", "url": redis_server.url}}
    with RedtierServer(toml(tables, {"": "redis"})) as server:
        wait_for_homes(server.port, [""])
        yield server


def lines_of(client: RawClient, request: str) -> list[str]:
    kind, lines = tree(client.ask(request))
    assert kind == "*"
    assert {kind for kind, _ in lines} == {"+"}
    return [line.decode() for _, line in lines]


@pytest.mark.parametrize(
    "request_line",
    [
        "CLIENT HELP",
        "COMMAND HELP",
        "CONFIG HELP",
        "FUNCTION HELP",
        "LATENCY HELP",
        "MEMORY HELP",
        "OBJECT HELP",
        "PUBSUB HELP",
        "SCRIPT HELP",
        "SLOWLOG HELP",
        "XGROUP HELP",
        "XINFO HELP",
    ],
)
def test_every_subcommand_is_told_of(
    request_line: str, redtier: RedtierServer, redis_server: RedisServer
) -> None:
    container = request_line.split()[0]
    with RawClient(redtier.port) as ours, RawClient(redis_server.port) as theirs:
        _, names = tree(ours.ask(f"COMMAND LIST FILTERBY PATTERN {container}|*"))
        title, *told = lines_of(ours, request_line)
        assert title.split()[0] == lines_of(theirs, request_line)[0].split()[0] == container
        shown = {line.split()[0].lower().encode() for line in told if not line.startswith(" ")}
        assert shown - {b"(none)"} == {name.partition(b"|")[2] for _, name in names}
        assert ours.ask(f"{request_line} x") == theirs.ask(f"{request_line} x")


def test_routes_are_told_of_too(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client:
        lines = lines_of(client, "TIER HELP")
    assert lines[0].startswith("TIER <subcommand>")
    assert "WHERE <key>" in lines


def test_arguments_are_shown(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client:
        lines = lines_of(client, "CLIENT HELP")
    assert "NO-EVICT (ON|OFF)" in lines
    assert "PAUSE <timeout> [WRITE|ALL]" in lines
    assert "LIST [TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [ID <client-id> [<client-id> ...]]" in lines
    assert "UNBLOCK <client-id> [TIMEOUT|ERROR]" in lines
