"""How to get back to what was there before a script began.

While the log is open, whatever changes a collection first writes down how it is undone.  What is small (a
node, a shard, a few numbers) is kept as it was, once; of a long list only the places that change are.  So the
log costs what is changed, whatever the size of the collection, and brings back its very structure: sizes and
the order of elements too.

There is one log, since there is one script at a time: it runs to its end before anything else does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

STEP: Final = 200  # bytes that a step takes, about, beside what it holds
NO_LIMIT: Final = 1 << 60
WHOLE: Final = -1


class UndoLimit(Exception):
    """The log holds as much as it may: the change that was to be logged is not to be made."""


class UndoLog:
    """Steps that undo changes, to be taken in reverse; everything is to be logged before it is changed.

    What logs raises ``UndoLimit`` where the log would hold more bytes, about, than ``begin`` has set.
    """

    def __init__(self) -> None:
        self.open: bool = False
        self._steps: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self._kept: dict[int, object] = {}  # by their ids, which are theirs as long as they stand here
        self._patched: dict[int, int] = {}  # buffers by their ids: bytes that their steps take, or WHOLE
        self._left: int = 0  # bytes that more steps may take

    def begin(self, limit: int = NO_LIMIT) -> None:
        self.open = True
        self._left = limit

    def end(self) -> None:
        """Let what was changed stand."""
        self.open = False
        self._steps = []
        self._kept = {}
        self._patched = {}

    def undo(self) -> None:
        steps = self._steps
        self.end()
        while steps:
            call, args = steps.pop()
            call(*args)

    def first(self, thing: object) -> bool:
        """Whether it was not asked before for this object: what keeps all of it need keep it but once."""
        if id(thing) in self._kept:
            return False
        self._kept[id(thing)] = thing
        return True

    def step(self, call: Callable[..., object], *args: object) -> None:
        size = 0
        for arg in args:
            if isinstance(arg, (bytes, bytearray)):
                size += len(arg)
            elif isinstance(arg, list):
                size += 8 * len(arg)
            elif isinstance(arg, dict):
                size += STEP * len(arg)
        self._left -= STEP + size
        if self._left < 0:
            raise UndoLimit
        self._steps.append((call, args))

    # Any: of lists and dicts of whatever elements.

    def splice(self, items: Any, at: int, count: int, removed: Any) -> None:
        """In a list or bytearray ``removed`` is about to be replaced by ``count`` others, from ``at`` on."""
        self.step(_splice, items, at, count, removed)

    def keep(self, items: dict[Any, Any]) -> None:
        """A small dict is about to change."""
        if self.first(items):
            self.step(_refill, items, items.copy())

    def patch(self, buffer: bytearray, at: int, count: int, removed: bytes | bytearray) -> None:
        """``splice``, of a buffer that may be written to again and again: then all of it is kept, once."""
        taken = self._patched.get(id(buffer), 0)
        if taken == WHOLE:
            return
        taken += STEP + len(removed)
        if taken > len(buffer):
            self.step(_splice, buffer, 0, NO_LIMIT, bytes(buffer))
            taken = WHOLE
        else:
            self.splice(buffer, at, count, removed)
        self._patched[id(buffer)] = taken


def _splice(items: Any, at: int, count: int, removed: Any) -> None:
    items[at : at + count] = removed


def _refill(items: dict[Any, Any], kept: dict[Any, Any]) -> None:
    items.clear()
    items.update(kept)


UNDO: Final = UndoLog()
