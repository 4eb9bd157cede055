"""TIER: which route a key has and where it lives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rawclient import RawClient, mapping, tree
from tests.servers import RedtierServer


@pytest.fixture(scope="module")
def client() -> Iterator[RawClient]:
    """Of a server without a configuration."""
    with RedtierServer() as server, RawClient(server.port, 3) as client:
        yield client


def answer(client: RawClient, line: str) -> dict[bytes, bytes]:
    return {name: value for name, (_, value) in mapping(tree(client.ask(line))).items()}


def test_where_tells_of_a_key_in_memory(client: RawClient) -> None:
    client.ask("SET short:k hello")
    where = answer(client, "TIER WHERE short:k")
    assert int(where[b"raw_size"]) == 5
    assert where[b"stored_size"] == tree(client.ask("MEMORY USAGE short:k"))[1]
    assert where | {b"stored_size": b""} == where | {
        b"route": b"short:",
        b"backend": b"memory",
        b"type": b"memory",
        b"kind": b"string",
        b"stored_size": b"",
    }


def test_where_tells_of_a_stored_key(client: RawClient) -> None:
    client.ask(f"SET long:k {'x' * 1000} PXAT 33177117420123")
    where = answer(client, "TIER WHERE long:k")
    assert where[b"route"] == b"long:"
    assert where[b"type"] == b"sqlite"
    assert where[b"codec"] == b"zstd"
    assert where[b"digest"].startswith(b"sha256:")
    assert where[b"expire_at"] == b"33177117420123"
    assert int(where[b"raw_size"]) == 1000
    assert 0 < int(where[b"stored_size"]) < 100


def test_where_tells_of_a_key_that_is_not_there(client: RawClient) -> None:
    assert answer(client, "TIER WHERE long:nosuch")[b"kind"] == b"none"
    assert answer(client, "TIER WHERE other")[b"route"] == b""


def test_where_looks_into_the_database_that_is_selected(client: RawClient) -> None:
    client.ask("SELECT 2")
    client.ask("SET short:two v")
    assert answer(client, "TIER WHERE short:two")[b"kind"] == b"string"
    client.ask("SELECT 0")
    assert answer(client, "TIER WHERE short:two")[b"kind"] == b"none"


def test_routes_are_told_in_the_order_of_their_prefixes(client: RawClient) -> None:
    kind, routes = tree(client.ask("TIER ROUTES"))
    assert kind == "*"
    told = [{name: value for name, (_, value) in mapping(route).items()} for route in routes]
    assert [route[b"prefix"] for route in told] == [b"", b"long:", b"short:", b"working:"]
    assert {route[b"state"] for route in told} == {b"up"}
    assert told[1] | {b"calls": b"", b"errors": b""} == {
        b"prefix": b"long:",
        b"backend": b"local",
        b"type": b"sqlite",
        b"state": b"up",
        b"cache": b"1",
        b"write": b"through",
        b"ttl": b"0",
        b"max_value": b"67108864",
        b"compression": b"zstd",
        b"integrity": b"sha256",
        b"dictionary": b"none",
        b"calls": b"",
        b"errors": b"",
        b"mirror": b"",
        b"offload": b"",
    }


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("TIER", "wrong number of arguments for 'tier' command"),
        ("TIER WHERE", "wrong number of arguments for 'tier|where' command"),
        ("TIER ROUTES x", "wrong number of arguments for 'tier|routes' command"),
        ("TIER OTHER", "unknown subcommand 'OTHER'. Try TIER HELP."),
    ],
)
def test_what_is_no_request_is_refused(line: str, error: str, client: RawClient) -> None:
    assert client.ask(line) == f"-ERR {error}\r\n".encode()


def test_help(client: RawClient) -> None:
    lines = client.ask("TIER HELP").decode().split("\r\n")
    assert lines[0] == "*17"
    assert "+PURGE <pattern> [DB <index>] [FORCE]" in lines
    assert "+WHERE <key>" in lines
