"""``redtier backup`` and ``redtier restore`` as a user runs them: processes of their own, on real servers."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import Cluster
from tests.copies import DEBUG, facts, fill, writing
from tests.homes import toml
from tests.s3 import place
from tests.servers import TREE, MotoServer, PostgresServer, RedisServer, wait_until

pytestmark = pytest.mark.once  # what reads and writes archives is not compiled


@pytest.fixture
def first_redis() -> Iterator[RedisServer]:
    with RedisServer(*DEBUG) as server:
        yield server


@pytest.fixture
def second_redis() -> Iterator[RedisServer]:
    with RedisServer(*DEBUG) as server:
        yield server


class Archives:
    """A configuration, and archives of its backends."""

    def __init__(self, directory: Path, backends: Mapping[str, Mapping[str, Any]]) -> None:
        self.directory = directory
        tables = {f"backends.{name}": dict(backend) for name, backend in backends.items()}
        tables["backends.hot"] = {"type": "memory"}
        (directory / "my.toml").write_text(toml(tables, {"": "hot"}) + '[http]\nlisten = ""\n')

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-P", "-m", "proxy", *arguments],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(TREE)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """What it says on stdout and stderr; it must end with ``code``."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=50)
        finally:
            process.kill()
        assert process.returncode == code, out + err
        return out, err

    def backup(self, source: str, file: str, *options: str, code: int = 0) -> tuple[str, str]:
        return self.run("backup", "--config", "my.toml", "--from", source, "--to", file, *options, code=code)

    def restore(self, file: str, target: str, *options: str, code: int = 0) -> tuple[str, str]:
        return self.run("restore", "--config", "my.toml", "--from", file, "--to", target, *options, code=code)

    def size(self, name: str) -> int:
        """Bytes of a file, 0 while there is none."""
        file = self.directory / name
        return file.stat().st_size if file.exists() else 0


@pytest.mark.timeout(180)  # many processes
def test_all_types_come_back_from_archives_of_all_backends_as_they_left(
    tmp_path: Path,
    first_redis: RedisServer,
    second_redis: RedisServer,
    postgres: PostgresServer,
    s3_moto: MotoServer,
) -> None:
    archives = Archives(
        tmp_path,
        {
            "one": {"type": "redis", "url": first_redis.url},
            "pg": {"type": "postgres", "url": postgres.url, "table": "archive_round"},
            "blobs": {"type": "s3", **place(s3_moto)},
            "local": {"type": "sqlite", "path": "local.db"},
            "two": {"type": "redis", "url": second_redis.url},
        },
    )
    with first_redis.client() as one, second_redis.client() as two:
        fill(one, 90)
        one.set("long:large", random.Random(2).randbytes(3_000_000))
        one.hset("long:wide", mapping={f"field{number}": number for number in range(4000)})
        one.sadd("long:tags", *range(-5, 3000), "text")
        one.pfadd("long:seen", *range(500))
        one.set(b"long:\xff\x00*[?", "odd name")
        one.set("", "no name")
        way = ["one", "pg", "blobs", "local", "two"]
        for source, target in pairwise(way):
            assert archives.backup(source, f"{source}.rta")[0] == f"97 keys of {source} are in {source}.rta\n"
            out, _ = archives.restore(f"{source}.rta", target)
            assert out == f"97 keys of {source}.rta are in {target}\n"
        assert facts(two) == facts(one)
    assert sorted(file.name for file in tmp_path.iterdir() if file.suffix in (".json", ".partial")) == []


def test_all_databases_are_kept_or_one_and_keys_by_pattern(
    tmp_path: Path, first_redis: RedisServer, second_redis: RedisServer
) -> None:
    archives = Archives(
        tmp_path,
        {"one": {"type": "redis", "url": first_redis.url}, "two": {"type": "redis", "url": second_redis.url}},
    )
    for db in (0, 3, 15):
        with first_redis.client(db=db) as client:
            client.mset({"long:a": db, "long:b": db, "other:a": db})

    def found() -> dict[int, list[bytes]]:
        keys = {}
        for db in range(16):
            with second_redis.client(db=db) as client:
                if names := sorted(client.keys()):
                    keys[db] = names
                    client.flushdb()
        return keys

    archives.backup("one", "all.rta")
    archives.restore("all.rta", "two")
    assert found() == {db: [b"long:a", b"long:b", b"other:a"] for db in (0, 3, 15)}
    archives.restore("all.rta", "two", "--db", "3", "--match", "*:a")
    assert found() == {3: [b"long:a", b"other:a"]}
    archives.backup("one", "some.rta", "--match", "long:*", "--db", "15")
    archives.restore("some.rta", "two")
    assert found() == {15: [b"long:a", b"long:b"]}
    out, _ = archives.run("restore", "--from", "some.rta", "--verify-only")
    assert out.startswith("some.rta is whole: 2 keys that match long:* of one (redis), from 20")


