"""What is to be logged seldom, however often it happens."""

from __future__ import annotations

import asyncio
import logging


class Complaints:
    """Lines for a log: of each kind one a second, which says how many were left out since."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said_at: dict[str, float] = {}  # by kind, by the loop's time
        self._unsaid: dict[str, int] = {}

    def say(self, kind: str, line: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._said_at.get(kind, -1.0) < 1.0:
            self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
            return
        self._said_at[kind] = now
        more = self._unsaid.pop(kind, 0)
        self._log.warning("%s%s", line, f" ({more} more like it since the last such line)" if more else "")
