"""Collections in chunks: sealed and verified piece by piece, so that a change costs what it touches.

Above ``chunk_over`` a collection's record is its *root*: what is likely to be changed next, as it is, and
for all else the id and the digest of each chunk.  The root is sealed as any record, so its digest vouches
for the chunks too; these have no digest of their own.  A chunk is never changed: whoever changes what is in
it stores another, in the same commit as the root that names it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import zstandard

from backends.base import ABSENT, Chunks, Key, Record, Store
from backends.codecs import Dictionaries as ById
from backends.dictionaries import Dictionaries
from backends.seal import IntegrityError, SealPolicy, seal, unseal
from proxy.cells import Cell
from proxy.datatypes.chunking import Chunked, NeedChunks, Shelf
from proxy.datatypes.values import to_record
from proxy.keyspace import CHUNK, CHUNKED
from proxy.lru import Entry

# Bytes of chunks that are loaded, and held sealed, at once.
PORTION: Final = 1 << 20
# Of so many raw bytes together the work is a worker thread's.
LARGE: Final = 64 * 1024


class DamagedChunk(IntegrityError):
    """A chunk is missing, or not what its root says; ``payload`` is what there is of it."""

    def __init__(self, chunk: Shelf, payload: bytes | None, reason: str) -> None:
        super().__init__(f"chunk {chunk.id}: {reason}")
        self.id: int = chunk.id
        self.length: int = chunk.length
        self.payload: bytes | None = payload

    async def keep_aside(self, store: Store, key: Key) -> None:
        """Put it in quarantine.  Raises StoreError."""
        payload = self.payload
        if payload is not None:
            record = Record(payload, CHUNK, self.id, 0, self.length, len(payload))
            await store.quarantine(key, record, str(self))


class Sealed(NamedTuple):
    """A value as it is to be stored."""

    kind: int
    expire_at: int
    payload: bytes  # of the record
    raw: bytes  # what that was made of
    raw_size: int  # bytes of the whole value, its new chunks and its old ones too
    new_size: int  # raw bytes that were sealed
    chunks: Chunks | None


class ToSeal:
    """A changed value, which nobody changes until it is sealed; ``seal`` may run in any thread."""

    def __init__(self, key: Key, entry: Entry, policy: SealPolicy) -> None:
        self.key: Key = key
        self.kind: int = entry.kind
        self.value: object = entry.value
        self.expire_at: int = entry.expire_at
        self.policy: SealPolicy = policy
        self.new: list[Shelf] | None = None  # None: it is not in chunks
        self.gone: list[int] = []
        self.chunk_policy: SealPolicy = policy

    def seal(self) -> Sealed:
        value = self.value
        if self.new is None or not isinstance(value, Chunked):
            stored = to_record(self.kind, value, self.expire_at)
            payload = seal(self.key.db, self.key.name, stored.kind, stored.raw, self.policy)
            size = len(stored.raw)
            return Sealed(stored.kind, stored.expire_at, payload, stored.raw, size, size, None)
        new: list[tuple[int, bytes]] = []
        new_size = 0
        kind = CHUNKED[self.kind]
        for chunk in self.new:
            raw = chunk.raw()
            sealed = seal(self.key.db, self.key.name, CHUNK, raw, self.chunk_policy)
            chunk.digest = _digest(sealed)
            new.append((chunk.id, sealed))
            new_size += len(raw)
        raw = value.pack_root()
        payload = seal(self.key.db, self.key.name, kind, raw, self.policy)
        new_size += len(raw)
        size = len(raw) + value.chunks_size()
        return Sealed(kind, self.expire_at, payload, raw, size, new_size, Chunks(new, self.gone))


def prepare(cell: Cell, entry: Entry, next_id: Callable[[], int]) -> ToSeal:
    """What is to be stored of a cell's new value; to be called where nothing else can change it."""
    policy = cell.policy
    made = ToSeal(cell.key, entry, policy.seal)
    value = entry.value
    if not isinstance(value, Chunked):
        return made
    # Chunks of what is replaced, and not known, would stay: whoever replaces it stores it in one piece.
    known = not cell.blind and not cell.replaced and cell.token != ABSENT
    if not known or not policy.chunk_over or _fits(value, policy.chunk_over):
        if value.chunked:
            value.detach()
        return made
    new = value.divide(policy.chunk_size, next_id)
    if not value.chunked:
        return made
    made.new = new
    made.gone = value.dropped or []
    value.dropped = None
    made.chunk_policy = policy.chunk_seal()
    return made


def _fits(value: Chunked, over: int) -> bool:
    """Whether a value is to be stored in one piece; not to and fro with each change."""
    if not value.chunked:
        return value.size <= over
    if value.size > over // 2:
        return False
    try:
        value.whole()
    except NeedChunks:
        return False
    return True


async def fill(
    key: Key, value: Chunked, chunks: Sequence[Shelf], sealed: Sequence[bytes], dictionaries: Dictionaries
) -> None:
    """Verify chunks as they are stored, and give them to their collection.

    Raises DamagedChunk, and StoreError where a dictionary can't be read.
    """
    by_id: dict[int, zstandard.ZstdCompressionDict] = {}
    for chunk, payload in zip(chunks, sealed, strict=True):
        try:
            by_id |= await dictionaries.of(payload)
        except IntegrityError as damage:
            raise DamagedChunk(chunk, payload, str(damage)) from None
    if sum([chunk.length for chunk in chunks]) < LARGE:
        raws = _unseal(key, chunks, sealed, by_id)
    else:
        raws = await asyncio.get_running_loop().run_in_executor(None, _unseal, key, chunks, sealed, by_id)
    for chunk, payload, raw in zip(chunks, sealed, raws, strict=True):
        try:
            value.fill(chunk, raw)
        except ValueError as error:
            raise DamagedChunk(chunk, payload, str(error)) from None


def _unseal(key: Key, chunks: Sequence[Shelf], sealed: Sequence[bytes], by_id: ById) -> list[bytes]:
    raws: list[bytes] = []
    for chunk, payload in zip(chunks, sealed, strict=True):
        if _digest(payload) != chunk.digest:
            raise DamagedChunk(chunk, payload, "the digest does not match")
        try:
            raws.append(unseal(key.db, key.name, CHUNK, payload, chunk.length, by_id))
        except IntegrityError as damage:
            raise DamagedChunk(chunk, payload, str(damage)) from None
    return raws


def _digest(sealed: bytes) -> bytes:
    """Half of a SHA-256: it tells any two chunks apart, and roots are the smaller for it."""
    return hashlib.sha256(sealed).digest()[:16]


def portions(chunks: Sequence[Shelf]) -> list[list[Shelf]]:
    """Chunks that are to be loaded together."""
    found: list[list[Shelf]] = []
    size = PORTION
    for chunk in chunks:
        if size >= PORTION:
            found.append([])
            size = 0
        found[-1].append(chunk)
        size += chunk.length
    return found
