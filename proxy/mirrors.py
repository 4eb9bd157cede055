"""All mirrors of a server: who tells them what is done with keys, and when they are at work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress

from proxy.commands.spec import CommandSpec
from proxy.events import Events
from proxy.homes import UpstreamHome
from proxy.mirror import Mirror
from proxy.observing import Observation, Observer
from proxy.prefixes import PrefixMap
from proxy.router import Home, Route, Router

log = logging.getLogger("redtier.mirror")


class Mirrors(Observer):
    """All mirrors, by the prefixes of their routes."""

    def __init__(self, mirrors: Mapping[bytes, Mirror | None]) -> None:
        self.all = [mirror for mirror in mirrors.values() if mirror is not None]
        self.targets = list(dict.fromkeys(mirror.target for mirror in self.all))
        own = [mirror.source for mirror in self.all if mirror.source is not mirror.route.home]
        self.homes: list[Home] = list(dict.fromkeys([*self.targets, *own]))  # of mirrors alone
        self._map: PrefixMap[Mirror | None] = PrefixMap(mirrors.items())

    def attach(self, router: Router, events: Events, table: dict[bytes, CommandSpec]) -> None:
        """Have told what is done with keys: what changes in memory and in stores, what a Redis is asked."""
        for mirror in self.all:
            home = mirror.route.home
            if not isinstance(home, UpstreamHome):
                events.mirror(self.written)
            elif home.observation is None:
                home.observation = Observation(home.name, table, self)
            if mirror.settings.compare:
                router.observe(mirror.route, self)
                if isinstance(home, UpstreamHome) and home.observation is not None:
                    home.observation.reads = True

    def of(self, route: Route) -> Mirror | None:
        return self._map.find(route.prefix)

    # What is told

    def written(self, db: int, key: bytes) -> None:
        mirror = self._map.find(key)
        if mirror is not None and mirror.covers(key):
            mirror.written(db, key)

    def read(self, db: int, key: bytes) -> None:
        mirror = self._map.find(key)
        if mirror is not None and mirror.covers(key):
            mirror.read(db, key)

    def unknown(self, backend: str, command: str) -> None:
        for mirror in self.all:
            if mirror.route.home.name == backend:
                mirror.drop(f"{command} named no key, and may have changed any")

    def replaced(self, command: str) -> None:
        """All keys of a database, or of all, are gone or others."""
        for mirror in self.all:
            mirror.drop(f"{command} is not mirrored")

    # At work

    def start(self, spawn: Callable[[Coroutine[object, object, None]], object]) -> None:
        for mirror in self.all:
            spawn(mirror.run())

    async def settle(self, patience: float) -> None:
        """Copy what is pending, within so many seconds; no more is written."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await asyncio.gather(*[mirror.settle() for mirror in self.all])
        for mirror in self.all:
            if mirror.pending:
                log.warning(
                    "%s: %d keys were not copied before the end, so a copy is due",
                    mirror.title,
                    mirror.pending,
                )
