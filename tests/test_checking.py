"""``redtier check --connect``: what is found of real servers, whole ones and such as lack something."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from backends.base import Grade
from proxy.checking import examine
from proxy.config import load
from tests.backends.test_s3 import Rewriter, without_conditions
from tests.clusters import Cluster
from tests.homes import toml
from tests.s3 import place, raw_client
from tests.servers import (
    TREE,
    MotoServer,
    PgBouncer,
    PostgresServer,
    RedisServer,
    SwiftServer,
    free_port,
)

pytestmark = pytest.mark.once  # what examines is not compiled

FINE, WARNING, MISSING = Grade.FINE, Grade.WARNING, Grade.MISSING

_tables = itertools.count()


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., Any]:
    """What is found of a backend with some settings, to which routes lead."""

    async def found(settings: dict[str, Any], *prefixes: str) -> list[tuple[Grade, str]]:
        routes = {"": "hot"} | dict.fromkeys(prefixes, "it")
        tables = {"backends.hot": {"type": "memory"}, "backends.it": settings}
        (tmp_path / "my.toml").write_text(toml(tables, routes))
        return [tuple(finding) for finding in await examine(load(str(tmp_path / "my.toml")), "it")]

    return found


@pytest.fixture
def table() -> str:
    return f"checked_{next(_tables)}"


# --- Postgres ---


@pytest.fixture
async def sql(postgres: PostgresServer) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(postgres.url)
    yield connection
    await connection.close()


def of_server(findings: list[tuple[Grade, str]]) -> list[tuple[Grade, str]]:
    """Without what the test's server is always found to be: fast, so without fsync."""
    return [finding for finding in findings if not finding[1].startswith("fsync is off")]


async def test_a_postgres_that_is_as_it_should_be(
    found: Callable[..., Any], postgres: PostgresServer, sql: asyncpg.Connection[asyncpg.Record], table: str
) -> None:
    findings = of_server(await found({"type": "postgres", "url": postgres.url, "table": table}))
    version = (await sql.fetchval("show server_version")).split()[0]
    assert findings == [
        (FINE, f"Postgres {version}"),
        (FINE, "reads, writes and deletes, conditionally too"),
    ]
    assert await sql.fetch(f"select * from {table}") == []


async def test_a_pooler_is_noticed_and_what_it_needs(
    found: Callable[..., Any], postgres: PostgresServer, pgbouncer: PgBouncer, table: str
) -> None:
    settings = {"type": "postgres", "url": pgbouncer.url, "table": table, "statement_cache_size": 0}
    findings = of_server(await found(settings))
    assert [text for grade, text in findings if grade is WARNING] == [
        "behind a transaction pooler, which lets no notifications through: let listen_url lead past it"
    ]
    assert findings[-1][0] is FINE
    findings = of_server(
        await found({**settings, "listen_url": pgbouncer.url.replace("127.0.0.1", "localhost")})
    )
    assert findings[-1] == (MISSING, "listen_url leads to a transaction pooler: let it lead past it")
    findings = of_server(await found({**settings, "listen_url": postgres.url}))
    assert {grade for grade, _ in findings} == {FINE}
    del settings["statement_cache_size"]
    texts = [text for _, text in await found({**settings, "listen_url": postgres.url})]
    assert any("set statement_cache_size = 0" in text for text in texts)


async def test_durability_that_is_switched_off_is_a_warning(
    found: Callable[..., Any], postgres: PostgresServer, sql: asyncpg.Connection[asyncpg.Record], table: str
) -> None:
    careless = f"careless_{table}"
    await sql.execute(f"create role {careless} login superuser")
    await sql.execute(f"alter role {careless} set synchronous_commit = off")
    try:
        url = f"postgresql://{careless}@127.0.0.1:{postgres.port}/postgres"
        findings = await found({"type": "postgres", "url": url, "table": table})
        assert (
            WARNING,
            "synchronous_commit is off: acknowledged writes are lost when the server goes down",
        ) in findings
        assert findings[-1][0] is FINE
    finally:
        await sql.execute(f"drop owned by {careless}; drop role {careless}")


