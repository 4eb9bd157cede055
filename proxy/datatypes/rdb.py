"""Values as DUMP gives them and RESTORE takes them: Redis' own form, of version 10 as Redis 7.0 writes it.

A byte that tells the type and how it is kept; the value; the version of the form (two bytes, lowest first);
a CRC-64 of all that (eight bytes, lowest first).  What Redis 7.0 writes is read, and what later ones write of
the same types; written is one form of each type, which Redis 7.0 reads.

Lengths, strings and types as in https://rdb.fnordig.de/file_format.html.
"""

from __future__ import annotations

from typing import Final

from proxy.datatypes.crc64 import crc64
from proxy.datatypes.rdbreader import HASH_TIMES, STREAM_1, STREAM_2, STREAM_3, BadFormat, Reader, read_value
from proxy.datatypes.rdbstream import read_stream, write_stream
from proxy.datatypes.rdbwriter import value_bytes
from proxy.datatypes.stream import Stream
from proxy.keyspace import STREAM

VERSION: Final = 10  # which is written
NEWEST: Final = 12  # which is read: Redis 7.4's
FOOTER: Final = 10  # bytes
STREAMS: Final = (STREAM_1, STREAM_2, STREAM_3)

__all__ = ["BadFooter", "BadFormat", "dump", "restore"]


class BadFooter(ValueError):
    """The version is too new, or the checksum another one."""


def dump(kind: int, value: object, now: int) -> bytes:
    """The payload, without what has expired of the value."""
    if isinstance(value, Stream):
        out = bytearray()
        write_stream(out, value)
        payload = bytes(out)
    else:
        payload = value_bytes(kind, value, now)
    # Only later versions know fields that expire: for others it is better to refuse it than to keep them.
    payload += (NEWEST if payload[0] == HASH_TIMES else VERSION).to_bytes(2, "little")
    return payload + crc64(payload).to_bytes(8, "little")


def restore(payload: bytes) -> tuple[int, object]:
    """The kind and the value; raises BadFooter or BadFormat."""
    end = len(payload) - FOOTER
    if end < 0 or int.from_bytes(payload[end : end + 2], "little") > NEWEST:
        raise BadFooter
    if crc64(payload[:-8]) != int.from_bytes(payload[-8:], "little"):
        raise BadFooter
    try:
        reader = Reader(payload[:end])
        if reader.data[0] in STREAMS:
            return STREAM, read_stream(reader, reader.byte())
        return read_value(reader)
    except (ValueError, IndexError, OverflowError) as error:
        raise BadFormat(str(error)) from error
