"""From a chunk of bytes to replies: the fast path.

For each command: its spec, its arity, its route; then the handler at once (memory), a job (cold), or
the frame itself (upstream).  What is out of the ordinary in any way takes the slow path
(``proxy.slowpath``), so that the ordinary pays nothing for it.

A client's writes to one backend take effect in the order in which it sent them, and so do its commands
on one key.  A write starts only when the client's earlier writes to *other* backends are acknowledged,
so that nobody is told of what is not yet there; reads overlap.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from mypy_extensions import i64

from backends.base import Lane
from proxy import errors
from proxy.blocking import Blocking
from proxy.cells import Order
from proxy.clock import Clock
from proxy.commands.spec import KEYS, CommandSpec, every_spec, key_positions
from proxy.errors import CommandError, ProtocolError
from proxy.events import Events
from proxy.homes import ColdHome, MemoryHome, UpstreamHome, lane_place
from proxy.keyspace import Block
from proxy.monitor import Monitors
from proxy.nearcache import MISS
from proxy.resp import COMPILED, Argv, Raw, encode_command, write_reply
from proxy.router import COLD, MEMORY, UPSTREAM, Route, Router
from proxy.session import (
    HELD_BLOCKED,
    HELD_CLOSING,
    HELD_ORDER,
    HELD_PIPELINE,
    LARGE,
    NO_ARGV,
    Session,
    Slot,
)
from proxy.slowlog import LatencyMonitor, SlowLog
from proxy.slowpath import STRAYS, FastPath, SlowPath
from proxy.timing import Timing
from proxy.tracking import Tracking

log = logging.getLogger("redtier.dispatch")

now_ns: Final = time.perf_counter_ns  # by a name of its own: one look-up less

# Bytes that a client may send while its blocking command waits, before it is read from no more.
RECEIVED_MAX: Final = 64 * 1024

# Commands of one run: their replies are held until the last of them is there.
RUN_MAX: Final = 64

EXACT_FIRST: Final = 100  # calls of a command that are timed each by itself before only samples are
TIME_ALL_US: Final = 1000  # where even less is asked for, every call is timed by itself
# What a swift command takes at most, in nanoseconds: if a chunk took so much more, one of them was slow.
SWIFT_NS: Final = 50_000
LONG_NS: Final = 1_000_000
NEVER: Final = 1 << 60


class Dispatcher(FastPath):
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
        super().__init__(clock, call_soon)
        self.table: dict[bytes, CommandSpec] = table
        self.router: Router = router
        self.pipeline_max: int = pipeline_max
        self.key_max: int = key_max
        self.errors: dict[str, int] = {}  # replies by error code
        self.slowlog: SlowLog = slowlog
        self.latency: LatencyMonitor = latency
        # Commands with a single key at a fixed place, as clients write them: "get" and "GET".
        self._quick: dict[bytes, CommandSpec] = {}
        # Which of them was last, as it was written: compared sooner than it is looked up.
        self._last_name: bytes = b""
        self._last_spec: CommandSpec | None = None
        for spec in table.values():
            self._quicken(spec)
        self._events: Events = events
        self._blocking: Blocking = blocking
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
        self.began = 0
        self._apart: int = 0  # ns that went to commands that are timed by themselves
        self._apart_of: int = 0  # of the chunk that began then
        events.wake = self._serve_soon
        self._slow: SlowPath = SlowPath(
            self,
            table,
            router,
            clock,
            pipeline_max,
            key_max,
            check_queued,
            events,
            blocking,
            monitors,
            tracking,
        )
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

    def know(self, spec: CommandSpec) -> None:
        """Serve a command that the table has not had."""
        self.table[spec.name] = spec
        self._quicken(spec)

    def _quicken(self, spec: CommandSpec) -> None:
        served = spec.forwardable or (spec.handler is not None and spec.scope == KEYS)
        if served and spec.first_key and not spec.subcommands and spec.name not in STRAYS:
            self._quick[spec.name] = self._quick[spec.name.upper()] = spec
            self._last_name = b""
            self._last_spec = None

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
        if s.skims and self._skim(s):
            return
        clock = self.clock
        clock.tick()
        began = self.began = clock.ns
        last: CommandSpec | None = None  # the swift command that ran last
        first: Argv = NO_ARGV  # the first of its requests that lie side by side
        sampling = self._sampled_at != clock.ms
        if sampling:
            self._sampled_at = clock.ms
            self._sampling = True
        reader = s.reader
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
                name = request[0]
                spec = self._last_spec if name == self._last_name else self._look_up(name)
                if spec is None or s.gated:
                    last = None
                    self._slow.run(s, request)
                    continue
                size = len(request)
                if size != spec.arity and (spec.arity > 0 or size < -spec.arity):
                    last = None
                    self._slow.run(s, request)
                    continue
                key = request[spec.first_key]
                route = routes.find(key)
                kind = route.way
                if len(key) > self.key_max:
                    self._slow.run(s, request)
                elif kind == MEMORY and spec.swift is not None:
                    if s.write_count and spec.write:
                        self.park(s, request, HELD_ORDER)
                        break
                    if self._lane is not None:
                        self.end_run(s)
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
                        self.park(s, request, HELD_ORDER)
                        break
                    self.end_run(s)
                    self.at_once(s, spec, request, route)
                elif kind == UPSTREAM and spec.forwardable and not route.limited:
                    if route.near and spec.kept:
                        argv = self._near(s, spec, request, route)
                        if argv is NO_ARGV:
                            break
                    else:
                        self.forward(s, spec, request, route, 1 if spec.write else 0)
                        s.skims = COMPILED
                elif kind == COLD and spec.handler is not None:
                    self.submit(s, spec, request, route, [key])
                else:
                    self._slow.run(s, request)
        # A name of its own: compiled, a variable has one type in a function, that of the first exception.
        except ProtocolError as violation:
            self.end_run(s)
            s.reply(CommandError(f"ERR Protocol error: {violation}"))
            self.count_error("ERR", 1)
            s.close()
        except Exception:
            self._give_up(s)
        self.end_run(s)
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

    def _look_up(self, name: bytes) -> CommandSpec | None:
        spec = self._quick.get(name)
        if spec is not None:
            self._last_name = name
            self._last_spec = spec
        return spec

    def _give_up(self, s: Session) -> None:
        """A fault of ours is this client's alone."""
        log.exception("the input of %s", s.link.peer)
        self._lane = None
        self._slot = None
        self._parts = []
        s.link.abort("internal error")

    def _skim(self, s: Session) -> bool:
        """Forward what lies ahead without taking it apart, up to a command of another kind.

        Returns whether that was all.
        """
        if s.gated or s.parked is not None:
            return False
        self.began = self._turn_ns or self.turn_ns()
        reader = s.reader
        routes = self.router.map
        try:
            while not s.held and reader.skim():
                name = reader.name
                spec = self._last_spec if name == self._last_name else self._look_up(name)
                size: int = reader.size
                if (
                    spec is not None
                    and spec.first_key == 1
                    and spec.forwardable
                    and (size == spec.arity or (spec.arity < 0 and size >= -spec.arity))
                ):
                    only = routes.only
                    route = routes.find(reader.key) if only is None else only
                    near = route.near and spec.kept
                    fits: bool = reader.key_size <= self.key_max
                    if route.way == UPSTREAM and not route.limited and not near and fits:
                        self.forward(s, spec, NO_ARGV, route, 1 if spec.write else 0)
                        continue
                reader.pos = reader.start
                s.skims = False
                break
        except Exception:
            self._give_up(s)
        self.end_run(s)
        s.flush()
        return s.held != 0 or len(reader.data) == 0

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
        one = s.waiting.size > 0  # its reply has others before it
        calls = 0
        if not route.batch:
            self._touched.append(route)
        try:
            while True:
                calls += 1
                try:
                    reply = handler(keyspace, argv)
                except CommandError as error:
                    reply = self.failed(spec, route, error)
                except Exception:
                    reply = self.broken(spec, route)
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
        if self._apart_of == self.began:
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
        if self._apart_of == self.began:
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

    def measure(self, s: Session, spec: CommandSpec, argv: Argv, began: int) -> None:
        ns = now_ns() - began
        if self._apart_of != self.began:
            self._apart_of = self.began
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

    def _serve_soon(self) -> None:
        self._call_soon(self._blocking.serve)

    # One command on one backend

    def at_once(self, s: Session, spec: CommandSpec, argv: Argv, route: Route) -> None:
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
                reply = self.failed(spec, route, reply)
        except CommandError as error:
            reply = self.failed(spec, route, error)
        except Exception:
            reply = self.broken(spec, route)
        home.backend.touching = True
        if isinstance(reply, Block):
            self._blocking.wait(s, s.wait(1, home, 0), spec, route, _names(spec, argv), reply)
        else:
            s.reply(reply)
        self.measure(s, spec, argv, began)
        if self._events.ready:
            self._blocking.serve()

    def submit(self, s: Session, spec: CommandSpec, argv: Argv, route: Route, names: list[bytes]) -> None:
        s.last_command = spec.name
        home = route.home
        assert isinstance(home, ColdHome)
        handler = spec.handler
        assert handler is not None
        if self._lane is not None:
            self.end_run(s)
        writes = 0
        if spec.write:
            if s.write_count and s.write_home is not home:
                self.park(s, argv, HELD_ORDER)
                return
            writes = 1
        elif len(names) == 1:
            try:
                reply = home.copies.read(handler, argv, s.db, names[0])
            except CommandError as error:
                reply = self.failed(spec, route, error)
            except Exception:
                reply = self.broken(spec, route)
            if reply is not MISS:
                if self._sampling:
                    self._share(spec)
                spec.calls += 1
                self._touch(route)
                s.reply(reply)
                return
        if home.full:
            self.stall(s, argv, home)
            return
        spec.calls += 1
        slot = s.wait(1, home, writes)
        slot.tally = route.tally
        slot.timing = spec.timing
        slot.argv = argv
        slot.began = self.began
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

    def forward(self, s: Session, spec: CommandSpec, argv: Argv, route: Route, writes: int) -> None:
        """Put a command to those that go to its Redis; ``argv`` is empty if it was skimmed."""
        s.last_command = spec.name
        home = route.home
        assert isinstance(home, UpstreamHome)
        if writes and s.write_count and s.write_home is not home:
            self.park(s, argv or self._take_apart(s), HELD_ORDER)
            return
        server = home
        if home.sharded or route.reads:
            # What is read while keys are watched must be what they are watched from.
            reads = 0 if s.watches else route.reads
            server = home.server_for(spec, argv, reads) if argv else home.server_of(spec, s.reader.key, reads)
        lane = server.lanes[lane_place(s.db, s.proto, s.lane)]
        slot = self._slot
        if lane is not self._lane or slot is None or slot.tally is not route.tally:
            self.end_run(s)
            if server.full:
                self.stall(s, argv or self._take_apart(s), server)
                return
            if lane is None:
                lane = server.connect(s.db, s.proto, s.lane)
            slot = s.wait_for_run()
            slot.tally = route.tally
            slot.timing = spec.timing
            slot.argv = argv
            slot.load = server.load
            slot.began = self.began
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
            self.end_run(s)
            s.hold(HELD_PIPELINE)
        elif slot.frames >= RUN_MAX:
            self.end_run(s)

    def _take_apart(self, s: Session) -> Argv:
        """The command that was skimmed."""
        reader = s.reader
        reader.pos = reader.start
        argv = reader.next_command()
        assert argv is not None
        return argv

    def _near(self, s: Session, spec: CommandSpec, argv: Argv, route: Route) -> Argv | None:
        """Run a read whose reply the route keeps, and those of its shape that follow.

        Returns as ``_swift``.
        """
        home = route.home
        assert isinstance(home, UpstreamHome)
        near = home.near
        assert near is not None
        name = argv[0]
        size = len(argv)
        first_key = spec.first_key
        key_max = self.key_max
        routes = self.router.map
        several = routes.only is None
        reader = s.reader
        ready = reader.ready
        calls = 0
        try:
            while True:
                if self._lane is not None:  # what is known may be another thing once that is sent
                    self.end_run(s)
                wire = near.find(s.db, s.proto, spec, argv)
                if wire is None:
                    self.forward(s, spec, argv, route, 0)
                else:
                    if self._sampling and not calls:
                        self._share(spec)
                    calls += 1
                    if s.waiting.size:
                        s.reply(Raw(wire))
                    else:
                        s.out.write(wire)
                        if len(s.out) >= LARGE:
                            s.flush()
                if s.held:
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
            if calls:
                s.last_command = spec.name
                spec.calls += calls
                if not route.batch:
                    self._touched.append(route)
                route.batch += calls

    def _cut(self) -> None:
        """Put the frames that lie side by side in the chunk to the run's other parts."""
        if len(self._data) > 0:
            self._parts.append(self._data[self._from : self._to])
            self._data = b""

    def end_run(self, s: Session) -> None:
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
        slot.retriable = slot.writes == 0
        if slot.retriable or not slot.argv:
            slot.sent = frames
        lane.send(frames, slot)

    # Errors

    def failed(self, spec: CommandSpec, route: Route | None, error: CommandError) -> CommandError:
        spec.failed += 1
        if route is not None:
            route.tally.errors += 1
        self.count_error(error.code, 1)
        return error

    def broken(self, spec: CommandSpec, route: Route | None) -> CommandError:
        log.exception("%s failed", spec.title)
        return self.failed(spec, route, CommandError(errors.INTERNAL))

    def count_error(self, code: str, times: int) -> None:
        self.errors[code] = self.errors.get(code, 0) + times

    def took_long(self, session: Session, timing: Timing, argv: Argv, us: int, others: int) -> None:
        at = self.clock.ms // 1000
        self.latency.add("fast-command" if timing.fast else "command", at, us // 1000)
        if 0 <= self.slowlog.slower_than <= us and timing.logged:
            self.slowlog.add(at, us, argv, others, session.link.peer, session.name)


def _names(spec: CommandSpec, argv: Argv) -> list[bytes]:
    return [argv[position] for position in key_positions(spec, argv)]
