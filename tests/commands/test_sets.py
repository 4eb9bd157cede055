"""Sets, beyond their replies (which differential/ compares): chance, events, and refusals."""

from __future__ import annotations

from collections import Counter

import pytest

from proxy.commands import sets
from proxy.commands.keys import copy, object_encoding, rename
from proxy.datatypes.set import Set
from proxy.errors import CommandError
from proxy.keyspace import SET, EventSink, KeyPolicy, Keyspace
from proxy.resp import Argv, Reply
from proxy.resp import Set as SetReply
from tests.commands.keyspaces import make_memory

HANDLERS = {
    "sadd": sets.sadd,
    "scard": sets.scard,
    "sdiffstore": sets.sdiffstore,
    "sinterstore": sets.sinterstore,
    "smembers": sets.smembers,
    "smove": sets.smove,
    "spop": sets.spop,
    "srandmember": sets.srandmember,
    "srem": sets.srem,
    "sscan": sets.sscan,
    "sunion": sets.sunion,
    "sunionstore": sets.sunionstore,
    "copy": copy,
    "object": object_encoding,
    "rename": rename,
}


def run(keyspace: Keyspace, command: str, *more: bytes) -> Reply:
    argv: Argv = [*command.encode().split(), *more]
    reply = HANDLERS[command.split()[0]](keyspace, argv)
    return reply.items if isinstance(reply, SetReply) else reply


def value(keyspace: Keyspace, key: bytes) -> Set:
    entry = keyspace.peek(key)
    assert entry is not None
    assert entry.kind == SET
    assert isinstance(entry.value, Set)
    return entry.value


def names(count: int) -> list[bytes]:
    return [b"name:%d" % number for number in range(count)]


@pytest.fixture(params=["1 2 3 4 5 6", "a b c d e f"])
def six(request: pytest.FixtureRequest) -> tuple[Keyspace, list[bytes]]:
    """A set of six members, as ``s``."""
    keyspace, _ = make_memory()
    run(keyspace, f"sadd s {request.param}")
    return keyspace, request.param.encode().split()


class TestAtRandom:
    def test_spop_takes_each_member_as_often_as_another(self, six: tuple[Keyspace, list[bytes]]) -> None:
        keyspace, members = six
        taken: Counter[bytes] = Counter()
        for _ in range(3000):
            member = run(keyspace, "spop s")
            assert run(keyspace, "sadd s", member) == 1
            taken[member] += 1
        assert taken.keys() == set(members)
        assert 380 < min(taken.values()) <= max(taken.values()) < 620  # six standard deviations

    def test_spop_of_some_takes_as_many_and_leaves_the_others(
        self, six: tuple[Keyspace, list[bytes]]
    ) -> None:
        keyspace, members = six
        taken = run(keyspace, "spop s 4")
        left = run(keyspace, "smembers s")
        assert (len(taken), len(left)) == (4, 2)
        assert sorted(taken + left) == members

    def test_spop_of_the_last_removes_the_key(self) -> None:
        keyspace, _ = make_memory()
        run(keyspace, "sadd s x")
        assert run(keyspace, "spop s") == b"x"
        assert keyspace.peek(b"s") is None

    def test_srandmember_takes_nothing_away(self, six: tuple[Keyspace, list[bytes]]) -> None:
        keyspace, members = six
        assert {run(keyspace, "srandmember s") for _ in range(300)} == set(members)
        assert sorted(run(keyspace, "smembers s")) == members

    def test_srandmember_of_a_count_has_different_members(self, six: tuple[Keyspace, list[bytes]]) -> None:
        keyspace, members = six
        drawn = run(keyspace, "srandmember s 5")
        assert len(set(drawn)) == len(drawn) == 5
        assert set(drawn) < set(members)

    def test_srandmember_of_a_negative_count_may_repeat(self, six: tuple[Keyspace, list[bytes]]) -> None:
        keyspace, members = six
        drawn = run(keyspace, "srandmember s -300")
        assert (len(drawn), set(drawn)) == (300, set(members))

    def test_srandmember_does_not_draw_for_ever(self, six: tuple[Keyspace, list[bytes]]) -> None:
        keyspace, _ = six
        with pytest.raises(CommandError, match="TOOLARGE"):
            run(keyspace, "srandmember s -9223372036854775807")

    def test_of_a_large_set_too(self) -> None:
        keyspace, _ = make_memory()
        run(keyspace, "sadd s", *names(10_000))
        assert len(set(run(keyspace, "srandmember s 9000"))) == 9000
        some = run(keyspace, "spop s 100")
        most = run(keyspace, "spop s 9000")
        rest = run(keyspace, "spop s 900")
        assert sorted(some + most + rest) == sorted(names(10_000))
        assert keyspace.peek(b"s") is None


