"""HyperLogLog, beyond its replies and bytes (which differential/ compares): refusals, and what is kept."""

from __future__ import annotations

import pytest

from proxy.commands import hyperloglog
from proxy.errors import CommandError
from proxy.keyspace import HASH, KeyPolicy, Keyspace
from proxy.resp import Argv, Reply
from tests.commands.keyspaces import make_memory

HANDLERS = {
    "pfadd": hyperloglog.pfadd,
    "pfcount": hyperloglog.pfcount,
    "pfmerge": hyperloglog.pfmerge,
    "pfdebug": hyperloglog.pfdebug,
}


def run(keyspace: Keyspace, command: str) -> Reply:
    argv: Argv = command.encode().split()
    return HANDLERS[command.split()[0]](keyspace, argv)


def value(keyspace: Keyspace, key: bytes) -> bytes:
    entry = keyspace.peek(key)
    assert entry is not None
    assert isinstance(entry.value, bytearray)
    return bytes(entry.value)


def test_counting_is_answered_even_where_the_count_can_not_be_kept() -> None:
    keyspace, _ = make_memory(policy="noeviction")
    run(keyspace, "pfadd k a b c")
    keyspace.backend.max_bytes = 10  # type: ignore[attr-defined]
    before = value(keyspace, b"k")
    assert run(keyspace, "pfcount k") == 3
    assert value(keyspace, b"k") == before


def test_what_would_be_over_the_limit_stays_as_it_was() -> None:
    keyspace, _ = make_memory(routes=[(b"short:", KeyPolicy(ttl=0, max_value=100))])
    run(keyspace, "pfadd short:k a")
    run(keyspace, "pfadd k a")
    before = value(keyspace, b"short:k")
    many = " ".join(map(str, range(100)))
    run(keyspace, f"pfadd other {many}")
    for command in (f"pfadd short:k {many}", "pfmerge short:k other", "pfdebug todense short:k"):
        with pytest.raises(CommandError, match="TOOLARGE"):
            run(keyspace, command)
        assert value(keyspace, b"short:k") == before
    with pytest.raises(CommandError, match="TOOLARGE"):
        run(keyspace, f"pfadd short:new {many}")
    assert keyspace.peek(b"short:new") is None


@pytest.mark.parametrize(
    "command",
    ["pfadd k a", "pfcount k", "pfcount other k", "pfmerge k", "pfmerge other k", "pfdebug getreg k"],
)
def test_another_type_is_refused_before_anything_is_changed(command: str) -> None:
    keyspace, _ = make_memory()
    run(keyspace, "pfadd other a")
    before = value(keyspace, b"other")
    keyspace.put(b"k", HASH, None)
    with pytest.raises(CommandError, match="WRONGTYPE Operation"):
        run(keyspace, command)
    assert value(keyspace, b"other") == before
