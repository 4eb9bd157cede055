"""What becomes of the groups of a commit, as far as it can be judged without the server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from backends.base import ABSENT, CONFLICT, Change, Group, Key, Op, Outcome, StoreError, Token
from backends.postgres_pool import Lost

WRITES: Final = (Op.PUT, Op.EXPIRE)
"""What leaves a row with the change's own write id."""

Row = tuple[int, bytes, int | None, int, int, int | None, bytes | None, Token | None]
"""The columns of one key's row in the order of the statements, and the token expected."""


class Held(NamedTuple):
    """What a row says of itself, expired or not."""

    write_id: int
    expire_at: int


def token_of(key: Key, held: Mapping[Key, Held], now: int) -> Token:
    row = held.get(key)
    return ABSENT if row is None or 0 < row.expire_at <= now else row.write_id


def decide(group: Group, held: Mapping[Key, Held], now: int) -> Outcome:
    for change in group:
        token = token_of(change.key, held, now)
        if change.expect not in (None, token) or (change.op is Op.EXPIRE and token == ABSENT):
            return CONFLICT
    return committed(group)


def committed(group: Group) -> Outcome:
    return Outcome(tuple([token_after(change) for change in group]))


def token_after(change: Change) -> Token:
    """The key's token once ``change`` is applied."""
    if change.record is not None and change.op in WRITES:
        return change.record.write_id
    return ABSENT if change.op is Op.DELETE or change.expect is None else change.expect


def recognise(group: Group, held: Mapping[Key, Held], now: int, lost: Lost) -> Outcome:
    """What the rows tell of a group whose answer was lost."""
    writes = [change for change in group if change.op in WRITES]
    deletes = [change for change in group if change.op is Op.DELETE and change.expect != ABSENT]
    if not writes and not deletes:
        return Outcome(None, lost)
    if any(change.key in held and held[change.key].write_id == token_after(change) for change in writes):
        return committed(group)
    for change in writes + deletes:
        # Write ids are not used twice: whoever still has the expected one was not written.  What is absent,
        # and was to be, may have been written and then deleted by another.
        if change.expect not in (None, ABSENT) and change.expect == token_of(change.key, held, now):
            return Outcome(None, StoreError(f"{lost}; it was not applied"))
    if not writes and all(token_of(change.key, held, now) == ABSENT for change in deletes):
        return committed(group)
    return unknown(lost)


def unknown(lost: Lost) -> Outcome:
    return Outcome(None, StoreError(f"{lost}; it may have been applied", unknown=True))


def row_of(change: Change) -> Row:
    """The arguments of one key; EXPIRE keeps what is null here."""
    (db, name), record = change.key, change.record
    if record is None:
        raise ValueError(f"{change.op.name} needs a record")
    if change.op is Op.EXPIRE:
        return db, name, None, record.write_id, record.expire_at, None, None, change.expect
    head = (db, name, record.kind, record.write_id, record.expire_at, record.raw_size)
    return *head, record.payload, change.expect


def chunk_columns(changes: Iterable[Change]) -> tuple[list[object], ...]:
    """The arguments about chunks: first of new ones, then of those that are gone; empty if there are none."""
    new: list[tuple[object, ...]] = []
    gone: list[tuple[object, ...]] = []
    for key, record, chunks in [(change.key, change.record, change.chunks) for change in changes]:
        if chunks is not None and record is not None:
            new += [(*key, id, value, record.write_id) for id, value in chunks.new]
            gone += [(*key, id, record.write_id) for id in chunks.gone]
    if not new and not gone:
        return ()
    return (*_columns(new, 5), *_columns(gone, 4))


def _columns(rows: list[tuple[object, ...]], count: int) -> tuple[list[object], ...]:
    return tuple([row[at] for row in rows] for at in range(count))


def payload_size(change: Change) -> int:
    record = change.record
    size = 0 if record is None or record.payload is None else len(record.payload)
    if change.chunks is not None:
        size += sum([len(value) for _, value in change.chunks.new])
    return size


def group_size(group: Group) -> int:
    return sum([payload_size(change) for change in group])
