"""TIER PURGE on one redtier with a home of each kind."""

from __future__ import annotations

from tests.homes import PREFIXES, toml
from tests.rawclient import RawClient
from tests.servers import RedtierServer, wait_until


def test_what_fits_goes_on_every_tier_and_the_rest_stays(port: int) -> None:
    with RawClient(port) as client:
        for prefix in PREFIXES.values():
            for number in range(25):
                client.ask(f"SET {prefix}old:{number} v")
            client.ask(f"SET {prefix}new v")
            client.ask(f"GET {prefix}old:1")  # which the near cache keeps
        assert client.ask("TIER PURGE *:old:*") == b":%d\r\n" % (25 * len(PREFIXES))
        for prefix in PREFIXES.values():
            assert client.ask(f"EXISTS {prefix}old:1 {prefix}old:24") == b":0\r\n"
            assert client.ask(f"GET {prefix}old:1") == b"$-1\r\n"
            assert client.ask(f"GET {prefix}new") == b"$1\r\nv\r\n"
        assert client.ask("TIER PURGE long:n?w") == b":1\r\n"
        assert client.ask("TIER PURGE nothing:*") == b":0\r\n"


def test_one_database_alone_is_cleared(port: int) -> None:
    with RawClient(port) as client:
        client.ask("SET long:k zero")
        client.ask("SELECT 1")
        client.ask("SET long:k one")
        assert client.ask("TIER PURGE long:* DB 0") == b":1\r\n"
        assert client.ask("EXISTS long:k") == b":1\r\n"
        assert client.ask("TIER PURGE long:*") == b":1\r\n"


def test_a_backend_that_is_not_flushable_is_cleared_by_force_alone() -> None:
    tables = {"backends.hot": {"type": "memory"}, "backends.local": {"type": "sqlite"}}
    with (
        RedtierServer(toml(tables, {"": "hot", "long:": "local"})) as server,
        RawClient(server.port) as client,
    ):
        wait_until(lambda: client.ask("EXISTS long:k") == b":0\r\n")
        client.ask("SET long:k v")
        client.ask("SET k v")
        refused = client.ask("TIER PURGE *")
        assert refused.startswith(b"-ERR")
        assert b"'local'" in refused
        assert client.ask("EXISTS k long:k") == b":2\r\n"
        assert client.ask("TIER PURGE k*") == b":1\r\n"
        assert client.ask("TIER PURGE long:* FORCE") == b":1\r\n"


def test_what_it_is_asked_is_checked(port: int) -> None:
    with RawClient(port) as client:
        assert client.ask("TIER PURGE").startswith(b"-ERR wrong number of arguments")
        assert client.ask("TIER PURGE a DB").startswith(b"-ERR syntax error")
        assert client.ask("TIER PURGE a DB 99").startswith(b"-ERR DB index is out of range")
        assert client.ask("TIER PURGE a b").startswith(b"-ERR syntax error")
