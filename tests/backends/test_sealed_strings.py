"""Sealed strings of a Redis: their bytes, what stays as it is, and that nothing damaged passes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.codecs import Codec, Hash
from backends.seal import IntegrityError, SealPolicy
from backends.sealed_strings import HEAD, MAGIC, describe, is_sealed, raw_length, seal_string, unseal_string
from proxy.datatypes import hyperloglog

LIMIT = 1 << 20
ZSTD = SealPolicy()
HASHED = SealPolicy(codec=Codec.NONE)
COMPRESSED = SealPolicy(hash=Hash.NONE)
TEXT = b'{"role": "user", "content": "What did I tell you, and when did I tell you what I told you?"}'
# As the first release has stored it: every later one must read it.
GOLDEN = bytes.fromhex(
    "f572656474696572013003" + "1002f03bcec1afb3a239897ebb539c9e7159fcfa7fa5568ae1cbf231d6daac5e" + "616263"
)


@given(st.binary(max_size=200) | st.binary(max_size=100).map(MAGIC.__add__), st.integers(0, 80))
def test_every_value_comes_back(raw: bytes, compress_min: int) -> None:
    for codec in (Codec.NONE, Codec.ZSTD):
        for hashed in (Hash.NONE, Hash.SHA256):
            stored = seal_string(raw, SealPolicy(codec, compress_min=compress_min, hash=hashed))
            assert unseal_string(stored, LIMIT) == raw
            if is_sealed(stored):
                assert raw_length(stored[:HEAD]) == describe(stored[:HEAD]).raw_length == len(raw)


def test_its_bytes_are_those_of_the_first_release() -> None:
    assert seal_string(b"abc", SealPolicy(compress_min=0)) == GOLDEN
    assert unseal_string(GOLDEN, LIMIT) == b"abc"


def test_a_text_is_smaller_and_says_what_it_is() -> None:
    stored = seal_string(TEXT * 3, ZSTD)
    assert len(stored) < len(TEXT) * 2
    assert describe(stored[:HEAD])[:5] == (1, "zstd", "sha256", 0, len(TEXT) * 3)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"x" * 63,
        b"1" * 64,
        b"-" + b"9" * 4900,
        b"0." + b"3" * 100,
        b"0x" + b"f" * 64,
        b"1e" + b"0" * 80 + b"3",
        bytes(hyperloglog.new()) + bytes(64),
    ],
)
def test_short_values_numbers_and_hyperloglogs_stay_as_they_are(raw: bytes) -> None:
    assert seal_string(raw, ZSTD) == raw


@pytest.mark.parametrize(
    "raw", [b"1" * 6000, b"1" * 64 + b" ", b"HYLL" + b"x" * 64, b"1e9999999999" + b"0" * 64]
)
def test_what_redis_takes_for_none_of_them_is_sealed(raw: bytes) -> None:
    assert is_sealed(seal_string(raw, ZSTD))


def test_without_a_hash_what_does_not_shrink_stays_as_it_is() -> None:
    raw = random.Random(1).randbytes(500)
    assert seal_string(raw, COMPRESSED) == raw
    assert is_sealed(seal_string(raw, ZSTD))
    assert is_sealed(seal_string(TEXT * 3, COMPRESSED))


@pytest.mark.parametrize("policy", [ZSTD, HASHED])
def test_no_flipped_bit_and_no_cut_at_the_end_passes(policy: SealPolicy) -> None:
    stored = seal_string(TEXT, policy)
    for bit in range(8 * len(stored)):
        damaged = bytearray(stored)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            unseal_string(bytes(damaged), LIMIT)
    for end in range(len(MAGIC), len(stored)):
        with pytest.raises(IntegrityError):
            unseal_string(stored[:end], LIMIT)
    with pytest.raises(IntegrityError):
        unseal_string(stored + b"!", LIMIT)


def test_more_than_the_limit_is_not_decompressed() -> None:
    stored = seal_string(bytes(1000), ZSTD)
    with pytest.raises(IntegrityError, match="limit"):
        unseal_string(stored, 999)
