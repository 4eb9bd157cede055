"""Redis as a backend: commands are forwarded to it over few connections that all clients share.

A lane (``backends.lanes``) is one connection for each database and RESP version that clients use.  Here it is
connected and kept connected: the greeting (authentication, RESP version, database), attempts with growing
pauses that need no request to go on, and a watch for an upstream that has fallen silent.  Where it is,
``backends.topology`` says; when the primary is another server, all that leads to the old one is given up.

Durations are milliseconds, sizes bytes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

import hiredis

from backends.base import (
    Counters,
    Dedicated,
    Invalidations,
    Message,
    StoreError,
    Subscriber,
    Tracker,
    Upstream,
    Waiter,
    total,
)
from backends.breaker import Breaker
from backends.frames import FramingError
from backends.lanes import Call, RedisLane
from backends.topology import Cluster, Endpoint, Fixed, Sentinels, Service, Topology, parse_url
from proxy.errors import CommandError
from proxy.resp import Argv, encode_command

if TYPE_CHECKING:
    from backends.replicas import Replicas

BACKOFF_MIN: Final = 50  # between the first attempt and the second
# NATs and load balancers forget what has been silent for some minutes, and say so to nobody.
KEEPALIVE_IDLE: Final = 60  # seconds
IDLE_MAX: Final = 16  # connections of a kind that are kept for the next client that needs one
LOOKS: Final = 4  # within the timeout, for progress

CLOSING: Final = "redtier is shutting down"
NOT_PRIMARY: Final = "it is not the primary any more"

log: Final = logging.getLogger("redtier.upstream")


class Refusal(StoreError):
    """A server that is there and answers won't serve us, or must not."""


