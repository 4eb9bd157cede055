"""What took long: the entries of SLOWLOG, and the events of LATENCY.

Both are bounded: entries by their number, their arguments by number and length, samples by their number.
Limits and shapes are Redis' own: https://redis.io/commands/slowlog-get,
https://redis.io/docs/management/optimization/latency-monitor.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from proxy.resp import Argv

ARGUMENTS: Final = 32  # of an entry
LENGTH: Final = 128  # bytes of an argument
SAMPLES: Final = 160  # of an event, one a second at most
REDACTED: Final = b"(redacted)"


class Entry(NamedTuple):
    """A slow command."""

    id: int
    at: int  # seconds since the epoch
    us: int
    argv: Argv
    peer: str  # of the client
    name: bytes


class SlowLog:
    """The slow commands of late, the last one first."""

    def __init__(self, slower_than: int, max_len: int) -> None:
        self.slower_than = slower_than  # us; below 0: nothing is logged
        self.entries: deque[Entry] = deque(maxlen=max_len)
        self._next = 0

    @property
    def max_len(self) -> int:
        return self.entries.maxlen or 0

    def set_max_len(self, max_len: int) -> None:
        self.entries = deque(list(self.entries)[:max_len], max_len)

    def add(self, at: int, us: int, argv: Argv, others: int, peer: str, name: bytes) -> None:
        """Log a command.  Of ``others``, that ran with it, any may have been the slow one."""
        argv = _shortened(redacted(argv))
        if others:
            argv.append(b"... (or one of %d other commands of its pipeline)" % others)
        self.entries.appendleft(Entry(self._next, at, us, argv, peer, name))
        self._next += 1


def _shortened(argv: Argv) -> Argv:
    kept = argv if len(argv) <= ARGUMENTS else argv[: ARGUMENTS - 1]
    short = [
        arg if len(arg) <= LENGTH else b"%b... (%d more bytes)" % (arg[:LENGTH], len(arg) - LENGTH)
        for arg in kept
    ]
    if len(kept) < len(argv):
        short.append(b"... (%d more arguments)" % (len(argv) - len(kept)))
    return short


def redacted(argv: Argv) -> Argv:
    """A request without passwords, for where others see it."""
    words = [arg.lower() for arg in argv[:ARGUMENTS]]
    if words[:1] == [b"auth"]:
        return [argv[0], *[REDACTED] * (len(argv) - 1)]
    if words[:1] == [b"hello"] and b"auth" in words:
        at = words.index(b"auth")
        return [*argv[: at + 1], *([REDACTED] * len(argv[at + 1 : at + 3])), *argv[at + 3 :]]
    if words[:2] == [b"config", b"set"]:
        return [
            REDACTED if at >= 3 and at % 2 and argv[at - 1].lower() == b"requirepass" else arg
            for at, arg in enumerate(argv)
        ]
    return argv


class Event:
    """A kind of latency: when, in seconds since the epoch, and how long, in milliseconds."""

    def __init__(self) -> None:
        self.samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES)
        self.max = 0


class LatencyMonitor:
    """What took longer than a threshold, by kind."""

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold  # ms; 0: nothing is watched
        self.events: dict[str, Event] = {}

    def add(self, event: str, at: int, ms: int) -> None:
        """Keep a sample, if it is one that somebody wants to know of: the longest of each second."""
        if not self.threshold or ms < self.threshold:
            return
        kept = self.events.setdefault(event, Event())
        kept.max = max(kept.max, ms)
        if kept.samples and kept.samples[-1][0] == at:
            kept.samples[-1] = at, max(kept.samples[-1][1], ms)
        else:
            kept.samples.append((at, ms))

    def reset(self, events: list[str]) -> int:
        """Forget these, or all for an empty list; how many there were."""
        doomed = [event for event in events or list(self.events) if event in self.events]
        for event in doomed:
            self.events.pop(event, None)
        return len(set(doomed))
