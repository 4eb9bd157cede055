"""Packed sequences, beside lists."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.datatypes import packed

ITEMS = st.lists(st.binary(max_size=3) | st.integers(120, 20_000).map(bytes), max_size=20)


def make(items: list[bytes]) -> bytearray:
    data = bytearray()
    for item in items:
        packed.append(data, item)
    return data


@given(items=ITEMS)
def test_items_come_out_as_they_went_in(items: list[bytes]) -> None:
    assert packed.items(make(items)) == items


@given(items=ITEMS, step=st.integers(1, 3), data=st.data())
def test_an_item_is_found_at_its_first_place_among_those_that_count(
    items: list[bytes], step: int, data: st.DataObject
) -> None:
    item = data.draw(st.sampled_from([*items, b"", b"ab"]))
    places = [at for at in range(0, len(items), step) if items[at] == item]
    expected = len(make(items[: places[0]])) if places else -1
    assert packed.find(make(items), item, step) == expected
    assert packed.find(bytes(make(items)), item, step) == expected


@given(items=ITEMS)
def test_each_item_ends_where_the_next_begins(items: list[bytes]) -> None:
    data = make(items)
    at = 0
    for item in items:
        begin, end = packed.read(data, at)
        assert packed.read(bytes(data), at) == (begin, end)
        assert data[begin:end] == item
        at = end
    assert at == len(data)


def test_the_head_takes_a_byte_for_each_seven_bits_of_the_length() -> None:
    assert packed.head(127) == b"\x7f"
    assert packed.head(300) == b"\xac\x02"
    assert len(packed.head(1 << 21)) == 4
