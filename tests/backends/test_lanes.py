"""A lane by itself: what becomes of requests when their connection is lost."""

from __future__ import annotations

from backends.base import Waiter
from backends.lanes import RedisLane
from tests.upstreams import LOST, Connect


class Request(Waiter):
    """One request; ``reads``: it may be sent once more."""

    def __init__(self, name: bytes, reads: bool) -> None:
        super().__init__(1)
        self.reply = b""
        self.name = name
        self.again = name if reads else b""

    def retry(self) -> bytes:
        again, self.again = self.again, b""
        return again

    def done(self, wire: bytes, failed: int) -> None:
        assert not self.reply
        self.reply = wire

    def resolve(self, reply: object) -> None:
        raise TypeError("a lane answers in frames")


class Wire:
    """A lane whose connections end here."""

    def __init__(self, connect: Connect) -> None:
        self.upstream = connect("redis://nowhere")
        self.written: list[bytes] = []
        self.lane = RedisLane(self.upstream, 1 << 20, lambda flush: None)
        self.lane.open(self.written.append)

    def send(self, name: bytes, reads: bool) -> Request:
        request = Request(name, reads)
        self.lane.send(name, request)
        return request


async def test_what_only_reads_is_sent_once_more_and_before_all_else(connect: Connect) -> None:
    wire = Wire(connect)
    read, write, other = wire.send(b"r1", True), wire.send(b"w1", False), wire.send(b"r2", True)
    wire.lane.flush()
    later = wire.send(b"w2", False)
    wire.lane.lose("cut", True)
    assert write.reply.startswith(LOST + b"cut; ")
    assert wire.upstream.in_flight == 3
    wire.lane.open(wire.written.append)
    assert wire.written == [b"r1w1r2", b"r1r2w2"]
    wire.lane.feed(b"+1\r\n+2\r\n+3\r\n")
    assert [each.reply for each in (read, other, later)] == [b"+1\r\n", b"+2\r\n", b"+3\r\n"]
    assert (wire.lane.retried, wire.lane.lost) == (2, 1)


async def test_it_is_not_sent_a_third_time(connect: Connect) -> None:
    wire = Wire(connect)
    read = wire.send(b"r", True)
    wire.lane.flush()
    wire.lane.lose("cut", True)
    wire.lane.open(wire.written.append)
    wire.lane.lose("cut again", True)
    assert wire.written == [b"r", b"r"]
    assert read.reply.startswith(LOST + b"cut again; ")


async def test_replies_of_a_lost_connection_are_not_mixed_with_those_of_the_next(connect: Connect) -> None:
    wire = Wire(connect)
    run = Request(b"rr", True)
    run.frames = 2
    wire.lane.send(b"rr", run)
    wire.lane.flush()
    wire.lane.feed(b"+old\r\n+hal")
    wire.lane.lose("cut", True)
    wire.lane.open(wire.written.append)
    wire.lane.feed(b"+new\r\n+new\r\n")
    assert run.reply == b"+new\r\n+new\r\n"


async def test_what_can_not_be_sent_again_is_refused(connect: Connect) -> None:
    wire = Wire(connect)
    read = wire.send(b"r", True)
    wire.lane.flush()
    wire.lane.lose("cut", True)
    wire.lane.shut("gone")
    assert read.reply == b"-BACKENDDOWN backend 'main' can't serve now, try again later: gone\r\n"
    assert wire.upstream.in_flight == 0


async def test_nothing_is_sent_again_where_a_timeout_has_ended_the_connection(connect: Connect) -> None:
    wire = Wire(connect)
    read = wire.send(b"r", True)
    wire.lane.flush()
    wire.lane.lose("no answer", False)
    assert read.reply.startswith(LOST + b"no answer; ")
