"""The registry of codecs and hashes that sealed values name by id.

An id stands in stored bytes for ever: ids are never reused, and never change their meaning.  A new
codec is a new id here, a branch in ``compress`` and ``decompress``, and a golden-bytes test.

Zstandard frames (RFC 8878) are kept without what a seal says already: no magic number, no content
size, no checksum, no dictionary id.  That saves 5 bytes of a 300-byte message, 9 with a dictionary.  What is
small with one is mostly a frame of a single block: then the block is kept without the five bytes before it,
which say nothing that its length and that of the value do not.

Everything here may be called from any thread: zstd contexts are not thread safe, and costly to
build, so each thread keeps its own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

import zstandard


class Codec(IntEnum):
    """How the payload was compressed; 4 bits in a seal."""

    NONE = 0
    ZSTD = 1
    ZSTD_DICTIONARY = 2
    ZSTD_DICTIONARY_BLOCK = 3  # the one compressed block of such a frame


class Hash(IntEnum):
    """What the digest is; 4 bits in a seal.

    Every id but ``NONE`` has at least two bits set, so that no single flipped bit can turn a value
    with a digest into one that claims to have none.
    """

    NONE = 0
    SHA256 = 3


Dictionaries = Mapping[int, zstandard.ZstdCompressionDict]
"""Trained dictionaries by id, 1 .. 2**63-1.  A store's dictionaries are its own; ids are never reused."""

NO_DICTIONARIES: Final[Dictionaries] = {}


class CodecError(Exception):
    """The payload can't be decompressed to what it is said to hold."""


# RFC 8878, 3.1.1.1.1: no content size, no single segment, no checksum, no dictionary id.
_FRAME_HEADER_DESCRIPTOR: Final = 0
# That byte, one for the window, and the block's header.
_BLOCK_START: Final = 5
_BLOCK_MAX: Final = 128 * 1024  # RFC 8878, 3.1.1.2.4
_LAST_COMPRESSED: Final = 5  # the lower three bits of the header of a last block that is compressed
_WINDOW_LOG_MIN: Final = 10
# Contexts hold some 100 KB each (a decompressor) to some MB (a compressor that met a large value).
_CONTEXTS_MAX: Final = 32

_Dictionary = zstandard.ZstdCompressionDict | None


class _Contexts:
    """One thread's compressors and decompressors."""

    def __init__(self) -> None:
        self.compressors: dict[tuple[int, _Dictionary], zstandard.ZstdCompressor] = {}
        self.decompressors: dict[_Dictionary, zstandard.ZstdDecompressor] = {}


_local: Final = threading.local()


def _contexts() -> _Contexts:
    contexts: _Contexts | None = getattr(_local, "contexts", None)
    if contexts is None:
        contexts = _local.contexts = _Contexts()
    return contexts


def compress(raw: bytes, level: int, dictionary: _Dictionary) -> bytes:
    """One zstd frame of ``raw``.  ``level`` is zstd's own, 1 .. 22, or negative for its fast modes."""
    compressors = _contexts().compressors
    compressor = compressors.get((level, dictionary))
    if compressor is None:
        compressor = _compressor(level, dictionary)
        if len(compressors) >= _CONTEXTS_MAX:
            compressors.clear()
        compressors[(level, dictionary)] = compressor
    return compressor.compress(raw)


def decompress(frame: bytes, raw_length: int, dictionary: _Dictionary) -> bytes:
    """What ``compress`` was given.  Takes no more memory than ``raw_length`` and
    zstd's window (128 MB at most).

    Raises ``CodecError`` unless ``frame`` is one whole frame of exactly ``raw_length`` bytes.
    """
    # A frame that gives its own content size would make zstandard allocate that instead.
    if not frame or frame[0] != _FRAME_HEADER_DESCRIPTOR:
        raise CodecError("the payload is no zstd frame of ours")
    if raw_length == 0:
        raise CodecError("the payload is a zstd frame of no bytes")
    decompressors = _contexts().decompressors
    decompressor = decompressors.get(dictionary)
    if decompressor is None:
        decompressor = zstandard.ZstdDecompressor(
            dict_data=dictionary, format=zstandard.FORMAT_ZSTD1_MAGICLESS
        )
        if len(decompressors) >= _CONTEXTS_MAX:
            decompressors.clear()
        decompressors[dictionary] = decompressor
    try:
        raw = decompressor.decompress(frame, max_output_size=raw_length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(str(error)) from None
    if len(raw) != raw_length:
        raise CodecError(f"the payload holds {len(raw)} bytes, not {raw_length}")
    return raw


def block_of(frame: bytes) -> bytes:
    """The block of a frame that ``compress`` has made; empty where it is not a single compressed one."""
    size = len(frame) - _BLOCK_START
    if 0 < size <= _BLOCK_MAX and int.from_bytes(frame[2:_BLOCK_START], "little") == (
        size << 3 | _LAST_COMPRESSED
    ):
        return frame[_BLOCK_START:]
    return b""


def frame_of(block: bytes, raw_length: int) -> bytes:
    """The frame that a block makes which holds ``raw_length`` bytes.  Raises ``CodecError``.

    Its window is the smallest that has room for all of them, so that they may refer to all of the dictionary.
    """
    if not 0 < raw_length <= _BLOCK_MAX or not 0 < len(block) <= _BLOCK_MAX:
        raise CodecError("the payload is no block of ours")
    window = max(_WINDOW_LOG_MIN, (raw_length - 1).bit_length()) - _WINDOW_LOG_MIN << 3
    header = (len(block) << 3 | _LAST_COMPRESSED).to_bytes(3, "little")
    return bytes((_FRAME_HEADER_DESCRIPTOR, window)) + header + block


def _compressor(level: int, dictionary: _Dictionary) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
    )
    return zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)
