"""What is said of a record, and how one that is damaged is replaced."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.base import Change, Key, Op, Record, Want
from backends.codecs import NO_DICTIONARIES, Hash
from backends.seal import SealPolicy, seal
from backends.sqlite import SqliteStore
from proxy.clock import ManualClock
from proxy.glob import Glob
from proxy.keyspace import HASH, LIST, STRING
from proxy.verifying.checking import DAMAGED, SOUND, UNHASHED, UNKNOWN, Verdict, check
from proxy.verifying.repairs import Repairs
from proxy.verifying.walk import Finding, Walk
from tests.coldhomes import Tier
from tests.damage import SqliteVault

pytestmark = pytest.mark.plain  # the tier's store is interpreted

K = Key(0, b"k")


def sealed(raw: bytes, kind: int = STRING, policy: SealPolicy | None = None) -> Record:
    payload = seal(*K, kind, raw, policy or SealPolicy())
    return Record(payload, kind, 1, 0, len(raw), len(payload))


def judged(record: Record, key: Key = K) -> Verdict:
    return check(key, record, NO_DICTIONARIES)


def test_a_record_is_judged_by_its_digest_its_size_and_its_kind() -> None:
    sound = sealed(b"text " * 100)
    assert judged(sound) == (SOUND, "")
    assert judged(sealed(b"text", policy=SealPolicy(hash=Hash.NONE))) == (UNHASHED, "")
    assert judged(sound, Key(1, b"k")) == (DAMAGED, "the digest does not match")
    assert judged(sound._replace(kind=HASH)) == (DAMAGED, "the digest does not match")
    assert judged(sound._replace(raw_size=7)) == (DAMAGED, "the seal says 500 raw bytes, the record 7")
    assert judged(sealed(b"\xffno list", LIST))[0] == DAMAGED
    assert judged(sealed(b"\xffno list", LIST)).reason.startswith("it is no list: ")
    assert judged(sealed(b"?", 99)) == (UNKNOWN, "values of kind 99 are not known to this version")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Damaged:
    """A home with a damaged record ``k``, and another one."""

    def __init__(self, home: Tier, source: Tier, finding: Finding) -> None:
        self.home, self.source, self.finding = home, source, finding
        self.repairs = Repairs(home.home, source.home)


@pytest.fixture
async def damaged(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Damaged]:
    vault = SqliteVault(tmp_path / "home.db")
    home = Tier(SqliteStore("home", str(vault.file), clock), clock)
    source = Tier(SqliteStore("source", str(tmp_path / "source.db"), clock), clock, cache=False)
    for tier in (home, source):
        await tier.store.open()
        await tier.send("RPUSH k a b")
    vault.flip(b"k")
    walk = Walk(home.home, Glob(b"*"), 10, 1)
    _, [finding] = await walk.step()
    yield Damaged(home, source, finding)
    for tier in (home, source):
        await tier.home.close()


async def test_the_other_backends_value_takes_its_place(damaged: Damaged, clock: ManualClock) -> None:
    await damaged.source.send(f"PEXPIREAT k {clock.ms + 5000}")
    assert await damaged.repairs.mend(damaged.finding) == ""
    assert await damaged.home.send("LRANGE k 0 -1") == [b"a", b"b"]
    assert await damaged.home.send("PTTL k") == 5000
    [kept] = await damaged.home.store.quarantined(None, 10)
    assert (kept.key, kept.write_id) == (K, damaged.finding.record.write_id)


@pytest.mark.parametrize("line", ["SET k newer", "DEL k", "EXPIRE k 100"])
async def test_what_was_written_meanwhile_stays(line: str, damaged: Damaged) -> None:
    await damaged.home.send(line)
    [before] = await damaged.home.store.load([K], Want.WHOLE)
    assert await damaged.repairs.mend(damaged.finding) == "it was written, or removed, meanwhile"
    assert await damaged.home.store.load([K], Want.WHOLE) == [before]


async def test_what_is_written_at_the_last_moment_stays(damaged: Damaged) -> None:
    """By another proxy, between the look at the record and the commit."""
    store = damaged.home.store
    newer = sealed(b"newer")._replace(write_id=77)

    async def before_commit() -> None:
        store.before_commit = store.before_load
        await store.inner.commit([[Change(Op.PUT, K, None, newer)]])

    store.before_commit = before_commit
    assert await damaged.repairs.mend(damaged.finding) == "it was written, or removed, meanwhile"
    assert await damaged.home.send("GET k") == b"newer"


async def test_what_can_not_be_repaired_says_why(damaged: Damaged, tmp_path: Path) -> None:
    SqliteVault(tmp_path / "source.db").flip(b"k")
    assert (await damaged.repairs.mend(damaged.finding)).startswith("source: INTEGRITY ")
    await damaged.source.send("DEL k")
    assert await damaged.repairs.mend(damaged.finding) == "source has no such key"
    await damaged.source.home.close()
    assert (await damaged.repairs.mend(damaged.finding)).startswith("backend 'source' can't serve now")
