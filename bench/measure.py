"""What the comparisons share: CPU time and memory of a server, load from redis-benchmark, and tables."""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import redis

CLIENTS: Final = 50
VALUE_SIZE: Final = 100  # bytes
KEYS: Final = 100_000


class Figures(NamedTuple):
    rate: float  # operations a second
    cpu: float  # CPU time for one, in microseconds


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, of its children, and of theirs, of all threads that still run.

    From the scheduler's own clock (Linux' sched-stats.rst), which has nanoseconds where ``times`` has ticks:
    a round can be short.
    """
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    own = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    children = [child for task in tasks for child in (task / "children").read_text().split()]
    return own + sum(cpu_seconds(int(child)) for child in children)


def resident(pid: int, field: str = "VmRSS") -> int:
    """Bytes of memory that a process holds, or has held at most (VmHWM)."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def observe(pid: int, operations: int, work: Callable[[], object]) -> Figures:
    """What ``work``, so many operations on the server ``pid``, takes."""
    used, began = cpu_seconds(pid), time.perf_counter()
    work()
    elapsed = time.perf_counter() - began
    return Figures(operations / elapsed, (cpu_seconds(pid) - used) / operations * 1e6)


def redis_benchmark(port: int, *options: str, timeout: float = 120) -> dict[str, float]:
    """Run it to its end: requests a second (``rps``), and latencies in ms (``p50_latency_ms``, ...)."""
    command = ["redis-benchmark", "-p", str(port), "--csv", *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    rows = list(csv.DictReader(run.stdout.splitlines()))
    if run.returncode or not rows or "rps" not in rows[-1]:
        raise RuntimeError(f"{' '.join(command)}: {(run.stdout + run.stderr).strip()}")
    return {name: float(value) for name, value in rows[-1].items() if name != "test"}


def drive(pid: int, port: int, command: str, pipeline: int, requests: int, keys: int = KEYS) -> Figures:
    """A load of GET or SET from all clients at once, on keys at random."""
    options = {"-t": command.lower(), "-P": pipeline, "-n": requests, "-r": keys}
    options |= {"-c": CLIENTS, "-d": VALUE_SIZE}
    words = [str(word) for option in options.items() for word in option]
    return observe(pid, requests, lambda: redis_benchmark(port, *words))


def fill(port: int, keys: int = KEYS, at_once: int = 1000) -> None:
    """Write every key that redis-benchmark will ask for."""
    value = os.urandom(VALUE_SIZE // 2).hex()
    with redis.Redis(port=port) as client:
        for first in range(0, keys, at_once):
            numbers = range(first, min(first + at_once, keys))
            client.mset({f"key:{number:012}": value for number in numbers})


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all values, from 0 to 1, does not exceed."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def markdown(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that reads well as it stands too; all columns but the first are numbers."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = cells
        padded = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        return f"| {' | '.join(padded)} |"

    rule = f"|-{'-' * widths[0]}-|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|"
    return "\n".join([f"### {title}", "", line(head), rule, *map(line, lines[1:]), ""])


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """For argparse: names with commas between them, each a known one."""

    def names(text: str) -> list[str]:
        if unknown := set(text.split(",")).difference(known):
            raise argparse.ArgumentTypeError(f"not known: {', '.join(sorted(unknown))}")
        return text.split(",")

    return names
