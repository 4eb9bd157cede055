"""Redis as a backend: commands are forwarded to it over few connections that all clients share.

A lane (``backends.lanes``) is one connection for each database and RESP version that clients use.  Here it is
connected and kept connected: the greeting (authentication, RESP version, database), attempts with growing
pauses that need no request to go on, and a watch for an upstream that has fallen silent.

Durations are milliseconds, sizes bytes.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from typing import Final, NamedTuple, cast
from urllib.parse import unquote, urlsplit

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
)
from backends.frames import FramingError
from backends.lanes import Call, RedisLane
from proxy.errors import CommandError
from proxy.resp import Argv, encode_command

DEFAULT_PORT: Final = 6379
BACKOFF_MIN: Final = 50  # between the first attempt and the second
# NATs and load balancers forget what has been silent for some minutes, and say so to nobody.
KEEPALIVE_IDLE: Final = 60  # seconds
IDLE_MAX: Final = 16  # connections of a kind that are kept for the next client that needs one
LOOKS: Final = 4  # within the timeout, for progress

CLOSING: Final = "redtier is shutting down"


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


def parse_url(url: str) -> Endpoint:
    """``redis://user:password@host:port``, ``rediss://`` (TLS) or ``unix:///path``; %XX is decoded.

    Raises ``ValueError``, which names no part of the URL: any may be a password that is written wrongly.
    """
    parts = urlsplit(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme == "unix" and parts.path:
        return Endpoint("", 0, unquote(parts.path), False, user, password)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError("the URL of a Redis must begin with redis://host, rediss://host or unix:///path")
    if parts.path not in ("", "/", "/0"):
        raise ValueError("the URL of a Redis must not name a database: each client chooses its own by SELECT")
    tls = parts.scheme == "rediss"
    return Endpoint(parts.hostname, parts.port or DEFAULT_PORT, "", tls, user, password)


class RedisUpstream(Upstream):
    """A Redis server at ``url`` (see ``parse_url``); ``password`` is for a URL without one.

    ``tls_ca``, ``tls_cert`` and ``tls_key`` are paths of PEM files; "" for the system's authorities, and for
    no certificate of our own.  ``timeout`` is how long an upstream may be silent while it owes a reply, and
    ``backoff_max`` the longest pause between two attempts to connect.  ``reply_max`` bounds one reply.
    ``cache_heartbeat`` is how long it may be silent where it tells of changes, before it is taken as lost.

    Raises ``ValueError`` for the URL and ``StoreError`` for the TLS files.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        password: str = "",
        tls_ca: str = "",
        tls_cert: str = "",
        tls_key: str = "",
        connect_timeout: int = 2000,
        timeout: int = 5000,
        backoff_max: int = 2000,
        reply_max: int = 64 << 20,
        dedicated_max: int = 1000,
        cache_heartbeat: int = 1000,
    ) -> None:
        self.name = name
        self.in_flight = 0
        self._connections = 0
        self._endpoint = parse_url(url)
        self._password = password or self._endpoint.password
        self._tls = _tls_context(name, tls_ca, tls_cert, tls_key) if self._endpoint.tls else None
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
        self._idle: dict[tuple[int, int, bool], list[_Dedicated]] = {}

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

    async def ping(self) -> None:
        try:
            await self.call(0, [b"PING"])
        except CommandError as error:
            if error.code != "NOPERM":  # a user who may not PING has been answered all the same
                raise StoreError(f"{self._endpoint} answers: {error.text}") from None

    def lane(self, db: int, proto: int) -> RedisLane:
        lane = self._lanes.get((db, proto))
        if lane is None:
            loop = asyncio.get_running_loop()
            lane = self._lanes[db, proto] = RedisLane(self, self._reply_max, loop.call_soon)
            if self._closed:
                lane.shut(CLOSING)
            else:
                self._keepers.append(loop.create_task(self._keep(lane, db, proto)))
        return lane

    async def dedicated(self, db: int, proto: int, patient: bool) -> _Dedicated:
        idle = self._idle.get((db, proto, patient))
        while idle:
            found = idle.pop()
            if not found.link.lost:
                return found
            self._dedicated -= 1
        if self._dedicated >= self._dedicated_max:
            raise StoreError(
                f"{self._dedicated_max} clients have connections of their own to {self._endpoint}, "
                "which is dedicated_max"
            )
        loop = asyncio.get_running_loop()
        self._dedicated += 1
        try:
            lane = RedisLane(self, self._reply_max, loop.call_soon)
            async with asyncio.timeout(self.connect_timeout / 1000):
                link = await self._connect(lane, db, proto, patient)
        except StoreError:
            self._dedicated -= 1
            raise
        except BaseException as error:
            self._dedicated -= 1
            if isinstance(error, Exception):
                raise StoreError(f"{self._endpoint}: {self.reason(error)}") from error
            raise
        return _Dedicated(self, lane, link, db, proto, patient)

    def take_back(self, dedicated: _Dedicated, clean: bool) -> None:
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
    def state(self) -> str:
        """``up``, ``connecting``, or ``down: `` and the reason, as of the lane of our own commands."""
        return self.lane(0, 2).state

    def counters(self) -> Counters:
        lanes = self._lanes.values()
        return Counters(
            sum(lane.answered for lane in lanes),
            sum(lane.lost for lane in lanes),
            sum(lane.refused for lane in lanes),
            self._connections,
            sum(lane.bytes_in for lane in lanes),
            sum(lane.bytes_out for lane in lanes),
        )

    async def _keep(self, lane: RedisLane, db: int, proto: int) -> None:
        """Connect the lane again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        attempt = 0
        try:
            while True:
                try:
                    async with asyncio.timeout(self.connect_timeout / 1000):
                        link = await self._connect(lane, db, proto)
                except StoreError as error:
                    lane.shut(str(error))
                except Exception as error:
                    lane.shut(f"{self._endpoint}: {self.reason(error)}")
                else:
                    since = loop.time()
                    await link.wait_lost()
                    if (loop.time() - since) * 1000 > self.backoff_max:
                        # It had lasted: Redis closes what is idle, or was restarted.  What is sent now waits
                        # for the first attempt.
                        attempt = 0
                        continue
                    lane.shut(link.reason)
                pause = min(self.backoff_max, BACKOFF_MIN << min(attempt, 16))
                attempt += 1
                # Jitter, so that many proxies don't return to a restarted server all at once.
                await asyncio.sleep(random.uniform(0.5, 1) * pause / 1000)
        finally:
            lane.shut(CLOSING)

    async def _connect(self, lane: RedisLane, db: int, proto: int, patient: bool = False) -> _Link:
        """Connect and greet; raises what asyncio does, or StoreError once there is a connection."""
        loop = asyncio.get_running_loop()
        endpoint = self._endpoint
        greeting = self.greeting(db, proto)
        call = Call(len(greeting), loop.create_future())
        link = _Link(
            lane, endpoint, b"".join(map(encode_command, greeting)), call, 0 if patient else self._timeout
        )
        try:
            transport = await self.connect(link)
            wire, failed = await call.replies
            # First what it said: a server that is full says so and closes.
            for command, reply in zip(greeting, _parse(wire, len(greeting) - failed), strict=False):
                # A user who may not PING may be all the same who was meant; and a script at work is no reason
                # not to connect: it may be what is to be killed.
                pinged = command[0] == b"PING" and isinstance(reply, CommandError)
                if isinstance(reply, CommandError) and not (pinged and reply.code in ("NOPERM", "BUSY")):
                    raise StoreError(f"{endpoint} answers: {self._censored(reply.text)}")
            if link.lost:
                raise StoreError(link.reason)
        except BaseException:  # a timeout is a cancellation here
            link.give_up("not greeted")
            raise
        lane.open(transport.write)
        self._connections += 1
        return link

    async def connect(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """A connection for ``protocol``, which has yet to greet."""
        loop = asyncio.get_running_loop()
        endpoint = self._endpoint
        if endpoint.path:
            return (await loop.create_unix_connection(lambda: protocol, endpoint.path))[0]
        name = endpoint.host if self._tls else None
        transport, _ = await loop.create_connection(
            lambda: protocol, endpoint.host, endpoint.port, ssl=self._tls, server_hostname=name
        )
        return transport

    def greeting(self, db: int, proto: int) -> list[Argv]:
        user, password = self._endpoint.user.encode(), self._password.encode()
        greeting: list[Argv] = []
        if proto == 3:
            greeting.append([b"HELLO", b"3", *([b"AUTH", user or b"default", password] if password else [])])
        elif password:
            greeting.append([b"AUTH", *([user] if user else []), password])
        if db:
            greeting.append([b"SELECT", b"%d" % db])
        # Shows that somebody is there and that we may speak: a server that is loading, or wants a password,
        # answers an error.
        greeting.append([b"PING"])
        return greeting

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


class _Dedicated(Dedicated):
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


class _Link(asyncio.Protocol):
    """One connection of a lane, which begins with a greeting; ``timeout`` as the upstream's, 0: none."""

    def __init__(
        self, lane: RedisLane, endpoint: Endpoint, greeting: bytes, waiter: Waiter, timeout: int
    ) -> None:
        self.reason = ""  # why it was lost
        self._lane = lane
        self._endpoint = endpoint
        self._greeting = greeting
        self._waiter = waiter
        self._timeout = timeout
        self._transport: asyncio.Transport | None = None
        self._end = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._progress = 0
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
        self._lane.greet(self._greeting, self._waiter, transport.write)
        if self._timeout:
            self._look(transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._lane.feed(data)
        except FramingError as error:
            self.give_up(f"what came is no RESP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self.give_up(_os_reason(error) if error else "the connection was closed")

    def give_up(self, reason: str) -> None:
        """Close, and answer what is unanswered; only the first reason counts."""
        if self.lost or self._transport is None:
            return
        self.reason = f"{self._endpoint}: {reason}"
        self._end.set()
        if self._timer:
            self._timer.cancel()
        self._transport.abort()
        self._lane.lose(self.reason)

    async def wait_lost(self) -> None:
        """Return once there is a ``reason``; closes the connection when cancelled."""
        try:
            await self._end.wait()
        finally:
            self.give_up(CLOSING)

    def _look(self, transport: asyncio.Transport) -> None:
        """See to it that an upstream which owes a reply makes progress, in either direction."""
        lane = self._lane
        progress = lane.bytes_in + lane.bytes_out - transport.get_write_buffer_size()
        if progress != self._progress or not lane.waiting:
            self._progress = progress
            self._silent = 0
        elif self._silent < LOOKS:
            # Looks are counted and not the time: if it was we who stood still, the upstream is not to blame.
            self._silent += 1
        if self._silent == LOOKS:
            self.give_up(f"no answer within {self._timeout} ms")
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout / LOOKS / 1000, self._look, transport)


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
