"""How a collection is divided into chunks: which of its pieces, that lie side by side, go together."""

from __future__ import annotations

from typing import Final

CHUNKS: Final = 256  # of a collection, about, at most: those of larger ones are larger


def chunk_size(size: int, total: int) -> int:
    """Bytes of a chunk of a collection of ``total`` bytes, where ``size`` was asked for."""
    return max(size, total // CHUNKS)


def plan(lengths: list[int], size: int, first: bool, last: bool) -> list[tuple[int, int]]:
    """Chunks of about ``size`` bytes, of pieces that are in none yet: where each begins and ends.

    ``lengths`` are the bytes of the pieces, ``first`` and ``last`` whether they stand at the collection's
    ends: what is pushed and popped next is left out there.
    """
    # An open end grows from half a chunk to three times that.
    kept = size // 2 if first or last else 0
    left = sum(lengths)
    if left <= 3 * kept or left < size // 4:
        return []
    begin, end, spare = 0, len(lengths), 0
    while spare < kept:
        if last:
            end -= 1
            spare += lengths[end]
        else:
            spare += lengths[begin]
            begin += 1
    found: list[tuple[int, int]] = []
    while begin < end:
        stop, length = begin, 0
        while stop < end and length < size:
            length += lengths[stop]
            stop += 1
        found.append((begin, stop))
        begin = stop
    return found
