from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from backends.redis import RedisUpstream
from tests.upstreams import Connect


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes upstreams, and closes them when the test is over."""
    made: list[RedisUpstream] = []

    def make(url: str, **options: int | str) -> RedisUpstream:
        upstream = RedisUpstream("main", url, **{"backoff_max": 100, **options})  # type: ignore[arg-type]
        made.append(upstream)
        return upstream

    yield make
    for upstream in made:
        await upstream.close()
        assert upstream.in_flight == 0
