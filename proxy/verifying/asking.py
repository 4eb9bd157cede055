"""``TIER VERIFY`` and ``TIER QUARANTINE``: one key looked at now, and what is kept aside."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from backends.base import Key, Quarantined, StoreError, Want
from backends.codecs import Hash
from backends.seal import IntegrityError
from backends.sealed_strings import describe, is_sealed, unseal_string
from proxy import errors
from proxy.homes import ColdHome, MemoryHome, UpstreamHome
from proxy.keyspace import KIND_NAMES
from proxy.resp import BULK_MAX, Reply
from proxy.router import Home, Route
from proxy.verifying.checking import DAMAGED, OUTDATED, SOUND, UNHASHED, Verdict, checked

log = logging.getLogger("redtier.verifying")

TRIES: Final = 8  # at one key that changes meanwhile
ABSENT: Final = Verdict("absent")
UNSEALED: Final = Verdict("unsealed", "it is kept as it is, without a digest")


async def verify(route: Route, db: int, key: bytes) -> Reply:
    """What is to be said of one key where it lives, whatever copies of it there are in memory: a map."""
    home = route.home
    verdict, kind = UNSEALED, ""
    if isinstance(home, ColdHome):
        verdict, kind = await _of_store(home, db, key)
    elif isinstance(home, UpstreamHome):
        verdict, kind = await _of_redis(route, home, db, key)
    elif isinstance(home, MemoryHome):
        [kind] = await home.kinds(db, [key])
        if kind == "none":
            verdict = ABSENT
    return {"backend": home.name, "kind": kind, "verdict": verdict.state, "reason": verdict.reason}


async def _of_store(home: ColdHome, db: int, name: bytes) -> tuple[Verdict, str]:
    key, verdict = Key(db, name), Verdict(OUTDATED)
    for _ in range(TRIES):
        record, _, _ = await home.describe(db, name, Want.WHOLE)
        if record is None:
            return ABSENT, "none"
        try:
            verdict = await checked(key, record, home.dictionaries)
        except StoreError as error:
            raise home.error_of(error) from error
        if verdict.state != OUTDATED:
            break
    else:
        raise errors.conflict(name)
    if verdict.state == DAMAGED:
        home.damaged += 1
        log.error("%s: the value of %r is damaged: %s", home.name, name, verdict.reason)
        try:
            await home.store.quarantine(key, record, verdict.reason)
        except StoreError as error:
            raise home.error_of(error) from error
    return verdict, KIND_NAMES.get(record.kind, "unknown")


async def _of_redis(route: Route, home: UpstreamHome, db: int, name: bytes) -> tuple[Verdict, str]:
    [kind] = await home.kinds(db, [name])
    if kind == "none":
        return ABSENT, kind
    stored = await home.call(db, [b"GET", name]) if route.sealed and kind == "string" else None
    if not isinstance(stored, bytes) or not is_sealed(stored):
        return UNSEALED, kind
    try:
        unseal_string(stored, BULK_MAX)
        unhashed = describe(stored).hash == Hash.NONE.name.lower()
    except IntegrityError as damage:
        return Verdict(DAMAGED, str(damage)), kind
    return Verdict(UNHASHED if unhashed else SOUND), kind


async def quarantined(homes: Mapping[str, Home], backend: str, after: bytes, count: int) -> Reply:
    """Up to ``count`` records in quarantine, as maps: of one backend behind the id ``after``, or of all."""
    listed: list[Reply] = []
    last = _parse(after) if after else None
    for home in [_cold(homes, backend)] if backend else homes.values():
        if isinstance(home, ColdHome) and len(listed) < count:
            _check_up(home)
            try:
                found = await home.store.quarantined(last, count - len(listed))
            except StoreError as error:
                raise home.error_of(error) from error
            listed += [_described(home.name, each) for each in found]
    return listed


async def release(homes: Mapping[str, Home], backend: str, ids: list[bytes]) -> Reply:
    """Remove records from a backend's quarantine; how many were there."""
    home = _cold(homes, backend)
    named = [_parse(each) for each in ids]
    _check_up(home)
    try:
        return sum([await home.store.release(*each) for each in named])
    except StoreError as error:
        raise home.error_of(error) from error


def _described(backend: str, each: Quarantined) -> dict[str, Reply]:
    return {
        "id": _id(each),
        "backend": backend,
        "db": each.key.db,
        "key": each.key.name,
        "kind": KIND_NAMES.get(each.kind, "unknown"),
        "stored_size": each.stored_size,
        "found_at": each.found_at,
        "reason": each.reason,
    }


def _id(each: Quarantined) -> bytes:
    """What names a record in a backend's quarantine: ``<db>.<write id>.<key>``."""
    return b"%d.%d.%s" % (each.key.db, each.write_id, each.key.name)


def _parse(text: bytes) -> tuple[Key, int]:
    db, _, rest = text.partition(b".")
    write_id, dot, name = rest.partition(b".")
    if not dot or not db.isdigit() or not write_id.isdigit() or len(db) > 2 or len(write_id) > 19:
        raise errors.not_quarantined(text)
    return Key(int(db), name), int(write_id)


def _cold(homes: Mapping[str, Home], backend: str) -> ColdHome:
    home = homes.get(backend)
    if not isinstance(home, ColdHome):
        raise errors.no_quarantine(
            backend, sorted(n for n, each in homes.items() if isinstance(each, ColdHome))
        )
    return home


def _check_up(home: ColdHome) -> None:
    if home.down:
        raise errors.backend_down(home.name, home.down)
