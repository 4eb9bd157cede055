"""How records lie in a bucket: the names of the objects, their bytes, their metadata, and tokens.

Names
    ``<prefix>`` is empty or ends with a slash.  ``<key>`` is ``<db>:<quoted name>``; a document's db is -1.

    ============================  ==================================================================
    ``<prefix>k/<key>``           a record, or the tombstone of one (see ``s3_writes``)
    ``<prefix>x/<hour>/<key>``    an empty marker: a record that expires in this hour since the epoch
                                  (8 digits, so that a listing is in order of time) was written here
    ``<prefix>q/<write>/<key>``   a damaged record in quarantine; ``<write>`` is its write id in hex
    ``<prefix>p/<random>``        scratch object, while ``open`` tries out what the server can do
    ``<prefix>versions``          the versions of this layout and of the seals in use (``versions``), as
                                  JSON in the payload of a record; without it both are 1
    ============================  ==================================================================

    Letters, digits and ``-._~:@`` of a key's name stand for themselves, any other byte is ``=XX`` in
    upper-case hex.  Not ``%XX``: Amazon advises against percent signs in names, and what decodes a
    URL once too often can't harm a name that has none.  A slash is quoted too: servers collapse
    ``//`` and ``/../``, and on some (MinIO) ``a`` and ``a/b`` can't both exist.  Those allow 255 bytes
    between slashes, so a ``=/`` is put in after every 200 characters.  All of this depends only on
    what stands before, so a prefix of a name is quoted to a prefix of the quoted name.

Objects
    ====================  ===========================================================
    1 byte                version of this layout, 1
    1 byte                kind of the record; left out in a tombstone
    8 bytes, big endian   write id
    the rest              payload: the sealed bytes as they came
    ====================  ===========================================================

    The write id makes the ETag, a digest of these bytes, differ with each write.  A tombstone is thus
    9 bytes long, and a listing is enough to tell it from a record, which has 10 or more.

    The metadata ``x-amz-meta-redtier`` is ``1.<kind>.<write id>.<expire_at>.<raw size>`` in decimal
    (kind, expiry and size 0 in a tombstone), so that HEAD tells all but the value.  In quarantine
    ``@<when it was found>``, a space and the reason follow.

Tokens
    The ETag without its quotes, and ``@<expire_at>`` behind it if the record expires: a commit sees
    without asking the server that the record which it counted on has expired since.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from backends.base import ABSENT, BESIDE, Foreign, Key, KeyTooLong, Quarantined, Record, StoreError, Token

NAME_MAX: Final = 1024  # bytes of an object's name, in S3's documentation
HOUR: Final = 3_600_000  # ms

_SEGMENT: Final = 200  # quoted characters between two slashes
_HOUR_MAX: Final = 99_999_999  # in the year 13377; what expires later stands under this one
_LONGEST_PLACE: Final = len("q/0123456789abcdef/")

_REASON_MAX: Final = 500  # characters; S3 allows 2 KB of metadata

VERSION: Final = 1
_HEAD: Final = struct.Struct(">BBQ")
OVERHEAD: Final = _HEAD.size  # bytes of an object over its payload
_TOMBSTONE: Final = struct.Struct(">BQ")


class Access(NamedTuple):
    """Where the bucket is, and how it is reached.  Empty: as the usual AWS chain says."""

    bucket: str
    endpoint_url: str
    region: str
    access_key: str
    secret_key: str
    ca_bundle: str  # path of a PEM file
    connections: int
    connect_timeout: int  # ms
    timeout: int  # ms without a byte of an answer


class Head(NamedTuple):
    """What a server tells about an object without its bytes."""

    etag: str  # without quotes
    size: int
    meta: str | None  # x-amz-meta-redtier


class Names:
    """The names of the objects of one store."""

    def __init__(self, prefix: str) -> None:
        prefix = prefix.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._key_max = NAME_MAX - len(self._prefix.encode()) - _LONGEST_PLACE
        quoted = self._key_max - len("0:")
        self.key_max = quoted // (_SEGMENT + 2) * _SEGMENT + min(quoted % (_SEGMENT + 2), _SEGMENT)
        """Longest name of a key, bytes, if all of them stand for themselves and the db is one digit."""
        if self.key_max < _SEGMENT:
            raise StoreError(
                f"the prefix {self._prefix[:40]!r}… leaves no room for keys; choose a shorter one"
            )
        self.all_records = f"{self._prefix}k/"
        self.all_markers = f"{self._prefix}x/"
        self.versions = f"{self._prefix}versions"
        self.all_quarantined = f"{self._prefix}q/"

    def record(self, key: Key) -> str:
        """Raises KeyTooLong if a record, its marker or its copy in quarantine could not be named."""
        quoted = _quoted(key.db, key.name)
        if len(quoted) > self._key_max:
            raise KeyTooLong(
                f"a key of {len(key.name)} bytes is too long for S3: it is {len(quoted)} bytes when quoted, "
                f"at most {self._key_max} fit"
            )
        return self.all_records + quoted

    def place(self, key: Key) -> bytes:
        """What follows ``all_records`` in the name of a record: listings are in its order.

        Raises KeyTooLong.
        """
        return self.record(key)[len(self.all_records) :].encode()

    def records(self, db: int, prefix: bytes) -> str:
        """What the names of all records whose key starts with ``prefix`` start with."""
        return self.all_records + _quoted(db, prefix)

    def key(self, record: str) -> Key | None:
        """The key of a record's name; None for an object that is not ours."""
        return _parse_key(record[len(self.all_records) :])

    def marker(self, key: Key, expire_at: int) -> str:
        return f"{self.all_markers}{min(expire_at // HOUR, _HOUR_MAX):08d}/{_quoted(key.db, key.name)}"

    def marked(self, marker: str) -> tuple[int, Key] | None:
        """The hour and the key of a marker's name; None for an object that is not ours."""
        hour, _, quoted = marker[len(self.all_markers) :].partition("/")
        key = _parse_key(quoted)
        if key is None or len(quoted) > self._key_max or len(hour) != 8 or not hour.isdecimal():
            return None
        return int(hour), key

    def quarantined(self, key: Key, write_id: int) -> str:
        return f"{self.all_quarantined}{write_id:016x}/{_quoted(key.db, key.name)}"

    def set_aside(self, quarantined: str) -> Key | None:
        """The key of a name in quarantine; None for an object that is not ours."""
        return _parse_key(quarantined[len(self.all_quarantined) :].partition("/")[2])

    def scratch(self, random: str) -> str:
        return f"{self._prefix}p/{random}"


