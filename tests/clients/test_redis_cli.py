"""redis-cli in its modes, and redis-benchmark: what everybody tries first."""

from __future__ import annotations

import csv
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from proxy.resp import encode_command
from tests.homes import PREFIXES, toml, wait_for_homes
from tests.servers import RedisServer, RedtierServer

pytestmark = pytest.mark.once


def cli(port: int, *args: str, stdin: bytes = b"") -> str:
    """What redis-cli prints; its exit code is 0 and stderr empty."""
    command = ["redis-cli", "-p", str(port), *args]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


class Terminal:
    """redis-cli as people use it, by keys and by what it shows."""

    def __init__(self, master: int) -> None:
        self._master = master
        self.shown = ""

    def type(self, keys: str) -> None:
        """At the prompt: what is typed before it is there is thrown away."""
        self.wait_for("> ")
        os.write(self._master, keys.encode())

    def wait_for(self, pattern: str, within: float = 10) -> str:
        """What it shows up to what fits, without the codes for colours and the cursor."""
        deadline = time.monotonic() + within
        while not (found := re.search(pattern, self.shown)):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.shown!r}"
            if select.select([self._master], [], [], left)[0]:
                with suppress(OSError):
                    text = os.read(self._master, 65536).decode("utf-8", "replace")
                    self.shown += re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
        text, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return text


@contextmanager
def terminal(port: int, *args: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (25, 80))  # else it asks the terminal, and waits for an answer
    environment = {**os.environ, "TERM": "xterm", "HOME": "/nonexistent", "REDISCLI_HISTFILE": "/dev/null"}
    command = ["timeout", "30", "redis-cli", "-p", str(port), *args]
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    try:
        yield Terminal(master)
    finally:
        os.close(master)
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("protocol", [["-2"], ["-3"]])
@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_one_command_each(prefix: str, protocol: list[str], port: int) -> None:
    key = prefix + "key"
    assert cli(port, *protocol, "set", key, "two words") == "OK\n"
    assert cli(port, *protocol, "get", key) == "two words\n"
    assert cli(port, *protocol, "--no-raw", "get", key) == '"two words"\n'
    assert cli(port, *protocol, "--no-raw", "incr", prefix + "number") == "(integer) 1\n"
    assert cli(port, *protocol, "--no-raw", "get", prefix + "none") == "(nil)\n"
    assert cli(port, *protocol, "mget", key, prefix + "number") == "two words\n1\n"
    assert cli(port, *protocol, "append", key).startswith("ERR wrong number of arguments for 'append'")
    assert cli(port, *protocol, "-r", "3", "incr", prefix + "number") == "2\n3\n4\n"
    assert cli(port, *protocol, "del", key, prefix + "number") == "2\n"


def test_maps_of_resp3_are_shown_as_maps(port: int) -> None:
    assert cli(port, "-3", "--no-raw", "config", "get", "port").startswith('1# "port" => ')


def test_the_last_argument_from_stdin(port: int) -> None:
    for prefix in PREFIXES.values():
        assert cli(port, "-x", "set", prefix + "file", stdin=b"line\nline\n") == "OK\n"
        assert cli(port, "strlen", prefix + "file") == "10\n"


def test_commands_from_stdin(port: int) -> None:
    lines = [f'set {prefix}a "{prefix} b"\nget {prefix}a\n' for prefix in PREFIXES.values()]
    assert cli(port, stdin="".join(lines).encode()) == "".join(
        f"OK\n{prefix} b\n" for prefix in PREFIXES.values()
    )


def test_a_script_from_a_file(port: int, tmp_path: Path) -> None:
    script = tmp_path / "script.lua"
    script.write_text("return {redis.call('INCRBY', KEYS[1], ARGV[1]), redis.call('GET', KEYS[1])}")
    for prefix in PREFIXES.values():
        assert cli(port, "--eval", str(script), prefix + "n", ",", "5") == "5\n5\n"


def test_replies_in_other_forms(port: int) -> None:
    for prefix in PREFIXES.values():
        words = [prefix + "a", prefix + "none"]
        cli(port, "-n", "3", "set", prefix + "a", 'say "hi"')
        assert cli(port, "-n", "3", "--csv", "mget", *words) == '"say \\"hi\\"",NULL\n'
        assert cli(port, "-n", "3", "-3", "--json", "mget", *words) == '["say \\"hi\\"",null]\n'
        assert cli(port, "-u", f"redis://127.0.0.1:{port}/3", "strlen", prefix + "a") == "8\n"


