"""Who has output, who waits, and who may go on: what is left to the end of a turn of the loop.

A session that must wait is held, with the command that it waits for parked in it.  Whoever may go on does so
when the turn has made all that it makes, in the order in which that was found.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from proxy.clock import Clock
from proxy.errors import overloaded
from proxy.resp import Argv
from proxy.router import Home
from proxy.session import HELD_BACKEND, HELD_PAUSE, Hub, Session
from proxy.tally import Tally
from proxy.timing import Timing


class Scheduler(Hub):
    """Holds sessions, and lets them go on; what they then have to run is the dispatcher's affair."""

    def __init__(self, clock: Clock, call_soon: Callable[[Callable[[], None]], Any]) -> None:
        self.clock: Clock = clock
        self.pause_until: int = 0  # ms; CLIENT PAUSE
        self.pause_writes_only: bool = False
        self._call_soon: Callable[[Callable[[], None]], Any] = call_soon
        self._dirty: list[Session] = []  # have output
        self._ready: list[Session] = []  # may go on
        self._stalled: list[tuple[Session, Home]] = []  # wait until a backend has less in flight
        self._paused: list[Session] = []
        self._flush_due: bool = False
        self._turn_ns: int = 0  # 0: nobody has asked yet
        # Calls that all took as long, and are not counted yet: most often what one turn has sent, another has
        # the replies of.
        self._calls: int = 0
        self._took_ns: int = 0
        self._tally: Tally | None = None
        self._timing: Timing | None = None

    @abstractmethod
    def pump(self, s: Session) -> None:
        """Run the session's commands until there are no more, or it has to wait."""

    @abstractmethod
    def end_run(self, s: Session) -> None:
        """Send the run of frames that has gathered for a lane, if there is one."""

    # Waiting

    def park(self, s: Session, argv: Argv, reason: int) -> None:
        """Keep a command until the session may go on."""
        self.end_run(s)
        s.parked = argv
        s.hold(reason)

    def stall(self, s: Session, argv: Argv, home: Home) -> None:
        """Keep a command until its backend has less in flight, or refuse it where that is not waited for."""
        if home.overload is not None:
            home.overload.refused += 1
            error = overloaded(home.name)
            self.count_error(error.code, 1)
            s.reply(error)
            return
        self.park(s, argv, HELD_BACKEND)
        self._stalled.append((s, home))

    def pausing(self, write: bool) -> bool:
        """Whether CLIENT PAUSE holds such a command."""
        return self.pause_until > self.clock.ms and (write or not self.pause_writes_only)

    def pause(self, s: Session, argv: Argv) -> None:
        """Keep a command until CLIENT PAUSE is over."""
        self.park(s, argv, HELD_PAUSE)
        self._paused.append(s)

    def unpause(self) -> None:
        """CLIENT PAUSE is over."""
        self.pause_until = 0
        paused, self._paused = self._paused, []
        for session in paused:
            session.release(HELD_PAUSE)

    # Going on

    def flush_soon(self, session: Session) -> None:
        if not session.has_output:
            session.has_output = True
            self._dirty.append(session)
        self._soon()

    def turn_ns(self) -> int:
        ns = self._turn_ns
        if not ns:
            self._soon()
            self.clock.tick()
            self._turn_ns = ns = self.clock.ns
        return ns

    def took(self, tally: Tally | None, timing: Timing, calls: int, ns: int) -> None:
        if timing is self._timing and tally is self._tally and ns == self._took_ns:
            self._calls += calls
            return
        self._count()
        self._tally = tally
        self._timing = timing
        self._took_ns = ns
        self._calls = calls
        self._soon()

    def _count(self) -> None:
        if self._calls:
            if self._tally is not None:
                self._tally.add(self._calls, self._took_ns // 1000)
            if self._timing is not None:
                self._timing.exact.add(self._calls, self._took_ns)
            self._calls = 0

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
        self._turn_ns = 0
        self._count()
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
