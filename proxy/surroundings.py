"""What a script may ask beside its own keys: see ``proxy.commands.scriptcalls``."""

from __future__ import annotations

import random

from proxy import errors
from proxy.commands.scriptcalls import Surroundings
from proxy.glob import Glob
from proxy.homes import MemoryHome
from proxy.pubsub import PubSub
from proxy.router import Router
from proxy.walks import PAGE, Walks


class ServerSurroundings(Surroundings):
    """Of a whole server: memory answers, where nobody else would have to be asked."""

    def __init__(self, router: Router, walks: Walks, pubsub: PubSub) -> None:
        self._router = router
        self._walks = walks
        self._pubsub = pubsub

    def receivers(self, command: bytes, channel: bytes) -> int:
        return self._pubsub.receivers(command, channel)

    def size(self, db: int) -> int:
        return sum([home.backend.size(db) for home in self._all("dbsize")])

    def names(self, title: str, db: int, pattern: Glob) -> dict[bytes, int]:
        names: dict[bytes, int] = {}
        for step in self._walks.start(db, pattern).steps:
            home = step.home
            if not isinstance(home, MemoryHome):
                raise errors.not_in_scripts(title)
            position: tuple[int, int] | None = (0, 0)
            while position is not None:
                entries, position = home.backend.scan(db, position, PAGE)
                names.update((each.key, each.kind) for each in entries if pattern.matches(each.key))
        return names

    def random_key(self, db: int) -> bytes | None:
        homes = self._all("randomkey")
        random.shuffle(homes)
        for home in homes:
            entry = home.backend.random_entry(db)
            if entry is not None:
                return entry.key
        return None

    def _all(self, title: str) -> list[MemoryHome]:
        homes = [home for home in self._router.homes if isinstance(home, MemoryHome)]
        if len(homes) < len(self._router.homes):
            raise errors.not_in_scripts(title)
        return homes
