"""What may be done in a bucket, and whether its server keeps conditions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from backends.base import Finding, Grade, StoreError
from backends.s3_client import Bucket, DeniedError
from backends.s3_writes import probe


async def examine(bucket: Bucket, where: str, scratch: str, single_writer: bool) -> list[Finding]:
    """``where``: what names of records start with; ``scratch``: a name that is free."""
    steps: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        ("ListBucket", lambda: bucket.listing(where, "", 1)),
        ("PutObject", lambda: bucket.put(scratch, b"tried out", "")),
        ("GetObject", lambda: bucket.get(scratch, None)),
        ("DeleteObject", lambda: bucket.delete(scratch)),
    ]
    findings: list[Finding] = []
    for right, step in steps:
        try:
            await step()
        except DeniedError:
            findings.append(Finding(Grade.MISSING, f"the credentials do not allow s3:{right}: grant it"))
        except StoreError as error:
            return [*findings, Finding(Grade.MISSING, str(error))]
    if findings:
        return findings
    try:
        puts, deletes = await probe(bucket, scratch)
    except StoreError as error:
        return [Finding(Grade.MISSING, str(error))]
    return [
        Finding(Grade.FINE, "lists, puts, gets and deletes objects"),
        *_conditions(puts, deletes, single_writer),
    ]


def _conditions(puts: bool, deletes: bool, single_writer: bool) -> list[Finding]:
    if not puts and not single_writer:
        return [
            Finding(
                Grade.MISSING,
                "conditional writes are not honoured: set single_writer = true if no other process writes to "
                "this bucket and prefix",
            )
        ]
    if not puts:
        return [
            Finding(Grade.WARNING, "conditional writes are not honoured: no other process may write here")
        ]
    if single_writer:
        return [
            Finding(
                Grade.FINE, "conditional writes are honoured: single_writer = true is not needed for them"
            )
        ]
    if not deletes:
        text = "conditional writes are honoured, conditional deletes are not: what is deleted leaves 9 bytes"
        return [Finding(Grade.FINE, text)]
    return [Finding(Grade.FINE, "conditional writes and deletes are honoured")]
