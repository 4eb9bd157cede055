"""The slow path: commands that are out of the ordinary in any way, so that the ordinary pays nothing for it.

First what may keep a command from being run: its arity, authentication, a subscription, MULTI, CLIENT PAUSE;
and who is to be told of it: MONITOR, CLIENT TRACKING.  Then where it is run: on the session, on several
backends (``Fanout``), as one that may wait for an element (``Blocking``), or on one backend after all, which
is the fast path's work.

The two halves know this of each other: the dispatcher calls ``SlowPath.run``, and the slow path what
``FastPath`` lists.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Final

from backends.base import Waiter
from proxy import errors
from proxy.blocking import Blocking, First
from proxy.cells import WorkingSet
from proxy.clock import Clock
from proxy.commands.scripting import to_upstream
from proxy.commands.spec import (
    ADMIN,
    BLOCKING,
    FORWARD_ONLY,
    KEYS,
    NO_AUTH,
    NO_MANDATORY_KEYS,
    NO_MULTI,
    PUBSUB,
    READONLY,
    WRITE,
    CommandSpec,
    InvalidKeys,
    key_positions,
    lookup,
)
from proxy.errors import CommandError, NeedKeys
from proxy.events import Events
from proxy.everywhere import run_everywhere, runs_everywhere
from proxy.fanout import Fanout
from proxy.homes import ColdHome, MemoryHome, UpstreamHome
from proxy.keyspace import check_size
from proxy.modules import Inquiry
from proxy.monitor import Monitors
from proxy.moves import MOVES
from proxy.resp import ARGUMENT_OVERHEAD, Argv, Reply, Simple, encode_command
from proxy.router import APART, COLD, UPSTREAM, Home, Route, Router
from proxy.scheduler import Scheduler
from proxy.sealing import has_values
from proxy.session import (
    HELD_BARRIER,
    HELD_ORDER,
    HELD_PIPELINE,
    REPLY_ON,
    REPLY_SKIP,
    REPLY_SKIP_NEXT,
    Deferred,
    Queue,
    Session,
    Slot,
)
from proxy.tracking import Tracking

log = logging.getLogger("redtier.slowpath")

QUEUED: Final = Simple(b"QUEUED")
now_ns: Final = time.perf_counter_ns  # by a name of its own: one look-up less

# What a client of RESP2 that is subscribed may send: with any other command it could not tell replies from
# messages.
SUBSCRIBED: Final = (
    b"ping",
    b"quit",
    b"reset",
    b"subscribe",
    b"unsubscribe",
    b"psubscribe",
    b"punsubscribe",
    b"ssubscribe",
    b"sunsubscribe",
)

# Commands that are not queued between MULTI and EXEC, as in Redis.
AT_ONCE_IN_MULTI: Final = (b"exec", b"discard", b"multi", b"watch", b"quit", b"reset")

# Commands that may need a key which only the handler finds, in another database or not named at all: no
# command of the same client may be at work beside them on a cold home.
STRAYS: Final = (b"copy", b"move", b"eval", b"eval_ro", b"evalsha", b"evalsha_ro")


class FastPath(Scheduler):
    """What the slow path may ask of the fast one: to run a command on one backend, and to keep accounts.

    As of any scheduler, it may ask it to ``park``, ``stall`` or ``pause`` a session, and to ``end_run``.
    """

    began: int  # ns of the performance counter, when the work on this chunk of input began

    @abstractmethod
    def at_once(self, s: Session, spec: CommandSpec, argv: Argv, route: Route) -> None:
        """Run a command in memory."""

    @abstractmethod
    def submit(self, s: Session, spec: CommandSpec, argv: Argv, route: Route, names: list[bytes]) -> None:
        """Run a command on a cold home: from the near cache at once, or as a job."""

    @abstractmethod
    def forward(self, s: Session, spec: CommandSpec, argv: Argv, route: Route, writes: int) -> None:
        """Add a command to the run of frames that goes to its upstream's lane."""

    @abstractmethod
    def measure(self, s: Session, spec: CommandSpec, argv: Argv, began: int) -> None:
        """A command that was timed by itself, from ``began`` on, is done."""

    @abstractmethod
    def failed(self, spec: CommandSpec, route: Route | None, error: CommandError) -> CommandError:
        """Count an error of a command that was run, and return it."""

    @abstractmethod
    def broken(self, spec: CommandSpec, route: Route | None) -> CommandError:
        """Log the exception at hand, a fault of ours, and count it; returns what the client is told."""


