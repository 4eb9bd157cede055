"""A reader of RESP2 and RESP3 replies that shares nothing with the one under test."""

from __future__ import annotations

import re
from typing import Any

AGGREGATES = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}
BLOBS = b"$=!"
INTEGERS = re.compile(rb"(?::-?\d+\r\n)*")
SEVERAL = 100  # elements, from which on integers at the start of an array are looked at in one go


class Incomplete(Exception):
    """The frame goes on beyond the bytes that are there."""


def frame_end(data: bytes | bytearray, at: int = 0) -> int:
    """The place after the frame that begins at ``at``; raises Incomplete, and ValueError for no frame."""
    eol = data.find(b"\r\n", at)
    if eol < 0:
        raise Incomplete
    kind, head = bytes(data[at : at + 1]), bytes(data[at + 1 : eol])
    end = eol + 2
    if kind in AGGREGATES:
        missing = int(head) * AGGREGATES[kind]
        if missing > SEVERAL and (integers := INTEGERS.match(data, end)):
            count = integers[0].count(b":")
            if count <= missing:
                missing -= count
                end = integers.end()
        for _ in range(missing):
            end = frame_end(data, end)
        if kind == b"|":  # an attribute goes before what it is about
            end = frame_end(data, end)
    elif kind in BLOBS and kind:
        if head != b"-1":
            end += int(head) + 2
            if len(data) < end:
                raise Incomplete
            if data[end - 2 : end] != b"\r\n":
                raise ValueError(f"a blob without its line end: {bytes(data[at:end])!r}")
    elif kind not in b"+-:_#,(" or not kind:
        raise ValueError(f"no frame begins with {kind!r}")
    return end


def integer(frame: bytes) -> int | None:
    """The number of an integer reply; ``None`` for any other."""
    return int(frame[1:-2]) if frame.startswith(b":") else None


def decode(frame: bytes) -> Any:
    """A reply as Python values, a map as a flat list; for tests that look into one."""
    value, end = _decode(frame, 0)
    assert end == len(frame)
    return value


def _decode(data: bytes, at: int) -> tuple[Any, int]:
    eol = data.index(b"\r\n", at)
    kind, head, at = data[at : at + 1], data[at + 1 : eol], eol + 2
    if kind == b"$":
        return (None, at) if head == b"-1" else (data[at : at + int(head)], at + int(head) + 2)
    if kind in AGGREGATES:
        items = []
        for _ in range(int(head) * AGGREGATES[kind]):
            item, at = _decode(data, at)
            items.append(item)
        return items, at
    if kind == b":":
        return int(head), at
    return kind + head, at
