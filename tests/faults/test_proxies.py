"""Three proxies on one store, killed and cut off while sixty clients are at work: see ``tests.proxies``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from tests import s3
from tests.homes import toml
from tests.proxies import Proxies, ordeal
from tests.servers import MotoServer, PostgresServer, RedtierServer

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]

SECONDS = 12.0


def on(backend: dict[str, Any], **route: Any) -> RedtierServer:
    return RedtierServer(toml({"backends.store": backend}, {"": "store"}, {"": route}))


async def test_postgres_keeps_every_promise_of_all_of_them(mortal_postgres: PostgresServer) -> None:
    def make(address: str) -> RedtierServer:
        url = f"postgresql://postgres@{address}/postgres"
        backend = {"type": "postgres", "url": url, "table": "redtier_proxies"}
        return on(backend, chunk_over=200, chunk_size=64)  # lists in chunks, however short

    with ExitStack() as stack:
        proxies = Proxies(stack, make, mortal_postgres.port)
        report = await ordeal(proxies, SECONDS, clients=60, keys=1000, pause=0.5, atomic=True)
    assert report.broken == []
    assert report.kills
    assert report.cuts
    assert report.cached
    assert report.acknowledged.keys() == {"INCR", "RPUSH", "LPOP", "2 in MULTI", "MULTI of two keys"}


async def test_s3_keeps_every_promise_of_all_of_them(s3_moto: MotoServer) -> None:
    place = s3.place(s3_moto)

    def make(address: str) -> RedtierServer:
        return on({"type": "s3", **place, "endpoint_url": f"http://{address}"})

    with ExitStack() as stack:
        proxies = Proxies(stack, make, s3_moto.port)
        report = await ordeal(proxies, SECONDS, clients=60, keys=200, pause=1.5, atomic=False)
    assert report.broken == []
    assert report.kills
    assert report.cuts
    assert report.acknowledged.keys() >= {"INCR", "RPUSH", "2 in MULTI"}
