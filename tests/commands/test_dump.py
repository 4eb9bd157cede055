"""DUMP and RESTORE, beyond their replies (which differential/ compares): what is kept, refused, and left."""

from __future__ import annotations

import pytest

from proxy.commands.dump import dump, restore
from proxy.commands.hashes import hset
from proxy.errors import CommandError
from proxy.keyspace import STRING, KeyPolicy, Keyspace, string_of
from tests.commands.keyspaces import make_memory


def dumped(keyspace: Keyspace, key: bytes) -> bytes:
    reply = dump(keyspace, [b"DUMP", key])
    assert isinstance(reply, bytes)
    return reply


def test_a_key_comes_back_with_the_time_for_which_it_was_not_used() -> None:
    keyspace, clock = make_memory()
    keyspace.put(b"k", STRING, b"v")
    restore(keyspace, [b"RESTORE", b"copy", b"0", dumped(keyspace, b"k"), b"IDLETIME", b"100"])
    entry = keyspace.peek(b"copy")
    assert entry is not None
    assert entry.used_at == clock.ms - 100_000


def test_a_value_over_the_limit_is_refused_and_what_it_would_replace_stays() -> None:
    keyspace, _ = make_memory(routes=[(b"short:", KeyPolicy(ttl=0, max_value=100))])
    keyspace.put(b"large", STRING, b"x" * 200)
    hset(keyspace, [b"HSET", b"hash", *[b"%d" % n for n in range(100)]])
    keyspace.put(b"short:k", STRING, b"v")
    for key in (b"large", b"hash"):
        with pytest.raises(CommandError, match="TOOLARGE"):
            restore(keyspace, [b"RESTORE", b"short:k", b"0", dumped(keyspace, key), b"REPLACE"])
    entry = keyspace.peek(b"short:k")
    assert entry is not None
    assert string_of(entry) == b"v"


def test_a_key_gets_the_default_time_to_live_of_its_route() -> None:
    keyspace, clock = make_memory(routes=[(b"short:", KeyPolicy(ttl=1000, max_value=2**40))])
    keyspace.put(b"k", STRING, b"v")
    restore(keyspace, [b"RESTORE", b"short:k", b"0", dumped(keyspace, b"k")])
    entry = keyspace.peek(b"short:k")
    assert entry is not None
    assert entry.expire_at == clock.ms + 1000
