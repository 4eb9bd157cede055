"""Lists, beyond their replies (which differential/ compares): refusals, accounting, what outlives a key."""

from __future__ import annotations

import pytest

from proxy.commands import lists
from proxy.commands.keys import copy, object_encoding
from proxy.errors import CommandError
from proxy.keyspace import KeyPolicy, Keyspace
from proxy.lru import entry_size
from proxy.resp import Argv, Reply
from tests.commands.keyspaces import make_memory

HANDLERS = {
    "linsert": lists.linsert,
    "lmove": lists.lmove,
    "lpop": lists.lpop,
    "lpush": lists.lpush,
    "lrange": lists.lrange,
    "lrem": lists.lrem,
    "lset": lists.lset,
    "ltrim": lists.ltrim,
    "rpoplpush": lists.rpoplpush,
    "rpush": lists.rpush,
    "rpushx": lists.rpushx,
    "copy": copy,
    "object": object_encoding,
}


def run(keyspace: Keyspace, command: str, *more: bytes) -> Reply:
    argv: Argv = [*command.encode().split(), *more]
    return HANDLERS[command.split()[0]](keyspace, argv)


def accounted(keyspace: Keyspace, key: bytes) -> bool:
    """Whether the bytes that the key is counted with are those of its value."""
    entry = keyspace.peek(key)
    assert entry is not None
    return entry.size == entry_size(key, entry.value)


def test_every_change_is_accounted() -> None:
    keyspace, _ = make_memory()
    for command in (
        "rpush k a b c a b c",
        "lpush k x",
        "rpushx k y",
        "lset k 0 longer",
        "linsert k AFTER a new",
        "lrem k 1 a",
        "ltrim k 1 -2",
        "lpop k",
        "lmove k k LEFT RIGHT",
        "lpop k 2",
        "rpoplpush k other",
    ):
        run(keyspace, command)
        assert accounted(keyspace, b"k"), command
    assert accounted(keyspace, b"other")


def test_a_copy_and_its_original_part() -> None:
    keyspace, _ = make_memory()
    for items in ([b"a", b"b"], [b"%d" % number for number in range(500)]):
        run(keyspace, "ltrim k 1 0")
        run(keyspace, "rpush k", *items)
        run(keyspace, "copy k other REPLACE")
        run(keyspace, "lset k 0 x")
        run(keyspace, "rpush other y")
        assert run(keyspace, "lrange k 0 0") == [b"x"]
        assert run(keyspace, "lrange other 0 0") == items[:1]
        assert run(keyspace, "lrange k -1 -1") == items[-1:]


def test_a_reply_does_not_change_with_the_list() -> None:
    keyspace, _ = make_memory()
    run(keyspace, "rpush k", *[b"%d" % number for number in range(500)])
    reply = run(keyspace, "lrange k 0 -1")
    run(keyspace, "ltrim k 1 0")
    assert len(reply) == 500


@pytest.mark.parametrize(
    "command", ["rpush k", "lpush k 1", "rpushx k", "linsert k AFTER a", "lset k 0", "rpush new"]
)
def test_what_would_be_too_large_is_refused_and_changes_nothing(command: str) -> None:
    limit = KeyPolicy(ttl=0, max_value=300)
    keyspace, _ = make_memory(routes=[(b"k", limit), (b"new", limit)])
    run(keyspace, "rpush k a b")
    with pytest.raises(CommandError, match="TOOLARGE"):
        run(keyspace, command, bytes(250))
    assert run(keyspace, "lrange k 0 -1") == [b"a", b"b"]
    assert keyspace.peek(b"new") is None


@pytest.mark.parametrize(
    "command", ["lmove source k LEFT LEFT", "rpoplpush source k", "rpoplpush source new"]
)
def test_a_move_to_where_there_is_no_room_leaves_the_source_as_it_was(command: str) -> None:
    limit = KeyPolicy(ttl=0, max_value=300)
    keyspace, _ = make_memory(routes=[(b"k", limit), (b"new", limit)])
    run(keyspace, "rpush source", bytes(250))
    run(keyspace, "rpush k a")
    with pytest.raises(CommandError, match="TOOLARGE"):
        run(keyspace, command)
    assert run(keyspace, "lrange source 0 -1") == [bytes(250)]
    assert run(keyspace, "lrange k 0 -1") == [b"a"]


def test_a_move_whose_source_is_evicted_for_it_finds_nothing() -> None:
    keyspace, _ = make_memory(max_bytes=2000)
    run(keyspace, "rpush source", bytes(900))
    assert run(keyspace, "rpoplpush source target") is None
    assert keyspace.peek(b"source") is None
    assert keyspace.peek(b"target") is None


def test_no_room_at_all_is_an_error() -> None:
    keyspace, _ = make_memory(max_bytes=1000, policy="noeviction")
    run(keyspace, "rpush k a")
    with pytest.raises(CommandError, match="OOM"):
        run(keyspace, "rpush k", bytes(900))
    assert run(keyspace, "lrange k 0 -1") == [b"a"]


def test_a_list_is_always_a_quicklist() -> None:
    keyspace, _ = make_memory()
    run(keyspace, "rpush k a")
    assert run(keyspace, "object encoding k") == b"quicklist"
