"""Sets in all their forms, beside Python's own."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.datatypes.set import (
    INTEGERS_MAX,
    PACKED_ENTRIES,
    PACKED_LENGTH,
    Set,
    ascending,
    integer,
    set_of,
    unpack,
)

INTEGERS = st.one_of(
    st.integers(-3, 3),
    st.integers(-40_000, 40_000),
    st.integers(-(2**33), 2**33),
    st.integers(-(2**63), 2**63),
)
MEMBERS = st.one_of(
    INTEGERS.map(b"%d".__mod__), st.sampled_from([b"", b"-", b"01", b"x", b"y"]), st.binary(max_size=100)
)
STEPS = st.lists(st.tuples(st.sampled_from([Set.add, Set.add, Set.remove]), MEMBERS), max_size=60)


def numbers(count: int) -> list[bytes]:
    return [b"%d" % (number * 7919 % 10_007 - 5000) for number in range(count)]


def names(count: int, size: int = 20) -> list[bytes]:
    return [b"%0*d" % (size, number) for number in range(count)]


FORMS = {
    "integers": numbers(INTEGERS_MAX),
    "packed": names(PACKED_ENTRIES),
    "table": names(1000),
    "table of integers": numbers(INTEGERS_MAX + 1),
    "one long member": [b"x" * (PACKED_LENGTH + 1)],
    "nothing": [],
}


@given(STEPS)
def test_a_set_holds_what_pythons_would(steps: list[tuple[object, bytes]]) -> None:
    made, model = Set(), set[bytes]()
    for step, member in steps:
        assert made.has(member) == (member in model)
        if step is Set.add:
            assert made.add(member) == (member not in model)
            model.add(member)
        else:
            assert made.remove(member) == (member in model)
            model.discard(member)
        assert made.has(member) == (member in model)
        assert len(made) == len(model)
    assert len(made.members()) == len(model)
    assert set(made.members()) == model
    other = unpack(made.pack())
    assert (set(other.members()), other.encoding()) == (model, made.encoding())


@pytest.mark.parametrize("form", FORMS)
def test_each_form_does_all_that_a_set_does(form: str) -> None:
    members = FORMS[form]
    made = set_of(members)
    assert sorted(made.members()) == sorted(members)
    assert not made.add(members[0]) if members else True
    copy, stored = made.copy(), unpack(made.pack())
    cursor, found = made.scan(0, 10**6)
    assert (cursor, sorted(found)) == (0, sorted(members))
    for number, member in enumerate(members):
        assert made.has(member)
        assert made.remove(member)
        assert not made.remove(member)
        assert len(made) == len(members) - number - 1
    assert (made.members(), len(copy.members())) == ([], len(members))
    for other in (copy, stored):
        assert sorted(other.members()) == sorted(members)
        assert other.encoding() == set_of(members).encoding()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *[(b"%d" % number, number) for number in (0, -1, 42, 2**63 - 1, -(2**63))],
        *[(text, None) for text in (b"", b"-", b"-0", b"01", b"+1", b" 1", b"1 ", b"1_0", b"--1", b"1.0")],
        *[(text, None) for text in (b"9223372036854775808", b"-9223372036854775809", b"1" * 5000, b"\xb2")],
    ],
)
def test_a_member_is_an_integer_only_in_its_canonical_form(text: bytes, number: int | None) -> None:
    assert integer(text) == number


class TestForms:
    def test_integers_are_in_ascending_order_as_in_redis(self) -> None:
        values = [70_000, -1, 2**40, 0, 5, -(2**63), 2**63 - 1]
        members = [b"%d" % value for value in values]
        assert set_of(members).members() == [b"%d" % value for value in sorted(values)]
        assert ascending(members) == set_of(members).members()
        assert ascending([b"2", b"x", b"1"]) == [b"2", b"x", b"1"]

    def test_it_is_an_intset_up_to_so_many_integers_and_never_again_after(self) -> None:
        made = set_of(numbers(INTEGERS_MAX))
        assert made.encoding() == b"intset"
        assert made.add(b"100000")
        assert made.encoding() == b"hashtable"
        assert made.remove(b"100000")
        assert made.encoding() == b"hashtable"
        assert unpack(made.pack()).encoding() == b"hashtable"

    def test_a_member_that_is_no_integer_ends_the_intset(self) -> None:
        made = set_of([b"1", b"2"])
        assert made.add(b"x")
        assert made.encoding() == b"hashtable"
        assert set(made.members()) == {b"1", b"2", b"x"}

    def test_looking_for_or_removing_what_is_no_integer_does_not(self) -> None:
        made = set_of([b"1", b"2"])
        assert not made.has(b"x")
        assert not made.remove(b"01")
        assert made.encoding() == b"intset"


class TestStoredForm:
    @pytest.mark.parametrize(
        ("members", "stored"),
        [
            ([b"2", b"-1"], "0102ffff0200"),
            ([b"65536"], "010400000100"),
            ([b"-9223372036854775808", b"1"], "010800000000000000800100000000000000"),
            ([b"x"], "0291c40178"),
            ([b"", b"1"], "0292c400c40131"),
        ],
    )
    def test_its_bytes_stay_as_they_are(self, members: list[bytes], stored: str) -> None:
        assert set_of(members).pack().hex() == stored
        assert unpack(bytes.fromhex(stored)).members() == set_of(members).members()

    def test_a_shape_of_a_later_version_is_refused(self) -> None:
        with pytest.raises(ValueError, match="not known"):
            unpack(b"\x03")


@pytest.mark.parametrize("form", [form for form in FORMS if form != "nothing"])
def test_each_member_is_as_likely_to_be_drawn_as_another(form: str) -> None:
    members = FORMS[form][:20]
    made = set_of(FORMS[form])
    for member in FORMS[form][20:]:
        made.remove(member)
    once = Counter(made.random() for _ in range(1000 * len(members)))
    often = Counter(made.draws(1000 * len(members)))
    samples = Counter(made.sample(len(members) // 2 + 1)[0] for _ in range(1000 * len(members)))
    for drawn in (once, often, samples):
        assert drawn.keys() == set(members)
        assert 750 < min(drawn.values()) <= max(drawn.values()) < 1250


@pytest.mark.parametrize("count", [0, 1, 30, 400, 1000])
def test_a_sample_has_so_many_different_members(count: int) -> None:
    made = set_of(names(1000))
    sample = made.sample(count)
    assert len(set(sample)) == len(sample) == count
    assert all(made.has(member) for member in sample)


def test_a_scan_goes_on_where_it_was_though_the_set_has_become_small() -> None:
    made = set_of(names(1000))
    kept = names(20)
    cursor, found = made.scan(0, 10)
    met = [member for member in found if member in kept]
    for member in names(1000)[20:]:
        made.remove(member)
    made = unpack(made.pack())  # packed by now
    while cursor:
        cursor, found = made.scan(cursor, 10)
        met += found
    assert sorted(met) == kept


class TestSize:
    @pytest.mark.parametrize("form", FORMS)
    def test_it_is_the_same_however_the_set_came_to_be(self, form: str) -> None:
        made = set_of(FORMS[form])
        empty = made.size
        for member in FORMS[form]:
            made.remove(member)
        for member in reversed(FORMS[form]):
            made.add(member)
        assert made.size == empty == made.copy().size

    @pytest.mark.parametrize("form", FORMS)
    def test_it_grows_by_no_more_than_was_announced(self, form: str) -> None:
        made = Set()
        for member in FORMS[form]:
            most = made.size + made.growth([member])
            made.add(member)
            assert made.size <= most
        other = Set()
        if FORMS[form]:
            assert made.size <= other.size + other.growth(FORMS[form])

    def test_small_ones_take_little(self) -> None:
        assert set_of(numbers(10)).size <= 90
        assert set_of(names(10)).size <= 300


def test_a_large_one_is_taken_down_in_slices() -> None:
    made = set_of(names(10_000))
    slices = 1
    while made.dismantle(1000):
        slices += 1
    assert slices >= 10
    assert not set_of(numbers(10)).dismantle(1)
