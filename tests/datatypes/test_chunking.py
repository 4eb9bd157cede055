"""Lists and streams in chunks: beside plain ones, over a store of chunks that nothing may be left in."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from backends.base import CHUNKED_KINDS
from proxy.datatypes import stream as streams
from proxy.datatypes import streamid
from proxy.datatypes.chunking import Chunked, NeedChunks, Shelf
from proxy.datatypes.list import List
from proxy.datatypes.stream import Stream
from proxy.datatypes.undo import UNDO
from proxy.keyspace import UNCHUNKED

SIZE = 40  # bytes of a chunk


class Kept:
    """A collection as a store has it, read and changed as a tier does."""

    def __init__(self, value: Chunked, unpack_root: Callable[[bytes], Chunked]) -> None:
        self.value = value
        self.chunks: dict[int, bytes] = {}
        self.root = b""
        self.loads = 0
        self._unpack_root = unpack_root
        self._ids = itertools.count(1)
        self._empty = value.size  # bytes

    def run(self, work: Callable[[Any], Any]) -> Any:
        """Until all that it needs is loaded; what it has changed by then would be changed twice."""
        while True:
            try:
                return work(self.value)
            except NeedChunks as need:
                chunks = need.chunks
            for chunk in chunks:
                self.loads += 1
                self.value.fill(chunk, self.chunks[chunk.id])

    def commit(self) -> None:
        value = self.value
        for chunk in value.divide(SIZE, lambda: next(self._ids)):
            self.chunks[chunk.id] = chunk.raw()
            chunk.digest = chunk.id.to_bytes(16, "big")
        for id in value.dropped or []:
            del self.chunks[id]
        value.dropped = None
        self.root = value.pack_root()

    def reload(self) -> None:
        self.value = self._unpack_root(self.root)

    def check_size(self) -> None:
        value = self.value
        assert isinstance(value, Chunked)
        assert value.size == self._empty + sum(piece.memory() for piece in value._pieces())

    def check(self) -> None:
        """Nothing is in the store but what the root leads to."""
        self.check_size()
        self.reload()
        self.check_size()
        reached: set[int] = set()
        while missing := self.value.missing():
            for chunk in missing:
                assert isinstance(chunk, Shelf)
                reached.add(chunk.id)
                self.value.fill(chunk, self.chunks[chunk.id])
        assert reached == self.chunks.keys()
        self.check_size()


@pytest.mark.parametrize("seed", range(40))
def test_lists(seed: int) -> None:
    chance = random.Random(seed)
    plain: list[bytes] = []
    kept = Kept(List(), List.unpack_root)

    def push() -> None:
        items = [b"%d" % chance.randrange(50) for _ in range(chance.choice((1, 5, 200)))]
        left = chance.random() < 0.3
        for item in items:
            kept.run(lambda value, item=item: value.push_left(item) if left else value.push_right(item))
            plain.insert(0 if left else len(plain), item)

    def pop() -> None:
        for _ in range(min(len(plain), chance.choice((1, 3, 30)))):
            if chance.random() < 0.5:
                assert kept.run(lambda value: value.pop_left()) == plain.pop(0)
            else:
                assert kept.run(lambda value: value.pop_right()) == plain.pop()

    def trim() -> None:
        first = chance.randrange(len(plain) // 3 + 1)
        count = len(plain) - first - chance.randrange(len(plain) // 3 + 1)
        kept.run(lambda value: value.trim(first, max(count, 0)))
        plain[:] = plain[first : first + max(count, 0)]

    def change() -> None:
        if plain:
            index = chance.randrange(len(plain))
            plain[index] = b"changed" * chance.randrange(5)
            kept.run(lambda value: value.set(index, plain[index]))

    def insert() -> None:
        if plain:
            pivot = chance.choice(plain)
            kept.run(lambda value: value.insert(pivot, b"between", True))
            plain.insert(plain.index(pivot) + 1, b"between")

    def remove() -> None:
        item = b"%d" % chance.randrange(50)
        assert kept.run(lambda value: value.remove(item, 0)) == plain.count(item)
        plain[:] = [each for each in plain if each != item]

    def look() -> None:
        first = chance.randrange(len(plain) + 1)
        count = chance.randrange(len(plain) - first + 1)
        assert kept.run(lambda value: value.slice(first, count)) == plain[first : first + count]

    def undone() -> None:
        before = plain[:]
        kept.run(lambda value: value.whole())
        UNDO.begin()
        for step in chance.choices((push, pop, trim, change, insert, remove), k=3):
            step()
        UNDO.undo()
        plain[:] = before

    steps = [push, push, push, pop, trim, change, insert, remove, look, look, undone]
    for _ in range(120):
        chance.choice(steps)()
        if chance.random() < 0.7:
            kept.commit()
            if chance.random() < 0.5:
                kept.reload()
        assert len(kept.value) == len(plain)
        if kept.value.chunked:
            kept.check_size()
    kept.commit()
    kept.check()
    assert kept.run(lambda value: value.elements()) == plain
    assert kept.run(lambda value: value.pack())


@pytest.mark.parametrize("seed", range(40))
def test_streams(seed: int) -> None:
    chance = random.Random(seed)
    plain = Stream()
    kept = Kept(Stream(), streams.unpack_root)

    def both(work: Callable[[Stream], Any]) -> Any:
        expected = work(plain)
        assert kept.run(work) == expected
        return expected

    def id_near(number: int) -> bytes:
        return streamid.make(max(1, number), 0)

    def some_id() -> bytes:
        return id_near(chance.randrange(streamid.split(plain.last)[0] + 2))

    def add() -> None:
        for _ in range(chance.choice((1, 5, 300))):
            id = id_near(streamid.split(plain.last)[0] + chance.randrange(1, 3))
            items = [b"f", b"%d" % chance.randrange(10**6)]
            both(lambda stream, id=id, items=items: stream.append(id, items))

    def delete() -> None:
        for _ in range(chance.choice((1, 20))):
            id = some_id()
            both(lambda stream, id=id: stream.delete(id))

    def trim() -> None:
        approximate = chance.random() < 0.5
        limit = chance.choice((0, 0, 150)) if approximate else 0
        if chance.random() < 0.5:
            length = chance.randrange(plain.length + 1)
            both(lambda stream: stream.trim_to(length, approximate, limit))
        else:
            id = id_near(streamid.split(plain.first())[0] + chance.randrange(200))
            both(lambda stream: stream.trim_before(id, approximate, limit))

    def look() -> None:
        start, end, count = some_id(), some_id(), chance.choice((0, 1, 7, 150))
        both(lambda stream: stream.range(start, end, count))
        both(lambda stream: stream.reverse_range(start, end, count))
        both(lambda stream: stream.get(start))
        both(lambda stream: stream.count_after(start, count))
        both(lambda stream: (stream.first(), stream.top(), stream.blocks, stream.length))

    def undone() -> None:
        nonlocal plain
        before = plain.copy()
        kept.run(lambda value: value.whole())
        UNDO.begin()
        for step in chance.choices((add, delete, trim), k=3):
            step()
        UNDO.undo()
        plain = before

    steps = [add, add, delete, trim, look, look, undone]
    for _ in range(60):
        chance.choice(steps)()
        if chance.random() < 0.7:
            kept.commit()
            if chance.random() < 0.5:
                kept.reload()
    kept.commit()
    kept.check()
    assert kept.run(lambda value: value.pack()) == plain.pack()


def test_the_first_entry_is_found_behind_a_block_that_was_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.SIZE", 1)  # a block is a chunk
    kept = Kept(Stream(), streams.unpack_root)
    stream: Any = kept.value
    for number in range(1, 3000):
        stream.append(streamid.make(number, 0), [b"f", b"v"])
    stream.delete(streamid.make(100, 0))
    stream.trim_before(streamid.make(100, 0), False, 0)
    kept.commit()
    kept.reload()
    assert kept.run(lambda stream: stream.first()) == streamid.make(101, 0)


def test_the_sizes_of_chunks_in_chunks_are_counted_when_all_are_new() -> None:
    kept = Kept(List(), List.unpack_root)
    for number in range(20_000):
        kept.value.push_right(b"%d" % number)  # type: ignore[attr-defined]
    kept.commit()
    assert kept.value.chunks_size() == sum(map(len, kept.chunks.values()))


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("more", [0, 1, 3])
def test_a_large_element_is_not_written_again_with_each_push(
    monkeypatch: pytest.MonkeyPatch, left: bool, more: int
) -> None:
    monkeypatch.setattr(f"{__name__}.SIZE", 1000)
    kept = Kept(List(), List.unpack_root)
    kept.run(lambda value: [value.push_right(b"%d" % number) for number in range(1000)])
    kept.commit()
    for item in [b"large" * 20_000, *[b"small"] * more]:
        kept.run(lambda value, item=item: value.push_left(item) if left else value.push_right(item))
        kept.commit()
        kept.reload()
    assert len(kept.root) < 3000
    assert kept.run(lambda value: len(value.elements())) == 1001 + more
    kept.check()


def test_entries_are_counted_up_to_what_is_asked_for() -> None:
    kept = Kept(Stream(), streams.unpack_root)
    for number in range(1, 3000):
        kept.value.append(streamid.make(number, 0), [b"f", b"v"])  # type: ignore[attr-defined]
    assert kept.run(lambda stream: stream.count_after(streamid.FIRST, 7)) == 7
    kept.commit()
    kept.reload()
    assert kept.run(lambda stream: stream.count_after(streamid.FIRST, 7)) == 7
    assert kept.run(lambda stream: stream.count_after(streamid.FIRST, 0)) == 2999


def test_a_root_stays_small_whatever_the_size() -> None:
    kept = Kept(List(), List.unpack_root)
    for number in range(20_000):
        kept.value.push_right(b"%d" % number)  # type: ignore[attr-defined]
        if not number % 100:
            kept.commit()
    kept.commit()
    assert len(kept.root) < 3000
    kept.reload()
    assert kept.run(lambda value: value.slice(19_900, 100)) == [
        b"%d" % number for number in range(19_900, 20_000)
    ]
    assert kept.loads < 40


def test_the_kinds_of_roots_are_those_whose_chunks_a_store_removes() -> None:
    assert UNCHUNKED.keys() == CHUNKED_KINDS
