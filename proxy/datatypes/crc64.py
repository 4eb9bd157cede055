"""CRC-64 as at the end of a DUMP: Jones' polynomial, reflected, from 0 and with no final change.

Parameters are those of the Rocksoft model (width 64, poly ad93d23594c935a9, refin, refout).
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

POLYNOMIAL: Final = 0x95AC9329AC4BC9B5  # reflected
LOW: Final = 0xFFFFFFFF


def _table() -> list[int]:
    table: list[int] = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ POLYNOMIAL if crc & 1 else crc >> 1
        table.append(crc)
    return table


# In halves: numbers of 64 bits without a sign are objects even when compiled.
_HIGH: Final[list[int]] = [crc >> 32 for crc in _table()]
_LOW: Final[list[int]] = [crc & LOW for crc in _table()]


def crc64(data: bytes) -> int:
    high: i64 = 0
    low: i64 = 0
    at: i64 = 0
    end: i64 = len(data)
    while at < end:
        index = (low ^ data[at]) & 255
        low = (low >> 8 | (high & 255) << 24) ^ _LOW[index]
        high = high >> 8 ^ _HIGH[index]
        at += 1
    result: int = high
    return result << 32 | int(low)
