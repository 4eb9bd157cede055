"""One client's state, and the order of its replies.  No sockets: the connection is behind ``Link``.

Replies leave in the order of the requests.  While no backend is waited for, that costs nothing: replies
are written to ``out`` as they are made.  A command whose reply comes later takes a ``Slot`` in
``waiting``, and so does every later command until the first slot is ready.
"""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Final

from librt.strings import BytesWriter
from mypy_extensions import mypyc_attr

from backends.base import LANES, Dedicated, Waiter
from proxy.errors import INTERNAL, CommandError
from proxy.events import Interest, Watch
from proxy.resp import Argv, Reply, RequestReader, encode_reply, first_command, write_reply
from proxy.slowlog import LatencyMonitor, SlowLog
from proxy.tally import Load, Tally
from proxy.timing import Timing

log = logging.getLogger("redtier.session")

_write: Final = os.write  # by a name of its own: one look-up less

# Why a session does not read on, as bits of ``Session.held``.
HELD_ORDER: Final = 1  # its next write must wait until those to another backend are acknowledged
HELD_BARRIER: Final = 2  # a command that speaks for several backends is at work
HELD_PIPELINE: Final = 4  # too many of its commands wait for backends
HELD_BACKEND: Final = 8  # the next command's backend has too much in flight
HELD_OUTPUT: Final = 16  # it does not read its replies
HELD_PAUSE: Final = 32  # CLIENT PAUSE
HELD_CLOSING: Final = 64  # nothing more is read from it
HELD_BLOCKED: Final = 128  # a blocking command waits; it is read from, to notice when it leaves

REPLY_ON: Final = 0
REPLY_OFF: Final = 1
REPLY_SKIP: Final = 2  # of the command that is at work
REPLY_SKIP_NEXT: Final = 3

# Replies from this size on (bytes) go by another lane than those of other clients, until so many in a row are
# smaller.
LARGE_REPLY: Final = 256 * 1024
SMALL_REPLIES: Final = 64

# Bytes of replies that are ready and wait for an earlier one, from which on nothing more is run.
BEHIND_MAX: Final = 1024 * 1024
NO_ARGV: Final[Argv] = []
LARGE: Final = 64 * 1024  # a reply from this size is handed on by itself, not copied with others


@mypyc_attr(allow_interpreted_subclasses=True)
class Link:
    """The connection as a session sees it; the session counts what passes."""

    session: Session | None = None  # while it is let in

    peer: str = ""  # "address:port" as CLIENT LIST shows it
    local: str = ""
    fd: int = -1
    received: int = 0  # bytes
    sent: int = 0
    reads: int = 0  # chunks
    writes: int = 0
    direct: bool = False  # nothing is unsent: the socket ``fd`` may be written to, past the transport

    def data_received(self, data: bytes) -> None:
        """Run what has come: a protocol's method, which is here to be compiled."""
        session = self.session
        if session is not None:
            session.hub.feed(session, data)

    @abstractmethod
    def write(self, data: bytes) -> None: ...

    @abstractmethod
    def pause(self) -> None:
        """Stop reading."""

    @abstractmethod
    def resume(self) -> None:
        """Read again."""

    @abstractmethod
    def close(self) -> None:
        """Close, once what was written has been sent."""

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Close at once; ``reason`` goes to the log."""

    @abstractmethod
    def unsent(self) -> int:
        """Bytes that were written and not yet taken by the socket."""


class Hub:
    """What all sessions of a server share on the hot path: who has output, who may go on."""

    slow_us: int  # from which on somebody wants to know of a command

    @abstractmethod
    def feed(self, session: Session, data: bytes) -> None:
        """A chunk has come in."""

    @abstractmethod
    def flush_soon(self, session: Session) -> None:
        """Write the session's output when this turn of the loop has made all that it makes."""

    @abstractmethod
    def turn_ns(self) -> int:
        """The performance counter, as of when somebody asked first in this turn of the loop."""

    @abstractmethod
    def took(self, tally: Tally | None, timing: Timing, calls: int, ns: int) -> None:
        """Count calls that took so long each, before any of their replies leaves."""

    @abstractmethod
    def made_room(self) -> None:
        """A backend has one command less in flight, though no output came of it yet."""

    @abstractmethod
    def go_on(self, session: Session) -> None:
        """The session is no longer held: run what it has sent in the meantime."""

    @abstractmethod
    def count_error(self, code: str, times: int) -> None:
        """Error replies were given."""

    @abstractmethod
    def took_long(self, session: Session, timing: Timing, argv: Argv, us: int, others: int) -> None:
        """A command, with others at the same time, took at least ``slow_us``."""