async def test_rights_that_are_missing_are_named(
    found: Callable[..., Any], postgres: PostgresServer, sql: asyncpg.Connection[asyncpg.Record], table: str
) -> None:
    guest = f"guest_{table}"
    await sql.execute(f"create role {guest} login")
    url = f"postgresql://{guest}@127.0.0.1:{postgres.port}/postgres"
    try:
        grade, text = (await found({"type": "postgres", "url": url, "table": table}))[-1]
        assert grade is MISSING
        assert "permission denied for schema public; grant it to this user" in text
        await found({"type": "postgres", "url": postgres.url, "table": table})
        await sql.execute(f"grant select on {table}, {table}_meta to {guest}")
        grade, text = (await found({"type": "postgres", "url": url, "table": table}))[-1]
        assert grade is MISSING
        assert f'grant select, insert, update, delete on "{table}"' in text
    finally:
        await sql.execute(f"drop owned by {guest}; drop role {guest}")


async def test_a_server_that_is_not_there(found: Callable[..., Any]) -> None:
    for settings in (
        {"type": "postgres", "url": f"postgresql://127.0.0.1:{free_port()}/x"},
        {"type": "redis", "url": f"redis://127.0.0.1:{free_port()}"},
        {"type": "s3", "bucket": "b", "endpoint_url": f"http://127.0.0.1:{free_port()}", "region": "r"}
        | {"access_key": "a", "secret_key": "s"},
        {"type": "sqlite", "path": "/nowhere/redtier.db"},
    ):
        findings = await found(settings)
        assert [grade for grade, _ in findings] == [MISSING], findings
        assert "\n" not in findings[0][1]


# --- S3 ---


async def test_an_s3_that_honours_conditions(found: Callable[..., Any], s3_moto: MotoServer) -> None:
    assert await found({"type": "s3", **place(s3_moto)}) == [
        (FINE, "lists, puts, gets and deletes objects"),
        (FINE, "conditional writes and deletes are honoured"),
        (FINE, "reads, writes and deletes, conditionally too"),
    ]


async def test_an_s3_that_does_not(found: Callable[..., Any], s3_swift: SwiftServer) -> None:
    where = place(s3_swift)
    findings = await found({"type": "s3", **where})
    assert findings[1] == (WARNING, "conditional writes are not honoured: no other process may write here")
    assert findings[-1][0] is FINE
    findings = await found({"type": "s3", **where, "single_writer": False})
    grade, text = findings[-1]
    assert grade is MISSING
    assert text.startswith("conditional writes are not honoured: set single_writer = true")


async def test_an_s3_without_conditional_deletes(found: Callable[..., Any], s3_moto: MotoServer) -> None:
    with Rewriter(s3_moto.port, without_conditions(b"DELETE")) as rewriter:
        findings = await found({"type": "s3", **place(s3_moto), "endpoint_url": rewriter.url})
    assert findings[1][1].startswith("conditional writes are honoured, conditional deletes are not")
    assert {grade for grade, _ in findings} == {FINE}


async def test_rights_in_a_bucket_that_are_missing_are_named(
    found: Callable[..., Any], s3_moto: MotoServer
) -> None:
    client = raw_client(s3_moto)
    client.create_bucket(Bucket="strict")
    deny = {"Effect": "Deny", "Principal": "*", "Action": ["s3:GetObject", "s3:DeleteObject"]}
    policy = {"Version": "2012-10-17", "Statement": [{**deny, "Resource": "arn:aws:s3:::strict/*"}]}
    client.put_bucket_policy(Bucket="strict", Policy=json.dumps(policy))
    assert await found({"type": "s3", **place(s3_moto), "bucket": "strict"}) == [
        (MISSING, "the credentials do not allow s3:GetObject: grant it"),
        (MISSING, "the credentials do not allow s3:DeleteObject: grant it"),
    ]
    (finding,) = await found({"type": "s3", **place(s3_moto), "bucket": "nowhere"})
    assert finding[0] is MISSING
    assert "bucket 'nowhere' does not exist" in finding[1]


