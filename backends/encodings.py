"""Content codings of HTTP (RFC 9110, 8.4.1): how a blob's bytes are written so that its reader can undo it.

Everything here may be called from any thread, and lets go of the GIL for what takes long.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import zstandard

Bytes = bytes | bytearray | memoryview

# 6 is zlib's own choice.  What zstd makes of level 3 takes a window of 2 MB; readers need allow for no more
# than 8 MB (RFC 9659).
_GZIP_LEVEL: Final = 6
_ZSTD_LEVEL: Final = 3
_ZSTD_WINDOW_MAX: Final = 8 << 20


class EncodingError(Exception):
    """The bytes are not what their coding says, or hold more or less than they should."""


def encode(raw: Bytes, encoding: str) -> tuple[Bytes, str]:
    """``raw`` in a content coding, and its name; unencoded and "" where that is no longer."""
    encoded = _ENCODERS[encoding](raw)
    return (encoded, encoding) if len(encoded) < len(raw) else (raw, "")


def encoded_max(raw_length: int) -> int:
    """Bytes that any coding may take for so many: what can't be shrunk grows by a few in a thousand."""
    return raw_length + raw_length // 200 + 1024


def decode(encoded: Bytes, encoding: str, raw_length: int) -> Bytes:
    """What was encoded, which must have ``raw_length`` bytes.  Raises ``EncodingError``."""
    decoder = _DECODERS.get(encoding.strip().lower())
    if decoder is None:
        raise EncodingError(f"its content coding {encoding[:40]!r} is not known")
    raw = decoder(encoded, raw_length)
    if len(raw) != raw_length:
        raise EncodingError(f"it holds {len(raw)} bytes where {raw_length} belong")
    return raw


def _gunzip(encoded: Bytes, raw_length: int) -> bytes:
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        raw = stream.decompress(encoded, raw_length + 1)
    except zlib.error as error:
        raise EncodingError(str(error)) from None
    if not stream.eof:
        raise EncodingError("its gzip stream is cut, or holds more than it should")
    return raw


def _unzstd(encoded: Bytes, raw_length: int) -> bytes:
    try:
        # A frame that gives its own content size would make zstandard allocate that instead.
        if zstandard.frame_content_size(encoded) not in (-1, raw_length):
            raise EncodingError("its zstd frame holds another number of bytes than it should")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
        return decompressor.decompress(encoded, max_output_size=raw_length + 1)
    except zstandard.ZstdError as error:
        raise EncodingError(str(error)) from None


_ENCODERS: Final[Mapping[str, Callable[[Bytes], Bytes]]] = {
    "none": lambda raw: raw,
    "gzip": lambda raw: gzip.compress(raw, _GZIP_LEVEL, mtime=0),
    "zstd": lambda raw: zstandard.ZstdCompressor(_ZSTD_LEVEL).compress(raw),
}
_DECODERS: Final[Mapping[str, Callable[[Bytes, int], Bytes]]] = {
    "": lambda encoded, _: encoded,
    "identity": lambda encoded, _: encoded,
    "gzip": _gunzip,
    "zstd": _unzstd,
}
