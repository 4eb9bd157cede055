"""Lists of all sizes, beside Python's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.datatypes.list import NODE_ITEMS, PACK_MEAN, SMALL_BYTES, SMALL_ITEMS, List
from proxy.datatypes.values import pack, unpack
from proxy.keyspace import LIST

ITEMS = st.one_of(
    st.sampled_from([b"", b"a", b"b", b"c"]),
    st.integers(100, 300).map(lambda size: b"%d" % (size % 3) * size),
    st.integers(0, 3).map(lambda number: bytes([number]) * 5000),
)


def numbered(count: int, size: int = 20) -> list[bytes]:
    return [b"%0*d" % (size, number) for number in range(count)]


class ListAgainstModel(RuleBasedStateMachine):
    """A list beside a Python list that is told the same."""

    def __init__(self) -> None:
        super().__init__()
        self.list = List()
        self.model: list[bytes] = []

    @rule(items=st.lists(ITEMS, max_size=3), times=st.sampled_from([1, 1, 30]), left=st.booleans())
    def push(self, items: list[bytes], times: int, left: bool) -> None:
        for item in items * times:
            if left:
                self.list.push_left(item)
                self.model.insert(0, item)
            else:
                self.list.push_right(item)
                self.model.append(item)

    @precondition(lambda self: self.model)
    @rule(count=st.sampled_from([1, 1, 40]), left=st.booleans())
    def pop(self, count: int, left: bool) -> None:
        for _ in range(min(count, len(self.model))):
            if left:
                assert self.list.pop_left() == self.model.pop(0)
            else:
                assert self.list.pop_right() == self.model.pop()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), item=ITEMS)
    def set(self, data: st.DataObject, item: bytes) -> None:
        index = data.draw(st.integers(0, len(self.model) - 1))
        self.list.set(index, item)
        self.model[index] = item

    @rule(pivot=ITEMS, item=ITEMS, after=st.booleans())
    def insert(self, pivot: bytes, item: bytes, after: bool) -> None:
        assert self.list.insert(pivot, item, after) == (pivot in self.model)
        if pivot in self.model:
            self.model.insert(self.model.index(pivot) + after, item)

    @rule(item=ITEMS, count=st.sampled_from([0, 0, 1, -1, 7, -7, 100]))
    def remove(self, item: bytes, count: int) -> None:
        places = [at for at, each in enumerate(self.model) if each == item]
        if count:
            places = places[:count] if count > 0 else places[count:]
        assert self.list.remove(item, count) == len(places)
        for at in reversed(places):
            del self.model[at]

    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, len(self.model)))
        count = data.draw(st.integers(0, len(self.model) - first))
        self.list.trim(first, count)
        self.model = self.model[first : first + count]

    @rule(item=ITEMS, rank=st.integers(1, 4), count=st.integers(0, 4), depth=st.integers(0, 200))
    def find(self, item: bytes, rank: int, count: int, depth: int) -> None:
        places = [at for at, each in enumerate(self.model[: depth or None]) if each == item][rank - 1 :]
        assert self.list.positions(item, rank, count, depth) == places[: count or None]
        looked_at = len(self.model) - depth if depth else 0
        places = [at for at, each in enumerate(self.model) if each == item and at >= looked_at]
        assert self.list.positions(item, -rank, count, depth) == places[::-1][rank - 1 :][: count or None]

    @rule()
    def go_through_a_store(self) -> None:
        loaded = unpack(LIST, pack(self.list))
        assert isinstance(loaded, List)
        self.list = loaded

    @rule()
    def copy(self) -> None:
        other = self.list.copy()
        self.list.push_left(b"x")  # which the copy must not see
        self.list.push_right(b"x")
        self.list = other

    @invariant()
    def both_hold_the_same(self) -> None:
        assert len(self.list) == len(self.model)
        assert self.list.elements() == self.model
        size = len(self.model)
        assert self.list.slice(size // 3, size // 2) == self.model[size // 3 : size // 3 + size // 2]
        assert [self.list.get(at) for at in range(0, size, 11)] == self.model[::11]

    @invariant()
    def its_size_is_what_its_parts_hold(self) -> None:
        rebuilt = self.list.copy()
        if rebuilt._nodes is None:
            assert self.list.size == List().size + len(rebuilt._run)
        else:
            assert self.list.size == List().size + sum(node.size() for node in rebuilt._nodes)
            assert all(node.count for node in rebuilt._nodes)


ListAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestListAgainstModel = ListAgainstModel.TestCase


@pytest.mark.parametrize("count", [0, 1, SMALL_ITEMS, SMALL_ITEMS + 1, 10 * NODE_ITEMS])
@pytest.mark.parametrize("size", [0, 20, PACK_MEAN + 1, 3 * SMALL_BYTES])
def test_a_list_of_any_size_holds_its_elements_from_either_end(count: int, size: int) -> None:
    items = numbered(count, size) if size else [b""] * count
    left, right = List(), List()
    for item in items:
        left.push_left(item)
        right.push_right(item)
    assert right.elements() == List.of(items).elements() == items
    assert left.elements() == items[::-1]
    assert [right.get(at) for at in range(count)] == items
    assert [left.pop_right() for _ in items] == items
    assert (len(left), left.size) == (0, List().size)


@given(st.lists(st.binary(max_size=300), max_size=200))
def test_what_is_stored_is_loaded(items: list[bytes]) -> None:
    loaded = List.unpack(List.of(items).pack())
    assert loaded.elements() == items
    assert loaded.pack() == List.unpack(loaded.pack()).pack()


def test_the_stored_form_is_for_ever() -> None:
    assert List.of([b"a", b"", b"x" * 200]).pack() == b"\x01\x03\xcd\x01\x01a\x00\xc8\x01" + b"x" * 200
    assert List().pack() == b"\x01\x00\x00"
    nodes = b"\x01" + b"\x02\x04\x01a\x01b" + b"\x01\x02\x01c"
    assert List.unpack(nodes).elements() == [b"a", b"b", b"c"]


def test_a_later_form_is_refused() -> None:
    with pytest.raises(ValueError, match="later version"):
        List.unpack(b"\x02\x01\x02\x01a")


def test_many_elements_that_lie_still_take_little_more_than_their_bytes() -> None:
    big = List.of(numbered(100_000))
    assert big.size < 100_000 * 24
    big.push_left(b"x")
    big.pop_right()
    assert big.size < 100_000 * 24
    assert List.unpack(big.pack()).size < 100_000 * 24


def test_a_queue_that_moves_on_for_ever_stays_as_small_as_it_is_long() -> None:
    queue = List.of(numbered(300))
    for item in numbered(20_000):
        queue.push_right(item)
        assert queue.pop_left()
    assert queue.size < 300 * 80
    assert queue._nodes is not None
    assert len(queue._nodes) < 10


def test_removing_most_elements_leaves_no_nodes_behind() -> None:
    big = List.of([b"x" if number % 100 else b"kept" for number in range(50_000)])
    assert big.remove(b"x", 0) == 49_500
    assert big.elements() == [b"kept"] * 500
    assert big._nodes is not None
    assert len(big._nodes) < 20


def test_inserting_at_one_place_cuts_its_node_again_and_again() -> None:
    big = List.of(numbered(1000))
    pivot = numbered(1000)[500]
    for number in range(1000):
        assert big.insert(pivot, b"%d" % number, False)
    assert big.slice(499, 3) == [numbered(500)[499], b"0", b"1"]
    assert big._nodes is not None
    assert max(node.count for node in big._nodes) < NODE_ITEMS


def test_it_is_taken_down_in_slices() -> None:
    big = List.of(numbered(100_000))
    slices = 1
    while big.dismantle(100):
        slices += 1
    assert 10 < slices < 100
    assert not List.of([b"a"]).dismantle(1)
