"""How fast work on many keys goes, and for how long it waits for a backend that can't serve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from backends.base import StoreError
from proxy.clock import Clock
from proxy.sides import Away
from proxy.views import View

T = TypeVar("T")

# How long a backend that can't serve is waited for, and how often it is asked.
PATIENCE: Final = 30.0  # seconds
PAUSE: Final = 1.0  # seconds


class Pace:
    """At most ``rate`` keys a second, 0: any number; it keeps the ``clock`` going too."""

    def __init__(self, rate: int, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._due = 0.0  # when the next batch may begin, by the loop's time

    def batch(self, most: int) -> int:
        """How many keys are a batch, ``most`` at most: never more than a second's."""
        return min(most, self._rate) if self._rate else most

    async def keep(self, keys: int) -> None:
        """Wait until a batch of so many keys may begin."""
        self._clock.tick()
        if not self._rate:
            return
        now = asyncio.get_running_loop().time()
        if self._due > now:
            await asyncio.sleep(self._due - now)
        self._due = max(self._due, now) + keys / self._rate
        self._clock.tick()


async def patiently(step: Callable[[], Awaitable[T]], clock: Clock, view: View) -> T:
    """The result of a step that may be repeated, once the backends can serve; raises Away and StoreError."""
    loop = asyncio.get_running_loop()
    since: float | None = None
    while True:
        try:
            return await step()
        except (Away, StoreError) as error:
            if since is None:
                since = loop.time()
                view.note(f"waiting: {error}")
            elif loop.time() - since > PATIENCE:
                raise
        await asyncio.sleep(PAUSE)
        clock.tick()
