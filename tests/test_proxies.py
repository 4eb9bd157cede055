"""Two proxies on one Postgres, as their clients see it: what is done through one is heard of at the other."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from tests.faultproxy import Direction, FaultProxy
from tests.homes import toml
from tests.rawclient import RawClient
from tests.servers import PgBouncer, PostgresServer, RedtierServer, wait_until

_tables = itertools.count()


def on(table: str, url: str, **options: Any) -> RedtierServer:
    store = {"type": "postgres", "url": url, "table": table, "listen_heartbeat": "500ms", **options}
    return RedtierServer(toml({"backends.store": store}, {"": "store"}))


def figure(client: RawClient, name: str) -> int:
    found = re.search(rb"\b%b=([0-9]+)" % name.encode(), client.ask("INFO tiers"))
    assert found, name
    return int(found[1])


def wait_for(client: RawClient, listening: bool = True) -> None:
    wait_until(lambda: figure(client, "listening") == listening)


class Pair(NamedTuple):
    here: RawClient
    there: RawClient
    port: int  # of the proxy here
    listening: FaultProxy  # before the connection on which that one listens


@pytest.fixture(scope="module")
def servers(postgres: PostgresServer) -> Iterator[tuple[RedtierServer, RedtierServer, FaultProxy]]:
    table = f"redtier_pair_{next(_tables)}"
    with ExitStack() as stack:
        relay = stack.enter_context(FaultProxy(postgres.port))
        listen_url = f"postgresql://postgres@127.0.0.1:{relay.port}/postgres"
        here = stack.enter_context(on(table, postgres.url, listen_url=listen_url))
        there = stack.enter_context(on(table, postgres.url))
        yield here, there, relay


@pytest.fixture
def pair(servers: tuple[RedtierServer, RedtierServer, FaultProxy]) -> Iterator[Pair]:
    here, there, relay = servers
    with RawClient(here.port, 3) as one, RawClient(there.port) as two:
        wait_for(one)
        wait_for(two)
        yield Pair(one, two, here.port, relay)


def test_who_waits_for_an_element_is_woken(pair: Pair) -> None:
    pair.here.send("BLPOP other waited 0")
    with RawClient(pair.port) as client:
        wait_until(lambda: b"blocked_clients:1" in client.ask("INFO clients"))
    assert pair.there.ask("RPUSH waited a") == b":1\r\n"
    assert pair.here.frame() == b"*2\r\n$6\r\nwaited\r\n$1\r\na\r\n"
    wait_until(lambda: pair.there.ask("EXISTS waited") == b":0\r\n")  # which is on its way to it


def test_a_client_that_keeps_copies_is_told(pair: Pair) -> None:
    pair.there.ask("SET copied v")
    pair.here.ask("CLIENT TRACKING ON")
    assert pair.here.ask("GET copied") == b"$1\r\nv\r\n"
    pair.there.ask("EXPIRE copied 100")
    assert pair.here.frame() == b">2\r\n$10\r\ninvalidate\r\n*1\r\n$6\r\ncopied\r\n"


def test_a_transaction_sees_that_what_it_watches_was_changed(pair: Pair) -> None:
    for change in ("SET watched w", "EXPIRE watched 100", "DEL watched"):
        pair.here.ask("SET watched v")
        pair.here.ask("WATCH watched")
        pair.there.ask(change)
        pair.here.ask("MULTI")
        pair.here.ask("SET watched mine")
        assert pair.here.ask("EXEC") == b"_\r\n", change


def test_a_listener_that_is_half_open_is_noticed_and_nothing_old_is_read(pair: Pair) -> None:
    pair.here.ask("SET stalled v")
    assert pair.here.ask("GET stalled") == b"$1\r\nv\r\n"
    flushes = figure(pair.here, "flushes")
    pair.listening.stall(Direction.DOWN)
    wait_for(pair.here, False)
    pair.there.ask("SET stalled w")
    assert pair.here.ask("GET stalled") == b"$1\r\nw\r\n"
    pair.there.ask("SET stalled x")
    assert pair.here.ask("GET stalled") == b"$1\r\nx\r\n"
    pair.listening.resume(Direction.DOWN)
    wait_for(pair.here)
    assert figure(pair.here, "flushes") == flushes + 1


def test_who_waits_is_served_with_what_came_while_nothing_was_heard(pair: Pair) -> None:
    pair.listening.refuse()
    pair.listening.cut()
    wait_for(pair.here, False)
    pair.here.send("BLPOP unheard 0")
    with RawClient(pair.port) as client:
        wait_until(lambda: b"blocked_clients:1" in client.ask("INFO clients"))
    pair.there.ask("RPUSH unheard a")
    pair.listening.refuse(False)
    assert pair.here.frame() == b"*2\r\n$7\r\nunheard\r\n$1\r\na\r\n"


def test_what_is_read_while_nothing_is_heard_is_told_to_be_old(pair: Pair) -> None:
    pair.here.ask("SET kept v")
    pair.here.ask("CLIENT TRACKING ON")
    assert pair.here.ask("GET kept") == b"$1\r\nv\r\n"
    pair.listening.refuse()
    pair.listening.cut()
    assert pair.here.frame() == b">2\r\n$10\r\ninvalidate\r\n_\r\n"
    assert pair.here.ask("GET kept") == b"$1\r\nv\r\n"
    assert pair.here.frame() == b">2\r\n$10\r\ninvalidate\r\n*1\r\n$4\r\nkept\r\n"
    pair.listening.refuse(False)


@pytest.mark.parametrize("direct", [False, True], ids=["pooled", "direct"])
def test_behind_a_transaction_pooler_only_a_direct_connection_is_listened_on(
    direct: bool, postgres: PostgresServer, pgbouncer: PgBouncer
) -> None:
    table = f"redtier_pair_{next(_tables)}"
    options = {"listen_url": postgres.url} if direct else {}
    with ExitStack() as stack:
        here = stack.enter_context(on(table, pgbouncer.url, statement_cache_size=0, **options))
        there = stack.enter_context(on(table, postgres.url))
        one, two = (stack.enter_context(RawClient(server.port)) for server in (here, there))
        if direct:
            wait_for(one)
        else:
            wait_until(lambda: "a notification did not come back" in here.log_tail())
            assert figure(one, "listening") == 0
        one.ask("SET k v")
        assert one.ask("GET k") == b"$1\r\nv\r\n"
        two.ask("SET k w")
        wait_until(lambda: one.ask("GET k") == b"$1\r\nw\r\n")
        wait_for(two)
