"""How far a verification is, on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proxy.options import show_size
from proxy.verifying.walk import Tally

EVERY: Final = 5.0  # seconds between two plain lines


class View(Protocol):
    def begin(self, title: str) -> None:
        """What is verified from now on."""

    def show(self, tally: Tally, total: int | None) -> None:
        """So much is done, of so many keys once they are counted."""

    def note(self, line: str) -> None:
        """Something else that whoever watches should know."""

    def close(self) -> None:
        """Nothing more is shown; as often as one likes."""


def view() -> View:
    """What suits stderr."""
    return Bar() if sys.stderr.isatty() else Lines()


def counts(tally: Tally) -> str:
    """In words."""
    return f"{round_size(tally.size)} verified, {tally.damaged:,} damaged"


def round_size(size: int) -> str:
    """To three digits or so, for people."""
    unit = 1
    while size // unit >= 10_000:
        unit <<= 10
    return show_size(size // unit * unit)


class Lines:
    def __init__(self) -> None:
        self._title = ""
        self._shown_at = 0.0

    def begin(self, title: str) -> None:
        self._title = title
        self._shown_at = time.monotonic()

    def show(self, tally: Tally, total: int | None) -> None:
        if time.monotonic() - self._shown_at >= EVERY:
            of = "" if total is None else f" of {total:,}"
            self.note(f"{tally.passed:,}{of} keys, {counts(tally)}")
            self._shown_at = time.monotonic()

    def note(self, line: str) -> None:
        print(f"{self._title}: {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class Bar:
    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True, markup=False, highlight=False),
            redirect_stdout=sys.stdout.isatty(),  # findings go above the bar, or into the file that is named
        )
        self._title = ""
        self._task = self._progress.add_task("", total=None, counts="")
        self._progress.start()

    def begin(self, title: str) -> None:
        self._title = title
        self._progress.reset(self._task, description=title, total=None, counts="")

    def show(self, tally: Tally, total: int | None) -> None:
        if total is not None:
            total = max(total, tally.passed)  # there may be more by now than there were
        self._progress.update(self._task, completed=tally.passed, total=total, counts=counts(tally))

    def note(self, line: str) -> None:
        self._progress.console.print(f"{self._title}: {line}", soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()
