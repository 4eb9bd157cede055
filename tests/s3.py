"""Places in S3 for tests: a bucket on each server, and a prefix of its own for each test.

``S3_TEST_ENDPOINT`` adds any other server: its bucket, which must exist, is ``S3_TEST_BUCKET``, the
credentials are the usual AWS variables', and ``S3_TEST_SINGLE_WRITER=1`` says what its name says.
"""

from __future__ import annotations

import os
import secrets
from functools import cache
from typing import Any, Final

import botocore.session

from backends.s3 import S3Store
from proxy.clock import Clock
from tests.servers import S3Server, SwiftServer

BUCKET: Final = "redtier-tests"
OTHER_ENDPOINT: Final = os.environ.get("S3_TEST_ENDPOINT", "")
OTHER_SINGLE_WRITER: Final = os.environ.get("S3_TEST_SINGLE_WRITER", "0") == "1"


def place(server: S3Server | None) -> dict[str, Any]:
    """What to build an ``S3Store`` with, for an empty place; None: on the server of S3_TEST_ENDPOINT."""
    prefix = f"test-{secrets.token_hex(8)}"
    if server is None:
        return {
            "endpoint_url": OTHER_ENDPOINT,
            "bucket": os.environ["S3_TEST_BUCKET"],
            "prefix": prefix,
            "single_writer": OTHER_SINGLE_WRITER,
        }
    _make_bucket(server)
    return {
        "endpoint_url": server.url,
        "region": server.region,
        "access_key": server.access_key,
        "secret_key": server.secret_key,
        "bucket": BUCKET,
        "prefix": prefix,
        "single_writer": isinstance(server, SwiftServer),
    }


def new_store(clock: Clock, where: dict[str, Any], **options: Any) -> S3Store:
    return S3Store("blobs", clock=clock, **{**where, **options})


def raw_client(server: S3Server) -> Any:
    """botocore's own client, whose methods it makes at run time: to look at objects as others see them."""
    options: dict[str, Any] = dict(server.client_options)
    return botocore.session.get_session().create_client("s3", **options)


@cache
def _make_bucket(server: S3Server) -> None:
    client = raw_client(server)
    client.create_bucket(Bucket=BUCKET)
    client.close()
