"""Who may believe what was read from a store that has one writer at a time.

The writer hears of every change, since it makes them all.  The others hear what the store itself can tell;
where it tells nothing, they ask it whether what they have is still so.
"""

from __future__ import annotations

from collections.abc import Callable

from backends.base import Changes, Key, Tracker


class Handover(Changes):
    """Between a store's own ``Changes`` and who listens to the store behind a journal."""

    def __init__(self, told: Changes, listen: Callable[[Changes], Tracker | None], writes: bool) -> None:
        self._told = told
        self._writes = writes
        self._hears = False
        self._tracker = listen(self)
        if writes:
            told.began()

    def writer(self, writes: bool, doubt: bool) -> None:
        """Whether we are the one that writes; ``doubt``: another may have written before now."""
        before, self._writes = self._writes or self._hears, writes
        self._tell(before, doubt)

    def began(self) -> None:
        before, self._hears = self._writes or self._hears, True
        self._tell(before, True)

    def changed(self, keys: list[Key] | None) -> None:
        self._told.changed(keys)

    def ended(self) -> None:
        before, self._hears = self._writes or self._hears, False
        self._tell(before, False)

    def _tell(self, before: bool, doubt: bool) -> None:
        now = self._writes or self._hears
        if now and not before:
            self._told.began()
        elif before and not now:
            self._told.ended()
        elif now and doubt:
            self._told.changed(None)

    async def close(self) -> None:
        if self._tracker is not None:
            await self._tracker.close()


class Listening(Tracker):
    def __init__(self, handover: Handover) -> None:
        self._handover = handover

    async def close(self) -> None:
        await self._handover.close()
