"""One bucket of an S3 server: the few requests that the store makes, each sent once, and its errors.

Nothing below retries by itself: not botocore, nor aiohttp, which would send a PUT again when a kept
connection turns out dead.  Only reads are sent a second time, by ``Bucket``.

Importing this imports aiobotocore, 200 ms of CPU time: ``S3Store.open`` does so in a thread.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeVar

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import get_session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.handlers import add_expect_header

from backends.base import StoreError
from backends.s3_layout import Access, Head

if TYPE_CHECKING:
    from aiobotocore.session import ClientCreatorContext
    from botocore.loaders import Loader
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.type_defs import ListObjectsV2OutputTypeDef

_META: Final = "redtier"  # the one metadata entry, sent as x-amz-meta-redtier

_BACKGROUND: Final = 8  # requests of scans, sweeps and flushes under way at once
_STARTS_MAX: Final = 4  # requests made in one turn of the event loop
SLOWEST: Final = 64 * 1024  # bytes a second: an upload that is slower than this is given up
_BREAKER_AFTER: Final = 3  # failures to connect in a row
_BREAKER_MAX: Final = 5.0  # seconds

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Listed(NamedTuple):
    name: str
    size: int


class RefusedError(Exception):
    """The condition of a write did not hold."""


class MissingError(Exception):
    """There is no such object."""


class UnsupportedError(StoreError):
    """The server does not know what was asked of it."""


class DeniedError(StoreError):
    """The credentials do not allow what was asked."""


@cache
def _descriptions() -> Loader:
    """botocore's descriptions of services, which it keeps: for all clients, since they are large."""
    loader: Loader = get_session().get_component("data_loader")
    return loader


class _SendOnce(AIOHTTPSession):
    async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = await super()._get_session(proxy_url)  # type: ignore[misc]
        # It holds PUT and DELETE for safe to repeat: ours are not.
        session._retry_connection = False  # noqa: SLF001
        return session


