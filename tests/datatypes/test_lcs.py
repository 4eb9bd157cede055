"""The longest common subsequence, against redis-server."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis import Redis

from proxy.datatypes.lcs import length, runs

pytestmark = pytest.mark.once  # it is not compiled

TEXTS = st.one_of(st.text("ab", max_size=30), st.text("abcd", max_size=70)).map(str.encode)


@settings(max_examples=500)
@given(TEXTS, TEXTS)
@example(b"", b"a")
@example(b"abcabc", b"acbacb")
def test_the_runs_are_those_that_redis_finds(redis_client: Redis, a: bytes, b: bytes) -> None:
    redis_client.mset({"a": a, "b": b})
    _, matches, _, size = redis_client.execute_command("LCS", "a", "b", "IDX", "WITHMATCHLEN")
    text = redis_client.execute_command("LCS", "a", "b")
    found = runs(a, b)
    assert [(run.at_a, run.at_b, run.size) for run in found] == [
        (in_a[0], in_b[0], count) for in_a, in_b, count in matches
    ]
    assert b"".join(a[run.at_a : run.at_a + run.size] for run in reversed(found)) == text
    assert length(a, b) == size == sum(run.size for run in found)


@given(st.binary(max_size=300))
def test_a_text_is_its_own_longest_subsequence(text: bytes) -> None:
    assert length(text, text) == len(text)
    assert [run.size for run in runs(text, text)] == ([len(text)] if text else [])
