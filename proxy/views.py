"""How far work on many keys is, on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Final, NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY: Final = 5.0  # seconds between two plain lines


class Stage(NamedTuple):
    """One part of the work, such as a pass over all keys, as far as it has come."""

    name: str  # another one than before: the bar begins anew
    doing: str  # the name, or more than that
    done: int
    total: int | None  # as far as it is known; there may be more by now
    unit: str  # what is done, as in "keys compared"
    counts: str  # what became of it, in words; may be empty


class View(Protocol):
    def show(self, stage: Stage) -> None:
        """A stage has come so far."""

    def passed(self, stage: Stage) -> None:
        """A stage is through."""

    def note(self, line: str) -> None:
        """Something else that whoever watches should know."""

    def close(self) -> None:
        """Nothing more is shown; as often as one likes."""


def view(title: str) -> View:
    """What suits stderr."""
    return Bar(title) if sys.stderr.isatty() else Lines(title)


class Lines:
    def __init__(self, title: str) -> None:
        self._title = title
        self._shown_at = time.monotonic()

    def show(self, stage: Stage) -> None:
        if time.monotonic() - self._shown_at >= EVERY:
            self._line(stage, stage.doing)

    def passed(self, stage: Stage) -> None:
        self._line(stage, f"{stage.name} is through")

    def _line(self, stage: Stage, what: str) -> None:
        total = f" of {stage.total:,}" if stage.total is not None else ""
        counts = f", {stage.counts}" if stage.counts else ""
        self.note(f"{what}: {stage.done:,}{total} {stage.unit}{counts}")
        self._shown_at = time.monotonic()

    def note(self, line: str) -> None:
        print(f"{self._title}: {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class Bar:
    def __init__(self, title: str) -> None:
        self._title = title
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True, markup=False, highlight=False),
            redirect_stdout=sys.stdout.isatty(),  # lines go above the bar, or where they are sent
        )
        self._name = ""
        self._task = self._progress.add_task(title, total=None, counts="")
        self._progress.start()

    def show(self, stage: Stage) -> None:
        if stage.name != self._name:
            self._name = stage.name
            self._progress.reset(self._task)  # so that the time that is left is reckoned anew
        self._progress.update(
            self._task,
            description=f"{self._title}: {stage.doing}",
            completed=stage.done,
            # There may be more by now than there were when they were counted.
            total=None if stage.total is None else max(stage.total, stage.done),
            counts=stage.counts,
        )

    def passed(self, stage: Stage) -> None:
        self.show(stage)

    def note(self, line: str) -> None:
        self._progress.console.print(f"{self._title}: {line}", soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()