class Bucket:
    """Names, bytes and ETags of one bucket.

    Every method raises StoreError in one line that names the backend: ``unknown`` is true where the
    request may have reached the server and no answer came.  While the server can't be reached,
    requests fail at once, but for one now and then that tries it.
    """

    # Any: settings of botocore's Config beside those that every bucket has.
    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, backend: str, access: Access) -> None:
        self._what = f"s3 backend {backend!r}"
        self._access = access
        self._where = access.endpoint_url or "Amazon S3"
        self._timeout = access.timeout / 1000
        self._context: ClientCreatorContext[S3Client] | None = None
        self._client: S3Client | None = None
        self._background = asyncio.Semaphore(_BACKGROUND)
        self._started = 0  # requests, in this turn of the event loop
        self._bulk_delete = True
        self._failures = 0
        self._closed_until = 0.0  # event loop time; the breaker is open until then
        self._failure = ""

    async def open(self) -> None:
        if self._access.ca_bundle and not await asyncio.to_thread(Path(self._access.ca_bundle).is_file):
            raise StoreError(f"{self._what}: ca_bundle {self._access.ca_bundle!r} is not a file")
        session = get_session()
        session.register_component("data_loader", _descriptions())
        # Dates are not used here, and to parse them is half the cost of a listing.
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
        access = self._access
        self._context = session.create_client(
            "s3",
            endpoint_url=access.endpoint_url or None,
            region_name=access.region or None,
            aws_access_key_id=access.access_key or None,
            aws_secret_access_key=access.secret_key or None,
            verify=access.ca_bundle or None,
            config=AioConfig(
                max_pool_connections=access.connections + _BACKGROUND,
                connect_timeout=access.connect_timeout / 1000,
                read_timeout=self._timeout,
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                parameter_validation=False,
                http_session_cls=_SendOnce,
                warm_up_loader_caches=True,  # in a thread: 100 ms of JSON, for the first client
                **self.settings,
            ),
        )
        try:
            self._client = await self._context.__aenter__()
        except (BotoCoreError, ValueError, OSError) as error:
            raise self._translated(error) from None
        events = self._client.meta.events
        events.register("before-call.s3.DeleteObjects", _add_content_md5)
        events.unregister("before-call.s3", add_expect_header)  # it costs every PUT a round trip

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._context is not None:
            await self._context.__aexit__(None, None, None)

    async def ping(self) -> None:
        await self._read(lambda: self._call(self._s3.head_bucket))

    async def head(self, name: str) -> Head | None:
        """None if there is no such object."""
        try:
            return self._head(await self._read(lambda: self._call(self._s3.head_object, Key=name)))
        except MissingError:
            return None

    async def get(self, name: str, size_max: int | None) -> tuple[Head, bytes | None] | None:
        """The object and its bytes, but not the bytes if there are more than ``size_max``."""
        try:
            return await self._read(lambda: self._get(name, size_max))
        except MissingError:
            return None

    async def _get(self, name: str, size_max: int | None) -> tuple[Head, bytes | None]:
        response = await self._call(self._s3.get_object, Key=name)
        body = response["Body"]
        try:
            head = self._head(response)
            return head, await body.read() if size_max is None or head.size <= size_max else None
        except (BotoCoreError, aiohttp.ClientError, OSError) as error:
            raise self._failed(error) from None
        finally:
            body.close()

    async def put(self, name: str, body: bytes, meta: str, *, match: str = "", new: bool = False) -> str:
        """Write an object and return its ETag.

        ``match``: only over an object that has this ETag; ``new``: only if there is none.  Raises
        RefusedError.
        """
        condition = {"IfMatch": f'"{match}"'} if match else {"IfNoneMatch": "*"} if new else {}
        try:
            # aiohttp has no timeout for a peer that stops reading.
            async with asyncio.timeout(2 * self._timeout + len(body) / SLOWEST):
                response = await self._call(
                    self._s3.put_object, Key=name, Body=body, Metadata={_META: meta}, **condition
                )
        except MissingError:
            raise RefusedError from None
        except TimeoutError as error:
            raise self._failed(error) from None
        return self._etag(response)

    async def delete(self, name: str, *, match: str = "") -> None:
        """Delete an object; ``match``: only if it has this ETag.  Raises RefusedError."""
        condition = {"IfMatch": f'"{match}"'} if match else {}
        try:
            await self._call(self._s3.delete_object, Key=name, **condition)
        except MissingError:
            if match:
                raise RefusedError from None

    async def delete_many(self, names: Sequence[str]) -> None:
        """Delete up to 1000 objects, those that exist."""
        if self._bulk_delete and len(names) > 1:
            objects = {"Objects": [{"Key": name} for name in names], "Quiet": True}
            try:
                response = await self._call(self._s3.delete_objects, Delete=objects)
            except UnsupportedError:
                self._bulk_delete = False
            else:
                for error in response.get("Errors", ()):
                    raise StoreError(f"{self._what}: can't delete {error.get('Key')!r}: {error.get('Code')}")
                return
        await self.in_background(self.delete, names)

    async def listing(self, prefix: str, after: str, limit: int) -> tuple[list[Listed], bool]:
        """The first ``limit`` names, in order, that start with ``prefix`` and come after ``after``; whether
        there are more."""
        start = {"StartAfter": after} if after else {}
        response = await self._list(Prefix=prefix, MaxKeys=limit, **start)
        listed = [Listed(entry["Key"], entry["Size"]) for entry in response.get("Contents", ())]
        return listed, response["IsTruncated"]

    async def groups(self, prefix: str, delimiter: str) -> list[str]:
        """The first 1000 beginnings, up to ``delimiter``, of the names that start with ``prefix``."""
        response = await self._list(Prefix=prefix, Delimiter=delimiter)
        return [group["Prefix"] for group in response.get("CommonPrefixes", ())]

    async def _list(self, **parameters: object) -> ListObjectsV2OutputTypeDef:
        return await self._read(lambda: self._call(self._s3.list_objects_v2, **parameters))

    async def in_background(
        self, call: Callable[[_Item], Awaitable[_Result]], items: Iterable[_Item]
    ) -> list[_Result]:
        """The results of ``call`` for each item, in order; on connections that commands do not wait for.

        Raises the first error, when all are done.
        """

        async def one(item: _Item) -> _Result:
            async with self._background:
                return await call(item)

        tasks = [asyncio.create_task(one(item)) for item in items]
        await asyncio.gather(*tasks, return_exceptions=True)
        return [task.result() for task in tasks]

    async def _read(self, read: Callable[[], Awaitable[_Result]]) -> _Result:
        try:
            return await read()
        except StoreError as error:
            if not error.unknown:
                raise
        try:
            return await read()
        except StoreError as error:
            raise StoreError(str(error)) from None  # unknown is said of writes

    @property
    def _s3(self) -> S3Client:
        if self._client is None:
            raise StoreError(f"{self._what} is closed")
        return self._client

    async def _call(self, request: Callable[..., Awaitable[_Result]], **parameters: object) -> _Result:
        """One request.  Raises MissingError and RefusedError besides StoreError."""
        self._check_breaker()
        await self._turn()
        try:
            response = await request(Bucket=self._access.bucket, **parameters)
        except ClientError as error:
            self._failures = 0
            raise self._answered(error) from None
        except (BotoCoreError, aiohttp.ClientError, OSError) as error:  # the latter in what says an error
            raise self._failed(error) from None
        self._failures = 0
        return response

    async def _turn(self) -> None:
        """Wait for a turn of the event loop in which few requests are made.

        To make one takes half a millisecond of CPU time, and clients that have nothing to do with S3
        are to be served in between.
        """
        while self._started == _STARTS_MAX:  # noqa: ASYNC110  # turns are what is counted
            await asyncio.sleep(0)
        if self._started == 0:
            asyncio.get_running_loop().call_soon(setattr, self, "_started", 0)
        self._started += 1

    def _head(self, response: Any) -> Head:
        return Head(self._etag(response), response["ContentLength"], response["Metadata"].get(_META))

    def _etag(self, response: Any) -> str:
        etag: str | None = response.get("ETag")
        if etag is None:  # a page of something in between, say, that is under maintenance
            raise StoreError(f"{self._what}: no S3 server answers at {self._where}", unknown=True)
        return etag.strip('"')

    def _check_breaker(self) -> None:
        if self._failures >= _BREAKER_AFTER:
            now = asyncio.get_running_loop().time()
            if now < self._closed_until:
                raise StoreError(self._failure)
            # This one tries; until it has its answer the others go on failing at once.
            self._closed_until = now + self._timeout

    def _failed(self, error: Exception) -> StoreError:
        """Notes that no answer came; returns what to raise."""
        self._failures += 1
        pause = min(_BREAKER_MAX, 0.05 * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)
        self._closed_until = asyncio.get_running_loop().time() + pause
        translated = self._translated(error)
        self._failure = str(translated)
        return translated

    def _translated(self, error: Exception) -> StoreError:
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            return StoreError(
                f"{self._what}: no credentials; set access_key and secret_key, or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY"
            )
        cause = error.kwargs.get("error", error) if isinstance(error, BotoCoreError) else error
        reason = _one_line(_plain(cause))
        if _may_be_sent(error, cause):
            return StoreError(f"{self._what}: no answer from {self._where}: {reason}", unknown=True)
        return StoreError(f"{self._what}: can't reach {self._where}: {reason}")

    def _answered(self, error: ClientError) -> Exception:
        """What to raise for an error status."""
        status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
        code = str(error.response["Error"].get("Code", status))
        # The answer to HEAD has no body that would say what is missing.
        if code == "NoSuchKey" or (code == "404" and error.operation_name == "HeadObject"):
            return MissingError()
        # 409: another write of this object is under way.
        if status == 412 or (status == 409 and code == "ConditionalRequestConflict"):
            return RefusedError()
        if status >= 500 and status != 501:
            # The server may have done it before it failed.
            return StoreError(f"{self._what}: {self._where} failed with {code}", unknown=code != "SlowDown")
        text = f"{error.operation_name} failed: {code} {error.response['Error'].get('Message', '')}"
        if advice := _ADVICE.get(code) or _ADVICE.get(str(status)):
            region = error.response["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", "unknown")
            text = advice.format(bucket=self._access.bucket, endpoint=self._where, code=code, region=region)
        kinds = {400: UnsupportedError, 405: UnsupportedError, 501: UnsupportedError, 403: DeniedError}
        failure = kinds.get(status, StoreError)
        return failure(_one_line(f"{self._what}: {text}"))


