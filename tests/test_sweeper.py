"""When a store is swept."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backends.base import StoreError
from proxy import sweeper
from proxy.sweeper import PORTION, Sweeper
from tests.homes import toml
from tests.servers import RedtierServer, wait_until

pytestmark = pytest.mark.once  # it is not compiled


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long it has paused, each time without waiting."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(sweeper.asyncio, "sleep", pause)
    return pauses


async def swept(results: Iterator[int | Exception], active: bool = True) -> list[int]:
    """Run it until the results of its sweeps are at their end; how many records each was to remove."""
    asked: list[int] = []

    async def sweep(limit: int) -> int:
        asked.append(limit)
        result = next(results, None)
        if result is None:
            raise asyncio.CancelledError
        if isinstance(result, Exception):
            raise result
        return result

    with pytest.raises(asyncio.CancelledError):
        await Sweeper("local", sweep, 10.0, 60.0, lambda: active).run()
    return asked


async def test_after_a_full_portion_the_next_follows_at_once(pauses: list[float]) -> None:
    assert await swept(iter([PORTION, PORTION, 3])) == [PORTION] * 4
    assert pauses == [10.0, 10.0]


async def test_while_it_finds_nothing_it_pauses_longer_and_longer(pauses: list[float]) -> None:
    await swept(iter([0, 0, 0, 0, 1, 0]))
    assert pauses == [10.0, 20.0, 40.0, 60.0, 60.0, 10.0, 20.0]


async def test_a_store_that_is_away_is_asked_less_often(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    await swept(iter([StoreError("it is away"), StoreError("it is away"), 1]))
    assert pauses == [10.0, 20.0, 40.0, 10.0]
    assert caplog.messages == ["backend 'local' could not be swept: it is away"] * 2


async def test_whatever_goes_wrong_it_goes_on(pauses: list[float], caplog: pytest.LogCaptureFixture) -> None:
    await swept(iter([KeyError("unforeseen"), 1]))
    assert pauses == [10.0, 20.0, 10.0]
    assert "backend 'local' could not be swept" in caplog.text
    assert "KeyError: 'unforeseen'" in caplog.text


def test_a_server_sweeps_all_that_has_expired_and_nothing_else(tmp_path: Path) -> None:
    local = {"type": "sqlite", "path": str(tmp_path / "local.db"), "sweep_interval": "20ms"}
    config = toml({"backends.local": local}, {"": "local"})
    with RedtierServer(config) as server, server.client() as client:
        pipe = client.pipeline(transaction=False)
        for number in range(2 * PORTION + 10):
            pipe.set(f"brief:{number}", "x", px=500)
        for number in range(10):
            pipe.set(f"stays:{number}", "x", ex=1000 if number % 2 else None)
        pipe.execute()

        def left() -> int:
            with closing(sqlite3.connect(tmp_path / "local.db")) as file:
                count: int = file.execute("SELECT count(*) FROM redtier WHERE db >= 0").fetchone()[0]
                return count

        wait_until(lambda: left() == 10, 30)
        assert client.info("stats")["expired_keys"] == 2 * PORTION + 10
