"""A lane at work, without I/O: requests of all clients out in one write, replies back to whoever waits.

The hot half of ``backends.redis``, which connects lanes and keeps them connected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeAlias

from backends.base import Lane, Upstream, Waiter
from backends.frames import FramingError, ReplyFramer
from proxy import errors

CallSoon: TypeAlias = Callable[[Callable[[], None]], object]
Write: TypeAlias = Callable[[bytes], None]

_log: Final = logging.getLogger("redtier.lanes")


class RedisLane(Lane):
    """A lane over one connection after another.

    When a connection is lost, requests that it has taken are answered by ``UPSTREAM``, since they may have
    been executed, but for those that may be sent once more (``Waiter.retry``).  These, and those that it has
    not taken, are kept for the next one, or answered by ``BACKENDDOWN`` while it is known that there is none
    to be had.

    ``call_soon`` runs a function in the event loop's next turn; ``reply_max`` bounds one reply, in bytes.
    """

    def __init__(self, upstream: Upstream, reply_max: int, call_soon: CallSoon) -> None:
        self.reason: str = ""  # why there was no connection when there was none last
        self.answered: int = 0  # replies
        self.lost: int = 0  # replies to what had been written, which will never come
        self.refused: int = 0  # replies to what had not
        self.retried: int = 0  # replies to what was sent once more
        self.bytes_in: int = 0
        self.bytes_out: int = 0
        self._upstream: Upstream = upstream
        self._reply_max: int = reply_max
        self._call_soon: CallSoon = call_soon
        self._framer: ReplyFramer = ReplyFramer(reply_max)
        self._write: Write | None = None  # where there is a connection
        self._shut: bool = False
        self._waiters: list[Waiter] = []
        self._out: list[bytes] = []  # the requests of the last waiters, which are not written yet
        self._flush: Callable[[], None] = self.flush  # bound once
        self._flush_due: bool = False

    @property
    def state(self) -> str:
        """``up``, ``connecting``, or ``down: `` and the reason."""
        return "up" if self._write is not None else f"down: {self.reason}" if self._shut else "connecting"

    @property
    def waiting(self) -> bool:
        """True while something that has been written is not answered."""
        return len(self._waiters) > len(self._out)

    def send(self, frames: bytes, waiter: Waiter) -> None:
        self._out.append(frames)
        self._waiters.append(waiter)
        self._upstream.in_flight += waiter.frames
        if not self._flush_due:
            # All clients' requests of this turn of the loop go in one write.
            self._flush_due = True
            self._call_soon(self._flush)

    def flush(self) -> None:
        """Write what has been sent, or refuse it."""
        self._flush_due = False
        out = self._out
        if not out:
            return
        if self._write is not None:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self.bytes_out += len(data)
            self._write(data)
        elif self._shut:
            written = len(self._waiters) - len(out)
            refused = self._waiters[written:]
            del self._waiters[written:]
            out.clear()
            error = errors.backend_down(self._upstream.name, self.reason).wire
            for waiter in refused:
                self.refused += waiter.frames
                self._answer(waiter, error * waiter.frames, waiter.frames)

    def feed(self, data: bytes) -> None:
        """Hand out the replies that a chunk completes.

        Raises ``FramingError``; the connection must be given up then.
        """
        self.bytes_in += len(data)
        framer = self._framer
        framer.feed(data)
        waiters = self._waiters
        written = len(waiters) - len(self._out)
        head = 0
        try:
            while head < written:
                waiter = waiters[head]
                wire = framer.take(waiter.frames)
                if wire is None:
                    return
                head += 1
                self.answered += waiter.frames
                self._answer(waiter, wire, 0)
        finally:
            del waiters[:head]
        if framer.take(1) is not None or not framer.quiet:
            raise FramingError("a reply that nobody asked for")

    def greet(self, frames: bytes, waiter: Waiter, write: Write) -> None:
        """Write the first requests on a new connection, before all that has been sent."""
        self._waiters.insert(0, waiter)
        self._upstream.in_flight += waiter.frames
        self.bytes_out += len(frames)
        write(frames)

    def open(self, write: Write) -> None:
        """Use the connection, whose greeting has been answered, from now on."""
        self._shut = False
        self._write = write
        self.flush()

    def lose(self, reason: str, retry: bool) -> None:
        """Give the connection up: answer with an error what it has not, but for what can be retried."""
        self.reason = reason
        self._write = None
        wire, missing = self._framer.abandon()
        self._framer = ReplyFramer(self._reply_max)
        written = len(self._waiters) - len(self._out)
        unanswered = self._waiters[:written]
        del self._waiters[:written]
        error = errors.upstream(self._upstream.name, f"{reason}; the command may have been executed").wire
        kept: list[Waiter] = []
        requests: list[bytes] = []
        for waiter in unanswered:
            request = waiter.retry() if retry else b""
            if request:
                self.retried += waiter.frames
                kept.append(waiter)
                requests.append(request)
            else:
                failed = missing or waiter.frames
                self.answered += waiter.frames - failed
                self.lost += failed
                self._answer(waiter, wire + error * failed, failed)
            wire = b""
            missing = 0
        self._waiters[:0] = kept
        self._out[:0] = requests

    def shut(self, reason: str) -> None:
        """Answer with an error what is sent until the next ``open``."""
        self.reason = reason
        self._shut = True
        self.flush()

    def _answer(self, waiter: Waiter, wire: bytes, failed: int) -> None:
        self._upstream.in_flight -= waiter.frames
        try:
            waiter.done(wire, failed)
        except Exception:  # one client's trouble must not become that of all others on the lane
            _log.exception("backend '%s': a reply could not be handed on", self._upstream.name)


class RefusingLane(RedisLane):
    """Answers every request with an error."""

    def __init__(self, upstream: Upstream, call_soon: CallSoon, error: errors.CommandError) -> None:
        super().__init__(upstream, 0, call_soon)
        self._error: errors.CommandError = error

    def flush(self) -> None:
        self._flush_due = False
        self._out.clear()
        refused, self._waiters = self._waiters, []
        for waiter in refused:
            self._answer(waiter, self._error.wire * waiter.frames, waiter.frames)


class FallbackLane(Lane):
    """For requests that only read: what ``lane`` can't answer goes to ``other``."""

    def __init__(self, lane: Lane, other: Lane) -> None:
        self._lane: Lane = lane
        self._other: Lane = other

    def send(self, frames: bytes, waiter: Waiter) -> None:
        self._lane.send(frames, Fallback(frames, waiter, self._other))


