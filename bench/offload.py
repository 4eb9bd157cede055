"""What large values in S3 cost: time, and turns of the event loop.

    python -m bench.offload [--megabytes 32]

A store writes and reads one value, half of which shrinks, in each content coding, on a Postgres and a moto of
its own.  The longest turn of the loop is told in CPU time of its thread, so that other load does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time

from backends.base import Change, Key, Op, Record, Want
from backends.offload import Place, Rule
from backends.seal import SealPolicy, seal
from proxy.clock import Clock
from tests import s3
from tests.offloads import new_store, place
from tests.servers import MotoServer, PostgresServer

KEY = Key(0, b"long:large")
OVER = 1000  # bytes


class Turns:
    """Watches the loop while it is entered."""

    async def __aenter__(self) -> Turns:
        self.longest = 0.0  # seconds of CPU time
        self._watch = asyncio.create_task(self._count())
        await asyncio.sleep(0)
        self.began = time.monotonic()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.took = time.monotonic() - self.began
        self._watch.cancel()

    async def _count(self) -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest, last = max(self.longest, now - last), now


async def measure(url: str, where: Place, encoding: str, raw: bytes) -> None:
    store = new_store(url, f"offload_{encoding}", where, Clock(), {b"": Rule(OVER, encoding)})
    await store.open()
    sealed = seal(*KEY, 1, raw, SealPolicy(compress_max=OVER))
    record = Record(sealed, 1, 1, 0, len(raw), len(sealed))
    async with Turns() as writing:
        [outcome] = await store.commit([[Change(Op.PUT, KEY, None, record)]])
    async with Turns() as reading:
        [(read, _)] = await store.load([KEY], Want.WHOLE)
    await store.close()
    assert outcome.tokens is not None
    assert read is not None
    assert read.payload == sealed
    for what, turns in (("write", writing), ("read", reading)):
        print(f"{encoding:5} {what:5}  {turns.took:5.2f} s  longest turn {turns.longest * 1000:5.1f} ms")


async def main(size: int) -> None:
    raw = random.Random(1).randbytes(1 << 16) * (size >> 17) + os.urandom(size // 2)
    with PostgresServer(fast=True) as postgres, MotoServer() as moto:
        where = place(s3.place(moto))
        for encoding in ("none", "gzip", "zstd"):
            await measure(postgres.url, where, encoding, raw)
            # Each coding uploads the value: under one name it would be there already.
            where = where._replace(prefix=f"{where.prefix}-{encoding}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=32)
    asyncio.run(main(parser.parse_args().megabytes << 20))
