"""Failovers and resharding in a Redis Cluster while clients write and read back counters of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import pytest

from proxy.slots import key_slot
from tests.clusters import Cluster
from tests.faults.counters import counting
from tests.faults.load import CODES
from tests.homes import toml
from tests.sentinels import hung
from tests.servers import RedisServer, RedtierServer, eventually

pytestmark = [pytest.mark.once, pytest.mark.timeout(150)]

ALLOWED: Final = 1.0  # seconds that we may take beyond the cluster's own failover
CLUSTER_CODES: Final = {*CODES, "CLUSTERDOWN"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def redtier(cluster: Cluster) -> Iterator[RedtierServer]:
    tables = {"backends.main": {"type": "redis", "url": cluster.url}}
    with RedtierServer(toml(tables, {"": "main"})) as redtier:
        yield redtier


@contextmanager
def asked(cluster: Cluster, replica: RedisServer, primary: RedisServer) -> Iterator[None]:
    cluster.cluster(replica, "FAILOVER")
    yield


@contextmanager
def killed(cluster: Cluster, replica: RedisServer, primary: RedisServer) -> Iterator[None]:
    primary.kill()
    try:
        yield
    finally:
        primary.start()


@contextmanager
def stopped(cluster: Cluster, replica: RedisServer, primary: RedisServer) -> Iterator[None]:
    with hung(primary):
        yield


@pytest.mark.parametrize("failing", [asked, killed, stopped])
async def test_a_failover_costs_errors_for_no_longer_than_the_cluster_needs(
    failing: Callable[[Cluster, RedisServer, RedisServer], AbstractContextManager[None]],
    cluster: Cluster,
    redtier: RedtierServer,
) -> None:
    await eventually(cluster.settled, 30)
    slot = 0
    primary = cluster.owner(slot)
    replica = cluster.replica_of(primary)
    async with counting(redtier.port, CLUSTER_CODES) as counters:
        await asyncio.sleep(0.5)
        assert not any(counter.failed_at or counter.setbacks for counter in counters)
        others = [node for node in cluster.primaries if node is not primary]
        with failing(cluster, replica, primary):
            await eventually(
                lambda: (
                    cluster.owner_by(replica, slot) is replica
                    and all(cluster.ok(node) for node in [replica, *others])
                ),
                30,
            )
            at = asyncio.get_running_loop().time()
            await asyncio.sleep(ALLOWED + 0.5)
            for counter in counters:
                assert counter.failed_at < at + ALLOWED, counter.error
                assert any(at < answered < at + ALLOWED for answered in counter.answered)
            # The cluster may have lost what the replica had not got yet, of that primary's keys alone.
            setbacks = [counter.setbacks for counter in counters]
            assert max(setbacks) <= 1
        await eventually(cluster.settled, 30)
        assert [counter.setbacks for counter in counters] == setbacks
        assert all(counter.failed_at < at + ALLOWED for counter in counters)
    for counter in counters:
        with cluster.owner(counter.name.encode()).client() as client:
            assert int(client.get(counter.name)) == counter.count


async def test_resharding_costs_nothing(cluster: Cluster, redtier: RedtierServer) -> None:
    await eventually(cluster.settled, 30)
    async with counting(redtier.port) as counters:
        slots = sorted({key_slot(counter.name.encode()) for counter in counters})
        for _ in range(3):
            for slot in slots:
                source = cluster.owner(slot)
                others = [node for node in cluster.nodes if cluster.has_slots(node) and node is not source]
                await asyncio.to_thread(cluster.move, slot, source, others[slot % len(others)])
        assert not any(counter.failed_at or counter.setbacks for counter in counters)
    for counter in counters:
        with cluster.owner(counter.name.encode()).client() as client:
            assert int(client.get(counter.name)) == counter.count
