"""Sealed values: what a store keeps for one key, self-describing and verifiable.

Format version 1, byte by byte:

    version         1 byte    0x01
    ids             1 byte    low nibble: codec, high nibble: hash (``codecs.Codec``, ``codecs.Hash``)
    dictionary id   varint    only with the codecs ZSTD_DICTIONARY and ZSTD_DICTIONARY_BLOCK
    raw length      varint    bytes of the value before compression
    digest          32 bytes  only with the hash SHA256
    payload         the rest  the raw bytes (codec NONE: exactly raw length of them), or one zstd frame, or
                              (codec ZSTD_DICTIONARY_BLOCK) the one block of such a frame, see ``codecs``

A varint is unsigned LEB128: 7 bits a byte, low bits first, the top bit set on all but the last byte,
at most 9 bytes (63 bits), and never longer than it must be.  So a seal without a dictionary puts at
most 38 bytes over the payload of a value below 256 MB.

The digest is SHA-256 (FIPS 180-4) of these, one after the other:

    the header as it stands above, from the version up to and including the raw length
    varint kind, varint db, varint length of the key's name, the name
    the raw bytes
    the payload again, unless the codec is NONE (where it is the raw bytes)

Each part either ends by itself or has its length before it, and the payload is what remains, so no
two different records give the same input.  The db is covered with the name: a record that is copied
under another key or database fails, and ``MOVE`` and ``RENAME`` seal anew.  The raw bytes are covered
so that a wrong dictionary or a codec's fault shows; the payload, since a flipped bit in a zstd frame
may well decode to the same bytes.  With the hash NONE only what contradicts itself is noticed.

Version 2 is no value of its own but points to one that lies elsewhere (``pointers``).

Old versions stay readable for ever: a new one is a new version byte and a branch in ``_parse``.

All functions are pure and may run in any thread: for large values (from some 64 KB on) run ``seal``
and ``unseal`` in a worker, since zstd and SHA-256 let go of the GIL there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, NamedTuple

import zstandard

from backends.codecs import (
    NO_DICTIONARIES,
    Codec,
    CodecError,
    Dictionaries,
    Hash,
    block_of,
    compress,
    decompress,
    frame_of,
)

VERSION: Final = 1
POINTER_VERSION: Final = 2

_NONE: Final[int] = Codec.NONE.value
_ZSTD: Final[int] = Codec.ZSTD.value
_ZSTD_DICTIONARY: Final[int] = Codec.ZSTD_DICTIONARY.value
_ZSTD_DICTIONARY_BLOCK: Final[int] = Codec.ZSTD_DICTIONARY_BLOCK.value
_UNHASHED: Final[int] = Hash.NONE.value
_SHA256: Final[int] = Hash.SHA256.value

_DIGEST_SIZE: Final = 32
_VARINT_MAX: Final = 9
# Below this, joining all that is hashed costs less than the calls that feed it piece by piece.
_JOIN_MAX: Final = 4096
# Values from this size on (bytes) are compressed without the dictionary too, and the smaller payload is kept:
# a dictionary's compressor is tuned to short values, and what one saves is less and less of a long value.
_LONG: Final = 16 * 1024


class IntegrityError(Exception):
    """A sealed value is damaged, or not readable by this release; the message is the reason, one line."""


class UnknownDictionary(IntegrityError):
    """The dictionary that a sealed value names is not among those that were given."""


@dataclass(frozen=True)
class SealPolicy:
    """How a route's values are sealed.

    ``codec`` is NONE or ZSTD; a ``dictionary`` (with its ``dictionary_id``, from 1) makes ZSTD use it.
    ``level`` is zstd's; values shorter than ``compress_min`` bytes are kept raw, and those longer than
    ``compress_max``.
    """

    codec: Codec = Codec.ZSTD
    level: int = 3
    compress_min: int = 64
    hash: Hash = Hash.SHA256
    dictionary_id: int = 0
    dictionary: zstandard.ZstdCompressionDict | None = None
    compress_max: int = 2**62

    def __post_init__(self) -> None:
        if self.codec is not Codec.NONE and self.codec is not Codec.ZSTD:
            raise ValueError(f"{self.codec.name} is not chosen, it follows from a dictionary")
        if (self.dictionary is None) != (self.dictionary_id == 0):
            raise ValueError("a dictionary and its id, from 1, go together")


class Description(NamedTuple):
    """What a sealed value says of itself; nothing of it is verified."""

    version: int
    codec: str
    hash: str
    dictionary_id: int  # 0: none
    raw_length: int  # bytes
    digest: str  # hexadecimal; empty without a hash


class _Header:
    """Where the parts of one sealed value are."""

    def __init__(
        self, codec: int, hash_id: int, dictionary: int, raw_length: int, end: int, payload: int
    ) -> None:
        self.codec = codec
        self.hash_id = hash_id
        self.dictionary_id = dictionary
        self.raw_length = raw_length
        self.end = end  # of the header, where the digest starts
        self.payload = payload  # where it starts


def seal(db: int, name: bytes, kind: int, raw: bytes, policy: SealPolicy) -> bytes:
    """The sealed form of the value ``raw`` of the key ``name``; ``kind`` is its data type, from 0."""
    codec, payload = encode(raw, policy)
    hash_id = policy.hash.value
    if codec >= _ZSTD_DICTIONARY:
        header = bytes((VERSION, codec | hash_id << 4)) + _varint(policy.dictionary_id) + _varint(len(raw))
    else:
        header = _START[codec | hash_id << 4] + _varint(len(raw))
    if hash_id == _UNHASHED:
        return header + payload
    return header + _digest(header, db, name, kind, raw, payload, codec) + payload


def encode(raw: bytes, policy: SealPolicy) -> tuple[int, bytes]:
    """The codec that makes the least of ``raw``, and the payload that it makes."""
    if policy.codec is Codec.NONE or not policy.compress_min <= len(raw) <= policy.compress_max:
        return _NONE, raw
    codec = _ZSTD
    payload = compress(raw, policy.level, policy.dictionary)
    if policy.dictionary is not None:
        codec = _ZSTD_DICTIONARY
        block = block_of(payload)
        if block:
            codec, payload = _ZSTD_DICTIONARY_BLOCK, block
        if len(raw) >= _LONG:
            plain = compress(raw, policy.level, None)
            if len(plain) <= len(payload):
                codec, payload = _ZSTD, plain
    if len(payload) < len(raw):
        return codec, payload
    return _NONE, raw


def unseal(
    db: int,
    name: bytes,
    kind: int,
    sealed: bytes,
    max_raw: int,
    dictionaries: Dictionaries = NO_DICTIONARIES,
) -> bytes:
    """The value that was sealed for this key and kind, verified.

    Raises ``IntegrityError`` for whatever is wrong with it, before anything is decompressed where it
    claims more than ``max_raw`` bytes; it is ``UnknownDictionary`` where ``dictionaries`` lack the one that
    the value names.
    """
    header = _parse(sealed)
    codec = header.codec
    if header.raw_length > max_raw:
        raise IntegrityError(f"raw length {header.raw_length} is over the limit of {max_raw}")
    payload = sealed[header.payload :]
    if codec == _NONE:
        if len(payload) != header.raw_length:
            raise IntegrityError(f"{len(payload)} bytes of payload where {header.raw_length} belong")
        raw = payload
    else:
        dictionary: zstandard.ZstdCompressionDict | None = None
        if codec >= _ZSTD_DICTIONARY:
            dictionary = dictionaries.get(header.dictionary_id)
            if dictionary is None:
                raise UnknownDictionary(f"dictionary {header.dictionary_id} is not there")
        try:
            frame = payload
            if codec == _ZSTD_DICTIONARY_BLOCK:
                frame = frame_of(payload, header.raw_length)
            raw = decompress(frame, header.raw_length, dictionary)
        except CodecError as error:
            raise IntegrityError(f"decompression failed: {error}") from None
    if header.hash_id != _UNHASHED:
        digest = _digest(sealed[: header.end], db, name, kind, raw, payload, codec)
        if digest != sealed[header.end : header.payload]:
            raise IntegrityError("the digest does not match")
    return raw


def raw_length(sealed: bytes) -> int:
    """Bytes of the value before compression, as the header claims.  Raises ``IntegrityError``."""
    return _parse(sealed).raw_length


def head_size(sealed: bytes) -> int:
    """Bytes before the payload.  Raises ``IntegrityError``."""
    return _parse(sealed).payload


def dictionary_id(sealed: bytes) -> int:
    """The dictionary that unsealing it takes, as the header claims; 0: none.  Raises ``IntegrityError``."""
    return _parse(sealed).dictionary_id


def payload_size(sealed: bytes) -> int:
    """Bytes of it that are neither header nor digest.  Raises ``IntegrityError``."""
    return len(sealed) - _parse(sealed).payload


def describe(sealed: bytes) -> Description:
    """What the header says, for people.  Raises ``IntegrityError`` where it can't be read."""
    header = _parse(sealed)
    return Description(
        VERSION,
        Codec(header.codec).name.lower(),
        Hash(header.hash_id).name.lower(),
        header.dictionary_id,
        header.raw_length,
        sealed[header.end : header.payload].hex(),
    )


