"""Patterns, against redis-server's own matching of keys."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis import Redis

from proxy.glob import Glob

PATTERNS = st.one_of(
    st.text(st.sampled_from(list("ab*?[]^-\\c")), max_size=12).map(str.encode),
    st.lists(
        st.sampled_from([b"*", b"?", b"a", b"b", b"[ab]", b"[^a]", b"[a-b]", b"\\a", b"\\*"]), max_size=8
    ).map(b"".join),
    st.lists(
        st.sampled_from([b"[", b"^", b"]", b"-", b"\x00", b"\x7f", b"\x80", b"\xff", b"a", b"*"]), max_size=8
    ).map(b"".join),
)
TEXTS = st.one_of(
    st.text(st.sampled_from(list("abc*[]^-\\")), max_size=10).map(str.encode),
    st.lists(st.sampled_from([b"\x00", b"\x7f", b"\x80", b"\xff", b"a", b"b", b"]", b"-"]), max_size=4).map(
        b"".join
    ),
)


@settings(max_examples=1500)
@given(PATTERNS, st.sets(TEXTS, min_size=1, max_size=12))
@example(b"*", {b"", b"a"})
@example(b"**", {b"", b"a"})
@example(b"", {b"", b"a"})
@example(b"[a-", {b"a", b"-"})
@example(b"[a-]", {b"a", b"-", b"]", b"_"})
@example(b"[]a]", {b"a", b"]", b"a]"})
@example(b"[^", {b"a", b"^"})
@example(b"[z-a]", {b"b", b"z"})
@example(b"[a-\xff]", {b"a", b"b", b"\xff", b"\x80", b"\x00"})
@example(b"a\\", {b"a\\", b"a"})
@example(b"[\\]]", {b"]", b"\\"})
def test_a_pattern_matches_what_it_matches_in_redis(
    redis_client: Redis, pattern: bytes, texts: set[bytes]
) -> None:
    redis_client.flushall()
    redis_client.mset(dict.fromkeys(texts, b""))
    expected = set(redis_client.keys(pattern))
    glob = Glob(pattern)
    assert {text for text in texts if glob.matches(text)} == expected
    assert all(text.startswith(glob.prefix) for text in expected)


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        (b"user:*", b"user:"),
        (b"user:1", b"user:1"),
        (b"*", b""),
        (b"a?c", b"a"),
        (b"a[bc]", b"a"),
        (b"a\\*b*", b"a*b"),
        (b"a\\", b"a\\"),
        (b"", b""),
    ],
)
def test_the_prefix_is_all_that_is_literal(pattern: bytes, prefix: bytes) -> None:
    assert Glob(pattern).prefix == prefix


@pytest.mark.timeout(10)
def test_no_pattern_takes_exponential_time() -> None:
    assert not Glob(b"a*" * 40 + b"b").matches(b"a" * 2000)
    assert not Glob(b"*[a-z]?" * 30 + b"0").matches(b"a" * 2000)