class Slot(Waiter):
    """The place of one reply, or of a run of forwarded ones, in a session's order."""

    def __init__(self, session: Session, frames: int, writes: int) -> None:
        super().__init__(frames)
        self.session: Session = session
        self.writes: int = writes  # how many of the commands are writes
        self.proto: int = session.proto
        self.size: int = 0  # bytes of its requests
        self.load: Load | None = None  # where they are counted
        self.retriable: bool = False  # they only read, and have not been sent again
        self.tally: Tally | None = None  # where its time is to be counted
        self.timing: Timing | None = None  # and where by command: the first one of a run
        self.others: list[Timing] | None = None  # those of the run that are other commands
        self.argv: Argv = NO_ARGV  # the first request, where it was taken apart
        self.sent: bytes = b""  # the requests, where it was not or they can be sent again
        self.began: int = 0  # ns, of the performance counter
        self.ready: bool = False
        self.wire: bytes = b""
        self.muted: bool = session.muted
        self.after: Slot | None = None  # the next one of the session
        self.of_run: bool = False  # forwarded as it came: nobody keeps it once it is answered

    def done(self, wire: bytes, failed: int) -> None:
        if failed:
            last = wire[:-2].rpartition(b"\r\n")[2]  # all of our own errors of one reply are alike
            self.session.count_error(last[1:].partition(b" ")[0].decode(), failed)
            if self.tally is not None:
                self.tally.errors += failed
        session = self.session
        if session.lane or len(wire) >= LARGE_REPLY:
            session.weigh(len(wire))
        self._ready(wire)

    def retry(self) -> bytes:
        retriable = self.retriable
        self.retriable = False
        # A read that is sent again must not see what its client wrote after it.
        return self.sent if retriable and not self.session.write_count else b""

    def alone(self) -> bool:
        session = self.session
        if self.frames > 1 or session.waiting.last is not self:
            return False
        session.hold(HELD_BARRIER)
        return True

    def resolve(self, reply: Reply) -> None:
        if isinstance(reply, CommandError):
            self.session.count_error(reply.code, 1)
            if self.tally is not None:
                self.tally.errors += 1
        try:
            wire = encode_reply(reply, self.proto)
        except Exception:  # no reply at all would hold up all that follow it, for ever
            log.exception("a reply can't be encoded")
            wire = CommandError(INTERNAL).wire
        self._ready(wire)

    def _ready(self, wire: bytes) -> None:
        self.wire = wire
        self.ready = True
        self.session.pending -= self.frames
        if self.load is not None:
            self.load.bytes -= self.size
        timing = self.timing
        if timing is not None:
            self._measure(timing)
        self.session.settle(self)

    def run_other(self, timing: Timing) -> None:
        """The run goes on with another command than the first."""
        if self.others is None:
            self.others = []
        self.others.append(timing)

    def _measure(self, timing: Timing) -> None:
        # What was asked for and answered within one turn may seem to be answered first.
        hub = self.session.hub
        ns = max(hub.turn_ns() - self.began, 0)
        others = self.others
        if others is None:
            hub.took(self.tally, timing, self.frames, ns)
        else:
            hub.took(self.tally, timing, self.frames - len(others), ns)
            for other in others:
                hub.took(self.tally, other, 1, ns)
        us = ns // 1000
        if us >= hub.slow_us:
            hub.took_long(self.session, timing, self.argv or first_command(self.sent), us, self.frames - 1)


