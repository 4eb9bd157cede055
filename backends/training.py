"""Training a dictionary, and finding out whether it is worth having."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import zstandard

from backends.dictionaries import prepared
from backends.seal import SealPolicy, encode

SAMPLES_MIN: Final = 100
# Of the values, the newest fourth is held out, to be compressed with what was made of the others.
_HELD_OUT: Final = 4
# A dictionary must save this share of the payload's bytes, and a larger one this much over a smaller one.
GAIN_MIN: Final = 0.05
_LARGER_GAIN: Final = 0.02
_SIZES: Final = (16, 4, 1)  # parts of the largest size that are tried
_SIZE_MIN: Final = 1024  # bytes; with less, zstd has no room for its tables


class Candidate(NamedTuple):
    """A dictionary that profits; see ``backends.dictionaries.Trained``."""

    dictionary: bytes
    samples: int
    samples_held: int
    plain: int
    packed: int


def train(samples: Sequence[bytes], policy: SealPolicy, size_max: int) -> Candidate | None:
    """The best dictionary of at most ``size_max`` bytes for values like these, oldest first.

    None, if with none of them the held-out values get smaller than ``policy`` makes them by ``GAIN_MIN``.
    For a thread of its own: it takes a second or so, and lets go of the GIL.
    """
    if len(samples) < SAMPLES_MIN:
        return None
    cut = len(samples) - len(samples) // _HELD_OUT
    held = samples[cut:]
    known: list[bytes | bytearray | memoryview[int]] = list(samples[:cut])
    plain = _packed(held, policy)
    best: Candidate | None = None
    for part in _SIZES:
        try:
            made = zstandard.train_dictionary(max(_SIZE_MIN, size_max // part), known)
        except zstandard.ZstdError:  # too few samples, or too much alike, for one of this size
            continue
        dictionary = made.as_bytes()
        packed = _packed(held, with_dictionary(policy, 1, dictionary))
        if packed < (plain * (1 - GAIN_MIN) if best is None else best.packed * (1 - _LARGER_GAIN)):
            best = Candidate(dictionary, len(known), len(held), plain, packed)
    return best


def with_dictionary(policy: SealPolicy, id: int, dictionary: bytes) -> SealPolicy:
    """The policy, with this dictionary to seal with."""
    ready = prepared(dictionary)
    # Made here once, and not by each thread's compressor for itself.
    ready.precompute_compress(level=policy.level)
    return replace(policy, dictionary_id=id, dictionary=ready)


def _packed(samples: Sequence[bytes], policy: SealPolicy) -> int:
    """Bytes of payload."""
    return sum(len(encode(raw, policy)[1]) for raw in samples)
