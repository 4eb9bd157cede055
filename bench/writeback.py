"""Write-back: acknowledgements beside a bare fdatasync, with S3 behind at 50 ms.

    python -m bench.writeback [--requests N] [--trees NAMES] [--markdown FILE]

One client appends and syncs a record to a file beside the journal (``bare``), then writes a key to a route
with ``write = "back"``, whose answers from S3 are late by 50 ms, and so on in turn: both meet the same disk
and the same neighbours.  The ratio of the medians is what is promised to be at most 2.5.
Then redis-benchmark writes keys at random with several clients, in memory and to that route; there a request
waits for the batch before its own too, and for the processor, as it does in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple, Self

from bench.measure import VALUE_SIZE, markdown, redis_benchmark, some_of
from bench.servers import Redtier, built_trees, make_bucket, s3_backend
from proxy.resp import encode_command
from tests.servers import MotoServer

LATE: Final = 0.05  # seconds
CLIENTS: Final = (8, 32)
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


class Figures(NamedTuple):
    """Medians, in ms."""

    bare: float
    paired: float  # one client's acknowledgements, each after a bare sync
    memory: dict[int, float]  # SET in memory, by the number of clients
    journal: dict[int, float]  # acknowledgements


def paired(port: int, directory: Path, requests: int) -> tuple[float, float]:
    """Medians in ms of bare syncs and of acknowledgements, in turn."""
    record, value = os.urandom(BATCH), os.urandom(VALUE_SIZE // 2).hex().encode()
    bare, acknowledged = [], []
    file = os.open(directory / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(requests):
            request = encode_command([b"SET", b"long:paired:%d" % number, value])
            began = time.perf_counter()
            os.write(file, record)
            os.fdatasync(file)
            between = time.perf_counter()
            client.sendall(request)
            assert client.recv(64) == b"+OK\r\n"
            acknowledged.append(time.perf_counter() - between)
            bare.append(between - began)
    os.close(file)
    return statistics.median(bare) * 1000, statistics.median(acknowledged) * 1000


def crowd(port: int, prefix: str, clients: int, requests: int) -> float:
    value = os.urandom(VALUE_SIZE // 2).hex()
    options = ["-c", str(clients), "-n", str(requests), "-r", str(KEYS)]
    return redis_benchmark(port, *options, "SET", f"{prefix}__rand_int__", value)["p50_latency_ms"]


def measure(tree: str, requests: int) -> Figures:
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
            paired(server.port, Path(place), 100)
            bare, acknowledged = paired(server.port, Path(place), requests)
            memory, journal = (
                {each: crowd(server.port, prefix, each, requests * each) for each in CLIENTS}
                for prefix in ("short:", "long:")
            )
            with server.client() as client:
                tiers = client.info("tiers").values()
                print(next(tier for tier in tiers if tier.get("name") == "blobs"), file=sys.stderr)
            server.kill()
            return Figures(bare, acknowledged, memory, journal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="of each client")
    trees = built_trees()
    parser.add_argument("--trees", type=some_of(trees), default=trees)
    parser.add_argument("--markdown", type=Path, help="write the table to this file too")
    options = parser.parse_args()
    rows = []
    for tree in options.trees:
        found = measure(tree, options.requests)

        def row(what: str, ms: float, base: float = found.bare) -> tuple[str, str, str]:
            return what, f"{ms:.3f}", f"{ms / base:.2f}"

        rows.append(row(f"bare fdatasync ({tree})", found.bare))
        rows.append(row(f"SET, write-back, in turn ({tree})", found.paired))
        for clients in CLIENTS:
            rows.append(row(f"SET, memory, {clients} clients ({tree})", found.memory[clients]))
            rows.append(row(f"SET, write-back, {clients} clients ({tree})", found.journal[clients]))
    table = markdown("Write-back: acknowledgement, S3 at 50 ms", ["what", "p50 ms", "ratio"], rows)
    print(table)
    if options.markdown:
        options.markdown.write_text(table)


if __name__ == "__main__":
    main()
