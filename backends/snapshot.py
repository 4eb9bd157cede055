"""Snapshots: the keys of a memory backend in one file, for its next start.

The file, numbers lowest byte first:

    magic           8 bytes   ``RTSNAP`` and the version of this form, 1, in two bytes
    id              16 bytes  random, of this snapshot
    blocks          each: its length in 4 bytes, then a sealed value (``backends.seal``)

A block is sealed under the snapshot's id and its own number (the name: the id, then the number in 8 bytes;
the database: 0), so that none can be left out, exchanged or taken from another snapshot.  Its kind is RECORDS
or END.  The raw bytes of END, the last block, are the number of all records in 8 bytes.  Those of RECORDS are
records, one after the other:

    database 1 byte, kind 1 byte, expiry 8 bytes (ms since the epoch, 0: never), last use 8 bytes (the same),
    length of the key 4 bytes, length of the value 8 bytes, the key, the value as a store would keep it
    (``proxy.datatypes.values``)

A file is written beside the one before, synced, and put in its place by renaming.  All of it is verified
before anything of it is used.

Everything here is blocking: run it in a worker thread.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from backends.codecs import Codec, Hash
from backends.seal import IntegrityError, SealPolicy, seal, unseal

VERSION: Final = 1
RECORDS: Final = 1
END: Final = 2

_MAGIC: Final = b"RTSNAP"
_HEADER: Final = struct.Struct("<6sH16s")
_LENGTH: Final = struct.Struct("<I")
_RECORD: Final = struct.Struct("<BBqqIQ")
_COUNT: Final = struct.Struct("<Q")
_POLICY: Final = SealPolicy(Codec.ZSTD, 1, 64, Hash.SHA256)
BLOCK: Final = 256 * 1024
"""Bytes of records after which a block is full; one with a large value is larger."""
_BLOCK_MAX: Final = 1 << 32


class SnapshotError(Exception):
    """A snapshot can't be written or read; one line that says why."""


class DamagedSnapshot(SnapshotError):
    """A file that is not what was written."""


class SnapshotRecord(NamedTuple):
    db: int
    name: bytes
    kind: int
    raw: bytes  # the value as a store would keep it
    expire_at: int  # ms since the epoch, 0: never
    used_at: int  # ms since the epoch


def encode(record: SnapshotRecord) -> bytes:
    head = _RECORD.pack(
        record.db, record.kind, record.expire_at, record.used_at, len(record.name), len(record.raw)
    )
    return head + record.name + record.raw


class SnapshotWriter:
    """Writes one snapshot: ``begin``, ``add`` any number of times, then ``finish``; or ``abandon``.

    Each raises SnapshotError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(f"{path.name}.new")
        self._id = secrets.token_bytes(16)
        self._blocks = 0
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        try:
            # Not for others to read.
            descriptor = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._file = os.fdopen(descriptor, "wb")
            self._file.write(_HEADER.pack(_MAGIC, VERSION, self._id))
        except OSError as error:
            raise self._failed(error) from None

    def add(self, records: bytes) -> None:
        """A block of encoded records."""
        self._write(RECORDS, records)

    def finish(self, count: int) -> int:
        """All ``count`` records were added; the bytes of the file, which is in its place now."""
        self._write(END, _COUNT.pack(count))
        assert self._file is not None
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            size = self._file.tell()
            self._file.close()
            self._beside.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise self._failed(error) from None
        return size

    def abandon(self) -> None:
        if self._file is not None:
            self._file.close()
            self._beside.unlink(missing_ok=True)

    def _write(self, kind: int, raw: bytes) -> None:
        assert self._file is not None
        sealed = seal(0, _name(self._id, self._blocks), kind, raw, _POLICY)
        if len(sealed) >= _BLOCK_MAX:
            raise SnapshotError(f"{self._path}: a value of {len(raw)} bytes is too large for a snapshot")
        self._blocks += 1
        try:
            self._file.write(_LENGTH.pack(len(sealed)))
            self._file.write(sealed)
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> SnapshotError:
        return SnapshotError(f"the snapshot {self._path} can't be written: {error.strerror}")


def verify(path: Path) -> bool:
    """Whether there is a snapshot, of which all is as it was written.

    Raises DamagedSnapshot, or SnapshotError where it can't be read or is of a later version.
    """
    try:
        with path.open("rb") as file:
            for _ in _blocks(path, file):
                pass
        return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SnapshotError(f"the snapshot {path} can't be read: {error.strerror}") from None


def read(path: Path) -> Iterator[bytes]:
    """The blocks of records of a snapshot that was verified."""
    with path.open("rb") as file:
        yield from _blocks(path, file)


def records(block: bytes) -> Iterator[SnapshotRecord]:
    """What stands in a block."""
    at = 0
    while at < len(block):
        db, kind, expire_at, used_at, name_size, size = _RECORD.unpack_from(block, at)
        at += _RECORD.size
        name = block[at : at + name_size]
        at += name_size
        yield SnapshotRecord(db, name, kind, block[at : at + size], expire_at, used_at)
        at += size


def set_aside(path: Path, moment: int) -> Path:
    """Rename a damaged snapshot, so that the next one does not take its place; its new name."""
    aside = path.with_name(f"{path.name}.damaged-{moment}")
    path.rename(aside)
    return aside


def _blocks(path: Path, file: BinaryIO) -> Iterator[bytes]:
    header = file.read(_HEADER.size)
    magic, version, id = _HEADER.unpack(header) if len(header) == _HEADER.size else (b"", 0, b"")
    if magic != _MAGIC:
        raise DamagedSnapshot("it does not begin as a snapshot does")
    if version != VERSION:
        raise SnapshotError(f"the snapshot {path} is of a later release: use that, or move the file away")
    left = os.fstat(file.fileno()).st_size - len(header)
    number = count = 0
    while True:
        length = file.read(_LENGTH.size)
        left -= _LENGTH.size
        size = _LENGTH.unpack(length)[0] if len(length) == _LENGTH.size else left + 1
        if size > left:
            raise DamagedSnapshot(f"it ends within block {number}")
        left -= size
        kind, raw = _unseal(file.read(size), _name(id, number), number)
        if kind == END:
            if left or _COUNT.unpack(raw)[0] != count:
                raise DamagedSnapshot("there are more or fewer records than were written")
            return
        count += sum(1 for _ in records(raw))
        number += 1
        yield raw


def _unseal(sealed: bytes, name: bytes, number: int) -> tuple[int, bytes]:
    for kind in (RECORDS, END):
        try:
            return kind, unseal(0, name, kind, sealed, _BLOCK_MAX)
        except IntegrityError as damage:
            reason = str(damage)
    raise DamagedSnapshot(f"block {number}: {reason}")


def _name(id: bytes, number: int) -> bytes:
    return id + _COUNT.pack(number)
