"""Backends that die, are cut off or fall silent under load, each while all others are at work.

Only the keys of the one that is in trouble are answered with errors, nobody waits longer than its timeout
says, it is found again without help, and what was acknowledged is there, once.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from tests import s3
from tests.faultproxy import Direction, FaultProxy
from tests.faults.load import Load, load
from tests.homes import PREFIXES, config, wait_for_homes
from tests.servers import MotoServer, PostgresServer, RedisServer, RedtierServer, eventually

pytestmark = pytest.mark.once

SHARED = ("redis", "postgres", "s3")  # by both of the redtiers here
PATIENCE = "2s"  # until a backend that says nothing counts as lost
LOCK_PATIENCE = "200ms"  # with another process that writes to the SQLite database


@pytest.fixture(scope="module")
def place(s3_moto: MotoServer) -> dict[str, Any]:
    return s3.place(s3_moto)


@pytest.fixture(scope="module")
def direct(
    mortal_redis: RedisServer, mortal_postgres: PostgresServer, place: dict[str, Any]
) -> Iterator[RedtierServer]:
    patience = {"backends.postgres": {"timeout": PATIENCE}, "backends.sqlite": {"timeout": LOCK_PATIENCE}}
    with RedtierServer(config(mortal_redis.url, mortal_postgres.url, place, patience)) as redtier:
        wait_for_homes(redtier.port)
        yield redtier


@pytest.fixture(scope="module")
def networks(
    mortal_redis: RedisServer, mortal_postgres: PostgresServer, s3_moto: MotoServer
) -> Iterator[dict[str, FaultProxy]]:
    """What lies between the backends and the redtier that is not ``direct``."""
    with ExitStack() as stack:
        servers = (mortal_redis, mortal_postgres, s3_moto)
        yield {
            kind: stack.enter_context(FaultProxy(server.port))
            for kind, server in zip(SHARED, servers, strict=True)
        }


@pytest.fixture(scope="module")
def relayed(networks: dict[str, FaultProxy], place: dict[str, Any]) -> Iterator[RedtierServer]:
    at = {kind: f"127.0.0.1:{network.port}" for kind, network in networks.items()}
    toml = config(
        f"redis://{at['redis']}",
        f"postgresql://postgres@{at['postgres']}/postgres",
        {**place, "endpoint_url": f"http://{at['s3']}"},
        {f"backends.{kind}": {"timeout": PATIENCE, "connect_timeout": PATIENCE} for kind in networks},
    )
    with RedtierServer(toml) as redtier:
        wait_for_homes(redtier.port)
        yield redtier


def others(*kinds: str) -> list[str]:
    return [prefix for kind, prefix in PREFIXES.items() if kind not in kinds]


async def see_that_all_is_there(at_work: Load, used: RedtierServer, other: RedtierServer) -> None:
    """By the server that was used, near cache and all, and by one that knows only what is stored."""
    await at_work.verify(used.port, *PREFIXES.values())
    await at_work.verify(other.port, *(PREFIXES[kind] for kind in SHARED))


@pytest.mark.parametrize("kind", ["redis", "postgres"])
async def test_a_killed_server_fails_only_its_own_keys_and_comes_back_with_all(
    kind: str,
    direct: RedtierServer,
    relayed: RedtierServer,
    mortal_redis: RedisServer,
    mortal_postgres: PostgresServer,
) -> None:
    server = {"redis": mortal_redis, "postgres": mortal_postgres}[kind]
    async with load(direct.port, PREFIXES.values()) as at_work:
        server.kill()
        try:
            await at_work.trouble(PREFIXES[kind])
            await at_work.progress(*PREFIXES.values())  # its own are answered too, with errors
        finally:
            server.start()
        await at_work.success(PREFIXES[kind])
        assert not at_work.errors(*others(kind))
    await see_that_all_is_there(at_work, direct, relayed)


async def test_an_s3_endpoint_that_is_gone_for_a_while(
    networks: dict[str, FaultProxy], relayed: RedtierServer, direct: RedtierServer
) -> None:
    network = networks["s3"]
    async with load(relayed.port, PREFIXES.values()) as at_work:
        network.refuse()
        network.cut()
        try:
            await at_work.trouble(PREFIXES["s3"])
            await at_work.progress(*PREFIXES.values())
        finally:
            network.refuse(False)
        await at_work.success(PREFIXES["s3"])
        assert not at_work.errors(*others("s3"))
    await see_that_all_is_there(at_work, relayed, direct)


@pytest.mark.parametrize("kind", SHARED)
async def test_connections_that_are_cut_within_replies(
    kind: str, networks: dict[str, FaultProxy], relayed: RedtierServer, direct: RedtierServer
) -> None:
    places = random.Random(kind)
    async with load(relayed.port, PREFIXES.values()) as at_work:
        for _ in range(6):
            networks[kind].truncate(Direction.DOWN, places.randrange(1, 1500))
            await eventually(lambda: not networks[kind].truncating(Direction.DOWN))
            await at_work.progress(PREFIXES[kind], rounds=2)
        await at_work.success(PREFIXES[kind])
        assert not at_work.errors(*others(kind))
    await see_that_all_is_there(at_work, relayed, direct)


@pytest.mark.parametrize("kind", ["redis", "postgres"])  # moto stores what it got of half a request
async def test_connections_that_are_cut_within_requests(
    kind: str, networks: dict[str, FaultProxy], relayed: RedtierServer, direct: RedtierServer
) -> None:
    places = random.Random(kind)
    async with load(relayed.port, PREFIXES.values()) as at_work:
        for _ in range(6):
            networks[kind].truncate(Direction.UP, places.randrange(1, 1500))
            await eventually(lambda: not networks[kind].truncating(Direction.UP))
            await at_work.progress(PREFIXES[kind], rounds=2)
        await at_work.success(PREFIXES[kind])
        assert not at_work.errors(*others(kind))
    await see_that_all_is_there(at_work, relayed, direct)


async def test_backends_that_fall_silent_hold_up_nobody_else(
    networks: dict[str, FaultProxy], relayed: RedtierServer, direct: RedtierServer
) -> None:
    async with load(relayed.port, PREFIXES.values()) as at_work:
        for network in networks.values():
            network.stall(Direction.DOWN)
        try:
            await at_work.progress(*others(*SHARED), rounds=100)
            for kind in SHARED:
                await at_work.trouble(PREFIXES[kind])
        finally:
            for network in networks.values():
                network.cut()
                network.resume(Direction.DOWN)
        for kind in SHARED:
            await at_work.success(PREFIXES[kind])
        assert not at_work.errors(*others(*SHARED))
    await see_that_all_is_there(at_work, relayed, direct)


async def test_a_sqlite_database_that_another_process_has_locked(
    direct: RedtierServer, relayed: RedtierServer
) -> None:
    async with load(direct.port, PREFIXES.values()) as at_work:
        with closing(sqlite3.connect(direct.directory / "redtier.db", isolation_level=None)) as database:
            database.execute("begin immediate")
            await at_work.trouble(PREFIXES["sqlite"])
            await at_work.progress(*others("sqlite"))
        await at_work.success(PREFIXES["sqlite"])
        assert not at_work.errors(*others("sqlite"))
    await see_that_all_is_there(at_work, direct, relayed)