class Line:
    """Slots in the order of their requests, each of which knows the next: compiled, no deque is as quick."""

    def __init__(self) -> None:
        self.first: Slot | None = None
        self.last: Slot | None = None
        self.size: int = 0

    def append(self, slot: Slot) -> None:
        last = self.last
        if last is None:
            self.first = slot
        else:
            last.after = slot
        self.last = slot
        self.size += 1

    def leave(self, first: Slot) -> Slot | None:
        """The first one goes; the one that is first now."""
        self.first = after = first.after
        first.after = None
        if after is None:
            self.last = None
        self.size -= 1
        return after

    def insert(self, place: int, slot: Slot) -> None:
        """Add a slot so that ``place`` others are before it."""
        if place == self.size:
            self.append(slot)
            return
        before: Slot | None = None
        after = self.first
        for _ in range(place):
            assert after is not None
            before = after
            after = after.after
        slot.after = after
        if before is None:
            self.first = slot
        else:
            before.after = slot
        self.size += 1


class Queue:
    """Commands between MULTI and EXEC."""

    def __init__(self) -> None:
        self.requests: list[Argv] = []
        self.size: int = 0  # bytes of their arguments
        self.aborted: bool = False  # one of them was refused


class Subscriptions:
    """What a client is subscribed to: channels, patterns and shard channels, each in order."""

    def __init__(self) -> None:
        self.names: list[dict[bytes, None]] = [{}, {}, {}]


