"""A Postgres store whose large values lie as blobs in a bucket.

Above, nobody notices: records come and go as whole sealed values.  Below, the row of a large one holds a
pointer (``pointers``), and its raw value is a blob (``blobs``), shared by all rows that have the same.

Writing
    The blob is *claimed*: named in a table beside the records, where it is safe for a grace period.  It
    is uploaded, unless it is there, which may take no longer than that.  Then the row is committed, and
    in that very transaction a trigger counts it (``postgres_blobs``); one whose blob is not there any
    more is refused, and all of this is done again.  So wherever a writer is killed, no row is without
    its blob, and no object in the bucket is unknown.

Collecting
    What no row has pointed to for the grace period (twice that, if it never had one) is *marked*, after
    which no row can, deleted from the bucket, and only then forgotten.  Whoever is killed in between
    leaves marks, which are taken up after another grace period.  A writer of the same value does not
    wait for any of this: it claims a new *generation*, an object of another name.  No name is used
    twice, so a request to delete that was held up somewhere can't hit what was written since.

Reading
    A load of metadata fetches nothing.  Large values come one by one, as any that are larger than
    ``bulk_max``.  A blob that is missing or damaged leaves the pointer in place of the value, which can't be
    unsealed: the key is damaged, and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from backends.base import CONFLICT, Change, Group, Key, Loaded, Op, Outcome, Record, StoreError, Want
from backends.codecs import Codec, Hash
from backends.encodings import Bytes
from backends.pointers import GENERATION_SIZE, BlobName, Pointer, parse_pointer, split
from backends.postgres import PostgresStore
from backends.postgres_blobs import BLOB_GONE, BlobStatements
from backends.postgres_pool import Refused
from backends.s3_layout import Access
from backends.seal import IntegrityError, SealPolicy, seal, unseal
from proxy.prefixes import PrefixMap

if TYPE_CHECKING:
    from backends.blobs import Blobs

log = logging.getLogger("redtier.offload")

# How often a write is tried whose blob is collected under its hands: the grace period is too short then.
_ATTEMPTS: Final = 5
_COLLECT_MAX: Final = 1000  # blobs of one request to delete


class Place(NamedTuple):
    """Where blobs lie: a bucket, and the prefix of their names."""

    backend: str  # the S3 backend's name
    access: Access
    prefix: str
    cdn_url: str  # serves the bucket's objects by their names; empty: there is none


@dataclass(slots=True)
class BlobCounters:
    """What was done with blobs since the start."""

    blobs_uploaded: int = 0
    blobs_shared: int = 0  # writes whose blob was there already
    blobs_fetched: int = 0  # from the bucket
    blobs_collected: int = 0
    cdn_hits: int = 0  # the CDN had it
    cdn_misses: int = 0  # the CDN had to fetch it
    cdn_fallbacks: int = 0  # the CDN gave nothing, or not the right bytes


class Rule(NamedTuple):
    """Which values of a route are offloaded, and how."""

    over: int  # raw bytes
    encoding: str  # none, gzip, zstd


NEVER: Final = Rule(2**62, "none")


@dataclass(frozen=True)
class Offload:
    """``grace`` is in ms; ``transfers`` are the most blobs that are under way at once."""

    place: Place
    rules: PrefixMap[Rule]
    grace: int
    transfers: int


class _Detached(NamedTuple):
    digest: bytes
    head: bytes
    raw: Bytes


class OffloadingStore(PostgresStore):
    """As ``PostgresStore``, whose options it takes."""

    # Any: the options are checked there.
    def __init__(
        self, name: str, url: str, *, offload: Offload, table: str = "redtier", **options: Any
    ) -> None:
        super().__init__(name, url, table=table, **options)
        self.large_from = min(rule.over for rule in offload.rules.values()) + 1
        self.large_at_once = offload.transfers
        self._offload = offload
        self._blobs: Blobs | None = None
        self._counters = BlobCounters()
        self._blob_sql = BlobStatements(table)

    def figures(self) -> dict[str, int]:
        return {**super().figures(), **asdict(self._counters)}

    async def open(self) -> None:
        await super().open()
        sql = self._blob_sql
        async with self._pool.link() as link:
            if not (await link.fetch(sql.exist, *sql.names))[0][0]:
                await link.run(sql.create)
            needed = [sql.table] * len(sql.rights), sql.rights
            if not (await link.fetch(self._sql.usable, *needed))[0][0]:
                raise self._refusal(
                    f"this user may not use its tables: grant {', '.join(sql.rights)} on {sql.table}"
                )
        if self._blobs is None:
            # What is imported here takes 200 ms of CPU time: in a thread, while the loop goes on serving.
            await asyncio.to_thread(importlib.import_module, "backends.blobs")
            from backends.blobs import Blobs

            blobs = Blobs(self._offload.place, self._offload.transfers, self._counters)
            await blobs.open()
            self._blobs = blobs
        try:
            await self._blobs.ping()
        except StoreError as error:  # which is no reason to refuse keys that have no blobs
            log.warning("%s: large values can't be served now: %s", self.name, error)

    async def close(self) -> None:
        blobs, self._blobs = self._blobs, None
        if blobs is not None:
            await blobs.close()
        await super().close()

    async def load(self, keys: Sequence[Key], want: Want) -> list[Loaded]:
        loaded = await super().load(keys, want)
        if want < Want.VALUE:
            return loaded
        pointing = [index for index, each in enumerate(loaded) if _pointer(each.record) is not None]
        if want is Want.VALUE:
            for index in pointing:
                loaded[index] = _without_payload(loaded[index])
        elif pointing:
            whole = await asyncio.gather(*(self._whole(keys[index], loaded[index]) for index in pointing))
            for index, each in zip(pointing, whole, strict=True):
                loaded[index] = each
        return loaded

    async def stored(self, key: Key) -> Loaded:
        return (await super().load([key], Want.WHOLE))[0]

    async def commit(self, groups: Sequence[Group]) -> list[Outcome]:
        if not any(self._rule(change) for group in groups for change in group):
            return await super().commit(groups)
        outcomes = await self._committed(groups)
        for _ in range(_ATTEMPTS - 1):
            again = [index for index, outcome in enumerate(outcomes) if _blob_gone(outcome)]
            if not again:
                break
            for index, outcome in zip(
                again, await self._committed([groups[index] for index in again]), strict=True
            ):
                outcomes[index] = outcome
        return outcomes

    async def sweep(self, limit: int) -> int:
        count = await super().sweep(limit)
        if count < limit:  # else the next one follows: a bucket that is away holds up no row
            await self._collect()
        return count

    async def url(self, record: Record, seconds: int) -> str | None:
        pointer = _pointer(record)
        return None if pointer is None else await self._opened.url(pointer.blob, seconds)

    @property
    def _opened(self) -> Blobs:
        if self._blobs is None:
            raise StoreError(f"{self.name}: not open")
        return self._blobs

    def _rule(self, change: Change) -> Rule | None:
        """By which a change's value is offloaded, if it is; documents are no route's."""
        record = change.record
        if (
            change.op is not Op.PUT
            or record is None
            or change.chunks is not None
            or record.raw_size < self.large_from
            or change.key.db < 0
        ):
            return None
        rule = self._offload.rules.find(change.key.name)
        return rule if record.raw_size > rule.over else None

    async def _committed(self, groups: Sequence[Group]) -> list[Outcome]:
        """One try: the blobs first, then the rows."""
        pointing = await asyncio.gather(*map(self._with_pointers, groups))
        outcomes = [Outcome(None, each) if isinstance(each, StoreError) else CONFLICT for each in pointing]
        sent = {index: each for index, each in enumerate(pointing) if not isinstance(each, StoreError)}
        if sent:
            try:
                settled = await super().commit(list(sent.values()))
            except StoreError as error:
                settled = [Outcome(None, error)] * len(sent)
            for index, outcome in zip(sent, settled, strict=True):
                outcomes[index] = outcome
        return outcomes

    async def _with_pointers(self, group: Group) -> Group | StoreError:
        """The group with pointers in place of large values, whose blobs are in the bucket."""
        try:
            return [await self.prepare(change) for change in group]
        except StoreError as error:
            # Nothing of the group was sent to the database, whatever became of the upload.
            return StoreError(str(error))

    async def prepare(self, change: Change) -> Change:
        """The change with a pointer in place of a large value, whose blob is in the bucket."""
        rule, record = self._rule(change), change.record
        if rule is None or record is None or record.payload is None:
            return change
        parts = await asyncio.to_thread(_detach, change.key, record, record.payload)
        if parts is None:
            return change
        try:
            # What comes later may have been given up by then, and would be nobody's.
            async with asyncio.timeout(self._offload.grace / 1000):
                blob = await self._placed(parts, rule.encoding)
        except TimeoutError:
            raise StoreError(f"{self.name}: an upload took longer than grace in offload: raise it") from None
        pointer = Pointer(blob, parts.head).encode()
        return change._replace(record=record._replace(payload=pointer, stored_size=len(pointer)))

    async def _placed(self, parts: _Detached, encoding: str) -> BlobName:
        """The blob of a value, which is in the bucket and safe for the grace period."""
        fresh = secrets.token_bytes(GENERATION_SIZE)
        [(generation, ready)] = await self._fetch(self._blob_sql.claim, parts.digest, fresh)
        blob = BlobName(parts.digest, generation)
        if ready:
            self._counters.blobs_shared += 1
        else:
            await self._opened.put(blob, parts.raw, encoding)
        return blob

    async def _whole(self, key: Key, loaded: Loaded) -> Loaded:
        """A record with its blob, which is the sealed value; with its pointer, where the blob is no good."""
        from backends.blobs import DamagedError

        while (record := loaded.record) is not None and (pointer := _pointer(record)) is not None:
            try:
                sealed = await self._opened.get(pointer.blob, pointer.head, record.raw_size)
            except DamagedError as damage:
                again = await self.stored(key)
                if again.token == loaded.token:
                    log.error("%s: the blob %s of %r: %s", self.name, pointer.blob, key.name, damage)
                    # Whoever writes this value anew uploads it anew, which mends it for all who share it.
                    await self._fetch(self._blob_sql.doubt, *pointer.blob)
                    return loaded
                loaded = again  # it was overwritten, and its blob collected
            else:
                return Loaded(record._replace(payload=sealed, stored_size=len(sealed)), loaded.token)
        return loaded

    async def _collect(self) -> None:
        """Remove the blobs that nothing points to."""
        blobs = self._opened
        while True:
            rows = await self._fetch(self._blob_sql.mark, self._offload.grace, _COLLECT_MAX)
            marked = [BlobName(*row) for row in rows]
            if marked:
                await blobs.delete(marked)
                await self._fetch(self._blob_sql.remove, *map(list, zip(*marked, strict=True)))
                self._counters.blobs_collected += len(marked)
            if len(marked) < _COLLECT_MAX:
                return


def _pointer(record: Record | None) -> Pointer | None:
    return None if record is None or record.payload is None else parse_pointer(record.payload)


def _without_payload(loaded: Loaded) -> Loaded:
    record = loaded.record
    assert record is not None
    return Loaded(record._replace(payload=None), loaded.token)


def _blob_gone(outcome: Outcome) -> bool:
    return isinstance(outcome.error, Refused) and outcome.error.sqlstate == BLOB_GONE


def _detach(key: Key, record: Record, sealed: bytes) -> _Detached | None:
    """None for what can't be read, which is then kept as it came."""
    try:
        parts = split(sealed)
        if parts is None:
            raw = unseal(key.db, key.name, record.kind, sealed, record.raw_size)
            hashed = Hash.SHA256 if sealed[1] >> 4 else Hash.NONE
            parts = split(seal(key.db, key.name, record.kind, raw, SealPolicy(Codec.NONE, hash=hashed)))
    except IntegrityError:
        return None
    assert parts is not None
    head, raw_bytes = parts
    return _Detached(hashlib.sha256(raw_bytes).digest(), head, raw_bytes)
