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


class UndoLog:
    """Steps that undo changes, to be taken in reverse; everything is to be logged before it is changed."""

    def __init__(self) -> None:
        self.open: bool = False
        self._steps: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self._kept: dict[int, object] = {}  # by their ids, which are theirs as long as they stand here

    def begin(self) -> None:
        self.open = True

    def end(self) -> None:
        """Let what was changed stand."""
        self.open = False
        self._steps = []
        self._kept = {}

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
        self._steps.append((call, args))

    # Any: of lists and dicts of whatever elements.

    def splice(self, items: Any, at: int, count: int, removed: Any) -> None:
        """In a list or bytearray ``removed`` is about to be replaced by ``count`` others, from ``at`` on."""
        self._steps.append((_splice, (items, at, count, removed)))

    def keep(self, items: dict[Any, Any]) -> None:
        """A small dict is about to change."""
        if self.first(items):
            self._steps.append((_refill, (items, items.copy())))


def _splice(items: Any, at: int, count: int, removed: Any) -> None:
    items[at : at + count] = removed


def _refill(items: dict[Any, Any], kept: dict[Any, Any]) -> None:
    items.clear()
    items.update(kept)


UNDO: Final = UndoLog()
