"""redtier beside others, under the same load, in alternation.

    python -m bench.versus [--only memory,redis,cluster,postgres,s3] [--trees compiled,plain] [--rounds N]
                           [--requests N] [--markdown FILE]

GET and SET from 50 clients, values of 100 bytes, 100,000 keys (S3: 500), near caches off:

- memory: a memory route beside redis-server;
- redis: a redis route beside Envoy and twemproxy, all before the same redis-server, of whose own CPU
  time nothing is counted;
- cluster: a redis route beside Envoy with ``enable_redirection``, both before a Redis Cluster of three
  primaries;
- postgres: a cold route beside pgbench, which runs the store's statements for one row, on a table that
  redtier has made and filled;
- s3: a cold route beside aiobotocore called directly, both on moto.

Each figure is the median of its rounds, which are many and short: where the kernel puts client, proxy and
server on few cores changes a figure by half, for a while each time.  A ratio compares CPU time per operation
(postgres: operations a second) with the best of the others; the bar is what redtier promises of it.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from bench.measure import CLIENTS, KEYS, VALUE_SIZE, Figures, drive, fill, markdown, some_of
from bench.servers import (
    BUCKET,
    Envoy,
    EnvoyOnCluster,
    RedisProxy,
    Redtier,
    Twemproxy,
    built_trees,
    make_bucket,
    s3_backend,
)
from tests.clusters import Cluster
from tests.servers import ROOT, MotoServer, PostgresServer, RedisServer, Server

Measure = Callable[[], Figures]

COMMANDS: Final = ("SET", "GET")  # in this order: what is read was written


@dataclass
class Case:
    """One load, and who bears it."""

    load: str
    others: dict[str, Measure]
    ours: dict[str, Measure]
    bars: Mapping[str, float]  # by tree
    faster: bool = False  # compare operations a second, of which more is better; else CPU time
    taken: dict[str, list[Figures]] = field(default_factory=dict)

    def play(self) -> None:
        for name, measure in {**self.others, **self.ours}.items():
            self.taken.setdefault(name, []).append(measure())

    def rows(self) -> list[list[str]]:
        medians = {
            name: Figures(*map(statistics.median, zip(*figures, strict=True)))
            for name, figures in self.taken.items()
        }
        best = (max if self.faster else min)(self._compared(medians[name]) for name in self.others)
        rows = []
        for name, median in medians.items():
            ratio, bar = self._compared(median) / best, self.bars.get(name.removeprefix("redtier "))
            rows.append(
                [
                    f"{self.load}, {name}",
                    f"{median.rate:,.0f}",
                    f"{median.cpu:.1f}" if median.cpu else "",
                    f"{ratio:.2f}",
                    "" if bar is None else f"{'≥' if self.faster else '≤'} {bar}",
                ]
            )
        return rows

    def _compared(self, figures: Figures) -> float:
        return figures.rate if self.faster else figures.cpu


@dataclass
class Arena:
    """What a section has to set itself up with."""

    stack: ExitStack
    trees: list[str]
    requests: int

    def redtiers(self, backend: str, *routed: str) -> dict[str, Server]:
        """redtier from each tree, all keys on ``backend``, TOML, with the route's options ``routed``."""
        config = "\n".join(
            ["[backends.it]", backend, "[[routes]]", 'prefix = ""', 'backend = "it"', *routed, ""]
        )
        return {f"redtier {tree}": self.stack.enter_context(Redtier(tree, config)) for tree in self.trees}


def memory(arena: Arena) -> list[Case]:
    others: dict[str, Server] = {"redis-server": arena.stack.enter_context(RedisServer())}
    ours = arena.redtiers('type = "memory"')
    for server in [*others.values(), *ours.values()]:
        fill(server.port)
    bars = {1: {"compiled": 1.2}, 16: {"compiled": 2.0, "plain": 2.6}}
    return _side_by_side(arena, others, ours, bars)


def redis(arena: Arena) -> list[Case]:
    upstream = arena.stack.enter_context(RedisServer())
    fill(upstream.port)
    proxies: dict[str, type[RedisProxy]] = {"Envoy": Envoy, "twemproxy": Twemproxy}
    others: dict[str, Server] = {}
    for name, proxy in proxies.items():
        if proxy.found():
            others[name] = arena.stack.enter_context(proxy(upstream))
        else:
            print(f"{name} is left out: no {proxy.program} here", file=sys.stderr)
    ours = arena.redtiers(f'type = "redis"\nurl = "{upstream.url}"')
    return _side_by_side(arena, others, ours, {1: {"compiled": 1.0}, 16: {"compiled": 0.6}})


def cluster(arena: Arena) -> list[Case]:
    nodes = arena.stack.enter_context(Cluster(3, False))
    ours = arena.redtiers(f'type = "redis"\nurl = "{nodes.url}"')
    fill(next(iter(ours.values())).port)
    if not EnvoyOnCluster.found():
        raise SystemExit("cluster: no envoy here to compare with")
    others: dict[str, Server] = {"Envoy": arena.stack.enter_context(EnvoyOnCluster(nodes.primaries[0]))}
    return _side_by_side(arena, others, ours, {1: {"compiled": 0.8}, 16: {"compiled": 0.8}})


def _side_by_side(
    arena: Arena,
    others: Mapping[str, Server],
    ours: Mapping[str, Server],
    bars: Mapping[int, Mapping[str, float]],
) -> list[Case]:
    return [
        Case(
            f"{command} -P {pipeline}",
            _driven(others, command, pipeline, arena.requests * factor),
            _driven(ours, command, pipeline, arena.requests * factor),
            bars[pipeline],
        )
        for pipeline, factor in ((1, 1), (16, 4))
        for command in COMMANDS
    ]