class TestValues:
    def test_a_reply_does_not_change_with_the_set(self) -> None:
        keyspace, _ = make_memory()
        run(keyspace, "sadd s x y")
        reply = run(keyspace, "smembers s")
        run(keyspace, "srem s x")
        assert sorted(reply) == [b"x", b"y"]

    @pytest.mark.parametrize("members", ["1 2", "x y"])
    def test_a_copy_and_its_original_part(self, members: str) -> None:
        keyspace, _ = make_memory()
        run(keyspace, f"sadd s {members}")
        run(keyspace, "copy s other")
        run(keyspace, "sadd s 3")
        assert (run(keyspace, "scard s"), run(keyspace, "scard other")) == (3, 2)

    def test_a_stored_result_shares_nothing_with_its_source(self) -> None:
        keyspace, _ = make_memory()
        run(keyspace, "sadd s", *names(100))
        for command in ("sunionstore", "sinterstore", "sdiffstore"):
            run(keyspace, f"{command} other s")
            run(keyspace, "srem other", *names(50))
        assert run(keyspace, "scard s") == 100

    def test_a_scan_in_pages_meets_all_members(self) -> None:
        keyspace, _ = make_memory()
        run(keyspace, "sadd s", *names(1000))
        cursor, met = run(keyspace, "sscan s 0")
        assert len(met) < 200
        while cursor != b"0":
            cursor, page = run(keyspace, "sscan s", cursor)
            met += page
        assert sorted(met) == sorted(names(1000))


class TestRefusal:
    """What the route or the bound refuses leaves the sets as they were."""

    LIMIT = KeyPolicy(ttl=0, max_value=2000)

    @pytest.mark.parametrize("command", ["sadd k", "sadd k new", "sunionstore k a", "sinterstore k a"])
    def test_of_a_set_that_would_become_too_large(self, command: str) -> None:
        keyspace, _ = make_memory(routes=[(b"k", self.LIMIT)])
        run(keyspace, "sadd k x y")
        run(keyspace, "sadd a", *names(100))
        with pytest.raises(CommandError, match="TOOLARGE"):
            run(keyspace, command, *(names(100) if command.startswith("sadd") else []))
        assert sorted(run(keyspace, "smembers k")) == [b"x", b"y"]

    def test_of_a_member_that_would_be_moved(self) -> None:
        keyspace, _ = make_memory(routes=[(b"k", self.LIMIT)])
        run(keyspace, "sadd s", bytes(2000))
        with pytest.raises(CommandError, match="TOOLARGE"):
            run(keyspace, "smove s k", bytes(2000))
        assert run(keyspace, "smembers s") == [bytes(2000)]
        assert keyspace.peek(b"k") is None

    def test_of_what_does_not_fit_the_bound(self) -> None:
        keyspace, _ = make_memory(max_bytes=2000, policy="noeviction")
        run(keyspace, "sadd s x")
        with pytest.raises(CommandError, match="OOM"):
            run(keyspace, "sadd s", bytes(2000))
        assert run(keyspace, "smembers s") == [b"x"]

    def test_making_room_for_a_member_may_evict_where_it_comes_from(self) -> None:
        keyspace, _ = make_memory(max_bytes=2500)
        run(keyspace, "sadd t x")
        run(keyspace, "sadd s", bytes(1000))
        assert run(keyspace, "smove s t", bytes(1000)) == 0
        assert keyspace.peek(b"s") is None
        assert run(keyspace, "smembers t") == [b"x"]


class Events(EventSink):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def event(self, db: int, name: str, key: bytes) -> None:
        self.seen.append(f"{name} {key.decode()}")


@pytest.mark.parametrize(
    ("command", "events"),
    [
        ("sadd a 1", []),
        ("sadd a 9 8", ["sadd a"]),
        ("sadd new 1", ["sadd new"]),
        ("srem a 9", []),
        ("srem a 1 2", ["srem a"]),
        ("srem b x", ["srem b", "del b"]),
        ("smove a b 1", ["srem a", "sadd b"]),
        ("smove a b 9", []),
        ("smove a a 1", []),
        ("smove a c 3", ["srem a"]),
        ("smove b a x", ["srem b", "del b", "sadd a"]),
        ("spop b", ["spop b", "del b"]),
        ("spop a", ["spop a"]),
        ("spop a 2", ["spop a"]),
        ("spop a 0", []),
        ("spop a 9", ["spop a", "del a"]),
        ("srandmember a 2", []),
        ("sunionstore new a", ["sunionstore new"]),
        ("sinterstore new a", ["sinterstore new"]),
        ("sdiffstore new a", ["sdiffstore new"]),
        ("sinterstore a b c", ["del a"]),
        ("sinterstore new b c", []),
    ],
)
def test_the_events_are_those_of_redis(command: str, events: list[str]) -> None:
    keyspace, _ = make_memory()
    for start in ("sadd a 1 2 3", "sadd b x", "sadd c 3"):
        run(keyspace, start)
    sink = keyspace.backend.sink = Events()  # type: ignore[attr-defined]
    run(keyspace, command)
    assert sink.seen == events
