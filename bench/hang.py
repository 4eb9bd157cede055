"""What a Redis in trouble, or one client's huge replies, cost the others.

    python -m bench.hang [--only stopped,large] [--tree compiled|plain] [--rounds 3] [--seconds 60]

- stopped: fifty clients use one Redis and fifty another, which is stopped by SIGSTOP for so many seconds,
  again and again.  The latencies of the first fifty as long at rest and while it is stopped; how much memory
  redtier takes meanwhile; what the other fifty were told, and how soon all of them are served again.
- large: small GETs while one client reads values of 50 MB all the time: at the Redis itself; through redtier,
  where both share a connection to it (``lanes = 1``); and where the large ones go by another one.  So what
  sharing costs is the difference of the last two.  And the small ones alone.

A client sends a request every ten milliseconds, though the last few may not be answered; all clients that
are measured are in one process.  On two cores much of what is measured is the wait for a CPU.  Ends with 1
where a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Final, NamedTuple, Self, cast

import hiredis
import uvloop

from bench.measure import markdown, percentile, resident, some_of
from bench.servers import Redtier, built_trees
from proxy.resp import encode_command
from tests.servers import RedisServer

CLIENTS: Final = 50  # of each Redis
PERIOD: Final = 0.01  # seconds between two requests of a client
OWED_MAX: Final = 16  # replies; a client that is owed so many sends nothing
PATIENCE: Final = 30.0  # seconds for what should take a few
MB: Final = 1 << 20
LARGE: Final = 50 * MB
RATIO_MAX: Final = 1.5
GROWTH_MAX: Final = 20  # MB

READER: Final = """
import socket, sys
port, size = map(int, sys.argv[1:])
client = socket.create_connection(("127.0.0.1", port), 60)
taken = bytearray(1 << 20)
while True:
    client.sendall(b"*2\\r\\n$3\\r\\nGET\\r\\n$5\\r\\nlarge\\r\\n")
    left = len(b"$%d\\r\\n" % size) + size + 2
    while left > 0:
        left -= client.recv_into(taken) or sys.exit("the connection was closed")