class Session:
    """A client: who it is, what it has asked for, and what it still waits for."""

    __slots__ = (  # else plain Python, with so many, looks each of them up in a dict
        "_next_lane",
        "_small_replies",
        "_spare",
        "active_at",
        "authenticated",
        "behind",
        "created_at",
        "db",
        "dedicated",
        "finishing",
        "gated",
        "has_output",
        "held",
        "hub",
        "id",
        "lane",
        "last_command",
        "lib_name",
        "lib_version",
        "link",
        "lone",
        "multi",
        "name",
        "no_evict",
        "no_touch",
        "order",
        "out",
        "parked",
        "pending",
        "proto",
        "reader",
        "received",
        "reply_mode",
        "server",
        "skims",
        "subscriptions",
        "tracking",
        "user",
        "waiting",
        "watches",
        "write_count",
        "write_home",
    )

    def __init__(self, id: int, server: Server, hub: Hub, link: Link, reader: RequestReader) -> None:
        self.id: int = id
        self.server: Server = server
        self.hub: Hub = hub
        self.link: Link = link
        self.reader: RequestReader = reader
        self.authenticated: bool = reader.trusted
        self.user: str = "default"
        self.name: bytes = b""
        self.lib_name: bytes = b""
        self.lib_version: bytes = b""
        self.db: int = 0
        self.proto: int = 2
        # Something keeps commands from the quick way.
        self.gated: bool = not reader.trusted or server.clients_paused or server.monitored
        self.skims: bool = False  # its last command was one to be forwarded, and so may the next be
        self.reply_mode: int = REPLY_ON
        self.no_evict: bool = False
        self.no_touch: bool = False  # commands leave the order of use in memory as it is
        self.created_at: int = server.now()
        self.active_at: int = self.created_at
        self.last_command: bytes = b""
        self.lone: bytes = b""  # output: what is written first is often all, and copied only if it is not
        self.out: BytesWriter = BytesWriter()  # the rest of it
        self.has_output: bool = False  # the hub knows that there is some
        self.waiting: Line = Line()
        self.pending: int = 0  # commands that wait for backends
        self.behind: int = 0  # bytes of replies among waiting that are ready
        self.held: int = 0
        self.finishing: bool = False
        self.multi: Queue | None = None
        self.subscriptions: Subscriptions | None = None
        self.tracking: Interest | None = None  # CLIENT TRACKING
        self.watches: list[Watch] = []
        self.dedicated: dict[object, Dedicated] = {}  # its own connections, by home
        self.parked: Argv | None = None  # read, but not run: what it was held for
        self.received: list[bytes] = []  # came in while it was held
        # Writes that are not acknowledged: all of one home, else the next one would have been held.
        self.write_home: object = None
        self.write_count: int = 0
        self.order: object = None  # what that home keeps them in order by
        self.lane: int = 0  # which of an upstream's it uses
        self._next_lane: int = 0  # the same once nothing is waited for
        self._small_replies: int = 0  # in a row
        self._spare: Slot | None = None  # of a run that is answered

    @property
    def muted(self) -> bool:
        """Whether replies are suppressed by CLIENT REPLY."""
        return self.reply_mode == REPLY_OFF or self.reply_mode == REPLY_SKIP

    def reply(self, reply: Reply) -> None:
        """Answer the command at work, in its turn."""
        if self.gated and self.muted:
            return
        if self.waiting.size:
            self._line_up(encode_reply(reply, self.proto), self.waiting.size, 1)
        else:
            write_reply(self.out, reply, self.proto)
            if len(self.out) >= LARGE:
                self.flush()

    def _line_up(self, wire: bytes, place: int, frames: int) -> None:
        """Put what is ready among what is waited for."""
        slot = Slot(self, frames, 0)
        slot.wire = wire
        slot.ready = True
        slot.muted = False
        self.waiting.insert(place, slot)
        self.behind += len(wire)
        # As much as what comes from memory is, while a backend is waited for.
        if self.waiting.size >= self.server.pipeline_max or self.behind >= BEHIND_MAX:
            self.hold(HELD_PIPELINE)

    def wait(self, frames: int, home: object, writes: int) -> Slot:
        """Take a place for replies that come later."""
        slot = Slot(self, frames, writes)
        self.waiting.append(slot)
        self.pending += frames
        if writes:
            self.write_home = home
            self.write_count += writes
        return slot

    def wait_for_run(self) -> Slot:
        """Take a place for the replies to a run of commands, none of them yet."""
        slot = self._spare
        if slot is None:
            slot = Slot(self, 0, 0)
            slot.of_run = True
        else:
            self._spare = None
            slot.frames = 0
            slot.writes = 0
            slot.ready = False
            slot.proto = self.proto
            slot.muted = self.muted
        self.waiting.append(slot)
        return slot

    def settle(self, slot: Slot) -> None:
        """A slot is ready: pass on what can leave now, and go on if that was waited for."""
        if slot.writes:
            self.write_count -= slot.writes
            if not self.write_count:
                self.release(HELD_ORDER)
        waiting = self.waiting
        if waiting.first is slot:
            first = waiting.leave(slot)
            if not slot.muted:
                self.emit(slot.wire)
            if slot.of_run and not self.held:  # taken again: most of what a slot costs is to make it
                slot.wire = slot.sent = b""
                slot.argv = NO_ARGV
                slot.others = None
                self._spare = slot
            while first is not None and first.ready:
                after = waiting.leave(first)
                self.behind -= len(first.wire)
                if not first.muted:
                    self.emit(first.wire)
                first = after
            self.hub.flush_soon(self)
            if self.held:
                self._drained()
        else:
            self.behind += len(slot.wire)
            self.hub.made_room()
            if self.behind >= BEHIND_MAX:
                self.hold(HELD_PIPELINE)

    def weigh(self, size: int) -> None:
        """A Redis has answered with so many bytes: who gets large replies leaves the lane of the others."""
        lane = self.lane
        if size >= LARGE_REPLY:
            self._small_replies = 0
            lane = lane or 1 + self.id % (LANES - 1)
        else:
            self._small_replies += 1
            if self._small_replies >= SMALL_REPLIES:
                lane = 0
        if lane != self.lane:
            self._next_lane = lane
            self.hold(HELD_BARRIER)  # what goes there must not overtake what has gone here

    def _drained(self) -> None:
        """Some replies have left; see whether that was waited for."""
        if self.held & HELD_CLOSING and not self.waiting.size:
            self.flush()
            self.link.close()
            return
        if (
            self.held & HELD_PIPELINE
            and self.pending <= self.server.pipeline_max // 2
            and self.waiting.size <= self.server.pipeline_max // 2
            and self.behind < BEHIND_MAX
        ):
            self.release(HELD_PIPELINE)
        if not self.waiting.size and self.held & HELD_BARRIER:
            self.lane = self._next_lane
            self.release(HELD_BARRIER)

    def count_error(self, code: str, times: int) -> None:
        self.hub.count_error(code, times)

    @property
    def unflushed(self) -> int:
        """Bytes of output that the connection has not been handed."""
        return len(self.lone) + len(self.out)

    def emit(self, wire: bytes) -> None:
        """Append raw frames to the output."""
        if len(wire) >= LARGE:
            self.flush()
            self._send(wire)
        elif len(self.lone) > 0 or len(self.out) > 0:
            self.out.write(wire)
        else:
            self.lone = wire

    def push(self, wire: bytes) -> None:
        """Send an out-of-band message, whatever replies are still to come."""
        if not self.held & HELD_CLOSING:
            self.emit(wire)
            self.hub.flush_soon(self)

    def push_behind(self, wire: bytes) -> None:
        """Send an out-of-band message behind the replies that are due, but for one that may take for ever.

        A client of RESP2 would take it for one of them.  Who has more behind them than may be unread is cut.
        """
        place = self.waiting.size
        if self.held & HELD_BLOCKED:
            place -= 1
        if place > 0:
            if self.behind + len(wire) > self.server.output_max:
                self.link.abort("more is told to it than output_buffer_max, while a backend is waited for")
            else:
                self._line_up(wire, place, 0)
        else:
            self.push(wire)

    def flush(self) -> None:
        """Hand what has gathered to the connection."""
        self.has_output = False
        out = self.out
        size = len(out)
        lone = self.lone
        if len(lone) > 0:
            self.lone = b""
            self._send(lone + out.getvalue() if size else lone)
        elif size:
            self._send(out.getvalue())
        if size:
            if size > LARGE:
                self.out = BytesWriter()
            else:
                out.truncate(0)

    def _send(self, data: bytes) -> None:
        """Write output, straight to the socket if that takes it."""
        link = self.link
        size = len(data)
        link.sent += size
        link.writes += 1
        if link.direct:
            try:
                written = _write(link.fd, data)
            except OSError:  # it is full, or the client is gone, which is the transport's affair
                written = 0
            if written == size:
                return
            data = data[written:]
        link.write(data)

    def hold(self, reason: int) -> None:
        if not self.held:
            self.link.pause()
        self.held |= reason

    def release(self, reason: int) -> None:
        if self.held & reason:
            self.held &= ~reason
            if not self.held:
                self.hub.go_on(self)

    def finish(self) -> None:
        """Read no more, run and answer all that has come, then close."""
        self.finishing = True
        if self.held & HELD_BLOCKED:
            self.server.unblock(self, False)
        if not self.held:  # else that is done when it goes on
            self.close()

    def close(self) -> None:
        """Run no more; close once every reply that is due has been sent."""
        self.hold(HELD_CLOSING)
        self.parked = None
        self.received = []
        if not self.waiting.size:
            self.flush()
            self.link.close()

    def lost(self) -> None:
        """The connection is gone: nothing that it has sent is run any more."""
        self.held |= HELD_CLOSING
        self._spare = None  # which knows its session

    def leave_multi(self) -> None:
        self.multi = None
        self.regate()

    def authenticate(self) -> None:
        self.authenticated = True
        self.reader.trusted = True
        self.reader.request_max = self.server.request_max
        self.regate()

    def regate(self) -> None:
        """See anew whether commands may take the quick way."""
        self.gated = (
            not self.authenticated
            or self.reply_mode != REPLY_ON
            or self.no_touch
            or self.multi is not None
            or self.subscriptions is not None
            or self.tracking is not None
            or self.server.monitored
            or self.server.clients_paused
        )


