"""What a row holds of a value whose bytes lie elsewhere: a pointer to its blob, and the head of its seal.

Format version 2 of sealed values (``seal`` has the others), byte by byte:

    version         1 byte    0x02
    digest          32 bytes  SHA-256 of the raw value, which names the blob
    generation      8 bytes   which of the blobs of this name, see ``offload``
    head            the rest  a sealed value of version 1 with the codec NONE, up to where its payload starts

So a pointer has at most 84 bytes.  The raw value behind the head is a sealed value again, and is verified
as any other: the head's digest covers the key, the kind and the raw bytes, so a pointer under another key
fails, as does one that leads to another blob.  A pointer by itself can't be unsealed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from backends.seal import POINTER_VERSION, describe, head_size

DIGEST_SIZE: Final = 32
GENERATION_SIZE: Final = 8
POINTER_MAX: Final = 84

_HEAD: Final = 1 + DIGEST_SIZE + GENERATION_SIZE
_VERSION: Final = bytes((POINTER_VERSION,))


class BlobName(NamedTuple):
    """Names one blob, and never another."""

    digest: bytes
    generation: bytes

    def __str__(self) -> str:
        return f"{self.generation.hex()}/{self.digest.hex()}"


class Pointer(NamedTuple):
    blob: BlobName
    head: bytes

    def encode(self) -> bytes:
        return b"".join((_VERSION, *self.blob, self.head))


def parse_pointer(payload: bytes) -> Pointer | None:
    """None if ``payload`` is no pointer."""
    if not payload.startswith(_VERSION) or not _HEAD < len(payload) <= POINTER_MAX:
        return None
    blob = BlobName(payload[1 : 1 + DIGEST_SIZE], payload[1 + DIGEST_SIZE : _HEAD])
    return Pointer(blob, payload[_HEAD:])


def split(sealed: bytes) -> tuple[bytes, memoryview] | None:
    """Head and raw value of a sealed value that is not compressed; None: it is.

    Raises ``IntegrityError`` where the head can't be read.
    """
    if describe(sealed).codec != "none":
        return None
    size = head_size(sealed)
    return sealed[:size], memoryview(sealed)[size:]
