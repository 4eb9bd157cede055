"""``write = "back"`` as users run it: what commands see, who may write, what is shown of it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import redis

from tests import s3
from tests.copies import Copies
from tests.homes import toml, wait_for_homes
from tests.servers import MotoServer, PostgresServer, RedtierServer, free_port, wait_until

pytestmark = pytest.mark.once  # it takes long


def config(backend: Mapping[str, object], http: int, **options: object) -> str:
    return toml(
        {
            "http": {"listen": f"127.0.0.1:{http}"},
            "backends.memory": {"type": "memory"},
            "backends.cold": {**backend, "journal": "journal", "flushable": True, **options},
        },
        {"long:": "cold", "": "memory"},
        {"long:": {"write": "back"}},
    )


class Proxy(RedtierServer):
    def __init__(self, backend: Mapping[str, object], **options: object) -> None:
        self.http = free_port()
        super().__init__(config(backend, self.http, **options))

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text


@pytest.fixture(scope="module")
def blobs(s3_moto: MotoServer) -> Iterator[Proxy]:
    with Proxy({"type": "s3", **s3.place(s3_moto)}) as server:
        wait_for_homes(server.port, ["long:"])
        yield server


@pytest.fixture
def client(blobs: Proxy) -> Iterator[redis.Redis]:
    with blobs.client(decode_responses=True) as client:
        client.flushall()
        yield client


def test_steps_on_several_keys_of_s3_are_steps(client: redis.Redis) -> None:
    assert client.mset({"long:a": "1", "long:b": "2"})
    assert not client.msetnx({"long:b": "3", "long:c": "3"})
    assert client.exists("long:c") == 0
    assert client.msetnx({"long:c": "3", "long:d": "4"})
    client.rename("long:c", "long:e")
    pipe = client.pipeline(transaction=True)
    pipe.incr("long:a")
    pipe.rpush("long:list", "x", "y")
    assert pipe.execute() == [2, 2]
    assert client.mget("long:a", "long:b", "long:c", "long:d", "long:e") == ["2", "2", None, "4", "3"]


def test_every_type_is_kept(client: redis.Redis) -> None:
    client.rpush("long:list", *range(100))
    client.hset("long:hash", mapping={"a": 1})
    client.zadd("long:zset", {"a": 1, "b": 2})
    client.xadd("long:stream", {"a": "1"}, id="1-1")
    client.expire("long:hash", 1000)
    assert client.dbsize() == 4  # all of them are in the store now
    assert client.persist("long:hash") == 1
    assert client.llen("long:list") == 100
    assert client.zrange("long:zset", 0, -1) == ["a", "b"]
    assert client.xrange("long:stream") == [("1-1", {"a": "1"})]
    assert client.ttl("long:hash") == -1


def test_walks_and_flushes_see_what_is_dirty(client: redis.Redis) -> None:
    for number in range(30):
        client.set(f"long:{number}", "x" * number)
    assert {*client.scan_iter("long:*", count=7)} == {f"long:{number}" for number in range(30)}
    assert client.dbsize() == 30
    client.set("long:more", 1)
    client.flushdb()
    assert client.keys("*") == []
    assert client.get("long:more") is None


def test_a_watched_key_undoes_a_transaction(blobs: Proxy, client: redis.Redis) -> None:
    client.set("long:watched", 1)
    client.dbsize()
    pipe = client.pipeline(transaction=True)
    pipe.watch("long:watched")
    with blobs.client() as other:
        other.set("long:watched", 2)
        other.dbsize()
    pipe.multi()
    pipe.set("long:watched", 3)
    with pytest.raises(redis.WatchError):
        pipe.execute()
    assert client.get("long:watched") == "2"


def test_depth_and_age_are_shown(blobs: Proxy, client: redis.Redis) -> None:
    client.set("long:a", 1)
    tiers = [tier for tier in client.info("tiers").values() if tier.get("name") == "cold"]
    assert tiers[0]["journal_bytes"] > 0
    assert tiers[0]["writer"] == "self"
    assert {"dirty_keys", "dirty_age", "journal_max", "flushed", "overtaken"} <= tiers[0].keys()
    ready = json.loads(blobs.get("readyz"))
    [cold] = [backend for backend in ready["backends"] if backend["name"] == "cold"]
    assert cold["journal"]["journal_max"] == 1 << 28
    assert {"dirty_keys", "dirty_age"} <= cold["journal"].keys()
    metrics = blobs.get("metrics")
    assert 'redtier_lease_held{backend="cold"} 1.0' in metrics
    assert 'redtier_journal_max_bytes{backend="cold"} 2.68435456e+08' in metrics
    assert 'redtier_dirty_age_seconds{backend="cold"}' in metrics


def test_one_proxy_writes_and_the_other_names_it_and_reads(postgres: PostgresServer) -> None:
    backend = {"type": "postgres", "url": postgres.url, "table": "back"}
    with Proxy(backend, lease="1s") as first, Proxy(backend, lease="1s") as second:
        for each in (first, second):
            wait_for_homes(each.port, ["long:"])
        with first.client(decode_responses=True) as one, second.client(decode_responses=True) as two:
            one.set("long:a", 1)
            one.dbsize()
            assert two.get("long:a") == "1"
            with pytest.raises(redis.exceptions.ReadOnlyError) as refused:
                two.set("long:a", 2)
            assert f"process {first.pid}, journal" in str(refused.value)
            assert two.set("hot", 1)
            first.kill()
            wait_until(lambda: _writes(two))
            assert two.get("long:a") == "2"
            first.start()
            wait_for_homes(first.port, ["long:"])
            with pytest.raises(redis.exceptions.ReadOnlyError):
                one.set("long:a", 3)
            second.stop()
            wait_until(lambda: one.set("long:a", 3) if _writes(one) else False)
            assert one.get("long:a") == "3"


def test_who_reads_elsewhere_sees_what_was_flushed(postgres: PostgresServer, s3_moto: MotoServer) -> None:
    postgres_backend = {"type": "postgres", "url": postgres.url, "table": "seen"}
    for backend in (postgres_backend, {"type": "s3", **s3.place(s3_moto)}):
        with Proxy(backend) as first, Proxy(backend) as second:
            for each in (first, second):
                wait_for_homes(each.port, ["long:"])
            with first.client() as one, second.client() as two:
                for number in range(5):
                    one.set("long:a", number)
                    assert one.get("long:a") == b"%d" % number
                    one.dbsize()
                    wait_until(lambda seen=b"%d" % number: two.get("long:a") == seen, 5)


def _writes(client: redis.Redis) -> bool:
    try:
        return bool(client.set("long:a", 2))
    except redis.exceptions.ReadOnlyError:
        return False


def test_a_copy_says_what_it_can_not_see_and_does_not_write_past_a_journal(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    copies = Copies(
        tmp_path,
        {
            "kept": {"type": "sqlite", "path": "kept.db", "journal": "journal"},
            "plain": {"type": "postgres", "url": postgres.url, "table": "copied"},
        },
        long="kept",
    )
    copies.options["long:"] = {"write": "back"}
    copies.write()
    out, err = copies.copy("kept", "plain")
    assert "has not flushed yet is not seen here" in out + err
    _, err = copies.copy("plain", "kept", code=2)
    assert 'stop that, and take write = "back" and journal out' in err