def _quoted(db: int, name: bytes) -> str:
    text = quote_from_bytes(name, safe=":@").replace("%", "=")
    if len(text) > _SEGMENT:
        text = "=/".join(text[at : at + _SEGMENT] for at in range(0, len(text), _SEGMENT))
    return f"{db}:{text}"


def _parse_key(quoted: str) -> Key | None:
    db, _, text = quoted.partition(":")
    if not (db.isascii() and db.isdecimal()) and db != str(BESIDE):
        return None
    key = Key(int(db), unquote_to_bytes(text.replace("=/", "").replace("=", "%")))
    return key if _quoted(*key) == quoted else None


@dataclass(slots=True, frozen=True)
class Stored:
    """An object under a record's name."""

    head: Head
    record: Record | None  # without its payload; None for a tombstone
    write_id: int

    def live(self, now: int) -> bool:
        return self.record is not None and not 0 < self.record.expire_at <= now

    def token(self, now: int) -> Token:
        """ABSENT unless the record is live."""
        if self.record is None or not self.live(now):
            return ABSENT
        return token(self.head.etag, self.record.expire_at)


def token(etag: str, expire_at: int) -> Token:
    return f"{etag}@{expire_at}" if expire_at else etag


def held_etag(expect: Token, now: int) -> str | None:
    """The ETag that a token stands for; None if it stands for no record, or for one that has expired."""
    etag, _, expire_at = str(expect).partition("@")
    return None if expect == ABSENT or 0 < int(expire_at or 0) <= now else etag


def stored(name: str, head: Head) -> Stored:
    """Raises Foreign."""
    try:
        version, *fields = map(int, (head.meta or "").split("."))
        kind, write_id, expire_at, raw_size = fields
    except ValueError:
        raise Foreign(f"the object {name!r} has no metadata of redtier's; was it copied without?") from None
    if version != VERSION:
        raise Foreign(f"the object {name!r} has layout {version}; this redtier reads {VERSION}")
    if is_tombstone(head.size) and not (kind or expire_at or raw_size):  # else it is a record that was cut
        return Stored(head, None, write_id)
    size = max(0, head.size - _HEAD.size)
    return Stored(head, Record(None, kind, write_id, expire_at, raw_size, size), write_id)


def set_aside(meta: str, now: int, reason: str) -> str:
    """The metadata of a record in quarantine, of its own."""
    note = " ".join(reason.split()).encode("ascii", "backslashreplace").decode()
    return f"{meta}@{now} {note[:_REASON_MAX]}"


def quarantined(name: str, key: Key, head: Head) -> Quarantined:
    """What the metadata tells of a record in quarantine; raises Foreign."""
    meta, _, reason = (head.meta or "").partition(" ")
    own, _, found_at = meta.partition("@")
    record = stored(name, head._replace(meta=own)).record
    if record is None:
        raise Foreign(f"the object {name!r} is no record")
    found = int(found_at) if found_at.isdecimal() else 0
    return Quarantined(key, record.write_id, record.kind, record.stored_size, found, reason)


def is_tombstone(size: int) -> bool:
    return size == _TOMBSTONE.size


def payload(body: bytes) -> bytes:
    return body[_HEAD.size :]


@dataclass(slots=True, frozen=True)
class Content:
    """What a write puts under a name."""

    body: bytes
    meta: str
    write_id: int
    expire_at: int


def content(record: Record) -> Content:
    if record.payload is None:
        raise ValueError("a record without its payload can't be written")
    body = _HEAD.pack(VERSION, record.kind, record.write_id) + record.payload
    meta = f"{VERSION}.{record.kind}.{record.write_id}.{record.expire_at}.{record.raw_size}"
    return Content(body, meta, record.write_id, record.expire_at)


def tombstone(write_id: int) -> Content:
    return Content(_TOMBSTONE.pack(VERSION, write_id), f"{VERSION}.0.{write_id}.0.0", write_id, 0)
