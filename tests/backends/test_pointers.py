"""What a row holds of a value that lies elsewhere, byte by byte, and HTTP's content codings."""

from __future__ import annotations

import gzip
import hashlib
import zlib

import pytest
import zstandard

from backends.encodings import EncodingError, decode, encode
from backends.pointers import POINTER_MAX, BlobName, Pointer, parse_pointer, split
from backends.seal import IntegrityError, SealPolicy, seal, unseal

RAW = b"a long story, " * 1000
BLOB = BlobName(hashlib.sha256(RAW).digest(), b"generatn")
KEPT_RAW = SealPolicy(compress_max=100)


def test_the_golden_bytes_of_a_pointer() -> None:
    sealed = seal(0, b"long:a", 1, RAW, KEPT_RAW)
    parts = split(sealed)
    assert parts is not None
    pointer = Pointer(BLOB, parts[0]).encode()
    assert pointer.hex() == (
        "02"  # version
        "6cc165df41fc16772e4cf35a5d7d8c8b26b4d6d1385ae77209a1b1a964572257"  # SHA-256 of the raw bytes
        "67656e657261746e"  # generation
        "0130b06d"  # the head: version 1, codec NONE and hash SHA256, 14,000 bytes
        "c9f14119949f560d5ae1becc6f0b14e3b13669988129680f1ab8cb225490628a"  # its digest
    )


def test_a_pointer_and_its_blob_are_the_sealed_value_again() -> None:
    sealed = seal(0, b"long:a", 1, RAW, KEPT_RAW)
    head, raw = split(sealed) or (b"", memoryview(b""))
    assert raw == RAW
    pointer = parse_pointer(Pointer(BLOB, head).encode())
    assert pointer == (BLOB, head)
    assert unseal(0, b"long:a", 1, pointer.head + RAW, len(RAW)) == RAW
    with pytest.raises(IntegrityError):
        unseal(0, b"long:b", 1, pointer.head + RAW, len(RAW))


def test_the_longest_head_fits_a_pointer() -> None:
    head = b"\x01\x30" + b"\xff" * 8 + b"\x7f" + bytes(32)
    assert len(Pointer(BLOB, head).encode()) == POINTER_MAX


def test_what_is_no_pointer() -> None:
    sealed = seal(0, b"long:a", 1, RAW, SealPolicy())
    assert parse_pointer(sealed) is None
    assert parse_pointer(b"") is None
    assert parse_pointer(b"\x02" + bytes(40)) is None  # no head
    assert parse_pointer(b"\x02" + bytes(POINTER_MAX)) is None
    assert split(sealed) is None


def test_no_single_flipped_bit_makes_a_pointer_readable() -> None:
    head, _ = split(seal(0, b"long:a", 1, RAW, KEPT_RAW)) or (b"", b"")
    whole = Pointer(BLOB, head).encode()
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        pointer = parse_pointer(bytes(flipped))
        if pointer is None:
            with pytest.raises(IntegrityError):
                unseal(0, b"long:a", 1, bytes(flipped), len(RAW))
        elif pointer.blob == BLOB:
            with pytest.raises(IntegrityError):
                unseal(0, b"long:a", 1, pointer.head + RAW, len(RAW))


@pytest.mark.parametrize("encoding", ["none", "gzip", "zstd"])
def test_what_is_encoded_is_decoded(encoding: str) -> None:
    encoded, used = encode(RAW, encoding)
    assert decode(encoded, used, len(RAW)) == RAW
    assert used == ("" if encoding == "none" else encoding)


def test_what_does_not_shrink_is_left_as_it_is() -> None:
    assert encode(b"abc", "gzip") == (b"abc", "")


def test_anybody_can_decode_what_is_encoded() -> None:
    assert gzip.decompress(encode(RAW, "gzip")[0]) == RAW
    assert zstandard.ZstdDecompressor().decompress(encode(RAW, "zstd")[0]) == RAW


@pytest.mark.parametrize(
    ("encoded", "encoding"),
    [
        (RAW[:-1], ""),
        (gzip.compress(RAW)[:-1], "gzip"),
        (gzip.compress(RAW + b"x"), "gzip"),
        (zlib.compress(RAW), "gzip"),
        (zstandard.compress(RAW)[:-1], "zstd"),
        (zstandard.compress(RAW + b"x"), "zstd"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(RAW + b"x"), "zstd"),
        (RAW, "br"),
    ],
    ids=[
        "cut",
        "cut gzip",
        "long gzip",
        "no gzip",
        "cut zstd",
        "long zstd",
        "long zstd of no size",
        "unknown",
    ],
)
def test_what_is_not_as_its_coding_says_is_refused(encoded: bytes, encoding: str) -> None:
    with pytest.raises(EncodingError):
        decode(encoded, encoding, len(RAW))