def _parse(sealed: bytes) -> _Header:
    size = len(sealed)
    if size < 3:
        raise IntegrityError(f"truncated: {size} bytes are no sealed value")
    if sealed[0] == POINTER_VERSION:
        raise IntegrityError("its blob is missing or damaged, or its route offloads no more")
    if sealed[0] != VERSION:
        raise IntegrityError(f"format version {sealed[0]} is not known to this release")
    codec = sealed[1] & 0x0F
    if codec > _ZSTD_DICTIONARY_BLOCK:
        raise IntegrityError(f"codec {codec} is not known to this release")
    hash_id = sealed[1] >> 4
    if hash_id != _SHA256 and hash_id != _UNHASHED:
        raise IntegrityError(f"hash {hash_id} is not known to this release")
    end = 2
    dictionary = 0
    if codec >= _ZSTD_DICTIONARY:
        end = _varint_end(sealed, end)
        dictionary = _varint_value(sealed, 2, end)
    start = end
    end = _varint_end(sealed, start)
    raw_length = _varint_value(sealed, start, end)
    payload = end if hash_id == _UNHASHED else end + _DIGEST_SIZE
    if payload > size:
        raise IntegrityError("truncated: the digest is cut")
    return _Header(codec, hash_id, dictionary, raw_length, end, payload)


