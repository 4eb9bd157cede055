"""A copy is the same pass over all keys again and again, until one finds nothing that differs.

A pass compares each key of the source with the target's by value and expiry, and copies what differs.  So the
first one copies what the target has not, the next copies what clients have changed meanwhile, and the last,
which finds nothing, is the proof.  A pass that was taken up in its middle, or in which the source was started
anew, proves nothing (keys may have been skipped, or lost) and removes nothing from then on: another follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final, TypeVar

from proxy.clock import Clock
from proxy.copying.state import EXAMPLES, State
from proxy.errors import CommandError, quote
from proxy.glob import Glob
from proxy.moves import Value
from proxy.pace import Pace, patiently
from proxy.sides import Large, Side, by_size, differ, fate, together
from proxy.statefile import StateFile
from proxy.views import View

T = TypeVar("T")
Work = Callable[[Sequence[bytes]], Awaitable[State]]
"""What is done with a batch of keys; what it returns is added to the counts."""

BATCH: Final = 250  # keys that are read, and written, at once
REMOVED_AT_ONCE: Final = 16  # keys that are removed at once: their values are held meanwhile
# In a later pass, a difference may be a write that is on its way to both: after this it is looked for again.
SETTLE: Final = 0.02  # seconds
SETTLE_MIRRORED: Final = 0.1  # the same where redtier mirrors the key


class Copy:
    """One copy at work, from ``state`` on.

    ``mirrored`` tells of a key whether redtier mirrors its writes from the source to the target; ``rate``
    bounds the keys that are looked at in a second, 0: not at all; ``remove``: keys that the source has not
    are removed from the target.
    """

    def __init__(
        self,
        source: Side,
        target: Side,
        pattern: Glob,
        state: State,
        file: StateFile[State],
        view: View,
        clock: Clock,
        mirrored: Callable[[bytes], bool],
        rate: int,
        remove: bool,
    ) -> None:
        self.state = state
        self._source = source
        self._target = target
        self._pattern = pattern
        self._file = file
        self._view = view
        self._clock = clock
        self._mirrored = mirrored
        self._pace = Pace(rate, clock)
        self._remove = remove
        self._batch = self._pace.batch(BATCH)

    async def run(self, passes: int) -> bool:
        """At most so many passes; whether the last found nothing that differs.  Raises Away and BadState."""
        for number in range(passes):
            if number:
                self.state = State(self.state.number + 1, total=self.state.compared)
            whole = not self.state.begun
            if whole and self.state.total is None:
                self.state.total = await self._patiently(partial(self._source.size, self._pattern.prefix))
            if whole:
                self.state.life = await self._patiently(self._source.course)
            self._keep()
            await self._pass()
            whole = whole and await self._patiently(self._source.course) == self.state.life
            if whole and not self.state.copied and not self.state.removed:
                if not self._remove:
                    await self._go_back(self._count_extra)
                return True
        return False

    async def _pass(self) -> None:
        state = self.state
        if not state.removing:
            await self._walk(self._source, self._compare)
        if self._remove:
            # Of a source without any key it can't be told whether they were deleted or lost.
            await self._go_back(self._take_away if state.compared else self._count_extra)
        self._view.passed(state.stage())

    async def _go_back(self, work: Work) -> None:
        """Go over the target's keys."""
        self.state.removing = True
        self._keep()
        await self._walk(self._target, work)

    async def _walk(self, side: Side, work: Work) -> None:
        """Do the work on all keys of a side, batch by batch, from where the state is."""
        position: object = self.state.at()
        while True:
            page = partial(side.walk, self._pattern.prefix, position)
            names, position = await self._patiently(page)
            names = [name for name in names if self._pattern.matches(name)]
            for at in range(0, len(names), self._batch):
                batch = names[at : at + self._batch]
                await self._pace.keep(len(batch))
                self._add(await self._patiently(partial(work, batch)))
                self._view.show(self.state.stage())
            self.state.move(position)
            if position is None:
                return
            self._keep()

    def _keep(self) -> None:
        self._file.keep(self.state)

    def _add(self, more: State) -> None:
        """Count what was done with a batch."""
        state = self.state
        state.compared += more.compared
        state.copied += more.copied
        state.moving += more.moving
        state.removed += more.removed
        state.extra += more.extra
        state.refused += more.refused
        state.differing = (state.differing + more.differing)[:EXAMPLES]
        state.refusals = (state.refusals + more.refusals)[:EXAMPLES]

    # Work on a batch

    async def _compare(self, names: Sequence[bytes]) -> State:
        """Compare keys, and copy those that differ."""
        done = State(compared=len(names))
        large = await self._level(names, False, done)
        for group in by_size(large):
            await self._level(group, True, done)
        return done

    async def _level(self, names: Sequence[bytes], whole: bool, done: State) -> dict[bytes, int]:
        """Make keys the same; those too large for a batch are left, and returned with their sizes."""
        differing, large = await self._look(names, whole, done)
        if differing and self.state.number > 1:
            await self._settle(differing)
            before = differing
            differing, grown = await self._look(list(before), whole, done)
            large |= grown
            for name, value in list(differing.items()):
                if value != before[name] and self._mirrored(name):
                    # It is being written, and will be mirrored after this.
                    del differing[name]
                    done.moving += 1
        for name, result in zip(differing, await self._target.write(differing), strict=True):
            if isinstance(result, CommandError):
                _refuse(done, name, result)
            else:
                done.copied += 1
                _name(done.differing, name)
        return large

    async def _look(
        self, names: Sequence[bytes], whole: bool, done: State
    ) -> tuple[dict[bytes, Value], dict[bytes, int]]:
        """Which keys differ, with the source's values; which are too large to be read so, with their size."""
        sides = (self._source, self._target)
        found, there = await together((side.read_whole if whole else side.read)(names) for side in sides)
        differing: dict[bytes, Value] = {}
        large: dict[bytes, int] = {}
        for name, value, other in zip(names, found, there, strict=True):
            await asyncio.sleep(0)  # as when they are read
            sizes = [each.size for each in (value, other) if isinstance(each, Large)]
            if sizes:
                large[name] = max(sizes)
            elif isinstance(value, CommandError):
                _refuse(done, name, value)
            elif isinstance(value, Value) and differ(value, other, self._clock.ms):
                differing[name] = value
        return differing, large

    async def _count_extra(self, names: Sequence[bytes]) -> State:
        return State(extra=(await self._source.have(names)).count(False))

    async def _take_away(self, names: Sequence[bytes]) -> State:
        """Remove from the target what the source has not."""
        done = State()
        have = await self._source.have(names)
        if False in have and await self._source.course() != self.state.life:
            return State(extra=have.count(False))  # it is not said that anybody deleted them
        gone = [name for name, there in zip(names, have, strict=True) if not there]
        if self.state.number > 1 and any(map(self._mirrored, gone)):
            await self._settle(gone)
        for at in range(0, len(gone), REMOVED_AT_ONCE):
            part = gone[at : at + REMOVED_AT_ONCE]
            for name, result in zip(part, await together(map(self._take, part)), strict=True):
                if isinstance(result, CommandError):
                    _refuse(done, name, result)
                elif result:
                    done.removed += 1
                    _name(done.differing, name)
        return done

    async def _take(self, name: bytes) -> bool | CommandError:
        """Remove one key, unless it comes to either side meanwhile."""
        place = self._target.place(name)
        value = await fate(place.read())
        if not isinstance(value, Value):
            return value or False
        if (await self._source.have([name]))[0] or await self._source.course() != self.state.life:
            return False
        return await fate(place.remove(value))

    # Time

    async def _settle(self, names: Iterable[bytes]) -> None:
        """Wait until a write that is on its way has most likely come to both sides."""
        await asyncio.sleep(SETTLE_MIRRORED if any(map(self._mirrored, names)) else SETTLE)

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        return await patiently(step, self._clock, self._view)


def _name(examples: list[str], name: bytes) -> None:
    if len(examples) < EXAMPLES:
        examples.append(quote(name))


def _refuse(done: State, name: bytes, error: CommandError) -> None:
    done.refused += 1
    if len(done.refusals) < EXAMPLES:
        done.refusals.append(f"{quote(name)}: {error.text}")
