"""The journal of a write-back backend: changes on a local disk that are acknowledged and not flushed yet.

A directory with

    id                  names this journal for ever, 32 hexadecimal digits
    lock                held by the process that has the journal open
    NUMBER.journal      segments, 16 decimal digits; a later one has later changes
    set-aside-NUMBER/   segments that were overtaken (see ``writeback``), kept for people to look at

A segment, numbers lowest byte first:

    header, 28 bytes    ``RTJRNL``, the version of this form, 1, in 2 bytes, the segment's number in 8, the
                        epoch of the lease under which it was written in 8, CRC-32 of these 24 bytes in 4
    batches             each: ``RTJB``, the length of its body in 4 bytes, its own offset in the segment in 8,
                        CRC-32 of these 16 bytes and the body in 4; then the body

A body is changes, one after the other.  The groups of a commit are never divided among batches, so a batch
that is whole has all of each group.

    operation           1 byte: 1 PUT, 2 DELETE, 3 CLEAR (all keys that start with the name)
    database            2 bytes, signed; -2 in CLEAR: all but that of documents
    length of the name  4 bytes
    of a PUT:           kind 1 byte, write id 8, expiry 8 (ms since the epoch, 0: never), size of the raw
                        value 8, length of the payload 4
    name, payload

One thread writes: what was appended while it synced the batch before is the next batch.  So there is one
``fdatasync`` for all who wait, and a batch is begun only when the one before it is on the disk.  That tells
a tear from damage when a journal is read: where a batch is not whole and a whole one follows, the first was
on the disk once and is damaged (``JournalError``); where none follows, nobody was told that it was written,
and it is cut off.  Only the very last batch can be damaged without being told from a tear.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple
from zlib import crc32

from backends.base import Key, Record, StoreError

log = logging.getLogger("redtier.journal")

VERSION: Final = 1
PUT: Final = 1
DELETE: Final = 2
CLEAR: Final = 3
EVERY_DB: Final = -2

_HEADER: Final = struct.Struct("<6sHQQ")
_BATCH: Final = struct.Struct("<4sIQ")
_CRC: Final = struct.Struct("<I")
_CHANGE: Final = struct.Struct("<BhI")
_RECORD: Final = struct.Struct("<BQQQI")
_MAGIC: Final = b"RTJRNL"
_MARK: Final = b"RTJB"
HEADER_SIZE: Final = _HEADER.size + _CRC.size
_FRAME: Final = _BATCH.size + _CRC.size
SEGMENTS: Final = 16
"""How many segments a full journal has: so much of it is lost to changes that were overtaken meanwhile."""
LARGE: Final = 256 * 1024  # bytes of a payload that is written by itself
BODY_MAX: Final = (
    1 << 31
)  # bytes of what is appended at once: with what was gathered before, four bytes tell it
GATHERED: Final = 64 << 20  # bytes of what was appended, from which on a batch takes no more


class JournalError(StoreError):
    """The journal can't be used; one line that says why, and what to do."""


class Logged(NamedTuple):
    """One change as it stands in the journal."""

    op: int
    key: Key
    record: Record | None  # of a PUT, complete


def encode(change: Logged) -> list[bytes]:
    """Its bytes, in pieces: a large payload is not copied."""
    (db, name), record = change.key, change.record
    head = _CHANGE.pack(change.op, db, len(name))
    if record is None:
        return [head, name]
    assert record.payload is not None
    size = len(record.payload)
    fields = _RECORD.pack(record.kind, record.write_id, record.expire_at, record.raw_size, size)
    return [head, fields, name, record.payload]


def decode(body: bytes) -> Iterator[Logged]:
    at = 0
    while at < len(body):
        op, db, length = _CHANGE.unpack_from(body, at)
        at += _CHANGE.size
        record = None
        if op == PUT:
            kind, write_id, expire_at, raw_size, size = _RECORD.unpack_from(body, at)
            at += _RECORD.size
            payload = body[at + length : at + length + size]
            record = Record(payload, kind, write_id, expire_at, raw_size, size)
        elif op not in (DELETE, CLEAR):
            raise ValueError(f"operation {op} is not known")
        yield Logged(op, Key(db, body[at : at + length]), record)
        at += length + (0 if record is None else record.stored_size)


