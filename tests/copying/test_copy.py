"""``redtier copy`` as a user runs it: a process of its own, between real servers."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.clusters import Cluster
from tests.copies import DAY, DEBUG, Copies, facts, fill, writing
from tests.s3 import place
from tests.servers import TREE, MotoServer, PostgresServer, RedisServer, RedtierServer, free_port, wait_until

pytestmark = pytest.mark.once  # what copies is not compiled


@pytest.fixture
def second_redis() -> Iterator[RedisServer]:
    with RedisServer(*DEBUG) as server:
        yield server


@pytest.fixture
def first_redis() -> Iterator[RedisServer]:
    with RedisServer(*DEBUG) as server:
        yield server


def test_all_types_come_back_from_a_round_through_all_backends_as_they_left(
    tmp_path: Path,
    first_redis: RedisServer,
    second_redis: RedisServer,
    postgres: PostgresServer,
    s3_moto: MotoServer,
) -> None:
    copies = Copies(
        tmp_path,
        {
            "one": {"type": "redis", "url": first_redis.url},
            "pg": {"type": "postgres", "url": postgres.url, "table": "copy_round"},
            "blobs": {"type": "s3", **place(s3_moto)},
            "local": {"type": "sqlite", "path": "local.db"},
            "two": {"type": "redis", "url": second_redis.url},
        },
    )
    with first_redis.client() as one, second_redis.client() as two:
        fill(one, 90)
        one.set("long:large", random.Random(2).randbytes(400_000))
        one.hset("long:wide", mapping={f"field{number}": number for number in range(4000)})
        one.sadd("long:tags", *range(-5, 3000), "text")
        one.pfadd("long:seen", *range(500))
        one.set(b"long:\xff\x00*[?", "odd name")
        one.set("", "no name")
        for source, target in [("one", "pg"), ("pg", "blobs"), ("blobs", "local"), ("local", "two")]:
            out, _ = copies.copy(source, target)
            assert out == f"97 keys of {source} are the same in {target}\n"
        assert facts(two) == facts(one)


def test_a_proxy_reads_copied_records_as_its_own(
    tmp_path: Path, first_redis: RedisServer, postgres: PostgresServer
) -> None:
    archive = {"type": "postgres", "url": postgres.url, "table": "copy_own"}
    copies = Copies(
        tmp_path, {"main": {"type": "redis", "url": first_redis.url}, "archive": archive}, long="main"
    )
    with first_redis.client() as client:
        client.set("long:text", "words " * 100, px=DAY)
        client.rpush("long:list", "a", "b")
    copies.copy("main", "archive", "--match", "long:*")
    copies.routes["long:"] = "archive"
    copies.write()
    with RedtierServer(copies.file.read_text()) as server, server.client(protocol=3) as client:
        assert client.get("long:text") == b"words " * 100
        assert 0 < client.pttl("long:text") <= DAY
        assert client.lrange("long:list", 0, -1) == [b"a", b"b"]
        where = client.execute_command("TIER WHERE", "long:text")
        assert where[b"codec"] == b"zstd", (
            "sealed as the route's default says, though it led to a Redis when it was copied"
        )


def test_sealed_values_arrive_raw_and_raw_ones_are_sealed_where_the_route_says_so(
    tmp_path: Path, first_redis: RedisServer, second_redis: RedisServer
) -> None:
    copies = Copies(
        tmp_path,
        {
            "one": {"type": "redis", "url": first_redis.url},
            "local": {"type": "sqlite", "path": "local.db"},
            "two": {"type": "redis", "url": second_redis.url},
        },
        long="one",
        other="two",
    )
    copies.options["long:"] = {"compression": "zstd", "integrity": "sha256"}
    copies.write()
    values = {
        b"long:text": b"words " * 100,
        b"long:wide": b"words " * 20_000,  # small where it is stored
        b"long:large": random.Random(1).randbytes(200_000),
        b"long:number": b"7",
        b"other:text": b"words " * 100,
    }
    with first_redis.client() as one, second_redis.client() as two:
        with RedtierServer(copies.file.read_text()) as server, server.client() as client:
            client.mset(values)
            client.rpush("long:list", "a")
            assert client.mget(*values) == list(values.values())
        sealed = one.get("long:text")
        assert isinstance(sealed, bytes)
        assert sealed != values[b"long:text"]
        # By now the route leads elsewhere, as when its keys are being moved.
        copies.routes["long:"] = "local"
        copies.options.clear()
        copies.write()
        assert copies.copy("one", "local")[0] == "5 keys of one are the same in local\n"
        copies.copy("local", "two", "--match", "long:*")
        assert two.mget(*values) == list(values.values())
        one.flushall()
        copies.routes["long:"] = "one"
        copies.options["long:"] = {"compression": "zstd", "integrity": "sha256"}
        copies.write()
        copies.copy("two", "one", "--delete")
        assert one.get("long:text") == sealed
        assert one.mget("long:number", "other:text") == [b"7", values[b"other:text"]]
        one.set("long:extra", one.get("long:wide"))
        copies.copy("two", "one", "--delete")
        assert one.exists("long:extra") == 0
        one.setrange("long:text", 40, "damage")
        _, err = copies.copy("one", "local", code=1)
        assert "long:text: INTEGRITY the value of 'long:text' on backend 'one' is damaged" in err


def test_killed_twice_while_keys_change_it_ends_with_both_sides_equal(
    tmp_path: Path, first_redis: RedisServer, second_redis: RedisServer, postgres: PostgresServer
) -> None:
    copies = Copies(
        tmp_path,
        {
            "one": {"type": "redis", "url": first_redis.url},
            "pg": {"type": "postgres", "url": postgres.url, "table": "copy_killed"},
            "two": {"type": "redis", "url": second_redis.url},
        },
    )
    arguments = ("one", "pg", "--match", "long:*", "--delete", "--passes", "10")
    with first_redis.client() as one, second_redis.client() as two:
        fill(one, 4000)
        with writing(first_redis, 4000) as stop_writing:
            reached = 0
            for _ in range(2):
                process = copies.start(*arguments, "--rate", "500")

                def is_further(than: int = reached) -> bool:
                    state = copies.state()
                    return state is not None and state["compared"] > than

                wait_until(is_further, 20)
                process.kill()
                _, err = process.communicate(timeout=10)
                state = copies.state()
                assert state is not None
                assert (state["number"], state["removing"]) == (1, False), "it was killed in its first pass"
                assert f"goes on from pass 1, {reached:,} keys compared" in err or not reached
                reached = state["compared"]
            process = copies.start(*arguments)
            time.sleep(1)
            stop_writing()
            out, err = process.communicate(timeout=50)
        assert process.returncode == 0, out + err
        assert copies.state() is None
        assert one.delete("other:a") == 1, "which the pattern left out"
        copies.copy("pg", "two")
        assert facts(two) == facts(one)


def test_a_redis_that_loses_its_memory_in_mid_copy_takes_nothing_from_the_target(tmp_path: Path) -> None:
    with RedisServer() as server:
        copies = Copies(
            tmp_path,
            {"one": {"type": "redis", "url": server.url}, "local": {"type": "sqlite", "path": "local.db"}},
        )
        with server.client() as client:
            client.mset({f"long:{number}": number for number in range(3000)})
        copies.copy("one", "local")
        process = copies.start("one", "local", "--delete", "--rate", "1000")
        wait_until(lambda: (copies.state() or {"compared": 0})["compared"] >= 1000, 20)
        server.kill()
        server.start()
        out, err = process.communicate(timeout=50)
        assert process.returncode == 1, out + err
        assert "were not removed" in err
        with server.client() as client:
            client.set("long:new", 1)
        copies.copy("local", "one")
        with server.client() as client:
            assert client.dbsize() == 3001


def test_only_delete_removes_keys_that_the_source_has_not(tmp_path: Path, first_redis: RedisServer) -> None:
    copies = Copies(
        tmp_path,
        {"one": {"type": "redis", "url": first_redis.url}, "local": {"type": "sqlite", "path": "local.db"}},
        long="local",
    )
    with first_redis.client() as one:
        one.mset({"long:a": 1, "long:b": 2, "other:a": 3})
        copies.copy("one", "local")
        one.delete("long:a", "other:a")
        out, _ = copies.copy("one", "local", "--match", "long:*")
        assert out.splitlines() == [
            "1 keys of one are the same in local",
            "1 keys of local are not in one; --delete would remove them",
        ]
        _, err = copies.copy("one", "local", "--match", "long:*", "--delete")
        assert "pass 1 is through: 1 keys compared, 0 copied, 1 removed\n" in err
        out, _ = copies.copy("local", "one", "--match", "other:*")
        assert out == "1 keys of local are the same in one\n"
        one.flushall()
        _, err = copies.copy("one", "local", "--delete", code=1)
        assert err.endswith("redtier: one has no such key at all; the 2 of local were not removed\n")


def test_one_database_is_copied_to_its_like(
    tmp_path: Path, first_redis: RedisServer, second_redis: RedisServer
) -> None:
    copies = Copies(
        tmp_path,
        {"one": {"type": "redis", "url": first_redis.url}, "two": {"type": "redis", "url": second_redis.url}},
    )
    with first_redis.client(db=3) as one, second_redis.client(db=3) as two, second_redis.client() as zero:
        one.set("a", "x")
        copies.copy("one", "two", "--db", "3")
        assert (two.get("a"), zero.dbsize()) == (b"x", 0)


def test_what_the_target_refuses_is_named_and_the_rest_goes_on(
    tmp_path: Path, first_redis: RedisServer
) -> None:
    copies = Copies(
        tmp_path,
        {"main": {"type": "redis", "url": first_redis.url}, "local": {"type": "sqlite", "path": "local.db"}},
        long="local",
    )
    config = copies.file.read_text().replace('"local.db"', json.dumps(str(tmp_path / "local.db")))
    with RedtierServer(config) as server, server.client() as client:
        client.execute_command("HSET", "long:fields", "f", "v")
        client.execute_command("HPEXPIRE", "long:fields", DAY, "FIELDS", 1, "f")
        client.set("long:text", "x")
    _, err = copies.copy("local", "main", code=1)
    assert "redtier: 1 keys could not be copied, among them:\nredtier:   long:fields: CROSSTIER " in err
    with first_redis.client() as client:
        assert client.keys() == [b"long:text"]
        client.set("long:large", "x" * 2000)
    copies.file.write_text(
        copies.file.read_text() + '[[routes]]\nprefix = "long:l"\nbackend = "local"\nmax_value = 1000\n'
    )
    _, err = copies.copy("main", "local", code=1)
    assert "redtier:   long:large: TOOLARGE " in err


def test_a_copy_that_is_not_proven_ends_with_1(tmp_path: Path, first_redis: RedisServer) -> None:
    copies = Copies(
        tmp_path,
        {"main": {"type": "redis", "url": first_redis.url}, "local": {"type": "sqlite", "path": "local.db"}},
    )
    with first_redis.client() as client:
        client.set("a", "x")
    _, err = copies.copy("main", "local", "--passes", "1", code=1)
    assert "redtier: 1 keys still differed in pass 1, among them a; " in err


def test_a_target_that_is_away(tmp_path: Path, first_redis: RedisServer) -> None:
    nobody = f"redis://127.0.0.1:{free_port()}"
    copies = Copies(
        tmp_path,
        {"one": {"type": "redis", "url": first_redis.url}, "two": {"type": "redis", "url": nobody}},
    )
    _, err = copies.copy("one", "two", code=1)
    assert err.startswith("redtier: backend 'two': ")
    assert "connection refused" in err
    assert err.count("\n") == 1


def test_a_target_that_goes_away_and_comes_back_is_waited_for(
    tmp_path: Path, first_redis: RedisServer, second_redis: RedisServer
) -> None:
    copies = Copies(
        tmp_path,
        {
            "one": {"type": "redis", "url": first_redis.url},
            "two": {"type": "redis", "url": second_redis.url, "backoff_max": "200ms"},
        },
    )
    with first_redis.client() as one:
        fill(one, 2000)
        process = copies.start("one", "two", "--rate", "1000")
        wait_until(lambda: (copies.state() or {}).get("compared", 0) >= 900, 20)
        second_redis.kill()
        time.sleep(1)
        second_redis.start()
        out, err = process.communicate(timeout=50)
        assert process.returncode == 0, out + err
        assert "one to two: waiting: backend 'two'" in err
        with second_redis.client() as two:
            assert facts(two) == facts(one), "though what was there before had gone"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_within_a_second_and_it_can_go_on(
    number: signal.Signals, tmp_path: Path, first_redis: RedisServer
) -> None:
    copies = Copies(
        tmp_path,
        {"main": {"type": "redis", "url": first_redis.url}, "local": {"type": "sqlite", "path": "local.db"}},
    )
    with first_redis.client() as client:
        fill(client, 3000)
    process = copies.start("main", "local", "--rate", "1000", "--state", "here.json")
    wait_until(lambda: (copies.state() or {}).get("compared", 0) >= 900, 20)
    process.send_signal(number)
    started = time.monotonic()
    _, err = process.communicate(timeout=10)
    assert time.monotonic() - started < 1
    assert process.returncode == 128 + number
    assert err.endswith("redtier: stopped; the same command goes on from there (state: here.json)\n")
    state = copies.state()
    assert state is not None
    assert (tmp_path / "here.json").stat().st_mode & 0o077 == 0
    _, err = copies.copy("main", "local", "--match", "x*", "--state", "here.json", code=1)
    assert err == "redtier: here.json: is the state of another copy; remove it, or name another by --state\n"
    out, err = copies.copy("main", "local", "--state", "here.json")
    assert f"goes on from pass 1, {state['compared']:,} keys compared" in err
    assert out == "3,001 keys of main are the same in local\n"
    assert copies.state() is None


def test_a_signal_stops_it_while_the_target_hangs(
    tmp_path: Path, first_redis: RedisServer, second_redis: RedisServer
) -> None:
    copies = Copies(
        tmp_path,
        {"one": {"type": "redis", "url": first_redis.url}, "two": {"type": "redis", "url": second_redis.url}},
    )
    with first_redis.client() as client:
        fill(client, 2000)
    process = copies.start("one", "two", "--rate", "1000")
    wait_until(lambda: (copies.state() or {}).get("compared", 0) >= 900, 20)
    os.kill(second_redis.pid, signal.SIGSTOP)
    try:
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        process.communicate(timeout=10)
        assert time.monotonic() - started < 1
        assert process.returncode == 128 + signal.SIGTERM
    finally:
        os.kill(second_redis.pid, signal.SIGCONT)


def test_a_damaged_record_is_named_and_not_copied(tmp_path: Path, first_redis: RedisServer) -> None:
    copies = Copies(
        tmp_path,
        {"main": {"type": "redis", "url": first_redis.url}, "local": {"type": "sqlite", "path": "local.db"}},
    )
    with first_redis.client() as client:
        client.mset({"whole": "x", "damaged": "y"})
        copies.copy("main", "local")
        client.flushall()
        with closing(sqlite3.connect(tmp_path / "local.db")) as file, file:
            file.execute("UPDATE redtier SET value = CAST(value || 'z' AS BLOB) WHERE key = ?", (b"damaged",))
        _, err = copies.copy("local", "main", code=1)
        assert "redtier: 1 keys could not be copied, among them:\nredtier:   damaged: INTEGRITY " in err
        assert client.keys() == [b"whole"]


def test_the_rate_is_kept(tmp_path: Path, first_redis: RedisServer) -> None:
    copies = Copies(
        tmp_path,
        {"main": {"type": "redis", "url": first_redis.url}, "local": {"type": "sqlite", "path": "local.db"}},
    )
    with first_redis.client() as client:
        client.mset({f"k{number}": number for number in range(100)})
    started = time.monotonic()
    copies.copy("main", "local", "--rate", "100")
    assert time.monotonic() - started > 2, "two passes over 100 keys, and one over the target's"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--from", "hot", "--to", "local"], '--from: "hot" is a memory backend: '),
        (["--from", "local", "--to", "hot"], '--to: "hot" is a memory backend: '),
        (["--from", "locale", "--to", "main"], '--from: unknown backend "locale"; did you mean "local"?'),
        (["--from", "local", "--to", "local"], "--from and --to are the same place"),
        (["--from", "local", "--to", "again"], "--from and --to are the same place"),
        (["--from", "local"], "the following arguments are required: --to"),
        (["--from", "local", "--to", "main", "--db", "16"], "argument --db: must be a number from 0 to 15"),
        (["--from", "local", "--to", "main", "--rate", "-1"], "argument --rate: "),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options: list[str], line: str, tmp_path: Path) -> None:
    local = {"type": "sqlite", "path": "local.db"}
    copies = Copies(tmp_path, {"local": local, "again": local, "main": {"type": "redis"}})
    command = [sys.executable, "-P", "-m", "proxy", "copy", "--config", str(copies.file), *options]
    environment = {**os.environ, "PYTHONPATH": str(TREE)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"redtier: {line}")
    assert done.stderr.count("\n") == 1


def test_progress_is_plain_lines_without_a_terminal(tmp_path: Path, first_redis: RedisServer) -> None:
    copies = Copies(
        tmp_path,
        {"main": {"type": "redis", "url": first_redis.url}, "local": {"type": "sqlite", "path": "local.db"}},
    )
    with first_redis.client() as client:
        client.mset({"a": 1, "b": 2})
    assert copies.copy("main", "local") == (
        "2 keys of main are the same in local\n",
        "main to local: pass 1 is through: 2 of 2 keys compared, 2 copied\n"
        "main to local: pass 2 is through: 2 of 2 keys compared, 0 copied\n",
    )


def test_progress_is_a_bar_on_a_terminal(tmp_path: Path, first_redis: RedisServer) -> None:
    copies = Copies(
        tmp_path,
        {"main": {"type": "redis", "url": first_redis.url}, "local": {"type": "sqlite", "path": "local.db"}},
    )
    with first_redis.client() as client:
        client.mset({"a": 1, "b": 2})
    ours, theirs = pty.openpty()
    process = copies.start("main", "local", stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # which is how a terminal says that nobody writes any more
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    process.communicate(timeout=10)
    assert process.returncode == 0
    assert "━".encode() in shown
    assert b"main to local: pass 2" in shown


def test_the_keys_of_a_cluster_are_copied_and_verified(tmp_path: Path) -> None:
    with Cluster(3, False) as cluster:
        copies = Copies(
            tmp_path,
            {"one": {"type": "redis", "url": cluster.url}, "local": {"type": "sqlite", "path": "local.db"}},
        )
        for number in range(600):
            with cluster.owner(f"long:{number}".encode()).client() as client:
                client.rpush(f"long:{number}", number, "x" * 100)
        copies.copy("one", "local")
        for node in cluster.nodes:
            with node.client() as client:
                client.flushall()
        copies.copy("local", "one")
        sizes = []
        for node in cluster.nodes:
            with node.client() as client:
                sizes.append(client.dbsize())
        assert all(sizes)
        assert sum(sizes) == 600
