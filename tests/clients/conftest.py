"""One redtier with a home of each kind, for all clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis

from tests import s3
from tests.homes import PREFIXES, config
from tests.servers import MotoServer, PostgresServer, RedisServer, RedtierServer, wait_until


@pytest.fixture(scope="package")
def redtier(postgres: PostgresServer, s3_moto: MotoServer) -> Iterator[RedtierServer]:
    options: dict[str, dict[str, Any]] = {f"backends.{kind}": {"flushable": True} for kind in PREFIXES}
    options["backends.postgres"]["table"] = "clients"
    with (
        RedisServer() as upstream,
        RedtierServer(config(upstream.url, postgres.url, s3.place(s3_moto), options)) as server,
    ):
        wait_until(lambda: serves(server, "blob:"))  # which takes its time to open
        yield server


def serves(server: RedtierServer, prefix: str) -> bool:
    with suppress(redis.ResponseError), server.client() as client:
        return bool(client.exists(prefix) == 0)
    return False


@pytest.fixture
def port(redtier: RedtierServer) -> int:
    """Of the redtier, whose keys are all gone."""
    with redtier.client() as client:
        client.flushall()
    return redtier.port