@pytest.mark.parametrize("option", [["--replica"], ["--rdb", "/nonexistent/dump.rdb"]])
def test_there_is_nothing_to_replicate(option: list[str], port: int) -> None:
    command = ["redis-cli", "-p", str(port), *option]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "SYNC with master failed: -ERR 'sync' is not served" in done.stderr


def test_scan(port: int) -> None:
    names = [f"{prefix}{number}" for prefix in PREFIXES.values() for number in range(20)]
    cli(port, "mset", *(word for name in names for word in (name, "x")))
    assert sorted(cli(port, "--scan").split()) == sorted(names)
    assert sorted(cli(port, "--scan", "--pattern", "long:1?").split()) == [f"long:{n}" for n in range(10, 20)]


def test_mass_insertion_by_pipe(port: int) -> None:
    names = [f"{prefix}{number}" for number in range(40) for prefix in PREFIXES.values()]
    requests = [encode_command([b"SET", name.encode(), b"x" * 100]) for name in names]
    told = cli(port, "--pipe", stdin=b"".join(requests))
    assert told.endswith(f"errors: 0, replies: {len(names)}\n")
    assert cli(port, "dbsize") == f"{len(names)}\n"


def test_latency(port: int) -> None:
    # It prints for ever when it writes to a terminal, and one line after a second when it doesn't.
    assert re.fullmatch(r"(\d+|\d+\.\d+) .*\n", cli(port, "--latency", "-i", "0.2", "--raw"))


def test_statistics_of_large_keys(port: int) -> None:
    for prefix in PREFIXES.values():
        cli(port, "set", prefix + "key", prefix * 10)
    told = cli(port, "--bigkeys")
    assert f"Sampled {len(PREFIXES)} keys in the keyspace!" in told
    assert "100.00% of keys" in told


def test_memory_of_large_keys(port: int) -> None:
    for prefix in PREFIXES.values():
        cli(port, "set", prefix + "key", "x" * 100)
        cli(port, "rpush", prefix + "list", *("x" * 100 for _ in range(20)))
    for option in (["--memkeys"], ["--memkeys-samples", "5"]):
        told = cli(port, *option)
        assert f"Sampled {2 * len(PREFIXES)} keys in the keyspace!" in told
        assert re.search(r"Biggest +list found .* has \d{3,} bytes", told)
    told = cli(port, "--bigkeys")
    assert re.search(r"Biggest +list found .* has 20 items", told)


def test_statistics_as_they_come(port: int) -> None:
    cli(port, "set", "k", "v")
    with terminal(port, "--stat", "-i", "0.1") as shown:
        shown.wait_for(r"keys +mem +clients +blocked +requests +connections")
        for requests in (r"\(\+0\)", r"\(\+[1-9]\d*\)"):
            shown.wait_for(rf"\n1 +[\d.]+[BKMG] +[1-9]\d* +0 +[1-9]\d* {requests} +[1-9]\d* +\r")


def test_latencies_as_they_come(port: int) -> None:
    with terminal(port, "--latency-history", "-i", "0.2") as shown:
        shown.wait_for(r"min: \d+, max: \d+, avg: [\d.]+ \(\d+ samples\) -- [\d.]+ seconds range")
    with terminal(port, "--latency-dist", "-i", "0.2") as shown:
        shown.wait_for(r"10,20,30,40,50 +milliseconds")


def test_what_the_machine_itself_takes(port: int) -> None:
    assert "total runs (avg latency:" in cli(port, "--intrinsic-latency", "1")


def test_the_simulated_cache(port: int) -> None:
    with terminal(port, "--lru-test", "1000") as shown:
        shown.wait_for(r"\d+ Gets/sec \| Hits: [1-9]\d* \([\d.]+%\) \| Misses: \d+")


def test_hot_keys_need_a_policy_that_counts(port: int) -> None:
    command = ["redis-cli", "-p", str(port), "--hotkeys"]
    cli(port, "set", "k", "v")
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert "An LFU maxmemory policy is not selected" in done.stderr + done.stdout


