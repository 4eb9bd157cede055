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

NAME = b"long:user:42:history"
LIMIT = 1 << 26

_random = random.Random(1)
_WORDS = [_random.randbytes(n % 8 + 2).hex().encode() for n in range(800)]


def text(size: int) -> bytes:
    return b" ".join(_random.choices(_WORDS, k=size // 4))[:size]


VALUES = {size: text(size) for size in (300, 64 * 1024)}
POLICIES = {"raw": SealPolicy(codec=Codec.NONE), "zstd": SealPolicy()}


@pytest.mark.parametrize("size", VALUES)
@pytest.mark.parametrize("policy", POLICIES)
def test_seal(benchmark: BenchmarkFixture, size: int, policy: str) -> None:
    benchmark.group = f"write {size} bytes, {policy}"
    benchmark(seal, 0, NAME, 1, VALUES[size], POLICIES[policy])


@pytest.mark.parametrize("size", VALUES)
@pytest.mark.parametrize("policy", POLICIES)
def test_unseal(benchmark: BenchmarkFixture, size: int, policy: str) -> None:
    benchmark.group = f"read {size} bytes, {policy}"
    sealed = seal(0, NAME, 1, VALUES[size], POLICIES[policy])
    assert benchmark(unseal, 0, NAME, 1, sealed, LIMIT) == VALUES[size]


@pytest.mark.parametrize("size", VALUES)
@pytest.mark.parametrize("policy", POLICIES)
def test_bare_write(benchmark: BenchmarkFixture, size: int, policy: str) -> None:
    benchmark.group = f"write {size} bytes, {policy}"
    raw, compressor = VALUES[size], zstandard.ZstdCompressor(level=3)

    def bare() -> None:
        hashlib.sha256(raw + compressor.compress(raw) if policy == "zstd" else raw).digest()

    benchmark(bare)


@pytest.mark.parametrize("size", VALUES)
@pytest.mark.parametrize("policy", POLICIES)
def test_bare_read(benchmark: BenchmarkFixture, size: int, policy: str) -> None:
    benchmark.group = f"read {size} bytes, {policy}"
    raw = VALUES[size]
    frame, decompressor = zstandard.ZstdCompressor(level=3).compress(raw), zstandard.ZstdDecompressor()

    def bare() -> None:
        hashlib.sha256(decompressor.decompress(frame) + frame if policy == "zstd" else raw).digest()

    benchmark(bare)
