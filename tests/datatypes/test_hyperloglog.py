"""HyperLogLog, against registers kept in a plain list, and against bytes that Redis 7.0 made."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.datatypes import hyperloglog
from proxy.datatypes.hyperloglog import DENSE, REGISTERS, SPARSE, SPARSE_MAX, Corrupt, Sparse

GOLDEN = b"HYLL\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80`\xf3\x80P\xb1\x84K\xfb\x80BZ"
CHANGES = st.lists(
    st.tuples(st.integers(0, REGISTERS - 1) | st.integers(0, 40), st.integers(1, 8)), max_size=60
)


def items(count: int) -> list[bytes]:
    return [b"item:%d" % number for number in range(count)]


def test_the_hash_is_the_one_that_redis_takes() -> None:
    # Read off with PFADD and PFDEBUG DECODE.
    assert hyperloglog.place(b"a") == (12711, 2)


def test_a_new_one_and_one_of_three_items_have_the_bytes_that_redis_gives_them() -> None:
    assert hyperloglog.new() == b"HYLL\x01" + bytes(11) + b"\x7f\xff"
    value, changed = hyperloglog.add(hyperloglog.new(), [b"a", b"b", b"c"])
    assert changed
    assert value == GOLDEN


@given(CHANGES)
def test_registers_of_the_sparse_form_are_what_was_set(changes: list[tuple[int, int]]) -> None:
    value = hyperloglog.new()
    sparse = Sparse(value)
    model = bytearray(REGISTERS)
    for index, number in changes:
        assert sparse.set(index, number) == (model[index] < number)
        model[index] = max(model[index], number)
    assert hyperloglog.registers_of(value) == model


@given(CHANGES)
def test_the_sparse_form_is_the_same_wherever_a_register_is_looked_for_from(
    changes: list[tuple[int, int]],
) -> None:
    one, other = hyperloglog.new(), hyperloglog.new()
    sparse = Sparse(one)
    for index, number in sorted(changes):
        sparse.set(index, number)
        Sparse(other).set(index, number)
    assert one == other


@settings(max_examples=20)
@given(st.integers())
def test_registers_go_to_the_dense_form_and_back(seed: int) -> None:
    dice = random.Random(seed)
    registers = bytes(dice.randrange(64) for _ in range(REGISTERS))
    value = hyperloglog.new()[: hyperloglog.HEADER] + hyperloglog.pack(registers)
    value[4] = DENSE
    assert hyperloglog.is_valid(value)
    assert hyperloglog.registers_of(value) == registers


@settings(max_examples=20)
@given(st.integers())
def test_of_each_register_the_higher_one_is_taken(seed: int) -> None:
    dice = random.Random(seed)
    a, b = (bytes(dice.choices(range(64), k=REGISTERS)) for _ in range(2))
    assert hyperloglog.highest(a, b) == bytes(map(max, a, b))


def test_it_becomes_dense_where_the_sparse_form_would_be_over_its_limit() -> None:
    value = hyperloglog.new()
    for item in items(3000):
        before = value
        value, _ = hyperloglog.add(value, [item])
        if value[4] == DENSE:
            break
    assert len(before) > SPARSE_MAX - 3
    assert hyperloglog.registers_of(value) >= hyperloglog.registers_of(before)


def test_a_value_beyond_what_a_sparse_run_can_hold_makes_it_dense() -> None:
    value = hyperloglog.new()
    assert Sparse(value).set(5, 33) == hyperloglog.FULL
    assert value == hyperloglog.new()


@pytest.mark.parametrize("count", [0, 1, 10, 100, 1000, 10_000, 50_000])
def test_the_estimate_is_within_four_standard_errors(count: int) -> None:
    value, _ = hyperloglog.add(hyperloglog.new(), items(count))
    estimate = hyperloglog.estimate(hyperloglog.registers_of(value))
    assert abs(estimate - count) <= 4 * hyperloglog.ERROR * count


@pytest.mark.parametrize("number", [50, 51, 52, 63])
def test_registers_that_nobody_can_have_filled_are_estimated_as_redis_does_it(number: int) -> None:
    assert hyperloglog.estimate(bytes([number]) * REGISTERS) == -(2**63)


def test_the_cardinality_that_was_counted_holds_until_something_is_added() -> None:
    value, _ = hyperloglog.add(hyperloglog.new(), [b"a"])
    assert hyperloglog.cached(value) == -1
    value = hyperloglog.with_cached(value, 1)
    assert hyperloglog.cached(value) == 1
    value, changed = hyperloglog.add(value, [b"a"])
    assert not changed
    assert hyperloglog.cached(value) == 1
    value, changed = hyperloglog.add(value, [b"b"])
    assert hyperloglog.cached(value) == -1


def test_a_merge_is_as_if_all_had_been_added_to_one() -> None:
    one, _ = hyperloglog.add(hyperloglog.new(), items(100))
    other, _ = hyperloglog.add(hyperloglog.new(), items(200)[50:])
    both, _ = hyperloglog.add(hyperloglog.new(), items(200))
    registers = hyperloglog.highest(hyperloglog.registers_of(one), hyperloglog.registers_of(other))
    assert registers == hyperloglog.registers_of(both)
    sparse = hyperloglog.merge(one.copy(), registers, False)
    assert sparse[4] == SPARSE
    assert hyperloglog.registers_of(sparse) == registers
    dense = hyperloglog.merge(one.copy(), registers, True)
    assert dense[4] == DENSE
    assert hyperloglog.registers_of(dense) == registers


@pytest.mark.parametrize("runs", [b"", b"\x7f", b"\x7f\xfe", b"\x7f\xff\x00", b"\x80"])
def test_runs_that_are_not_all_registers_are_refused(runs: bytes) -> None:
    value = hyperloglog.new()[: hyperloglog.HEADER] + runs
    with pytest.raises(Corrupt):
        hyperloglog.registers_of(value)


def test_adding_to_runs_that_end_early_is_refused() -> None:
    with pytest.raises(Corrupt):
        hyperloglog.add(hyperloglog.new()[: hyperloglog.HEADER], [b"a"])


def test_it_tests_itself() -> None:
    assert hyperloglog.self_test()