def segment_header(number: int, epoch: int) -> bytes:
    head = _HEADER.pack(_MAGIC, VERSION, number, epoch)
    return head + _CRC.pack(crc32(head))


def frame(pieces: list[bytes], offset: int) -> list[bytes]:
    """A batch that stands at ``offset`` of its segment, in few pieces: one, unless it is large."""
    head = _BATCH.pack(_MARK, sum(map(len, pieces)), offset)
    crc = crc32(head)
    for piece in pieces:
        crc = crc32(piece, crc)
    batch = [head, _CRC.pack(crc), *pieces]
    # To copy what is large would hold up the loop: this is done without letting it go on.
    return batch if any(len(piece) > LARGE for piece in pieces) else [b"".join(batch)]


def read_segment(path: Path, last: bool) -> tuple[int, list[bytes], int]:
    """The epoch of a segment, the bodies of its batches, and the bytes that they and the header take.

    What is behind these bytes was torn: only in the ``last`` segment.  Raises JournalError.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JournalError(f"{path} can't be read: {error.strerror}") from None
    bodies: list[bytes] = []
    epoch = 0
    at = 0
    if len(data) >= HEADER_SIZE and _CRC.unpack_from(data, _HEADER.size)[0] == crc32(data[: _HEADER.size]):
        magic, version, _, epoch = _HEADER.unpack_from(data)
        if magic == _MAGIC and version > VERSION:
            raise JournalError(f"{path} is of a later release: use that one, or let it empty the journal")
        at = HEADER_SIZE
        while (body := _batch_at(data, at)) is not None:
            bodies.append(body)
            at += _FRAME + len(body)
    if at < len(data) or not at:
        mark = data.find(_MARK, at)
        while mark >= 0 and _batch_at(data, mark) is None:
            mark = data.find(_MARK, mark + 1)
        if mark >= 0 or not last:
            raise JournalError(
                f"{path} is damaged at byte {at}: put it right from a copy, or move the journal away "
                "to go on without what it holds"
            )
    return epoch, bodies, at


def _batch_at(data: bytes, at: int) -> bytes | None:
    if at + _FRAME > len(data):
        return None
    mark, length, offset = _BATCH.unpack_from(data, at)
    end = at + _FRAME + length
    if mark != _MARK or offset != at or end > len(data):
        return None
    body = data[at + _FRAME : end]
    (crc,) = _CRC.unpack_from(data, at + _BATCH.size)
    return body if crc == crc32(body, crc32(data[at : at + _BATCH.size])) else None


Done = Callable[[int | StoreError], None]
"""Called on the loop with the number of the segment that has the change, once it is on the disk."""


class Journal:
    """The journal in the directory ``path``, which is made if it is not there.

    ``limit``: of bytes, which this only knows for the size of its segments; who appends keeps to it.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self.id = ""
        self.epoch = 0  # of what is written from now on
        self.size = 0  # bytes of all segments
        self.recovered: list[tuple[int, Logged]] = []  # by the last process, with their segments
        self.recovered_epoch = 0
        self.pending = 0  # bytes that were appended and are not on the disk
        self.synced = 0  # fdatasyncs
        self._segments: dict[int, int] = {}  # bytes by number, oldest first
        self._segment_max = max(limit // SEGMENTS, 4096)
        self._broken = ""  # why nothing can be written any more
        self._lock = -1
        # Of the thread:
        self._queue: SimpleQueue[tuple[list[bytes], int, Done] | Callable[[], None]] = SimpleQueue()
        self._worker: threading.Thread | None = None
        self._file = -1
        self._number = 0
        self._at = 0  # bytes of the open segment

    # Before and after the thread: blocking

    @property
    def is_open(self) -> bool:
        return self._lock >= 0

    def open(self) -> None:
        """Take the directory, read what is there, cut off what is torn.  Raises JournalError."""
        self._number = 0
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JournalError(f"the journal {self.path} is in use by another process") from None
            self.id = self._identity()
            self._recover()
        except OSError as error:
            self.close()
            raise JournalError(f"the journal {self.path} can't be used: {error.strerror}") from None
        except JournalError:
            self.close()
            raise

    def _identity(self) -> str:
        file = self.path / "id"
        if file.exists():
            return file.read_text("ascii").strip()
        identity = secrets.token_hex(16)
        beside = self.path / "id.new"
        with beside.open("w") as new:
            new.write(identity)
            new.flush()
            os.fsync(new.fileno())
        beside.replace(file)
        self._sync_directory()
        return identity

    def _recover(self) -> None:
        files = sorted(self.path.glob("*.journal"))
        self._segments.clear()
        self.recovered = []
        for index, file in enumerate(files):
            number, last = int(file.stem), index == len(files) - 1
            if self._number and number != self._number + 1 and index:
                missing = self.path / f"{self._number + 1:016}.journal"
                raise JournalError(f"{missing} is missing, though later ones are there: put it back")
            epoch, bodies, size = read_segment(file, last)
            self._number = number
            torn = file.stat().st_size - size
            if torn and bodies:
                log.warning("%s: cut off %d bytes of a batch that was never acknowledged", file, torn)
                with file.open("r+b") as segment:
                    segment.truncate(size)
                    os.fsync(segment.fileno())
            if not bodies:
                if not last:  # else what came after it would be seen as following a gap
                    self._segments[number] = size
                    continue
                file.unlink()
                self._sync_directory()
                self._number -= 1  # numbers have no gaps
                continue
            self._segments[number] = size
            self.recovered_epoch = epoch
            self.recovered += [(number, change) for body in bodies for change in decode(body)]
        self.size = sum(self._segments.values())

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Be ready to be appended to."""
        self._worker = threading.Thread(target=self._write_all, args=(loop,), name="journal", daemon=True)
        self._worker.start()

    def close(self) -> None:
        """Sync what was appended, and let go of the directory."""
        if self._worker is not None:
            self._queue.put(self._stop)
            self._worker.join()
            self._worker = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _sync_directory(self) -> None:
        directory = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _file_of(self, number: int) -> Path:
        return self.path / f"{number:016}.journal"

    # On the loop

    @property
    def quiet(self) -> bool:
        """Whether it has segments, and nothing is on its way to them."""
        return self.pending == 0 and self.size > 0

    @property
    def latest(self) -> int:
        """The number of the segment that is written to; 0: there is none."""
        return next(reversed(self._segments), 0)

    @property
    def oldest(self) -> int:
        """The number of the oldest segment; 0: there is none."""
        return next(iter(self._segments), 0)

    def append(self, changes: Iterable[Logged], done: Done) -> None:
        """Write changes, all or nothing; ``done`` hears of it in the order of the appends.

        At once where they are too many to be written.
        """
        pieces = [piece for change in changes for piece in encode(change)]
        size = sum(map(len, pieces))
        if size > BODY_MAX:
            done(
                JournalError(
                    f"changes of {size} bytes are too large to be made as one: at most {BODY_MAX} are"
                )
            )
            return
        self.pending += size
        self._queue.put((pieces, size, done))

    async def drop_before(self, number: int | None) -> None:
        """Remove the segments before one, or all (None): what they hold is in the store, or in later ones."""
        await self._in_thread(lambda: self._remove(number))

    async def set_aside(self) -> Path | None:
        """Move all segments to a directory beside them, which is returned if there were any."""
        moved: list[Path] = []
        await self._in_thread(lambda: self._move_away(moved))
        return moved[0] if moved else None

    async def _in_thread(self, work: Callable[[], None]) -> None:
        """Have the thread do something in its turn; raises JournalError."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def run() -> None:
            failed = None
            try:
                work()
            except Exception as error:  # the thread must live
                failed = JournalError(f"the journal {self.path} can't be tidied: {error}")
            loop.call_soon_threadsafe(end, failed)

        def end(failed: JournalError | None) -> None:
            self.size = sum(self._segments.values())
            if ended.done():
                return
            if failed is None:
                ended.set_result(None)
            else:
                ended.set_exception(failed)

        self._queue.put(run)
        await ended

    # In the thread

    def _write_all(self, loop: asyncio.AbstractEventLoop) -> None:
        queue = self._queue
        while True:
            item = queue.get()
            pieces: list[bytes] = []
            size = 0
            dones: list[Done] = []
            work: Callable[[], None] | None = None
            while True:
                if not isinstance(item, tuple):
                    work = item
                    break
                pieces += item[0]
                size += item[1]
                dones.append(item[2])
                if queue.empty() or size >= GATHERED:
                    break
                item = queue.get()
            if dones:
                result = self._write(pieces)
                loop.call_soon_threadsafe(self._written, size, dones, result)
            if work is not None:
                work()
                if work == self._stop:
                    return

    def _written(self, size: int, dones: list[Done], result: int | StoreError) -> None:
        """On the loop."""
        self.pending -= size
        self.size = sum(self._segments.values())
        for done in dones:
            done(result)

    def _write(self, pieces: list[bytes]) -> int | StoreError:
        """Have a batch on the disk: the segment's number."""
        if self._broken:
            return JournalError(self._broken)
        try:
            if self._file < 0 or self._at >= self._segment_max:
                self._begin_segment()
            size = 0
            for piece in frame(pieces, self._at):
                size += len(piece)
                left = memoryview(piece)
                while left:
                    # A statement of its own: compiled, the bounds of a slice are worked out twice.
                    written = os.write(self._file, left)
                    left = left[written:]
        except OSError as error:
            return self._undo(error)
        try:
            os.fdatasync(self._file)
        except OSError as error:
            # What the disk has now, nobody knows, and a second sync that succeeds would not tell either.
            self._broken = f"the journal {self.path} failed: {error.strerror}; check its disk and restart"
            return JournalError(self._broken, unknown=True)
        self.synced += 1
        self._at += size
        self._segments[self._number] = self._at
        return self._number

    def _undo(self, error: OSError) -> JournalError:
        """A batch could not be written, as on a full disk: what there is of it goes."""
        reason = f"the journal {self.path} can't be written: {error.strerror}; make room there"
        try:
            if self._file >= 0:
                os.ftruncate(self._file, self._at)
                os.lseek(self._file, self._at, os.SEEK_SET)
        except OSError:
            self._broken = reason + ", and restart"
        return JournalError(reason)

    def _begin_segment(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        number = self._number + 1
        file = os.open(self._file_of(number), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(file, segment_header(number, self.epoch))
            os.fdatasync(file)
            self._sync_directory()
        except OSError:
            os.close(file)
            raise
        self._file, self._number, self._at = file, number, HEADER_SIZE
        self._segments = {**self._segments, number: HEADER_SIZE}

    def _remove(self, before: int | None) -> None:
        if before is None:
            self._end_segment()
        for number in list(self._segments):
            if before is not None and number >= before:
                break
            self._file_of(number).unlink()
            # One after the other: an older segment without its successors would be replayed as the latest.
            self._sync_directory()
            self._forget(number)

    def _move_away(self, moved: list[Path]) -> None:
        self._end_segment()
        if not self._segments:
            return
        aside = self.path / f"set-aside-{next(iter(self._segments)):016}"
        aside.mkdir(mode=0o700, exist_ok=True)
        for number in sorted(self._segments, reverse=True):  # what is left is still the older part
            self._file_of(number).rename(aside / f"{number:016}.journal")
            self._forget(number)
        self._sync_directory()
        moved.append(aside)

    def _forget(self, number: int) -> None:
        self._segments = {each: size for each, size in self._segments.items() if each != number}

    def _end_segment(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _stop(self) -> None:
        self._end_segment()
