"""Removes what has expired from a store, as much at a time as there is, and seldom where there is nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from backends.base import StoreError

log = logging.getLogger("redtier")

PORTION: Final = 1000  # records of one sweep


class Sweeper:
    """``sweep`` removes up to so many records that have expired, and tells how many went.

    After a portion that was full the next follows at once.  Then it pauses: for ``least``, and while it finds
    nothing for twice as long each time, up to ``most`` (seconds).  ``active`` tells whether it may work now.
    """

    def __init__(
        self,
        name: str,
        sweep: Callable[[int], Awaitable[int]],
        least: float,
        most: float,
        active: Callable[[], bool],
    ) -> None:
        self._name = name
        self._sweep = sweep
        self._least = least
        self._most = max(least, most)
        self._active = active

    async def run(self) -> None:
        """Until it is cancelled."""
        pause = self._least
        while True:
            await asyncio.sleep(pause)
            found = await self._round()
            pause = self._least if found else min(2 * pause, self._most)

    async def _round(self) -> bool:
        """Remove all that has expired; whether there was anything."""
        found = False
        try:
            while self._active():
                gone = await self._sweep(PORTION)
                found = found or gone > 0
                if gone < PORTION:
                    break
        except StoreError as error:
            log.warning("backend '%s' could not be swept: %s", self._name, error)
        except Exception:  # of ours, but no reason to remove nothing any more
            log.exception("backend '%s' could not be swept", self._name)
        return found