def _driven(
    servers: Mapping[str, Server], command: str, pipeline: int, requests: int, keys: int = KEYS
) -> dict[str, Measure]:
    return {
        name: partial(drive, server.pid, server.port, command, pipeline, requests, keys)
        for name, server in servers.items()
    }


# pgbench's variables are numbers, so the statements make the keys of them.
_PGBENCH_KEY: Final = "('key:' || lpad(:id, 12, '0'))::bytea"
PGBENCH: Final = {
    "GET": f"""\\set id random(0, {KEYS - 1})
select key, write_id, value, kind, expire_at, raw_size from pgbench
where db = 0 and key = {_PGBENCH_KEY};
""",
    "SET": f"""\\set id random(0, {KEYS - 1})
\\set write_id random(1, 1 << 62)
insert into pgbench (db, key, kind, write_id, expire_at, raw_size, value)
values (0, {_PGBENCH_KEY}, 1, :write_id, 0, {VALUE_SIZE}, '\\x{"5a" * (VALUE_SIZE + 38)}')
on conflict (db, key) do update set kind = excluded.kind, write_id = excluded.write_id,
expire_at = excluded.expire_at, raw_size = excluded.raw_size, value = excluded.value;
""",
}


def postgres(arena: Arena) -> list[Case]:
    server = arena.stack.enter_context(PostgresServer())

    def backend(table: str) -> str:
        return f'type = "postgres"\nurl = "{server.url}"\ntable = "{table}"\n'

    with ExitStack() as briefly:
        for beside in Arena(briefly, arena.trees[:1], 0).redtiers(backend("pgbench")).values():
            fill(beside.port)
    ours = arena.redtiers(backend("redtier"), "cache = false")
    fill(next(iter(ours.values())).port)
    _run([_beside(server, "psql"), "-qc", "vacuum analyze", server.url])
    for command, script in PGBENCH.items():
        (server.directory / command).write_text(script)

    cases = []
    # A commit waits for the disk: fewer of them take as long.
    for command, share in (("SET", 0.25), ("GET", 1)):
        for pipeline, bar in ((1, 0.8), (16, {"SET": 1.3, "GET": 2.5}[command])):
            requests = round(arena.requests * share)
            others: dict[str, Measure] = {"pgbench": partial(_pgbench, server, command, requests // 2)}
            measures = _driven(ours, command, pipeline, requests)
            cases.append(Case(f"{command} -P {pipeline}", others, measures, {"compiled": bar}, faster=True))
    return cases


def _pgbench(server: PostgresServer, command: str, transactions: int) -> Figures:
    options = f"-n -M prepared -c {CLIENTS} -j 2 -t {transactions // CLIENTS} -f {server.directory / command}"
    printed = _run([_beside(server, "pgbench"), *options.split(), server.url])
    found = re.search(r"^tps = ([0-9.]+)", printed, re.MULTILINE)
    assert found is not None, printed
    return Figures(float(found[1]), 0)


def _beside(server: PostgresServer, program: str) -> str:
    """A client program of the server's own version."""
    return str(Path(server.command()[0]).with_name(program))


def s3(arena: Arena) -> list[Case]:
    moto = arena.stack.enter_context(MotoServer())
    make_bucket(moto)
    ours = arena.redtiers(s3_backend(moto), "cache = false")
    keys = 500
    fill(next(iter(ours.values())).port, keys, at_once=50)
    requests = max(keys, arena.requests // 40)
    cases = []
    for command in COMMANDS:
        others: dict[str, Measure] = {"aiobotocore": partial(_s3_direct, moto, command, requests, keys)}
        cases.append(
            Case(f"{command} -P 1", others, _driven(ours, command, 1, requests, keys), {"compiled": 1.2})
        )
    return cases


def _s3_direct(moto: MotoServer, command: str, requests: int, keys: int) -> Figures:
    where = [moto.url, moto.access_key, moto.secret_key, moto.region, BUCKET]
    program = [sys.executable, "-P", "-m", "bench.s3_direct"]
    seconds, cpu = map(float, _run([*program, *where, command, str(requests), str(keys)]).split())
    return Figures(requests / seconds, cpu / requests * 1e6)


def _run(command: list[str]) -> str:
    """What a program prints; raises RuntimeError with all of it if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    if run.returncode:
        raise RuntimeError(f"{command[0]} ended with {run.returncode}: {run.stdout}{run.stderr}")
    return run.stdout


SECTIONS: Final = {section.__name__: section for section in (memory, redis, cluster, postgres, s3)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.versus", description="redtier beside other servers")
    sections, trees = ",".join(SECTIONS), ",".join(built_trees())
    parser.add_argument("--only", type=some_of(SECTIONS), default=sections, help="default: %(default)s")
    parser.add_argument("--trees", type=some_of(built_trees()), default=trees, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=20_000, help="of GET -P 1; others accordingly")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables there too")
    options = parser.parse_args()
    tables = []
    for name in options.only:
        with ExitStack() as stack:
            cases = SECTIONS[name](Arena(stack, options.trees, options.requests))
            for number in range(options.rounds):
                print(f"{name}, round {number + 1} of {options.rounds}", file=sys.stderr)
                for case in cases:
                    case.play()
            head = [name, "operations/s", "CPU µs each", "ratio", "bar"]
            tables.append(markdown(name, head, (row for case in cases for row in case.rows())))
        print(tables[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(tables))


if __name__ == "__main__":
    main()
