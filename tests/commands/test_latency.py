"""SLOWLOG and LATENCY: as redis-server 7.0 answers them, and what they tell of commands here."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import redis

from proxy.slowlog import LatencyMonitor, SlowLog
from tests.rawclient import RawClient, mapping, tree
from tests.servers import RedisServer, RedtierServer

CONFIG = """
[server]
debug_commands = "yes"
[backends.hot]
type = "memory"
[backends.cold]
type = "sqlite"
path = "cold.db"
flushable = true
[[routes]]
prefix = ""
backend = "hot"
[[routes]]
prefix = "cold:"
backend = "cold"
"""


@pytest.fixture(scope="module")
def redtier() -> Iterator[RedtierServer]:
    with RedtierServer(CONFIG) as server:
        yield server


@pytest.fixture(scope="module")
def real() -> Iterator[RedisServer]:
    with RedisServer("--enable-debug-command", "yes") as server:
        yield server


@pytest.fixture
def client(redtier: RedtierServer) -> Iterator[redis.Redis]:
    with redtier.client() as client:
        client.config_set("slowlog-log-slower-than", 10_000)
        client.config_set("slowlog-max-len", 128)
        client.config_set("latency-monitor-threshold", 0)
        client.slowlog_reset()
        client.latency_reset()
        yield client


SEQUENCES = {
    "refused": """
        SLOWLOG
        SLOWLOG OTHER
        SLOWLOG GET x
        SLOWLOG GET -2
        SLOWLOG GET 9223372036854775808
        SLOWLOG GET 1 2
        SLOWLOG LEN x
        SLOWLOG RESET x
        LATENCY
        LATENCY OTHER
        LATENCY HISTORY
        LATENCY HISTORY nosuch
        LATENCY GRAPH nosuch
        LATENCY LATEST x
        LATENCY RESET nosuch other
        LATENCY HISTOGRAM nosuch
        CONFIG SET slowlog-log-slower-than x
        CONFIG SET slowlog-log-slower-than -2
        CONFIG SET slowlog-max-len -1
        CONFIG SET latency-monitor-threshold -1
        CONFIG SET latency-tracking maybe
        CONFIG SET latency-tracking-info-percentiles "50 x"
        CONFIG SET latency-tracking-info-percentiles "50 101"
        CONFIG SET latency-tracking-info-percentiles "50 99.95 100"
        CONFIG GET latency-tracking-info-percentiles
        CONFIG SET latency-tracking-info-percentiles "50 99 99.9"
        CONFIG GET slowlog-max-len
    """,
    "emptied": """
        SLOWLOG RESET
        SLOWLOG LEN
        SLOWLOG GET
        SLOWLOG GET -1
        SLOWLOG GET 0
        LATENCY RESET
        LATENCY LATEST
    """,
    "no tracking": """
        CONFIG SET latency-tracking no
        CONFIG GET latency-tracking
        CONFIG RESETSTAT
        GET k
        LATENCY HISTOGRAM
        INFO latencystats
        CONFIG SET latency-tracking yes
    """,
}


@pytest.mark.parametrize("proto", [2, 3])
@pytest.mark.parametrize("name", SEQUENCES)
def test_replies_are_those_of_redis(redtier: RedtierServer, real: RedisServer, name: str, proto: int) -> None:
    with RawClient(redtier.port, proto) as ours, RawClient(real.port, proto) as theirs:
        for line in SEQUENCES[name].strip().splitlines():
            assert ours.ask(line) == theirs.ask(line), line


@pytest.mark.parametrize("proto", [2, 3])
def test_what_is_logged_has_the_shape_of_redis(redtier: RedtierServer, real: RedisServer, proto: int) -> None:
    def entries(port: int) -> list[bytes]:
        with RawClient(port, proto) as client:
            client.ask("CONFIG SET slowlog-log-slower-than 0")
            client.ask("SLOWLOG RESET")
            client.ask("CLIENT SETNAME me")
            client.ask("SET k " + "x" * 200)
            client.ask("MSET " + " ".join(f"k{n} v" for n in range(20)))
            client.ask("CONFIG SET requirepass '' timeout 0")
            client.ask("HELLO 3 AUTH default secret")
            client.ask("GET k extra")  # no call: it is not logged
            reply = client.ask("SLOWLOG GET 5")
            client.ask("CONFIG SET slowlog-log-slower-than 10000")
        # Numbers of entries, times and ports differ.
        return re.split(rb"\r\n", re.sub(rb":\d+(?=\r\n:\d+\r\n:\d+)|:\d+(?=\r\n)|:\d+$", b":N", reply))

    ours, theirs = entries(redtier.port), entries(real.port)
    assert [line for line in ours if line[:1] != b":"] == [line for line in theirs if line[:1] != b":"]
    assert b"(redacted)" in ours


def test_the_log_holds_the_last_ones(client: redis.Redis) -> None:
    client.config_set("slowlog-max-len", 3)
    client.config_set("slowlog-log-slower-than", 0)
    for number in range(5):
        client.set("k", number)
    client.config_set("slowlog-log-slower-than", -1)
    client.set("k", "unlogged")
    assert [entry["command"] for entry in client.slowlog_get()] == [
        b"SET k 4",
        b"SET k 3",
        b"SET k 2",
    ]
    assert client.slowlog_len() == 3


def test_a_slow_command_is_logged_with_who_asked_for_it(client: redis.Redis) -> None:
    client.client_setname("me")
    client.config_set("latency-monitor-threshold", 10)
    client.execute_command("DEBUG", "SLEEP", "0.02")
    (entry,) = client.execute_command("SLOWLOG GET")
    assert (entry["command"], entry["client_name"]) == (b"DEBUG SLEEP 0.02", b"me")
    assert 20_000 <= entry["duration"] < 2_000_000
    assert entry["client_address"] == client.client_info()["addr"].encode()
    ((event, at, latest, longest),) = client.latency_latest()
    assert (event, at, latest) == (b"command", entry["start_time"], longest)
    assert client.latency_history("command") == [[at, latest]]
    assert latest == entry["duration"] // 1000
    with pytest.raises(Exception, match="intentionally"):
        client.latency_doctor()
    assert b"- command: 1 times" in client.execute_command(b"LATENCY DOCTOR")
    assert client.execute_command("LATENCY GRAPH", "command").startswith(b"command - high ")
    assert client.latency_reset() == 1
    assert client.latency_latest() == []


def test_in_a_transaction_each_command_is_timed(client: redis.Redis) -> None:
    client.config_set("slowlog-log-slower-than", 0)
    with client.pipeline() as pipe:
        pipe.set("k", 1).incr("k").execute()
    client.config_set("slowlog-log-slower-than", 10_000)
    logged = [entry["command"] for entry in client.slowlog_get()]
    assert b"SET k 1" in logged
    assert b"INCRBY k 1" in logged
    assert b"EXEC" not in logged  # as in Redis


@pytest.mark.parametrize("prefix", ["", "cold:"])
@pytest.mark.parametrize("pipeline", [1, 50])
def test_every_call_is_in_the_figures(redtier: RedtierServer, prefix: str, pipeline: int) -> None:
    with redtier.client() as client:
        client.set(prefix + "k", "v")
        client.config_resetstat()
        for _ in range(600 // pipeline):
            with client.pipeline(transaction=False) as pipe:
                for _ in range(pipeline):
                    pipe.get(prefix + "k")
                pipe.execute()
        stats = client.info("commandstats")["cmdstat_get"]
        assert stats["calls"] == 600
        assert stats["usec"] > 0
        assert stats["usec_per_call"] == pytest.approx(stats["usec"] / 600, abs=0.01)
        percentiles = client.info("latencystats")["latency_percentiles_usec_get"]
        assert list(percentiles) == ["p50", "p99", "p99.9"]
        assert 0 < percentiles["p50"] <= percentiles["p99"] <= percentiles["p99.9"]
        with RawClient(redtier.port, 3) as raw:
            histogram = mapping(mapping(tree(raw.ask("LATENCY HISTOGRAM get")))[b"get"])
            assert histogram[b"calls"] == (":", b"600")
            assert max(int(n) for _, n in mapping(histogram[b"histogram_usec"]).values()) == 600


def test_a_container_means_its_subcommands(client: redis.Redis) -> None:
    client.client_id()
    assert b"client|id" in client.execute_command("LATENCY HISTOGRAM", "client")


# The log and the monitor by themselves


def test_one_of_several_is_said_to_be_so() -> None:
    log = SlowLog(10, 2)
    log.add(1, 20, [b"get", b"k"], 3, "peer:1", b"")
    assert log.entries[0].argv == [b"get", b"k", b"... (or one of 3 other commands of its pipeline)"]


def test_the_longest_of_each_second_is_kept() -> None:
    monitor = LatencyMonitor(10)
    for at, ms in ((1, 9), (1, 10), (1, 30), (1, 20), (2, 15)):
        monitor.add("command", at, ms)
    event = monitor.events["command"]
    assert list(event.samples) == [(1, 30), (2, 15)]
    assert event.max == 30


def test_samples_are_bounded() -> None:
    monitor = LatencyMonitor(1)
    for at in range(1000):
        monitor.add("command", at, 5)
    assert list(monitor.events["command"].samples) == [(at, 5) for at in range(840, 1000)]
