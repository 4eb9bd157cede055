"""How much, and how often: what all clients together have asked and been sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from proxy.commands.spec import CommandSpec, every_spec

SAMPLES: Final = 16  # of a rate: at ten a second, a good second and a half


class Rate:
    """How often something happens in a second, by its count at the last few samples."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES)

    def sample(self, ms: int, count: int) -> None:
        """The count at a time."""
        self._samples.append((ms, count))

    def per_second(self) -> int:
        if len(self._samples) < 2:
            return 0
        (first_ms, first), (last_ms, last) = self._samples[0], self._samples[-1]
        # A count that was reset, or a clock that was set back, must not show.
        return max(last - first, 0) * 1000 // max(last_ms - first_ms, 1)


class Traffic(NamedTuple):
    """Of all clients so far: bytes, and how many times the sockets were read and written."""

    received: int
    sent: int
    reads: int
    writes: int


def commands_run(table: Mapping[bytes, CommandSpec]) -> int:
    """How many commands have been run."""
    return sum(spec.calls for spec in every_spec(table))
