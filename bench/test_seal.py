"""What a seal costs beside the bare calls of zstd and SHA-256 that it can't do without.

pytest bench/test_seal.py
"""

from __future__ import annotations

import hashlib
import random

import pytest
import zstandard
from pytest_benchmark.fixture import BenchmarkFixture

from backends.codecs import Codec
from backends.seal import SealPolicy, seal, unseal
from backends.training import train, with_dictionary

NAME = b"long:user:42:history"
LIMIT = 1 << 26

_random = random.Random(1)
_WORDS = [_random.randbytes(n % 8 + 2).hex().encode() for n in range(800)]


def text(size: int) -> bytes:
    return b" ".join(_random.choices(_WORDS, k=size // 4))[:size]


def made_policy() -> SealPolicy:
    made = train([text(300) for _ in range(2000)], SealPolicy(), 64 * 1024)
    assert made is not None
    return with_dictionary(SealPolicy(), 1, made.dictionary)


VALUES = {size: text(size) for size in (300, 64 * 1024)}
POLICIES = {"raw": SealPolicy(codec=Codec.NONE), "zstd": SealPolicy(), "dictionary": made_policy()}
CASES = [
    (size, policy) for size in VALUES for policy in POLICIES if (size, policy) != (64 * 1024, "dictionary")
]


def dictionary_of(policy: str) -> zstandard.ZstdCompressionDict | None:
    return POLICIES[policy].dictionary


@pytest.mark.parametrize(("size", "policy"), CASES)
def test_seal(benchmark: BenchmarkFixture, size: int, policy: str) -> None:
    benchmark.group = f"write {size} bytes, {policy}"
    benchmark(seal, 0, NAME, 1, VALUES[size], POLICIES[policy])


@pytest.mark.parametrize(("size", "policy"), CASES)
def test_unseal(benchmark: BenchmarkFixture, size: int, policy: str) -> None:
    benchmark.group = f"read {size} bytes, {policy}"
    sealed, dictionary = seal(0, NAME, 1, VALUES[size], POLICIES[policy]), dictionary_of(policy)
    known = {} if dictionary is None else {1: dictionary}
    assert benchmark(unseal, 0, NAME, 1, sealed, LIMIT, known) == VALUES[size]


@pytest.mark.parametrize(("size", "policy"), CASES)
def test_bare_write(benchmark: BenchmarkFixture, size: int, policy: str) -> None:
    benchmark.group = f"write {size} bytes, {policy}"
    raw, compressor = VALUES[size], zstandard.ZstdCompressor(level=3, dict_data=dictionary_of(policy))

    def bare() -> None:
        hashlib.sha256(raw if policy == "raw" else raw + compressor.compress(raw)).digest()

    benchmark(bare)


@pytest.mark.parametrize(("size", "policy"), CASES)
def test_bare_read(benchmark: BenchmarkFixture, size: int, policy: str) -> None:
    benchmark.group = f"read {size} bytes, {policy}"
    raw, dictionary = VALUES[size], dictionary_of(policy)
    frame = zstandard.ZstdCompressor(level=3, dict_data=dictionary).compress(raw)
    decompressor = zstandard.ZstdDecompressor(dict_data=dictionary)

    def bare() -> None:
        hashlib.sha256(raw if policy == "raw" else decompressor.decompress(frame) + frame).digest()

    benchmark(bare)
