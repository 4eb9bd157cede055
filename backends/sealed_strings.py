"""Sealed strings of a Redis: what stands at a key in the place of the value that a client has set.

Others write to that Redis too, so a sealed string is told from any other by how it begins:

    magic   8 bytes   f5, which is in no UTF-8 text, and "redtier"
    seal    the rest  as in ``backends.seal``, of database 0, an empty name, and the kind string

So neither database nor name is covered by the digest, unlike in a store: a Redis gives values other names by
itself (``RENAME``, ``COPY``, ``MOVE``, ``RESTORE``, in a transaction or a script as well), in one step that
could not be had if each value were to be sealed anew.

A value stays as it is where it is shorter than the policy's ``compress_min``, and where Redis itself works on
it: a number (what ``INCRBYFLOAT`` takes, and so whatever ``INCR`` does), or a HyperLogLog.  One that begins
as if it were sealed is always sealed, so that every value comes back byte for byte.

A few flipped bits in the magic do not make a damaged value pass for another's: what comes as near to it as no
text and hardly any random bytes do is taken for sealed, and fails.

All functions are pure and may run in any thread, as those of ``backends.seal``.
"""

from __future__ import annotations

from typing import Final

from backends.codecs import Hash
from backends.seal import Description, IntegrityError, SealPolicy, seal, unseal
from backends.seal import describe as describe_seal
from backends.seal import raw_length as length_of
from proxy.datatypes import hyperloglog, longdouble
from proxy.keyspace import STRING

MAGIC: Final = b"\xf5redtier"
HEAD: Final = 64  # bytes, from the start, in which everything stands that a sealed string says of itself

_MAGIC_NUMBER: Final = int.from_bytes(MAGIC, "big")
_MAGIC_SIZE: Final = len(MAGIC)
# Of 64 random bits, all but so many are the magic's once in 2.7e13 times.
_FLIPPED_MAX: Final = 4
_NUMBERS: Final = b"+-.0123456789iI"  # how they begin


def is_sealed(stored: bytes) -> bool:
    """Whether a string begins as a sealed one does, or as one that is damaged."""
    if stored.startswith(MAGIC):
        return True
    if len(stored) < _MAGIC_SIZE:
        return False
    return (int.from_bytes(stored[:_MAGIC_SIZE], "big") ^ _MAGIC_NUMBER).bit_count() <= _FLIPPED_MAX


def seal_string(raw: bytes, policy: SealPolicy) -> bytes:
    """What is to stand at the key for the value ``raw``; that may be ``raw`` itself."""
    if not is_sealed(raw):
        if len(raw) < policy.compress_min or _is_redis_own(raw):
            return raw
        sealed = MAGIC + seal(0, b"", STRING, raw, policy)
        if policy.hash is Hash.NONE and len(sealed) >= len(raw):
            return raw
        return sealed
    return MAGIC + seal(0, b"", STRING, raw, policy)


def unseal_string(stored: bytes, max_raw: int) -> bytes:
    """The value that a client has set, verified where it was sealed.  Raises ``IntegrityError``."""
    if not is_sealed(stored):
        return stored
    return unseal(0, b"", STRING, _seal_of(stored), max_raw)


def raw_length(stored: bytes) -> int:
    """Bytes of the value that a client has set, as a sealed string claims.  Raises ``IntegrityError``.

    Its first ``HEAD`` bytes are enough.
    """
    return length_of(_seal_of(stored))


def describe(stored: bytes) -> Description:
    """What a sealed string, or its first ``HEAD`` bytes, says of itself.  Raises ``IntegrityError``."""
    return describe_seal(_seal_of(stored))


def _seal_of(stored: bytes) -> bytes:
    if not stored.startswith(MAGIC):
        raise IntegrityError("the mark before the seal is not what it was")
    return stored[_MAGIC_SIZE:]


def _is_redis_own(raw: bytes) -> bool:
    """Whether it is a value that commands of Redis go on from: a number or a HyperLogLog."""
    if raw.startswith(hyperloglog.MAGIC):
        return hyperloglog.is_valid(raw)
    if len(raw) >= longdouble.TEXT_MAX or raw[:1] not in _NUMBERS:
        return False
    try:
        longdouble.parse(raw)
    except ValueError:
        return False
    return True
