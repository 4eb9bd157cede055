"""Sorted sets in both forms, beside a dict that is sorted anew for each question."""

from __future__ import annotations

import random
import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.datatypes.ordered import BLOCK_MAX
from proxy.datatypes.zset import MEMBER_MAX, PACKED_MAX, ZSet, make, of_order, unpack

Model = dict[bytes, float]

SCORES = st.one_of(
    st.integers(-3, 3).map(float), st.floats(allow_nan=False), st.sampled_from([float("inf"), float("-inf")])
)
MEMBERS = st.one_of(st.sampled_from([b"", b"a", b"b", b"ab", b"\xff"]), st.binary(max_size=MEMBER_MAX + 2))
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "put", "put", "remove", "cut"]), MEMBERS, SCORES), max_size=60
)


def in_order(model: Model) -> list[tuple[float, bytes]]:
    return sorted((score, member) for member, score in model.items())


def pairs(zset: ZSet, start: int = 0, stop: int = 2**62) -> list[tuple[float, bytes]]:
    members, scores = zset.slice(start, stop)
    return list(zip(scores, members, strict=True))


def ordered(count: int, size: int = 12) -> Model:
    return {b"%0*d" % (size, number): float(number // 3) for number in range(count)}


def large(model: Model) -> ZSet:
    zset = ZSet()
    zset.expand()
    for member, score in model.items():
        zset.put(member, score)
    return zset


def check(zset: ZSet, model: Model) -> None:
    """All that can be asked is answered as the model answers it."""
    expected = in_order(model)
    assert pairs(zset) == expected
    assert len(zset) == len(expected)
    assert zset.empty() == (not model)
    for rank, (score, member) in enumerate(expected):
        assert zset.rank(member) == rank
        assert zset.score(member) == score
    for bound in {score for score, _ in expected} | {0.0, 0.5, float("inf"), float("-inf")}:
        assert zset.rank_of_score(bound, False) == sum(score < bound for score, _ in expected)
        assert zset.rank_of_score(bound, True) == sum(score <= bound for score, _ in expected)


@given(STEPS, st.booleans())
def test_a_set_holds_what_a_dict_would_in_order(
    steps: list[tuple[str, bytes, float]], from_large: bool
) -> None:
    zset, model = ZSet(), dict[bytes, float]()
    if from_large:
        zset.expand()
    for step, member, score in steps:
        assert zset.score(member) == model.get(member)
        if step == "put":
            zset.put(member, score)
            model[member] = score
        elif step == "remove":
            assert zset.remove(member) == (model.pop(member, None) is not None)
        else:
            start = len(member) % 5
            for _, each in in_order(model)[start : start + 2]:
                del model[each]
            zset.cut(start, start + 2)
    check(zset, model)
    check(unpack(zset.pack()), model)
    check(zset.copy(), model)


@given(st.sets(MEMBERS, max_size=30), st.booleans(), MEMBERS)
def test_names_are_ranked_where_all_scores_are_equal(names: set[bytes], as_large: bool, name: bytes) -> None:
    model = dict.fromkeys(names, 1.0)
    zset = large(model) if as_large else make(model)
    for each in {*names, name}:
        assert zset.rank_of_name(each, False) == sum(other < each for other in names)
        assert zset.rank_of_name(each, True) == sum(other <= each for other in names)


@pytest.mark.parametrize("seed", range(4))
def test_a_large_set_grows_and_shrinks_and_is_in_order_throughout(seed: int) -> None:
    chance = random.Random(seed)
    zset, model = ZSet(), dict[bytes, float]()
    for rounds in range(12):
        falling = rounds % 4 == 3
        for _ in range(6 * BLOCK_MAX):
            member = b"%d" % chance.randrange(8 * BLOCK_MAX)
            if falling:
                assert zset.remove(member) == (model.pop(member, None) is not None)
            else:
                model[member] = float(chance.randrange(100))
                zset.put(member, model[member])
                if chance.random() < 0.01:  # a rank asked for between changes
                    assert zset.rank(member) == zset.rank_of_score(model[member], False) + sum(
                        score == model[member] and other < member for other, score in model.items()
                    )
        expected = in_order(model)
        for _ in range(200):
            start = chance.randrange(len(expected) + 1)
            stop = start + chance.choice([1, 10, 2000])
            assert pairs(zset, start, stop) == expected[start:stop]
        start = chance.randrange(len(expected) // 2)
        stop = start + chance.choice([1, BLOCK_MAX // 2, 3 * BLOCK_MAX])
        zset.cut(start, stop)
        for _, member in expected[start:stop]:
            del model[member]
        expected = in_order(model)
        assert pairs(zset) == expected
        for rank in range(0, len(expected), 37):
            assert zset.rank(expected[rank][1]) == rank
    popped = []
    while not zset.empty():
        popped += zset.slice(0, 1)[0]
        zset.cut(0, 1)
    assert popped == [member for _, member in in_order(model)]


class TestForm:
    def test_many_members_or_a_long_one_leave_the_packed_form_for_good(self) -> None:
        zset = make(ordered(PACKED_MAX))
        assert zset.encoding() == b"listpack"
        zset.put(b"one more", 1)
        assert zset.encoding() == b"skiplist"
        zset.cut(0, PACKED_MAX)
        assert zset.encoding() == unpack(zset.pack()).encoding() == zset.copy().encoding() == b"skiplist"
        other = ZSet()
        other.put(b"x" * MEMBER_MAX, 1)
        assert other.encoding() == b"listpack"
        other.put(b"x" * (MEMBER_MAX + 1), 1)
        assert other.encoding() == b"skiplist"

    def test_a_copy_goes_its_own_way(self) -> None:
        for model in (ordered(5), ordered(2000)):
            zset = make(model)
            other = zset.copy()
            other.put(b"new", 1)
            other.remove(next(iter(model)))
            assert pairs(zset) == in_order(model)

    def test_of_minus_zero_the_packed_form_keeps_zero(self) -> None:
        zset = ZSet()
        zset.put(b"m", -0.0)
        assert str(zset.score(b"m")) == str(make({b"m": -0.0}).score(b"m")) == "0.0"
        assert str(large({b"m": -0.0}).score(b"m")) == "-0.0"


class TestStoredForm:
    def test_packed(self) -> None:
        zset = make({b"b": 1.5, b"": -1.0})
        stored = b"\x01" + b"\x00" + struct.pack("<d", -1) + b"\x01b" + struct.pack("<d", 1.5)
        assert zset.pack() == stored
        assert unpack(stored).pack() == stored

    def test_large(self) -> None:
        zset = large({b"b": 2.0, b"x" * 300: 1.0})
        stored = b"\x02\xac\x02" + b"x" * 300 + struct.pack("<d", 1) + b"\x01b" + struct.pack("<d", 2)
        assert zset.pack() == stored
        assert unpack(stored).pack() == stored

    def test_what_a_later_version_may_write_is_refused(self) -> None:
        for stored in (b"", b"\x03"):
            with pytest.raises(ValueError, match="unknown shape"):
                unpack(stored)


class TestSize:
    @pytest.mark.parametrize("count", [0, 1, 10, PACKED_MAX, PACKED_MAX + 1, 2000])
    def test_it_comes_back_to_what_it_was(self, count: int) -> None:
        model = ordered(count)
        zset = make(model)
        before = zset.size
        zset.put(b"new", 1)
        assert zset.remove(b"new")
        if count != PACKED_MAX:
            assert zset.size == before == zset.copy().size == unpack(zset.pack()).size
        for member in model:
            zset.put(member, 7.0)
        zset.cut(0, count)
        assert zset.size == (ZSet() if zset.packed() else large({})).size

    @pytest.mark.parametrize("count", [1, 10, PACKED_MAX, 500])
    @pytest.mark.parametrize("size", [12, MEMBER_MAX + 1])
    def test_it_grows_by_no_more_than_was_announced(self, count: int, size: int) -> None:
        model = ordered(count, size)
        zset = ZSet()
        for member, score in model.items():
            most = zset.size + zset.growth(1, len(member))
            zset.put(member, score)
            assert zset.size <= most
        other = ZSet()
        assert zset.size <= other.size + other.growth(count, count * size)

    def test_small_ones_take_little(self) -> None:
        assert make(ordered(10, 20)).size <= 420


def test_each_member_is_as_likely_to_be_drawn_as_another() -> None:
    for zset in (make(ordered(7)), large(ordered(7))):
        drawn = Counter(zset.random() for _ in range(7000))
        assert drawn.keys() == ordered(7).keys()
        assert 800 < min(drawn.values()) <= max(drawn.values()) < 1200


def test_ranks_are_picked_in_the_order_that_is_asked_for() -> None:
    for zset in (make(ordered(7)), large(ordered(7))):
        expected = in_order(ordered(7))
        members, scores = zset.pick([6, 0, 0, 3])
        assert list(zip(scores, members, strict=True)) == [expected[rank] for rank in (6, 0, 0, 3)]


def test_a_scan_meets_every_member() -> None:
    for zset in (make(ordered(50)), large(ordered(3000))):
        cursor, met = zset.scan(0, 10)
        while cursor:
            cursor, more = zset.scan(cursor, 10)
            met += more
        assert sorted(met) == sorted(zset.items()[0])


def test_a_large_one_is_taken_down_in_slices() -> None:
    zset = make(ordered(20_000))
    slices = 1
    while zset.dismantle(1000):
        slices += 1
    assert slices >= 20
    assert not make(ordered(10)).dismantle(1)


def test_what_is_put_in_at_once_is_as_what_came_one_by_one() -> None:
    model = ordered(5000)
    members = [member for _, member in in_order(model)]
    scores: list[object] = [score for score, _ in in_order(model)]
    zset = of_order(members, scores, False)
    check_ranks = [zset.rank(member) for member in members]
    assert check_ranks == list(range(5000))
    assert pairs(zset) == pairs(large(model))