class SlowPath:
    """Runs what the fast path does not."""

    def __init__(
        self,
        fast: FastPath,
        table: dict[bytes, CommandSpec],
        router: Router,
        clock: Clock,
        pipeline_max: int,
        key_max: int,
        check_queued: Callable[[CommandSpec, Argv], None],
        events: Events,
        blocking: Blocking,
        monitors: Monitors,
        tracking: Tracking,
    ) -> None:
        self._fast: FastPath = fast
        self._table: dict[bytes, CommandSpec] = table
        self._router: Router = router
        self._clock: Clock = clock
        self._pipeline_max: int = pipeline_max
        self._key_max: int = key_max
        self._check_queued: Callable[[CommandSpec, Argv], None] = check_queued
        self._events: Events = events
        self._blocking: Blocking = blocking
        self._monitors: Monitors = monitors
        self._tracking: Tracking = tracking
        self._fanout: Fanout = Fanout(router, clock)
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, s: Session, argv: Argv) -> None:
        """Run a command, or hold the session until it may be run."""
        self._fast.end_run(s)
        spec = lookup(self._table, argv)
        try:
            if spec is None:
                raise self._unknown(s, argv)
            s.last_command = spec.name
            if not spec.arity_fits(len(argv)):
                raise errors.wrong_arity(spec.title)
            if not s.authenticated and not spec.flags & NO_AUTH:
                raise CommandError(errors.NO_AUTH)
            if s.subscriptions is not None and s.proto == 2 and spec.name not in SUBSCRIBED:
                raise errors.subscribed(spec.title)
            if s.multi is not None and spec.name not in AT_ONCE_IN_MULTI:
                self._queue(s, s.multi, spec, argv)
                return
            if (spec.scope == KEYS or spec.write or s.multi is not None) and self._fast.pausing(spec.write):
                self._fast.pause(s, argv)
                return
            queued: list[Argv] = []  # what EXEC is about to run
            if self._monitors.sessions and s.multi is not None and not s.multi.aborted:
                queued = s.multi.requests
            if s.tracking is not None:
                self._tracking.begin(s, spec, argv)
            if spec.scope == KEYS:
                self._keys_command(s, spec, argv)
            else:
                self._session_command(s, spec, argv)
            if self._monitors.sessions and s.parked is not argv:
                self._show(s, spec, argv, queued)
            if s.tracking is not None and s.parked is not argv:
                self._tracking.ran(s, spec, argv)
        except CommandError as error:
            if spec is not None:
                spec.rejected += 1
            if spec is not None and spec.name == b"exec" and not spec.arity_fits(len(argv)):
                s.leave_multi()
                s.server.unwatch(s)
                error = errors.exec_refused(error)
            elif s.multi is not None and (
                spec is None or spec.name not in AT_ONCE_IN_MULTI or not spec.arity_fits(len(argv))
            ):
                s.multi.aborted = True
            s.count_error(error.code, 1)
            s.reply(error)
        except Exception:
            assert spec is not None
            s.reply(self._fast.broken(spec, None))
        if self._events.ready:
            self._blocking.serve()
        if s.tracking is not None:
            self._tracking.settle(s, spec, s.parked is None)
        if s.reply_mode != REPLY_ON and s.parked is None:
            if s.reply_mode == REPLY_SKIP:
                s.reply_mode = REPLY_ON
            elif s.reply_mode == REPLY_SKIP_NEXT:
                s.reply_mode = REPLY_SKIP
            s.regate()

    def _show(self, s: Session, spec: CommandSpec, argv: Argv, queued: list[Argv]) -> None:
        """Let MONITOR's clients see a command, and before it what EXEC has run."""
        if spec.name == b"exec":
            for each in queued:
                command = lookup(self._table, each)
                assert command is not None
                self._monitors.show(s, command, each)
        self._monitors.show(s, spec, argv)

    def _queue(self, s: Session, queue: Queue, spec: CommandSpec, argv: Argv) -> None:
        """A command between MULTI and EXEC."""
        if spec.flags & NO_MULTI:
            raise CommandError(errors.NOT_IN_MULTI)
        self._check_queued(spec, argv)
        for arg in argv:
            queue.size += len(arg) + ARGUMENT_OVERHEAD
        if queue.size > s.server.request_max:
            raise errors.transaction_too_large(s.server.request_max)
        queue.requests.append(argv)
        s.reply(QUEUED)

    def _unknown(self, s: Session, argv: Argv) -> CommandError:
        container = self._table.get(argv[0].lower())
        if container is None:
            if s.authenticated:
                s.server.look_for_commands()
            return errors.unknown_command(argv)
        return errors.unknown_subcommand(argv[1], container.title)

    # A command that speaks of no keys

    def _session_command(self, s: Session, spec: CommandSpec, argv: Argv) -> None:
        if spec.handler is None:
            raise errors.not_served_yet(spec.title)
        if spec.name == b"select" and s.waiting.size and s.server.forwards:
            # Each database of a Redis has a lane of its own; MOVE, COPY and scripts reach into another one.
            self._fast.park(s, argv, HELD_BARRIER)
            return
        if spec.name == b"publish" or spec.name == b"spublish":
            # As a write: what is told of must be there before.  A Redis' own channels are its affair.
            route = self._router.find(argv[1])
            if route.kind == UPSTREAM:
                self._fast.forward(s, spec, argv, route, 1)
                self._fast.end_run(s)
                return
            if s.write_count:
                self._fast.park(s, argv, HELD_ORDER)
                return
        if spec.name == b"wait" and self._router.redis is not None:
            # For all that its Redis has executed until now; of the rest nothing has a replica.
            self._wait_elsewhere(s, spec, argv, self._router.redis.home, b"")
            return
        began = now_ns()
        try:
            reply = spec.handler(s, argv)
        except CommandError as error:
            reply = self._fast.failed(spec, None, error)
        except Exception:
            reply = self._fast.broken(spec, None)
        if isinstance(reply, Deferred):
            self._defer(s, spec, argv, reply)
        else:
            spec.calls += 1
            s.reply(reply)
            self._fast.measure(s, spec, argv, began)

    # A command on keys

    def _keys_command(self, s: Session, spec: CommandSpec, argv: Argv) -> None:
        try:
            positions = key_positions(spec, argv)
        except InvalidKeys:
            positions = []
        names = [argv[position] for position in positions]
        if spec.asks and not spec.flags & (BLOCKING | PUBSUB | ADMIN):
            self._defer(s, spec, argv, Deferred(Inquiry(self._router, s, spec, argv).run))
            return
        for name in names:
            if len(name) > self._key_max:
                raise errors.too_large(len(name), self._key_max, "key_max")
        if not names:
            self._without_keys(s, spec, argv)
            return
        if self._router.observed and spec.flags & READONLY:
            for name in names:
                self._tell_read(s.db, name)
        if self._router.seals:
            self._router.check_sealed(spec, argv, names)
        route = self._router.find(names[0])
        home = route.home
        patterns = spec.patterns(argv) if spec.patterns is not None else []
        if patterns:
            self._router.check_patterns(spec.title, route, patterns)
        alone = True
        step = home.step(names[0])
        several = len(names) > 1 and spec.name in STRAYS
        for name in names:
            if name != names[0]:
                several = True
                other = self._router.find(name)
                if other.home.step(name) != step or (other.sealed != route.sealed and spec.name in MOVES):
                    alone = False
        if not alone or (
            # Reads of several keys are one job on any cold home: they commit nothing.
            several and spec.flags & WRITE and isinstance(home, ColdHome) and not home.store.atomic_groups
        ):
            work = self._fanout.plan(s, spec, argv, positions)
            if isinstance(work, Deferred):
                self._defer(s, spec, argv, work)
                return
            if spec.write and s.write_count:
                self._fast.park(s, argv, HELD_ORDER)
                return
            for part in work.parts:
                if part.home.full:
                    self._fast.stall(s, argv, part.home)
                    return
            spec.calls += 1
            slot = s.wait(1, work, 1 if spec.write else 0)
            slot.timing = spec.timing
            slot.argv = argv
            slot.began = self._fast.began
            work.start(slot)
            if work.sealing:
                s.hold(HELD_ORDER)  # until it is acknowledged
            if s.pending >= self._pipeline_max:
                s.hold(HELD_PIPELINE)
        elif spec.flags & BLOCKING:
            self._block(s, spec, argv, route, names)
        elif route.kind == UPSTREAM:
            if not spec.forwardable:
                raise errors.not_shared(spec.title)
            for name in names:
                if self._router.find(name).limited:
                    self._check_sizes(self._router.find(name), argv)
            assert isinstance(home, UpstreamHome)
            near = route.near and route.limited and spec.kept  # else the fast path has looked there
            if near or (home.sealing is not None and has_values(spec.name)):
                self._forward_alone(s, spec, argv, route, home)
                return
            self._forward(s, spec, argv, route)
        elif spec.handler is None:
            if not spec.forwardable:  # nor would a redis route take it
                raise errors.not_served_yet(spec.title)
            raise errors.not_served(spec.title, home.type)
        elif route.kind == COLD and (patterns or spec.name in STRAYS):
            self._submit_alone(s, spec, argv, route, names)
        elif route.kind == COLD:
            self._fast.submit(s, spec, argv, route, names)
        elif spec.write and s.write_count:
            self._fast.park(s, argv, HELD_ORDER)
        else:
            self._fast.at_once(s, spec, argv, route)

    def _tell_read(self, db: int, name: bytes) -> None:
        route = self._router.find(name)
        if route.way == APART and route.observer is not None:
            route.observer.read(db, name)

    def _forward(self, s: Session, spec: CommandSpec, argv: Argv, route: Route) -> None:
        """Send a command as a run of its own."""
        sent = argv
        if spec.group == "scripting":
            sent = to_upstream(argv)
            if sent is not argv:
                s.reader.start = -1  # what came is not what goes
        self._fast.forward(s, spec, sent, route, 1 if spec.write else 0)
        self._fast.end_run(s)
        if s.parked is sent:
            s.parked = argv

    def _forward_alone(
        self, s: Session, spec: CommandSpec, argv: Argv, route: Route, home: UpstreamHome
    ) -> None:
        """Send a command to its Redis by itself: its reply may be known here, or have sealed values in it."""
        if spec.write and s.write_count and s.write_home is not home:
            self._fast.park(s, argv, HELD_ORDER)
            return
        server = home.server_for(spec, argv, 0 if s.watches else route.reads)
        known: bytes | None = None
        if route.near and spec.kept and home.near is not None:
            known = home.near.find(s.db, s.proto, spec, argv)
        if known is None and (home.full or server.full):
            self._fast.stall(s, argv, home if home.full else server)
            return
        spec.calls += 1
        slot = s.wait(1, home, 1 if spec.write else 0)
        slot.tally = route.tally
        slot.timing = spec.timing
        slot.argv = argv
        slot.began = self._fast.began
        for arg in argv:
            slot.size += len(arg)
        slot.load = server.load
        server.load.bytes += slot.size
        self._ask(s, spec, argv, server, slot, known)
        if s.pending >= self._pipeline_max:
            s.hold(HELD_PIPELINE)

    def _ask(
        self, s: Session, spec: CommandSpec, argv: Argv, home: UpstreamHome, slot: Slot, known: bytes | None
    ) -> None:
        sealing = home.sealing
        waiter: Waiter = slot if sealing is None else sealing.unsealing(spec.name, argv, slot)
        if known is not None:
            waiter.done(known, 0)
            return
        lane = home.shared(s.db, s.proto, s.lane)
        if not spec.write:
            slot.sent = encode_command(argv)
            slot.retriable = True
            lane.send(slot.sent, waiter)
        elif sealing is None:
            lane.send(encode_command(argv), waiter)
        elif not sealing.send(lane, spec.name, argv, slot):
            s.hold(HELD_ORDER)  # until it is acknowledged

    def _block(self, s: Session, spec: CommandSpec, argv: Argv, route: Route, names: list[bytes]) -> None:
        """A command that may wait for one of its keys to be written."""
        home = route.home
        if spec.handler is None and not isinstance(home, UpstreamHome):
            raise errors.not_served(spec.title, home.type)
        if isinstance(home, UpstreamHome) and spec.group == "stream" and not _may_wait(argv):
            self._forward(s, spec, argv, route)
            return
        if isinstance(home, UpstreamHome):
            self._wait_elsewhere(s, spec, argv, home, names[0])
            return
        if s.write_count:
            self._fast.park(s, argv, HELD_ORDER)
            return
        if isinstance(home, MemoryHome):
            self._fast.at_once(s, spec, argv, route)
            return
        if home.full:
            self._fast.stall(s, argv, home)
            return
        spec.calls += 1
        slot = s.wait(1, home, 0)
        self._blocking.hold(s)
        assert isinstance(home, ColdHome)
        assert spec.handler is not None
        first = First(self._blocking, s, slot, spec, route, names)
        home.submit(first, spec.handler, argv, s.db, spec.need, names)

    def _wait_elsewhere(self, s: Session, spec: CommandSpec, argv: Argv, home: Home, key: bytes) -> None:
        """A command for which its Redis may have its client wait."""
        assert isinstance(home, UpstreamHome)
        if s.write_count:
            self._fast.park(s, argv, HELD_ORDER)
            return
        server = home.of(key)
        if server.full:
            self._fast.stall(s, argv, server)
            return
        spec.calls += 1
        slot = s.wait(1, home, 0)
        self._blocking.hold(s)
        self._blocking.wait_elsewhere(s, slot, home, key, argv)

    def _submit_alone(
        self, s: Session, spec: CommandSpec, argv: Argv, route: Route, names: list[bytes]
    ) -> None:
        if s.waiting.size:
            self._fast.park(s, argv, HELD_BARRIER)
            return
        self._fast.submit(s, spec, argv, route, names)
        if s.waiting.size:
            s.hold(HELD_BARRIER)

    def _check_sizes(self, route: Route, argv: Argv) -> None:
        for arg in argv:
            check_size(route.policy, arg)

    def _without_keys(self, s: Session, spec: CommandSpec, argv: Argv) -> None:
        """No keys, or some that can't be told: the handler says what is wrong, as Redis does."""
        alone = self._router.alone
        if spec.group == "scripting" and alone is not None:
            self._forward(s, spec, argv, alone)
            return
        if spec.name in FORWARD_ONLY:
            self._forward(s, spec, argv, self._router.of_functions(spec.title))
            return
        if spec.upstream:
            if spec.flags & (BLOCKING | PUBSUB | ADMIN):
                raise errors.not_shared(spec.title)
            route = self._router.of_backend(spec.upstream)
            home = route.home
            assert isinstance(home, UpstreamHome)
            if runs_everywhere(spec, home):
                self._defer(s, spec, argv, Deferred(partial(run_everywhere, s, spec, argv, home)))
            else:
                self._forward(s, spec, argv, route)
            return
        if spec.handler is None:
            raise errors.not_served_yet(spec.title)
        began = now_ns()
        nothing = WorkingSet(self._clock, s.db, [])
        try:
            reply = spec.handler(nothing, argv)
        except NeedKeys as need:
            if not spec.flags & NO_MANDATORY_KEYS:
                raise InvalidKeys from None
            self._with_late_key(s, spec, argv, need.names[0])
            return
        for db, name, key in nothing.effects:  # a script's messages
            self._events.event(db, name, key)
        spec.calls += 1
        if isinstance(reply, CommandError):
            reply = self._fast.failed(spec, None, reply)
        s.reply(reply)
        self._fast.measure(s, spec, argv, began)

    def _with_late_key(self, s: Session, spec: CommandSpec, argv: Argv, key: bytes) -> None:
        """A script that names no key and uses one all the same: it runs where that one is."""
        route = self._router.find(key)
        if route.kind == UPSTREAM:
            raise errors.unnamed_key(key)
        if route.kind == COLD:
            self._submit_alone(s, spec, argv, route, [key])
        elif spec.write and s.write_count:
            self._fast.park(s, argv, HELD_ORDER)
        else:
            self._fast.at_once(s, spec, argv, route)

    # A command of several steps

    def _defer(self, s: Session, spec: CommandSpec, argv: Argv, work: Deferred) -> None:
        """Run a command that takes several steps, once the session's earlier replies have left."""
        if s.waiting.size:
            self._fast.park(s, argv, HELD_BARRIER)
            return
        spec.calls += 1
        slot = s.wait(1, work, 0)
        slot.timing = spec.timing
        slot.argv = argv
        slot.began = self._fast.began
        s.hold(HELD_BARRIER)
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(self._finish(slot, spec, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, slot: Slot, spec: CommandSpec, work: Deferred) -> None:
        reply: Reply
        try:
            reply = await work.run()
        except CommandError as error:
            reply = error
        except Exception:
            log.exception("%s failed", spec.title)
            reply = CommandError(errors.INTERNAL)
        if isinstance(reply, CommandError):
            spec.failed += 1
        slot.resolve(reply)  # which counts the error's code


def _may_wait(argv: Argv) -> bool:
    """Whether an XREAD or XREADGROUP has BLOCK among its options."""
    for arg in argv[1:]:
        option = arg.upper()
        if option == b"STREAMS":
            return False
        if option == b"BLOCK":
            return True
    return False
