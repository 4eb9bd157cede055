"""Sorted sets, beyond their replies, which differential/ compares: chance, and refusals."""

from __future__ import annotations

import pytest

from proxy.commands import geo, zranges, zsets, zunions
from proxy.errors import CommandError
from proxy.keyspace import KeyPolicy, Keyspace
from proxy.resp import Argv, Pairs, Reply
from tests.commands.keyspaces import make_memory

HANDLERS = {
    "geoadd": geo.geoadd,
    "geosearchstore": geo.geosearchstore,
    "zadd": zsets.zadd,
    "zincrby": zsets.zincrby,
    "zrandmember": zsets.zrandmember,
    "zrange": zranges.zrange,
    "zrangestore": zranges.zrangestore,
    "zscan": zsets.zscan,
    "zunionstore": zunions.zunionstore,
}


def run(keyspace: Keyspace, command: str, *more: bytes) -> Reply:
    argv: Argv = [*command.encode().split(), *more]
    return HANDLERS[command.split()[0]](keyspace, argv)


def filled(count: int) -> Keyspace:
    keyspace, _ = make_memory()
    for number in range(count):
        run(keyspace, f"zadd z {number} m{number}")
    return keyspace


class TestChance:
    @pytest.mark.parametrize("size", [5, 500])
    def test_different_members_are_drawn_as_many_as_asked_for(self, size: int) -> None:
        keyspace = filled(size)
        drawn = run(keyspace, "zrandmember z 3")
        assert len(set(drawn)) == 3
        assert set(drawn) <= set(run(keyspace, "zrange z 0 -1"))
        assert set(run(keyspace, f"zrandmember z {size + 5}")) == set(run(keyspace, "zrange z 0 -1"))

    @pytest.mark.parametrize("size", [2, 500])
    def test_members_may_be_drawn_again_where_the_count_is_negative(self, size: int) -> None:
        drawn = run(filled(size), f"zrandmember z -{2 * size}")
        assert len(drawn) == 2 * size
        assert len(set(drawn)) <= size

    @pytest.mark.parametrize("count", ["3", "-9", "5000"])
    def test_each_comes_with_its_own_score(self, count: str) -> None:
        drawn = run(filled(200), f"zrandmember z {count} withscores")
        assert isinstance(drawn, Pairs)
        assert drawn.names == [b"m%d" % score for score in drawn.values]

    def test_every_member_may_be_drawn(self) -> None:
        keyspace = filled(4)
        drawn = {run(keyspace, "zrandmember z") for _ in range(400)}
        assert drawn == {b"m0", b"m1", b"m2", b"m3"}

    def test_no_more_are_drawn_than_a_reply_should_have(self) -> None:
        with pytest.raises(CommandError, match="TOOLARGE 9223372036854775807 elements"):
            run(filled(1), "zrandmember z -9223372036854775807")


class TestScan:
    def test_a_large_one_is_met_in_pages_each_member_once(self) -> None:
        keyspace = filled(2000)
        cursor, pages, met = b"0", 0, []
        while pages == 0 or cursor != b"0":
            cursor, found = run(keyspace, "zscan z", cursor, b"COUNT", b"50")
            met += zip(found[::2], found[1::2], strict=True)
            pages += 1
        assert sorted(met) == sorted((b"m%d" % number, b"%d" % number) for number in range(2000))
        assert pages > 5


class TestRefusals:
    @pytest.mark.parametrize(
        "command",
        [
            "zadd full 1 another-member-of-thirty-bytes",
            "zadd full 1 a 2 another-member-of-thirty-bytes 3 c",
            "zincrby full 1 another-member-of-thirty-bytes",
            "geoadd full 1 1 another-member-of-thirty-bytes",
            "zunionstore full 1 z",
            "zrangestore full z 0 -1",
            "geosearchstore full z fromlonlat 0 0 byradius 30000 km",
        ],
    )
    def test_what_would_be_too_large_changes_nothing(self, command: str) -> None:
        keyspace, _ = make_memory(routes=[(b"full", KeyPolicy(ttl=0, max_value=400))])
        for number in range(100):
            run(keyspace, f"zadd z {number} {'m' * 50}{number}")
        for number in range(20):
            try:
                run(keyspace, f"zadd full {number} member:{number}")
            except CommandError as error:
                assert error.code == "TOOLARGE"  # noqa: PT017
        before = run(keyspace, "zrange full 0 -1 withscores")
        assert 10 < len(before.names) < 20
        with pytest.raises(CommandError, match="TOOLARGE"):
            run(keyspace, command)
        after = run(keyspace, "zrange full 0 -1 withscores")
        assert (after.names, after.values) == (before.names, before.values)

    def test_a_member_of_a_full_one_may_still_change(self) -> None:
        keyspace, _ = make_memory(routes=[(b"full", KeyPolicy(ttl=0, max_value=180))])
        run(keyspace, "zadd full 1 a")
        with pytest.raises(CommandError, match="TOOLARGE"):
            run(keyspace, f"zadd full 1 {'b' * 60}")
        assert run(keyspace, "zadd full ch 2 a") == 1
