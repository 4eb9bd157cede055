"""What the seal notices: every bit of 1,000 records flipped, and records cut, swapped and put elsewhere.

    python -m bench.flips [--records N] [--on sqlite,postgres,s3] [--tree compiled|plain] [--markdown FILE]

The records are written by a client through redtier: chat messages as LangChain stores them, and values of
all types.

- **In this process** each record is taken as it is stored (on the first store), and unsealed as redtier does
  it: with every single bit flipped, cut to every shorter length, under the next record's key, in another
  database, as every other kind.
- **In each store** records are damaged past redtier, and every one is read by a client, near cache off: one
  bit of each flipped, each cut, each swapped with another of its type, each put under another key besides
  its own.  ``redtier verify`` reads them too.  In between all are put back, and must be read as they were
  written.

Whatever is neither the right value nor an error is counted as returned; there must be none.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import redis

from backends.base import Key, Record, Store, Want
from backends.postgres import PostgresStore
from backends.s3 import S3Store
from backends.seal import IntegrityError, unseal
from backends.sqlite import SqliteStore
from bench.chat import by_message, load
from bench.measure import markdown, some_of
from bench.servers import Redtier, built_trees
from proxy.clock import Clock
from proxy.datatypes.values import from_record
from proxy.keyspace import KIND_NAMES
from tests.copies import change
from tests.damage import PostgresVault, S3Vault, SqliteVault, Vault, flipped
from tests.homes import toml
from tests.s3 import place
from tests.servers import TREES, MotoServer, PostgresServer

STORES: Final = ("sqlite", "postgres", "s3")
MAX_RAW: Final = 64 << 20  # a route's default
READS: Final = {
    b"string": ("GET", ()),
    b"list": ("LRANGE", (0, -1)),
    b"set": ("SMEMBERS", ()),
    b"zset": ("ZRANGE", (0, -1, "WITHSCORES")),
    b"hash": ("HGETALL", ()),
    b"stream": ("XRANGE", ("-", "+")),
}
AT_ONCE: Final = 50  # requests in one pipeline


class Place(NamedTuple):
    backend: dict[str, Any]  # its settings
    store: Store
    vault: Vault


class Count:
    """Of one kind of damage: tried, noticed, and the rest, which was returned as if it were right."""

    def __init__(self) -> None:
        self.tried = self.noticed = 0

    @property
    def returned(self) -> int:
        return self.tried - self.noticed


Counts = dict[str, Count]


def main() -> int:
    parser = argparse.ArgumentParser(description="What the seal notices.")
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--on", type=some_of(STORES), default=list(STORES))
    parser.add_argument("--tree", choices=built_trees(), default=built_trees()[0])
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    texts = []
    returned = 0
    for kind in args.on:
        with opened(kind) as where:
            began = time.monotonic()
            counts = on(where, args.records, args.tree, kind == args.on[0])
            took = time.monotonic() - began
        rows = [
            (name, f"{count.tried:,}", f"{count.noticed:,}", f"{count.returned:,}")
            for name, count in counts.items()
        ]
        title = f"{args.records:,} records on {kind}, {took:.0f} s"
        texts.append(markdown(title, ("damage", "tried", "noticed", "returned"), rows))
        print(texts[-1], flush=True)
        returned += sum(count.returned for count in counts.values())
    if args.markdown:
        args.markdown.write_text("\n".join(texts))
    return 1 if returned else 0


@contextmanager
def opened(kind: str) -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as directory:
        if kind == "sqlite":
            file = Path(directory) / "flips.db"
            store: Store = SqliteStore("archive", str(file), Clock())
            yield Place({"type": kind, "path": str(file)}, store, SqliteVault(file))
        elif kind == "postgres":
            with PostgresServer(fast=True) as server:
                store = PostgresStore("archive", server.url, clock=Clock())
                yield Place({"type": kind, "url": server.url}, store, PostgresVault(server.url, "redtier"))
        else:
            with MotoServer() as moto:
                where = place(moto)
                store = S3Store("archive", clock=Clock(), **where)
                yield Place({"type": kind, **where}, store, S3Vault(moto, where))


def on(where: Place, records: int, tree: str, every_bit: bool) -> Counts:
    config = toml(
        {"backends.hot": {"type": "memory"}, "backends.archive": where.backend, "http": {"listen": ""}},
        {"": "hot", "long:": "archive"},
        {"long:": {"cache": False}},
    )
    counts: Counts = {}
    with Redtier(tree, config) as server, server.client() as client:
        fill(client, records)
        stored = asyncio.run(all_records(where.store))
        assert len(stored) == records
        if every_bit:
            in_process(stored, counts)
        in_store(client, where, counts, lambda: verified(config, tree))
    return counts


def fill(client: redis.Redis, records: int) -> None:
    made = random.Random(1)
    dialogs = load(Path(__file__).with_name("dialogs.jsonl"))
    messages = (value for dialog in dialogs for _, value in by_message("", dialog))
    pipe = client.pipeline(transaction=False)
    texts = list(islice(messages, records))
    for number in range(records):
        name = b"long:%d" % number
        if number % 2 and number < len(texts):
            pipe.set(name, texts[number])
        else:
            change(pipe, made, name)
    pipe.execute()


async def all_records(store: Store) -> list[tuple[Key, Record]]:
    await store.open()
    found: list[tuple[Key, Record]] = []
    after: bytes | None = None
    while True:
        infos, after = await store.scan(0, b"", after, 250)
        for info in infos:
            key = Key(0, info.name)
            [(record, _)] = await store.load([key], Want.WHOLE)
            assert record is not None
            found.append((key, record))
        if after is None:
            await store.close()
            return found


# In this process


def in_process(stored: Sequence[tuple[Key, Record]], counts: Counts) -> None:
    def attempt(what: str, key: Key, kind: int, sealed: bytes) -> None:
        count = counts.setdefault(what, Count())
        count.tried += 1
        try:
            unseal(key.db, key.name, kind, sealed, MAX_RAW)
        except IntegrityError:
            count.noticed += 1

    for number, (key, record) in enumerate(stored):
        sealed = record.payload
        assert sealed is not None
        from_record(record.kind, unseal(*key, record.kind, sealed, MAX_RAW), record.expire_at)
        for bit in range(8 * len(sealed)):
            attempt("in process: a bit flipped", key, record.kind, flipped(sealed, bit))
        for length in range(len(sealed)):
            attempt("in process: cut", key, record.kind, sealed[:length])
        attempt("in process: longer", key, record.kind, sealed + b"\0")
        other = stored[(number + 1) % len(stored)][0]
        attempt("in process: another key", other, record.kind, sealed)
        attempt("in process: another database", key._replace(db=1), record.kind, sealed)
        for kind in KIND_NAMES:
            if kind != record.kind:
                attempt("in process: another kind", key, kind, sealed)


# In the store


def in_store(client: redis.Redis, where: Place, counts: Counts, verify: Callable[[], int]) -> None:
    made = random.Random(2)
    sealed = where.vault.read()
    names = sorted(sealed)
    kinds = dict(zip(names, all_at_once(client, [("TYPE", name) for name in names]), strict=True))
    reads = {name: (READS[kinds[name]][0], name, *READS[kinds[name]][1]) for name in names}
    right = all_at_once(client, [reads[name] for name in names])
    assert not any(isinstance(reply, Exception) for reply in right)
    partners = _partners(names, kinds)
    damages: dict[str, dict[bytes, bytes]] = {
        "in the store: a bit flipped": {
            name: flipped(data, made.randrange(8 * len(data))) for name, data in sealed.items()
        },
        "in the store: cut": {name: data[: made.randrange(len(data))] for name, data in sealed.items()},
        "in the store: swapped": {name: sealed[partner] for name, partner in partners.items()},
        "in the store: another's beside it": {
            name: sealed[partner] for name, partner in list(partners.items())[::2]
        },
    }
    for what, damage in damages.items():
        where.vault.write(damage)
        replies = all_at_once(client, [reads[name] for name in damage])
        refused = sum(isinstance(each, Exception) and str(each).startswith("INTEGRITY ") for each in replies)
        counts[what] = count = Count()
        count.tried, count.noticed = len(damage), refused
        counts[f"{what}, redtier verify"] = count = Count()
        count.tried, count.noticed = len(damage), verify()
        where.vault.write({name: sealed[name] for name in damage})
        assert all_at_once(client, [reads[name] for name in names]) == right
    assert verify() == 0


def _partners(names: Sequence[bytes], kinds: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """For each key the next one of its type, so that nothing else gives the exchange away."""
    partners: dict[bytes, bytes] = {}
    for kind in set(kinds.values()):
        same = [name for name in names if kinds[name] == kind]
        partners |= zip(same, same[1:] + same[:1], strict=True)
    return partners


def all_at_once(client: redis.Redis, requests: Sequence[tuple[object, ...]]) -> list[Any]:
    replies: list[Any] = []
    for at in range(0, len(requests), AT_ONCE):
        pipe: Any = client.pipeline(transaction=False)
        for request in requests[at : at + AT_ONCE]:
            pipe.execute_command(*request)
        replies += pipe.execute(raise_on_error=False)
    return replies


def verified(config: str, tree: str) -> int:
    """How many damaged records ``redtier verify`` finds."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "redtier.toml").write_text(config)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "proxy", "verify", "--config", "redtier.toml"],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(TREES[tree])},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    found = re.search(
        r"^archive: [0-9,]+ records verified \(\w+\)(?:, ([0-9,]+) damaged)?", done.stdout, re.M
    )
    if found is None:
        raise RuntimeError(done.stdout + done.stderr)
    return int((found[1] or "0").replace(",", ""))


if __name__ == "__main__":
    sys.exit(main())
