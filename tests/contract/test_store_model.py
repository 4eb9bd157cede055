"""Every store against a model of it: a dict, and the contract's rules in a few lines."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.base import ABSENT, CONFLICT, Change, Key, KeyInfo, Op, Record, Store, Token, Want
from proxy.clock import ManualClock

pytestmark = pytest.mark.once

KEYS = [Key(0, b"p:a"), Key(0, b"p:b"), Key(0, b"q"), Key(1, b"p:a")]
LIFETIMES = [0, 1, 50, 3_600_000]  # ms; 0: for ever

_write_ids = itertools.count(1)


@dataclass(frozen=True)
class Step:
    """One change of one key; ``expect`` says which token it brings."""

    op: Op
    expect: str  # "none", "now", "before" or "absent"
    lifetime: int
    payload: bytes
    joined: bool  # in one group with the step before it


@dataclass(frozen=True)
class Wait:
    ms: int
    sweep: bool


STEP = st.builds(
    Step,
    op=st.sampled_from(Op),
    expect=st.sampled_from(["none", "now", "now", "before", "absent"]),
    lifetime=st.sampled_from(LIFETIMES),
    payload=st.sampled_from([b"", b"x", b"y" * 100]),
    joined=st.booleans(),
)
COMMIT = st.dictionaries(st.sampled_from(KEYS), STEP, min_size=1)
WAIT = st.builds(Wait, ms=st.sampled_from([0, 1, 49, 7_200_000]), sweep=st.booleans())


class Model:
    """What the contract says a store is."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.records: dict[Key, Record] = {}
        self.tokens: dict[Key, list[Token]] = {key: [] for key in KEYS}  # all that a key ever had

    def live(self, key: Key) -> Record | None:
        record = self.records.get(key)
        if record is None or 0 < record.expire_at <= self.clock.ms:
            return None
        return record

    def token(self, key: Key) -> Token:
        return ABSENT if self.live(key) is None else self.tokens[key][-1]

    def change(self, key: Key, step: Step) -> Change:
        """The step as a change that a caller may ask for."""
        expect: Token | None = self.token(key)
        if step.expect == "absent":
            expect = ABSENT
        elif step.expect == "before":
            expect = next((t for t in reversed(self.tokens[key]) if t != expect), expect)
        elif step.expect == "none" and step.op in (Op.PUT, Op.DELETE):
            expect = None
        op = Op.ASSERT if step.op is Op.EXPIRE and expect == ABSENT else step.op
        expire_at = self.clock.ms + step.lifetime if step.lifetime else 0
        size = len(step.payload)
        record = Record(step.payload, 1, next(_write_ids), expire_at, 2 * size, size)
        return Change(op, key, expect, record if op in (Op.PUT, Op.EXPIRE) else None)

    def holds(self, group: list[Change]) -> bool:
        return all(change.expect in (None, self.token(change.key)) for change in group)

    def apply(self, change: Change, token: Token) -> None:
        if change.op is Op.DELETE:
            self.records.pop(change.key, None)
        if change.record is not None:
            record = change.record
            if change.op is Op.EXPIRE:
                old = self.records[change.key]
                record = old._replace(write_id=record.write_id, expire_at=record.expire_at)
            self.records[change.key] = record
            assert token not in (ABSENT, *self.tokens[change.key])
            self.tokens[change.key].append(token)


async def run(store: Store, model: Model, steps: dict[Key, Step]) -> None:
    groups: list[list[Change]] = []
    for key, step in steps.items():
        change = model.change(key, step)
        if groups and step.joined and store.atomic_groups:
            groups[-1].append(change)
        else:
            groups.append([change])
    outcomes = await store.commit(groups)
    for group, outcome, holds in zip(groups, outcomes, [model.holds(group) for group in groups], strict=True):
        if not holds:
            assert outcome == CONFLICT
            continue
        assert outcome.tokens is not None
        for change, token in zip(group, outcome.tokens, strict=True):
            model.apply(change, token)
            if change.op is Op.DELETE:
                assert token == ABSENT
            elif change.op is Op.ASSERT:
                assert token == change.expect


async def compare(store: Store, model: Model) -> None:
    loaded = await store.load(KEYS, Want.WHOLE)
    assert [each.record for each in loaded] == [model.live(key) for key in KEYS]
    assert [each.token for each in loaded] == [model.token(key) for key in KEYS]
    infos, after = await store.scan(0, b"p:", None, 100)
    assert after is None
    assert sorted(infos) == sorted(
        KeyInfo(key.name, record.kind, record.expire_at)
        for key in KEYS[:2]
        if (record := model.live(key)) is not None
    )
    assert await store.size(0, b"") == sum(model.live(key) is not None for key in KEYS[:3])


@settings(
    max_examples=40,
    deadline=None,
    # The fixtures are shared by all examples: each empties the store first, and the clock only moves on.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(actions=st.lists(COMMIT | WAIT, max_size=12))
async def test_a_store_acts_as_its_model(
    store: Store, clock: ManualClock, actions: list[dict[Key, Step] | Wait]
) -> None:
    await store.clear(None, b"")
    model = Model(clock)
    for action in actions:
        if isinstance(action, Wait):
            clock.advance(action.ms)
            if action.sweep:
                await store.sweep(100)
        else:
            await run(store, model, action)
        await compare(store, model)