class RedisUpstream(Upstream):
    """A Redis server at ``url`` (see ``parse_url``); ``password`` is for a URL without one.

    ``sentinel_user`` and ``sentinel_password`` are who we are at the sentinels, where ``url`` names some.

    ``tls_ca``, ``tls_cert`` and ``tls_key`` are paths of PEM files; "" for the system's authorities, and for
    no certificate of our own.  ``timeout`` is how long an upstream may be silent while it owes a reply, and
    ``backoff_max`` the longest pause between two attempts to connect.  ``breaker_failures`` attempts and
    requests in a row that got no answer open the breaker: see ``backends.breaker``.  With ``retry_reads``,
    requests that only read are sent once more where their connection was lost.  ``reply_max`` bounds a reply.
    ``cache_heartbeat`` is how long it may be silent where it tells of changes, before it is taken as lost.
    ``replica_lag_max`` is how far behind a replica may be that is read from.
    ``topology`` says where the server is, in the place of ``url``.

    Raises ``ValueError`` for the URL and ``StoreError`` for the TLS files.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        password: str = "",
        sentinel_user: str = "",
        sentinel_password: str = "",
        tls_ca: str = "",
        tls_cert: str = "",
        tls_key: str = "",
        connect_timeout: int = 2000,
        timeout: int = 5000,
        backoff_max: int = 2000,
        breaker_failures: int = 5,
        retry_reads: bool = True,
        reply_max: int = 64 << 20,
        dedicated_max: int = 1000,
        cache_heartbeat: int = 1000,
        replica_lag_max: int = 10_000,
        topology: Topology | None = None,
    ) -> None:
        self.name = name
        self.in_flight = 0
        self._connections = 0
        self._failovers = 0
        self._failed_attempts = 0
        self._timeouts = 0
        self._breaker = Breaker(breaker_failures)
        self.retry_reads = retry_reads
        target = parse_url(url)
        if isinstance(target, Cluster):
            raise ValueError("a cluster is more than one server")
        self._user, self._password = target.user, password or target.password
        self._tls = _tls_context(name, tls_ca, tls_cert, tls_key) if target.tls else None
        self._scheme = "rediss://" if target.tls else "redis://"
        # Of other servers that go with this one too.
        self._shared: dict[str, Any] = {
            "tls_ca": tls_ca,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "connect_timeout": connect_timeout,
            "timeout": timeout,
            "backoff_max": backoff_max,
            "breaker_failures": breaker_failures,
            "retry_reads": retry_reads,
            "reply_max": reply_max,
        }
        self._topology: Topology
        if isinstance(target, Service):
            at = f"{self._scheme}{user_part(sentinel_user)}"
            sentinels = [
                RedisUpstream(
                    f"{name}, sentinel", f"{at}{address}", password=sentinel_password, **self._shared
                )
                for address in target.sentinels
            ]
            self._topology = Sentinels(target, sentinels, self._moved)
        else:
            self._topology = topology or Fixed(target)
        self.replicas: list[Upstream] = []
        self.lost: Callable[[], None] | None = None  # called when a connection is
        self._replica_lag_max = replica_lag_max
        self._replicas: Replicas | None = None
        self._links: set[Connection] = set()
        self._attempts: set[asyncio.Timeout] = set()
        self.connect_timeout = connect_timeout
        self._timeout = timeout
        self.backoff_max = backoff_max
        self._reply_max = reply_max
        self._lanes: dict[tuple[int, int], RedisLane] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._closed = False
        self._dedicated_max = dedicated_max
        self._cache_heartbeat = cache_heartbeat
        self._dedicated = 0  # connections that somebody has for himself, or that wait for somebody
        self._idle: dict[tuple[int, int, bool], list[RedisDedicated]] = {}

    async def open(self) -> None:
        await self.ping()

    async def close(self) -> None:
        self._closed = True
        for idle in self._idle.values():
            for dedicated in idle:
                dedicated.link.give_up(CLOSING)
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if self._replicas is not None:
            await self._replicas.close()
        await self._topology.close()

    async def ping(self) -> None:
        try:
            await self.call(0, [b"PING"])
        except CommandError as error:
            if error.code != "NOPERM":  # a user who may not PING has been answered all the same
                raise StoreError(f"{self._topology} answers: {error.text}") from None

    def lane(self, db: int, proto: int) -> RedisLane:
        lane = self._lanes.get((db, proto))
        if lane is None:
            loop = asyncio.get_running_loop()
            lane = self._lanes[db, proto] = self.new_lane(db, proto)
            if self._closed:
                lane.shut(CLOSING)
            else:
                if self._breaker.open:
                    lane.shut(self._breaker.reason)
                self._keepers.append(loop.create_task(self._keep(lane, db, proto)))
        return lane

    def find_replicas(self) -> None:
        from backends.replicas import Replicas

        if self._replicas is None and not self._closed:
            self._replicas = Replicas(self, self._replica_lag_max, self.replicas, self.replica)

    def replica(self, address: str) -> RedisUpstream:
        """A server to read from; nothing is connected yet."""
        url = f"{self._scheme}{user_part(self._user)}{address}"
        return RedisUpstream(self.name, url, password=self._password, **self._shared)

    def new_lane(self, db: int, proto: int) -> RedisLane:
        return RedisLane(self, self._reply_max, asyncio.get_running_loop().call_soon)

    async def dedicated(self, db: int, proto: int, patient: bool) -> RedisDedicated:
        idle = self._idle.get((db, proto, patient))
        while idle:
            found = idle.pop()
            if not found.link.lost:
                return found
            self._dedicated -= 1
        if self._breaker.open:
            raise StoreError(self._breaker.reason)
        if self._dedicated >= self._dedicated_max and not self._drop_idle():
            raise StoreError(
                f"{self._dedicated_max} clients have connections of their own to {self._topology}, "
                "which is dedicated_max"
            )
        self._dedicated += 1
        try:
            lane = RedisLane(self, self._reply_max, asyncio.get_running_loop().call_soon)
            link = _Link(self, lane, self.greeting(db, proto), 0 if patient else self._timeout)
            await self.connect(link)
        except BaseException:
            self._dedicated -= 1
            raise
        return RedisDedicated(self, lane, link, db, proto, patient)

    def _drop_idle(self) -> bool:
        """Close a connection that is kept for a client of another kind; whether there was one."""
        for idle in self._idle.values():
            if idle:
                self._dedicated -= 1
                idle.pop(0).link.give_up("its place is needed")
                return True
        return False

    def take_back(self, dedicated: RedisDedicated, clean: bool) -> None:
        idle = self._idle.setdefault((dedicated.db, dedicated.proto, dedicated.patient), [])
        if clean and not dedicated.link.lost and not self._closed and len(idle) < IDLE_MAX:
            idle.append(dedicated)
        else:
            self._dedicated -= 1
            dedicated.link.give_up("it is not needed any more")

    def subscriber(self, message: Message) -> Subscriber:
        from backends.redis_subscriber import RedisSubscriber

        return RedisSubscriber(self, message)

    def tracker(self, prefixes: list[bytes], told: Invalidations) -> Tracker:
        from backends.redis_tracker import RedisTracker

        return RedisTracker(self, prefixes, self._cache_heartbeat, told)

    async def call(self, db: int, argv: Argv) -> object:
        call = Call(1, asyncio.get_running_loop().create_future())
        lane = self.lane(db, 2)
        lane.send(encode_command(argv), call)
        wire, failed = await call.replies
        reply = _parse(wire, 1)[0]
        if isinstance(reply, CommandError):
            if failed:
                raise StoreError(lane.reason, unknown=reply.code == "UPSTREAM")
            raise reply
        return reply

    @property
    def moves(self) -> bool:
        """Whether the primary may become another server."""
        return self._topology.moves

    @property
    def state(self) -> str:
        """``up``, ``connecting``, or ``down: `` and the reason, as of the lane of our own commands."""
        return self.lane(0, 2).state

    def breaker(self) -> str:
        return self._breaker.state

    def occupied(self) -> int:
        return self._dedicated - sum(map(len, self._idle.values()))

    def counters(self) -> Counters:
        own = self._counters()
        return own if self._replicas is None else total([own, self._replicas.counters()])

    def _counters(self) -> Counters:
        lanes = self._lanes.values()
        return Counters(
            sum(lane.answered for lane in lanes),
            sum(lane.lost for lane in lanes),
            sum(lane.refused for lane in lanes),
            sum(lane.retried for lane in lanes),
            self._connections,
            self._failed_attempts,
            self._timeouts,
            self._breaker.opened,
            self._failovers,
            sum(lane.bytes_in for lane in lanes),
            sum(lane.bytes_out for lane in lanes),
        )

    async def _keep(self, lane: RedisLane, db: int, proto: int) -> None:
        """Connect the lane again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        attempt = 0
        try:
            while True:
                failovers = self._failovers
                link = _Link(self, lane, self.greeting(db, proto), self._timeout)
                try:
                    await self.reconnect(link, attempt)
                except StoreError as error:
                    lane.shut(str(error))
                else:
                    failovers = self._failovers
                    since = loop.time()
                    await link.wait_lost()
                    lasted = (loop.time() - since) * 1000 > self.backoff_max
                    if (lasted or self._failovers != failovers) and not self._breaker.open:
                        # Redis closes what is idle, or was restarted, or another server has taken over.  What
                        # is sent now waits for the first attempt.
                        attempt = 0
                        continue
                    lane.shut(link.reason)
                attempt = 1 if self._failovers != failovers else attempt + 1
        finally:
            lane.shut(CLOSING)

    async def reconnect(self, link: Connection, attempt: int) -> None:
        """Connect after the pause before an attempt, of which the first has the number 0; raises StoreError.

        While the breaker is open, one at a time may try.
        """
        breaker = self._breaker
        if not breaker.open:
            await self._pause(attempt)
        if breaker.open:
            async with breaker.turn:
                if breaker.open:
                    await self._pause(max(attempt, 1))
                    breaker.probing = True
                    try:
                        await self.connect(link)
                    finally:
                        breaker.probing = False
                    return
        await self.connect(link)

    async def connect(self, link: Connection) -> None:
        """Connect to the primary and greet it; raises StoreError."""
        failovers = self._failovers
        try:
            async with asyncio.timeout(self.connect_timeout / 1000):
                link.endpoint = await self._topology.primary()
                async with self._until_moved():
                    self._links.add(link)
                    await self._open(link)
                    await link.greeted()
        except BaseException as error:  # a timeout is a cancellation here
            link.give_up("not greeted")
            self.forget(link)
            if isinstance(error, Refusal):
                self._breaker.worked()  # no answer that we like, but one
            if isinstance(error, Refusal) or not isinstance(error, Exception):
                raise
            moved = self._failovers != failovers
            if not isinstance(error, StoreError):
                reason = NOT_PRIMARY if moved else self.reason(error)
                error = StoreError(f"{link.endpoint or self._topology}: {reason}")
            if not moved:
                self._failed_attempts += 1
                self._failed(str(error))
            raise error from None
        self._connections += 1
        self._breaker.probed()

    def timed_out(self, reason: str) -> None:
        """A connection has been silent for too long."""
        self._timeouts += 1
        self._failed(reason)

    def worked(self) -> None:
        """A connection has answered more than its greeting."""
        self._breaker.worked()

    def _failed(self, reason: str) -> None:
        before = self._breaker.opened
        self._breaker.failed(reason)
        if self._breaker.opened != before:
            log.warning("backend '%s': the breaker opens: %s", self.name, reason)

    def forget(self, link: Connection) -> None:
        """It is lost."""
        self._links.discard(link)
        if self.lost is not None:
            self.lost()

    async def _pause(self, attempt: int) -> None:
        """Wait before an attempt to connect, until the primary moves at most."""
        if attempt:
            pause = min(self.backoff_max, BACKOFF_MIN << min(attempt - 1, 16))
            # Jitter, so that many proxies don't return to a restarted server all at once.
            with suppress(TimeoutError):
                async with self._until_moved(random.uniform(0.5, 1) * pause / 1000):
                    await asyncio.get_running_loop().create_future()

    def _moved(self) -> None:
        """The primary is another server now: what leads to the old one is given up."""
        self._failovers += 1
        self._breaker.worked()
        log.warning("backend '%s': the primary is %s now", self.name, self._topology)
        self._give_up(NOT_PRIMARY)
        now = asyncio.get_running_loop().time()
        for attempt in self._attempts:
            if not attempt.expired():
                attempt.reschedule(now)

    def leave(self, reason: str, endpoint: Endpoint | None = None) -> None:
        """Wait for nothing that a server owes, and send it nothing until one can be connected to anew."""
        self._give_up(reason, endpoint)
        for lane in self._lanes.values():
            if lane.state != "up":
                lane.shut(f"{endpoint or self._topology}: {reason}")

    def _give_up(self, reason: str, endpoint: Endpoint | None = None) -> None:
        for link in list(self._links):
            if endpoint is None or link.endpoint == endpoint:
                link.give_up(reason, retry=True)

    @asynccontextmanager
    async def _until_moved(self, within: float | None = None) -> AsyncIterator[None]:
        """Raises TimeoutError inside when the primary moves, or after so many seconds."""
        async with asyncio.timeout(within) as attempt:
            self._attempts.add(attempt)
            try:
                yield
            finally:
                self._attempts.discard(attempt)

    async def _open(self, link: Connection) -> None:
        loop = asyncio.get_running_loop()
        endpoint = link.endpoint
        assert endpoint is not None
        if endpoint.path:
            await loop.create_unix_connection(lambda: link, endpoint.path)
            return
        name = endpoint.host if self._tls else None
        await loop.create_connection(
            lambda: link, endpoint.host, endpoint.port, ssl=self._tls, server_hostname=name
        )

    def greeting(self, db: int, proto: int) -> list[Argv]:
        user, password = self._user.encode(), self._password.encode()
        greeting: list[Argv] = []
        if proto == 3:
            greeting.append([b"HELLO", b"3", *([b"AUTH", user or b"default", password] if password else [])])
        elif password:
            greeting.append([b"AUTH", *([user] if user else []), password])
        if db:
            greeting.append([b"SELECT", b"%d" % db])
        if self._topology.moves:
            greeting.append([b"ROLE"])
        # Shows that somebody is there and that we may speak: a server that is loading, or wants a password,
        # answers an error.
        greeting.append([b"PING"])
        return greeting

    def check(self, endpoint: Endpoint | None, command: Argv, reply: object) -> None:
        """Raise Refusal if the reply to a command of the greeting says that we are not served here."""
        if isinstance(reply, CommandError):
            # A user who may not PING may be all the same who was meant; and a script at work is no reason not
            # to connect: it may be what is to be killed.
            if command[0] not in (b"PING", b"ROLE") or reply.code not in ("NOPERM", "BUSY"):
                raise Refusal(f"{endpoint} answers: {self._censored(reply.text)}")
        elif command[0] == b"ROLE" and isinstance(reply, list) and reply[0] != b"master":
            raise Refusal(f"{endpoint} is a replica")

    def reason(self, error: Exception) -> str:
        """What went wrong, in a few words, for operators and clients."""
        if isinstance(error, TimeoutError):
            return f"no answer within {self.connect_timeout} ms"
        if isinstance(error, ConnectionRefusedError):
            return "connection refused, is a Redis running there?"
        if isinstance(error, socket.gaierror):
            return f"the host's name can't be resolved: {error.strerror}"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the server's certificate is not trusted: {error.verify_message}"
        return _os_reason(error)

    def _censored(self, text: str) -> str:
        # A server that does not know AUTH or HELLO quotes its arguments.
        return text.replace(self._password, "***") if self._password else text


