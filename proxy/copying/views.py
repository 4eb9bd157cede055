"""How far a copy is, on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proxy.copying.state import State

EVERY: Final = 5.0  # seconds between two plain lines


class View(Protocol):
    def show(self, state: State) -> None:
        """A pass has come so far."""

    def passed(self, state: State) -> None:
        """A pass is through."""

    def note(self, line: str) -> None:
        """Something else that whoever watches should know."""

    def close(self) -> None:
        """Nothing more is shown; as often as one likes."""


def view(title: str) -> View:
    """What suits stderr."""
    return Bar(title) if sys.stderr.isatty() else Lines(title)


def counts(state: State) -> str:
    """What a pass has done, in words."""
    done = [f"{state.copied:,} copied"]
    if state.removed:
        done.append(f"{state.removed:,} removed")
    if state.refused:
        done.append(f"{state.refused:,} refused")
    return ", ".join(done)


def doing(state: State) -> str:
    return f"pass {state.number}" + (", keys of the target" if state.removing else "")


class Lines:
    def __init__(self, title: str) -> None:
        self._title = title
        self._shown_at = time.monotonic()

    def show(self, state: State) -> None:
        if time.monotonic() - self._shown_at >= EVERY:
            self._line(state, doing(state))

    def passed(self, state: State) -> None:
        self._line(state, f"pass {state.number} is through")

    def _line(self, state: State, what: str) -> None:
        total = f" of {state.total:,}" if state.total is not None else ""
        self.note(f"{what}: {state.compared:,}{total} keys compared, {counts(state)}")
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
        )
        self._number = 0
        self._task = self._progress.add_task(title, total=None, counts="")
        self._progress.start()

    def show(self, state: State) -> None:
        if state.number != self._number:
            self._number = state.number
            self._progress.reset(self._task)  # so that the time that is left is reckoned anew
        # The source may have more keys by now than it had when they were counted.
        total = None if state.total is None else max(state.total, state.compared)
        self._progress.update(
            self._task,
            description=f"{self._title}: {doing(state)}",
            completed=state.compared,
            total=total,
            counts=counts(state),
        )

    def passed(self, state: State) -> None:
        self.show(state)

    def note(self, line: str) -> None:
        self._progress.console.print(f"{self._title}: {line}", soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()