"""
"""A client that reads a value of so many bytes again and again."""


class Table(NamedTuple):
    head: list[str]
    rows: list[list[str]]
    missed: list[str]  # bars


class Client(asyncio.Protocol):
    """Sends a SET and a GET in turn; ``times`` are the milliseconds that good replies took."""

    def __init__(self, key: bytes, reads: bool) -> None:
        get = encode_command([b"GET", key])
        self._requests = [get if reads else encode_command([b"SET", key, b"v" * 100]), get]
        self.times: list[float] = []
        self.errors: Counter[str] = Counter()
        self._sent: list[float] = []  # when what is not answered was
        self._count = 0
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._send(self._loop.time())

    def _send(self, at: float) -> None:
        if self._transport.is_closing():
            return
        if len(self._sent) < OWED_MAX:
            self._count += 1
            self._sent.append(time.perf_counter())
            self._transport.write(self._requests[self._count % 2])
        at = max(at + random.uniform(0.5, 1.5) * PERIOD, self._loop.time())
        self._loop.call_at(at, self._send, at)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._reader.feed(data)
        count = 0
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, hiredis.ReplyError):
                self.errors[str(reply).partition(" ")[0]] += 1
            else:
                self.times.append(1000 * (now - self._sent[count]))
            count += 1
        del self._sent[:count]

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self.errors["connection lost"] += 1

    def close(self) -> None:
        self._transport.close()


class Latencies(NamedTuple):
    p50: float  # ms
    p99: float
    longest: float


class Crowd:
    """Clients of one port at work."""

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients

    @classmethod
    async def at(cls, port: int, prefix: bytes = b"", reads: bool = False) -> Self:
        loop = asyncio.get_running_loop()
        clients = [Client(b"%bkey:%d" % (prefix, number), reads) for number in range(CLIENTS)]
        for client in clients:
            await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
        return cls(clients)

    async def over(self, seconds: float) -> list[float]:
        """The milliseconds that each reply took within so many seconds from now; to sort them here would hold
        up what is measured next."""
        self.forget()
        await asyncio.sleep(seconds)
        return [each for client in self._clients for each in client.times]

    def forget(self) -> None:
        for client in self._clients:
            client.times.clear()

    async def until_served(self) -> None:
        """Return once each client has had a good reply, from now on."""
        self.forget()
        async with asyncio.timeout(PATIENCE):
            while not all(client.times for client in self._clients):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def errors(self) -> Counter[str]:
        return sum((client.errors for client in self._clients), Counter())

    def leave(self) -> None:
        for client in self._clients:
            client.close()


def _latencies(times: list[float]) -> Latencies:
    return Latencies(*(percentile(times, share) for share in (0.5, 0.99, 1)))


def _median(rounds: list[Latencies]) -> Latencies:
    return Latencies(*map(statistics.median, zip(*rounds, strict=True)))


def _shown(latencies: Latencies) -> list[str]:
    return [f"{each:.2f}" for each in latencies]


# A Redis that is stopped

STOPPED_CONFIG: Final = """
[backends.well]
type = "redis"
url = "redis://127.0.0.1:{well}"
[backends.ill]
type = "redis"
url = "redis://127.0.0.1:{ill}"
[[routes]]
prefix = ""
backend = "well"
[[routes]]
prefix = "ill:"
backend = "ill"
"""


def stopped(options: argparse.Namespace) -> Table:
    with ExitStack() as stack:
        well, ill = (stack.enter_context(RedisServer()) for _ in range(2))
        config = STOPPED_CONFIG.format(well=well.port, ill=ill.port)
        server = stack.enter_context(Redtier(options.tree, config))
        return uvloop.run(_stopped(options, server, ill))


async def _stopped(options: argparse.Namespace, server: Redtier, ill: RedisServer) -> Table:
    others, patients = await Crowd.at(server.port), await Crowd.at(server.port, b"ill:")
    at_rest: list[list[float]] = []  # ms
    at_stop: list[list[float]] = []
    growths: list[float] = []  # MB
    returns: list[float] = []  # seconds
    await others.over(3)  # and all is warm
    for _ in range(options.rounds):
        at_rest.append(await others.over(options.seconds))
        before = resident(server.pid)
        os.kill(ill.pid, signal.SIGSTOP)
        try:
            at_stop.append(await others.over(options.seconds))
            growths.append((resident(server.pid) - before) / MB)
        finally:
            os.kill(ill.pid, signal.SIGCONT)
        began = time.monotonic()
        await patients.until_served()
        returns.append(time.monotonic() - began)
    told, lost = patients.errors(), others.errors()
    others.leave()
    patients.leave()
    rest, during = ([_latencies(times) for times in rounds] for rounds in (at_rest, at_stop))
    ratio = statistics.median(ill.p99 / well.p99 for well, ill in zip(rest, during, strict=True))
    rows = [
        ["at rest", *_shown(_median(rest)), "", ""],
        [f"{options.seconds:.0f} s stopped", *_shown(_median(during)), f"{ratio:.2f}", f"{max(growths):.1f}"],
        ["bar", "", "", "", f"≤ {RATIO_MAX}", f"< {GROWTH_MAX}"],
    ]
    print(f"the others were told {dict(told)}, and served again after {max(returns):.2f} s at most")
    missed = [f"{sum(lost.values())} errors of the other Redis: {dict(lost)}"] if lost else []
    if ratio > RATIO_MAX:
        missed.append(f"the others' p99 is {ratio:.2f} times that at rest")
    if max(growths) >= GROWTH_MAX:
        missed.append(f"memory has grown by {max(growths):.1f} MB")
    return Table(["p50 ms", "p99 ms", "longest ms", "p99 ratio", "MB more"], rows, missed)


# Large replies

LARGE_CONFIG: Final = """
[backends.main]
type = "redis"
url = "redis://127.0.0.1:{port}"
lanes = {lanes}
[[routes]]
prefix = ""
backend = "main"
"""


def large(options: argparse.Namespace) -> Table:
    with ExitStack() as stack:
        upstream = stack.enter_context(RedisServer())
        one, two = (
            stack.enter_context(Redtier(options.tree, LARGE_CONFIG.format(port=upstream.port, lanes=lanes)))
            for lanes in (1, 2)
        )
        with upstream.client() as client:
            client.set("large", b"v" * LARGE)
            client.mset({f"key:{number}": "v" * 100 for number in range(CLIENTS)})
        return uvloop.run(_large(options, upstream, one, two))


async def _large(options: argparse.Namespace, upstream: RedisServer, one: Redtier, two: Redtier) -> Table:
    seconds = options.seconds / 6
    cases: dict[str, tuple[int, bool]] = {  # the port, and whether there are large ones
        "directly, alone": (upstream.port, False),
        "directly": (upstream.port, True),
        "redtier, alone": (two.port, False),
        "redtier, one lane": (one.port, True),
        "redtier, two lanes": (two.port, True),
    }
    taken: dict[str, list[Latencies]] = {name: [] for name in cases}
    rates: dict[str, list[float]] = {name: [] for name in cases}
    with upstream.client() as client:
        for _ in range(options.rounds):
            for name, (port, large) in cases.items():
                with _reading(port) if large else nullcontext():
                    crowd = await Crowd.at(port, reads=True)
                    await crowd.over(1)
                    before = client.info("stats")["total_net_output_bytes"]
                    times = await crowd.over(seconds)
                    sent = client.info("stats")["total_net_output_bytes"] - before
                    rates[name].append(sent / LARGE / seconds)
                    crowd.leave()
                    taken[name].append(_latencies(times))
    rows = [
        [name, f"{statistics.median(rates[name]):.1f}", *_shown(_median(each))]
        for name, each in taken.items()
    ]
    return Table(["50 MB/s", "p50 ms", "p99 ms", "longest ms"], rows, [])


@contextmanager
def _reading(port: int) -> Iterator[None]:
    """With a process that reads large values."""
    # One that is forgotten ends all the same.
    command = ["timeout", "600", sys.executable, "-c", READER, str(port), str(LARGE)]
    with subprocess.Popen(command) as process:
        try:
            yield
            if process.poll() is not None:
                raise RuntimeError("the client that reads large values has ended")
        finally:
            process.terminate()


SECTIONS: Final = {section.__name__: section for section in (stopped, large)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.hang", description="a Redis in trouble, and the others")
    sections = ",".join(SECTIONS)
    parser.add_argument("--only", type=some_of(SECTIONS), default=sections, help="default: %(default)s")
    parser.add_argument(
        "--tree", choices=built_trees(), default=built_trees()[0], help="default: %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables there too")
    options = parser.parse_args()
    tables, missed = [], []
    for name in options.only:
        table = SECTIONS[name](options)
        tables.append(markdown(f"{name}, {options.tree}", ["", *table.head], table.rows))
        missed += table.missed
        print(tables[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(tables))
    if missed:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
