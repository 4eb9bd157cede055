"""Tables of all sizes, beside a dict."""

from __future__ import annotations

from collections import Counter

import pytest

from proxy.datatypes.table import FILL, Table


def names(count: int) -> list[bytes]:
    return [b"name:%d" % number for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, FILL, FILL + 1, 3 * FILL, 10_000])
def test_a_table_holds_what_a_dict_would(count: int) -> None:
    table: Table[int] = Table()
    for number, name in enumerate(names(count)):
        assert table.put(name, -1)
        assert not table.put(name, number)
    assert len(table) == count
    assert dict(table.items()) == {name: number for number, name in enumerate(names(count))}
    assert dict(zip(table.names(), table.values(), strict=True)) == dict(table.items())
    other = table.copy()
    for name in names(count):
        assert table.has(name)
        assert table.remove(name)
        assert not table.has(name)
        assert table.get(name) is None
    assert not table.remove(b"name:0")
    assert (len(table), len(other)) == (0, count)


@pytest.mark.parametrize("count", [1, FILL, 2 * FILL, 8192])
@pytest.mark.parametrize("page", [1, 10, 100_000])
def test_a_scan_meets_what_stands_throughout_once_while_the_table_grows_and_shrinks(
    count: int, page: int
) -> None:
    table: Table[None] = Table()
    for name in names(count):
        table.put(name, None)
    met: list[bytes] = []
    cursor = pages = 0
    while True:
        cursor, found = table.scan(cursor, page)
        met += found
        pages += 1
        for number in range(1024):
            table.put(b"other:%d:%d" % (pages, number), None)
            table.remove(b"other:%d:%d" % (pages - 1, number))
        if not cursor:
            break
    assert sorted(name for name in met if name.startswith(b"name:")) == sorted(names(count))
    assert len(met) == len(set(met))


def test_a_cursor_that_is_no_place_ends_the_walk() -> None:
    table: Table[None] = Table()
    table.put(b"a", None)
    assert table.scan(1 << 32, 10) == (0, [])


@pytest.mark.parametrize("count", [1, 5, 3 * FILL])
def test_each_name_is_as_likely_to_be_drawn_as_another(count: int) -> None:
    table: Table[None] = Table()
    for name in names(20 * count):  # of which most go again
        table.put(name, None)
    for name in names(20 * count)[count:]:
        table.remove(name)
    drawn = Counter(table.random() for _ in range(1000 * count))
    assert drawn.keys() == set(names(count))
    assert 800 < min(drawn.values()) <= max(drawn.values()) < 1200  # six standard deviations


def test_a_scan_goes_on_where_it_was_though_most_of_the_table_has_gone() -> None:
    table: Table[None] = Table()
    for name in names(10_000):
        table.put(name, None)
    cursor, met = table.scan(0, 1000)
    met = [name for name in met if name in names(100)]
    for name in names(10_000)[100:]:
        table.remove(name)
    while cursor:
        cursor, found = table.scan(cursor, 10)
        met += found
    assert sorted(met) == sorted(names(100))


def test_it_is_taken_down_in_slices() -> None:
    table: Table[None] = Table()
    for name in names(8192):
        table.put(name, None)
    slices = 1
    while table.dismantle(1000):
        slices += 1
    assert 8192 // 1000 <= slices <= 8192 // 1000 + 2
