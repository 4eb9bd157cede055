"""CLIENT TRACKING: what a client that keeps copies is told, and when, beside redis-server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby

import pytest

from tests.homes import toml, wait_for_homes
from tests.rawclient import RawClient, tree
from tests.servers import RedisServer, RedtierServer

# Steps: who sends what.  "a" tracks, "b" writes, "c" gets what is redirected; "{c}" is its id.  After each
# one all three show what has come to them.
SCENES = {
    "what was read is told of once": """
        a CLIENT TRACKING ON
        a GET k
        a GET k
        b SET k 1
        b SET k 2
        a MGET k l
        a HGETALL h
        b DEL nosuch
        b HSET h f v
        b MSET k 3 l 4
        a TTL k
        b EXPIRE k 100
        a EXISTS k
        b RENAME k m
        a LRANGE q 0 -1
        b LPUSH q x
        a STRLEN k
        a SET k own
        a GET k
        a INCR n
        b SET n 5
        a CLIENT TRACKINGINFO
        a CLIENT GETREDIR
        a CLIENT TRACKING OFF
        b SET k 6
        a CLIENT TRACKINGINFO
        a CLIENT GETREDIR
    """,
    "one's own changes follow the reply": """
        a CLIENT TRACKING ON
        a GET k
        a SET k v
        a MGET k l
        a MSET k 1 l 2
        a GET k
        a MULTI; SET k 1; GET k; INCR k; EXEC
        b SET k 2
        a GET k
        a DEL k
    """,
    "without the loop": """
        a CLIENT TRACKING ON NOLOOP
        a GET k
        a SET k v
        b SET k v
        a GET k
        b SET k v
        a MGET k l
        a MSET k 1 l 2
        a GET k
        a MULTI; INCR k; EXEC
        a GET k
        b INCR k
        a CLIENT TRACKINGINFO
    """,
    "opt in": """
        a CLIENT TRACKING ON OPTIN
        a GET k
        b SET k 1
        a CLIENT CACHING YES
        a CLIENT TRACKINGINFO
        a GET k
        a GET l
        a CLIENT TRACKINGINFO
        b SET l 1
        b SET k 1
        a CLIENT CACHING YES
        a MULTI; GET k; GET l; EXEC
        a GET m
        b SET l 2
        b SET k 2
        b SET m 2
        a CLIENT CACHING NO
        a CLIENT CACHING maybe
    """,
    "opt out": """
        a CLIENT TRACKING ON OPTOUT
        a CLIENT CACHING NO
        a CLIENT TRACKINGINFO
        a GET k
        a GET l
        b SET k 1
        b SET l 1
        a CLIENT CACHING YES
        a CLIENT CACHING NO
        a NOSUCH
        a GET k
        b SET k 2
    """,
    "broadcast": """
        a CLIENT TRACKING ON BCAST PREFIX k: PREFIX l:
        b SET k:1 v
        b SET other v
        b SET l:1 v
        b DEL k:1
        a SET k:1 own
        a CLIENT TRACKINGINFO
        a CLIENT TRACKING ON BCAST PREFIX m:
        b SET m:1 v
        b SET k:1 v
        a CLIENT TRACKING OFF
        b SET k:1 v
        a CLIENT TRACKING ON BCAST NOLOOP
        a SET x 1
        b SET x 1
    """,
    "redirected": """
        a CLIENT TRACKING ON REDIRECT {c}
        a CLIENT GETREDIR
        a GET k
        b SET k 1
        c SUBSCRIBE __redis__:invalidate
        a GET k
        a CLIENT TRACKINGINFO
        b SET k 2
        a GET k
        a SET k 3
        b FLUSHALL
    """,
    "flushed": """
        a CLIENT TRACKING ON
        a GET k
        b FLUSHDB
        b SET k 1
        a GET k
        a FLUSHALL
        b SET k 1
    """,
    "expired": """
        a CLIENT TRACKING ON
        b SET k v PX 300
        a GET k
        wait
    """,
    "scripts": """
        a CLIENT TRACKING ON
        a EVAL "return redis.call('GET', KEYS[1])" 1 k
        b SET k 1
        a EVAL_RO "return redis.call('GET', KEYS[1])" 1 k
        b EVAL "redis.call('SET', KEYS[1], 2)" 1 k
    """,
    "refused": """
        a CLIENT TRACKING
        a CLIENT TRACKING MAYBE
        a CLIENT TRACKING ON NOSUCH
        a CLIENT TRACKING ON PREFIX k
        a CLIENT TRACKING ON PREFIX
        a CLIENT TRACKING ON REDIRECT x
        a CLIENT TRACKING ON REDIRECT 999999
        a CLIENT TRACKING ON REDIRECT {c} REDIRECT {c}
        a CLIENT TRACKING ON BCAST OPTIN
        a CLIENT TRACKING ON OPTIN OPTOUT
        a CLIENT TRACKING ON BCAST PREFIX k: PREFIX k:1
        a CLIENT CACHING YES
        a CLIENT TRACKING ON OPTIN
        a CLIENT TRACKING ON OPTOUT
        a CLIENT TRACKING ON BCAST
        a CLIENT CACHING NO
        a CLIENT TRACKING OFF
        a CLIENT TRACKING ON BCAST PREFIX k:
        a CLIENT TRACKING ON BCAST PREFIX k
        a CLIENT TRACKING ON
        a CLIENT TRACKINGINFO
        a RESET; CLIENT SETNAME end
        a CLIENT TRACKINGINFO
    """,
}


def play(port: int, scene: str, proto: int) -> list[tuple[str, list[object]]]:
    """What came to each client after each step, and at the end the numbers that INFO shows."""
    seen: list[tuple[str, list[object]]] = []
    with ExitStack() as stack:
        clients = {name: stack.enter_context(RawClient(port, proto)) for name in "abc"}
        clients["b"].ask("FLUSHALL")
        for client in clients.values():
            client.ask("CLIENT SETNAME end")
        other = clients["c"].ask("CLIENT ID")[1:-2].decode() if "{c}" in scene else ""
        for step in scene.strip().splitlines():
            line = step.strip().replace("{c}", other)
            name, _, command = line.partition(" ")
            if name == "wait":
                seen.append((line, [normal(clients["a"].frame(), other)] if proto == 3 else []))
                continue
            clients[name].send(*command.split("; "))
            came = [frame for each in (name, *"abc") for frame in until_end(clients[each], each)]
            # A store tells once of what it commits in one step.
            seen.append((step.strip(), [normal(frame, other) for frame, _ in groupby(came)]))
    return seen


def until_end(client: RawClient, name: str) -> Iterator[bytes]:
    """What comes before the reply to something that is sent now."""
    # CLIENT is the one command that what CLIENT CACHING said outlives; subscribers of RESP2 may not send it.
    client.send("PING end" if name == "c" else "CLIENT GETNAME")
    while b"end" not in (frame := client.frame()):
        yield frame


def normal(frame: bytes, other: str) -> object:
    return tree(frame.replace(b":%b\r\n" % other.encode(), b":999\r\n") if other else frame)


@contextmanager
def own_server(backend: str) -> Iterator[RedtierServer]:
    tables = {f"backends.{backend}": {"type": backend, "flushable": True}}
    with RedtierServer(toml(tables, {"": backend})) as server:
        wait_for_homes(server.port, [""])
        yield server


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def server(request: pytest.FixtureRequest) -> Iterator[RedtierServer]:
    with own_server(request.param) as server:
        yield server


@pytest.mark.parametrize("proto", [2, 3])
@pytest.mark.parametrize("title", SCENES)
def test_a_client_is_told_what_redis_tells_it(
    server: RedtierServer, redis_server: RedisServer, title: str, proto: int
) -> None:
    assert play(server.port, SCENES[title], proto) == play(redis_server.port, SCENES[title], proto)
