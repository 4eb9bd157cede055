"""A walk over all records of a store that verifies each of them and keeps aside what is damaged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from backends.base import ABSENT, Foreign, Key, Loaded, Record, StoreError, Token, Want
from proxy.glob import Glob
from proxy.homes import ColdHome
from proxy.keyspace import DATABASES
from proxy.sides import together
from proxy.verifying.checking import DAMAGED, OUTDATED, UNHASHED, UNKNOWN, Verdict, checked
from proxy.verifying.pace import LEAST, cost

# Raw bytes that are verified before others have a turn of the loop.
SLICE: Final = 64 * 1024


class Position(NamedTuple):
    """Where a walk stands: all of the databases before, and of this one what comes up to a key."""

    db: int
    after: bytes | None


START: Final = Position(0, None)


class Finding(NamedTuple):
    """A record that is not as it should be, as it was read."""

    key: Key
    record: Record | None  # with its payload; None for what can't even be loaded
    token: Token
    verdict: Verdict

    @property
    def damaged(self) -> bool:
        return self.verdict.state == DAMAGED


@dataclass(slots=True)
class Tally:
    """What was verified."""

    passed: int = 0  # keys that were come by, those too that did not match
    checked: int = 0  # records
    size: int = 0  # bytes of them, stored
    unhashed: int = 0
    damaged: int = 0
    unknown: int = 0
    cost: int = 0  # bytes, as ``pace`` counts them

    def add(self, more: Tally) -> None:
        self.passed += more.passed
        self.checked += more.checked
        self.size += more.size
        self.unhashed += more.unhashed
        self.damaged += more.damaged
        self.unknown += more.unknown
        self.cost += more.cost


class Walk:
    """Records of the store of ``home`` whose keys match, from a position on.

    Documents, which have a database of their own, are no keys.  At most ``batch`` records are read in a
    step, by at most ``width`` requests at once, whose answers are all that is held; those that are too large
    for a batch are read one by one.
    """

    def __init__(
        self, home: ColdHome, pattern: Glob, batch: int, width: int, position: Position = START
    ) -> None:
        self.position: Position | None = position  # None: it is through
        self.tally = Tally()
        self._store = home.store
        self._dictionaries = home.dictionaries
        self._pattern = pattern
        self._batch = batch
        self._width = width

    async def step(self) -> tuple[Tally, list[Finding]]:
        """Verify the next records: what was done, and what was found, which is in quarantine by then.

        After StoreError the step may be taken again.
        """
        assert self.position is not None
        db, after = self.position
        names, after = await self._store.names(db, self._pattern.prefix, after, self._batch)
        fitting = [Key(db, name) for name in names if self._pattern.matches(name)]
        done = Tally(passed=len(names))
        findings = await self._verify(fitting, done)
        for finding in findings:
            if finding.damaged and finding.record is not None:
                await self._store.quarantine(finding.key, finding.record, finding.verdict.reason)
        self.tally.add(done)
        if after is not None:
            self.position = Position(db, after)
        else:
            self.position = Position(db + 1, None) if db + 1 < DATABASES else None
        return done, findings

    async def _verify(self, keys: Sequence[Key], done: Tally) -> list[Finding]:
        most = self._store.load_max
        parts = [keys[at : at + most] for at in range(0, len(keys), most)]
        findings: list[Finding] = []
        handled = 0
        for at in range(0, len(parts), self._width):
            some = parts[at : at + self._width]
            loads = await together(self._load(part) for part in some)
            for part, loaded in zip(some, loads, strict=True):
                if isinstance(loaded, str):
                    findings.append(_unreadable(part[0], loaded, done))
                    continue
                for key, (record, token) in zip(part, loaded, strict=True):
                    if record is not None and record.payload is None:
                        whole = await self._load_whole(key)
                        if isinstance(whole, str):
                            findings.append(_unreadable(key, whole, done))
                            continue
                        record, token = whole
                    if record is None:
                        continue  # it was removed meanwhile, or has expired
                    verdict = await checked(key, record, self._dictionaries)
                    if verdict.state == OUTDATED:
                        continue  # what it is now was written a moment ago
                    _count(done, record, verdict)
                    if verdict.state in (DAMAGED, UNKNOWN):
                        findings.append(Finding(key, record, token, verdict))
                    handled += record.raw_size
                    if handled >= SLICE:
                        handled = 0
                        await asyncio.sleep(0)
        return findings

    async def _load(self, keys: Sequence[Key]) -> list[Loaded] | str:
        """Records, or why what stands there is none: where one key is loaded at a time."""
        try:
            return await self._store.load(keys, Want.VALUE)
        except Foreign as error:
            return str(error)

    async def _load_whole(self, key: Key) -> Loaded | str:
        """A record, or why a store that can otherwise serve can't give it: it is to hold up no other."""
        try:
            [loaded] = await self._store.load([key], Want.WHOLE)
        except StoreError as error:
            await self._store.ping()
            return str(error)
        return loaded


def _unreadable(key: Key, reason: str, done: Tally) -> Finding:
    done.checked += 1
    done.unknown += 1
    done.cost += LEAST
    return Finding(key, None, ABSENT, Verdict(UNKNOWN, reason))


def _count(done: Tally, record: Record, verdict: Verdict) -> None:
    done.checked += 1
    done.size += record.stored_size
    done.cost += cost(record)
    done.unhashed += verdict.state == UNHASHED
    done.damaged += verdict.state == DAMAGED
    done.unknown += verdict.state == UNKNOWN
