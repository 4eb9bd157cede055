"""A cold store in an S3 bucket: an object a record, named after its key.

``s3_layout`` says how records lie in the bucket, ``s3_writes`` how a write is held to its condition,
``s3_client`` which requests there are.  A load or a commit is one request in the common case.  A
write with an expiry needs a second one, EXPIRE a GET before it, and a condition that does not hold a
HEAD after it.

There is no statement that takes many keys, so a batch is one key, and as many of them are under way
as there are connections: a large or slow object delays nobody.

A listing knows neither kinds nor expiries, so ``scan`` asks HEAD for every key it returns.

Expired records are absent at once, and are removed by ``sweep`` when the hour of their expiry is
over.  It finds them by markers, empty objects that are written before the record.  Each marker is
looked at once: it goes when its record went, or turned out to be overwritten.  Only a marker that is
written while a ``clear`` is under way can be lost before its record arrives; that record, absent when
it has expired, then stays in the bucket until it is overwritten or cleared.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final

from backends.base import (
    ABSENT,
    BESIDE,
    CONFLICT,
    Change,
    Finding,
    Foreign,
    Grade,
    Group,
    Key,
    KeyInfo,
    KeyTooLong,
    Loaded,
    NotAtomic,
    Op,
    Outcome,
    Quarantined,
    Record,
    Store,
    StoreError,
    Token,
    Want,
)
from backends.examining import try_out, usable
from backends.s3_layout import (
    HOUR,
    NAME_MAX,
    OVERHEAD,
    VERSION,
    Access,
    Names,
    content,
    is_tombstone,
    payload,
    quarantined,
    set_aside,
    stored,
    token,
)
from backends.versions import SEALS, Versions
from proxy.clock import Clock

if TYPE_CHECKING:
    from backends.s3_client import Bucket, Listed
    from backends.s3_writes import Writes

_PAGE: Final = 250  # names in a listing: to parse 1,000 would hold up the event loop for 25 ms
_SWEEP_DELAY: Final = 5 * 60_000
"""Milliseconds after its hour before a marker may go: more than clocks differ, and than a write takes
from its marker to its record, so that no marker goes before its record is there."""


class S3Store(Store):
    """Records in ``bucket``, under ``prefix``.

    ``endpoint_url``: empty for Amazon's; ``access_key`` and ``secret_key``: empty for what the usual
    AWS chain finds (environment, ~/.aws, instance role); ``ca_bundle``: path of a PEM file;
    ``connect_timeout`` and ``timeout`` (without a byte of an answer): milliseconds.

    ``single_writer`` promises that no other process writes here, and is required where the server
    does not honour conditional writes.
    """

    def __init__(
        self,
        name: str,
        *,
        bucket: str,
        prefix: str = "",
        endpoint_url: str = "",
        region: str = "",
        access_key: str = "",
        secret_key: str = "",
        ca_bundle: str = "",
        single_writer: bool = False,
        connections: int = 64,
        connect_timeout: int = 5_000,
        timeout: int = 30_000,
        clock: Clock,
    ) -> None:
        self.name = name
        self.type = "s3"
        self.load_max = 1
        self.commit_max = 1
        self.atomic_groups = False
        self.bulk_max = 8 * 1024 * 1024  # each object travels alone, so only memory asks for a bound
        self.concurrency = connections
        self.conditional_puts = False
        """Whether the server honours conditions of a PUT; known after ``open``, like the next."""
        self.conditional_deletes = False
        self._names = Names(prefix)
        self.key_max = self._names.key_max
        self._single_writer = single_writer
        self.shared = not single_writer
        self._clock = clock
        self._access = Access(
            bucket,
            endpoint_url,
            region,
            access_key,
            secret_key,
            ca_bundle,
            connections,
            connect_timeout,
            timeout,
        )
        self._opened: tuple[Bucket, Writes] | None = None

    async def open(self) -> None:
        # What is imported here takes 200 ms of CPU time: in a thread, while the loop goes on serving.
        await asyncio.to_thread(importlib.import_module, "backends.s3_writes")
        from backends.s3_client import Bucket
        from backends.s3_writes import LocallyChecked, ServerChecked, probe

        bucket = Bucket(self.name, self._access)
        await bucket.open()
        try:
            # Of all requests a listing gives the clearest errors.
            await bucket.listing(self._names.all_records, "", 1)
            scratch = self._names.scratch(secrets.token_hex(16))
            self.conditional_puts, self.conditional_deletes = await probe(bucket, scratch)
            if self._single_writer and not (self.conditional_puts and self.conditional_deletes):
                self._opened = bucket, LocallyChecked(bucket, self._clock)
            elif self.conditional_puts:
                self._opened = bucket, ServerChecked(bucket, self._clock, self.conditional_deletes)
            else:
                raise StoreError(
                    f"s3 backend {self.name!r}: the server does not honour conditional writes; set "
                    "single_writer = true if no other process writes to this bucket and prefix"
                )
            await self._bring_up()
        except BaseException:
            self._opened = None
            await bucket.close()
            raise

    async def examine(self) -> list[Finding]:
        await asyncio.to_thread(importlib.import_module, "backends.s3_check")
        from backends.s3_check import examine
        from backends.s3_client import Bucket

        bucket = Bucket(self.name, self._access)
        scratch = self._names.scratch(secrets.token_hex(16))
        try:
            await bucket.open()
            findings = await examine(bucket, self._names.all_records, scratch, self._single_writer)
        except StoreError as error:
            return [Finding(Grade.MISSING, str(error))]
        finally:
            await bucket.close()
        return [*findings, await try_out(self)] if usable(findings) else findings

    async def _bring_up(self) -> None:
        """Record the versions of this release, unless those of a newer one are: then refuse."""
        name, ours = self._names.versions, Versions(VERSION, SEALS)
        written = None
        while written is None:
            head, body = await self._bucket.get(name, None) or (None, None)
            found = Versions(1, 1) if body is None else _versions(name, payload(body))
            found.check(VERSION, f"s3 backend {self.name!r}")
            if head is not None and found == ours:
                return
            text = json.dumps(ours._asdict()).encode()
            new = content(Record(text, 0, secrets.randbelow(2**63 - 1) + 1, 0, len(text), len(text)))
            # None: another proxy was at it.
            written = await self._writes.put(name, new, ABSENT if head is None else token(head.etag, 0))

    async def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened[0].close()

    async def ping(self) -> None:
        await self._bucket.ping()

    async def load(self, keys: Sequence[Key], want: Want) -> list[Loaded]:
        return await asyncio.gather(*(self._load(key, want) for key in keys))

    async def commit(self, groups: Sequence[Group]) -> list[Outcome]:
        return await asyncio.gather(*map(self._commit, groups))

    async def scan(
        self, db: int, prefix: bytes, after: bytes | None, limit: int
    ) -> tuple[list[KeyInfo], bytes | None]:
        keys, more = await self._keys(db, prefix, after, limit)
        infos = await self._bucket.in_background(self._info, [key for key, dead in keys if not dead])
        return [info for info in infos if info is not None], keys[-1][0].name if more else None

    async def names(
        self, db: int, prefix: bytes, after: bytes | None, limit: int
    ) -> tuple[list[bytes], bytes | None]:
        keys, more = await self._keys(db, prefix, after, limit)
        return [key.name for key, _ in keys], keys[-1][0].name if more else None

    async def _keys(
        self, db: int, prefix: bytes, after: bytes | None, limit: int
    ) -> tuple[list[tuple[Key, bool]], bool]:
        """The next keys, each with whether its object has a tombstone's size; whether more come."""
        where = self._names.records(db, prefix)
        start = "" if after is None else self._names.records(db, after)
        async for listed, more in self._pages(where, start, limit):
            keys = [(key, is_tombstone(size)) for name, size in listed if (key := self._names.key(name))]
            if keys or not more:
                return keys, more
        return [], False

    def place(self, key: Key) -> bytes:
        return self._names.place(key)

    async def size(self, db: int, prefix: bytes) -> int:
        count = 0
        async for listed, _ in self._pages(self._names.records(db, prefix)):
            count += sum(
                not is_tombstone(size) and self._names.key(name) is not None for name, size in listed
            )
        due: set[Key] = set()
        async for markers in self._markers(self._clock.ms // HOUR + 1):
            due.update(key for _, key in markers if key.db == db and key.name.startswith(prefix))
        names = map(self._names.record, due)
        expired = await self._bucket.in_background(self._writes.expired, names)
        return count - sum(found is not None for found in expired)

    async def sweep(self, limit: int) -> int:
        removed = 0
        async for markers in self._markers((self._clock.ms - _SWEEP_DELAY) // HOUR, limit):
            markers = markers[: limit - removed]
            records = [self._names.record(key) for _, key in markers]
            removed += sum(await self._bucket.in_background(self._writes.reap, records))
            await self._bucket.delete_many([marker for marker, _ in markers])
            if removed >= limit:
                break
        return removed

    async def clear(self, db: int | None, prefix: bytes) -> int:
        removed = 0
        for place in [self._names.records(db, prefix)] if db is not None else await self._places(prefix):
            async for listed, _ in self._pages(place):
                own = [entry for entry in listed if self._names.key(entry.name) is not None]
                await self._bucket.delete_many([name for name, _ in own])
                removed += sum(not is_tombstone(size) for _, size in own)
        # Markers after records: what stops in between leaves a marker too many, never one too few.
        async for markers in self._markers(None):
            await self._bucket.delete_many(
                [
                    marker
                    for marker, key in markers
                    if (db is None or key.db == db) and key.name.startswith(prefix)
                ]
            )
        return removed

    async def quarantine(self, key: Key, record: Record, reason: str) -> None:
        copy = content(record)
        name = self._names.quarantined(key, record.write_id)
        if await self._bucket.head(name) is None:  # else it was found before
            await self._bucket.put(name, copy.body, set_aside(copy.meta, self._clock.ms, reason))

    async def quarantined(self, after: tuple[Key, int] | None, limit: int) -> list[Quarantined]:
        start = "" if after is None else self._names.quarantined(*after)
        found: list[Quarantined] = []
        async for listed, _ in self._pages(self._names.all_quarantined, start, limit):
            names = [name for name, _ in listed][: limit - len(found)]
            kept = await self._bucket.in_background(self._quarantined, names)
            found += [each for each in kept if each is not None]
            if len(found) >= limit:
                break
        return found

    async def _quarantined(self, name: str) -> Quarantined | None:
        """None for what is no record of ours, or was removed meanwhile."""
        head = await self._bucket.head(name)
        key = self._names.set_aside(name)
        try:
            return None if head is None or key is None else quarantined(name, key, head)
        except Foreign:
            return None

    async def release(self, key: Key, write_id: int) -> bool:
        name = self._names.quarantined(key, write_id)
        if await self._bucket.head(name) is None:
            return False
        await self._bucket.delete(name)
        return True

    async def _load(self, key: Key, want: Want) -> Loaded:
        try:
            name = self._names.record(key)
        except KeyTooLong:
            return Loaded(None, ABSENT)
        body: bytes | None = None
        if want <= Want.META:
            head = await self._bucket.head(name)
        else:
            size_max = None if want is Want.WHOLE else self.bulk_max + OVERHEAD
            head, body = await self._bucket.get(name, size_max) or (None, None)
        if head is None:
            return Loaded(None, ABSENT)
        found = stored(name, head)
        if found.record is None or not found.live(self._clock.ms):
            return Loaded(None, ABSENT)
        record = found.record if body is None else found.record._replace(payload=payload(body))
        return Loaded(record, token(head.etag, record.expire_at))

    async def _commit(self, group: Group) -> Outcome:
        if len(group) != 1:
            return Outcome(None, NotAtomic(f"s3 backend {self.name!r} can't commit several keys as one"))
        try:
            done = await self._apply(group[0])
        except StoreError as error:
            return Outcome(None, error)
        return CONFLICT if done is None else Outcome((done,))

    async def _apply(self, change: Change) -> Token | None:
        """The new token, or None for a conflict."""
        name = self._names.record(change.key)
        match change:
            case Change(Op.PUT, record=Record() as record):
                return await self._put(change, name, record)
            case Change(Op.EXPIRE, record=Record() as record, expect=expect):
                # Not a copy with other metadata: that leaves the ETag as it is, and buries a newer write.
                old, held = await self._load(change.key, Want.WHOLE)
                if old is None or held != expect:
                    return None
                record = old._replace(write_id=record.write_id, expire_at=record.expire_at)
                return await self._put(change, name, record)
            case Change(Op.DELETE):
                return ABSENT if await self._writes.delete(name, change.expect) else None
            case Change(Op.ASSERT, expect=expect):
                found = await self._writes.stored(name)
                held = ABSENT if found is None else found.token(self._clock.ms)
                return held if held == expect else None
        raise ValueError(f"not a change: {change}")

    async def _put(self, change: Change, name: str, record: Record) -> Token | None:
        new = content(record)
        if record.expire_at:
            await self._bucket.put(self._names.marker(change.key, record.expire_at), b"", "")
        etag = await self._writes.put(name, new, change.expect)
        return None if etag is None else token(etag, record.expire_at)

    async def _info(self, key: Key) -> KeyInfo | None:
        try:
            record, _ = await self._load(key, Want.META)
        except Foreign:
            return None
        return None if record is None else KeyInfo(key.name, record.kind, record.expire_at)

    async def _places(self, prefix: bytes) -> list[str]:
        """What the names of all keys' records under ``prefix`` start with, for each database."""
        groups = await self._bucket.groups(self._names.all_records, ":")
        dbs = [self._names.key(group) for group in groups]
        return [self._names.records(db.db, prefix) for db in dbs if db is not None and db.db != BESIDE]

    async def _pages(
        self, where: str, after: str = "", limit: int = _PAGE
    ) -> AsyncIterator[tuple[list[Listed], bool]]:
        """Listings of up to ``limit`` names that start with ``where``; whether more come after each."""
        if len(where) > NAME_MAX:
            return
        more = True
        while more:
            listed, more = await self._bucket.listing(where, after[:NAME_MAX], min(limit, _PAGE))
            yield listed, more
            if listed:
                after = listed[-1].name

    async def _markers(self, before: int | None, limit: int = _PAGE) -> AsyncIterator[list[tuple[str, Key]]]:
        """Names and keys of the markers of all hours before ``before``, by hour."""
        async for listed, _ in self._pages(self._names.all_markers, limit=limit):
            marked = [(name, self._names.marked(name)) for name, _ in listed]
            yield [
                (name, found[1]) for name, found in marked if found and (before is None or found[0] < before)
            ]
            if before is not None and any(found and found[0] >= before for _, found in marked):
                return

    @property
    def _bucket(self) -> Bucket:
        return self._require()[0]

    @property
    def _writes(self) -> Writes:
        return self._require()[1]

    def _require(self) -> tuple[Bucket, Writes]:
        if self._opened is None:
            raise StoreError(f"s3 backend {self.name!r} is not open")
        return self._opened


def _versions(name: str, text: bytes) -> Versions:
    try:
        found = json.loads(text)
        return Versions(found["layout"], found["seal"])
    except (ValueError, TypeError, LookupError):
        raise Foreign(f"the object {name!r} is no redtier's: choose another prefix") from None
