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
from proxy.commands.spec import CommandSpec
from proxy.errors import cross_tier, inside_sealed, no_functions, sorted_by_sealed
from proxy.keyspace import KeyPolicy, Keyspace
from proxy.observing import Observer
from proxy.prefixes import PrefixMap
from proxy.resp import BULK_MAX, Argv
from proxy.sealing import works_inside
from proxy.tally import Load, Overload, Tally

# Values of Home.kind and Route.kind.
MEMORY: Final = 0
COLD: Final = 1
UPSTREAM: Final = 2
# A value of Route.way.
APART: Final = -1


# Values of Route.reads: where what only reads goes, if the home has replicas.
PRIMARY: Final = 0
PREFER_REPLICA: Final = 1  # the primary where there is none
REPLICA: Final = 2
ANY: Final = 3  # the primary is one of them


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
        self.sharded: bool = False  # several servers: which one has a key has to be asked
        self.load: Load = Load()
        self.overload: Overload | None = None  # else clients with more than it may have in flight are held
        self.down: str = ""  # why it can't serve, or empty

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """Commands that wait for this backend."""

    @property
    def full(self) -> bool:
        """Whether clients with more commands for it must wait."""
        return self.in_flight >= self.in_flight_max or self.load.bytes >= self.in_flight_bytes_max

    def step(self, key: bytes) -> object:
        """What is equal for all keys that one command may change together."""
        return self

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
        self,
        prefix: bytes,
        home: Home,
        policy: KeyPolicy,
        keyspaces: list[Keyspace],
        near: bool = False,
        sealed: bool = False,
        reads: int = PRIMARY,
    ) -> None:
        self.prefix: bytes = prefix
        self.home: Home = home
        self.kind: int = home.kind
        # What the fast path goes by: the kind, or APART where each command takes the slow path.
        self.way: int = home.kind
        self.observer: Observer | None = None  # is told which keys are read, where the way is APART
        self.policy: KeyPolicy = policy
        self.sealed: bool = sealed  # strings are sealed on their way to its upstream
        # Whether requests must be looked through: for what an upstream would take and the route does not, or
        # for values to be sealed.
        self.limited: bool = home.kind == UPSTREAM and (policy.max_value < BULK_MAX or sealed)
        self.near: bool = near  # replies of its upstream are kept
        self.reads: int = reads
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
        redis = [route for route in self.routes if route.kind == UPSTREAM]
        only = redis[0] if len({route.home for route in redis}) == 1 else None
        # A route to the only Redis server, if there is one and no more.
        self.redis: Route | None = None if only is None or only.home.sharded else only
        # The same where every route leads there: what names no key is its affair too.
        self.alone: Route | None = self.redis if len(self.homes) == 1 else None
        self.seals: bool = any(route.sealed for route in self.routes)

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

    def check_sealed(self, spec: CommandSpec, argv: Argv, names: list[bytes]) -> None:
        """Refuse a command that would take sealed values for what their clients have set."""
        if works_inside(spec, argv):
            for name in names:
                route = self.find(name)
                if route.sealed:
                    raise inside_sealed(spec.title, route.prefix)
        if spec.patterns is not None:
            for pattern in spec.patterns(argv):
                literal, _, rest = pattern.partition(b"*")
                rest = rest.partition(b"\0")[0]  # where the pattern ends for SORT
                if 0 <= rest.find(b"->") < len(rest) - 2:  # a field of a hash
                    continue
                for route in self.routes:
                    if route.sealed and (route is self.find(literal) or route.prefix.startswith(literal)):
                        raise sorted_by_sealed(spec.title, route.prefix)

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
