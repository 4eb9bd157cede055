"""Archives: keys of a backend in one portable file, whatever kind of backend they are of or go to.

The file, numbers lowest byte first:

    header
      magic      8 bytes   ``RTARCH`` and the version of this form, 1, in two bytes
      id         16 bytes  random, of this archive
      length     4 bytes   of what follows
      about      JSON: what the archive is of (``About``)
      digest     32 bytes  SHA-256 of all that stands before it
    blocks       each:
      kind       1 byte    RECORDS (1), MARK (2) or END (3)
      count      4 bytes   records in it, 0 in a MARK and an END
      length     4 bytes   of the content
      stored     4 bytes   of the payload
      payload    of RECORDS: the content, as one zstd frame without a magic number (``backends.codecs``);
                 else the content as it is
      digest     32 bytes  SHA-256 of the digest before this one in the file, then of the block, from its kind
                           to its payload

So each digest vouches for all that stands before it, and nothing can be left out, exchanged or taken from
another archive unnoticed.  The content of RECORDS is records, one after the other:

    database 1 byte, kind 1 byte (``proxy.keyspace.Kind``), expiry 8 bytes (ms since the epoch, 0: never),
    length of the key 4 bytes, length of the value 4 bytes, the key, the value as a store would keep it before
    it is sealed (``proxy.datatypes.values``)

A key may come twice; the later record counts.  A MARK is written when all that was read until then stands
before it; its content, as JSON, tells whoever writes the archive how to go on from there.  END is the last
block, and nothing follows it: a file without one is no whole archive.  Its content is the number of records
in the file, and of keys that could not be read when it was written, 8 bytes each.

An archive is written under a temporary name, synced when it is whole, and renamed.  One that was not finished
is taken up again at the last MARK up to which nothing is damaged.

Everything here is blocking: run it in a worker thread.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from backends.codecs import CodecError, compress, decompress

VERSION: Final = 1
RECORDS: Final = 1
MARK: Final = 2
END: Final = 3

BLOCK: Final = 1 << 20
"""Bytes of records after which a block is full; one with a large value is larger."""

_MAGIC: Final = b"RTARCH"
_HEADER: Final = struct.Struct("<6sH16sI")
_BLOCK: Final = struct.Struct("<BIII")
_RECORD: Final = struct.Struct("<BBqII")
_TOTALS: Final = struct.Struct("<QQ")
_DIGEST: Final = 32  # bytes
_CONTENT_MAX: Final = (1 << 32) - 1
_ABOUT_MAX: Final = 1 << 20
_LEVEL: Final = 3


class ArchiveError(Exception):
    """An archive can't be written or used; one line that says why."""


class DamagedArchive(ArchiveError):
    """A file that is not what was written, or not all of it."""


@dataclass(frozen=True)
class About:
    """What an archive is of; nothing of it is needed to restore it."""

    backend: str
    type: str  # of the backend
    match: str  # pattern of the keys
    db: int | None  # None: all databases
    began_at: int  # ms since the epoch

    def same_job(self, other: About) -> bool:
        return (self.backend, self.match, self.db) == (other.backend, other.match, other.db)


class ArchiveRecord(NamedTuple):
    db: int
    name: bytes
    kind: int
    raw: bytes  # the value as a store would keep it before it is sealed
    expire_at: int  # ms since the epoch, 0: never


class Block(NamedTuple):
    """One whole block of a file, whose digest was right."""

    kind: int
    holds: int  # records
    size: int  # bytes of the content
    payload: bytes
    digest: bytes
    end: int  # offset of what follows it

    def content(self) -> bytes:
        """Raises DamagedArchive."""
        if self.kind != RECORDS:
            return self.payload
        try:
            return decompress(self.payload, self.size, None)
        except CodecError as error:  # it was damaged before it had a digest
            raise DamagedArchive(f"the block that ends at byte {self.end:,}: {error}") from None

    def records(self) -> Iterator[ArchiveRecord]:
        """What stands in it.  Raises DamagedArchive."""
        content = self.content() if self.kind == RECORDS else b""
        at = 0
        while at < len(content):
            db, kind, expire_at, name_size, size = _RECORD.unpack_from(content, at)
            at += _RECORD.size
            name = content[at : at + name_size]
            at += name_size
            yield ArchiveRecord(db, name, kind, content[at : at + size], expire_at)
            at += size


class Totals(NamedTuple):
    """What the end of an archive says of it."""

    records: int
    unread: int  # keys that could not be read when it was written


def encode(record: ArchiveRecord) -> bytes:
    """Raises ArchiveError for what is too large."""
    size = _RECORD.size + len(record.name) + len(record.raw)
    if size > _CONTENT_MAX:
        raise ArchiveError(f"a value of {len(record.raw):,} bytes is too large for an archive")
    head = _RECORD.pack(record.db, record.kind, record.expire_at, len(record.name), len(record.raw))
    return head + record.name + record.raw


