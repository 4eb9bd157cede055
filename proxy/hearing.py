"""What a tier hears of changes that others make to its store: other proxies, copies, mirrors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.base import Changes, Key

if TYPE_CHECKING:
    from proxy.tier import Tier


class Hearing(Changes):
    """Passes on to one tier what its store tells, and counts it.

    It begins deaf: until the store tells of changes, nothing that is kept is believed.
    """

    def __init__(self, tier: Tier) -> None:
        self.live: bool = False
        self.invalidations: int = 0  # keys of which others told
        self.flushes: int = 0  # times that any key may have changed
        self._tier: Tier = tier

    def began(self) -> None:
        self.live = True
        self.flushes += 1
        self._tier.hear(True)

    def changed(self, keys: list[Key] | None) -> None:
        if keys is None:
            self.flushes += 1
            self._tier.changed_all()
        else:
            self.invalidations += len(keys)
            self._tier.changed(keys)

    def ended(self) -> None:
        self.live = False
        self._tier.hear(False)
