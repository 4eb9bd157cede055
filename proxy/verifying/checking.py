"""Whether a record is what was written: what it says of itself, its digest, and that its value decodes."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from backends.base import Key, Record, Want
from backends.codecs import Dictionaries as ById
from backends.codecs import Hash
from backends.dictionaries import Dictionaries
from backends.seal import IntegrityError, describe, raw_length, unseal
from proxy.chunks import DamagedChunk, fill, portions
from proxy.datatypes.chunking import Chunked
from proxy.datatypes.values import UnknownKind, from_record
from proxy.keyspace import KIND_NAMES, UNCHUNKED

SOUND: Final = "sound"
DAMAGED: Final = "damaged"
UNHASHED: Final = "unhashed"  # nothing contradicts itself, but there is no digest that would show the rest
OUTDATED: Final = "outdated"  # it was changed, or removed, while it was looked at
UNKNOWN: Final = "unknown"  # this release can't read it: of a later one, or of somebody else

# From this size on (bytes, stored or raw) a record is looked at in a worker thread.
LARGE: Final = 64 * 1024


class Verdict(NamedTuple):
    state: str  # SOUND, DAMAGED, UNHASHED, OUTDATED or UNKNOWN
    reason: str = ""  # one line, where it is DAMAGED or UNKNOWN


def raw_of(key: Key, record: Record, dictionaries: ById) -> bytes:
    """The raw bytes of a record with its payload, verified; raises IntegrityError.

    The one place where records are unsealed to be verified.  No more is decompressed than the record and
    its seal both say.
    """
    payload = record.payload
    assert payload is not None
    claimed = raw_length(payload)
    if claimed != record.raw_size:
        raise IntegrityError(f"the seal says {claimed} raw bytes, the record {record.raw_size}")
    return unseal(key.db, key.name, record.kind, payload, claimed, dictionaries)


def check(key: Key, record: Record, dictionaries: ById) -> Verdict:
    """What is to be said of a record with its payload."""
    try:
        raw = raw_of(key, record, dictionaries)
    except IntegrityError as damage:
        return Verdict(DAMAGED, str(damage))
    try:
        from_record(record.kind, raw, record.expire_at)
    except UnknownKind as error:
        return Verdict(UNKNOWN, str(error))
    except Exception as error:  # whatever a decoder stumbles over
        return Verdict(DAMAGED, _misread(record, error))
    assert record.payload is not None
    return _sound(record.payload)


def _sound(sealed: bytes) -> Verdict:
    return Verdict(UNHASHED if describe(sealed).hash == Hash.NONE.name.lower() else SOUND)


def _root_of(key: Key, record: Record, by_id: ById) -> Chunked:
    """A collection without its chunks; raises IntegrityError."""
    payload = record.payload
    assert payload is not None
    raw = unseal(key.db, key.name, record.kind, payload, record.raw_size, by_id)
    try:
        value = from_record(record.kind, raw, record.expire_at)[1]
    except Exception as error:  # whatever a decoder stumbles over
        raise IntegrityError(_misread(record, error)) from None
    assert isinstance(value, Chunked)
    size = len(raw) + value.chunks_size()
    if size != record.raw_size:
        raise IntegrityError(f"root and chunks have {size} raw bytes, the record {record.raw_size}")
    return value


def _misread(record: Record, error: Exception) -> str:
    return f"it is no {KIND_NAMES[record.kind]}: {' '.join(str(error).split())}"


async def checked(key: Key, record: Record, dictionaries: Dictionaries) -> Verdict:
    """As ``check``, without holding the loop for long; ``dictionaries`` are the record's store's.

    Raises StoreError where the one that it takes can't be read.
    """
    assert record.payload is not None
    try:
        by_id = await dictionaries.of(record.payload)
    except IntegrityError as damage:
        return Verdict(DAMAGED, str(damage))
    if record.kind in UNCHUNKED:
        return await _checked_chunks(key, record, by_id, dictionaries)
    if max(record.stored_size, record.raw_size) < LARGE:
        return check(key, record, by_id)
    return await asyncio.get_running_loop().run_in_executor(None, check, key, record, by_id)


async def _checked_chunks(key: Key, record: Record, by_id: ById, dictionaries: Dictionaries) -> Verdict:
    """The same for a root and all of its chunks."""
    store = dictionaries.store
    try:
        value = _root_of(key, record, by_id)
        while missing := value.missing():  # and what is within these
            chunks = portions(missing)[0]
            wanted = [(key, chunk.id) for chunk in chunks]
            sealed: list[bytes] = []
            for chunk, payload in zip(chunks, await store.load_chunks(wanted), strict=True):
                if payload is None:
                    [loaded] = await store.load([key], Want.META)
                    if loaded.record is None or loaded.record.write_id != record.write_id:
                        return Verdict(OUTDATED)
                    raise DamagedChunk(chunk, None, "it is missing")
                sealed.append(payload)
            await fill(key, value, chunks, sealed, dictionaries)
    except DamagedChunk as damage:
        await damage.keep_aside(store, key)
        return Verdict(DAMAGED, str(damage))
    except IntegrityError as damage:
        return Verdict(DAMAGED, str(damage))
    assert record.payload is not None
    return _sound(record.payload)