class TestPrompt:
    def test_commands_and_their_replies(self, port: int) -> None:
        with terminal(port) as shown:
            shown.type("set k 'two words'\r")
            shown.wait_for(r"OK\r\n")
            shown.type("get k\r")
            shown.wait_for(r'"two words"\r\n')
            shown.type("select 3\r")
            shown.wait_for(rf"127\.0\.0\.1:{port}\[3\]")
            shown.type("3 ping\r")
            shown.wait_for(r"PONG\r\nPONG\r\nPONG\r\n")
            shown.type("nosuch\r")
            shown.wait_for(r"\(error\) ERR unknown command 'nosuch'")

    @pytest.mark.parametrize(
        ("typed", "hint"),
        [
            ("set ", r"key value \[NX\|XX\]"),
            ("config get ", r"parameter \[parameter \.\.\.\]"),
            ("tier where ", "key"),
            ("slowlog get ", r"\[count\]"),
            ("hset ", r"key field value \[field value \.\.\.\]"),
        ],
    )
    def test_arguments_are_hinted_at(self, typed: str, hint: str, port: int) -> None:
        with terminal(port) as shown:
            shown.type(typed)
            shown.wait_for(hint)

    def test_help_is_ours(self, port: int) -> None:
        with terminal(port) as shown:
            shown.type("help tier where\r")
            shown.wait_for(r"TIER WHERE key\r")
            shown.type("help @string\r")
            shown.wait_for(r"GETRANGE key start end\r")

    def test_names_are_completed(self, port: int) -> None:
        with terminal(port) as shown:
            shown.type("slowl\t")
            shown.wait_for("SLOWLOG")

    def test_subscriptions_and_transactions(self, port: int) -> None:
        with terminal(port) as shown:
            shown.type("multi\r")
            shown.wait_for(r"\(TX\)")
            shown.type("incr n\r")
            shown.wait_for("QUEUED")
            shown.type("exec\r")
            shown.wait_for(r"1\) \(integer\) 1\r\n")


ALL_BENCHMARKS = [
    *("PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "LPUSH", "RPUSH", "LPOP", "RPOP", "SADD", "HSET"),
    *("SPOP", "ZADD", "ZPOPMIN", "LPUSH (needed to benchmark LRANGE)"),
    *("LRANGE_100 (first 100 elements)", "LRANGE_300 (first 300 elements)"),
    *("LRANGE_500 (first 500 elements)", "LRANGE_600 (first 600 elements)", "MSET (10 keys)"),
]


@pytest.mark.parametrize("depth", [1, 16])
class TestBenchmark:
    @pytest.mark.parametrize("kind", ["memory", "redis"])
    def test_its_own_tests(self, kind: str, depth: int, redis_server: RedisServer) -> None:
        """All of them, on keys that have no prefix."""
        options = {"redis": {"url": redis_server.url, "flushable": True}}.get(kind, {})
        config = toml({"backends.it": {"type": kind, **options}}, {"": "it"})
        with RedtierServer(config) as server, server.client() as client:
            wait_for_homes(server.port, [""])
            client.flushall()
            client.config_resetstat()
            rows = benchmark(server.port, depth, requests=500, keys=100_000)
            # An error that a server answers would stand among them.
            assert [row[0] for row in rows] == ALL_BENCHMARKS
            assert client.info("errorstats") == {}
            assert client.llen("mylist") >= 500  # whole pipelines

    @pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
    def test_any_home_by_the_prefix_of_its_keys(
        self, prefix: str, depth: int, port: int, redtier: RedtierServer
    ) -> None:
        requests = 100 if prefix == PREFIXES["s3"] else 2000
        with redtier.client() as client:
            client.config_resetstat()
            for words in (
                ["set", f"{prefix}__rand_int__", "value"],
                ["get", f"{prefix}__rand_int__"],
                ["incr", f"{prefix}n:__rand_int__"],
                ["mset", f"{prefix}__rand_int__", "1", f"{prefix}m:__rand_int__", "2"],
            ):
                benchmark(port, depth, *words, requests=requests)
            assert client.dbsize() > 10
            assert client.info("errorstats") == {}


def benchmark(port: int, depth: int, *args: str, requests: int, keys: int = 50) -> list[list[str]]:
    """The rows of its results, without titles."""
    options = f"-p {port} -n {requests} -r {keys} -c 10 -P {depth} --csv -e".split()
    command = ["redis-benchmark", *options, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    rows = list(csv.reader(done.stdout.splitlines()))
    assert rows[0][:2] == ["test", "rps"], done.stdout
    assert all(float(row[1]) > 0 for row in rows[1:])
    return rows[1:]
