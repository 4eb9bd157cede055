"""The composition root: brings everything together, accepts clients, keeps house, drains.

The only module that sees all others; ``proxy.build`` makes the backends and routes for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import secrets
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import uvloop

from backends.base import StoreError
from backends.snapshot import SnapshotError
from proxy import __version__, commands, errors
from proxy.blocking import Blocking
from proxy.broker import Broker
from proxy.build import build_mirrors, build_router, build_scrubs, build_snapshots
from proxy.clock import Clock
from proxy.commands.scripting import SCRIPTS
from proxy.commands.spec import bind, load_table
from proxy.config import ColdBackend, Config, describe
from proxy.connection import Connection
from proxy.counters import Rate, Traffic, commands_run
from proxy.dispatch import Dispatcher
from proxy.events import Events, Interest
from proxy.glob import Glob
from proxy.homes import ColdHome, MemoryHome, UpstreamHome
from proxy.info import InfoSource, info_text, reset_counters
from proxy.inspect import (
    blob_url,
    describe_dictionaries,
    describe_routes,
    describe_value,
    memory_usage,
    train_dictionary,
    where,
)
from proxy.listening import StartError, allowed_clients, bind_http, listen, tls_context
from proxy.memoryreport import backends_of, memory_advice, memory_stats, trim_memory
from proxy.modules import learn
from proxy.monitor import Monitors
from proxy.nearcache import NearCache
from proxy.notifications import Notifications
from proxy.parameters import Parameters
from proxy.pubsub import PubSub
from proxy.purge import purge
from proxy.resp import BULK_MAX, OK, Argv, Reply, RequestReader
from proxy.router import Home
from proxy.session import HELD_CLOSING, Link, Server, Session
from proxy.slowlog import LatencyMonitor, SlowLog
from proxy.surroundings import ServerSurroundings
from proxy.sweeper import Sweeper
from proxy.tracking import Tracking
from proxy.transactions import Transactions
from proxy.upstreamscripts import UpstreamScripts
from proxy.verifying.asking import quarantined, release, verify
from proxy.walks import Walks

log = logging.getLogger("redtier")

STRANGER_MAX: Final = 64 << 10  # an unfinished request before authentication
TICK: Final = 0.1  # seconds between two rounds of housekeeping
BUDGET_NS: Final = 1_000_000  # that a round of a memory backend's housekeeping may hold the loop
# How long the listeners wait for the backends at the start.  One that is slower, or away, does not keep
# the others from being served.
OPEN_PATIENCE: Final = 0.5
REOPEN_MAX: Final = 2.0  # seconds between two tries to open a backend that is away, at most
LOOK_PAUSE_MIN, LOOK_PAUSE_MAX = 1000, 60_000  # ms between looks for what modules have brought


class RedtierServer(Server):
    """A whole server: its backends, its sessions, its listeners."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.clock = Clock()
        self.started_at = self.clock.ms
        settings = config.server
        self.password = settings.password
        self.request_max = settings.query_buffer_max
        self.pipeline_max = settings.pipeline_max
        self.output_max = settings.output_buffer_max
        self.max_clients = allowed_clients(settings.max_clients)
        self.idle_timeout = settings.idle_timeout
        self.tcp_keepalive = settings.tcp_keepalive
        self.clients_paused = False
        self.connections_received = 0
        self.connections_rejected = 0
        self.command_rate = Rate()
        self.input_rate = Rate()
        self.output_rate = Rate()
        self.run_id = secrets.token_hex(20)
        self.slowlog = SlowLog(settings.slowlog_slower_than * 1000, settings.slowlog_max_len)
        self.latency = LatencyMonitor(settings.latency_threshold)
        self.latency_tracking = True  # whether it is told of, which is all that could be saved
        self.latency_percentiles: tuple[float, ...] = (50, 99, 99.9)
        self.debug_commands = settings.debug_commands
        self.active_expire = True  # DEBUG SET-ACTIVE-EXPIRE
        self.cache = NearCache(config.cache.max_bytes)
        self.events = Events()
        self.table = load_table()
        # When commands that the table has not may be looked for next, and how long after that again.
        self._look_at = 0  # ms since the epoch
        self._look_pause = LOOK_PAUSE_MIN
        self.router = build_router(config, self.clock, self.cache, self.events, self.table)
        self.mirrors = build_mirrors(config, self.router, self.clock, self.table)
        self.mirrors.attach(self.router, self.events, self.table)
        self.snapshots = build_snapshots(config, self.router, self.clock)
        stores = [*self.mirrors.homes, *self.router.homes]
        self.scrubs = build_scrubs(config, stores, self.clock, self.run_id)
        self.homes = {home.name: home for home in self.router.homes}
        self.forwards = any(isinstance(home, UpstreamHome) for home in self.router.homes)
        self.walks = Walks(self.router, settings.cursors_max)
        commands.load()
        bind(self.table)
        broker = Broker()
        self.subscriptions = PubSub(self.router, broker)
        self.notifications = Notifications(broker.publish)
        self.events.notify = self.notifications.event
        scripts = config.scripts
        SCRIPTS.configure(scripts.timeout, scripts.max_memory, scripts.cache_max)
        SCRIPTS.around = ServerSurroundings(self.router, self.walks, self.subscriptions)
        self.events.publish = self.subscriptions.deliver
        self.upstream_scripts = UpstreamScripts(self.router)
        self.parameters = Parameters(self)
        self.transactions = Transactions(
            self.table,
            self.router,
            self.clock,
            self.events,
            config.transactions.across == "split",
            settings.key_max,
        )
        self.monitors = Monitors()
        self.blocking = Blocking(self.events, self.clock)
        self._sessions: dict[int, Session] = {}
        self._gone = Traffic(0, 0, 0, 0)  # of the clients that have left
        self._ids = itertools.count(1)
        self._listeners: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._left = asyncio.Event()  # a client has
        self._loop = asyncio.get_running_loop()
        self.tracking = Tracking(
            self.events,
            self.router,
            self._sessions,
            settings.tracking_table_max_keys,
            self._loop.call_soon,
        )
        self.transactions.ran = self.tracking.ran
        self.dispatcher = Dispatcher(
            self.table,
            self.router,
            self.clock,
            settings.pipeline_max,
            settings.key_max,
            self._loop.call_soon,
            self.transactions.check,
            self.slowlog,
            self.latency,
            self.events,
            self.blocking,
            self.monitors,
            self.tracking,
        )

    # Running

    async def start(self) -> None:
        """Open the backends and listen; raises StartError."""
        http = self.config.http.listen
        http_socket = None if http is None else bind_http(http)
        try:
            await self.snapshots.restore()
        except SnapshotError as error:
            raise StartError(str(error)) from None
        await self._open_homes()
        for home in self.mirrors.homes:  # nobody waits for them
            self._spawn(self._open_for_mirrors(home))
        self.mirrors.start(self._spawn)
        settings = self.config.server
        tls = tls_context(settings.tls) if settings.tls.listen else None
        for address in settings.listen:
            self._listeners.append(await listen(address, None, settings.tcp_backlog, self._connection))
        for address in settings.tls.listen:
            self._listeners.append(await listen(address, tls, settings.tcp_backlog, self._connection))
        self._spawn(self._housekeeping())
        self._spawn(self.snapshots.keep())
        if http_socket is not None:
            self._spawn(self._serve_http(http_socket))
        # What is there now lives as long as the server: the collector need not look at it again.
        gc.collect()
        gc.freeze()

    async def run(self) -> None:
        """Serve until ``stop``, then drain."""
        await self._stop.wait()
        log.info("stopping")
        await self.drain()

    def stop(self) -> None:
        self._stop.set()

    async def drain(self) -> None:
        """Accept nobody, finish what is in flight within the bound, flush, close everything."""
        for listener in self._listeners:
            listener.close()
        deadline = time.monotonic() + self.config.server.drain_timeout / 1000
        for session in self.clients():
            session.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._loop.time() + self.config.server.drain_timeout / 1000):
                while self._sessions:
                    self._left.clear()
                    await self._left.wait()
        for session in self.clients():
            session.link.abort("the server stops")
        await self.mirrors.settle(max(1.0, deadline - time.monotonic()))
        await self.subscriptions.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(SnapshotError):  # it was logged
            await self.snapshots.save(patient=False)
        patience = max(1.0, deadline - time.monotonic())
        homes = [*self.homes.values(), *self.mirrors.homes]
        await asyncio.gather(*[self._close(home, patience) for home in homes])

    async def _close(self, home: Home, patience: float) -> None:
        with contextlib.suppress(TimeoutError, StoreError):
            async with asyncio.timeout(patience):
                if isinstance(home, (ColdHome, UpstreamHome)):
                    await home.close()

    async def _serve_http(self, sock: socket.socket) -> None:
        """Answer over HTTP; who is there before aiohttp is waits for it in the socket's backlog."""
        serve_http = await self._loop.run_in_executor(None, _import_http)
        await serve_http(self, sock)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open_homes(self) -> None:
        opening = []
        for home in self.homes.values():
            if not isinstance(home, MemoryHome):
                first = self._loop.create_future()
                self._spawn(self._open(home, first))
                opening.append(first)
        if opening:
            await asyncio.wait(opening, timeout=OPEN_PATIENCE)

    async def _open(self, home: Home, first: asyncio.Future[None]) -> None:
        """Open a home; then learn what it serves, or sweep and scrub it."""
        await self._until_open(home, first)
        if isinstance(home, UpstreamHome):
            await self._learn(home)
        elif isinstance(home, ColdHome):
            home.listen()
        await self._keep_clean(home)

    async def _open_for_mirrors(self, home: Home) -> None:
        """Open a home that mirrors have for themselves; sweep and scrub it where no route leads to it."""
        await self._until_open(home, self._loop.create_future())
        if home.name not in self.homes:
            await self._keep_clean(home)

    async def _until_open(self, home: Home, first: asyncio.Future[None]) -> None:
        """Open a home, again and again until it is there; ``first`` is done with the first try."""
        pause = 0.1
        while True:
            try:
                if isinstance(home, (ColdHome, UpstreamHome)):
                    await home.open()
                home.down = ""
            except StoreError as error:
                if home.down != str(error):
                    log.warning("backend '%s' is not there: %s", home.name, error)
                home.down = str(error)
            if not first.done():
                first.set_result(None)
            if not home.down:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, REOPEN_MAX)
        log.info("backend '%s' is there", home.name)

    async def _learn(self, home: UpstreamHome) -> None:
        for spec in await learn(home, self.table):
            self.dispatcher.know(spec)
            self._look_pause = LOOK_PAUSE_MIN

    def look_for_commands(self) -> None:
        now = self.clock.ms
        if now >= self._look_at:
            self._look_at = now + self._look_pause
            self._look_pause = min(2 * self._look_pause, LOOK_PAUSE_MAX)
            for home in self.homes.values():
                if isinstance(home, UpstreamHome) and not home.down:
                    self._spawn(self._learn(home))

    async def _keep_clean(self, home: Home) -> None:
        if home.name in self.scrubs:
            self._spawn(self.scrubs[home.name].keep())
        await self._sweep(home)

    async def _sweep(self, home: Home) -> None:
        backend = self.config.backends[home.name]
        if isinstance(home, ColdHome) and isinstance(backend, ColdBackend) and backend.sweep_interval:
            least, most = backend.sweep_interval / 1000, backend.sweep_interval_max / 1000
            await Sweeper(home.name, home.sweep, least, most, lambda: self.active_expire).run()

    async def _housekeeping(self) -> None:
        backends = backends_of(self)
        idle_check = 0
        while True:
            now = self.clock.tick()
            self.command_rate.sample(now, commands_run(self.table))
            traffic = self.traffic()
            self.input_rate.sample(now, traffic.received)
            self.output_rate.sample(now, traffic.sent)
            busy = False
            began = time.perf_counter_ns()
            for backend in backends:
                busy |= backend.cycle(BUDGET_NS)
            busy |= self.tracking.cycle(now)
            self.latency.add("expire-cycle", now // 1000, (time.perf_counter_ns() - began) // 1_000_000)
            self.dispatcher.retry_stalled()
            if self.clients_paused and self.dispatcher.pause_until <= now:
                self.unpause()
            if self.idle_timeout and now >= idle_check:
                idle_check = now + 1000
                self._close_idle(now)
            # With more to do, let the clients have most of the time.
            await asyncio.sleep(TICK / 10 if busy else TICK)

    def _close_idle(self, now: int) -> None:
        for session in self.clients():
            if session.active_at + self.idle_timeout <= now and not session.waiting.size:
                if session.held & HELD_CLOSING:
                    session.link.abort("it is idle and does not read its replies")
                else:
                    session.close()

    # Connections

    def _connection(self) -> Connection:
        return Connection(self, self.output_max)

    def accept(self, connection: Connection) -> Session | None:
        """A new connection's session, or None if it is turned away."""
        if self._stop.is_set():  # it has waited in a listener's backlog
            connection.close()
            return None
        if len(self._sessions) >= self.max_clients:
            self.connections_rejected += 1
            connection.write(errors.CommandError(errors.MAX_CLIENTS).wire)
            connection.close()
            return None
        self.connections_received += 1
        trusted = not self.password
        reader = RequestReader(self.request_max if trusted else STRANGER_MAX, BULK_MAX, trusted)
        self.clock.tick()
        session = Session(next(self._ids), self, self.dispatcher, connection, reader)
        self._sessions[session.id] = session
        return session

    def forget(self, session: Session) -> None:
        if self._sessions.pop(session.id, None) is not None:
            self._gone = _added(self._gone, session.link)
        self.transactions.unwatch(session)
        self.subscriptions.forget(session)
        self.blocking.forget(session)
        self.tracking.untrack(session)
        self.unmonitor(session)
        self._left.set()

    def traffic(self) -> Traffic:
        total = self._gone
        for session in self._sessions.values():
            total = _added(total, session.link)
        return total

    def keep_alive(self, sock: Any) -> None:
        """Have the kernel notice a peer that is gone, as Redis' tcp-keepalive does."""
        seconds = self.tcp_keepalive // 1000
        if seconds:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, seconds // 3))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)

    # What commands ask for (see Server)

    def now(self) -> int:
        return self.clock.ms

    def clients(self) -> list[Session]:
        return list(self._sessions.values())

    def pause(self, until: int, writes_only: bool) -> None:
        self.dispatcher.pause_until = until
        self.dispatcher.pause_writes_only = writes_only
        self._set_paused(True)

    def unpause(self) -> None:
        self._set_paused(False)
        self.dispatcher.unpause()

    def _set_paused(self, paused: bool) -> None:
        self.clients_paused = paused
        for session in self._sessions.values():
            session.regate()

    def scan(self, db: int, cursor: int, pattern: bytes, count: int, type: str) -> Awaitable[Reply]:
        return self.walks.scan(db, cursor, Glob(pattern), count, type)

    def keys(self, db: int, pattern: bytes) -> Awaitable[Reply]:
        return self.walks.keys(db, Glob(pattern))

    def size(self, db: int) -> Awaitable[Reply]:
        return self.walks.size(db)

    def random_key(self, db: int) -> Awaitable[Reply]:
        return self.walks.random_key(db)

    async def flush(self, db: int | None) -> Reply:
        try:
            self.walks.check_flushable()
            self.mirrors.replaced("FLUSHALL" if db is None else "FLUSHDB")  # even if it is done in part
            return await self.walks.flush(db)
        finally:
            self.tracking.flushed()

    @property
    def keeps_snapshots(self) -> bool:
        return bool(self.snapshots.all)

    @property
    def saving(self) -> bool:
        return any(snapshot.began_at for snapshot in self.snapshots.all.values())

    @property
    def saved_at(self) -> int:
        return max(self.started_at, *(snapshot.saved_at for snapshot in self.snapshots.all.values()), 0)

    async def save(self) -> Reply:
        try:
            await self.snapshots.save()
        except SnapshotError as error:
            raise errors.not_saved(str(error)) from None
        return OK

    def save_soon(self) -> None:
        self._spawn(self.snapshots.save_quietly())

    async def after(self, ms: int, reply: Reply) -> Reply:
        await asyncio.sleep(ms / 1000)
        return reply

    def unblock(self, session: Session, error: bool) -> bool:
        return self.blocking.unblock(session, error)

    def subscribe(self, session: Session, command: bytes, names: list[bytes]) -> Reply:
        return self.subscriptions.subscribe(session, command, names)

    def unsubscribe(self, session: Session, command: bytes, names: list[bytes]) -> Reply:
        return self.subscriptions.unsubscribe(session, command, names)

    def forget_subscriptions(self, session: Session) -> None:
        self.subscriptions.forget(session)

    def track(self, session: Session, interest: Interest, prefixes: list[bytes]) -> None:
        self.tracking.track(session, interest, prefixes)

    def untrack(self, session: Session) -> None:
        self.tracking.untrack(session)

    def publish(self, session: Session, command: bytes, channel: bytes, message: bytes) -> Reply:
        return self.subscriptions.publish(session, command, channel, message)

    def pubsub(self, question: bytes, names: list[bytes]) -> Reply:
        return self.subscriptions.pubsub(question, names)

    def tell_upstreams(self, argv: Argv, reply: Reply) -> Reply:
        return self.upstream_scripts.tell(argv, reply)

    def kill_scripts(self, argv: Argv) -> Reply:
        return self.upstream_scripts.kill(argv)

    def function(self, session: Session, argv: Argv) -> Reply:
        return self.upstream_scripts.function(session.proto, argv)

    def modules(self, session: Session) -> Reply:
        return self.upstream_scripts.modules(session.proto)

    def execute(self, session: Session) -> Reply:
        return self.transactions.execute(session)

    def watch(self, session: Session, names: list[bytes]) -> Awaitable[Reply]:
        return self.transactions.watch(session, names)

    def unwatch(self, session: Session) -> None:
        self.transactions.unwatch(session)

    def monitor(self, session: Session) -> None:
        self.monitors.sessions[session] = None
        self._regate_all()

    def unmonitor(self, session: Session) -> None:
        if self.monitors.sessions.pop(session, self) is None:
            self._regate_all()

    def is_monitor(self, session: Session) -> bool:
        return session in self.monitors.sessions

    def _regate_all(self) -> None:
        self.monitored = bool(self.monitors.sessions)
        for session in self._sessions.values():
            session.regate()

    def purge(self, db: int, pattern: bytes, force: bool) -> Awaitable[Reply]:
        return purge(self.router, self.walks, db, Glob(pattern), force)

    def swap(self, first: int, second: int) -> Reply:
        reply = self.walks.swap(first, second)
        self.tracking.flushed()
        self.mirrors.replaced("SWAPDB")
        return reply

    def memory_usage(self, db: int, key: bytes) -> Awaitable[Reply]:
        return memory_usage(self.router.find(key), db, key)

    def memory_stats(self) -> dict[str, Reply]:
        return memory_stats(self)

    def memory_advice(self) -> str:
        return memory_advice(self)

    def trim_memory(self) -> Awaitable[Reply]:
        return trim_memory()

    def describe_value(self, db: int, key: bytes) -> Awaitable[Reply]:
        return describe_value(self.router.find(key), self.table, db, key)

    def set_active_expire(self, active: bool) -> None:
        self.active_expire = active
        for backend in backends_of(self):
            backend.active_expire = active

    async def sleep(self, seconds: float) -> Reply:
        await asyncio.sleep(seconds + 0.001)  # a timer goes by milliseconds, and may be early by one
        return OK

    def where(self, db: int, key: bytes) -> Awaitable[Reply]:
        return where(self.router.find(key), db, key)

    def url(self, db: int, key: bytes, seconds: int) -> Awaitable[Reply]:
        return blob_url(self.router.find(key), db, key, seconds)

    def verify(self, db: int, key: bytes) -> Awaitable[Reply]:
        return verify(self.router.find(key), db, key)

    def quarantined(self, backend: str, after: bytes, count: int) -> Awaitable[Reply]:
        return quarantined(self.homes, backend, after, count)

    def release(self, backend: str, ids: list[bytes]) -> Awaitable[Reply]:
        return release(self.homes, backend, ids)

    def routes(self) -> Reply:
        return describe_routes(self.router, self.config, self.mirrors)

    def dictionaries(self) -> Awaitable[Reply]:
        return describe_dictionaries(self.router)

    def train_dictionary(self, prefix: bytes) -> Awaitable[Reply]:
        return train_dictionary(self.router, prefix)

    def info(self, sections: list[str]) -> str:
        return info_text(self, sections)

    def config_get(self, patterns: list[bytes]) -> dict[bytes, bytes]:
        return self.parameters.get(patterns)

    def config_set(self, values: dict[bytes, bytes]) -> None:
        self.parameters.set(values)

    def config_rewrite(self) -> None:
        self.parameters.rewrite()

    def reset_stats(self) -> None:
        reset_counters(self)


def _added(traffic: Traffic, link: Link) -> Traffic:
    return Traffic(
        traffic.received + link.received,
        traffic.sent + link.sent,
        traffic.reads + link.reads,
        traffic.writes + link.writes,
    )


def _import_http() -> Callable[[InfoSource, socket.socket], Awaitable[None]]:
    from proxy.http import serve_http

    gc.freeze()  # as after the start
    return serve_http


async def serve(config: Config) -> int:
    """Run a server until it is told to stop; the exit code."""
    loop = asyncio.get_running_loop()
    try:
        server = RedtierServer(config)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        await server.start()
    except StartError as error:
        print(f"redtier: {error}", file=sys.stderr)
        return 1
    for line in describe(config):
        print(line)
    listening = [*config.server.listen, *config.server.tls.listen]
    print(f"redtier {__version__} is ready on {', '.join(map(str, listening))}", flush=True)
    await server.run()
    return 0


def main(config: Config) -> int:
    """Run the server on uvloop; the exit code."""
    # The level is for our own modules.  Libraries would log at "debug" what they send, credentials and values
    # in it, and of theirs no more than a warning is an operator's affair.
    log.setLevel(config.server.log_level.upper())
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # Entries are not the collector's affair (see proxy.lru): what is left is small and short-lived.
    # A young collection then takes well under a millisecond, a full one is due after twenty million
    # objects, where plain Python's entries would make it long.
    gc.set_threshold(10_000, 10, 200)
    return uvloop.run(serve(config))
