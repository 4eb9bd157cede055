"""Longest-prefix lookup: the one rule by which a key finds its route."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class PrefixMap(Generic[T]):
    """Values by key prefix; the longest prefix that fits wins.  The empty prefix is required."""

    def __init__(self, items: Iterable[tuple[bytes, T]]) -> None:
        ordered = sorted(items, key=lambda item: -len(item[0]))
        last, fallback = ordered[-1]
        if last:
            raise ValueError("the empty prefix is required")
        self.fallback: T = fallback
        self.only: T | None = fallback if len(ordered) == 1 else None  # what every key has
        # By first byte, longest first: one key is compared with few prefixes, usually with one.
        self._by_byte: list[list[tuple[bytes, T]]] = [
            [(prefix, value) for prefix, value in ordered if prefix[:1] == bytes([byte])]
            for byte in range(256)
        ]

    def values(self) -> list[T]:
        return [self.fallback, *(value for group in self._by_byte for _, value in group)]

    def find(self, key: bytes) -> T:
        only = self.only
        if only is not None:
            return only
        if key:
            for prefix, value in self._by_byte[key[0]]:
                if key.startswith(prefix):
                    return value
        return self.fallback
