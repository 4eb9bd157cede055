"""Hashes, packed and as tables, beside a dict; the bytes in which they are stored."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.datatypes.hash import HASH_SIZE, PACKED_FIELDS, PACKED_ITEM, TABLE_SIZE, Hash, unpack
from proxy.datatypes.table import Table

NOW = 1_700_000_000_000
FIELDS = st.sampled_from([b"", b"a", b"b", b"ab", b"\xff" * PACKED_ITEM, b"f" * (PACKED_ITEM + 1)])
VALUES = st.sampled_from([b"", b"1", b"22", b"v" * PACKED_ITEM, b"v" * (PACKED_ITEM + 1), b"v" * 300])
SHORT = st.sampled_from([b"", b"a", b"b", b"ab", b"\xff" * PACKED_ITEM])
CHANGES = st.one_of(
    st.lists(st.tuples(FIELDS, st.none() | VALUES), max_size=40),
    st.lists(st.tuples(SHORT, st.none() | SHORT), max_size=40),  # stays packed
)


def make(values: dict[bytes, bytes]) -> Hash:
    found = Hash()
    for field, value in values.items():
        found.set(field, value)
    return found


def many(count: int) -> dict[bytes, bytes]:
    return {b"field:%d" % number: b"value:%d" % number for number in range(count)}


@given(changes=CHANGES)
def test_it_holds_what_a_dict_would(changes: list[tuple[bytes, bytes | None]]) -> None:
    found, model = Hash(), dict[bytes, bytes]()
    for field, value in changes:
        if value is None:
            assert found.remove(field) == (model.pop(field, None) is not None)
        else:
            assert found.set(field, value) == (field not in model)
            model[field] = value
        assert len(found) == found.count(NOW) == len(model)
        assert found.get(field, NOW) == model.get(field)
    assert found.items(NOW) == model
    assert found.fields(NOW) == list(model)
    assert found.values(NOW) == list(model.values())
    assert found.scan(0, 1000, NOW)[1] == model
    other = found.copy()
    assert unpack(found.pack()).items(NOW) == model
    assert unpack(found.pack()).encoding() == found.encoding()
    assert unpack(found.pack()).size == found.size
    for field in model:
        found.remove(field)
    assert other.items(NOW) == model
    assert found.size == HASH_SIZE + (TABLE_SIZE if found.encoding() == b"hashtable" else 0)


@given(changes=CHANGES)
def test_its_size_is_the_same_whatever_way_it_came_to_be(
    changes: list[tuple[bytes, bytes | None]],
) -> None:
    found = Hash()
    for field, value in changes:
        if value is None:
            found.remove(field)
        else:
            found.set(field, value)
    assert found.size == unpack(found.pack()).size


def test_it_is_packed_until_redis_would_make_a_hash_table_of_it() -> None:
    found = make(many(PACKED_FIELDS))
    assert found.encoding() == b"listpack"
    found.set(b"one more", b"")
    assert found.encoding() == b"hashtable"
    assert found.items(NOW) == many(PACKED_FIELDS) | {b"one more": b""}
    found.remove(b"one more")
    assert found.encoding() == b"hashtable"


@pytest.mark.parametrize("long", [{b"f" * 65: b""}, {b"": b"v" * 65}])
def test_one_long_field_or_value_makes_it_a_hash_table(long: dict[bytes, bytes]) -> None:
    found = make({b"a": b"b"} | long)
    assert found.encoding() == b"hashtable"
    assert found.items(NOW) == {b"a": b"b"} | long


class TestStoredForm:
    def test_packed(self) -> None:
        raw = b"\0" + b"\x01f\x05value" + b"\0\0"
        assert make({b"f": b"value", b"": b""}).pack() == raw
        assert unpack(raw).items(NOW) == {b"f": b"value", b"": b""}
        assert unpack(b"\0").items(NOW) == {}

    def test_what_redis_would_keep_as_a_hash_table(self) -> None:
        raw = b"\x01" + b"\x01f\xac\x02" + b"v" * 300
        assert make({b"f": b"v" * 300}).pack() == raw
        assert unpack(raw).items(NOW) == {b"f": b"v" * 300}
        assert unpack(b"\x01\x01f\x01v").encoding() == b"hashtable"

    def test_with_fields_that_expire(self) -> None:
        found = make({b"f": b"v", b"g": b"w"})
        found.expire(b"g", 0x0123456789AB)
        raw = b"\x02" + b"\x01f\x01v\0" + b"\x01g\x01w\x06\xab\x89\x67\x45\x23\x01"
        assert found.pack() == raw
        again = unpack(raw)
        assert again.expires_at(b"g") == 0x0123456789AB
        assert again.expires_at(b"f") == 0
        assert again.pack() == raw
        assert again.size == found.size

    def test_one_of_a_later_version_is_refused(self) -> None:
        with pytest.raises(ValueError, match="unknown form 4"):
            unpack(b"\x04")


class TestAtRandom:
    @pytest.mark.parametrize("count", [5, PACKED_FIELDS + 1])
    def test_every_field_is_drawn(self, count: int) -> None:
        found = make(many(count))
        drawn: set[bytes | None] = set()
        while len(drawn) < count:  # the test's timeout ends this
            drawn.add(found.random(NOW))
        assert drawn == set(many(count))

    @pytest.mark.parametrize("count", [5, 5000])
    def test_a_sample_has_no_field_twice(self, count: int) -> None:
        found = make(many(count))
        for size in (0, 1, 3, count // 2, count - 1, count, count + 1):
            sample = found.sample(size, NOW)
            assert len(sample) == len(set(sample)) == min(size, count)
            assert set(sample) <= set(many(count))

    @pytest.mark.parametrize("count", [5, 5000])
    def test_draws_may_give_a_field_twice(self, count: int) -> None:
        drawn = make(many(count)).draw(3 * count, NOW)
        assert len(drawn) == 3 * count
        assert set(drawn) <= set(many(count))

    def test_nothing_is_drawn_where_there_is_nothing(self) -> None:
        assert Hash().random(NOW) is None
        assert Hash().draw(3, NOW) == []
        assert Hash().sample(3, NOW) == []


class TestExpiring:
    def test_what_has_expired_is_not_shown(self) -> None:
        for count in (4, 600):
            found = make(many(count))
            for number in range(0, count, 2):
                found.expire(b"field:%d" % number, NOW + number)
            left = {f: v for f, v in many(count).items() if int(f[6:]) % 2}
            later = NOW + count
            assert found.count(NOW - 1) == count
            assert found.count(later) == len(left)
            assert found.items(later) == left
            assert dict(zip(found.fields(later), found.values(later), strict=True)) == left
            assert found.scan(0, 1000, later)[1] == left
            assert found.get(b"field:0", NOW - 1) == b"value:0"
            assert found.get(b"field:0", NOW) is None
            assert found.random(later) in left
            assert set(found.sample(count, later)) == set(left)
            assert set(found.sample(2, later)) <= set(left)
            assert set(found.draw(9, later)) <= set(left)
            assert len(found) == count

    def test_where_all_has_expired_nothing_is_drawn(self) -> None:
        for count in (4, 600):
            found = make(many(count))
            for field in many(count):
                found.expire(field, NOW)
            assert found.random(NOW) is None
            assert found.sample(3, NOW) == found.draw(3, NOW) == []

    @pytest.mark.parametrize("count", [10, 2000])
    def test_it_is_purged_in_slices_the_earliest_first(self, count: int) -> None:
        found = make(many(count))
        size = found.size
        for number in range(count):
            found.expire(b"field:%d" % number, NOW + number)
        assert found.due == NOW
        assert found.purge(NOW - 1, 100) == []
        assert found.purge(NOW, 100) == [b"field:0"]
        assert found.due == NOW + 1
        gone = 1
        while purged := found.purge(NOW + count, 7):
            assert len(purged) <= 7
            gone += len(purged)
        assert gone == count
        assert len(found) == found.due == 0
        assert found.size < size

    def test_a_value_set_anew_does_not_expire_unless_its_time_is_kept(self) -> None:
        found = make({b"f": b"1", b"g": b"1"})
        size = found.size
        found.expire(b"f", NOW)
        found.expire(b"g", NOW + 5)
        found.set(b"g", b"2", keep=True)
        found.set(b"f", b"2")
        assert found.expires_at(b"f") == 0
        assert found.expires_at(b"g") == found.due == NOW + 5
        assert found.persist(b"g")
        assert not found.persist(b"g")
        assert found.due == 0
        assert found.size == size

    @given(
        steps=st.lists(
            st.tuples(st.integers(0, 150), st.one_of(st.none(), st.integers(NOW, NOW + 50))), max_size=400
        ),
        now=st.integers(NOW - 1, NOW + 51),
    )
    def test_times_are_as_a_dict_would_have_them(self, steps: list[tuple[int, int | None]], now: int) -> None:
        found = make(many(151))
        model: dict[bytes, int] = {}
        for number, moment in steps:
            field = b"field:%d" % number
            if moment is None:
                assert found.persist(field) == (model.pop(field, None) is not None)
            else:
                found.expire(field, moment)
                model[field] = moment
        passed = {field for field, moment in model.items() if moment <= now}
        assert found.count(now) == 151 - len(passed)
        assert found.due == min(model.values(), default=0)
        assert set(found.copy().purge(now, 1000)) == passed
        assert unpack(found.pack()).count(now) == 151 - len(passed)


def real_size(value: Any) -> int:
    """Bytes of an object and all that it holds, but for what Python itself shares."""
    if isinstance(value, (Hash, Table)):
        own = sys.getsizeof(value)
        names = [name for name in ("_packed", "_table", "_shards") if hasattr(value, name)]
        return own + sum(real_size(getattr(value, name)) for name in names)
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(real_size(k) + real_size(v) for k, v in value.items())
    if isinstance(value, list):
        return sys.getsizeof(value) + sum(map(real_size, value))
    return sys.getsizeof(value)


@pytest.mark.parametrize("count", [0, 10, 500, 600, 5000, 100_000])
def test_its_size_is_about_that_of_its_objects(count: int) -> None:
    found = make(many(count))
    assert 0.7 < found.size / real_size(found) < 1.5


def test_ten_short_fields_take_little_more_than_their_bytes() -> None:
    found = make({b"field:%d" % number: b"v" * 20 for number in range(10)})
    assert found.size - HASH_SIZE == 10 * (1 + 7 + 1 + 20)


@pytest.mark.parametrize("expiring", [False, True])
def test_a_large_one_is_taken_down_in_slices(expiring: bool) -> None:
    found = make(many(10_000))
    if expiring:
        for field in many(10_000):
            found.expire(field, NOW)
    slices = 1
    while found.dismantle(1000):
        slices += 1
    assert slices >= 10