def test_a_restore_replaces_what_the_archive_has_keeps_the_rest_and_leaves_out_what_has_expired(
    tmp_path: Path, first_redis: RedisServer
) -> None:
    archives = Archives(tmp_path, {"one": {"type": "redis", "url": first_redis.url}})
    with first_redis.client() as client:
        client.set("kept", "old")
        client.set("lasting", "x", ex=1000)
        due = client.pexpiretime("lasting")
        client.set("brief", "x", px=10_000)
        archives.backup("one", "a.rta")
        client.delete("kept", "lasting")
        client.rpush("kept", "another type")
        client.set("new", "stays")
        wait_until(lambda: not client.exists("brief"), 20)
        out, _ = archives.restore("a.rta", "one")
        assert out == "2 keys of a.rta are in one\n1 more had expired since, and were left out\n"
        assert sorted(client.keys()) == [b"kept", b"lasting", b"new"]
        assert client.get("kept") == b"old"
        assert client.pexpiretime("lasting") == due


@pytest.mark.timeout(180)  # many processes
def test_killed_again_and_again_while_keys_change_a_backup_has_every_key_that_stood(
    tmp_path: Path, first_redis: RedisServer, second_redis: RedisServer, postgres: PostgresServer
) -> None:
    archives = Archives(
        tmp_path,
        {
            "one": {"type": "redis", "url": first_redis.url},
            "pg": {"type": "postgres", "url": postgres.url, "table": "archive_killed"},
            "two": {"type": "redis", "url": second_redis.url},
        },
    )
    with first_redis.client() as one, second_redis.client() as two:
        made = random.Random(5)
        standing = {f"stands:{number}": made.randbytes(1200) for number in range(8000)}
        one.mset(standing)
        order = ("backup", "--config", "my.toml", "--from", "one", "--to", "a.rta")
        with writing(first_redis, 1000) as stop_writing:
            for _ in range(3):
                before = archives.size("a.rta.partial")
                process = archives.start(*order, "--rate", "2000")
                wait_until(lambda than=before: archives.size("a.rta.partial") > than + 1_700_000, 20)
                process.kill()
                _, err = process.communicate(timeout=10)
                assert ("goes on from " in err) == (before > 0), err
                assert archives.size("a.rta") == 0, "it is not whole"
            archives.run("restore", "--from", "a.rta.partial", "--verify-only", code=1)
            process = archives.start(*order)
            out, err = process.communicate(timeout=50)
            assert process.returncode == 0, out + err
            assert "goes on from " in err
            stop_writing()
        archives.restore("a.rta", "two")
        assert two.mget(list(standing)) == list(standing.values())
        # And, nothing being written any more, a whole one has all.
        archives.backup("one", "b.rta")
        two.flushall()
        archives.restore("b.rta", "pg")
        archives.backup("pg", "c.rta")
        archives.restore("c.rta", "two")
        assert facts(two) == facts(one)


@pytest.mark.timeout(180)  # many processes
def test_killed_again_and_again_a_restore_ends_with_all_keys(
    tmp_path: Path, first_redis: RedisServer, postgres: PostgresServer
) -> None:
    archives = Archives(
        tmp_path,
        {
            "one": {"type": "redis", "url": first_redis.url},
            "pg": {"type": "postgres", "url": postgres.url, "table": "archive_restored"},
        },
    )
    with first_redis.client() as one:
        made = random.Random(6)
        one.mset({f"long:{number}": made.randbytes(3000) for number in range(3000)})
        before = facts(one)
        archives.backup("one", "a.rta")
        order = ("restore", "--config", "my.toml", "--from", "a.rta", "--to", "pg")
        reached = 0

        def read() -> int:
            for file in tmp_path.glob("my.restore-*.json"):
                read: int = json.loads(file.read_text())["state"]["read"]
                return read
            return 0

        for _ in range(3):
            process = archives.start(*order, "--rate", "1000")
            wait_until(lambda than=reached: read() > than, 20)
            process.kill()
            _, err = process.communicate(timeout=10)
            assert ("goes on from byte" in err) == (reached > 0)
            reached = read()
        assert reached < 3000
        out, err = archives.run(*order)
        assert "goes on from byte" in err
        assert out == "3,000 keys of a.rta are in pg\n"
        one.flushall()
        archives.backup("pg", "b.rta")
        archives.restore("b.rta", "one")
        assert facts(one) == before
    assert list(tmp_path.glob("*.json")) == []