def _digest(header: bytes, db: int, name: bytes, kind: int, raw: bytes, payload: bytes, codec: int) -> bytes:
    prefix = header + _varint(kind) + _varint(db) + _varint(len(name)) + name
    if len(raw) <= _JOIN_MAX:
        if codec == _NONE:
            return hashlib.sha256(prefix + raw).digest()
        return hashlib.sha256(prefix + raw + payload).digest()
    state = hashlib.sha256(prefix)
    state.update(raw)
    if codec != _NONE:
        state.update(payload)
    return state.digest()


def _varint(number: int) -> bytes:
    if number < 0x80:
        return _BYTES[number]
    if number < 0x4000:
        return _BYTES[number & 0x7F | 0x80] + _BYTES[number >> 7]
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varint_end(sealed: bytes, start: int) -> int:
    """Where the varint at ``start`` ends; raises ``IntegrityError`` unless it is a proper one."""
    position = start
    while position < len(sealed):
        if sealed[position] < 0x80:
            if sealed[position] == 0 and position > start:
                raise IntegrityError("a number in the header is longer than it must be")
            return position + 1
        position += 1
        if position == start + _VARINT_MAX:
            raise IntegrityError("a number in the header is too long")
    raise IntegrityError("truncated: the header is cut")


def _varint_value(sealed: bytes, start: int, end: int) -> int:
    value = 0
    while end > start:
        end -= 1
        value = value << 7 | sealed[end] & 0x7F
    return value


_BYTES: Final = [bytes((n,)) for n in range(256)]
_START: Final = [bytes((VERSION, ids)) for ids in range(256)]
