"""Where a copy stands: what its file holds, so that it can go on after it was ended in any way."""

from __future__ import annotations

import json
import os
import time
from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Final

VERSION: Final = 1
EXAMPLES: Final = 5  # keys that are named of those that are counted
# How often the file is written, at most: it is synced each time.
INTERVAL: Final = 0.5  # seconds


class BadState(Exception):
    """The file can't be used; the message says why, in one line."""


@dataclass(slots=True)
class State:
    """A pass over all keys, as far as it has come; counts are of this pass."""

    number: int = 1  # of the pass
    removing: bool = False  # whether the source's keys are through, and the target's are gone over
    life: str = ""  # of the source, when the pass began
    position: str = ""  # in the walk: base64, empty at its begin
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
        return b64decode(self.position) if self.position else None

    def move(self, position: object) -> None:
        """The walk has come to a position; from one that is not bytes it can't go on, but begins anew."""
        self.position = b64encode(position).decode() if isinstance(position, bytes) else ""

    @property
    def begun(self) -> bool:
        return bool(self.position or self.removing)


class StateFile:
    """The file at ``path``; ``copy`` says which copy's it is: only the same one goes on from it."""

    def __init__(self, path: Path, copy: dict[str, object]) -> None:
        self.path = path
        self._copy = copy
        self._pending = ""
        self._written_at = 0.0

    def load(self) -> State | None:
        """Where the copy stood, or None where it has not begun; raises BadState."""
        try:
            found = json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadState(f"{self.path}: can't be read: {error.strerror}") from None
        except ValueError:
            raise BadState(f"{self.path}: is not the state of a copy; name another file by --state") from None
        names = {entry.name for entry in fields(State)}
        state = found.get("state") if isinstance(found, dict) else None
        if not isinstance(state, dict) or found.get("version") != VERSION or state.keys() != names:
            raise BadState(f"{self.path}: is not the state of a copy; name another file by --state")
        if found.get("copy") != self._copy:
            raise BadState(
                f"{self.path}: is the state of another copy; remove it, or name another by --state"
            )
        return State(**state)

    def keep(self, state: State) -> None:
        """From here the copy can go on; written at once or within ``INTERVAL``.  Raises BadState."""
        content = {"version": VERSION, "copy": self._copy, "state": asdict(state)}
        self._pending = json.dumps(content, indent=1) + "\n"
        if time.monotonic() - self._written_at >= INTERVAL:
            self.flush()

    def flush(self) -> None:
        """Write what was kept last, whole or not at all.  Raises BadState."""
        if not self._pending:
            return
        beside = self.path.with_name(self.path.name + ".new")
        try:
            # Not for others to read: keys are named in it.
            with open(
                os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
            ) as file:
                file.write(self._pending)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
        except OSError as error:
            raise BadState(f"{self.path}: can't be written: {error.strerror}") from None
        self._pending = ""
        self._written_at = time.monotonic()

    def remove(self) -> None:
        """The copy is done."""
        self._pending = ""
        self.path.unlink(missing_ok=True)
