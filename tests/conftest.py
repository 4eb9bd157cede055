"""Puts the tree under test first on the path, and gives the servers that a whole run shares.

``REDTIER_TREE=compiled`` tests the compiled copy in build/compiled (``make build``), ``plain`` the sources.

What Hypothesis makes up is the same in each run of the same sources; ``REDTIER_LONG`` looks further, and
differently each time.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator, Iterator
from typing import Final

import pytest
import redis
from hypothesis import settings

from tests.servers import TREE, MotoServer, PgBouncer, PostgresServer, RedisServer, Server, SwiftServer

sys.path.insert(0, str(TREE))

LOGGED: Final = pytest.StashKey[dict[Server, int]]()  # bytes that each server had logged before a test

settings.register_profile(
    "redtier",
    deadline=None,  # the machine may be busy
    print_blob=True,
    derandomize="REDTIER_LONG" not in os.environ,
)
settings.load_profile("redtier")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """To ask it once more: a client costs as much to make as some ten requests."""
    with redis_server.client() as client:
        yield client


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer(fast=True) as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    with PgBouncer(postgres) as server:
        yield server


@pytest.fixture(scope="session")
def s3_moto() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


@pytest.fixture(scope="session")
def s3_swift() -> Iterator[SwiftServer]:
    with SwiftServer() as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may take longest comes first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: -max((mark.args[0] for mark in item.iter_markers("timeout")), default=0))


def pytest_collection_finish() -> None:
    """What was collected is there to the end: the garbage collector need not go through it time and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)  # what tests make is mostly gone before: each look at it is for nothing


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[LOGGED] = {server: server.log.stat().st_size for server in Server.running}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the servers that all tests share logged meanwhile."""
    report = yield
    if report.failed:
        for server in Server.running:
            if log := server.log_tail(since=item.stash[LOGGED].get(server, 0)):
                report.sections.append((f"log of {server}", log))
    return report
