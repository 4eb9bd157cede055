"""DEBUG, and what memory is used for: off by default, and what is told of values."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
import redis

from proxy.commands.debug import SUBCOMMANDS
from tests.commands.test_latency import CONFIG
from tests.rawclient import RawClient, mapping, tree
from tests.servers import RedisServer, RedtierServer, wait_until

pytestmark = pytest.mark.once  # it is not compiled


@pytest.fixture(scope="module")
def redtier() -> Iterator[RedtierServer]:
    with RedtierServer(CONFIG) as server:
        yield server


@pytest.fixture(scope="module")
def real() -> Iterator[RedisServer]:
    with RedisServer("--enable-debug-command", "yes") as server:
        yield server


@pytest.mark.parametrize("proto", [2, 3])
def test_replies_are_those_of_redis(redtier: RedtierServer, real: RedisServer, proto: int) -> None:
    with RawClient(redtier.port, proto) as ours, RawClient(real.port, proto) as theirs:
        for line in (
            "DEBUG",
            "DEBUG OTHER",
            "debug Object",
            "DEBUG OBJECT nosuch",
            "DEBUG SLEEP 0",
            "DEBUG SLEEP x",
            "DEBUG SLEEP",
            "DEBUG JMAP",
            "DEBUG SET-ACTIVE-EXPIRE",
            "DEBUG SET-ACTIVE-EXPIRE 1",
            'DEBUG ERROR "WHAT is this"',
            "DEBUG LOG hello",
            "ROLE",
            "ROLE x",
            "LASTSAVE x",
            "SAVE x",
            "BGSAVE x",
            "BGSAVE SCHEDULE x",
            "BGREWRITEAOF x",
            "MEMORY PURGE",
            "MEMORY MALLOC-STATS x",
            "MEMORY USAGE nosuch",
            "MEMORY USAGE nosuch SAMPLES",
            "MEMORY USAGE nosuch SAMPLES x",
            "MEMORY USAGE nosuch SAMPLES 5",
            "MEMORY USAGE nosuch OTHER 5",
            "MEMORY OTHER",
            "RESET",
        ):
            assert ours.ask(line) == theirs.ask(line), line


def test_help_names_every_subcommand(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client:
        shown = [
            line.split()[0] for _, line in tree(client.ask("DEBUG HELP"))[1] if not line.startswith(b" ")
        ]
    assert shown[0] == b"DEBUG"
    assert set(shown[1:]) == SUBCOMMANDS.keys()


@pytest.mark.parametrize(("allowed", "text"), [("no", b"-ERR DEBUG command not allowed"), ("local", b"+OK")])
def test_only_who_may_does(allowed: str, text: bytes) -> None:
    with (
        RedtierServer(CONFIG.replace('"yes"', f'"{allowed}"')) as server,
        RawClient(server.port) as client,
    ):
        assert client.ask("DEBUG SLEEP 0").startswith(text)
        assert client.ask("CONFIG GET enable-debug-command").endswith(f"{allowed}\r\n".encode())


def test_sleep_holds_its_own_client_only(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as sleeper, RawClient(redtier.port) as other:
        began = time.monotonic()
        sleeper.send("DEBUG SLEEP 0.3", "PING")
        assert other.ask("PING") == b"+PONG\r\n"
        assert time.monotonic() - began < 0.25
        assert (sleeper.frame(), sleeper.frame()) == (b"+OK\r\n", b"+PONG\r\n")
        assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("prefix", ["", "cold:"])
def test_a_value_is_described_as_tools_read_it(redtier: RedtierServer, prefix: str) -> None:
    with redtier.client() as client:
        client.set(prefix + "number", 12345)
        client.hset(prefix + "hash", "f", "v")
        for key, encoding in (("number", "int"), ("hash", "listpack")):
            described = client.debug_object(prefix + key)
            assert (described["encoding"], described["refcount"]) == (encoding, 1)
            assert described["serializedlength"] > 0


def test_keys_may_be_left_until_somebody_asks(redtier: RedtierServer) -> None:
    with redtier.client() as client:
        client.flushall()
        client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
        client.set("mortal", "v", px=1)
        rounds = client.info("stats")["total_commands_processed"]
        client.execute_command("DEBUG", "SLEEP", "0.25")  # two rounds of housekeeping
        assert client.info("stats")["total_commands_processed"] > rounds
        assert client.info("keyspace")["db0"]["keys"] == 1
        assert client.get("mortal") is None
        client.set("mortal", "v", px=1)
        client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "1")
        wait_until(lambda: "db0" not in client.info("keyspace"))


def test_nothing_is_saved_and_that_is_said(redtier: RedtierServer) -> None:
    with redtier.client() as client:
        nothing, no_file = "there is nothing to save", "there is no append-only file"
        for command, error in {"SAVE": nothing, "BGSAVE SCHEDULE": nothing, "BGREWRITEAOF": no_file}.items():
            with pytest.raises(redis.ResponseError, match=error):
                client.execute_command(*command.split())
        assert client.lastsave().timestamp() == client.info("persistence")["rdb_last_save_time"]


# MEMORY


@pytest.mark.parametrize("proto", [2, 3])
def test_memory_stats_has_the_keys_and_types_of_redis(
    redtier: RedtierServer, real: RedisServer, proto: int
) -> None:
    def types(port: int) -> list[tuple[bytes, str]]:
        with RawClient(port, proto) as client:
            client.ask("FLUSHALL")
            client.ask("SET k v")
            reply = mapping(tree(client.ask("MEMORY STATS")))
            return [(name, kind) for name, (kind, _) in reply.items()]

    assert types(redtier.port) == types(real.port)


def test_memory_stats_counts_keys(redtier: RedtierServer) -> None:
    with redtier.client() as client:
        client.flushall()
        empty = client.memory_stats()
        client.mset({f"k{number}": "x" * 1000 for number in range(100)})
        full = client.memory_stats()
        assert (empty["keys.count"], full["keys.count"]) == (0, 100)
        assert full["total.allocated"] - empty["total.allocated"] > 100_000
        assert full["dataset.bytes"] + full["overhead.total"] >= full["peak.allocated"] * 0.5


def test_there_is_no_allocator_to_tell_of(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client:
        assert b"not supported for the current allocator" in client.ask("MEMORY MALLOC-STATS")


def test_memory_doctor_says_when_memory_is_full() -> None:
    config = CONFIG.replace('type = "memory"', 'type = "memory"\nmax_bytes = "1mb"')
    with RedtierServer(config) as server, server.client() as client:
        assert b"too little" in client.execute_command("MEMORY DOCTOR")
        for number in range(1100):
            client.set(f"k{number}", "x" * 1000)
        assert re.match(rb"Backend 'hot' holds \d+ of 1048576 bytes and has evicted \d+ keys", doctor(client))


def doctor(client: redis.Redis) -> bytes:
    told: bytes = client.execute_command("MEMORY DOCTOR")
    return told
