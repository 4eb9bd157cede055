"""Servers that may be killed: they keep what they have acknowledged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import PostgresServer, RedisServer


@pytest.fixture(scope="package")
def mortal_redis() -> Iterator[RedisServer]:
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture(scope="package")
def mortal_postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server
