"""What else redtier promises: nobody holds up the others, a quick start, bounded memory.

    python -m bench.stalls [--only neighbours,start,memory,longest,saving] [--tree compiled|plain]
        [--markdown FILE]

- neighbours: the latency of small GETs in memory from ten clients while two others write and read values
  of 8 MB on a cold route; beside redis-server's, while it is given the same;
- start: from the start of the process, on the built-in routes, to the answer to a PING;
- memory: what the process holds, with a memory backend of 256 MB, when 1 GB of values of 100 bytes to
  1 KB has been written;
- longest: the longest that a PING waits while two million small keys are written, while FLUSHALL takes
  them down, and while two million push each other out; beside redis-server's.  On a busy machine much of
  that is the wait for a CPU;
- saving: the latency of GETs from ten clients at rest, and while the snapshot of a million keys is written
  again and again (BGSAVE); beside redis-server's, whose child process has a CPU of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import redis

from bench.measure import fill, markdown, redis_benchmark, resident, some_of
from bench.servers import Redtier, built_trees
from tests.servers import PostgresServer, RedisServer, RedtierServer, Server, free_port

MB: Final = 1 << 20
ROUNDS: Final = 3


class Table(NamedTuple):
    head: list[str]
    rows: list[list[str]]


def memory_config(max_bytes: str) -> str:
    return f"""[backends.hot]