_ADVICE: Final = {
    "NoSuchBucket": "bucket {bucket!r} does not exist at {endpoint}; create it, redtier does not",
    "404": "bucket {bucket!r} does not exist at {endpoint}; create it, redtier does not",
    "InvalidAccessKeyId": "the credentials are not known at {endpoint} ({code})",
    "SignatureDoesNotMatch": "the secret key, or the region, is not what {endpoint} expects ({code})",
    "ExpiredToken": "the credentials have expired ({code})",
    "RequestTimeTooSkewed": "this machine's clock differs too much from that of {endpoint}",
    "AuthorizationHeaderMalformed": "bucket {bucket!r} is in another region: set it to {region!r} ({code})",
    "PermanentRedirect": "bucket {bucket!r} is in another region: set it to {region!r} ({code})",
    "301": "bucket {bucket!r} is in another region: set it to {region!r} ({code})",
    "403": "no access to bucket {bucket!r} ({code}): the credentials must allow s3:ListBucket, s3:GetObject, "
    "s3:PutObject and s3:DeleteObject",
}
"""What to do, by error code or else by status."""


def _may_be_sent(error: Exception, cause: object) -> bool:
    # EndpointConnectionError alone says nothing: aiobotocore raises it for a reset connection too.
    if isinstance(error, EndpointConnectionError):
        return not isinstance(cause, aiohttp.ClientConnectorError)
    return isinstance(error, HTTPClientError | IncompleteReadError) or not isinstance(error, BotoCoreError)


def _plain(cause: object) -> str:
    if isinstance(cause, aiohttp.ClientConnectorError):  # its own text repeats the address
        cause = cause.os_error
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused; is it running, and are host and port right?"
    return str(cause) or type(cause).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _add_content_md5(params: dict[str, Any], **_: object) -> None:
    # Amazon takes this as well as the CRC32 that botocore adds; many others know nothing else.
    digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()
