"""How a write to S3 is held to its condition, on servers that can do more or less.

What a server can do is tried out (``probe``), since servers that don't know a condition may just
ignore it.  There are three kinds:

``conditional_puts`` and ``conditional_deletes`` (Amazon, moto)
    Every condition is the server's to check, with ``If-Match`` and ``If-None-Match``.

``conditional_puts`` only (MinIO, which ignores ``If-Match`` on DELETE)
    A record is deleted on a condition by a conditional PUT of a *tombstone*: 9 bytes that count as
    absence.  A later write replaces it, on condition of its ETag.  Nobody ever removes a tombstone,
    though it is not needed any more: between the look at it and an unconditional DELETE another
    proxy can have put a record in its place, and a DELETE that is late by any time would take that
    record with it.  No waiting and no second mark cures this, since a plain SET looks at nothing
    before it writes.  For the same reason expired records become tombstones.  What a client deletes
    without a condition, or flushes, is removed for good: there the DELETE is what was asked for.

neither, or one of them not, with ``single_writer``
    Conditions are checked here, by HEAD, before the write.  That is sound as long as this process is
    the only writer, and the tier never has two commits of one key under way; sweeps keep out of the
    way of commits by a lock on the key's name.

If an acknowledgement is lost, the write id in the metadata tells whether the write happened.  If it
did not, it may still do so: a request can be late.  So a write that has an ETag as its condition is
sent once more.  At most one of the two can take effect, since the first to do so changes the ETag
for good, and the answer to the second makes certain what became of them.  For all other writes a
second one could undo what another client did in between: they are reported as ``unknown``.
"""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from backends.base import ABSENT, Foreign, StoreError, Token
from backends.s3_client import Bucket, RefusedError, UnsupportedError
from backends.s3_layout import Content, Stored, held_etag, stored, tombstone
from proxy.clock import Clock

_Result = TypeVar("_Result")

_NO_ETAG: Final = "0" * 32


async def probe(bucket: Bucket, name: str) -> tuple[bool, bool]:
    """Whether the server honours conditional puts and conditional deletes; ``name`` is for scratch.

    Raises StoreError if the bucket can't be written at all.
    """

    async def refuses(write: Awaitable[object]) -> bool:
        try:
            await write
        except RefusedError:
            return True
        except UnsupportedError:
            pass
        return False

    await bucket.put(name, b"", "")
    try:
        puts = await refuses(bucket.put(name, b"", "", new=True))
        puts = puts and await refuses(bucket.put(name, b"", "", match=_NO_ETAG))
        return puts, await refuses(bucket.delete(name, match=_NO_ETAG))
    finally:
        await bucket.delete(name)


class Writes(ABC):
    """Writes under the names of records.  ``expect`` is a token, or None for a write without condition."""

    def __init__(self, bucket: Bucket, clock: Clock) -> None:
        self._bucket = bucket
        self._clock = clock

    @abstractmethod
    async def put(self, name: str, content: Content, expect: Token | None) -> str | None:
        """Returns the new ETag, or None if the condition did not hold and nothing was written."""

    @abstractmethod
    async def delete(self, name: str, expect: Token | None) -> bool:
        """Returns False if the condition did not hold and nothing was deleted."""

    @abstractmethod
    async def reap(self, name: str) -> bool:
        """Delete the record if it has expired; returns whether it was.  Leaves foreign objects alone."""

    async def stored(self, name: str) -> Stored | None:
        """What stands under ``name``, live or not."""
        head = await self._bucket.head(name)
        return None if head is None else stored(name, head)

    async def expired(self, name: str) -> Stored | None:
        """What stands under ``name``, if it is a record that has expired."""
        try:
            found = await self.stored(name)
        except Foreign:
            return None
        return found if found and found.record and not found.live(self._clock.ms) else None

    async def _put_blindly(self, name: str, content: Content) -> str:
        try:
            return await self._bucket.put(name, content.body, content.meta)
        except StoreError as lost:
            return await self._settled(name, content, lost)

    async def _delete_blindly(self, name: str) -> None:
        try:
            await self._bucket.delete(name)
        except StoreError as lost:
            if not lost.unknown or await _or_raise(lost, self.stored(name)) is not None:
                raise

    async def _settled(self, name: str, content: Content, lost: StoreError) -> str:
        """The ETag of a write whose acknowledgement was lost, if it is seen to have happened; else raises."""
        if lost.unknown:
            found = await _or_raise(lost, self.stored(name))
            if found is not None and found.write_id == content.write_id:
                return found.head.etag
        raise lost


