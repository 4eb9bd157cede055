"""SORT, beyond its replies (which differential/ compares): what it loads, and numbers that Redis confuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backends.base import Want
from proxy.commands.lists import lrange, rpush
from proxy.commands.sort import sort, sort_ro
from proxy.commands.strings import mset
from proxy.errors import CommandError, NeedKeys
from proxy.keyspace import KeyPolicy
from tests.commands.keyspaces import PartlyLoaded, make_memory
from tests.rawclient import RawClient
from tests.servers import RedtierServer


@pytest.mark.plain
def test_all_that_patterns_name_is_asked_for_in_two_steps() -> None:
    inner, _ = make_memory()
    rpush(inner, [b"RPUSH", b"k", b"1", b"2", b"3"])
    mset(inner, [b"MSET", b"w_1", b"9", b"w_2", b"5", b"w_3", b"7", b"o_2", b"two"])
    known = {(0, b"k"): Want.VALUE.value}
    keyspace = PartlyLoaded(inner, known)
    asked: list[list[bytes]] = []
    argv = b"SORT k BY w_* GET o_* GET p_* LIMIT 0 2".split()
    while True:
        try:
            reply = sort(keyspace, argv)
        except NeedKeys as need:
            asked.append(need.names)
            known |= {(0, name): need.want for name in need.names}
        else:
            break
    assert asked == [[b"w_1", b"w_2", b"w_3"], [b"o_2", b"p_2", b"o_3", b"p_3"]]
    assert reply == [b"two", None, None, None]


# Redis 7.0 tells these by an errno that may be left from elsewhere, so that they can't be compared.
@pytest.mark.parametrize("text", [b"1e400", b"-1e400", b"1e-400", b"1e-310", b"0x1p-1050"])
def test_what_no_double_can_hold_is_no_score(text: bytes) -> None:
    keyspace, _ = make_memory()
    rpush(keyspace, [b"RPUSH", b"k", b"1", text])
    with pytest.raises(CommandError, match="can't be converted into double"):
        sort_ro(keyspace, [b"SORT_RO", b"k"])
    assert sort_ro(keyspace, [b"SORT_RO", b"k", b"ALPHA"]) == sorted([b"1", text])


def test_a_result_that_is_too_large_replaces_nothing() -> None:
    keyspace, _ = make_memory(routes=[(b"small", KeyPolicy(ttl=0, max_value=200))])
    rpush(keyspace, [b"RPUSH", b"small", b"kept"])
    rpush(keyspace, [b"RPUSH", b"k", b"2", bytes(200)])
    with pytest.raises(CommandError, match="TOOLARGE"):
        sort(keyspace, b"SORT k ALPHA STORE small".split())
    assert lrange(keyspace, b"LRANGE small 0 -1".split()) == [b"kept"]


@pytest.fixture(scope="module")
def redtier() -> Iterator[RedtierServer]:
    with RedtierServer() as server:
        yield server


class TestPatterns:
    """On the built-in routes: ``long:`` is at home in SQLite, all else in memory."""

    @pytest.mark.parametrize(
        "line",
        ["SORT ids BY long:*", "SORT_RO long:ids GET w_*", "SORT long:ids GET # GET long:* BY short:*->f"],
    )
    def test_that_lead_elsewhere_for_sure_are_refused(self, line: str, redtier: RedtierServer) -> None:
        with RawClient(redtier.port) as client:
            assert client.ask(line).startswith(b"-CROSSTIER 'sort")
            assert client.ask("MULTI") == b"+OK\r\n"
            client.ask(line)
            assert client.ask("EXEC").startswith(b"-CROSSTIER 'sort")

    @pytest.mark.parametrize("prefix", ["", "long:"])
    def test_that_may_lead_to_the_same_home_are_looked_up_there(
        self, prefix: str, redtier: RedtierServer
    ) -> None:
        with RawClient(redtier.port) as client:
            client.send(
                f"RPUSH {prefix}ids {prefix}a {prefix}b",
                f"MSET {prefix}a 2 {prefix}b 1",
                f"SORT {prefix}ids BY *",
                f"SET {prefix}b 3",
                f"SORT_RO {prefix}ids BY *",
            )
            frames = [client.frame() for _ in range(5)]
        a, b = (
            b"$%d\r\n%b\r\n" % (len(name), name) for name in (f"{prefix}a".encode(), f"{prefix}b".encode())
        )
        assert frames[2] == b"*2\r\n" + b + a
        assert frames[4] == b"*2\r\n" + a + b
