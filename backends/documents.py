"""Documents: what a store's users keep beside its records: dictionaries, leases, versions.

A document is a record in the database ``BESIDE``, whose key is its name (``dictionary/3``, ``lease/long:``).
So every store has them, with the guarantees of its records: conditional writes, a write id for each, and
groups that change records only while a document is unchanged (``Op.ASSERT``).  No client reaches that
database, no walk or count of another shows it, and clearing all databases leaves it alone.  A document's
bytes are its record's payload as they are: who needs more than the store's own care seals them.
"""

from __future__ import annotations

import secrets
from typing import Final, NamedTuple

from backends.base import BESIDE, Change, Key, Op, Record, Store, Token, Want

_PAGE: Final = 100  # names in one step of a listing


class Document(NamedTuple):
    value: bytes
    token: Token  # names the write that made it


def document_key(name: str) -> Key:
    return Key(BESIDE, name.encode())


async def read_document(store: Store, name: str) -> Document | None:
    """None: there is none.  Raises StoreError."""
    ((record, token),) = await store.load([document_key(name)], Want.WHOLE)
    return None if record is None or record.payload is None else Document(record.payload, token)


async def write_document(store: Store, name: str, value: bytes, expect: Token | None) -> Token | None:
    """Write it if its token is ``expect`` (``ABSENT``: if there is none; None: in any case).

    Returns its new token, or None where it has another one.  Raises StoreError, ``unknown`` if it may have
    been written all the same.
    """
    record = Record(value, 0, secrets.randbelow(2**63 - 1) + 1, 0, len(value), len(value))
    return await _apply(store, Change(Op.PUT, document_key(name), expect, record))


async def delete_document(store: Store, name: str, expect: Token | None) -> bool:
    """False: it has another token than ``expect``.  Raises StoreError."""
    return await _apply(store, Change(Op.DELETE, document_key(name), expect)) is not None


async def document_names(store: Store, prefix: str) -> list[str]:
    """The names of all documents that start with ``prefix``, in the store's order.  Raises StoreError."""
    names: list[str] = []
    after: bytes | None = None
    while True:
        infos, after = await store.scan(BESIDE, prefix.encode(), after, _PAGE)
        names += [info.name.decode() for info in infos]
        if after is None:
            return names


async def _apply(store: Store, change: Change) -> Token | None:
    (outcome,) = await store.commit([[change]])
    if outcome.error is not None:
        raise outcome.error
    return None if outcome.tokens is None else outcome.tokens[0]