class ArchiveWriter:
    """Writes the archive ``path``: ``begin``, ``add`` and ``mark`` as often as needed, ``finish``, ``close``.

    What is not finished stays beside it as ``path.partial``, for the next ``begin``.  Raises ArchiveError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.records = 0
        self.size = 0  # bytes of the file
        self.dropped = 0  # bytes of a file taken up again that stood behind its last mark
        self._digest = b""
        self._file: BinaryIO | None = None

    def begin(self, about: About) -> bytes | None:
        """Begin the archive, or take it up where it stood; the last mark's content, or None at its begin."""
        try:
            # Not for others to read.
            descriptor = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o600)
            self._file = os.fdopen(descriptor, "r+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mark = self._take_up(self._file, about)
            if mark is None:
                self._start(self._file, about)
        except BlockingIOError:
            self.close()
            raise ArchiveError(f"{self.partial}: another process is writing it") from None
        except OSError as error:
            self.close()
            raise self._failed(error) from None
        except ArchiveError:
            self.close()
            raise
        return mark

    def add(self, records: Sequence[bytes]) -> None:
        """Encoded records, as one block."""
        content = b"".join(records)
        self._write(RECORDS, len(records), len(content), compress(content, _LEVEL, None))
        self.records += len(records)

    def mark(self, content: bytes) -> None:
        """All that was read until now was added; ``content`` tells how to go on from here."""
        self._write(MARK, 0, len(content), content)
        try:
            self._opened.flush()
        except OSError as error:
            raise self._failed(error) from None

    def finish(self, unread: int) -> None:
        """All keys were added but ``unread``, which could not be read: put the archive in its place."""
        totals = _TOTALS.pack(self.records, unread)
        self._write(END, 0, len(totals), totals)
        file = self._opened
        try:
            file.flush()
            os.fsync(file.fileno())
            if self.path.exists():
                raise ArchiveError(f"{self.path}: is there by now, and is left as it is; see {self.partial}")
            self.partial.rename(self.path)
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _take_up(self, file: BinaryIO, about: About) -> bytes | None:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return None
        try:
            reader = ArchiveReader(self.partial, file)
        except DamagedArchive as damage:  # it may be anything: not ours to throw away
            raise ArchiveError(f"{damage}; remove it to begin anew") from None
        if not reader.about.same_job(about):
            raise ArchiveError(
                f"{self.partial}: is of another backup; remove it, or name another file by --to"
            )
        mark: Block | None = None
        records = at_mark = 0
        try:
            for block in reader.blocks():
                records += block.holds
                if block.kind == MARK:
                    mark, at_mark = block, records
        except DamagedArchive:
            pass  # what stands before a mark is whole
        self.dropped = size - (mark.end if mark is not None else 0)
        if mark is None:
            return None
        file.seek(mark.end)
        file.truncate()
        self._digest, self.size, self.records = mark.digest, mark.end, at_mark
        return mark.content()

    def _start(self, file: BinaryIO, about: About) -> None:
        file.seek(0)
        file.truncate()
        text = json.dumps(asdict(about)).encode()
        header = _HEADER.pack(_MAGIC, VERSION, secrets.token_bytes(16), len(text)) + text
        self._digest = sha256(header).digest()
        file.write(header + self._digest)
        file.flush()
        self.size = len(header) + _DIGEST

    def _write(self, kind: int, count: int, size: int, payload: bytes) -> None:
        head = _BLOCK.pack(kind, count, size, len(payload))
        self._digest = _chained(self._digest, head, payload)
        try:
            self._opened.write(head)
            self._opened.write(payload)
            self._opened.write(self._digest)
        except OSError as error:
            raise self._failed(error) from None
        self.size += len(head) + len(payload) + _DIGEST

    @property
    def _opened(self) -> BinaryIO:
        assert self._file is not None
        return self._file

    def _failed(self, error: OSError) -> ArchiveError:
        return ArchiveError(f"{self.partial}: can't be written: {error.strerror}")


class ArchiveReader:
    """An archive, block by block; each one is verified before it is given.

    ``totals`` is there once all of it was.  The constructor raises ArchiveError.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self.size = os.fstat(file.fileno()).st_size  # bytes
        self.totals: Totals | None = None
        file.seek(0)
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(_MAGIC):
            raise DamagedArchive(f"{path}: does not begin as an archive does")
        _, version, self.id, length = _HEADER.unpack(header)
        if version != VERSION:
            raise ArchiveError(f"{path}: is of form {version}, a later release's: use that")
        text = file.read(min(length, _ABOUT_MAX))
        self._digest = file.read(_DIGEST)
        if self._digest != sha256(header + text).digest():
            raise DamagedArchive(f"{path}: is damaged in its header, at byte 0")
        self.about = About(**json.loads(text))
        self._at = len(header) + len(text) + _DIGEST

    def blocks(self) -> Iterator[Block]:
        """All blocks, to the last.  Raises DamagedArchive."""
        records = 0
        while self.totals is None:
            block = self._next()
            records += block.holds
            if block.kind == END:
                self.totals = Totals(*_TOTALS.unpack(block.payload))
                if self.totals.records != records:
                    raise self._damaged("its end counts other records")
                if block.end != self.size:
                    raise self._damaged("something follows its end")
            yield block

    def _next(self) -> Block:
        left = self.size - self._at
        if not left:
            raise self._damaged("it has no end: it was not finished, or is not all there")
        head = self._file.read(_BLOCK.size)
        if len(head) < _BLOCK.size:
            raise self._damaged("it ends within a block")
        kind, count, size, stored = _BLOCK.unpack(head)
        if _BLOCK.size + stored + _DIGEST > left:
            # Either the length is damaged, or what follows it is not there.
            raise self._damaged("it ends within a block, or the block's length is damaged")
        payload = self._file.read(stored)
        digest = self._file.read(_DIGEST)
        if digest != _chained(self._digest, head, payload):
            raise self._damaged("a block's digest is not that of its bytes")
        self._digest = digest
        self._at += _BLOCK.size + stored + _DIGEST
        return Block(kind, count, size, payload, digest, self._at)

    def _damaged(self, reason: str) -> DamagedArchive:
        return DamagedArchive(f"{self._path}: is damaged at byte {self._at:,}: {reason}")


def _chained(before: bytes, head: bytes, payload: bytes) -> bytes:
    digest = sha256(before)
    digest.update(head)
    digest.update(payload)
    return digest.digest()
