"""Lanes of a cluster's nodes at work, without I/O: what a node says is elsewhere is sent there.

A node answers ``MOVED`` for a slot that another node has, ``ASK`` for a key that has gone ahead to the node
that its slot is being moved to, and ``TRYAGAIN`` where only some of a request's keys have
(https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding).

The hot half of ``backends.cluster``, which knows the nodes.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from time import monotonic
from typing import Final

from mypy_extensions import mypyc_attr

from backends.base import Upstream, Waiter
from backends.frames import ReplyFramer
from backends.lanes import CallSoon, RedisLane
from proxy.errors import unsettled
from proxy.resp import BULK_MAX, RequestReader, encode_command
from proxy.slots import key_slot

REDIRECTS_MAX: Final = 5  # of one request, before it is tried again later: the nodes disagree
TRY_AGAIN_PAUSE: Final = 20  # ms
UNBOUNDED: Final = 1 << 60  # bytes: what is divided here was bounded when it came in

MOVED: Final = b"-MOVED "
ASK: Final = b"-ASK "
TRY_AGAIN: Final = b"-TRYAGAIN "
REDIRECT: Final = re.compile(
    rb"-(?:MOVED|ASK) [0-9]{1,5} [^ \r\n]*:[0-9]{1,5}\r\n"
    rb"|-TRYAGAIN Multiple keys request during rehashing of slot\r\n"
)
PING: Final = encode_command([b"PING"])
ASKING: Final = encode_command([b"ASKING"])


@mypyc_attr(allow_interpreted_subclasses=True)
class Redirects:
    """Who knows the nodes of a cluster; ``patience`` is for how many ms a request may be tried again."""

    patience: int

    @abstractmethod
    def moved(self, slot: int, address: str, lane: NodeLane) -> NodeLane | None:
        """A node that was asked on ``lane`` says that another has the slot: that one's lane of this kind.

        None where no node has told of the other yet: nothing is connected to on a mere reply.
        """

    @abstractmethod
    def asked(self, address: str, lane: NodeLane) -> NodeLane | None:
        """The same of a node that has but this key, so far."""

    @abstractmethod
    def later(self, ms: int, piece: Piece) -> None:
        """Call ``piece.again`` after so many milliseconds."""


class NodeLane(RedisLane):
    """A lane of one node.

    **Order.**  When a slot has moved here, requests for it are still on their way to the node that had it,
    and will be sent on to here.  What is sent here for it from then on is held until that node has answered
    all that went to it before (``follow``), so that it overtakes nothing.
    """

    def __init__(
        self, upstream: Upstream, reply_max: int, call_soon: CallSoon, proto: int, nodes: Redirects
    ) -> None:
        super().__init__(upstream, reply_max, call_soon)
        self.node: Upstream = upstream
        self.proto: int = proto
        self.nodes: Redirects = nodes
        self.followed: int = 0  # by how many lanes
        self._fences: int = 0
        self._held: list[tuple[bytes, Waiter]] = []
        self._blocked: set[int] = set()  # slots for which nothing may be sent now

    def send(self, frames: bytes, waiter: Waiter) -> None:
        self.send_here(frames, Forwarded(self, frames, waiter))

    def send_here(self, frames: bytes, waiter: Waiter) -> None:
        if not self._fences:
            self.send_on(frames, waiter)
            return
        slots = slots_in(frames)
        if self._blocked.isdisjoint(slots):
            self.send_on(frames, waiter)
        else:
            self._blocked |= slots  # whatever is for them must not overtake this
            self._hold(frames, waiter)

    def send_on(self, frames: bytes, waiter: Waiter) -> None:
        """Send what another node has refused, before all that is held."""
        RedisLane.send(self, frames, waiter)

    def follow(self, other: NodeLane, slots: set[int]) -> None:
        """Hold what is sent for these slots until ``other`` has answered what was sent to it until now."""
        self._fences += 1
        self._blocked |= slots
        other.followed += 1
        fence = Fence(self, other)
        if other._fences:  # what is on its way to it is to go on from there
            other._hold(PING, fence)
        else:
            other.send_on(PING, fence)

    def passed(self) -> None:
        self._fences -= 1
        if not self._fences:
            self._blocked = set()
            held, self._held = self._held, []
            for frames, waiter in held:
                self._upstream.in_flight -= waiter.frames
                self.send_on(frames, waiter)

    def _hold(self, frames: bytes, waiter: Waiter) -> None:
        self._held.append((frames, waiter))
        self._upstream.in_flight += waiter.frames


class Fence(Waiter):
    """Is answered once all that was sent before it is, whatever the answers are."""

    def __init__(self, lane: NodeLane, followed: NodeLane) -> None:
        super().__init__(1)
        self._lane: NodeLane = lane
        self._followed: NodeLane = followed

    def done(self, wire: bytes, failed: int) -> None:
        self._followed.followed -= 1
        self._lane.passed()

    def resolve(self, reply: object) -> None:
        raise TypeError("a lane answers in frames")


class Forwarded(Waiter):
    """Takes the replies to requests of one waiter, and sends on those that belong elsewhere."""

    def __init__(self, lane: NodeLane, requests: bytes, waiter: Waiter) -> None:
        super().__init__(waiter.frames)
        self._lane: NodeLane = lane
        self._requests: bytes = requests
        self._waiter: Waiter = waiter

    def done(self, wire: bytes, failed: int) -> None:
        # One look is all that most replies cost.
        if wire.startswith(b"-") or (self.frames > 1 and b"\r\n-" in wire):
            self._look(wire, failed)
        else:
            self._waiter.done(wire, failed)

    def retry(self) -> bytes:
        # What has moved on is not to be overtaken by what follows it there.
        return b"" if self._lane.followed else self._waiter.retry()

    def resolve(self, reply: object) -> None:
        raise TypeError("a lane answers in frames")

    def _look(self, wire: bytes, failed: int) -> None:
        waiter = self._waiter
        if waiter.step:
            replies = [wire]
            requests = [self._requests]
        else:
            replies = divide(wire, self.frames)
            requests = []
        elsewhere = [place for place, reply in enumerate(replies) if redirect_in(reply, waiter.step)]
        if not elsewhere:
            waiter.done(wire, failed)
            return
        if not requests:
            requests = _divide_requests(self._requests)
        waiter.redirected()
        gathered = Gathered(waiter, replies, len(elsewhere), failed)
        frames = self.frames if waiter.step else 1
        for place in elsewhere:
            piece = Piece(self._lane, requests[place], frames, gathered, place)
            piece.go_on(replies[place])


class Gathered:
    """Replies to requests of one waiter, of which some are still to come from other nodes."""

    def __init__(self, waiter: Waiter, replies: list[bytes], missing: int, failed: int) -> None:
        self.waiter: Waiter = waiter
        self._replies: list[bytes] = replies
        self._missing: int = missing
        self._failed: int = failed

    def take(self, place: int, wire: bytes, failed: int) -> None:
        self._replies[place] = wire
        if place == len(self._replies) - 1:
            self._failed = failed
        self._missing -= 1
        if not self._missing:
            self.waiter.done(b"".join(self._replies), self._failed)


class Piece(Waiter):
    """Requests that must stay together, mostly one, on their way from node to node."""

    def __init__(self, lane: NodeLane, request: bytes, frames: int, gathered: Gathered, place: int) -> None:
        super().__init__(frames)
        self._lane: NodeLane = lane  # of the node that was asked last
        self._owner: NodeLane = lane  # of the last one that may have the slot
        self._request: bytes = request
        self._frames: int = frames  # of the request
        self._gathered: Gathered = gathered
        self._place: int = place
        self._redirects: int = 0
        self._until: float = 0.0  # when it is not tried again any more, by the monotonic clock

    def go_on(self, reply: bytes) -> None:
        """The last node has answered; ``reply`` names another, or asks to try again."""
        step = self._gathered.waiter.step
        redirect = redirect_in(reply, step)
        nodes = self._lane.nodes
        other: NodeLane | None = None
        if not redirect.startswith(TRY_AGAIN):
            slot, address = redirect_to(redirect)
            if slot not in slots_in(self._request):  # what a script says, and no node
                self._gathered.take(self._place, reply, 0)
                return
            if self._redirects < REDIRECTS_MAX:
                self._redirects += 1
                if redirect.startswith(MOVED):
                    other = nodes.moved(slot, address, self._lane)
                elif not step:
                    other = nodes.asked(address, self._lane)
        if other is not None:
            if redirect.startswith(MOVED):
                self._owner = other
            self._lane = other
            self._send(redirect.startswith(ASK))
        elif self._may_try_again():
            self._redirects = 0
            self._lane = self._owner
            nodes.later(TRY_AGAIN_PAUSE, self)
        elif step or redirect.startswith(TRY_AGAIN):
            self._gathered.take(self._place, reply, 0)
        else:
            self._gathered.take(self._place, unsettled(self._lane.node.name).wire, 0)

    def _may_try_again(self) -> bool:
        """Whether there is time, and nothing of the same client's can overtake it meanwhile.

        A transaction can't be sent to a node that does not have its slot yet, so it waits too.
        """
        now = monotonic()
        if self._until:
            return now < self._until
        self._until = now + self._lane.nodes.patience / 1000
        return self._gathered.waiter.alone()

    def again(self) -> None:
        self._send(False)

    def _send(self, asking: bool) -> None:
        self.frames = self._frames
        request = self._request
        if asking:
            self.frames += 1
            request = ASKING + request
        self._lane.send_on(request, self)

    def done(self, wire: bytes, failed: int) -> None:
        if self.frames > self._frames:  # the first is the answer to ASKING
            wire = wire[len(divide(wire, self.frames)[0]) :]
            failed = min(failed, self._frames)
        if not failed and redirect_in(wire, self._gathered.waiter.step):
            self.go_on(wire)
        else:
            self._gathered.take(self._place, wire, failed)

    def resolve(self, reply: object) -> None:
        raise TypeError("a lane answers in frames")


def redirect_in(wire: bytes, step: bool) -> bytes:
    """The first reply that says that a request belongs elsewhere, as a node says it; empty if none does.

    ``step``: the replies to MULTI, queued commands and EXEC; else ``wire`` is one reply.
    """
    if not step:
        return wire if REDIRECT.fullmatch(wire) else b""
    # EXEC has run nothing then; what it has run answers within its array, and such a reply is no command's.
    if not wire.startswith(b"+OK\r\n"):
        return b""
    for line in wire.split(b"\r\n"):
        if not line.startswith((b"+", b"-")):
            break
        if REDIRECT.fullmatch(line + b"\r\n"):
            return line + b"\r\n"
    return b""


def redirect_to(redirect: bytes) -> tuple[int, str]:
    """The slot and the address in ``-MOVED 3999 127.0.0.1:6381``, ``-ASK`` alike."""
    _, slot, address = redirect[:-2].decode().split(" ")
    return int(slot), address


def slots_in(frames: bytes) -> set[int]:
    """Those of all arguments of some requests, their keys' among them."""
    reader = RequestReader(UNBOUNDED, BULK_MAX, True)
    reader.feed(frames)
    slots: set[int] = set()
    while True:
        argv = reader.next_command()
        if argv is None:
            return slots
        slots.update([key_slot(arg) for arg in argv[1:]])


def divide(wire: bytes, frames: int) -> list[bytes]:
    """Replies one by one."""
    framer = ReplyFramer(UNBOUNDED)
    framer.feed(wire)
    replies: list[bytes] = []
    for _ in range(frames):
        reply = framer.take(1)
        assert reply is not None
        replies.append(reply)
    return replies


def _divide_requests(frames: bytes) -> list[bytes]:
    reader = RequestReader(UNBOUNDED, BULK_MAX, True)
    reader.feed(frames)
    requests: list[bytes] = []
    while True:
        argv = reader.next_command()
        if argv is None:
            return requests
        requests.append(encode_command(argv))
