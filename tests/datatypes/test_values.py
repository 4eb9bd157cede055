"""What a record has of a value."""

from __future__ import annotations

import pytest

from proxy.datatypes.hash import Hash
from proxy.datatypes.values import UnknownKind, from_record, to_record
from proxy.keyspace import HASH, STRING, VOLATILE_HASH


def make(**times: int) -> Hash:
    """A hash of empty values, with the fields that are named and when they expire."""
    found = Hash()
    for field, moment in times.items():
        found.set(field.encode(), b"")
        if moment:
            found.expire(field.encode(), moment)
    return found


def test_a_value_is_stored_as_it_is_packed() -> None:
    assert to_record(STRING, bytearray(b"v"), 5) == (STRING, b"v", 5)
    assert from_record(STRING, b"v", 5) == (STRING, b"v", 5)
    found = make(a=0, b=7)
    assert to_record(HASH, found, 5) == (HASH, found.pack(), 5)


@pytest.mark.parametrize(("own", "expire_at"), [(0, 9), (5, 5), (20, 9)])
def test_a_record_of_a_hash_whose_fields_all_expire_goes_with_the_last(own: int, expire_at: int) -> None:
    found = make(a=7, b=9)
    raw = bytes([own]) + bytes(7) + found.pack()
    assert to_record(HASH, found, own) == (VOLATILE_HASH, raw, expire_at)
    kind, value, expires = from_record(VOLATILE_HASH, raw, expire_at)
    assert (kind, expires) == (HASH, own)
    assert isinstance(value, Hash)
    assert value.pack() == found.pack()


def test_when_a_record_expires_counts_if_it_was_changed_without_its_value() -> None:
    _, raw, _ = to_record(HASH, make(a=7, b=9), 0)
    assert from_record(VOLATILE_HASH, raw, 8)[2] == 8


def test_a_kind_of_a_later_version_is_refused() -> None:
    with pytest.raises(UnknownKind):
        from_record(99, b"", 0)