class ServerChecked(Writes):
    """The server honours conditional puts, and conditional deletes or not."""

    def __init__(self, bucket: Bucket, clock: Clock, conditional_deletes: bool) -> None:
        super().__init__(bucket, clock)
        self._conditional_deletes = conditional_deletes

    async def put(self, name: str, content: Content, expect: Token | None) -> str | None:
        if expect is None:
            return await self._put_blindly(name, content)
        if expect == ABSENT:
            return await self._create(name, content)
        etag = held_etag(expect, self._clock.ms)
        return None if etag is None else await self._replace(name, content, etag)

    async def delete(self, name: str, expect: Token | None) -> bool:
        if expect is None:
            await self._delete_blindly(name)
            return True
        if expect == ABSENT:
            found = await self.stored(name)
            return found is None or not found.live(self._clock.ms)
        etag = held_etag(expect, self._clock.ms)
        return etag is not None and await self._remove(name, etag)

    async def reap(self, name: str) -> bool:
        expired = await self.expired(name)
        return expired is not None and await self._remove(name, expired.head.etag)

    async def _create(self, name: str, content: Content) -> str | None:
        """Put a record where there is none; one that has expired, and a tombstone, count as none."""
        try:
            return await self._bucket.put(name, content.body, content.meta, new=True)
        except StoreError as lost:
            return await self._settled(name, content, lost)
        except RefusedError:
            found = await self.stored(name)
        if found is not None and found.write_id == content.write_id:
            return found.head.etag
        if found is None or found.live(self._clock.ms):
            return None
        return await self._replace(name, content, found.head.etag)

    async def _replace(self, name: str, content: Content, etag: str) -> str | None:
        lost: StoreError | None = None
        while True:
            try:
                return await self._bucket.put(name, content.body, content.meta, match=etag)
            except RefusedError:
                break
            except StoreError as error:
                if lost is not None or not error.unknown:
                    raise lost or error from None
                lost = error
        # What refuses may be this very write: sent before, by us or by a balancer that repeats a PUT.
        found = await (_or_raise(lost, self.stored(name)) if lost else self.stored(name))
        if found is not None and found.write_id == content.write_id:
            return found.head.etag
        if lost is not None:
            raise lost  # it may have happened, and have been overwritten since
        return None

    async def _remove(self, name: str, etag: str) -> bool:
        if not self._conditional_deletes:
            return await self._replace(name, tombstone(secrets.randbelow(2**63 - 1) + 1), etag) is not None
        try:
            await self._bucket.delete(name, match=etag)
            return True
        except RefusedError:
            return False
        except StoreError as error:
            if not error.unknown:
                raise
            lost = error
        try:
            await _or_raise(lost, self._bucket.delete(name, match=etag))
            return True
        except RefusedError:
            raise lost from None


class LocallyChecked(Writes):
    """This process is the only writer, and checks conditions itself."""

    def __init__(self, bucket: Bucket, clock: Clock) -> None:
        super().__init__(bucket, clock)
        self._held: dict[str, asyncio.Future[None]] = {}

    async def put(self, name: str, content: Content, expect: Token | None) -> str | None:
        async with self._alone(name):
            return await self._put_blindly(name, content) if await self._holds(name, expect) else None

    async def delete(self, name: str, expect: Token | None) -> bool:
        async with self._alone(name):
            if not await self._holds(name, expect):
                return False
            await self._delete_blindly(name)
            return True

    async def reap(self, name: str) -> bool:
        async with self._alone(name):
            if await self.expired(name) is None:
                return False
            await self._delete_blindly(name)
            return True

    async def _holds(self, name: str, expect: Token | None) -> bool:
        if expect is None:
            return True
        found = await self.stored(name)
        return expect == (ABSENT if found is None else found.token(self._clock.ms))

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        while (other := self._held.get(name)) is not None:
            await asyncio.wait((other,))
        mine = self._held[name] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._held[name]
            mine.set_result(None)


async def _or_raise(lost: StoreError, answer: Awaitable[_Result]) -> _Result:
    """``answer``, or ``lost`` if the server can't be asked."""
    try:
        return await answer
    except StoreError:
        raise lost from None