# --- Redis ---


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


async def test_a_redis_that_is_as_it_should_be(found: Callable[..., Any], redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        version = client.info("server")["redis_version"]
        assert await found({"type": "redis", "url": redis_server.url}, "a:", "b:") == [
            (FINE, f"Redis {version}, standalone"),
            (FINE, "reads, writes and deletes a:*"),
            (FINE, "reads, writes and deletes b:*"),
        ]
        assert client.dbsize() == 0


async def test_a_redis_that_evicts_is_a_warning(found: Callable[..., Any], redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert all(grade is FINE for grade, _ in await found({"type": "redis", "url": redis_server.url}))
        client.config_set("maxmemory", "100mb")
    findings = await found({"type": "redis", "url": redis_server.url})
    assert findings[1][0] is WARNING
    assert findings[1][1].startswith(
        "maxmemory-policy is allkeys-lru: it removes keys when its memory is full"
    )


async def test_rights_of_a_redis_user_that_are_missing_are_named(
    found: Callable[..., Any], redis_server: RedisServer
) -> None:
    with redis_server.client() as client:
        client.acl_setuser(
            "app",
            enabled=True,
            nopass=True,
            keys=["a:*"],
            categories=["+@all"],
            commands=["-scan", "-eval_ro"],
        )
    url = f"redis://app:any@127.0.0.1:{redis_server.port}"
    findings = await found({"type": "redis", "url": url}, "a:", "b:")
    missing = [text for grade, text in findings if grade is MISSING]
    assert missing[0].startswith(
        "SCAN is refused (SCAN, KEYS and DBSIZE over all backends ask for it): NOPERM "
    )
    assert missing[1].startswith("EVAL_RO is refused (RENAME and COPY to other backends, mirrors, copies")
    assert missing[2].startswith("SET is refused (keys b:* are of no use without): NOPERM ")
    assert len(missing) == 2 + 6, "and all that is done with a key of b:"


async def test_a_replica_is_refused(found: Callable[..., Any], redis_server: RedisServer) -> None:
    with RedisServer("--replicaof", "127.0.0.1", str(redis_server.port)) as replica:
        findings = await found({"type": "redis", "url": replica.url})
    assert (MISSING, "it is a replica and refuses writes: url must lead to its primary") in findings


async def test_each_server_of_a_cluster_is_looked_at(found: Callable[..., Any]) -> None:
    with Cluster(3, False) as cluster:
        findings = await found({"type": "redis", "url": cluster.url}, "a:")
    assert [text for grade, text in findings if grade is FINE and "cluster" in text] == [findings[0][1]] * 3
    assert findings[-1] == (FINE, "reads, writes and deletes a:*")
    assert len(findings) == 4


# --- memory, and all of it ---


async def test_a_snapshot_that_can_not_be_written(found: Callable[..., Any], tmp_path: Path) -> None:
    settings = {"type": "memory", "snapshot": str(tmp_path / "hot.snapshot")}
    assert await found(settings) == [(FINE, "in the server's own process")]
    grade, text = (await found({**settings, "snapshot": "/nowhere/hot.snapshot"}))[1]
    assert grade is MISSING
    assert text.startswith("no snapshot can be written to /nowhere: ")


def test_it_is_told_a_line_each_and_by_the_exit_code(tmp_path: Path, redis_server: RedisServer) -> None:
    tables: dict[str, dict[str, Any]] = {
        "backends.local": {"type": "sqlite", "path": "local.db"},
        "backends.main": {"type": "redis", "url": redis_server.url},
    }
    (tmp_path / "my.toml").write_text(toml(tables, {"": "local", "working:": "main"}))
    command = [sys.executable, "-P", "-m", "proxy", "check", "my.toml", "--connect"]
    environment = {**os.environ, "PYTHONPATH": str(TREE)}

    def check() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50, check=False
        )

    done = check()
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[-1] == "main   ok       reads, writes and deletes working:*"
    assert lines[-3] == "local  ok       reads, writes and deletes, conditionally too"
    redis_server.kill()
    done = check()
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("main   missing  ")
