"""Which route a key has, and what stands behind it.

A ``Route`` is a prefix with its policy and counters; a ``Home`` is a backend as commands see it.  The
longest prefix wins (``PrefixMap``); the rest of this module is what several routes, or none, mean for
one command.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Final

from backends.base import KeyInfo
from proxy.errors import cross_tier, no_functions
from proxy.keyspace import KeyPolicy, Keyspace
from proxy.observing import Observer
from proxy.prefixes import PrefixMap
from proxy.resp import BULK_MAX
from proxy.tally import Load, Tally

# Values of Home.kind and Route.kind.
MEMORY: Final = 0
COLD: Final = 1
UPSTREAM: Final = 2
# A value of Route.way.
APART: Final = -1


class Home:
    """A backend as commands see it; ``MemoryHome``, ``ColdHome`` and ``UpstreamHome`` are the kinds.

    The methods below serve commands that name no key.  They are exact for this home's own keys but
    know nothing of routes; whoever asks leaves out keys that route elsewhere.
    """

    kind: int

    def __init__(
        self, name: str, type: str, flushable: bool, in_flight_max: int, in_flight_bytes_max: int
    ) -> None:
        self.name: str = name
        self.type: str = type
        self.flushable: bool = flushable
        self.in_flight_max: int = in_flight_max
        self.in_flight_bytes_max: int = in_flight_bytes_max
        self.load: Load = Load()
        self.down: str = ""  # why it can't serve, or empty

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """Commands that wait for this backend."""

    @property
    def full(self) -> bool:
        """Whether clients with more commands for it must wait."""
        return self.in_flight >= self.in_flight_max or self.load.bytes >= self.in_flight_bytes_max

    @abstractmethod
    async def walk(
        self, db: int, prefix: bytes, position: object, limit: int
    ) -> tuple[Sequence[KeyInfo], object]:
        """Some live keys that start with ``prefix``, about ``limit``, and the next position.

        ``None`` is the first position, and the one after the last.  A kind of 0 is one that is not
        known here (see ``kinds``).
        """

    @abstractmethod
    async def kinds(self, db: int, names: list[bytes]) -> list[str]:
        """The types of keys, by Redis' names; ``none`` for one that is gone."""

    @abstractmethod
    async def size(self, db: int, prefix: bytes) -> int:
        """How many live keys start with ``prefix``."""

    @abstractmethod
    async def clear(self, db: int | None, prefix: bytes) -> int:
        """Delete all keys that start with ``prefix``; how many there were."""


class Route:
    """One ``[[routes]]`` of the configuration at work."""

    def __init__(
        self, prefix: bytes, home: Home, policy: KeyPolicy, keyspaces: list[Keyspace], near: bool = False
    ) -> None:
        self.prefix: bytes = prefix
        self.home: Home = home
        self.kind: int = home.kind
        # What the fast path goes by: the kind, or APART where each command takes the slow path.
        self.way: int = home.kind
        self.observer: Observer | None = None  # is told which keys are read, where the way is APART
        self.policy: KeyPolicy = policy
        # Whether requests must be looked through for what an upstream would take and the route does not.
        self.limited: bool = home.kind == UPSTREAM and policy.max_value < BULK_MAX
        self.near: bool = near  # replies of its upstream are kept
        self.keyspaces: list[Keyspace] = keyspaces  # by database, where the home is memory; else empty
        self.tally: Tally = Tally()
        self.batch: int = 0  # calls of the chunk of input that is at work


class Router:
    """All routes."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes: list[Route] = sorted(routes, key=lambda route: route.prefix)
        self.map: PrefixMap[Route] = PrefixMap((route.prefix, route) for route in routes)
        self.homes: list[Home] = list(dict.fromkeys(route.home for route in self.routes))
        self.observed: bool = False  # whether any route has an observer

    def find(self, key: bytes) -> Route:
        return self.map.find(key)

    def observe(self, route: Route, observer: Observer) -> None:
        """Have somebody told which keys of a route are read; of those on a Redis its lanes tell."""
        if route.kind != UPSTREAM:
            route.observer = observer
            route.way = APART
            self.observed = True

    def of_home(self, home: Home) -> list[Route]:
        return [route for route in self.routes if route.home is home]

    def of_functions(self, title: str) -> Route:
        """A route to the first Redis, which has what FUNCTION tells of; raises CommandError."""
        for route in self.routes:
            if route.kind == UPSTREAM:
                return route
        raise no_functions(title)

    def of_backend(self, name: str) -> Route:
        """A route to the backend of that name, which has one."""
        return next(route for route in self.routes if route.home.name == name)

    def may_lead(self, prefix: bytes, home: Home) -> bool:
        """Whether a key that starts with ``prefix`` may have this home."""
        if self.find(prefix).home is home:
            return True
        return any(route.home is home and route.prefix.startswith(prefix) for route in self.routes)

    def check_patterns(self, title: str, route: Route, patterns: list[bytes]) -> None:
        """Refuse a command on a route's key that reads others by names which can't have the same home."""
        for pattern in patterns:
            literal = pattern.partition(b"*")[0]
            if not self.may_lead(literal, route.home):
                raise cross_tier(title, route.prefix, self.find(literal).prefix)

    def nested(self, route: Route) -> list[Route]:
        """The routes next within ``route``: those that have no third one between."""
        inside = [
            other for other in self.routes if other is not route and other.prefix.startswith(route.prefix)
        ]
        return [
            other
            for other in inside
            if not any(other is not third and other.prefix.startswith(third.prefix) for third in inside)
        ]