type = "memory"
max_bytes = "{max_bytes}"
[[routes]]
prefix = ""
backend = "hot"
"""


def cold_route(prefix: str, options: str) -> str:
    return f"""[backends.{prefix}]
{options}
[[routes]]
prefix = "{prefix}:"
backend = "{prefix}"
cache = false
"""


def neighbours(tree: str) -> Table:
    with RedisServer() as redis_server, PostgresServer() as postgres:
        cold = {
            "sqlite": 'type = "sqlite"\npath = "large.db"',
            "postgres": f'type = "postgres"\nurl = "{postgres.url}"',
        }
        routes = "".join(cold_route(*item) for item in cold.items())
        with Redtier(tree, memory_config("256mb") + routes) as redtier:
            places: dict[str, tuple[Server, str]] = {"redis-server": (redis_server, "large:")}
            places |= {f"redtier, {prefix}": (redtier, f"{prefix}:") for prefix in cold}
            for port in (redis_server.port, redtier.port):
                fill(port, 1000)
            taken: dict[str, list[Beside]] = {name: [] for name in places}
            for _ in range(ROUNDS):
                for name, (server, prefix) in places.items():
                    taken[name].append(_gets_beside_large(server.port, prefix))
    medians = {name: Beside(*map(statistics.median, zip(*each, strict=True))) for name, each in taken.items()}
    base = medians["redis-server"].p99
    rows = [
        [name, *(f"{figure:.2f}" for figure in median), f"{median.p99 / base:.2f}", "≤ 3"]
        for name, median in medians.items()
    ]
    rows[0][-1] = ""
    return Table(["8 MB/s", "GET p50 ms", "p99 ms", "longest ms", "p99 ratio", "bar"], rows)


class Beside(NamedTuple):
    large: float  # values written or read, a second
    p50: float
    p99: float
    longest: float  # ms


def _gets_beside_large(port: int, prefix: str) -> Beside:
    value = os.urandom(2 * MB) + os.urandom(3 * MB).hex().encode()  # some of it can be compressed
    stop, counts = threading.Event(), [0, 0]

    def load(number: int) -> None:
        key = f"{prefix}{number}"
        with redis.Redis(port=port) as client:
            while not stop.is_set():
                client.set(key, value)
                assert client.get(key) == value
                counts[number] += 2

    with ThreadPoolExecutor(len(counts)) as pool:
        loads = [pool.submit(load, number) for number in range(len(counts))]
        began = time.perf_counter()
        try:
            found = redis_benchmark(port, *["-t", "get", "-c", "10", "-r", "1000", "-n", "100000"])
        finally:
            stop.set()
        elapsed = time.perf_counter() - began
        for each in loads:
            each.result()
    latencies = (found[f"{name}_latency_ms"] for name in ("p50", "p99", "max"))
    return Beside(sum(counts) / elapsed, *latencies)


class Starting(Redtier):
    """Ready with the first PING that is answered."""

    ready = RedtierServer.ready


def start(tree: str) -> Table:
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        with Starting(tree, f'[http]\nlisten = "127.0.0.1:{free_port()}"\n'):
            taken.append(time.perf_counter() - began)
    row = [f"redtier, {len(taken)} starts", f"{statistics.median(taken):.2f}", f"{max(taken):.2f}", "≤ 1"]
    return Table(["median s", "longest s", "bar"], [row])


def memory(tree: str) -> Table:
    with Redtier(tree, memory_config("256mb")) as redtier:
        before = resident(redtier.pid)
        _write(redtier.port, total=1 << 30)
        kept, peak = resident(redtier.pid), resident(redtier.pid, "VmHWM")
        with redtier.client() as client:
            keys = client.dbsize()
    row = [
        "redtier, 1 GB written into 256 MB",
        f"{keys:,}",
        *(f"{size / MB:.0f}" for size in (before, kept, peak)),
    ]
    return Table(["keys kept", "MB at start", "MB in the end", "MB at most", "bar"], [[*row, "≤ 450"]])


def _write(port: int, total: int) -> None:
    """Write so many bytes of values of 100 bytes to 1 KB, each under a key of its own."""
    source, written, number = os.urandom(MB), 0, 0
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        while written < total:
            batch = []
            for _ in range(500):
                size, place = random.randint(100, 1024), random.randrange(MB - 1024)
                value = source[place : place + size]
                batch.append(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$%d\r\n%b\r\n" % (number, size, value))
                number, written = number + 1, written + size
            connection.sendall(b"".join(batch))
            _expect(connection, b"+OK\r\n" * len(batch))


def _expect(connection: socket.socket, reply: bytes) -> None:
    found = b""
    while len(found) < len(reply):
        part = connection.recv(len(reply) - len(found))
        assert part, "the server has closed the connection"
        found += part
    assert found == reply, found[:200]


def longest(tree: str) -> Table:
    with RedisServer() as redis_server, Redtier(tree, memory_config("2gb")) as redtier:
        roomy = [_while_it_grows(server) for server in (redis_server, redtier)]
    full = RedisServer("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    with full, Redtier(tree, memory_config("64mb")) as redtier:
        crowded = [_longest_wait(server.port, _writes(server)) for server in (full, redtier)]
    rows = [
        [name, *(f"{wait:.1f}" for wait in (*waits, evicting))]
        for name, waits, evicting in zip(("redis-server", "redtier"), roomy, crowded, strict=True)
    ]
    return Table(["growing, ms", "FLUSHALL, ms", "evicting, ms"], rows)


def _while_it_grows(server: Server) -> tuple[float, float]:
    growing = _longest_wait(server.port, _writes(server))

    def flush() -> None:
        with redis.Redis(port=server.port) as client:
            client.flushall()
            # What is gone for all to see may still be taken down.
            time.sleep(3)

    return growing, _longest_wait(server.port, flush)


def _writes(server: Server) -> Callable[[], object]:
    options = "-t set -c 4 -P 16 -d 10 -n 2000000 -r 1000000000"
    return lambda: redis_benchmark(server.port, *options.split())


def _longest_wait(port: int, work: Callable[[], object]) -> float:
    """The longest that a PING waited for its answer while the work was done, in milliseconds."""
    wait = 0.0
    with ThreadPoolExecutor(1) as pool, socket.create_connection(("127.0.0.1", port), timeout=60) as prober:
        done = pool.submit(work)
        while not done.done():
            began = time.perf_counter()
            prober.sendall(b"PING\r\n")
            _expect(prober, b"+PONG\r\n")
            wait = max(wait, time.perf_counter() - began)
            time.sleep(0.0005)
        done.result()
    return 1000 * wait


def saving(tree: str) -> Table:
    keys = 1_000_000
    config = memory_config("2gb").replace("max_bytes", 'snapshot = "hot.snapshot"\nmax_bytes')
    rows = []
    with RedisServer() as redis_server, Redtier(tree, config) as redtier:
        for name, server in (("redis-server", redis_server), ("redtier", redtier)):
            fill(server.port, keys)
            rest: list[Beside] = []
            busy: list[Beside] = []
            took: list[float] = []
            for _ in range(ROUNDS):
                rest.append(_gets(server.port))
                with _saving(server, took):
                    busy.append(_gets(server.port))
            before, during = (statistics.median(each.p99 for each in taken) for taken in (rest, busy))
            figures = [before, during, max(each.longest for each in busy), statistics.median(took)]
            rows.append([name, *(f"{figure:.2f}" for figure in figures), f"{during / before:.2f}"])
    head = ["p99 at rest, ms", "p99 while saving, ms", "longest, ms", "a snapshot, s", "p99 ratio"]
    return Table(head, rows)


def _gets(port: int) -> Beside:
    found = redis_benchmark(port, *["-t", "get", "-c", "10", "-r", "1000000", "-n", "100000"])
    return Beside(0, *(found[f"{name}_latency_ms"] for name in ("p50", "p99", "max")))


@contextmanager
def _saving(server: Server, took: list[float]) -> Iterator[None]:
    """With snapshots written one after the other; how long each took is added to ``took``."""
    stop = threading.Event()

    def save() -> None:
        with redis.Redis(port=server.port) as client:
            while not stop.is_set():
                began = time.perf_counter()
                client.bgsave()
                while client.info("persistence")["rdb_bgsave_in_progress"]:
                    time.sleep(0.02)
                took.append(time.perf_counter() - began)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(save)
        try:
            yield
        finally:
            stop.set()
        done.result()


SECTIONS: Final = {section.__name__: section for section in (neighbours, start, memory, longest, saving)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.stalls", description="what redtier promises but for speed")
    sections = ",".join(SECTIONS)
    parser.add_argument("--only", type=some_of(SECTIONS), default=sections, help="default: %(default)s")
    parser.add_argument(
        "--tree", choices=built_trees(), default=built_trees()[0], help="default: %(default)s"
    )
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables there too")
    options = parser.parse_args()
    tables = []
    for name in options.only:
        table = SECTIONS[name](options.tree)
        tables.append(markdown(f"{name}, {options.tree}", ["", *table.head], table.rows))
        print(tables[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(tables))


if __name__ == "__main__":
    main()
