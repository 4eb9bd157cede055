"""Replies cut at their ends: whole, byte by byte, split anywhere, with pushes between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.frames import FramingError, ReplyFramer
from tests.differential.frames import frame_end

LIMIT = 1 << 20

REPLIES = [
    b"+OK\r\n",
    b"+\r\n",
    b"+a lone \r and a lone \n are text\r\n",
    b"-ERR unknown command\r\n",
    b":-1000\r\n",
    b"$0\r\n\r\n",
    b"$5\r\nhello\r\n",
    b"$12\r\n\r\n+OK\r\n$-1\r\n\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n*0\r\n$-1\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",3.14\r\n",
    b",inf\r\n",
    b"(3492890328409238509324850943850943825024385\r\n",
    b"!21\r\nSYNTAX invalid syntax\r\n",
    b"=15\r\ntxt:Some string\r\n",
    b"%2\r\n+first\r\n:1\r\n+second\r\n%1\r\n#f\r\n_\r\n",
    b"%0\r\n",
    b"~3\r\n+a\r\n~0\r\n:5\r\n",
    b"|1\r\n+ttl\r\n:3600\r\n$1\r\na\r\n",
    b"*2\r\n|1\r\n+a\r\n*1\r\n:1\r\n:2\r\n|0\r\n|1\r\n:1\r\n:2\r\n~1\r\n:3\r\n",
]
PUSHES = [
    b">0\r\n",
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",
    b">1\r\n%1\r\n+a\r\n|1\r\n:1\r\n:2\r\n:3\r\n",
]


def cut(wire: bytes, places: Iterable[int]) -> list[bytes]:
    """``wire`` in chunks that begin at ``places``."""
    return [wire[start:end] for start, end in pairwise(sorted({0, *places, len(wire)}))]


def taken(
    chunks: Iterable[bytes], counts: Iterable[int], framer: ReplyFramer | None = None
) -> Iterator[bytes]:
    """What a lane would hand to waiters for so many replies each."""
    framer = framer or ReplyFramer(LIMIT)
    waiting = iter(counts)
    count = next(waiting, 0)
    for chunk in chunks:
        framer.feed(chunk)
        while count and (wire := framer.take(count)) is not None:
            yield wire
            count = next(waiting, 0)
        if not count:
            assert framer.take(1) is None
            assert framer.quiet
    assert not count


@pytest.mark.parametrize("reply", REPLIES)
def test_each_type_whole_byte_by_byte_and_with_what_follows(reply: bytes) -> None:
    assert list(taken([reply], [1])) == [reply]
    assert list(taken([bytes([byte]) for byte in reply], [1])) == [reply]
    for place in range(len(reply)):
        assert list(taken(cut(reply + b"+next\r\n", [place]), [1, 1])) == [reply, b"+next\r\n"]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 1000])
def test_pushes_are_no_replies(step: int) -> None:
    wire = b"".join(PUSHES[i % 3] + reply for i, reply in enumerate(REPLIES)) + PUSHES[0]
    chunks = cut(wire, range(0, len(wire), step))
    assert list(taken(chunks, [1] * len(REPLIES))) == REPLIES
    assert list(taken(chunks, [len(REPLIES)])) == [b"".join(REPLIES)]


def test_a_push_that_nobody_waits_for_leaves_nothing_behind() -> None:
    framer = ReplyFramer(LIMIT)
    for byte in PUSHES[1]:
        framer.feed(bytes([byte]))
        assert framer.take(1) is None
        assert framer.quiet
    framer.feed(b":1\r\n:2\r\n")
    assert framer.take(2) == b":1\r\n:2\r\n"


def test_a_chunk_that_is_one_waiters_is_not_copied() -> None:
    framer = ReplyFramer(LIMIT)
    chunk = b"$1\r\na\r\n$1\r\nb\r\n"
    framer.feed(chunk)
    assert framer.take(2) is chunk


def sized(kind: bytes, body: bytes) -> bytes:
    return b"%b%d\r\n%b\r\n" % (kind, len(body), body)


def several(kinds: str, values: st.SearchStrategy[bytes], each: int = 1) -> st.SearchStrategy[bytes]:
    def encode(kind: str, items: list[bytes]) -> bytes:
        count = len(items) // each
        return b"%b%d\r\n%b" % (kind.encode(), count, b"".join(items[: count * each]))

    return st.builds(encode, st.sampled_from(kinds), st.lists(values, max_size=6))


line = st.builds(
    lambda kind, text: b"%b%b\r\n" % (kind.encode(), text.replace(b"\r\n", b"")),
    st.sampled_from("+-:_#,("),
    st.binary(max_size=40).filter(lambda text: not text.endswith(b"\r")),
)
bulk = st.builds(sized, st.sampled_from([b"$", b"!", b"="]), st.binary(max_size=200))
null = st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"_\r\n"])
value = st.recursive(
    line | bulk | null,
    lambda inner: (
        several("*~", inner)
        | several("%", inner, each=2)
        | st.builds(bytes.__add__, several("|", inner, each=2), inner)
    ),
    max_leaves=12,
)


@given(st.data())
def test_any_replies_split_anywhere_for_any_waiters(data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.lists(value, min_size=1, max_size=5), min_size=1, max_size=6))
    pushes = st.lists(several(">", value), max_size=1).map(b"".join)
    wire = b"".join(data.draw(pushes) + reply for replies in groups for reply in replies)
    chunks = cut(wire, data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    assert list(taken(chunks, map(len, groups))) == [b"".join(replies) for replies in groups]


@given(st.data())
def test_what_a_cut_stream_had_is_told_exactly(data: st.DataObject) -> None:
    replies = data.draw(st.lists(value, min_size=1, max_size=5))
    wire = b"".join(replies)
    end = data.draw(st.integers(0, len(wire) - 1))
    framer = ReplyFramer(LIMIT)
    for chunk in cut(wire[:end], data.draw(st.lists(st.integers(0, end), max_size=4))):
        framer.feed(chunk)
        assert framer.take(len(replies)) is None
    whole: list[bytes] = []
    while len(b"".join(whole)) + len(replies[len(whole)]) <= end:
        whole.append(replies[len(whole)])
    assert framer.abandon() == (b"".join(whole), len(replies) - len(whole) if end else 0)


@given(value, st.data())
def test_damaged_bytes_are_refused_or_framed_as_another_reader_does(
    reply: bytes, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(reply)))
    end = data.draw(st.integers(start, min(start + 3, len(reply))))
    damaged = reply[:start] + data.draw(st.binary(max_size=3)) + reply[end:] + b"+next\r\n"
    framer = ReplyFramer(LIMIT)
    try:
        for chunk in cut(damaged, data.draw(st.lists(st.integers(0, len(damaged)), max_size=4))):
            framer.feed(chunk)
            if (wire := framer.take(1)) is not None:
                skipped = 0
                while damaged.startswith(b">", skipped):
                    skipped = frame_end(damaged, skipped)
                assert wire == damaged[skipped : frame_end(damaged, skipped)]
                break
    except FramingError:
        pass


@pytest.mark.parametrize(
    "wire",
    [
        b"?\r\n",
        b"\r\n",
        b"OK\r\n",
        b"$x\r\n",
        b"$\r\n",
        b"$-2\r\n",
        b"$ 1\r\na\r\n",
        b"$01\r\na\r\n",
        b"$3\rabc\r\n",
        b"$3\r\nabcd\r\n",
        b"$3\r\nabc\n\r",
        b"$3\r\nabc\rx",
        b"$99999999999999999999\r\n",
        b"=-1\r\n",
        b"!-1\r\n",
        b"*-2\r\n",
        b"%-1\r\n",
        b"~-1\r\n",
        b"|-1\r\n",
        b"*1\r\n>0\r\n",
        b"$?\r\n;0\r\n",
        b"*?\r\n.\r\n",
        b"*9999999999\r\n" * 200,
    ],
)
def test_what_is_no_reply_is_refused(wire: bytes) -> None:
    for chunks in ([wire], [bytes([byte]) for byte in wire]):
        with pytest.raises(FramingError):
            list(taken(chunks, [1]))


def test_nesting_costs_nothing() -> None:
    wire = b"*1\r\n" * 100_000 + b":1\r\n"
    assert list(taken(cut(wire, range(0, len(wire), 1000)), [1])) == [wire]


def test_a_reply_over_the_limit_becomes_an_error_and_others_stay() -> None:
    huge = sized(b"$", b"x" * 100_000)
    wire = b":1\r\n" + huge + b":2\r\n"
    for step in (10, 1000, 99_990):
        framer = ReplyFramer(50_000)
        (got,) = taken(cut(wire, range(0, len(wire), step)), [3], framer)
        assert got.startswith(b":1\r\n-TOOLARGE a reply of 100011 bytes is over the limit of 50000")
        assert got.endswith(b"\r\n:2\r\n")


def test_a_large_reply_within_the_limit_is_whole() -> None:
    wire = sized(b"$", bytes(range(256)) * 1000)
    assert list(taken(cut(wire, range(0, len(wire), 777)), [1])) == [wire]