class Fallback(Waiter):
    def __init__(self, requests: bytes, waiter: Waiter, other: Lane) -> None:
        super().__init__(waiter.frames)
        self._requests: bytes = requests
        self._waiter: Waiter = waiter
        self._other: Lane = other

    def done(self, wire: bytes, failed: int) -> None:
        away = (wire.startswith(b"-") or b"\r\n-" in wire) and (
            b"-LOADING " in wire or b"-MASTERDOWN " in wire
        )
        if failed or away:
            self._other.send(self._requests, self._waiter)
        else:
            self._waiter.done(wire, failed)

    def alone(self) -> bool:
        return self._waiter.alone()

    def resolve(self, reply: object) -> None:
        raise TypeError("a lane answers in frames")


class Call(Waiter):
    """Waits for replies to our own requests: ``replies`` resolves to what ``done`` is given."""

    def __init__(self, frames: int, replies: asyncio.Future[tuple[bytes, int]]) -> None:
        super().__init__(frames)
        self.replies: asyncio.Future[tuple[bytes, int]] = replies

    def alone(self) -> bool:
        return True

    def done(self, wire: bytes, failed: int) -> None:
        if not self.replies.done():  # its caller may have been cancelled
            self.replies.set_result((wire, failed))

    def resolve(self, reply: object) -> None:
        raise TypeError("a lane answers in frames")
