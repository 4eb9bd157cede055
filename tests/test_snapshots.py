"""Memory that survives a restart."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from backends.memory import MemoryBackend
from backends.snapshot import (
    DamagedSnapshot,
    SnapshotError,
    SnapshotRecord,
    SnapshotWriter,
    encode,
    read,
    records,
    verify,
)
from proxy.clock import Clock, ManualClock
from proxy.keyspace import STRING, KeyPolicy
from proxy.prefixes import PrefixMap
from proxy.snapshots import Snapshot
from tests.servers import RedtierServer, eventually, wait_until

pytestmark = pytest.mark.once

CONFIG = """
[backends.hot]
type = "memory"
snapshot = "{path}"
snapshot_interval = "{interval}"
max_bytes = "{limit}"
[[routes]]
prefix = ""
backend = "hot"
{more}
"""


@contextmanager
def served(
    path: Path, interval: str = "0", limit: str = "512mb", more: str = ""
) -> Iterator[tuple[RedtierServer, redis.Redis]]:
    config = CONFIG.format(path=path, interval=interval, limit=limit, more=more)
    with RedtierServer(config) as server, server.client() as client:
        yield server, client


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hot.snapshot"


def test_keys_of_all_types_their_times_and_databases_survive(path: Path) -> None:
    with served(path) as (server, client):
        client.set("string", b"\x00\xff" * 1000)
        client.set("number", 42)
        client.append("changed", "in")
        client.append("changed", " place")
        client.rpush("list", *range(1000))
        client.sadd("set", "a", 1, "2")
        client.hset("hash", mapping={f"field:{n}": n for n in range(600)})
        client.hset("parts", mapping={"stays": 1, "goes": 2})
        client.execute_command("HPEXPIREAT", "parts", 4_000_000_000_000, "FIELDS", 1, "goes")
        client.zadd("zset", {"a": 1.5, "b": float("-inf")})
        client.xadd("stream", {"f": "v"}, id="5-1")
        client.xgroup_create("stream", "group", id="0")
        client.set("expires", 1, pxat=4_000_000_000_123)
        client.set("soon", 1, px=1)
        with server.client(db=7) as other:
            other.set("string", "of another database")
        names = sorted(client.keys())
        dumps = {name: client.dump(name) for name in names}
        assert server.stop() == 0
    with served(path) as (_, client):
        assert sorted(client.keys()) == [name for name in names if name != b"soon"]
        assert {name: client.dump(name) for name in client.keys("*")} == {
            name: dump for name, dump in dumps.items() if name != b"soon"
        }
        assert client.pexpiretime("expires") == 4_000_000_000_123
        assert client.execute_command("HPEXPIRETIME", "parts", "FIELDS", 1, "goes") == [4_000_000_000_000]
        assert client.info("keyspace")["db7"]["keys"] == 1


def test_it_is_written_at_an_interval_and_survives_a_kill(path: Path) -> None:
    with served(path, interval="50ms") as (server, client):
        client.mset({f"key:{number}": "v" * 100 for number in range(10_000)})
        saves = client.info("persistence")["rdb_saves"]
        wait_until(lambda: client.info("persistence")["rdb_saves"] >= saves + 2)
        assert client.lastsave().timestamp() > 0
        server.kill()
    with served(path) as (_, client):
        assert client.dbsize() == 10_000


def test_save_and_bgsave(path: Path) -> None:
    with served(path) as (server, client):
        client.set("k", "1")
        assert client.save()
        client.set("k", "2")
        assert client.bgsave(schedule=True)
        wait_until(lambda: client.info("persistence")["rdb_saves"] == 2)
        info = client.info("persistence")
        assert (info["rdb_last_bgsave_status"], info["rdb_bgsave_in_progress"]) == ("ok", 0)
        server.kill()
    with served(path) as (_, client):
        assert client.get("k") == b"2"


def test_what_was_used_last_is_evicted_last_after_a_restart_too(path: Path) -> None:
    with served(path) as (server, client):
        for number in range(100):
            client.set(f"key:{number}", "x" * 10_000)
            if number % 10 == 9:
                wait_until(lambda: client.time()[1] // 1000 % 2 == 0)  # the order is kept to the millisecond
        client.get("key:0")
        assert server.stop() == 0
    with served(path, limit="1200kb") as (_, client):
        for number in range(50):
            client.set(f"new:{number}", "x" * 10_000)
        left = {int(name[4:]) for name in client.keys("key:*")}
        assert 0 in left
        assert 1 not in left
        assert 99 in left


def test_what_has_no_room_or_lives_elsewhere_now_is_left_out(path: Path) -> None:
    with served(path) as (server, client):
        client.mset({f"key:{number}": "x" * 10_000 for number in range(100)})
        client.set("long:a", 1)
        assert server.stop() == 0
    lite = f'[backends.lite]\ntype = "sqlite"\npath = "{path}.db"\n'
    more = lite + '[[routes]]\nprefix = "long:"\nbackend = "lite"'
    with served(path, limit="500kb", more=more) as (server, client):
        assert 30 < client.dbsize() < 50
        assert client.get("long:a") is None
        assert "were left out" in server.log_tail()


@pytest.mark.parametrize("place", [0, 40, -1])
def test_a_damaged_snapshot_is_set_aside(path: Path, place: int) -> None:
    with served(path) as (server, client):
        client.set("k", "v")
        assert server.stop() == 0
    written = bytearray(path.read_bytes())
    written[place] ^= 1
    path.write_bytes(written)
    with served(path) as (server, client):
        assert client.get("k") is None
        client.set("k", "anew")
        [aside] = path.parent.glob("hot.snapshot.damaged-*")
        assert aside.read_bytes() == written
        assert f"is damaged, and set aside as {aside.name}" in server.log_tail()
        assert server.stop() == 0
    with served(path) as (_, client):
        assert client.get("k") == b"anew"


def test_one_that_can_not_be_written_is_told_of(tmp_path: Path) -> None:
    with served(tmp_path / "missing" / "file") as (server, client):
        with pytest.raises(redis.ResponseError, match=r"can't be written: No such file or directory"):
            client.save()
        assert client.info("persistence")["rdb_last_bgsave_status"] == "err"
        assert "can't be written" in server.log_tail()


# A snapshot at work, on a backend without a server


def memory(clock: Clock) -> MemoryBackend:
    return MemoryBackend("hot", 1 << 28, "allkeys-lru", clock, PrefixMap([(b"", KeyPolicy(0, 1 << 28))]))


async def test_of_a_key_that_was_created_anew_behind_the_walk_the_later_record_counts(path: Path) -> None:
    clock = ManualClock()
    written(path, [ONE, TWO], [ONE._replace(raw=b"anew"), TWO._replace(expire_at=clock.ms)])
    backend = memory(clock)
    await Snapshot(backend, path, 0, clock).restore()
    entry = backend.keyspaces[ONE.db].peek(ONE.name)
    assert entry is not None
    assert entry.value == b"anew"
    assert backend.keyspaces[TWO.db].peek(TWO.name) is None
    assert backend.size(ONE.db) == 1
    backend.keyspaces[ONE.db].remove(ONE.name)  # nothing of what was replaced is left in the order of use
    assert (backend.lru.used, backend.lru.count, backend.lru.oldest()) == (0, 0, None)


async def test_one_that_is_cancelled_is_out_of_the_way_of_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    backend = memory(clock)
    backend.keyspaces[0].put(b"k", STRING, b"v")
    snapshot = Snapshot(backend, path, 0, clock)
    syncing, go_on = threading.Event(), threading.Event()
    real = os.fsync

    def slow(descriptor: int) -> None:
        syncing.set()
        assert go_on.wait(10)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    first = asyncio.create_task(snapshot.save(True))
    await eventually(syncing.is_set)
    first.cancel()
    second = asyncio.create_task(snapshot.save(False))
    await asyncio.sleep(0.05)  # time in which the second could take the first one's file
    go_on.set()
    await second
    assert first.cancelled()
    assert verify(path)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_nobody_else_may_read_it(path: Path) -> None:
    written(path, [ONE])
    assert path.stat().st_mode & 0o777 == 0o600


# The file


def written(path: Path, *blocks: list[SnapshotRecord]) -> bytes:
    writer = SnapshotWriter(path)
    writer.begin()
    for block in blocks:
        writer.add(b"".join(map(encode, block)))
    writer.finish(sum(map(len, blocks)))
    return path.read_bytes()


ONE = SnapshotRecord(0, b"one", STRING, b"1" * 100, 0, 1)
TWO = SnapshotRecord(15, b"", STRING, b"", 1 << 60, 2)


def test_what_was_written_is_read(path: Path) -> None:
    assert not verify(path)
    written(path, [ONE, TWO], [TWO])
    assert verify(path)
    assert [list(records(block)) for block in read(path)] == [[ONE, TWO], [TWO]]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_every_flipped_bit_and_every_cut_is_noticed(path: Path) -> None:
    whole = written(path, [ONE], [TWO])
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedSnapshot):
            verify(path)
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes((whole[place] ^ 1 << bit,)) + whole[place + 1 :])
            with pytest.raises(SnapshotError):  # a flipped version is one of a later release
                verify(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedSnapshot):
        verify(path)


def test_blocks_of_another_snapshot_are_noticed(path: Path) -> None:
    first, second = written(path, [ONE], [TWO]), written(path, [ONE], [TWO])
    assert len(first) == len(second)
    half = 24 + 4 + int.from_bytes(first[24:28], "little")
    path.write_bytes(first[:half] + second[half:])
    with pytest.raises(DamagedSnapshot):
        verify(path)


def test_one_that_is_abandoned_leaves_the_one_before(path: Path) -> None:
    before = written(path, [ONE])
    writer = SnapshotWriter(path)
    writer.begin()
    writer.add(encode(TWO))
    writer.abandon()
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before
