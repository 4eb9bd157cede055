"""Commands that name no key: they speak for all backends, and only of keys that route back to them.

``SCAN`` goes through one cursor over everything.  What is behind a cursor stands in a bounded table;
one that is not known any more is an error, never a silent end.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import OrderedDict
from typing import Final

from backends.base import KeyInfo
from proxy import errors
from proxy.datatypes.digits import digits
from proxy.glob import Glob
from proxy.homes import ColdHome, MemoryHome
from proxy.keyspace import KIND_NAMES
from proxy.resp import OK, Reply
from proxy.router import COLD, Home, Router

# Keys that one step of a command over all keys asks a backend for, and the most that SCAN's COUNT may.
PAGE: Final = 1000
PAGE_MAX: Final = 10_000
SAMPLE: Final = 100  # keys among which RANDOMKEY chooses
# A cursor is a walk's number and a page of it, below 2**53: JavaScript clients hold it in a double.
_PAGE_BITS: Final = 20
_WALK_BITS: Final = 32


class Step:
    """One stretch of a walk: the keys of a home under a prefix."""

    def __init__(self, home: Home, prefix: bytes) -> None:
        self.home = home
        self.prefix = prefix


class Walk:
    """A walk over all keys of a database that may fit a pattern."""

    def __init__(self, db: int, steps: list[Step]) -> None:
        self.db = db
        self.steps = steps
        # Where page n begins: the step and the home's own position in it.  The one before is kept too,
        # for a client that asks again because a reply was lost.
        self.pages: dict[int, tuple[int, object]] = {0: (0, None)}


class Walks:
    """Walks over all homes, and the table of open cursors."""

    def __init__(self, router: Router, cursors_max: int) -> None:
        self._router = router
        self._cursors_max = cursors_max
        self._walks: OrderedDict[int, Walk] = OrderedDict()
        # From a random start, so that a cursor from before a restart is not taken for a new one.
        self._number = secrets.randbits(_WALK_BITS)

    def start(self, db: int, pattern: Glob) -> Walk:
        """A walk from the beginning; only homes that may hold what the pattern says are asked."""
        literal = pattern.prefix
        steps: list[Step] = []
        for home in self._router.homes:
            prefixes = []
            for route in self._router.of_home(home):
                if route.prefix.startswith(literal):
                    prefixes.append(route.prefix)
                elif literal.startswith(route.prefix):
                    prefixes.append(literal)
            if prefixes and home.kind != COLD:  # walks all of its keys, whatever the prefix
                prefixes = [_common(prefixes)]
            # Of prefixes within each other only the outermost is walked.
            steps += [
                Step(home, prefix)
                for prefix in dict.fromkeys(prefixes)
                if not any(prefix != other and prefix.startswith(other) for other in prefixes)
            ]
        return Walk(db, steps)

    async def page(
        self, walk: Walk, at: tuple[int, object], limit: int
    ) -> tuple[list[KeyInfo], tuple[int, object] | None]:
        """The next keys of a walk, about ``limit``, maybe none, and where it goes on."""
        number, position = at
        while number < len(walk.steps):
            step = walk.steps[number]
            infos, position = await step.home.walk(walk.db, step.prefix, position, limit)
            if position is None:
                number += 1
            # Nothing found is only gone over at a step's end: among the keys of others, the next of our
            # own may be far.
            if infos or position is not None:
                own = [info for info in infos if self._router.find(info.name).home is step.home]
                return own, (number, position) if number < len(walk.steps) else None
        return [], None

    async def scan(self, db: int, cursor: int, pattern: Glob, count: int, type: str) -> Reply:
        """One SCAN: the next cursor and the keys of this page."""
        if cursor == 0:
            walk = self.start(db, pattern)
            self._number = (self._number + 1) % (1 << _WALK_BITS)
            number, page = self._number, 0
        else:
            number, page = cursor >> _PAGE_BITS, cursor & ((1 << _PAGE_BITS) - 1)
            known = self._walks.get(number)
            if known is None or page not in known.pages:
                raise errors.unknown_cursor(cursor)
            walk = known
        # If a backend fails here, the cursor stays good.
        at = walk.pages[page]
        infos, after = await self.page(walk, at, min(count, PAGE_MAX))
        names = await self._fitting(walk.db, infos, pattern, type)
        self._walks.pop(number, None)
        if after is None:
            return [b"0", names]
        walk.pages = {page: at}
        page = page % ((1 << _PAGE_BITS) - 1) + 1  # never 0, which would read as the end
        walk.pages[page] = after
        self._walks[number] = walk
        while len(self._walks) > self._cursors_max:
            self._walks.popitem(last=False)
        return [digits(number << _PAGE_BITS | page), names]

    async def _fitting(self, db: int, infos: list[KeyInfo], pattern: Glob, type: str) -> list[bytes]:
        fitting = [info for info in infos if pattern.matches(info.name)]
        if not type or not fitting:
            return [info.name for info in fitting]
        names: list[bytes] = []
        unknown: dict[Home, list[bytes]] = {}
        for info in fitting:
            if not info.kind:
                unknown.setdefault(self._router.find(info.name).home, []).append(info.name)
            elif KIND_NAMES.get(info.kind) == type:
                names.append(info.name)
        for home, asked in unknown.items():
            kinds = await home.kinds(db, asked)
            names += [name for name, kind in zip(asked, kinds, strict=True) if kind == type]
        return names

    async def keys(self, db: int, pattern: Glob) -> Reply:
        walk = self.start(db, pattern)
        names: dict[bytes, None] = {}  # an upstream may name a key twice
        at: tuple[int, object] | None = (0, None)
        while at is not None:
            infos, at = await self.page(walk, at, PAGE)
            names.update(dict.fromkeys(info.name for info in infos if pattern.matches(info.name)))
            await asyncio.sleep(0)  # memory's pages come without a pause in which others could be served
        return list(names)

    async def size(self, db: int) -> int:
        """DBSIZE: what each home holds under its routes, less what lies there under others' prefixes."""
        total = 0
        for home in self._router.homes:
            if isinstance(home, MemoryHome):  # holds nothing but its own
                total += await home.size(db, b"")
                continue
            for route in self._router.of_home(home):
                total += await home.size(db, route.prefix)
                for nested in self._router.nested(route):
                    total -= await home.size(db, nested.prefix)
        return max(0, total)  # what is counted later may have gone meanwhile

    async def random_key(self, db: int) -> Reply:
        """RANDOMKEY: any key; every key may come, though not all are as likely."""
        homes = list(self._router.homes)
        random.shuffle(homes)
        for home in homes:
            if isinstance(home, MemoryHome):
                entry = home.backend.random_entry(db)
                if entry is not None:
                    return entry.key
                continue
            routes = self._router.of_home(home)
            random.shuffle(routes)
            for route in routes:
                infos = await self._sample(db, home, route.prefix)
                if infos:
                    return random.choice(infos).name
        return None

    async def _sample(self, db: int, home: Home, prefix: bytes) -> list[KeyInfo]:
        """Some keys of a home under a prefix, any of them possibly.

        A cold home's are found byte by byte: as long as a prefix has more keys than a page holds, its next
        byte is that of a random key after a random place.
        """
        whole = Walk(db, [Step(home, prefix)])
        at: tuple[int, object] | None
        while isinstance(home, ColdHome):
            infos, at = await self.page(Walk(db, [Step(home, prefix)]), (0, None), SAMPLE)
            if at is None:
                if infos:
                    return infos
                break
            # Most often not before the first key, nor behind the last letter that people give keys.
            least, most = 0, 255
            if infos and len(infos[0].name) > len(prefix) and random.random() < 0.9:
                least, most = infos[0].name[len(prefix)], 127
            after = prefix + bytes([random.randint(least, max(least, most))])
            later, _ = await home.walk(db, prefix, after, 1)
            name = later[0].name if later else infos[0].name if infos else b""
            if len(name) <= len(prefix):
                break
            prefix = name[: len(prefix) + 1]
        at = (0, None)
        while at is not None:
            infos, at = await self.page(whole, at, SAMPLE)
            if infos:
                return infos
        return []

    def check_flushable(self) -> None:
        """Refuse FLUSHDB and FLUSHALL unless all homes can be cleared; raises CommandError."""
        for home in self._router.homes:
            if not home.flushable:
                raise errors.not_flushable(home.name)
            if home.down:
                raise errors.backend_down(home.name, home.down)

    async def flush(self, db: int | None) -> Reply:
        """FLUSHDB and FLUSHALL: in each home what stands under its routes' prefixes."""
        for home in self._router.homes:
            for route in self._router.of_home(home):
                await home.clear(db, route.prefix)
        return OK

    def swap(self, first: int, second: int) -> Reply:
        """SWAPDB, where all routes are in memory."""
        for home in self._router.homes:
            if not isinstance(home, MemoryHome):
                raise errors.not_swapped(home.name)
        for home in self._router.homes:
            if isinstance(home, MemoryHome):
                home.backend.swap(first, second)
        return OK


def _common(prefixes: list[bytes]) -> bytes:
    """The longest prefix of all."""
    first, last = min(prefixes), max(prefixes)
    size = 0
    while size < len(first) and first[size : size + 1] == last[size : size + 1]:
        size += 1
    return first[:size]
