"""When a copy is done, and what it does with what changes meanwhile, between two dicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from proxy import pace, sides
from proxy.clock import Clock
from proxy.copying import passes
from proxy.copying.passes import Copy
from proxy.copying.state import State
from proxy.errors import CommandError
from proxy.glob import Glob
from proxy.keyspace import STRING
from proxy.moves import Value
from proxy.sides import Away, Found, Large, Side
from proxy.statefile import StateFile

pytestmark = pytest.mark.once  # it is not compiled


class Dict(Side):
    """A side whose keys are in a dict, in pages of two; ``hook`` is called before each reading."""

    def __init__(self, **values: str) -> None:
        self.values = {name.encode(): Value(STRING, data.encode(), 0) for name, data in values.items()}
        self.hook: Callable[[], None] = lambda: None
        self.batches: list[list[bytes]] = []
        self.large: set[bytes] = set()
        self.walked: list[object] = []
        self.lives = 1

    async def life(self) -> str:
        return str(self.lives)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def size(self, prefix: bytes) -> int | None:
        return len(self.values)

    async def walk(self, prefix: bytes, position: object) -> tuple[list[bytes], object]:
        self.walked.append(position)
        after = position if isinstance(position, bytes) else b""
        names = sorted(name for name in self.values if name > after and name.startswith(prefix))
        return names[:2], names[1] if len(names) > 2 else None

    async def read(self, names: Sequence[bytes]) -> list[Found]:
        self.hook()
        return [Large(10) if name in self.large else self.values.get(name) for name in names]

    async def read_whole(self, names: Sequence[bytes]) -> list[Found]:
        self.batches.append(list(names))
        return [self.values.get(name) for name in names]

    async def have(self, names: Sequence[bytes]) -> list[bool]:
        return [name in self.values for name in names]

    async def write(self, values: dict[bytes, Value]) -> list[CommandError | bool]:
        self.values.update(values)
        return [True] * len(values)

    def place(self, name: bytes) -> Any:
        return DictPlace(self, name)


class DictPlace:
    def __init__(self, side: Dict, name: bytes) -> None:
        self.side, self.name = side, name

    async def read(self) -> Value | None:
        return self.side.values.get(self.name)

    async def remove(self, value: Value) -> bool:
        return self.side.values.pop(self.name, None) == value


class Nobody:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def show(self, state: State) -> None: ...

    def passed(self, state: State) -> None: ...

    def note(self, line: str) -> None:
        self.notes.append(line)

    def close(self) -> None: ...


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., Copy]:
    def make(
        source: Dict, target: Dict, state: State | None = None, remove: bool = False, mirrored: str = ""
    ) -> Copy:
        file = StateFile(tmp_path / "state", State, "copy", {})
        view = Nobody()
        mirrors = mirrored.encode().__contains__
        return Copy(source, target, Glob(b"*"), state or State(), file, view, Clock(), mirrors, 0, remove)

    return make


async def test_it_is_done_after_a_pass_that_found_nothing(copy: Callable[..., Copy]) -> None:
    source, target = Dict(a="1", b="2", c="3"), Dict(b="2")
    work = copy(source, target)
    assert await work.run(5)
    assert target.values == source.values
    assert (work.state.number, work.state.compared, work.state.copied) == (2, 3, 0)


async def test_what_keeps_changing_is_never_called_equal(copy: Callable[..., Copy]) -> None:
    source, target = Dict(a="1", b="2"), Dict()
    number = 0

    def change() -> None:
        nonlocal number
        number += 1
        source.values[b"b"] = Value(STRING, b"%d" % number, 0)

    source.hook = change
    work = copy(source, target)
    assert not await work.run(3)
    assert (work.state.number, work.state.copied, work.state.differing) == (3, 1, ["b"])


async def test_what_keeps_changing_and_is_mirrored_keeps_no_pass_from_being_the_last(
    copy: Callable[..., Copy],
) -> None:
    source, target = Dict(a="1", b="2", c="3"), Dict()
    number = 0

    def change() -> None:
        nonlocal number
        number += 1
        source.values[b"b"] = Value(STRING, b"%d" % number, 0)

    source.hook = change
    work = copy(source, target, mirrored="bc")
    assert await work.run(3)
    assert (work.state.number, work.state.copied, work.state.moving) == (2, 0, 1)
    target.values[b"c"] = Value(STRING, b"stands still, and differs", 0)
    work = copy(source, target, State(number=2), mirrored="bc")
    assert await work.run(3)
    assert target.values[b"c"] == source.values[b"c"]


async def test_a_pass_that_was_taken_up_in_its_middle_proves_nothing(copy: Callable[..., Copy]) -> None:
    source, target = Dict(a="1", b="2", c="3", d="4"), Dict(b="2", c="3", d="4")
    state = State(compared=2)
    state.move(b"b")
    work = copy(source, target, state)
    assert await work.run(5)
    assert source.walked[0] == b"b"
    assert work.state.number == 3, "pass 1 could not see a; pass 2 copied it, pass 3 found nothing"
    assert target.values == source.values


async def test_a_mirrored_write_on_its_way_is_no_difference(
    copy: Callable[..., Copy], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = Dict(a="new"), Dict(a="old")
    written: list[object] = []

    async def arrive(seconds: float) -> None:
        if seconds:
            written.append(seconds)
            target.values[b"a"] = source.values[b"a"]

    monkeypatch.setattr(passes.asyncio, "sleep", arrive)
    work = copy(source, target, State(number=2))
    assert await work.run(1)
    assert (written, work.state.copied) == ([passes.SETTLE], 0)


async def test_a_value_that_grows_while_it_is_looked_for_again_is_copied(
    copy: Callable[..., Copy], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = Dict(a="new"), Dict(a="old")

    async def grow(seconds: float) -> None:
        if seconds:
            source.large = {b"a"}

    monkeypatch.setattr(passes.asyncio, "sleep", grow)
    work = copy(source, target, State(number=2))
    await work.run(1)
    assert (work.state.copied, target.values) == (1, source.values)


async def test_delete_removes_and_looks_again(copy: Callable[..., Copy]) -> None:
    source, target = Dict(a="1"), Dict(a="1", b="2", c="3", d="4")
    work = copy(source, target, remove=True)
    assert await work.run(5)
    assert target.values == source.values
    assert work.state.number == 2


async def test_without_delete_what_only_the_target_has_is_counted(copy: Callable[..., Copy]) -> None:
    source, target = Dict(a="1"), Dict(a="1", b="2", c="3", d="4")
    work = copy(source, target)
    assert await work.run(5)
    assert work.state.extra == 3
    assert len(target.values) == 4


async def test_large_values_go_in_groups_that_are_bounded(
    copy: Callable[..., Copy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sides, "LARGE_AT_ONCE", 15)
    source, target = Dict(a="1", b="2", c="3"), Dict()
    source.large = {b"a", b"b"}
    assert await copy(source, target).run(5)
    assert target.values == source.values
    assert source.batches[:2] == [[b"a"], [b"b"]], "of ten bytes each, as the side says"


async def test_a_side_that_is_away_is_waited_for_only_so_long(
    copy: Callable[..., Copy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "PAUSE", 0.01)
    source, target = Dict(a="1"), Dict()
    left = 3

    def away() -> None:
        nonlocal left
        left -= 1
        if left > 0:
            raise Away("backend 'x' is away")

    target.hook = away
    work = copy(source, target)
    assert await work.run(5)
    assert target.values == source.values
    left = 10**9
    monkeypatch.setattr(pace, "PATIENCE", 0.05)
    with pytest.raises(Away, match="backend 'x' is away"):
        await copy(source, target).run(5)


@pytest.mark.parametrize("removing", [False, True])
async def test_what_a_source_has_lost_by_itself_is_not_removed(
    copy: Callable[..., Copy], removing: bool
) -> None:
    """It is started anew, with nothing, while its keys are compared or while the target is gone over."""
    source = Dict(**dict.fromkeys("abcdefgh", "1"))
    target = Dict(**dict.fromkeys("abcdefgh", "1"), other="2")
    work = copy(source, target, remove=True)

    def lose() -> None:
        if work.state.compared >= 4 and work.state.removing == removing:
            source.values.clear()
            source.lives = 2

    source.hook = target.hook = lose
    have = source.have

    async def losing(names: Sequence[bytes]) -> list[bool]:
        lose()
        return await have(names)

    source.have = losing  # type: ignore[method-assign]
    await work.run(3)
    assert source.lives == 2
    assert target.values.keys() >= set(map(str.encode, "abcdefgh"))
