"""Bits of strings, beyond their replies (which differential/ compares): in place, at once, and refused."""

from __future__ import annotations

import time

import pytest

from proxy.commands import bitmaps, keys, strings
from proxy.errors import CommandError
from proxy.keyspace import HASH, STRING, KeyPolicy, Keyspace
from proxy.resp import Argv, Reply
from tests.commands.keyspaces import make_memory

HANDLERS = {
    "setbit": bitmaps.setbit,
    "getbit": bitmaps.getbit,
    "bitcount": bitmaps.bitcount,
    "bitpos": bitmaps.bitpos,
    "bitop": bitmaps.bitop,
    "bitfield": bitmaps.bitfield,
    "bitfield_ro": bitmaps.bitfield_ro,
}
MEGABYTE = 1024 * 1024


def run(keyspace: Keyspace, command: str) -> Reply:
    argv: Argv = command.encode().split()
    return HANDLERS[command.split()[0]](keyspace, argv)


def value(keyspace: Keyspace, key: bytes) -> bytes | bytearray:
    entry = keyspace.peek(key)
    assert entry is not None
    assert isinstance(entry.value, bytes | bytearray)
    return entry.value


def test_what_copy_and_bitop_make_of_it_is_no_number_either() -> None:
    keyspace, _ = make_memory()
    strings.set_(keyspace, [b"set", b"k", b"10"])
    run(keyspace, "setbit k 1 0")
    keys.copy(keyspace, [b"copy", b"k", b"copied"])
    run(keyspace, "bitop or made k")
    for name in (b"k", b"copied", b"made"):
        assert keys.object_encoding(keyspace, [b"object", b"encoding", name]) == b"raw"


def quickest(keyspace: Keyspace, command: str) -> float:
    """Seconds of the best of a few runs."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        run(keyspace, command)
        times.append(time.perf_counter() - began)
    return min(times)


class TestInPlace:
    def test_setting_a_bit_copies_the_value_once_and_then_never_again(self) -> None:
        keyspace, _ = make_memory()
        keyspace.put(b"k", STRING, bytes(10))
        run(keyspace, "setbit k 3 1")
        buffer = value(keyspace, b"k")
        run(keyspace, "setbit k 100 1")
        run(keyspace, "bitfield k set u8 0 7")
        run(keyspace, "bitfield k set u8 1000 7")
        assert value(keyspace, b"k") is buffer

    def test_a_bit_of_megabytes_is_set_as_fast_as_one_of_few_bytes(self) -> None:
        keyspace, _ = make_memory()
        keyspace.put(b"large", STRING, bytes(64 * MEGABYTE))
        keyspace.put(b"small", STRING, bytes(64))
        small = quickest(keyspace, "setbit small 500 1")
        assert quickest(keyspace, "setbit large 500000000 1") < 20 * small
        assert quickest(keyspace, "bitfield large incrby u8 300000000 1") < 20 * small + 1e-4

    @pytest.mark.parametrize(
        ("command", "milliseconds"),
        [
            ("bitcount k", 10),
            ("bitcount k 3 8000000 BIT", 10),
            ("bitpos k 1", 10),
            ("bitop and to k k", 40),
            ("bitop not to k", 10),
        ],
    )
    def test_a_megabyte_takes_milliseconds(self, command: str, milliseconds: int) -> None:
        keyspace, _ = make_memory()
        keyspace.put(b"k", STRING, bytes(MEGABYTE) + b"\1")
        assert quickest(keyspace, command) < milliseconds / 1000


class TestRefusals:
    def test_a_value_that_would_be_over_the_limit_stays_as_it_was(self) -> None:
        keyspace, _ = make_memory(routes=[(b"short:", KeyPolicy(ttl=0, max_value=10))])
        run(keyspace, "setbit short:k 1 1")
        for command in ("setbit short:k 80 1", "bitfield short:k set u8 0 9 set u8 80 9"):
            with pytest.raises(CommandError, match="TOOLARGE"):
                run(keyspace, command)
        for command in ("setbit short:new 80 1", "bitfield short:new set u8 80 9"):
            with pytest.raises(CommandError, match="TOOLARGE"):
                run(keyspace, command)
        assert value(keyspace, b"short:k") == b"\x40"
        assert keyspace.peek(b"short:new") is None

    def test_a_field_that_memory_refuses_stays_as_it_was(self) -> None:
        keyspace, _ = make_memory(max_bytes=400, policy="noeviction")
        keyspace.put(b"k", STRING, b"\1\2")
        keyspace.backend.max_bytes = 10  # type: ignore[attr-defined]
        with pytest.raises(CommandError, match="OOM"):
            run(keyspace, "bitfield k set u8 0 7 set u8 8 9")
        assert value(keyspace, b"k") == b"\1\2"

    @pytest.mark.parametrize(
        "command",
        [
            "setbit k 1 1",
            "getbit k 1",
            "bitcount k",
            "bitcount k x x",
            "bitpos k 1 x",
            "bitop and to k",
            "bitop or to none k",
            "bitfield k get u8 0",
            "bitfield k set u8 0 1",
            "bitfield_ro k get u8 0",
        ],
    )
    def test_only_strings_have_bits(self, command: str) -> None:
        keyspace, _ = make_memory()
        keyspace.put(b"k", HASH, None)
        with pytest.raises(CommandError, match="WRONGTYPE"):
            run(keyspace, command)


class TestEvents:
    def test_a_field_that_fails_changes_nothing_even_where_it_made_the_key(self) -> None:
        keyspace, _ = make_memory()
        assert run(keyspace, "bitfield new overflow fail set u1 8 5") == [None]
        assert value(keyspace, b"new") == bytes(2)
