"""A file that says how far some work on a backend's keys has come, so that it goes on after any end."""

from __future__ import annotations

import json
import os
import time
from base64 import b64decode, b64encode
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)
else:
    T = TypeVar("T")

VERSION: Final = 1
# How often the file is written, at most: it is synced each time.
INTERVAL: Final = 0.5  # seconds


def as_text(position: object) -> str:
    """The position of a walk, to be kept; from one that is not bytes it can't go on, but begins anew."""
    return b64encode(position).decode() if isinstance(position, bytes) else ""


def as_position(text: str) -> bytes | None:
    """What ``as_text`` has made; None: the begin."""
    return b64decode(text) if text else None


class BadState(Exception):
    """The file can't be used; the message says why, in one line."""


class StateFile(Generic[T]):
    """The file at ``path`` with a ``kind`` of state.

    ``what`` names the work (``copy``), and ``job`` says which one it is: only the same one goes on from it.
    """

    def __init__(self, path: Path, kind: type[T], what: str, job: dict[str, object]) -> None:
        self.path = path
        self._kind = kind
        self._what = what
        self._job = job
        self._pending = ""
        self._written_at = 0.0

    def load(self) -> T | None:
        """Where the work stood, or None where it has not begun; raises BadState."""
        foreign = f"{self.path}: is not the state of a {self._what}; name another file by --state"
        try:
            found = json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadState(f"{self.path}: can't be read: {error.strerror}") from None
        except ValueError:
            raise BadState(foreign) from None
        names = {entry.name for entry in fields(self._kind)}
        state = found.get("state") if isinstance(found, dict) else None
        if not isinstance(state, dict) or found.get("version") != VERSION or state.keys() != names:
            raise BadState(foreign)
        if found.get(self._what) != self._job:
            raise BadState(
                f"{self.path}: is the state of another {self._what}; remove it, or name another by --state"
            )
        return self._kind(**state)

    def keep(self, state: T) -> None:
        """From here the work can go on; written at once or within ``INTERVAL``.  Raises BadState."""
        content = {"version": VERSION, self._what: self._job, "state": asdict(state)}
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
        """The work is done."""
        self._pending = ""
        self.path.unlink(missing_ok=True)
