"""Streams, beyond their replies (which differential/ compares): the clock, refusals, large ones."""

from __future__ import annotations

import time

import pytest

from proxy import commands
from proxy.commands import spec
from proxy.commands.streamargs import parse_reading, stream_of
from proxy.datatypes import streamid
from proxy.errors import CommandError
from proxy.keyspace import Block, KeyPolicy, Keyspace
from proxy.resp import NULL_ARRAY, PairedMap, Reply, encode_reply
from tests.commands.keyspaces import make_memory

commands.load()
TABLE = spec.load_table()
spec.bind(TABLE)


def run(keyspace: Keyspace, command: str) -> Reply:
    argv = command.encode().split()
    found = spec.lookup(TABLE, argv)
    assert found is not None
    assert found.handler is not None
    return found.handler(keyspace, argv)


def packed(keyspace: Keyspace) -> bytes:
    entry = keyspace.peek(b"s")
    return b"" if entry is None else stream_of(entry).pack()


class TestIds:
    def test_they_are_made_of_the_time(self) -> None:
        keyspace, clock = make_memory()
        now = clock.ms
        assert run(keyspace, "xadd s * f v") == b"%d-0" % now
        assert run(keyspace, "xadd s * f v") == b"%d-1" % now
        assert run(keyspace, f"xadd s {now}-* f v") == b"%d-2" % now
        clock.ms = now + 5
        assert run(keyspace, "xadd s * f v") == b"%d-0" % (now + 5)
        clock.ms = now - 1000
        assert run(keyspace, "xadd s * f v") == b"%d-1" % (now + 5)

    def test_no_sequence_number_is_larger_than_the_last(self) -> None:
        # Redis tells of one of two errors, whichever came before.
        keyspace, _ = make_memory()
        run(keyspace, f"xadd s 7-{streamid.SEQ_MAX} f v")
        with pytest.raises(CommandError, match="equal or smaller"):
            run(keyspace, "xadd s 7-* f v")


class TestReading:
    def test_what_is_not_there_yet_is_waited_for_from_the_last_entry_of_now(self) -> None:
        keyspace, _ = make_memory()
        run(keyspace, "xgroup create s g 0 mkstream")
        for request, again in [
            ("xread block 50 streams s $", "xread block 50 streams s 0-0"),
            ("xreadgroup group g c block 50 streams s >", "xreadgroup group g c block 50 streams s >"),
        ]:
            reply = run(keyspace, request)
            assert isinstance(reply, Block)
            assert (reply.timeout, reply.argv, reply.empty) == (50, again.encode().split(), NULL_ARRAY)
        assert run(keyspace, "xread streams s $") is NULL_ARRAY

    def test_its_arguments_tell_how_long_to_wait(self) -> None:
        reading = parse_reading(b"xread count 2 block 50 streams a b 0 $".split(), False)
        assert (reading.keys, reading.places) == ([b"a", b"b"], [b"0", b"$"])
        assert (reading.count, reading.block) == (2, 50)
        assert parse_reading(b"xread streams a 0".split(), False).block == -1

    def test_a_stream_that_is_asked_for_twice_is_there_twice(self) -> None:
        keyspace, _ = make_memory()
        run(keyspace, "xadd s 1-1 f v")
        reply = run(keyspace, "xread streams s s 0 0")
        assert isinstance(reply, PairedMap)
        assert reply.names == [b"s", b"s"]
        assert encode_reply(reply, 3).startswith(b"%2\r\n$1\r\ns\r\n*1\r\n")
        assert encode_reply(reply, 2).startswith(b"*2\r\n*2\r\n$1\r\ns\r\n*1\r\n")


class TestTooLarge:
    @pytest.mark.parametrize(
        "command",
        [
            "xadd s * f " + "x" * 3000,
            "xadd s maxlen 1 * f " + "x" * 3000,
            "xreadgroup group g c streams s >",
            "xreadgroup group g " + "c" * 3000 + " noack streams s >",
            "xclaim s g c 0 " + "1-1 2-1 3-1 " * 10 + "force",
            "xautoclaim s g " + "c" * 3000 + " 0 0",
            "xgroup create s " + "h" * 3000 + " 0",
            "xgroup createconsumer s g " + "c" * 3000,
        ],
    )
    def test_what_a_route_does_not_hold_is_refused_before_anything_is_changed(self, command: str) -> None:
        keyspace, _ = make_memory(routes=[(b"s", KeyPolicy(ttl=0, max_value=3500))])
        for number in range(1, 11):
            run(keyspace, f"xadd s {number}-1 f v")
        run(keyspace, "xgroup create s g 0")
        before = packed(keyspace)
        with pytest.raises(CommandError, match="TOOLARGE"):
            run(keyspace, command)
        assert packed(keyspace) == before

    def test_a_stream_that_would_be_made_too_large_is_not_made(self) -> None:
        keyspace, _ = make_memory(routes=[(b"s", KeyPolicy(ttl=0, max_value=3500))])
        with pytest.raises(CommandError, match="TOOLARGE"):
            run(keyspace, "xadd s * f " + "x" * 4000)
        with pytest.raises(CommandError, match="TOOLARGE"):
            run(keyspace, "xgroup create s " + "g" * 4000 + " 0 mkstream")
        assert keyspace.peek(b"s") is None


def test_no_command_takes_longer_on_a_large_stream() -> None:
    keyspace, _ = make_memory()
    run(keyspace, "xgroup create s g 0 mkstream")
    entry = keyspace.peek(b"s")
    assert entry is not None
    stream = stream_of(entry)
    for number in range(1, 100_001):
        stream.append(streamid.make(number, 0), [b"f", b"v"])
    run(keyspace, "xreadgroup group g c streams s >")
    for command in [
        "xadd s maxlen 100000 * f v",
        "xrange s 50000 + count 10",
        "xrevrange s 50000 - count 10",
        "xread count 10 streams s 50000",
        "xreadgroup group g c count 10 streams s 50000",
        "xpending s g",
        "xpending s g 50000 + 10",
        "xclaim s g d 0 50000 50001",
        "xautoclaim s g e 0 50000 count 10",
        "xack s g 50000 50001",
        "xdel s 50000 50001",
        "xinfo stream s full",
        "xlen s",
    ]:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            run(keyspace, command)
            times.append(time.perf_counter() - began)
        assert min(times) < 0.002, command