class RedisDedicated(Dedicated):
    """A lane on a connection of one client's."""

    def __init__(
        self, upstream: RedisUpstream, lane: RedisLane, link: _Link, db: int, proto: int, patient: bool
    ) -> None:
        self.db = db
        self.proto = proto
        self.patient = patient
        self.link = link
        self._upstream = upstream
        self._lane = lane

    def send(self, frames: bytes, waiter: Waiter) -> None:
        self._lane.send(frames, waiter)
        if self.link.lost:
            self._lane.shut(self.link.reason)

    def release(self, clean: bool) -> None:
        self._upstream.take_back(self, clean)


class Connection(asyncio.Protocol):
    """One to an upstream's primary, whatever it is for."""

    def __init__(self) -> None:
        self.endpoint: Endpoint | None = None  # once somebody has said where the primary is

    @abstractmethod
    async def greeted(self) -> None:
        """Return once the greeting, sent when it is made, has been answered well; raises StoreError."""

    @abstractmethod
    def give_up(self, reason: str, retry: bool = False) -> None:
        """Close it; only the first reason counts.  ``retry``: what it owes may be asked for once more."""


class _Link(Connection):
    """One connection of a lane; ``timeout`` as the upstream's, 0: none."""

    def __init__(self, upstream: RedisUpstream, lane: RedisLane, greeting: list[Argv], timeout: int) -> None:
        super().__init__()
        self.reason = ""  # why it was lost
        self._upstream = upstream
        self._lane = lane
        self._greeting = greeting
        self._call = Call(len(greeting), asyncio.get_running_loop().create_future())
        self._timeout = timeout
        self._wary = upstream.moves
        self._transport: asyncio.Transport | None = None
        self._end = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._progress = 0
        self._answered = 0  # replies of the lane, when they were looked at last
        self._silent = 0  # looks in a row without progress

    @property
    def lost(self) -> bool:
        return self._end.is_set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self._transport = cast(asyncio.Transport, transport)
        connection = transport.get_extra_info("socket")
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
        self._lane.greet(b"".join(map(encode_command, self._greeting)), self._call, transport.write)
        if self._timeout:
            self._look(transport)

    async def greeted(self) -> None:
        wire, failed = await self._call.replies
        # First what it said: a server that is full says so and closes.
        replies = _parse(wire, len(self._greeting) - failed)
        for command, reply in zip(self._greeting, replies, strict=False):
            self._upstream.check(self.endpoint, command, reply)
        if self.lost or self._transport is None:
            raise StoreError(self.reason)
        self._answered = self._lane.answered
        self._lane.open(self._transport.write)

    def data_received(self, data: bytes) -> None:
        try:
            self._lane.feed(data)
        except FramingError as error:
            self.give_up(f"what came is no RESP: {error}")
        if self._wary and data.startswith(b"-READONLY "):
            self.give_up("it has become a replica")

    def connection_lost(self, error: Exception | None) -> None:
        self.give_up(_os_reason(error) if error else "the connection was closed", retry=True)

    def give_up(self, reason: str, retry: bool = False) -> None:
        """Close, and answer what is unanswered and not to be sent once more."""
        if self.lost or self._transport is None:
            return
        self._note_success()
        self.reason = f"{self.endpoint}: {reason}"
        self._end.set()
        if self._timer:
            self._timer.cancel()
        self._transport.abort()
        self._lane.lose(self.reason, retry and self._upstream.retry_reads)
        self._upstream.forget(self)

    async def wait_lost(self) -> None:
        """Return once there is a ``reason``; closes the connection when cancelled."""
        try:
            await self._end.wait()
        finally:
            self.give_up(CLOSING)

    def _note_success(self) -> None:
        if self._answered and self._lane.answered != self._answered:
            self._answered = self._lane.answered
            self._upstream.worked()

    def _look(self, transport: asyncio.Transport) -> None:
        """See to it that an upstream which owes a reply makes progress, in either direction."""
        lane = self._lane
        self._note_success()
        progress = lane.bytes_in + lane.bytes_out - transport.get_write_buffer_size()
        if progress != self._progress or not lane.waiting:
            self._progress = progress
            self._silent = 0
        elif self._silent < LOOKS:
            # Looks are counted and not the time: if it was we who stood still, the upstream is not to blame.
            self._silent += 1
        if self._silent == LOOKS:
            reason = f"no answer within {self._timeout} ms"
            self._upstream.timed_out(f"{self.endpoint}: {reason}")
            self.give_up(reason)
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout / LOOKS / 1000, self._look, transport)


def user_part(user: str) -> str:
    """Of a URL."""
    return f"{quote(user, safe='')}@" if user else ""


def _os_reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS failed: {error.reason.replace('_', ' ').lower()}"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _parse(wire: bytes, count: int) -> list[object]:
    """Replies to commands of our own; an error is a ``CommandError`` among them."""
    reader = hiredis.Reader(replyError=CommandError)
    reader.feed(wire)
    return [reader.gets() for _ in range(count)]


def _tls_context(name: str, ca: str, cert: str, key: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca or None)
        if cert:
            context.load_cert_chain(cert, key)
    except OSError as error:
        files = ", ".join(filter(None, (ca, cert, key)))
        raise StoreError(f"backend '{name}': TLS files {files}: {_os_reason(error)}") from None
    return context