def test_a_target_that_loses_its_memory_in_mid_restore_is_given_all_once_more(
    tmp_path: Path, first_redis: RedisServer, second_redis: RedisServer
) -> None:
    archives = Archives(
        tmp_path,
        {
            "one": {"type": "redis", "url": first_redis.url},
            "two": {"type": "redis", "url": second_redis.url, "backoff_max": "200ms"},
        },
    )
    with first_redis.client() as one:
        made = random.Random(6)
        one.mset({f"long:{number}": made.randbytes(3000) for number in range(3000)})
        archives.backup("one", "a.rta")
        process = archives.start(
            "restore", "--config", "my.toml", "--from", "a.rta", "--to", "two", "--rate", "1500"
        )
        wait_until(lambda: list(tmp_path.glob("my.restore-*.json")), 20)
        second_redis.kill()
        second_redis.start()
        out, err = process.communicate(timeout=50)
        assert process.returncode == 0, out + err
        assert "'two' was started anew, and may lack keys" in err
        with second_redis.client() as two:
            assert facts(two) == facts(one)


def test_a_source_that_is_started_anew_in_mid_backup_is_read_again(
    tmp_path: Path, first_redis: RedisServer
) -> None:
    archives = Archives(
        tmp_path,
        {
            "one": {"type": "redis", "url": first_redis.url, "backoff_max": "200ms"},
            "local": {"type": "sqlite", "path": "local.db"},
        },
    )
    made = random.Random(6)
    with first_redis.client() as one:
        one.mset({f"long:{number}": made.randbytes(3000) for number in range(3000)})
    process = archives.start(
        "backup", "--config", "my.toml", "--from", "one", "--to", "a.rta", "--rate", "1500"
    )
    wait_until(lambda: archives.size("a.rta.partial") > 1 << 20, 20)
    first_redis.kill()
    first_redis.start()
    with first_redis.client() as one:
        one.set("another", "life")
    out, err = process.communicate(timeout=50)
    assert process.returncode == 0, out + err
    assert "'one' was started anew, or its keys have moved: database 0 is read again" in err
    archives.restore("a.rta", "local")
    with closing(sqlite3.connect(tmp_path / "local.db")) as file:
        assert file.execute("SELECT count(*) FROM redtier WHERE key = ?", (b"another",)).fetchone() == (1,)


def test_a_damaged_archive_is_refused_before_anything_is_written(
    tmp_path: Path, first_redis: RedisServer
) -> None:
    archives = Archives(
        tmp_path,
        {"one": {"type": "redis", "url": first_redis.url}, "local": {"type": "sqlite", "path": "local.db"}},
    )
    with first_redis.client() as one:
        made = random.Random(6)
        one.mset({f"long:{number}": made.randbytes(3000) for number in range(1000)})
    archives.backup("one", "a.rta")
    file = tmp_path / "a.rta"
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[2_500_000] ^= 4
    for made_of, line in [
        (bytes(damaged), r"redtier: a.rta: is damaged at byte 2,"),
        (whole[:-1], "redtier: a.rta: is damaged at byte "),
        (whole + b"x", "something follows its end"),
        (b"", "redtier: a.rta: does not begin as an archive does"),
    ]:
        file.write_bytes(made_of)
        for order in (
            ("restore", "--config", "my.toml", "--from", "a.rta", "--to", "local"),
            ("restore", "--from", "a.rta", "--verify-only"),
        ):
            out, err = archives.run(*order, code=1)
            assert out == ""
            assert line in err
    assert not (tmp_path / "local.db").exists()
    file.write_bytes(whole)
    archives.run("restore", "--from", "a.rta", "--verify-only")


def test_what_can_t_be_read_is_named_counted_in_the_archive_and_the_rest_is_kept(
    tmp_path: Path, first_redis: RedisServer
) -> None:
    archives = Archives(
        tmp_path,
        {"one": {"type": "redis", "url": first_redis.url}, "local": {"type": "sqlite", "path": "local.db"}},
    )
    with first_redis.client() as one:
        one.mset({"whole": "x", "damaged": "y"})
        archives.backup("one", "a.rta")
        archives.restore("a.rta", "local")
        one.flushall()
        with closing(sqlite3.connect(tmp_path / "local.db")) as file, file:
            file.execute("UPDATE redtier SET value = CAST(value || 'z' AS BLOB) WHERE key = ?", (b"damaged",))
        out, err = archives.backup("local", "b.rta", code=1)
        assert out == "1 keys of local are in b.rta\n"
        assert "redtier: 1 keys could not be read and are not in it, among them:\n" in err
        assert "redtier:   damaged: INTEGRITY " in err
        out, err = archives.restore("b.rta", "one")
        assert "b.rta lacks 1 keys that could not be read when it was written" in err
        assert one.keys() == [b"whole"]


