"""Strings, beyond their replies (which differential/ compares): values changed in place, and refusals."""

from __future__ import annotations

import pytest

from proxy.commands import strings
from proxy.commands.keys import copy, object_encoding, rename
from proxy.errors import CommandError
from proxy.keyspace import HASH, STRING, KeyPolicy, Keyspace, string_of
from proxy.resp import Argv, Reply
from tests.commands.keyspaces import make_memory

HANDLERS = {
    "append": strings.append,
    "get": strings.get,
    "getrange": strings.getrange,
    "getset": strings.getset,
    "lcs": strings.lcs,
    "mget": strings.mget,
    "set": strings.set_,
    "setrange": strings.setrange,
    "copy": copy,
    "rename": rename,
    "object": object_encoding,
    "mset": strings.mset,
    "msetnx": strings.msetnx,
}


def run(keyspace: Keyspace, command: str, *more: bytes) -> Reply:
    argv: Argv = [*command.encode().split(), *more]
    return HANDLERS[command.split()[0]](keyspace, argv)


def value(keyspace: Keyspace, key: bytes) -> object:
    entry = keyspace.peek(key)
    assert entry is not None
    return entry.value


class TestInPlace:
    def test_appending_copies_the_value_once_and_then_never_again(self) -> None:
        keyspace, _ = make_memory()
        run(keyspace, "set k a")
        run(keyspace, "append k b")
        buffer = value(keyspace, b"k")
        run(keyspace, "append k c")
        run(keyspace, "setrange k 5 d")
        assert value(keyspace, b"k") is buffer
        assert run(keyspace, "get k") == b"abc\0\0d"

    def test_a_reply_does_not_change_with_the_value(self) -> None:
        keyspace, _ = make_memory()
        run(keyspace, "append k ab")
        run(keyspace, "append k cd")
        replies = [
            run(keyspace, "get k"),
            run(keyspace, "getrange k 0 -1"),
            *run(keyspace, "mget k"),
            run(keyspace, "lcs k k"),
        ]
        run(keyspace, "setrange k 0 ____")
        assert replies == [b"abcd"] * 4
        assert run(keyspace, "getset k new") == b"____"

    def test_a_copy_and_its_original_part(self) -> None:
        keyspace, _ = make_memory()
        run(keyspace, "append k ab")
        run(keyspace, "append k c")
        run(keyspace, "copy k other")
        run(keyspace, "append k d")
        run(keyspace, "append other x")
        assert run(keyspace, "mget k other") == [b"abcd", b"abcx"]
        assert run(keyspace, "object encoding other") == b"raw"

    def test_the_bytes_that_a_change_adds_are_accounted(self) -> None:
        keyspace, _ = make_memory(max_bytes=1800)
        run(keyspace, "set a 1")
        run(keyspace, "set k 1")
        for _ in range(20):
            run(keyspace, "append k", bytes(70))
        assert keyspace.peek(b"a") is None
        assert keyspace.peek(b"k") is not None


class TestRefusal:
    """A value that the route or the bound refuses leaves the old one as it was."""

    LIMIT = KeyPolicy(ttl=0, max_value=10)

    @pytest.mark.parametrize(
        "command", ["append k 1234567", "setrange k 4 1234567", "setrange k 8 123", "setrange k 10 x"]
    )
    @pytest.mark.parametrize("in_place", [False, True])
    def test_of_a_change(self, command: str, in_place: bool) -> None:
        keyspace, _ = make_memory(routes=[(b"k", self.LIMIT)])
        run(keyspace, "set k abc")
        run(keyspace, "append k de")
        if not in_place:
            run(keyspace, "set k abcde")
        with pytest.raises(CommandError, match="TOOLARGE"):
            run(keyspace, command)
        entry = keyspace.peek(b"k")
        assert entry is not None
        assert string_of(entry) == b"abcde"
        assert run(keyspace, "append k 12345") == 10
        assert run(keyspace, "get k") == b"abcde12345"

    def test_of_a_change_that_does_not_fit_the_bound(self) -> None:
        keyspace, _ = make_memory(max_bytes=1000, policy="noeviction")
        run(keyspace, "append k abc")
        run(keyspace, "append k def")
        with pytest.raises(CommandError, match="OOM"):
            run(keyspace, "append k", bytes(900))
        assert run(keyspace, "get k") == b"abcdef"

    @pytest.mark.parametrize("command", ["mset", "msetnx"])
    def test_of_one_of_several_values_leaves_the_others_unwritten(self, command: str) -> None:
        keyspace, _ = make_memory(routes=[(b"k", self.LIMIT)])
        with pytest.raises(CommandError, match="TOOLARGE"):
            run(keyspace, command, b"a", b"1", b"k", bytes(11))
        assert keyspace.peek(b"a") is None

    @pytest.mark.parametrize("command", ["mset", "msetnx"])
    def test_of_several_values_that_do_not_fit_together(self, command: str) -> None:
        keyspace, _ = make_memory(max_bytes=2000, policy="noeviction")
        with pytest.raises(CommandError, match="OOM"):
            run(keyspace, command, b"a", bytes(900), b"b", bytes(900))
        assert keyspace.peek(b"a") is None

    def test_of_a_new_name(self) -> None:
        keyspace, _ = make_memory(routes=[(b"k", self.LIMIT)])
        run(keyspace, "set other", bytes(11))
        with pytest.raises(CommandError, match="TOOLARGE"):
            run(keyspace, "rename other k")
        assert run(keyspace, "get other") == bytes(11)


class TestOtherTypes:
    """No command makes them here: they are put."""

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("get", []),
            ("append", [b"x"]),
            ("getdel", []),
            ("getex", []),
            ("getrange", [b"0", b"1"]),
            ("getset", [b"x"]),
            ("incr", []),
            ("incrbyfloat", [b"1"]),
            ("setrange", [b"0", b"x"]),
            ("setrange", [b"0", b""]),
            ("strlen", []),
            ("set_", [b"x", b"GET"]),
        ],
    )
    def test_are_refused(self, name: str, arguments: list[bytes]) -> None:
        keyspace, _ = make_memory()
        keyspace.put(b"k", HASH, {})
        with pytest.raises(CommandError, match="WRONGTYPE"):
            getattr(strings, name)(keyspace, [name.encode(), b"k", *arguments])
        assert value(keyspace, b"k") == {}

    def test_are_nothing_to_mget_and_an_error_of_its_own_to_lcs(self) -> None:
        keyspace, _ = make_memory()
        keyspace.put(b"k", HASH, {})
        assert run(keyspace, "mget k") == [None]
        with pytest.raises(CommandError, match="must contain string values"):
            run(keyspace, "lcs k k BOGUS")

    def test_are_replaced_by_set(self) -> None:
        keyspace, _ = make_memory()
        keyspace.put(b"k", HASH, {})
        run(keyspace, "set k v KEEPTTL")
        entry = keyspace.peek(b"k")
        assert entry is not None
        assert (entry.kind, entry.value) == (STRING, b"v")
