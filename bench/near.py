"""The near cache of a Redis route: what a cached GET costs, and what readers see while others write.

    python -m bench.near [--only cost,coherence] [--tree compiled|plain] [--rounds N] [--seconds N]
                         [--markdown FILE]

- cost: CPU time of the server per GET at -P 16, of 1,000 keys that are all cached, beside the same from a
  memory route of the same server; medians of alternating rounds;
- coherence: 20 writers count up keys of their own at the Redis itself, 20 readers read them through redtier,
  and the connections to the Redis are cut at random all the while.  Reported are reads that gave less than
  their reader had seen before, which must be none, and for how long a value was still read after a newer one
  was there.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple

import redis

from bench.measure import CLIENTS, Figures, markdown, observe, percentile, redis_benchmark, some_of
from bench.servers import Redtier, built_trees
from tests.faultproxy import FaultProxy
from tests.servers import RedisServer, wait_until

CONFIG: Final = """
[backends.main]
type = "redis"
url = "redis://127.0.0.1:{port}"
[backends.hot]
type = "memory"
[[routes]]
prefix = "hot:"
backend = "hot"
[[routes]]
prefix = ""
backend = "main"
cache = true
"""
KEYS: Final = 1000
WRITERS: Final = 20
READERS: Final = 20


class Table(NamedTuple):
    head: list[str]
    rows: list[list[str]]


def near(client: redis.Redis) -> dict[str, int]:
    figures: dict[str, int] = client.info("tiers")["near_cache"]
    return figures


def cost(options: argparse.Namespace) -> Table:
    requests = 200_000
    taken: dict[str, list[Figures]] = {"hot:": [], "": []}
    with ExitStack() as stack:
        upstream = stack.enter_context(RedisServer())
        server = stack.enter_context(Redtier(options.tree, CONFIG.format(port=upstream.port)))
        load = f"-P 16 -c {CLIENTS} -n {requests} -r {KEYS}".split()

        def get(prefix: str) -> Figures:
            words = [*load, "GET", f"{prefix}key:__rand_int__"]
            return observe(server.pid, requests, lambda: redis_benchmark(server.port, *words))

        with server.client() as client:
            for prefix in taken:
                client.mset({f"{prefix}key:{number:012}": "v" * 100 for number in range(KEYS)})
            get("")  # after it all are cached
            for _ in range(options.rounds):
                for prefix, figures in taken.items():
                    before = near(client)["hits"]
                    figures.append(get(prefix))
                    hits = near(client)["hits"] - before
                    assert hits == (0 if prefix else requests), f"{hits} of {requests} were cached"
    hot, cached = (Figures(*map(statistics.median, zip(*figures, strict=True))) for figures in taken.values())
    rows = [
        ["GET of memory", f"{hot.rate:,.0f}", f"{hot.cpu:.2f}", "1.00", ""],
        [
            "GET that is cached",
            f"{cached.rate:,.0f}",
            f"{cached.cpu:.2f}",
            f"{cached.cpu / hot.cpu:.2f}",
            "≤ 1.2",
        ],
    ]
    return Table(["operations/s", "CPU µs each", "ratio", "bar"], rows)


class Counter:
    """A key that its writer counts up; when it had which value."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.written: list[float] = [0.0]  # by value: when that was acknowledged


def coherence(options: argparse.Namespace) -> Table:
    counters = [Counter(f"counter:{number}") for number in range(WRITERS)]
    ended = threading.Event()
    older: list[str] = []
    stale: list[float] = []  # ms
    reads = [0] * READERS

    with ExitStack() as stack:
        upstream = stack.enter_context(RedisServer())
        relay = stack.enter_context(FaultProxy(upstream.port))
        server = stack.enter_context(Redtier(options.tree, CONFIG.format(port=relay.port)))

        def write(counter: Counter) -> None:
            with upstream.client() as client:
                while not ended.is_set():
                    client.incr(counter.name)
                    counter.written.append(time.monotonic())
                    time.sleep(random.uniform(0, 0.02))

        def read(number: int) -> None:
            newest = dict.fromkeys(counters, 0)
            with server.client() as client:
                while not ended.is_set():
                    counter = random.choice(counters)
                    there, began = len(counter.written) - 1, time.monotonic()
                    try:
                        value = int(client.get(counter.name) or 0)
                    except redis.RedisError:
                        continue
                    reads[number] += 1
                    if value < newest[counter]:
                        older.append(f"{counter.name}: {value} after {newest[counter]}")
                    newest[counter] = value
                    if value < there:  # the next one had been written before this read began
                        stale.append(1000 * (began - counter.written[value + 1]))

        threads = [threading.Thread(target=write, args=(counter,)) for counter in counters]
        threads += [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
        with server.client() as client:
            before = near(client)
            for thread in threads:
                thread.start()
            cuts, until = 0, time.monotonic() + options.seconds
            while time.monotonic() < until:
                time.sleep(random.uniform(0.2, 2))
                relay.cut()
                cuts += 1
            ended.set()
            for thread in threads:
                thread.join(20)
            after = near(client)

            def settled() -> bool:
                with suppress(redis.RedisError):
                    return all(int(client.get(each.name) or 0) == len(each.written) - 1 for each in counters)
                return False

            wait_until(settled)
    hits = after["hits"] - before["hits"]
    rows = [
        ["seconds, times all connections were cut", f"{options.seconds}, {cuts}", ""],
        ["writes at the Redis itself", f"{sum(len(each.written) - 1 for each in counters):,}", ""],
        ["reads through redtier", f"{sum(reads):,}", ""],
        ["of these from the near cache", f"{hits:,}", ""],
        ["older than what their reader had seen", f"{len(older)}", "0"],
        ["of a value that had been replaced", f"{len(stale):,}", ""],
        [
            "ms since it had been, p99 and most",
            f"{percentile(stale or [0], 0.99):.1f}, {max(stale, default=0):.1f}",
            "",
        ],
    ]
    return Table(["", "bar"], rows)


SECTIONS: Final = {section.__name__: section for section in (cost, coherence)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.near", description="the near cache of a Redis route")
    sections = ",".join(SECTIONS)
    parser.add_argument("--only", type=some_of(SECTIONS), default=sections, help="default: %(default)s")
    parser.add_argument(
        "--tree", choices=built_trees(), default=built_trees()[0], help="default: %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables there too")
    options = parser.parse_args()
    tables = []
    for name in options.only:
        table = SECTIONS[name](options)
        tables.append(markdown(f"{name}, {options.tree}", ["", *table.head], table.rows))
        print(tables[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(tables))


if __name__ == "__main__":
    main()
