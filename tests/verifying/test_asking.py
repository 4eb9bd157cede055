"""TIER VERIFY and TIER QUARANTINE, asked of a server with a home of each kind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.damage import PostgresVault, S3Vault, SqliteVault, Vault
from tests.homes import config, wait_for_homes
from tests.s3 import place
from tests.servers import MotoServer, PostgresServer, RedisServer, RedtierServer

pytestmark = pytest.mark.once  # what verifies is not compiled

TABLE = "redtier_asking"
TEXT = "words " * 50


class Served:
    def __init__(self, client: redis.Redis, vaults: dict[str, Vault]) -> None:
        self.client = client
        self.vaults = vaults

    def ask(self, *argv: object) -> Any:
        return self.client.execute_command(*argv)  # type: ignore[no-untyped-call]

    def verdict(self, key: str) -> tuple[str, str]:
        told = self.ask("TIER VERIFY", key)
        return told[b"backend"].decode(), told[b"verdict"].decode()


@pytest.fixture(scope="module")
def served(
    redis_server: RedisServer,
    postgres: PostgresServer,
    s3_moto: MotoServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    where = place(s3_moto)
    file: Path = tmp_path_factory.mktemp("asking") / "local.db"
    options = {
        "backends.postgres": {"table": TABLE},
        "backends.sqlite": {"path": str(file)},
    }
    text = config(redis_server.url, postgres.url, where, options)
    text = text.replace(
        'prefix = "working:"', 'prefix = "working:"\ncompression = "zstd"\nintegrity = "sha256"'
    )
    with RedtierServer(text) as server, server.client(protocol=3) as client:
        wait_for_homes(server.port)
        vaults: dict[str, Vault] = {
            "long": PostgresVault(postgres.url, TABLE),
            "blob": S3Vault(s3_moto, where),
            "note": SqliteVault(file),
        }
        yield Served(client, vaults)


@pytest.mark.parametrize(
    ("prefix", "backend"), [("long", "postgres"), ("blob", "s3"), ("note", "sqlite"), ("working", "redis")]
)
def test_a_key_is_verified_where_it_lives(prefix: str, backend: str, served: Served) -> None:
    key = f"{prefix}:a"
    assert served.verdict(key) == (backend, "absent")
    served.client.set(key, TEXT)
    assert served.ask("TIER VERIFY", key) == {
        b"backend": backend.encode(),
        b"kind": b"string",
        b"verdict": b"sound",
        b"reason": b"",
    }


def test_what_has_no_digest_is_said_to_have_none(served: Served) -> None:
    served.client.set("short:a", TEXT)
    served.client.rpush("working:list", "a")
    assert served.verdict("short:a") == ("memory", "unsealed")
    assert served.verdict("short:nosuch") == ("memory", "absent")
    assert served.verdict("working:list") == ("redis", "unsealed")


def test_damage_on_a_redis_is_told(served: Served, redis_server: RedisServer) -> None:
    served.client.set("working:b", TEXT)
    with redis_server.client() as there:
        there.setrange("working:b", 60, b"\0")
    told = served.ask("TIER VERIFY", "working:b")
    assert (told[b"verdict"], told[b"kind"]) == (b"damaged", b"string")
    assert told[b"reason"]


@pytest.mark.parametrize("prefix", ["long", "blob", "note"])
def test_damage_is_seen_through_the_near_cache_and_kept_until_it_is_dropped(
    prefix: str, served: Served
) -> None:
    key, other = f"{prefix}:c", f"{prefix}:d"
    began = time.time() * 1000 - 1000
    served.client.mset({key: TEXT, other: TEXT})
    assert served.client.get(key) == TEXT.encode()
    backend = served.verdict(key)[0]
    for name in (key, other):
        served.vaults[prefix].flip(name.encode(), 100)  # in the digest
        assert served.verdict(name) == (backend, "damaged")
        assert served.verdict(name) == (backend, "damaged")
    kept = {each[b"key"]: each for each in served.ask("TIER QUARANTINE", "LIST", "BACKEND", backend)}
    assert kept.keys() == {key.encode(), other.encode()}
    each = kept[key.encode()]
    assert each | {b"id": b"", b"stored_size": 0, b"found_at": 0} == {
        b"id": b"",
        b"backend": backend.encode(),
        b"db": 0,
        b"key": key.encode(),
        b"kind": b"string",
        b"stored_size": 0,
        b"found_at": 0,
        b"reason": b"the digest does not match",
    }
    assert each[b"stored_size"] > 40
    assert began < each[b"found_at"] <= time.time() * 1000 + 1000
    [first] = served.ask("TIER QUARANTINE", "LIST", "BACKEND", backend, "COUNT", 1)
    [second] = served.ask("TIER QUARANTINE", "LIST", "BACKEND", backend, "AFTER", first[b"id"])
    assert {first[b"key"], second[b"key"]} == kept.keys()

    assert served.ask("TIER QUARANTINE", "DROP", backend, first[b"id"], b"0.1.nosuch") == 1
    assert served.ask("TIER QUARANTINE", "LIST", "BACKEND", backend) == [second]
    assert second in served.ask("TIER QUARANTINE")
    assert served.ask("TIER QUARANTINE", "DROP", backend, second[b"id"]) == 1
    assert served.ask("TIER QUARANTINE", "LIST", "BACKEND", backend) == []


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (
            "QUARANTINE LIST BACKEND memory",
            "'memory' keeps no quarantine; those that do: postgres, s3, sqlite",
        ),
        ("QUARANTINE DROP nosuch 0.1.a", "'nosuch' keeps no quarantine; those that do: postgres, s3, sqlite"),
        ("QUARANTINE DROP sqlite a", "'a' is no id of a record as TIER QUARANTINE LIST shows them"),
        ("QUARANTINE LIST BACKEND s3 AFTER 0.a.a", "'0.a.a' is no id of a record"),
        ("QUARANTINE LIST AFTER 0.1.a", "syntax error"),
        ("QUARANTINE LIST COUNT 0", "value is out of range"),
        ("QUARANTINE LIST COUNT 1001", "value is out of range"),
        ("QUARANTINE KEEP", "syntax error"),
        ("QUARANTINE DROP sqlite", "syntax error"),
    ],
)
def test_what_makes_no_sense_is_refused(line: str, error: str, served: Served) -> None:
    with pytest.raises(redis.ResponseError) as raised:
        served.ask("TIER", *line.split())
    assert str(raised.value).startswith(error)
