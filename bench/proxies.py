"""Several proxies on one store: whether they keep their promises, and what it costs to tell each other.

    python -m bench.proxies [--only postgres,s3,notify,delay] [--tree compiled|plain] [--seconds 60]
                            [--rounds N] [--markdown FILE]

- postgres, s3: three proxies and 60 clients on 1,000 keys, with INCR, RPUSH, LPOP, MULTI and WATCH, while
  proxies are killed by SIGKILL and started again, and connections are cut (see ``tests.proxies``).  Ends with
  1 where a promise was broken;
- notify: SET on Postgres with and without notifications, and with two more proxies that listen; CPU times of
  the proxy and of Postgres for each; medians of alternating rounds;
- delay: for how long a proxy still reads what has been replaced through another one.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from bench.measure import CLIENTS, KEYS, cpu_seconds, markdown, percentile, redis_benchmark, some_of
from bench.servers import Redtier, built_trees, make_bucket, s3_backend
from tests.homes import toml
from tests.proxies import MakeServer, Proxies, Report, ordeal
from tests.servers import MotoServer, PostgresServer, wait_until

REQUESTS: Final = {1: 10_000, 16: 50_000}  # by the depth of the pipeline
CHANGES: Final = 500


class Table(NamedTuple):
    head: list[str]
    rows: list[list[str]]


def on_postgres(tree: str, url: str, **options: object) -> Redtier:
    return Redtier(tree, toml({"backends.store": {"type": "postgres", "url": url, **options}}, {"": "store"}))


def postgres(options: argparse.Namespace) -> Table:
    def make(address: str) -> Redtier:
        return on_postgres(options.tree, f"postgresql://postgres@{address}/postgres")

    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer())
        return _tried(options, stack, make, server.port, pause=0.5, atomic=True)


def s3(options: argparse.Namespace) -> Table:
    with ExitStack() as stack:
        server = stack.enter_context(MotoServer())
        make_bucket(server)

        def make(address: str) -> Redtier:
            backend = s3_backend(server).replace(server.url, f"http://{address}")
            route = '[[routes]]\nprefix = ""\nbackend = "store"\n'
            return Redtier(options.tree, f"[backends.store]\n{backend}{route}")

        return _tried(options, stack, make, server.port, pause=3, atomic=False)


def _tried(
    options: argparse.Namespace, stack: ExitStack, make: MakeServer, store: int, *, pause: float, atomic: bool
) -> Table:
    proxies = Proxies(stack, make, store)
    report = asyncio.run(ordeal(proxies, options.seconds, clients=60, keys=1000, pause=pause, atomic=atomic))
    for line in report.broken[:20]:
        print(line, file=sys.stderr)
    options.broken += len(report.broken)
    return Table(["", "bar"], _rows(report))


def _rows(report: Report) -> list[list[str]]:
    return [
        ["seconds", f"{report.seconds:.0f}", ""],
        ["proxies killed, connections cut (times)", f"{report.kills}, {report.cuts}", ""],
        *([f"{what}, acknowledged", f"{count:,}", ""] for what, count in sorted(report.acknowledged.items())),
        ["writes whose fate is not known", f"{report.unknown:,}", ""],
        *([f"refused with {code}", f"{count:,}", ""] for code, count in sorted(report.refused.items())),
        ["reads", f"{report.reads:,}", ""],
        ["promises broken", f"{len(report.broken)}", "0"],
    ]


class Round(NamedTuple):
    rate: float  # a second
    proxy: float  # CPU time for one, in microseconds
    postgres: float


def notify(options: argparse.Namespace) -> Table:
    rows = []
    with ExitStack() as stack:
        database = stack.enter_context(PostgresServer())

        def proxy(table: str, **more: object) -> Redtier:
            return stack.enter_context(on_postgres(options.tree, database.url, table=table, **more))

        shared = [proxy("shared") for _ in range(3)]
        servers = {
            "not told": proxy("untold", notify=False),
            "told": proxy("told"),
            "told, two more listen": shared[0],
        }
        for pipeline, requests in REQUESTS.items():
            words = f"-t set -c {CLIENTS} -P {pipeline} -n {requests} -r {KEYS} -d 100".split()
            taken: dict[str, list[Round]] = {title: [] for title in servers}
            for _ in range(options.rounds):
                for title, server in servers.items():
                    pids = [server.pid, database.pid]
                    before, began = [cpu_seconds(pid) for pid in pids], time.perf_counter()
                    redis_benchmark(server.port, *words)
                    elapsed = time.perf_counter() - began
                    used = [cpu_seconds(pid) - was for pid, was in zip(pids, before, strict=True)]
                    taken[title].append(Round(requests / elapsed, *(1e6 * each / requests for each in used)))
            base = 0.0
            for title, figures in taken.items():
                middle = Round(*map(statistics.median, zip(*figures, strict=True)))
                base = base or middle.rate
                rows.append(
                    [
                        f"SET -P {pipeline}, {title}",
                        f"{middle.rate:,.0f}",
                        f"{middle.rate / base:.2f}",
                        f"{middle.proxy:.1f}",
                        f"{middle.postgres:.1f}",
                    ]
                )
    return Table(["operations/s", "ratio", "proxy µs each", "Postgres µs each"], rows)


def delay(options: argparse.Namespace) -> Table:
    delays: list[float] = []  # ms
    with ExitStack() as stack:
        database = stack.enter_context(PostgresServer())
        one, two = (stack.enter_context(on_postgres(options.tree, database.url)) for _ in range(2))
        writer, reader = (stack.enter_context(server.client()) for server in (one, two))
        wait_until(lambda: reader.info("tiers")["tier0"]["listening"] == 1)
        for number in range(CHANGES):
            reader.get("k")
            writer.set("k", number)
            began = time.perf_counter()
            while reader.get("k") != b"%d" % number:
                pass
            delays.append(1000 * (time.perf_counter() - began))
    figures = [f"{percentile(delays, share):.2f}" for share in (0.5, 0.99)]
    return Table(["p50", "p99", "most"], [["ms", *figures, f"{max(delays):.2f}"]])


SECTIONS: Final = {section.__name__: section for section in (postgres, s3, notify, delay)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.proxies", description="several proxies on one store")
    sections = ",".join(SECTIONS)
    parser.add_argument("--only", type=some_of(SECTIONS), default=sections, help="default: %(default)s")
    parser.add_argument(
        "--tree", choices=built_trees(), default=built_trees()[0], help="default: %(default)s"
    )
    parser.add_argument("--seconds", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables there too")
    parser.set_defaults(broken=0)
    options = parser.parse_args()
    tables = []
    for name in options.only if isinstance(options.only, list) else SECTIONS:
        table = SECTIONS[name](options)
        tables.append(markdown(f"{name}, {options.tree}", ["", *table.head], table.rows))
        print(tables[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(tables))
    sys.exit(options.broken != 0)


if __name__ == "__main__":
    main()