class Deferred:
    """A reply that takes several steps: the coroutine is run once all earlier replies have left."""

    def __init__(self, run: Callable[[], Awaitable[Reply]]) -> None:
        self.run: Callable[[], Awaitable[Reply]] = run


class Told(Deferred):
    """A reply that is known, though others are told first: where nobody can wait, it is given at once."""

    def __init__(self, run: Callable[[], Awaitable[Reply]], reply: Reply) -> None:
        super().__init__(run)
        self.reply: Reply = reply


@mypyc_attr(allow_interpreted_subclasses=True)
class Server:
    """What a session, and a command on it, may ask of the server.

    What returns an awaitable speaks for several backends; a handler wraps it in ``Deferred``.
    """

    password: str = ""  # empty: none is needed
    request_max: int = 0  # bytes of an unfinished request
    pipeline_max: int = 0  # commands of one client that wait for backends
    output_max: int = 0  # bytes of a client's replies that it has not read
    clients_paused: bool = False
    monitored: bool = False  # somebody is to see every command
    forwards: bool = False  # whether any route leads to a Redis, which serves what we don't
    slowlog: SlowLog
    latency: LatencyMonitor
    latency_tracking: bool  # whether histograms are shown
    debug_commands: str  # who may use DEBUG: "no", "local", "yes"
    started_at: int  # ms since the epoch

    @abstractmethod
    def now(self) -> int:
        """Milliseconds since the epoch."""

    @abstractmethod
    def look_for_commands(self) -> None:
        """Somebody asked for a command that is not known: a Redis may have loaded a module."""

    @abstractmethod
    def clients(self) -> list[Session]:
        """All sessions, oldest first."""

    @abstractmethod
    def pause(self, until: int, writes_only: bool) -> None:
        """CLIENT PAUSE: hold commands on keys until then (ms since the epoch)."""

    @abstractmethod
    def unpause(self) -> None: ...

    @abstractmethod
    def after(self, ms: int, reply: Reply) -> Awaitable[Reply]:
        """A reply once so much time is over."""

    @abstractmethod
    def unblock(self, session: Session, error: bool) -> bool:
        """CLIENT UNBLOCK: end a blocking command as if its time had run out, or by an error; whether there
        was one."""

    @abstractmethod
    def subscribe(self, session: Session, command: bytes, names: list[bytes]) -> Reply:
        """SUBSCRIBE, PSUBSCRIBE or SSUBSCRIBE; may be a Deferred."""

    @abstractmethod
    def unsubscribe(self, session: Session, command: bytes, names: list[bytes]) -> Reply:
        """UNSUBSCRIBE, PUNSUBSCRIBE or SUNSUBSCRIBE."""

    @abstractmethod
    def forget_subscriptions(self, session: Session) -> None:
        """End all of them and say nothing."""

    @abstractmethod
    def track(self, session: Session, interest: Interest, prefixes: list[bytes]) -> None:
        """CLIENT TRACKING ON; raises CommandError."""

    @abstractmethod
    def untrack(self, session: Session) -> None:
        """CLIENT TRACKING OFF."""

    @abstractmethod
    def publish(self, session: Session, command: bytes, channel: bytes, message: bytes) -> Reply:
        """PUBLISH or SPUBLISH; may be a Deferred."""

    @abstractmethod
    def pubsub(self, question: bytes, names: list[bytes]) -> Reply:
        """PUBSUB; may be a Deferred."""

    @abstractmethod
    def tell_upstreams(self, argv: Argv, reply: Reply) -> Reply:
        """Send a request to every Redis that is up; Told with this reply where there is one."""

    @abstractmethod
    def kill_scripts(self, argv: Argv) -> Reply:
        """SCRIPT KILL at the Redis backends; may be a Deferred."""

    @abstractmethod
    def function(self, session: Session, argv: Argv) -> Reply:
        """FUNCTION, but for HELP; may be a Deferred."""

    @abstractmethod
    def modules(self, session: Session) -> Reply:
        """MODULE LIST; may be a Deferred."""

    @abstractmethod
    def execute(self, session: Session) -> Reply:
        """EXEC of what the session has queued; may be a Deferred."""

    @abstractmethod
    def watch(self, session: Session, names: list[bytes]) -> Awaitable[Reply]: ...

    @abstractmethod
    def unwatch(self, session: Session) -> None:
        """Watch nothing any more."""

    @abstractmethod
    def scan(self, db: int, cursor: int, pattern: bytes, count: int, type: str) -> Awaitable[Reply]:
        """SCAN's reply; ``type`` is Redis' name of one, or empty."""

    @abstractmethod
    def keys(self, db: int, pattern: bytes) -> Awaitable[Reply]: ...

    @abstractmethod
    def size(self, db: int) -> Awaitable[Reply]: ...

    @abstractmethod
    def random_key(self, db: int) -> Awaitable[Reply]: ...

    @abstractmethod
    def flush(self, db: int | None) -> Awaitable[Reply]:
        """FLUSHDB of a database, FLUSHALL for ``None``."""

    @property
    @abstractmethod
    def keeps_snapshots(self) -> bool:
        """Whether a memory backend has a snapshot."""

    @property
    @abstractmethod
    def saving(self) -> bool:
        """Whether one is being written."""

    @property
    @abstractmethod
    def saved_at(self) -> int:
        """When one was written last, or else the server was started; ms since the epoch."""

    @abstractmethod
    def save(self) -> Awaitable[Reply]:
        """SAVE: write all snapshots."""

    @abstractmethod
    def save_soon(self) -> None:
        """The same, with nobody waiting for it."""

    @abstractmethod
    def monitor(self, session: Session) -> None:
        """Show the session every command from now on."""

    @abstractmethod
    def unmonitor(self, session: Session) -> None: ...

    @abstractmethod
    def is_monitor(self, session: Session) -> bool: ...

    @abstractmethod
    def purge(self, db: int, pattern: bytes, force: bool) -> Awaitable[Reply]:
        """TIER PURGE's reply: how many keys went."""

    @abstractmethod
    def swap(self, first: int, second: int) -> Reply: ...

    @abstractmethod
    def memory_usage(self, db: int, key: bytes) -> Awaitable[Reply]:
        """Bytes that a key holds where it lives, or null."""

    @abstractmethod
    def memory_stats(self) -> dict[str, Reply]:
        """MEMORY STATS' reply."""

    @abstractmethod
    def memory_advice(self) -> str:
        """MEMORY DOCTOR's text."""

    @abstractmethod
    def trim_memory(self) -> Awaitable[Reply]: ...

    @abstractmethod
    def describe_value(self, db: int, key: bytes) -> Awaitable[Reply]:
        """DEBUG OBJECT's reply."""

    @abstractmethod
    def set_active_expire(self, active: bool) -> None:
        """Whether expired keys are looked for."""

    @abstractmethod
    def sleep(self, seconds: float) -> Awaitable[Reply]: ...

    @abstractmethod
    def where(self, db: int, key: bytes) -> Awaitable[Reply]:
        """TIER WHERE's reply, a map."""

    @abstractmethod
    def url(self, db: int, key: bytes, seconds: int) -> Awaitable[Reply]:
        """TIER URL's reply: where the value can be fetched for so long, or null."""

    @abstractmethod
    def verify(self, db: int, key: bytes) -> Awaitable[Reply]:
        """TIER VERIFY's reply, a map."""

    @abstractmethod
    def quarantined(self, backend: str, after: bytes, count: int) -> Awaitable[Reply]:
        """TIER QUARANTINE LIST's reply, an array of maps; ``backend`` and ``after`` may be empty."""

    @abstractmethod
    def release(self, backend: str, ids: list[bytes]) -> Awaitable[Reply]:
        """TIER QUARANTINE DROP's reply: how many records were there."""

    @abstractmethod
    def routes(self) -> Reply:
        """TIER ROUTES' reply, an array of maps."""

    @abstractmethod
    def dictionaries(self) -> Awaitable[Reply]:
        """TIER DICT's reply, an array of maps."""

    @abstractmethod
    def train_dictionary(self, prefix: bytes) -> Awaitable[Reply]:
        """Train one for a route now; the map that TIER DICT then has of it."""

    @abstractmethod
    def info(self, sections: list[str]) -> str:
        """INFO's text: the named sections in lower case, all default ones for an empty list."""

    @abstractmethod
    def config_get(self, patterns: list[bytes]) -> dict[bytes, bytes]:
        """Parameters whose names fit one of the glob patterns."""

    @abstractmethod
    def config_set(self, values: dict[bytes, bytes]) -> None:
        """Change parameters, all or none; raises CommandError."""

    @abstractmethod
    def config_rewrite(self) -> None:
        """Write changed parameters to the configuration's file; raises CommandError."""

    @abstractmethod
    def reset_stats(self) -> None: ...
