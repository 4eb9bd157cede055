"""Where a copy stands: what its file (``proxy.statefile``) holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from proxy.statefile import as_position, as_text
from proxy.views import Stage

EXAMPLES: Final = 5  # keys that are named of those that are counted


@dataclass(slots=True)
class State:
    """A pass over all keys, as far as it has come; counts are of this pass."""

    number: int = 1  # of the pass
    removing: bool = False  # whether the source's keys are through, and the target's are gone over
    life: str = ""  # of the source, when the pass began
    position: str = ""  # in the walk, empty at its begin
    total: int | None = None  # keys, as far as it is known before
    compared: int = 0  # keys of the source
    copied: int = 0
    moving: int = 0  # keys that differ since they are being written, and mirrored
    removed: int = 0  # from the target
    extra: int = 0  # keys of the target that the source has not, and that stay
    refused: int = 0
    differing: list[str] = field(default_factory=list)  # the first of those copied or removed
    refusals: list[str] = field(default_factory=list)  # the first of them, with their errors

    def at(self) -> bytes | None:
        return as_position(self.position)

    def move(self, position: object) -> None:
        """The walk has come to a position."""
        self.position = as_text(position)

    def stage(self) -> Stage:
        name = f"pass {self.number}"
        done = [f"{self.copied:,} copied"]
        if self.removed:
            done.append(f"{self.removed:,} removed")
        if self.refused:
            done.append(f"{self.refused:,} refused")
        doing = f"{name}, keys of the target" if self.removing else name
        return Stage(name, doing, self.compared, self.total, "keys compared", ", ".join(done))

    @property
    def begun(self) -> bool:
        return bool(self.position or self.removing)
