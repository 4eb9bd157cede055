"""Routes that read from the replicas of a Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from backends.replicas import Follower, parse_followers
from tests.clusters import Cluster
from tests.homes import toml
from tests.rawclient import RawClient
from tests.sentinels import hung
from tests.servers import RedisServer, RedtierServer, wait_until

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

COUNT = 40
POLICIES = ("prefer_replica", "replica", "any")


def routes() -> str:
    """A prefix for each policy, which is named after it."""
    return "".join(
        f'[[routes]]\nprefix = "{name}:"\nbackend = "main"\nread_policy = "{name}"\n' for name in POLICIES
    )


class Replicated:
    """A primary with two replicas behind redtier."""

    def __init__(self, stack: ExitStack) -> None:
        fast = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        self.primary = stack.enter_context(RedisServer(*fast))
        of = ("--replicaof", "127.0.0.1", str(self.primary.port))
        self.replicas = [stack.enter_context(RedisServer(*fast, *of)) for _ in range(2)]
        settings = {"type": "redis", "url": self.primary.url, "timeout": "600ms", "replica_lag_max": "2s"}
        config = toml({"backends.main": settings}, {"": "main"}) + routes()
        self.server = stack.enter_context(RedtierServer(config))
        self.client = stack.enter_context(RawClient(self.server.port))
        self.wait_for(2)

    def wait_for(self, count: int) -> None:
        wait_until(lambda: b",replicas=%d\r\n" % count in self.client.ask("INFO tiers"), 30)

    def fill(self, policy: str) -> list[str]:
        names = [f"{policy}:{number}" for number in range(COUNT)]
        for name in names:
            assert self.client.ask(f"SET {name} {name}") == b"+OK\r\n"
        assert self.client.ask("WAIT 2 1000").startswith(b":")
        for replica in self.replicas:
            if replica in RedisServer.running:
                with replica.client() as direct:
                    wait_until(lambda direct=direct: direct.exists(*names) == COUNT)  # type: ignore[misc]
        return names

    def read(self, names: list[str]) -> list[int]:
        """Read all, and how many reads the primary and each replica were asked."""
        nodes = [self.primary, *self.replicas]
        before = [gets(node) for node in nodes]
        for name in names:
            assert self.client.ask(f"GET {name}") == b"$%d\r\n%b\r\n" % (len(name), name.encode())
        return [gets(node) - count for node, count in zip(nodes, before, strict=True)]


def gets(node: RedisServer) -> int:
    if node not in RedisServer.running:
        return 0
    with node.client(socket_timeout=5) as client:
        return int(client.info("commandstats").get("cmdstat_get", {}).get("calls", 0))


@pytest.fixture(scope="module")
def replicated() -> Iterator[Replicated]:
    with ExitStack() as stack:
        yield Replicated(stack)


@contextmanager
def killed(server: RedisServer) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


def test_reads_go_where_the_policy_says_and_those_of_a_key_to_one_server(replicated: Replicated) -> None:
    for policy, of_primary in (("prefer_replica", False), ("replica", False), ("any", True)):
        names = replicated.fill(policy)
        asked = replicated.read(names)
        assert sum(asked) == COUNT
        assert (asked[0] > 0) == of_primary
        assert all(asked[1:])
        assert replicated.read([names[0]] * 10).count(10) == 1
    names = replicated.fill("")
    assert replicated.read(names) == [COUNT, 0, 0]


def test_what_writes_goes_to_the_primary_and_so_does_what_reads_in_a_transaction(
    replicated: Replicated,
) -> None:
    client = replicated.client
    client.send(
        "MULTI", "INCR any:counter", "GET any:counter", "EXEC", "GETSET any:counter 1", "GETEX any:counter"
    )
    assert client.frame() == b"+OK\r\n"
    assert [client.frame() for _ in range(5)][2:] == [
        b"*2\r\n:1\r\n$1\r\n1\r\n",
        b"$1\r\n1\r\n",
        b"$1\r\n1\r\n",
    ]
    assert client.ask("EVAL \"return redis.call('incr', KEYS[1])\" 1 any:counter") == b":2\r\n"


def test_one_that_is_gone_costs_no_error_and_is_left_out(replicated: Replicated) -> None:
    names = replicated.fill("prefer_replica")
    with killed(replicated.replicas[0]):
        replicated.read(names)
        replicated.wait_for(1)
        asked = replicated.read(names)
        assert asked == [0, 0, COUNT]
    replicated.wait_for(2)


def test_one_that_hangs_or_lags_is_left_out(replicated: Replicated) -> None:
    names = replicated.fill("prefer_replica")
    with hung(replicated.replicas[0]):
        replicated.wait_for(1)
        for name in names:
            assert replicated.client.ask(f"STRLEN {name}") == b":%d\r\n" % len(name)
    replicated.wait_for(2)


def test_without_any_the_primary_is_asked_only_where_the_policy_lets_it(replicated: Replicated) -> None:
    names = {policy: replicated.fill(policy) for policy in POLICIES}
    with killed(replicated.replicas[0]), killed(replicated.replicas[1]):
        replicated.wait_for(0)
        for policy in ("any", "prefer_replica"):
            assert replicated.read(names[policy]) == [COUNT, 0, 0]
        client = replicated.client
        client.send("GET replica:1", "SET replica:1 a", "GET replica:1")
        error, ok, again = (client.frame() for _ in range(3))
        assert error.startswith(
            b"-BACKENDDOWN backend 'main' can't serve now, try again later: there is no replica"
        )
        assert (ok, again) == (b"+OK\r\n", error)
    replicated.wait_for(2)


def test_replicas_of_a_cluster_are_read_from() -> None:
    with Cluster() as cluster:
        config = toml({"backends.main": {"type": "redis", "url": cluster.url}}, {"": "main"}) + routes()
        with RedtierServer(config) as redtier, RawClient(redtier.port) as client:
            wait_until(lambda: b",replicas=3\r\n" in client.ask("INFO tiers"), 30)
            names = [f"replica:{number}" for number in range(COUNT)]
            for name in names:
                assert client.ask(f"SET {name} {name}") == b"+OK\r\n"
                wait_until(
                    lambda name=name: (
                        client.ask(f"GET {name}") == b"$%d\r\n%b\r\n" % (len(name), name.encode())
                    )
                )  # type: ignore[misc]
            assert not any(map(gets, cluster.primaries))
            assert all(map(gets, cluster.replicas))


@pytest.mark.parametrize(
    ("line", "follower"),
    [
        ("slave0:ip=127.0.0.1,port=7001,state=online,offset=14,lag=1", Follower("127.0.0.1:7001", True, 1)),
        ("slave1:ip=::1,port=7002,state=wait_bgsave,offset=0,lag=0", Follower("[::1]:7002", False, 0)),
    ],
)
def test_what_a_primary_says_of_a_replica(line: str, follower: Follower) -> None:
    text = (
        f"# Replication\r\nrole:master\r\nslave_expires_tracked_keys:0\r\n{line}\r\nmaster_repl_offset:14\r\n"
    )
    assert parse_followers(text) == [follower]
