"""Ids of a stream's entries: milliseconds and a sequence number, each of 64 bits.

An id is kept as its 16 bytes, the higher ones first: so ids compare as bytes do, and many lie side by side.
"""

from __future__ import annotations

import struct
from typing import Final

from proxy.datatypes.digits import digits

SIZE: Final = 16  # bytes
FIRST: Final = bytes(SIZE)  # 0-0, which no entry has
LAST: Final = b"\xff" * SIZE
SEQ_MAX: Final = 2**64 - 1


_PAIR: Final = struct.Struct(">QQ")


def make(ms: int, seq: int) -> bytes:
    return _PAIR.pack(ms, seq)


def split(id: bytes) -> tuple[int, int]:
    """Its milliseconds and sequence number."""
    ms, seq = _PAIR.unpack(id)
    return ms, seq


def text(id: bytes) -> bytes:
    """As clients see it."""
    ms, seq = split(id)
    return digits(ms) + b"-" + digits(seq)


def after(id: bytes) -> bytes | None:
    """The next larger one."""
    return None if id == LAST else (int.from_bytes(id, "big") + 1).to_bytes(SIZE, "big")


def before(id: bytes) -> bytes | None:
    """The next smaller one."""
    return None if id == FIRST else (int.from_bytes(id, "big") - 1).to_bytes(SIZE, "big")
