"""Commands of a Redis' modules, which nobody has told us of."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxy.everywhere import merged
from tests.clusters import Cluster
from tests.homes import toml
from tests.rawclient import RawClient
from tests.servers import RedisServer, RedtierServer, wait_until

pytestmark = pytest.mark.once  # nothing of it is compiled


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("module") / "tests.so"
    source = Path(__file__).with_name("module.c")
    command = ["cc", "-shared", "-fPIC", "-Wall", "-Wno-unused-variable", "-o", str(library), str(source)]
    subprocess.run(command, check=True, timeout=60)
    library.chmod(0o755)
    return library


@pytest.fixture
def clients(module: Path) -> Iterator[tuple[RawClient, RawClient]]:
    """Of a redtier with such a Redis behind it, and of that Redis."""
    with ExitStack() as stack:
        upstream = stack.enter_context(RedisServer("--loadmodule", str(module)))
        backends = {
            "backends.main": {"type": "redis", "url": upstream.url},
            "backends.hot": {"type": "memory"},
        }
        server = stack.enter_context(RedtierServer(toml(backends, {"hot:": "hot", "": "main"})))
        client, direct = (stack.enter_context(RawClient(each.port)) for each in (server, upstream))
        wait_until(lambda: client.ask("TESTS.KEYLESS").startswith(b"*"))
        yield client, direct


def test_they_are_answered_as_the_redis_answers_them(clients: tuple[RawClient, RawClient]) -> None:
    client, direct = clients
    direct.ask("LPUSH l a")
    for proto in (2, 3):
        for line in (
            f"HELLO {proto}",
            "MODULE LIST",
            "TESTS.SET k v",
            "tests.get k",
            "TESTS.GET k",
            "TESTS.GET none",
            "TESTS.PAIRS a 1 b 2",
            "TESTS.KEYLESS a b",
            "TESTS.GET",
            "TESTS.GET l",
            "TESTS.SET hot k v",
            "COMMAND GETKEYS TESTS.PAIRS a 1 b 2",
            "TESTS.WAIT k 1",
            "TESTS.COUNTED 2 a b c",
            "TESTS.COUNTED 9 a",
            "TESTS.AFTER a FROM b c",
            "TESTS.AFTER a",
            "TESTS.LAST a b c 2",
            "TESTS.LAST a b 0",
            "TESTS.LAST",
            "TESTS.BOTH KEYED k",
            "TESTS.BOTH KEYLESS",
            "TESTS.BOTH NOSUCH k",
            "TESTS.BOTH",
        ):
            ours, theirs = client.ask(line), direct.ask(line)
            assert line.startswith("HELLO") or ours == theirs, line
    transaction = ["MULTI", "TESTS.SET k v", "TESTS.GET k", "TESTS.KEYLESS a", "TESTS.AFTER FROM k", "EXEC"]
    for each in (client, direct):
        each.send(*transaction)
    assert [client.frame() for _ in transaction] == [direct.frame() for _ in transaction]


def test_elsewhere_and_where_they_can_not_be_sent_they_are_refused(
    clients: tuple[RawClient, RawClient],
) -> None:
    client, _ = clients
    assert client.ask("TESTS.GET hot:k") == (
        b"-ERR 'tests.get' is not served on this tier (memory): use a key whose prefix is routed to Redis\r\n"
    )
    assert client.ask("TESTS.PAIRS a 1 hot:b 2").startswith(b"-CROSSTIER")
    for line in (
        "TESTS.LAST a hot:b c 2",
        "TESTS.AFTER FROM hot:b",
        "TESTS.COUNTED 1 hot:b",
        "TESTS.BOTH KEYED hot:k",
    ):
        assert b" is not served on this tier (memory)" in client.ask(line), line
    for line in ("TESTS.LAST a b hot:c 2", "TESTS.AFTER FROM a hot:b", "TESTS.COUNTED 2 a hot:b"):
        assert client.ask(line).startswith(b"-CROSSTIER"), line
    client.send("MULTI", "TESTS.LAST a b 1", "EXEC")
    refusal, aborted = [client.frame() for _ in range(3)][1:]
    assert refusal.startswith(b"-ERR 'tests.last' asks backends that must be waited for")
    assert aborted.startswith(b"-EXECABORT")
    assert client.ask("TESTS.ADMIN").startswith(b"-ERR 'tests.admin' is not sent over the connections")
    assert client.ask("PING") == b"+PONG\r\n"


def test_one_that_is_loaded_later_is_found_when_it_is_asked_for(module: Path) -> None:
    with ExitStack() as stack:
        upstream = stack.enter_context(RedisServer("--enable-module-command", "yes"))
        text = toml({"backends.main": {"type": "redis", "url": upstream.url}}, {"": "main"})
        server = stack.enter_context(RedtierServer(text))
        client, direct = (stack.enter_context(RawClient(each.port)) for each in (server, upstream))
        assert client.ask("TESTS.SET k v").startswith(b"-ERR unknown command 'TESTS.SET'")
        assert direct.ask(f"MODULE LOAD {module}") == b"+OK\r\n"
        wait_until(lambda: client.ask("TESTS.SET k v") == b"+OK\r\n")


def test_what_names_no_key_is_run_on_every_server_of_a_cluster_if_its_tips_say_so(module: Path) -> None:
    with Cluster(3, False, "--loadmodule", str(module)) as cluster:
        tables = {"backends.main": {"type": "redis", "url": cluster.url}}
        with (
            RedtierServer(toml(tables, {"": "main"})) as server,
            RawClient(server.port) as client,
            RawClient(server.port, 3) as other,
        ):
            wait_until(lambda: client.ask("TESTS.KEYLESS").startswith(b"*"))
            for number in range(20):
                assert client.ask(f"SET key:{number} 1") == b"+OK\r\n"
            for each in (client, other):
                assert each.ask("TESTS.SIZE") == b":20\r\n"
                assert each.ask("TESTS.KEYLESS a") == b"*2\r\n$13\r\nTESTS.KEYLESS\r\n$1\r\na\r\n"
                assert each.ask("TESTS.EVERYWHERE") == b"*3\r\n" + 3 * b"$16\r\nTESTS.EVERYWHERE\r\n"
                assert each.ask("TESTS.GET key:1") == b"$1\r\n1\r\n"


@pytest.mark.parametrize(
    ("policy", "wires", "reply"),
    [
        ("", [b"*1\r\n:1\r\n", b"*2\r\n:2\r\n:3\r\n"], b"*3\r\n:1\r\n:2\r\n:3\r\n"),
        ("", [b"%1\r\n:1\r\n:2\r\n", b"%0\r\n"], b"%1\r\n:1\r\n:2\r\n"),
        ("", [b"+OK\r\n", b"+OK\r\n"], b"+OK\r\n"),
        ("", [b"+OK\r\n", b"-ERR no\r\n"], b"-ERR no\r\n"),
        ("one_succeeded", [b"-ERR no\r\n", b"+OK\r\n"], b"+OK\r\n"),
        ("one_succeeded", [b"-ERR no\r\n", b"-ERR nor\r\n"], b"-ERR no\r\n"),
        ("all_succeeded", [b"+OK\r\n", b"-ERR no\r\n"], b"-ERR no\r\n"),
        ("agg_sum", [b":1\r\n", b":2\r\n"], b":3\r\n"),
        ("agg_min", [b":1\r\n", b":2\r\n"], b":1\r\n"),
        ("agg_max", [b":1\r\n", b":2\r\n"], b":2\r\n"),
        ("agg_logical_and", [b"*2\r\n:1\r\n:1\r\n", b"*2\r\n:0\r\n:1\r\n"], b"*2\r\n:0\r\n:1\r\n"),
        ("agg_logical_or", [b":0\r\n", b":1\r\n"], b":1\r\n"),
        ("special", [b"*1\r\n:1\r\n", b"*1\r\n:2\r\n"], b"*1\r\n:1\r\n"),
    ],
)
def test_replies_of_several_servers_become_one(policy: str, wires: list[bytes], reply: bytes) -> None:
    assert merged([f"response_policy:{policy}"] if policy else [], wires, 2) == reply
