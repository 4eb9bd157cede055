"""Blobs: large raw values as objects in a bucket, for us and for any HTTP client.

An object holds one raw value, as it is or under ``Content-Encoding``, and its name ends with the SHA-256 of
the raw bytes.  It is written once and never changed, so whoever serves it may keep it for ever.

Reading goes through a CDN where there is one.  Whatever a CDN gives is believed only if it has the right
SHA-256; the bucket is asked where it has not, or gives none.

Importing this imports aiobotocore, 200 ms of CPU time: do so in a thread.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import logging
from collections.abc import AsyncIterable, Sequence
from typing import Any, ClassVar, Final, NamedTuple
from urllib.parse import quote

import aiohttp
from botocore.exceptions import BotoCoreError

from backends.encodings import Bytes, EncodingError, decode, encode, encoded_max
from backends.offload import BlobCounters, Place
from backends.pointers import BlobName
from backends.s3_client import SLOWEST, Bucket, MissingError

log = logging.getLogger("redtier.blobs")

_CHUNK: Final = 256 * 1024  # bytes read at once
_CACHE_CONTROL: Final = "public, max-age=31536000, immutable"
_OPEN_AFTER: Final = 3  # failures of the CDN in a row, after which it is left alone
_OPEN_FOR: Final = 5.0  # seconds


class DamagedError(Exception):
    """The bucket has no such blob, or another value under its name; the message is the reason."""


class _Upload(NamedTuple):
    body: io.BytesIO
    size: int
    encoding: str  # empty: as it is
    md5: str  # base64; the server checks it


class _BlobBucket(Bucket):
    # An upload's SHA-256 would be computed on the event loop; its MD5 is, in a worker.  Version 4 signs URLs
    # in every region.
    settings: ClassVar[dict[str, Any]] = {
        "signature_version": "s3v4",
        "s3": {"payload_signing_enabled": False},
    }

    async def upload(self, name: str, upload: _Upload) -> None:
        try:
            # aiohttp has no timeout for a peer that stops reading.
            async with asyncio.timeout(2 * self._timeout + upload.size / SLOWEST):
                await self._call(
                    self._s3.put_object,
                    Key=name,
                    Body=upload.body,
                    ContentMD5=upload.md5,
                    ContentType="application/octet-stream",
                    CacheControl=_CACHE_CONTROL,
                    **({"ContentEncoding": upload.encoding} if upload.encoding else {}),
                )
        except TimeoutError as error:
            raise self._failed(error) from None

    async def download(self, name: str, size_max: int) -> tuple[list[bytes], str]:
        """An object's bytes and content coding.  Raises MissingError, and EncodingError if it is larger."""
        return await self._read(lambda: self._download(name, size_max))

    async def _download(self, name: str, size_max: int) -> tuple[list[bytes], str]:
        response = await self._call(self._s3.get_object, Key=name)
        body = response["Body"]
        try:
            return await _gathered(body.iter_chunks(_CHUNK), size_max), response.get("ContentEncoding", "")
        except (BotoCoreError, aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failed(error) from None
        finally:
            body.close()

    async def presign(self, name: str, seconds: int) -> str:
        url: str = await self._s3.generate_presigned_url(
            "get_object", Params={"Bucket": self._access.bucket, "Key": name}, ExpiresIn=seconds
        )
        return url


async def _gathered(chunks: AsyncIterable[bytes], size_max: int) -> list[bytes]:
    """What comes, in pieces: to join them is a worker's work."""
    pieces: list[bytes] = []
    size = 0
    async for chunk in chunks:
        pieces.append(chunk)
        size += len(chunk)
        if size > size_max:
            raise EncodingError(f"it has more than {size_max} bytes")
    return pieces


class Blobs:
    """The blobs of one store.  At most ``transfers`` are under way, or in memory, at once."""

    def __init__(self, place: Place, transfers: int, counters: BlobCounters) -> None:
        self._counters = counters
        self._bucket = _BlobBucket(place.backend, place.access)
        self._prefix = f"{place.prefix.strip('/')}/b/".lstrip("/")
        self._cdn_url = place.cdn_url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=place.access.connect_timeout / 1000,
            sock_read=place.access.timeout / 1000,
        )
        self._transfers = asyncio.Semaphore(transfers)
        self._session: aiohttp.ClientSession | None = None
        self._cdn_failures = 0
        self._cdn_closed_until = 0.0  # event loop time

    async def open(self) -> None:
        """Makes ready; asks nothing of any server."""
        await self._bucket.open()
        if self._cdn_url:
            self._session = aiohttp.ClientSession(timeout=self._timeout, auto_decompress=False)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        await self._bucket.close()

    async def ping(self) -> None:
        await self._bucket.ping()

    async def put(self, blob: BlobName, raw: Bytes, encoding: str) -> None:
        """Write a raw value; raises StoreError."""
        async with self._transfers:
            upload = await asyncio.to_thread(_prepared, raw, encoding)
            await self._bucket.upload(self.name_of(blob), upload)
        self._counters.blobs_uploaded += 1

    async def get(self, blob: BlobName, head: bytes, raw_length: int) -> bytes:
        """``head`` and, behind it, the raw value.  Raises DamagedError, and StoreError if nobody answers."""
        async with self._transfers:
            whole = await self._from_cdn(blob, head, raw_length) if self._cdn_url else None
            return whole if whole is not None else await self._from_bucket(blob, head, raw_length)

    async def delete(self, blobs: Sequence[BlobName]) -> None:
        """Delete up to 1000 blobs, those that are there."""
        await self._bucket.delete_many([self.name_of(blob) for blob in blobs])

    async def url(self, blob: BlobName, seconds: int) -> str:
        """Where anybody can fetch it: at the CDN, or for so long at the bucket."""
        if self._cdn_url:
            return self._cdn_name(blob)
        return await self._bucket.presign(self.name_of(blob), seconds)

    def name_of(self, blob: BlobName) -> str:
        return f"{self._prefix}{blob}"

    def _cdn_name(self, blob: BlobName) -> str:
        return f"{self._cdn_url}/{quote(self.name_of(blob))}"

    async def _from_bucket(self, blob: BlobName, head: bytes, raw_length: int) -> bytes:
        try:
            pieces, encoding = await self._bucket.download(self.name_of(blob), encoded_max(raw_length))
            self._counters.blobs_fetched += 1
            return await asyncio.to_thread(_verified, blob, head, pieces, encoding, raw_length)
        except MissingError:
            raise DamagedError("there is no such object") from None
        except EncodingError as error:
            raise DamagedError(str(error)) from None

    async def _from_cdn(self, blob: BlobName, head: bytes, raw_length: int) -> bytes | None:
        """None where the bucket must be asked."""
        assert self._session is not None
        now = asyncio.get_running_loop().time
        if self._cdn_failures >= _OPEN_AFTER and now() < self._cdn_closed_until:
            self._counters.cdn_fallbacks += 1
            return None
        url = self._cdn_name(blob)
        try:
            async with self._session.get(url, headers={"Accept-Encoding": "gzip, zstd"}) as response:
                if response.status != 200:
                    raise EncodingError(f"it answered {response.status}")
                pieces = await _gathered(response.content.iter_chunked(_CHUNK), encoded_max(raw_length))
                encoding = response.headers.get("Content-Encoding", "")
                whole = await asyncio.to_thread(_verified, blob, head, pieces, encoding, raw_length)
        except (aiohttp.ClientError, TimeoutError, OSError, EncodingError) as error:
            self._counters.cdn_fallbacks += 1
            self._cdn_failures += 1
            self._cdn_closed_until = now() + _OPEN_FOR
            if self._cdn_failures <= _OPEN_AFTER:
                log.warning(
                    "%s was of no use, the bucket is asked: %s", url, str(error) or type(error).__name__
                )
            return None
        self._cdn_failures = 0
        if _was_kept(response.headers.get("X-Cache"), response.headers.get("Age", "")):
            self._counters.cdn_hits += 1
        else:
            self._counters.cdn_misses += 1
        return whole


def _was_kept(x_cache: str | None, age: str) -> bool:
    """Whether a cache had it: of several that wrote to ``X-Cache``, any; else by RFC 9111's ``Age``."""
    if x_cache is not None:
        return "hit" in x_cache.lower()
    return age.isdecimal() and int(age) > 0


def _prepared(raw: Bytes, encoding: str) -> _Upload:
    body, used = encode(raw, encoding)
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    return _Upload(io.BytesIO(body), len(body), used, base64.b64encode(digest).decode())


def _verified(blob: BlobName, head: bytes, pieces: list[bytes], encoding: str, raw_length: int) -> bytes:
    raw = decode(b"".join(pieces), encoding, raw_length)
    if hashlib.sha256(raw).digest() != blob.digest:
        raise EncodingError("its SHA-256 is another")
    return head + raw
