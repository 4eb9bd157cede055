"""The servers behind the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from typing import Any

import pytest

from tests import s3
from tests.differential.compare import Open
from tests.differential.targets import HANDLERS, ROUTE_OPTIONS, SERVERS, connect, handlers
from tests.homes import toml, wait_for_homes
from tests.servers import MotoServer, PostgresServer, RedisServer, RedtierServer


@pytest.fixture(scope="session")
def opener(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Open]]:
    """Opens sessions on the target of a name; its server starts when it is first asked for."""
    with ExitStack() as servers:

        def place(backend: str) -> dict[str, Any]:
            if backend == "redis":
                return {"url": servers.enter_context(RedisServer()).url}
            if backend == "postgres":
                postgres: PostgresServer = request.getfixturevalue("postgres")
                return {"url": postgres.url}
            if backend == "s3":
                moto: MotoServer = request.getfixturevalue("s3_moto")
                return s3.place(moto)
            return {}

        @cache
        def open_of(name: str) -> Open:
            if name == HANDLERS:
                return handlers
            tables = {
                f"backends.{backend}": {"type": backend, "flushable": True, **place(backend)}
                for backend in SERVERS[name].values()
            }
            routes = toml(tables, SERVERS[name], ROUTE_OPTIONS.get(name))
            port = servers.enter_context(RedtierServer(routes)).port
            wait_for_homes(port, SERVERS[name])
            return partial(connect, port)

        yield open_of
