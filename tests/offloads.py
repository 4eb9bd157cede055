"""Stores that offload, for tests: on one table of a Postgres and one place in S3 (see ``tests.s3``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from backends.offload import Offload, OffloadingStore, Place, Rule
from backends.s3_layout import Access
from proxy.clock import Clock
from proxy.prefixes import PrefixMap

OVER: Final = 100  # bytes


def place(where: Mapping[str, Any]) -> Place:
    access = Access(
        bucket=where["bucket"],
        endpoint_url=where["endpoint_url"],
        region=where["region"],
        access_key=where["access_key"],
        secret_key=where["secret_key"],
        ca_bundle="",
        connections=4,
        connect_timeout=5000,
        timeout=5000,
    )
    return Place("blobs", access, where["prefix"], "")


def new_store(
    url: str, table: str, where: Place, clock: Clock, rules: Mapping[bytes, Rule] | None = None
) -> OffloadingStore:
    """Not opened yet; its grace period is an hour."""
    offload = Offload(where, PrefixMap((rules or {b"": Rule(OVER, "gzip")}).items()), 3_600_000, 4)
    return OffloadingStore("archive", url, offload=offload, table=table, clock=clock)
