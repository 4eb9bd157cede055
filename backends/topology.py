"""Where the primary of an upstream is now: at a fixed address, or where its sentinels say.

The sentinels' protocol: https://redis.io/docs/latest/develop/reference/sentinel-clients.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from backends.base import StoreError, Upstream
from proxy.errors import CommandError

DEFAULT_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
SENTINEL_SCHEMES: Final = ("redis+sentinel", "rediss+sentinel")
CLUSTER_SCHEMES: Final = ("redis+cluster", "rediss+cluster")
POLL: Final = 0.25  # seconds between questions while nobody wants to connect
GRACE: Final = 0.1  # seconds that slow sentinels have to contradict quick ones


class Endpoint(NamedTuple):
    """Where a Redis is, and who we are there."""

    host: str
    port: int
    path: str  # of a Unix socket, with host "" and port 0
    tls: bool
    user: str
    password: str

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Service(NamedTuple):
    """A primary by the name that its sentinels know it by, and who we are there."""

    name: str
    sentinels: tuple[str, ...]  # host:port of each
    tls: bool  # there and at the sentinels
    user: str
    password: str


class Cluster(NamedTuple):
    """Some nodes of a Redis Cluster, which know the others, and who we are at all of them."""

    seeds: tuple[str, ...]  # host:port of each
    tls: bool
    user: str
    password: str


def parse_url(url: str) -> Endpoint | Service | Cluster:
    """``redis://user:password@host:port``, ``rediss://`` (TLS), ``unix:///path``,
    ``redis+sentinel://user:password@host:port,host:port/service`` or
    ``redis+cluster://user:password@host:port,host:port`` (``rediss+``: TLS); %XX is decoded.

    Raises ``ValueError``, which names no part of the URL: any may be a password that is written wrongly.
    """
    scheme, _, rest = url.partition("://")
    if scheme in (*SENTINEL_SCHEMES, *CLUSTER_SCHEMES):
        authority, _, name = rest.partition("/")
        secret, _, hosts = authority.rpartition("@")
        user, _, password = secret.partition(":")
        of_cluster = scheme in CLUSTER_SCHEMES
        default = DEFAULT_PORT if of_cluster else SENTINEL_PORT
        parts = [urlsplit(f"redis://{host}") for host in hosts.split(",")]
        if bool(name) == of_cluster or not all(part.hostname for part in parts):
            right = "redis+sentinel://host:port,…/service, that of a cluster redis+cluster://host:port,…"
            raise ValueError(f"the URL of a Redis with sentinels must be {right}")
        at = tuple(_address(part.hostname or "", part.port or default) for part in parts)
        tls, user, password = scheme.startswith("rediss"), unquote(user), unquote(password)
        return (
            Cluster(at, tls, user, password)
            if of_cluster
            else Service(unquote(name), at, tls, user, password)
        )
    only = urlsplit(url)
    user, password = unquote(only.username or ""), unquote(only.password or "")
    if scheme == "unix" and only.path:
        return Endpoint("", 0, unquote(only.path), False, user, password)
    if scheme not in ("redis", "rediss") or not only.hostname:
        raise ValueError("the URL of a Redis must begin with redis://host, rediss://host or unix:///path")
    if only.path not in ("", "/", "/0"):
        raise ValueError("the URL of a Redis must not name a database: each client chooses its own by SELECT")
    return Endpoint(only.hostname, only.port or DEFAULT_PORT, "", scheme == "rediss", user, password)


def _address(host: str, port: int) -> str:
    return str(Endpoint(host, port, "", False, "", ""))


class Topology(ABC):
    """Where the primary is; as text, where it was when that was known last.

    ``moves`` says that it may become another server, so that whoever is connected to one must see to it
    that it still is the primary.
    """

    moves: bool

    @abstractmethod
    async def primary(self) -> Endpoint:
        """Where it is now, asked anew; raises StoreError where nobody knows.  May take long: bound it."""

    @abstractmethod
    async def close(self) -> None: ...


class Fixed(Topology):
    """The one server that there is."""

    moves = False

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def __str__(self) -> str:
        return str(self._endpoint)

    async def primary(self) -> Endpoint:
        return self._endpoint

    async def close(self) -> None:
        pass


class _Answer(NamedTuple):
    """What a sentinel says: of two, that of the later epoch holds."""

    endpoint: Endpoint
    epoch: int


class Sentinels(Topology):
    """The primary of ``service``; ``sentinels`` are upstreams of their own, in the URL's order.

    All are asked at once, so that one which hangs costs no time, and the answer of the latest epoch is
    believed: a sentinel that is cut off from the others goes on naming the old primary.  For the same
    reason nothing goes back to an earlier epoch than was heard of, unless most sentinels say so (they were
    set up anew).  While none answers, the last primary holds.

    They are asked before each attempt to connect, and all the time besides: ``moved`` is called when the
    primary has become another server.
    """

    moves = True

    def __init__(self, service: Service, sentinels: Sequence[Upstream], moved: Callable[[], None]) -> None:
        self._service = service
        self._sentinels = sentinels
        self._moved = moved
        self._known: _Answer | None = None
        self._trouble = ""  # why nothing is known
        self._asking: asyncio.Task[None] | None = None
        self._polling: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return str(self._known.endpoint) if self._known else f"the primary '{self._service.name}'"

    async def primary(self) -> Endpoint:
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())
        await self._ask()
        if self._known is None:
            raise StoreError(self._trouble)
        return self._known.endpoint

    async def close(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
        await asyncio.gather(*(sentinel.close() for sentinel in self._sentinels))
        await asyncio.gather(*filter(None, (self._polling, self._asking)), return_exceptions=True)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL)
            await self._ask()

    async def _ask(self) -> None:
        """Ask, all who want to know together."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all())
        await asyncio.shield(self._asking)

    async def _ask_all(self) -> None:
        asked = [asyncio.create_task(self._ask_one(sentinel)) for sentinel in self._sentinels]
        done, pending = await asyncio.wait(asked, timeout=GRACE)
        while pending and all(task.exception() for task in done):
            more, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        for task in pending:
            task.cancel()
        failures = [str(task.exception()) for task in asked if task in done and task.exception()]
        answers = [task.result() for task in asked if task in done and not task.exception()]
        if not answers:
            self._trouble = f"no sentinel knows where '{self._service.name}' is: {'; '.join(failures)}"
            return
        known, newest = self._known, max(answers, key=lambda answer: answer.epoch)
        if known and newest.epoch < known.epoch and len(answers) <= len(asked) // 2:
            return
        self._known = newest
        if known and newest.endpoint != known.endpoint:
            self._moved()

    async def _ask_one(self, sentinel: Upstream) -> _Answer:
        """What one sentinel says; raises StoreError."""
        service = self._service
        name = service.name.encode()
        try:
            # The first names the new primary as soon as it has been promoted, the second only when the
            # failover is over.
            address, facts = await asyncio.gather(
                sentinel.call(0, [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name]),
                sentinel.call(0, [b"SENTINEL", b"MASTER", name]),
            )
        except CommandError as error:
            raise StoreError(f"a sentinel answers: {error.text}") from None
        if not isinstance(address, list) or not isinstance(facts, list):
            raise StoreError("a sentinel answers what none should")
        host, port = address
        epoch = int(facts[facts.index(b"config-epoch") + 1])
        endpoint = Endpoint(host.decode(), int(port), "", service.tls, service.user, service.password)
        return _Answer(endpoint, epoch)
