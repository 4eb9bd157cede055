"""The longest common subsequence of two byte strings.

A row of the classic table grows by at most one from column to column, so a bit for each column holds
it, and Python's integers compute a whole row at once (Hyyrö, "Bit-parallel LCS-length computation
revisited", 2004).  Among subsequences of equal length it finds the one that Redis finds.
"""

from __future__ import annotations


class Run:
    """``size`` bytes from ``at_a`` and from ``at_b`` that match."""

    def __init__(self, at_a: int, at_b: int, size: int) -> None:
        self.at_a: int = at_a
        self.at_b: int = at_b
        self.size: int = size


def _rows(a: bytes, b: bytes, keep: bool) -> list[int]:
    """For each prefix of ``a`` (or only the last), the columns at which its row does not grow, as bits."""
    full = (1 << len(b)) - 1
    backwards = b[::-1]
    marks: dict[int, int] = {}
    for byte in set(a):
        ones = bytearray(b"0" * 256)
        ones[byte] = 49
        marks[byte] = int(backwards.translate(ones), 2)
    row = full
    rows: list[int] = []
    for byte in a:
        matched = row & marks[byte]
        row = ((row + matched) | (row - matched)) & full
        if keep:
            rows.append(row)
    return rows if keep else [row]


def length(a: bytes, b: bytes) -> int:
    """How many bytes the longest common subsequence has; O(len(a) * len(b) / 64)."""
    if not a or not b:
        return 0
    return len(b) - _rows(a, b, False)[0].bit_count()


def runs(a: bytes, b: bytes) -> list[Run]:
    """The runs of bytes that make up the longest common subsequence, the last one first."""
    found: list[Run] = []
    if not a or not b:
        return found
    width = (len(b) + 7) // 8
    rows = [row.to_bytes(width, "little") for row in _rows(a, b, True)]
    i = len(a) - 1
    j = len(b) - 1
    while i >= 0 and j >= 0:
        if a[i] == b[j]:
            if found and found[-1].at_a == i + 1 and found[-1].at_b == j + 1:
                last = found[-1]
                last.at_a = i
                last.at_b = j
                last.size += 1
            else:
                found.append(Run(i, j, 1))
            i -= 1
            j -= 1
        elif rows[i][j >> 3] >> (j & 7) & 1:
            j -= 1
        else:
            i -= 1
    return found
