"""What any store is tried out with, before it is trusted with data."""

from __future__ import annotations

import secrets

from backends.base import ABSENT, Finding, Grade, Store, StoreError
from backends.documents import delete_document, read_document, write_document


async def try_out(store: Store) -> Finding:
    """Open it, write a document, read it, have a write refused and delete it again; then close it."""
    name = f"check/{secrets.token_hex(8)}"
    try:
        await store.open()
        token = await write_document(store, name, b"tried out", ABSENT)
        found = await read_document(store, name)
        refused = await write_document(store, name, b"not written", ABSENT) is None
        deleted = token is not None and await delete_document(store, name, token)
        if found is None or found.value != b"tried out" or not refused or not deleted:
            return Finding(Grade.MISSING, "what is written is not what is read, or conditions are not kept")
        return Finding(Grade.FINE, "reads, writes and deletes, conditionally too")
    except StoreError as error:
        return Finding(Grade.MISSING, str(error))
    finally:
        await store.close()


def usable(findings: list[Finding]) -> bool:
    """Whether nothing is missing."""
    return all(finding.grade < Grade.MISSING for finding in findings)
