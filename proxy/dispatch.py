"""From a chunk of bytes to replies: the hot path.

For each command: its spec, its arity, its route; then the handler at once (memory), a job (cold), or
the frame itself (upstream).  What is out of the ordinary in any way goes through ``_odd``, so that the
ordinary pays nothing for it.

A client's writes to one backend take effect in the order in which it sent them, and so do its commands
on one key.  A write starts only when the client's earlier writes to *other* backends are acknowledged,
so that nobody is told of what is not yet there; reads overlap.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from mypy_extensions import i64

from backends.base import Lane
from proxy import errors
from proxy.blocking import Blocking, First
from proxy.cells import MISS, Order, WorkingSet
from proxy.clock import Clock
from proxy.commands.scripting import to_upstream
from proxy.commands.spec import (
    BLOCKING,
    FORWARD_ONLY,
    KEYS,
    NO_AUTH,
    NO_MANDATORY_KEYS,
    NO_MULTI,
    WRITE,
    CommandSpec,
    InvalidKeys,
    every_spec,
    key_positions,
    lookup,
)
from proxy.errors import CommandError, NeedKeys, ProtocolError
from proxy.events import Events
from proxy.fanout import Fanout
from proxy.homes import ColdHome, MemoryHome, UpstreamHome
from proxy.keyspace import Block, check_size
from proxy.monitor import Monitors
from proxy.resp import ARGUMENT_OVERHEAD, Argv, Reply, Simple, encode_command, write_reply
from proxy.router import COLD, MEMORY, UPSTREAM, Home, Route, Router
from proxy.session import (
    HELD_BACKEND,
    HELD_BARRIER,
    HELD_BLOCKED,
    HELD_CLOSING,
    HELD_ORDER,
    HELD_PAUSE,
    HELD_PIPELINE,
    LARGE,
    NO_ARGV,
    REPLY_ON,
    REPLY_SKIP,
    REPLY_SKIP_NEXT,
    Deferred,
    Hub,
    Queue,
    Session,
    Slot,
)
from proxy.slowlog import LatencyMonitor, SlowLog
from proxy.timing import Timing
from proxy.tracking import Tracking

log = logging.getLogger("redtier.dispatch")

QUEUED: Final = Simple(b"QUEUED")
now_ns: Final = time.perf_counter_ns  # by a name of its own: one look-up less

# Bytes that a client may send while its blocking command waits, before it is read from no more.
RECEIVED_MAX: Final = 64 * 1024

# Commands of one run: their replies are held until the last of them is there.
RUN_MAX: Final = 64

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

EXACT_FIRST: Final = 100  # calls of a command that are timed each by itself before only samples are
TIME_ALL_US: Final = 1000  # where even less is asked for, every call is timed by itself
# What a swift command takes at most, in nanoseconds: if a chunk took so much more, one of them was slow.
SWIFT_NS: Final = 50_000
LONG_NS: Final = 1_000_000
NEVER: Final = 1 << 60


class Dispatcher(Hub):
    """Runs the commands of all sessions."""

    def __init__(
        self,
        table: dict[bytes, CommandSpec],
        router: Router,
        clock: Clock,
        pipeline_max: int,
        key_max: int,
        call_soon: Callable[[Callable[[], None]], Any],
        check_queued: Callable[[CommandSpec, Argv], None],
        slowlog: SlowLog,
        latency: LatencyMonitor,
        events: Events,
        blocking: Blocking,
        monitors: Monitors,
        tracking: Tracking,
    ) -> None:
        self.table: dict[bytes, CommandSpec] = table
        self.router: Router = router
        self.clock: Clock = clock
        self.pipeline_max: int = pipeline_max
        self.key_max: int = key_max
        self.fanout: Fanout = Fanout(router, clock)
        self.errors: dict[str, int] = {}  # replies by error code
        self.slowlog: SlowLog = slowlog
        self.latency: LatencyMonitor = latency
        self.pause_until: int = 0  # ms; CLIENT PAUSE
        self.pause_writes_only: bool = False
        self.paused: list[Session] = []
        # Commands with a single key at a fixed place, as clients write them: "get" and "GET".
        self._quick: dict[bytes, CommandSpec] = {
            name: spec
            for spec in table.values()
            if spec.first_key and not spec.subcommands and spec.name not in STRAYS
            for name in (spec.name, spec.name.upper())
            if spec.forwardable or (spec.handler is not None and spec.scope == KEYS)
        }
        self._call_soon: Callable[[Callable[[], None]], Any] = call_soon
        self._events: Events = events
        self._blocking: Blocking = blocking
        self._monitors: Monitors = monitors
        self._tracking: Tracking = tracking
        events.wake = self._serve_soon
        self._check_queued: Callable[[CommandSpec, Argv], None] = check_queued
        self._dirty: list[Session] = []  # have output
        self._ready: list[Session] = []  # may go on
        self._stalled: list[tuple[Session, Home]] = []  # wait until a backend has less in flight
        self._flush_due: bool = False
        self._tasks: set[asyncio.Task[None]] = set()
        # The run of frames that goes to one lane as it came.
        self._lane: Lane | None = None
        self._slot: Slot | None = None
        self._data: bytes = b""
        self._from: i64 = 0
        self._to: i64 = 0
        self._parts: list[bytes] = []
        self._touched: list[Route] = []  # routes with calls in this chunk
        self._called: list[CommandSpec] = []  # swift commands of this chunk
        self._sampling: bool = False  # they are to have their shares of its time
        self._sampled_at: int = 0  # ms since the epoch, of the last chunk that was sampled
        self._began: int = 0  # ns of the performance counter, when the work on it began
        self._apart: int = 0  # ns that went to commands that are timed by themselves
        self._apart_of: int = 0  # of the chunk that began then
        self.attend()

    def attend(self) -> None:
        """See anew from which time on a command is long: the log's or the monitor's bound has changed."""
        log, monitor = self.slowlog, self.latency
        self.slow_us = min(
            log.slower_than if log.slower_than >= 0 and log.max_len else NEVER,
            monitor.threshold * 1000 if monitor.threshold else NEVER,
        )
        for spec in every_spec(self.table):
            spec.swift = None

    def feed(self, s: Session, data: bytes) -> None:
        """A chunk has come in."""
        s.active_at = self.clock.ms
        link = s.link
        link.received += len(data)
        link.reads += 1
        if s.held:
            if not s.held & HELD_CLOSING:
                s.received.append(data)
                if s.held & HELD_BLOCKED and sum(map(len, s.received)) > RECEIVED_MAX:
                    s.link.pause()
            return
        s.reader.feed(data)
        self.pump(s)

    def pump(self, s: Session) -> None:
        """Run the session's commands until there are no more, or it has to wait."""
        clock = self.clock
        clock.tick()
        began = self._began = clock.ns
        last: CommandSpec | None = None  # the swift command that ran last
        first: Argv = NO_ARGV  # the first of its requests that lie side by side
        sampling = self._sampled_at != clock.ms
        if sampling:
            self._sampled_at = clock.ms
            self._sampling = True
        reader = s.reader
        quick = self._quick
        routes = self.router.map
        argv: Argv | None = None
        try:
            while not s.held:
                request = argv
                argv = None
                if request is None:
                    request = s.parked
                    if request is not None:
                        s.parked = None
                        reader.start = -1
                    else:
                        ready = reader.ready
                        request = ready.pop() if ready else reader.next_command()
                        if request is None:
                            break
                spec = quick.get(request[0])
                if spec is None or s.gated:
                    last = None
                    self._odd(s, request)
                    continue
                size = len(request)
                if size != spec.arity and (spec.arity > 0 or size < -spec.arity):
                    last = None
                    self._odd(s, request)
                    continue
                key = request[spec.first_key]
                route = routes.find(key)
                kind = route.kind
                if len(key) > self.key_max:
                    self._odd(s, request)
                elif kind == MEMORY and spec.swift is not None:
                    if s.write_count and spec.write:
                        self._park(s, request, HELD_ORDER)
                        break
                    if self._lane is not None:
                        self._end_run(s)
                    if spec is not last:
                        last = spec
                        first = request
                        s.last_command = spec.name
                        if sampling:
                            self._share(spec)
                    argv = self._swift(s, spec, request, route)
                    if argv is NO_ARGV:
                        break
                elif kind == MEMORY and spec.handler is not None:
                    if s.write_count and spec.write:
                        self._park(s, request, HELD_ORDER)
                        break
                    self._end_run(s)
                    self._at_once(s, spec, request, route)
                elif kind == UPSTREAM and spec.forwardable and not route.limited:
                    self._forward(s, spec, request, route, 1 if spec.write else 0)
                elif kind == COLD and spec.handler is not None:
                    self._submit(s, spec, request, route, [key])
                else:
                    self._odd(s, request)
        # A name of its own: compiled, a variable has one type in a function, that of the first exception.
        except ProtocolError as violation:
            self._end_run(s)
            s.reply(CommandError(f"ERR Protocol error: {violation}"))
            self.count_error("ERR", 1)
            s.close()
        except Exception:  # a fault of ours is this client's alone
            log.exception("the input of %s", s.link.peer)
            self._lane = None
            self._slot = None
            self._parts = []
            s.link.abort("internal error")
        self._end_run(s)
        if self._touched:
            ns = now_ns() - began
            if ns >= LONG_NS and last is not None:
                self._blame(s, last, first, ns)
            us = ns // 1000
            for route in self._touched:
                route.tally.add(route.batch, us)
                route.batch = 0
            self._touched.clear()
            if sampling:
                self._divide(ns)
        elif sampling:
            self._sampling = False
        s.flush()

    def _swift(self, s: Session, spec: CommandSpec, argv: Argv, route: Route) -> Argv | None:
        """Run a swift command in memory, and with it those of the same shape that follow.

        What they have in common is looked at once.  Returns the request that is another, which is next;
        ``NO_ARGV`` where no more has come, ``None`` where that was not looked at.
        """
        handler = spec.swift
        assert handler is not None
        name = argv[0]
        size = len(argv)
        first_key = spec.first_key
        key_max = self.key_max
        routes = self.router.map
        several = routes.only is None
        reader = s.reader
        ready = reader.ready
        events = self._events
        keyspace = route.keyspaces[s.db]
        out = s.out
        proto = s.proto
        one = len(s.waiting) > 0  # its reply has others before it
        calls = 0
        if not route.batch:
            self._touched.append(route)
        try:
            while True:
                calls += 1
                try:
                    reply = handler(keyspace, argv)
                except CommandError as error:
                    reply = self._failed(spec, route, error)
                except Exception:
                    reply = self._broken(spec, route)
                if one:
                    s.reply(reply)
                else:
                    write_reply(out, reply, proto)
                    if len(out) >= LARGE:
                        s.flush()
                        out = s.out
                if events.ready:
                    self._blocking.serve()
                if one or s.held:
                    return None
                following = ready.pop() if ready else reader.next_command()
                if following is None:
                    return NO_ARGV
                if following[0] != name or len(following) != size:
                    return following
                key = following[first_key]
                if len(key) > key_max or (several and routes.find(key) is not route):
                    return following
                argv = following
        finally:
            spec.calls += calls
            route.batch += calls

    # Time: a quick command takes less than it takes to read the clock around it

    def _share(self, spec: CommandSpec) -> None:
        """Let a command that is about to be called have its share of this chunk's time."""
        timing = spec.timing
        if timing.mark < 0:
            timing.mark = spec.calls
            self._called.append(spec)

    def _divide(self, ns: int) -> None:
        """Give each call of a swift command its share of what they all took."""
        self._sampling = False
        if self._apart_of == self._began:
            ns -= self._apart
        called = self._called
        calls = 0
        for spec in called:
            calls += spec.calls - spec.timing.mark
        share = max(ns, 0) // max(calls, 1)  # neither is more where CONFIG RESETSTAT was among them
        for spec in called:
            timing = spec.timing
            timing.sample.add(max(spec.calls - timing.mark, 0), share)
            timing.mark = -1
        called.clear()

    def _blame(self, s: Session, spec: CommandSpec, argv: Argv, ns: int) -> None:
        """See whether some swift command of a chunk has taken long.

        Which one is not known where there are several: it is laid to the last kind of them.
        """
        if self._apart_of == self._began:
            ns -= self._apart
        calls = 0
        for route in self._touched:
            calls += route.batch
        ns -= (calls - 1) * SWIFT_NS
        if ns >= LONG_NS:
            us = ns // 1000
            if us >= self.slow_us:
                self.took_long(s, spec.timing, argv, us, calls - 1)
            if not self._sampling:
                spec.timing.exact.add(1, ns)

    def _measure(self, s: Session, spec: CommandSpec, argv: Argv, began: int) -> None:
        """A command that was timed by itself is done."""
        ns = now_ns() - began
        if self._apart_of != self._began:
            self._apart_of = self._began
            self._apart = 0
        self._apart += ns
        timing = spec.timing
        timing.exact.add(1, ns)
        if timing.swift and timing.exact.calls >= EXACT_FIRST and self.slow_us >= TIME_ALL_US:
            spec.swift = spec.handler
        us = ns // 1000
        if us >= self.slow_us:
            self.took_long(s, spec.timing, argv, us, 0)

    def _touch(self, route: Route) -> None:
        """Count a command of this chunk for its route."""
        if not route.batch:
            self._touched.append(route)
        route.batch += 1

    # One command on one backend

    def _submit(self, s: Session, spec: CommandSpec, argv: Argv, route: Route, names: list[bytes]) -> None:
        """Run a command on a cold home: from the near cache at once, or as a job."""
        s.last_command = spec.name
        home = route.home
        assert isinstance(home, ColdHome)
        handler = spec.handler
        assert handler is not None
        if self._lane is not None:
            self._end_run(s)
        writes = 0
        if spec.write:
            if s.write_count and s.write_home is not home:
                self._park(s, argv, HELD_ORDER)
                return
            writes = 1
        elif len(names) == 1:
            try:
                reply = home.cached(handler, argv, s.db, names[0])
            except CommandError as error:
                reply = self._failed(spec, route, error)
            except Exception:
                reply = self._broken(spec, route)
            if reply is not MISS:
                if self._sampling:
                    self._share(spec)
                spec.calls += 1
                self._touch(route)
                s.reply(reply)
                return
        if home.full:
            self._stall(s, argv, home)
            return
        spec.calls += 1
        slot = s.wait(1, home, writes)
        slot.tally = route.tally
        slot.timing = spec.timing
        slot.argv = argv
        slot.began = self._began
        for arg in argv:
            slot.size += len(arg)
        slot.load = home.load
        home.load.bytes += slot.size
        order: Order | None = None
        if writes:
            if s.write_count > 1 and isinstance(s.order, Order):
                order = s.order
            else:  # all before it are done
                s.order = order = Order()
        home.submit(slot, handler, argv, s.db, spec.need, names, order)
        if s.pending >= self.pipeline_max:
            s.hold(HELD_PIPELINE)

    def _forward(self, s: Session, spec: CommandSpec, argv: Argv, route: Route, writes: int) -> None:
        """Add a command to the run of frames that goes to its upstream's lane."""
        s.last_command = spec.name
        home = route.home
        assert isinstance(home, UpstreamHome)
        if writes and s.write_count and s.write_home is not home:
            self._park(s, argv, HELD_ORDER)
            return
        lane = home.lanes[2 * s.db + s.proto - 2]
        slot = self._slot
        if lane is not self._lane or slot is None or slot.tally is not route.tally:
            self._end_run(s)
            if home.full:
                self._stall(s, argv, home)
                return
            if lane is None:
                lane = home.connect(s.db, s.proto)
            slot = s.wait(0, home, 0)
            slot.tally = route.tally
            slot.timing = spec.timing
            slot.argv = argv
            slot.load = home.load
            slot.began = self._began
            self._slot = slot
            self._lane = lane
            self._data = b""
        elif slot.timing is not spec.timing:
            slot.run_other(spec.timing)
        spec.calls += 1
        slot.frames += 1
        if writes:
            slot.writes += 1
            s.write_count += 1
            s.write_home = home
        reader = s.reader
        if reader.start < 0:
            self._cut()
            self._parts.append(encode_command(argv))
        elif self._to == reader.start and self._data is reader.data:
            self._to = reader.pos
        else:
            self._cut()
            self._data = reader.data
            self._from = reader.start
            self._to = reader.pos
        s.pending += 1
        if s.pending >= self.pipeline_max:
            self._end_run(s)
            s.hold(HELD_PIPELINE)
        elif slot.frames >= RUN_MAX:
            self._end_run(s)

    def _cut(self) -> None:
        """Put the frames that lie side by side in the chunk to the run's other parts."""
        if self._data:
            self._parts.append(self._data[self._from : self._to])
            self._data = b""

    def _end_run(self, s: Session) -> None:
        lane = self._lane
        slot = self._slot
        if lane is None or slot is None:
            return
        parts = self._parts
        if not parts and self._from == 0 and self._to == len(self._data):  # as it came
            frames = self._data
            self._data = b""
        else:
            self._cut()
            frames = parts[0] if len(parts) == 1 else b"".join(parts)
            self._parts = []
        self._lane = None
        self._slot = None
        slot.size = len(frames)
        if slot.load is not None:
            slot.load.bytes += slot.size
        if not slot.writes:
            slot.request = frames
        lane.send(frames, slot)

    # Everything else

    def _odd(self, s: Session, argv: Argv) -> None:
        """A command that the quick way does not take."""
        self._end_run(s)
        spec = lookup(self.table, argv)
        try:
            if spec is None:
                raise self._unknown(argv)
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
            if (spec.scope == KEYS or spec.write or s.multi is not None) and self._pausing(spec):
                self._park(s, argv, HELD_PAUSE)
                self.paused.append(s)
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
            elif s.multi is not None and (spec is None or spec.name not in AT_ONCE_IN_MULTI):
                s.multi.aborted = True
            s.count_error(error.code, 1)
            s.reply(error)
        except Exception:
            assert spec is not None
            s.reply(self._broken(spec, None))
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
                command = lookup(self.table, each)
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

    def _unknown(self, argv: Argv) -> CommandError:
        container = self.table.get(argv[0].lower())
        if container is None:
            return errors.unknown_command(argv)
        return errors.unknown_subcommand(argv[1], container.title)

    def _pausing(self, spec: CommandSpec) -> bool:
        return self.pause_until > self.clock.ms and (spec.write or not self.pause_writes_only)

    def _session_command(self, s: Session, spec: CommandSpec, argv: Argv) -> None:
        if spec.handler is None:
            raise errors.not_served_yet(spec.title)
        if spec.name == b"select" and s.waiting and s.server.forwards:
            # Each database of a Redis has a lane of its own; MOVE, COPY and scripts reach into another one.
            self._park(s, argv, HELD_BARRIER)
            return
        if spec.name == b"publish" or spec.name == b"spublish":
            # As a write: what is told of must be there before.  A Redis' own channels are its affair.
            route = self.router.find(argv[1])
            if route.kind == UPSTREAM:
                self._forward(s, spec, argv, route, 1)
                self._end_run(s)
                return
            if s.write_count:
                self._park(s, argv, HELD_ORDER)
                return
        began = now_ns()
        try:
            reply = spec.handler(s, argv)
        except CommandError as error:
            reply = self._failed(spec, None, error)
        except Exception:
            reply = self._broken(spec, None)
        if isinstance(reply, Deferred):
            self._defer(s, spec, argv, reply)
        else:
            spec.calls += 1
            s.reply(reply)
            self._measure(s, spec, argv, began)

    def _keys_command(self, s: Session, spec: CommandSpec, argv: Argv) -> None:
        try:
            positions = key_positions(spec, argv)
        except InvalidKeys:
            positions = []
        names = [argv[position] for position in positions]
        for name in names:
            if len(name) > self.key_max:
                raise errors.too_large(len(name), self.key_max, "key_max")
        if not names:
            self._without_keys(s, spec, argv)
            return
        route = self.router.find(names[0])
        home = route.home
        patterns = spec.patterns(argv) if spec.patterns is not None else []
        if patterns:
            self.router.check_patterns(spec.title, route, patterns)
        alone = True
        several = len(names) > 1 and spec.name in STRAYS
        for name in names:
            if name != names[0]:
                several = True
                if self.router.find(name).home is not home:
                    alone = False
        if not alone or (
            # Reads of several keys are one job on any cold home: they commit nothing.
            several and spec.flags & WRITE and isinstance(home, ColdHome) and not home.store.atomic_groups
        ):
            work = self.fanout.plan(s, spec, argv, positions)
            if isinstance(work, Deferred):
                self._defer(s, spec, argv, work)
                return
            if spec.write and s.write_count:
                self._park(s, argv, HELD_ORDER)
                return
            for part in work.parts:
                if part.route.home.full:
                    self._stall(s, argv, part.route.home)
                    return
            spec.calls += 1
            slot = s.wait(1, work, 1 if spec.write else 0)
            slot.timing = spec.timing
            slot.argv = argv
            slot.began = self._began
            work.start(slot)
            if s.pending >= self.pipeline_max:
                s.hold(HELD_PIPELINE)
        elif spec.flags & BLOCKING:
            self._block(s, spec, argv, route, names)
        elif route.kind == UPSTREAM:
            if not spec.forwardable:
                raise errors.not_shared(spec.title)
            for name in names:
                if self.router.find(name).limited:
                    self._check_sizes(self.router.find(name), argv)
            sent = argv
            if spec.group == "scripting":
                sent = to_upstream(argv)
                if sent is not argv:
                    s.reader.start = -1  # what came is not what goes
            self._forward(s, spec, sent, route, 1 if spec.write else 0)
            self._end_run(s)
            if s.parked is sent:
                s.parked = argv
        elif spec.handler is None:
            if not spec.forwardable:  # nor would a redis route take it
                raise errors.not_served_yet(spec.title)
            raise errors.not_served(spec.title, home.type)
        elif route.kind == COLD and (patterns or spec.name in STRAYS):
            self._submit_alone(s, spec, argv, route, names)
        elif route.kind == COLD:
            self._submit(s, spec, argv, route, names)
        elif spec.write and s.write_count:
            self._park(s, argv, HELD_ORDER)
        else:
            self._at_once(s, spec, argv, route)

    def _block(self, s: Session, spec: CommandSpec, argv: Argv, route: Route, names: list[bytes]) -> None:
        """A command that may wait for one of its keys to be written."""
        home = route.home
        if spec.handler is None and not isinstance(home, UpstreamHome):
            raise errors.not_served(spec.title, home.type)
        if isinstance(home, UpstreamHome) and spec.group == "stream" and not _may_wait(argv):
            self._forward(s, spec, argv, route, 1 if spec.write else 0)
            self._end_run(s)
            return
        if s.write_count:
            self._park(s, argv, HELD_ORDER)
            return
        if home.full:
            self._stall(s, argv, home)
            return
        if isinstance(home, MemoryHome):
            self._at_once(s, spec, argv, route)
            return
        spec.calls += 1
        slot = s.wait(1, home, 0)
        self._blocking.hold(s)
        if isinstance(home, UpstreamHome):
            self._blocking.wait_elsewhere(s, slot, home, argv)
            return
        assert isinstance(home, ColdHome)
        assert spec.handler is not None
        first = First(self._blocking, s, slot, spec, route, names)
        home.submit(first, spec.handler, argv, s.db, spec.need, names)

    def _serve_soon(self) -> None:
        self._call_soon(self._blocking.serve)

    def _submit_alone(
        self, s: Session, spec: CommandSpec, argv: Argv, route: Route, names: list[bytes]
    ) -> None:
        if s.waiting:
            self._park(s, argv, HELD_BARRIER)
            return
        self._submit(s, spec, argv, route, names)
        if s.waiting:
            s.hold(HELD_BARRIER)

    def _check_sizes(self, route: Route, argv: Argv) -> None:
        for arg in argv:
            check_size(route.policy, arg)

    def _without_keys(self, s: Session, spec: CommandSpec, argv: Argv) -> None:
        """No keys, or some that can't be told: the handler says what is wrong, as Redis does."""
        if spec.name in FORWARD_ONLY:
            self._forward(s, spec, argv, self.router.of_functions(spec.title), 1 if spec.write else 0)
            self._end_run(s)
            return
        if spec.handler is None:
            raise errors.not_served_yet(spec.title)
        began = now_ns()
        nothing = WorkingSet(self.clock, s.db, [])
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
            reply = self._failed(spec, None, reply)
        s.reply(reply)
        self._measure(s, spec, argv, began)

    def _with_late_key(self, s: Session, spec: CommandSpec, argv: Argv, key: bytes) -> None:
        """A script that names no key and uses one all the same: it runs where that one is."""
        route = self.router.find(key)
        if route.kind == UPSTREAM:
            raise errors.unnamed_key(key)
        if route.kind == COLD:
            self._submit_alone(s, spec, argv, route, [key])
        elif spec.write and s.write_count:
            self._park(s, argv, HELD_ORDER)
        else:
            self._at_once(s, spec, argv, route)

    def _at_once(self, s: Session, spec: CommandSpec, argv: Argv, route: Route) -> None:
        s.last_command = spec.name
        home = route.home
        assert isinstance(home, MemoryHome)
        handler = spec.handler
        assert handler is not None
        spec.calls += 1
        self._touch(route)
        home.backend.touching = not s.no_touch or spec.name == b"touch"
        began = now_ns()
        try:
            reply = handler(route.keyspaces[s.db], argv)
            if isinstance(reply, CommandError):  # of a script, whose changes stand
                reply = self._failed(spec, route, reply)
        except CommandError as error:
            reply = self._failed(spec, route, error)
        except Exception:
            reply = self._broken(spec, route)
        home.backend.touching = True
        if isinstance(reply, Block):
            self._blocking.wait(s, s.wait(1, home, 0), spec, route, _names(spec, argv), reply)
        else:
            s.reply(reply)
        self._measure(s, spec, argv, began)
        if self._events.ready:
            self._blocking.serve()

    def _defer(self, s: Session, spec: CommandSpec, argv: Argv, work: Deferred) -> None:
        """Run a command that takes several steps, once the session's earlier replies have left."""
        if s.waiting:
            self._park(s, argv, HELD_BARRIER)
            return
        spec.calls += 1
        slot = s.wait(1, work, 0)
        slot.timing = spec.timing
        slot.argv = argv
        slot.began = self._began
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

    # Errors

    def _failed(self, spec: CommandSpec, route: Route | None, error: CommandError) -> CommandError:
        spec.failed += 1
        if route is not None:
            route.tally.errors += 1
        self.count_error(error.code, 1)
        return error

    def _broken(self, spec: CommandSpec, route: Route | None) -> CommandError:
        log.exception("%s failed", spec.title)
        return self._failed(spec, route, CommandError(errors.INTERNAL))

    def took_long(self, session: Session, timing: Timing, argv: Argv, us: int, others: int) -> None:
        at = self.clock.ms // 1000
        self.latency.add("fast-command" if timing.fast else "command", at, us // 1000)
        if 0 <= self.slowlog.slower_than <= us and timing.logged:
            self.slowlog.add(at, us, argv, others, session.link.peer, session.name)

    def count_error(self, code: str, times: int) -> None:
        self.errors[code] = self.errors.get(code, 0) + times

    # Waiting and going on

    def _park(self, s: Session, argv: Argv, reason: int) -> None:
        """Keep a command until the session may go on."""
        self._end_run(s)
        s.parked = argv
        s.hold(reason)

    def _stall(self, s: Session, argv: Argv, home: Home) -> None:
        self._park(s, argv, HELD_BACKEND)
        self._stalled.append((s, home))

    def flush_soon(self, session: Session) -> None:
        if not session.has_output:
            session.has_output = True
            self._dirty.append(session)
        self._soon()

    def made_room(self) -> None:
        if self._stalled:
            self._soon()

    def go_on(self, session: Session) -> None:
        self._ready.append(session)
        self._soon()

    def _soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        """At the end of a turn of the loop: write what it made, and let go on who may."""
        self._flush_due = False
        dirty, self._dirty = self._dirty, []
        for session in dirty:
            session.flush()
        self.retry_stalled()
        self._resume_ready()

    def retry_stalled(self) -> None:
        """Let go on, in the order in which they came, whoever waits for a backend that takes more by now.

        Most often the reply that made room leads here; housekeeping sees to the rest, such as when that was
        one part of several.
        """
        if not self._stalled:
            return
        stalled, self._stalled = self._stalled, []
        for session, home in stalled:
            if not home.full:
                session.release(HELD_BACKEND)
                self._resume_ready()  # at once: it may leave no room for the next
            else:
                self._stalled.append((session, home))

    def _resume_ready(self) -> None:
        ready, self._ready = self._ready, []
        for session in ready:
            self._resume(session)

    def _resume(self, session: Session) -> None:
        """Run what the session has sent while it was held, and let it send more."""
        while True:
            self.pump(session)
            if session.held:
                return
            if not session.received:
                break
            data = b"".join(session.received)
            session.received = []
            session.reader.feed(data)
        if session.finishing:
            session.close()
        else:
            session.link.resume()

    def unpause(self) -> None:
        """CLIENT PAUSE is over."""
        self.pause_until = 0
        paused, self.paused = self.paused, []
        for session in paused:
            session.release(HELD_PAUSE)


def _names(spec: CommandSpec, argv: Argv) -> list[bytes]:
    return [argv[position] for position in key_positions(spec, argv)]


def _may_wait(argv: Argv) -> bool:
    """Whether an XREAD or XREADGROUP has BLOCK among its options."""
    for arg in argv[1:]:
        option = arg.upper()
        if option == b"STREAMS":
            return False
        if option == b"BLOCK":
            return True
    return False
