"""Streams beside lists and dicts of Python's own."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.datatypes import streamid
from proxy.datatypes.stream import Stream, unpack
from proxy.datatypes.streamblock import ENTRIES_MAX, Item
from proxy.datatypes.streamgroup import CHUNK, Delivery, Pending

NUMBERS = st.integers(0, 300)
ITEMS = st.lists(
    st.tuples(st.sampled_from([b"f", b"g"]), st.sampled_from([b"1", b"two", b"", b"x" * 200])),
    min_size=1,
    max_size=3,
).map(lambda pairs: [item for pair in pairs for item in pair])


class Add(NamedTuple):
    count: int
    items: list[bytes]


class Delete(NamedTuple):
    first: int
    last: int


class Trim(NamedTuple):
    length: int


class TrimBefore(NamedTuple):
    number: int


STEPS = st.lists(
    st.one_of(
        st.builds(Add, st.integers(1, 60), ITEMS),
        st.builds(Delete, NUMBERS, NUMBERS),
        st.builds(Trim, NUMBERS),
        st.builds(TrimBefore, NUMBERS),
    ),
    max_size=8,
)


def id_of(number: int) -> bytes:
    return streamid.make(1_700_000_000_000 + number // 3, number % 3)


def filled(count: int) -> Stream:
    stream = Stream()
    for number in range(count):
        stream.append(id_of(number), [b"f", b"%d" % number])
    return stream


def all_of(stream: Stream) -> list[Item]:
    return stream.range(streamid.FIRST, streamid.LAST)


def play(steps: list[Add | Delete | Trim | TrimBefore]) -> tuple[Stream, dict[bytes, list[bytes]]]:
    """A stream, and its entries in a dict."""
    stream, model = Stream(), dict[bytes, list[bytes]]()
    added = 0
    for step in steps:
        if isinstance(step, Add):
            for number in range(added, added + step.count):
                stream.append(id_of(number), step.items)
                model[id_of(number)] = step.items
            added += step.count
        elif isinstance(step, Delete):
            for number in range(step.first, step.last):
                assert stream.delete(id_of(number)) == (model.pop(id_of(number), None) is not None)
        else:
            ids = sorted(model)
            if isinstance(step, Trim):
                gone = ids[: max(len(ids) - step.length, 0)]
                assert stream.trim_to(step.length, False, 0) == len(gone)
            else:
                gone = [id for id in ids if id < id_of(step.number)]
                assert stream.trim_before(id_of(step.number), False, 0) == len(gone)
            for id in gone:
                del model[id]
    return stream, model


@given(STEPS, NUMBERS, NUMBERS, st.integers(0, 120))
def test_a_stream_holds_what_a_dict_would(
    steps: list[Add | Delete | Trim | TrimBefore], first: int, last: int, count: int
) -> None:
    stream, model = play(steps)
    expected = sorted(model.items())
    start, end = id_of(first), id_of(last)
    between = [item for item in expected if start <= item[0] <= end]
    assert all_of(stream) == expected
    assert stream.range(start, end) == between
    assert stream.range(start, end, count) == (between[:count] if count else between)
    assert stream.reverse_range(start, end) == between[::-1]
    assert stream.reverse_range(start, end, count) == (between[::-1][:count] if count else between[::-1])
    assert len(stream) == len(expected)
    assert stream.get(start) == model.get(start)
    assert stream.has(start) == (start in model)
    assert stream.first() == (expected[0][0] if expected else streamid.FIRST)
    assert stream.top() == (expected[-1][0] if expected else streamid.FIRST)
    assert stream.count_after(start, 0) == len([id for id in model if id > start])


@given(STEPS)
def test_it_comes_back_from_its_packed_form_and_goes_on_alike(
    steps: list[Add | Delete | Trim | TrimBefore],
) -> None:
    stream, _ = play(steps)
    other, copied = unpack(stream.pack()), stream.copy()
    for each in (stream, other, copied):
        each.append(streamid.make(1 << 60, 0), [b"f", b"v"])
        each.trim_to(50, True, 0)
    assert all_of(other) == all_of(copied) == all_of(stream)
    assert other.pack() == copied.pack() == stream.pack()
    assert other.size == copied.size == stream.size


def test_a_copy_does_not_change_with_what_it_was_made_of() -> None:
    stream = filled(10)
    group = stream.create_group(b"g", streamid.FIRST, 0)
    stream.deliver(group, stream.create_consumer(group, b"c", 1), id_of(1), 2)
    other = stream.copy()
    stream.delete(id_of(1))
    stream.acknowledge(group, id_of(1))
    stream.delete_consumer(group, b"c")
    assert other.has(id_of(1))
    assert other.groups[b"g"].pending.get(id_of(1)) is other.groups[b"g"].consumers[b"c"].pending.get(
        id_of(1)
    )
    assert len(other.groups[b"g"].pending) == 1


class TestIds:
    def test_they_compare_as_their_numbers_do(self) -> None:
        pairs = [(0, 0), (0, 1), (0, 2**64 - 1), (1, 0), (255, 3), (256, 2), (2**64 - 1, 2**64 - 1)]
        ids = [streamid.make(ms, seq) for ms, seq in pairs]
        assert ids == sorted(ids)
        assert list(map(streamid.split, ids)) == pairs

    def test_after_the_last_sequence_number_come_the_next_milliseconds(self) -> None:
        last = streamid.make(5, 2**64 - 1)
        assert streamid.after(last) == streamid.make(6, 0)
        assert streamid.before(streamid.make(6, 0)) == last
        assert streamid.after(streamid.LAST) is None
        assert streamid.before(streamid.FIRST) is None

    def test_the_next_one_is_never_smaller_though_the_clock_goes_back(self) -> None:
        stream = Stream()
        assert stream.next_id(1000) == streamid.make(1000, 0)
        stream.append(streamid.make(1000, 0), [b"f", b"v"])
        assert stream.next_id(1000) == streamid.make(1000, 1)
        assert stream.next_id(10) == streamid.make(1000, 1)
        assert stream.next_id(1001) == streamid.make(1001, 0)
        stream.last = streamid.LAST
        assert stream.next_id(1) is None


class TestPending:
    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=80), st.integers(0, 40))
    def test_it_holds_what_a_dict_would(self, steps: list[tuple[bool, int]], start: int) -> None:
        pending, model = Pending(), dict[bytes, Delivery]()
        for add, number in steps:
            id = id_of(number)
            assert pending.get(id) is model.get(id)
            if add and id not in model:
                model[id] = Delivery(b"c", number, 1)
                pending.put(id, model[id])
            elif not add:
                assert pending.remove(id) is model.pop(id, None)
        assert len(pending) == len(model)
        assert list(pending.walk(id_of(start))) == sorted(
            (pair for pair in model.items() if pair[0] >= id_of(start)), key=lambda pair: pair[0]
        )
        if model:
            assert (pending.first(), pending.last()) == (min(model), max(model))

    @pytest.mark.parametrize("step", [1, -1, 7919])
    def test_thousands_lie_in_order_however_they_come(self, step: int) -> None:
        count = 10 * CHUNK
        pending = Pending()
        numbers = [number * step % (count + 1) for number in range(1, count + 1)]
        for number in numbers:
            pending.put(id_of(number), Delivery(b"c", number, 1))
        assert [delivery.at for _, delivery in pending.walk(streamid.FIRST)] == sorted(numbers)
        for number in numbers[::2]:
            removed = pending.remove(id_of(number))
            assert removed is not None
            assert removed.at == number
        assert [delivery.at for _, delivery in pending.walk(streamid.FIRST)] == sorted(numbers[1::2])


class TestGroups:
    def test_what_is_given_to_another_consumer_is_the_firsts_no_more(self) -> None:
        stream = filled(3)
        group = stream.create_group(b"g", streamid.FIRST, 0)
        one, other = (stream.create_consumer(group, name, 0) for name in (b"one", b"other"))
        stream.deliver(group, one, id_of(0), 1)
        stream.deliver(group, one, id_of(1), 1)
        delivery = stream.deliver(group, other, id_of(0), 2)
        assert (delivery.consumer, delivery.at, delivery.count) == (b"other", 2, 1)
        assert [len(each.pending) for each in (group, one, other)] == [2, 1, 1]
        assert stream.delete_consumer(group, b"one") == 1
        assert [id for id, _ in group.pending.walk(streamid.FIRST)] == [id_of(0)]

    def test_its_size_is_what_it_was_once_all_has_gone(self) -> None:
        stream = filled(250)
        size = stream.size
        group = stream.create_group(b"g", streamid.FIRST, 0)
        for name in (b"one", b"other"):
            consumer = stream.create_consumer(group, name, 0)
            for number in range(20):
                stream.deliver(group, consumer, id_of(number), 1)
        grown = stream.size
        assert unpack(stream.pack()).size == stream.copy().size == grown
        assert stream.acknowledge(group, id_of(0))
        assert not stream.acknowledge(group, id_of(0))
        stream.delete_consumer(group, b"one")
        stream.destroy_group(b"g")
        assert not stream.destroy_group(b"g")
        assert stream.size == size < grown


class TestPacked:
    def test_its_bytes_stay_as_they_are(self) -> None:
        stream = Stream()
        for number in range(1, 5):
            stream.append(streamid.make(number, number), [b"f", b"v%d" % number])
        stream.append(streamid.make(5, 0), [b"a", b"1", b"b", b"2"])
        stream.delete(streamid.make(1, 1))
        group = stream.create_group(b"g", streamid.make(3, 3), 2)
        stream.create_consumer(group, b"idle", 100)
        consumer = stream.create_consumer(group, b"c", 200)
        stream.deliver(group, consumer, streamid.make(2, 2), 300).count = 7
        assert stream.pack().hex() == GOLDEN
        assert unpack(bytes.fromhex(GOLDEN)).pack().hex() == GOLDEN

    def test_a_shape_of_a_later_version_is_refused(self) -> None:
        with pytest.raises(ValueError, match="shape 2"):
            unpack(b"\x96\x02\xc0\xc0\xc0\xc0\xc0")


GOLDEN = (
    "9601c41000000000000000050000000000000000c41000000000000000010000000000000001059198c41000000000000000"
    "010000000000000001c410000000000000000500000000000000000157c4020166c450000000000000000200000000000000"
    "0200000008000000000000000300000000000000030000000c00000000000000040000000000000004000000100000000000"
    "00000500000000000000000000001904c4150002763200027633000276340101610131016201329198c40167c41000000000"
    "000000030000000000000003029292c40469646c656492c40163ccc8c41000000000000000020000000000000002910191cd"
    "012c9107"
)


class TestSize:
    def test_an_entry_of_a_large_one_takes_little_more_than_its_bytes(self) -> None:
        stream = filled(100 * ENTRIES_MAX)
        assert stream.size / len(stream) < 35  # an id and an end of 20 bytes, a value of up to 4

    def test_adding_takes_no_more_than_was_announced(self) -> None:
        stream = Stream()
        for number in range(300):
            items = [b"f", b"x" * (number * 17 % 900)]
            size, cost = stream.size, stream.cost(items)
            stream.append(id_of(number), items)
            assert 0 < stream.size - size <= cost


def test_a_large_one_is_taken_down_in_slices() -> None:
    stream = filled(5000)
    group = stream.create_group(b"g", streamid.FIRST, 0)
    consumer = stream.create_consumer(group, b"c", 0)
    for number in range(5000):
        stream.deliver(group, consumer, id_of(number), 1)
    slices = 1
    while stream.dismantle(1000):
        slices += 1
    assert slices >= 12
    assert not stream.groups
