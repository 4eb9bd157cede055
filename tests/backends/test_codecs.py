"""Codecs: what is kept of a zstd frame, and what a damaged one does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard

from backends.codecs import Codec, CodecError, Hash, block_of, compress, decompress, frame_of

TEXT = b"the same words, and the same words again, and again the same words " * 5
DICTIONARY = zstandard.ZstdCompressionDict(TEXT, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def test_ids_never_change() -> None:
    assert {codec.name: codec.value for codec in Codec} == {
        "NONE": 0,
        "ZSTD": 1,
        "ZSTD_DICTIONARY": 2,
        "ZSTD_DICTIONARY_BLOCK": 3,
    }
    assert {hash_.name: hash_.value for hash_ in Hash} == {"NONE": 0, "SHA256": 3}


def test_no_hash_is_one_flipped_bit_away_from_having_none() -> None:
    assert all(hash_.value.bit_count() != 1 for hash_ in Hash)


@pytest.mark.parametrize("level", [-5, 1, 3, 19, 22])
@pytest.mark.parametrize("dictionary", [None, DICTIONARY])
def test_a_frame_comes_back_at_every_level(
    level: int, dictionary: zstandard.ZstdCompressionDict | None
) -> None:
    frame = compress(TEXT, level, dictionary)
    assert len(frame) < len(TEXT)
    assert decompress(frame, len(TEXT), dictionary) == TEXT


def test_a_frame_lacks_magic_number_and_content_size() -> None:
    frame = compress(TEXT, 3, None)
    plain = zstandard.ZstdCompressor(level=3).compress(TEXT)
    assert len(frame) <= len(plain) - 5
    # With the magic number put back it is an ordinary frame, without a content size.
    whole = zstandard.FRAME_HEADER + frame
    assert zstandard.frame_content_size(whole) == -1
    assert zstandard.ZstdDecompressor().decompress(whole, max_output_size=len(TEXT)) == TEXT


@pytest.mark.parametrize("length", [1, 60, 1023, 1024, 1025, 70_000, 128 * 1024])
@pytest.mark.parametrize("level", [1, 3, 12])
def test_a_frame_of_one_block_is_that_block(length: int, level: int) -> None:
    value = (TEXT * 400)[7 : 7 + length]
    frame = compress(value, level, DICTIONARY)
    block = block_of(frame)
    if length > 1:
        assert frame[5:] == block
        assert decompress(frame_of(block, length), length, DICTIONARY) == value
    else:  # too short to be compressed
        assert block == b""


def test_what_is_not_one_compressed_block_stays_a_frame() -> None:
    assert block_of(compress(TEXT * 600, 3, DICTIONARY)) == b""  # several blocks
    assert block_of(compress(bytes(range(256)), 3, None)) == b""  # one as it is
    assert block_of(compress(b"a" * 100_000, 3, None)) != b""
    for block, length in ((b"", 5), (b"abc", 0), (b"abc", 128 * 1024 + 1), (bytes(128 * 1024 + 1), 5)):
        with pytest.raises(CodecError, match="no block of ours"):
            frame_of(block, length)


def test_a_dictionary_is_what_makes_short_values_small() -> None:
    value = TEXT[:60]
    assert len(compress(value, 3, DICTIONARY)) < 20 < len(compress(value, 3, None))


FRAME = compress(TEXT, 3, None)


@pytest.mark.parametrize(
    ("frame", "raw_length"),
    [
        pytest.param(FRAME[:-1], len(TEXT), id="cut"),
        pytest.param(b"", len(TEXT), id="empty"),
        pytest.param(FRAME + b"\0", len(TEXT), id="followed by a byte"),
        pytest.param(FRAME + FRAME, 2 * len(TEXT), id="followed by a frame"),
        pytest.param(FRAME, len(TEXT) - 1, id="longer than it should be"),
        pytest.param(FRAME, len(TEXT) + 1, id="shorter than it should be"),
        pytest.param(FRAME, 0, id="not empty as it should be"),
        pytest.param(zstandard.compress(TEXT), len(TEXT), id="with a magic number"),
    ],
)
def test_only_one_whole_frame_of_the_right_length_is_taken(frame: bytes, raw_length: int) -> None:
    with pytest.raises(CodecError):
        decompress(frame, raw_length, None)


def test_a_frame_cannot_ask_for_more_memory_than_the_caller_grants() -> None:
    # Single segment with an 8-byte content size of 2^62 - 1: zstandard alone would try to allocate it.
    bomb = bytes((0b1110_0000,)) + (2**62 - 1).to_bytes(8, "little") + FRAME[2:]
    with pytest.raises(CodecError, match="no zstd frame of ours"):
        decompress(bomb, len(TEXT), None)


def test_another_dictionary_does_not_decode_to_the_same() -> None:
    other = zstandard.ZstdCompressionDict(TEXT[::-1], dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    frame = compress(TEXT, 3, DICTIONARY)
    assert decompress(frame, len(TEXT), other) != TEXT  # which the seal's digest notices


def test_threads_do_not_share_contexts() -> None:
    values = [bytes([i]) * 50_000 + TEXT * (i % 7) for i in range(64)]

    def round_trip(value: bytes) -> bytes:
        return decompress(compress(value, 3, DICTIONARY), len(value), DICTIONARY)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(round_trip, values * 4)) == values * 4


def test_more_dictionaries_than_are_kept_at_hand_still_work() -> None:
    dictionaries = [
        zstandard.ZstdCompressionDict(bytes([i]) + TEXT, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        for i in range(70)
    ]
    frames = [compress(TEXT, 1, dictionary) for dictionary in dictionaries]
    for frame, dictionary in zip(frames, dictionaries, strict=True):
        assert decompress(frame, len(TEXT), dictionary) == TEXT
