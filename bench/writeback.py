"""Write-back: acknowledgements beside a bare fdatasync, with S3 behind at 50 ms.

    python -m bench.writeback [--rounds N] [--requests N] [--trees NAMES] [--markdown FILE]

Each round appends and syncs records of the same size to a file beside the journal (``bare``), then has
redis-benchmark write keys at random, in memory and to a route with ``write = "back"`` whose answers from S3
are late by 50 ms.  So both see the same disk at nearly the same time.
Printed are medians over the rounds, and the ratio to bare: at most 2.5 is promised for one client.  With
several clients a request often comes while the disk is busy with the batch before, and waits for that too;
and with many it waits for the processor, as it does in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple, Self

from bench.measure import VALUE_SIZE, markdown, percentile, redis_benchmark, some_of
from bench.servers import Redtier, built_trees, make_bucket, s3_backend
from tests.servers import MotoServer

LATE: Final = 0.05  # seconds
SYNCS: Final = 300  # in a round
CLIENTS: Final = (1, 8, 32)
KEYS: Final = 1_000_000
BATCH: Final = 250  # bytes of a journal's batch with one such value, about


class Late:
    """A relay to a port of 127.0.0.1 whose answers come later by ``LATE``."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        serving = asyncio.start_server(self._relay, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        up = asyncio.create_task(self._pump(reader, up_writer, 0))
        await self._pump(up_reader, writer, LATE)
        up.cancel()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late: float) -> None:
        while data := await reader.read(1 << 20):
            if late:
                self._loop.call_later(late, writer.write, data)
            else:
                writer.write(data)
        self._loop.call_later(2 * late, writer.close)


class Round(NamedTuple):
    bare: float  # ms, the median of all syncs
    memory: dict[int, float]  # ms, the median of SET in memory, by the number of clients
    journal: dict[int, float]  # the same of acknowledgements


def bare(directory: Path) -> float:
    record = os.urandom(BATCH)
    file = os.open(directory / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    taken = []
    for _ in range(SYNCS):
        began = time.perf_counter()
        os.write(file, record)
        os.fdatasync(file)
        taken.append(time.perf_counter() - began)
    os.close(file)
    return percentile(taken, 0.5) * 1000


def acknowledged(port: int, prefix: str, clients: int, requests: int) -> float:
    value = os.urandom(VALUE_SIZE // 2).hex()
    options = ["-c", str(clients), "-n", str(requests), "-r", str(KEYS)]
    return redis_benchmark(port, *options, "SET", f"{prefix}__rand_int__", value)["p50_latency_ms"]


def measure(tree: str, rounds: int, requests: int) -> list[Round]:
    with MotoServer() as s3, Late(s3.port) as late, tempfile.TemporaryDirectory(dir=".") as place:
        make_bucket(s3)
        config = f"""
[backends.blobs]
{s3_backend(s3).replace(f":{s3.port}", f":{late.port}")}
journal = "{Path(place, "journal").resolve()}"
journal_max = "1gb"
[backends.memory]
type = "memory"
[[routes]]
prefix = "long:"
backend = "blobs"
write = "back"
[[routes]]
prefix = ""
backend = "memory"
"""
        with Redtier(tree, config) as server:
            acknowledged(server.port, "long:", 1, 200)
            found = []
            for _ in range(rounds):
                slow = bare(Path(place))
                memory, journal = (
                    {each: acknowledged(server.port, prefix, each, requests * each) for each in CLIENTS}
                    for prefix in ("short:", "long:")
                )
                found.append(Round(slow, memory, journal))
            with server.client() as client:
                tiers = client.info("tiers").values()
                print(next(tier for tier in tiers if tier.get("name") == "blobs"), file=sys.stderr)
            server.kill()
            return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=500, help="of each client in a round")
    trees = built_trees()
    parser.add_argument("--trees", type=some_of(trees), default=trees)
    parser.add_argument("--markdown", type=Path, help="write the table to this file too")
    options = parser.parse_args()
    rows = []
    for tree in options.trees:
        rounds = measure(tree, options.rounds, options.requests)
        base = statistics.median(each.bare for each in rounds)
        rows.append((f"bare fdatasync ({tree})", f"{base:.2f}", "1.0"))
        for clients in CLIENTS:
            for place in ("memory", "journal"):
                took = [getattr(each, place)[clients] for each in rounds]
                ratio = statistics.median(ms / each.bare for ms, each in zip(took, rounds, strict=True))
                name = f"SET, {place}, {clients} clients ({tree})"
                rows.append((name, f"{statistics.median(took):.2f}", f"{ratio:.1f}"))
    table = markdown("Write-back: acknowledgement, S3 at 50 ms", ["what", "p50 ms", "ratio"], rows)
    print(table)
    if options.markdown:
        options.markdown.write_text(table)


if __name__ == "__main__":
    main()