def test_what_the_target_refuses_is_named_and_the_rest_is_written(
    tmp_path: Path, first_redis: RedisServer
) -> None:
    archives = Archives(
        tmp_path,
        {"one": {"type": "redis", "url": first_redis.url}, "local": {"type": "sqlite", "path": "local.db"}},
    )
    with first_redis.client() as one:
        one.set("x" * 70_000, "its name is too long for a store")
        one.set("short", "x")
        archives.backup("one", "a.rta")
        out, err = archives.restore("a.rta", "local", code=1)
        assert out == "1 keys of a.rta are in local\n"
        assert "redtier: 1 keys could not be written, among them:\nredtier:   xxx" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_within_a_second_and_it_can_go_on(
    number: signal.Signals, tmp_path: Path, first_redis: RedisServer
) -> None:
    archives = Archives(tmp_path, {"one": {"type": "redis", "url": first_redis.url}})
    with first_redis.client() as one:
        made = random.Random(6)
        one.mset({f"long:{number}": made.randbytes(1200) for number in range(8000)})
        process = archives.start(
            "backup", "--config", "my.toml", "--from", "one", "--to", "a.rta", "--rate", "2000"
        )
        wait_until(lambda: archives.size("a.rta.partial") > 1_700_000, 20)
        process.send_signal(number)
        started = time.monotonic()
        _, err = process.communicate(timeout=10)
        assert time.monotonic() - started < 1
        assert process.returncode == 128 + number
        assert err.endswith("redtier: stopped; the same command goes on from there (a.rta.partial)\n")
        _, err = archives.backup("one", "a.rta", "--match", "x*", code=1)
        assert "a.rta.partial: is of another backup; remove it, or name another file by --to" in err
        _, err = archives.backup("one", "a.rta")
        assert "goes on from " in err
        before = facts(one)
        one.flushall()
        archives.restore("a.rta", "one")
        assert facts(one) == before


def test_a_server_that_is_away(tmp_path: Path, first_redis: RedisServer) -> None:
    archives = Archives(tmp_path, {"one": {"type": "redis", "url": first_redis.url}})
    first_redis.kill()
    _, err = archives.backup("one", "a.rta", code=1)
    assert err.startswith("redtier: backend 'one': ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("backup --config my.toml --from hot --to a.rta", '--from: "hot" is a memory backend: '),
        (
            "backup --config my.toml --from locale --to a.rta",
            '--from: unknown backend "locale"; did you mean "local"?',
        ),
        ("backup --config my.toml --from local --to my.toml", "--to: my.toml is there already: "),
        ("backup --from local --to a.rta", "the following arguments are required: --config"),
        ("restore --config my.toml --from a.rta --to hot", '--to: "hot" is a memory backend: '),
        ("restore --from a.rta --to local", "restore needs --config and --to"),
        ("restore --from a.rta --verify-only --db 16", "argument --db: must be a number from 0 to 15"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options: str, line: str, tmp_path: Path) -> None:
    archives = Archives(tmp_path, {"local": {"type": "sqlite", "path": "local.db"}})
    out, err = archives.run(*options.split(), code=2)
    assert out == ""
    assert err.startswith(f"redtier: {line}")
    assert err.count("\n") == 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    archives = Archives(tmp_path, {"local": {"type": "sqlite", "path": "local.db"}})
    _, err = archives.restore("nothing.rta", "local", code=1)
    assert err == "redtier: nothing.rta: can't be read: No such file or directory\n"


def test_a_file_that_can_not_be_named(tmp_path: Path) -> None:
    archives = Archives(tmp_path, {"local": {"type": "sqlite", "path": "local.db"}})
    name = "a" * 300
    _, err = archives.run("backup", "--config", "my.toml", "--from", "local", "--to", name, code=1)
    assert err == f"redtier: {name}: File name too long\n"


def test_the_keys_of_a_cluster_are_kept_and_come_back(tmp_path: Path) -> None:
    with Cluster(3, False) as cluster:
        archives = Archives(tmp_path, {"one": {"type": "redis", "url": cluster.url}})
        for number in range(600):
            with cluster.owner(f"long:{number}".encode()).client() as client:
                client.rpush(f"long:{number}", number, "x" * 100)

        def held() -> int:
            sizes = []
            for node in cluster.nodes:
                with node.client() as client:
                    sizes.append(client.dbsize())
                    client.flushall()
            return sum(sizes)

        archives.backup("one", "a.rta")
        assert held() == 600
        archives.restore("a.rta", "one")
        assert held() == 600
