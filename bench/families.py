"""Lists, hashes, sets and sorted sets beside redis-server: what their commands cost, large keys, memory.

    python -m bench.families [--only commands,large,stalls,memory] [--trees compiled,plain] [--rounds N]
                             [--requests N] [--elements N] [--keys N] [--markdown FILE]

- commands: CPU time of the server per command at -P 16, as redis-benchmark's own tests send them; LRANGE_n
  without the pushes that its test begins with;
- large: the same on a key of a million elements beside one of a hundred, of the same server;
- stalls: the p99 of small GETs from ten clients while a key grows to a million elements and is deleted,
  beside what it is before, when nothing else goes on: the highest of batches that follow each other.  One
  process is all clients, so that on two cores nobody waits for one.  Half as many rounds as of the others;
- memory: what 100,000 small collections make redtier's resident memory grow by, beside what they make
  redis-server's used_memory grow by.  Each kind in servers of its own, once: it hardly varies.

All else are medians of alternating rounds.  All keys are in memory.  A bar is what redtier promises.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import redis
import uvloop

from bench.measure import (
    CLIENTS,
    KEYS,
    VALUE_SIZE,
    Figures,
    fill,
    markdown,
    observe,
    percentile,
    redis_benchmark,
    resident,
    some_of,
)
from bench.servers import built_trees
from bench.versus import Arena, Case, Measure
from proxy.resp import encode_command
from tests.servers import RedisServer, Server

FEW: Final = 100  # elements of the key that a large one is compared with
MEMORY: Final = 'type = "memory"\nmax_bytes = "4gb"'


@dataclass
class Options:
    trees: list[str]
    rounds: int
    requests: int
    elements: int
    keys: int


class Table(NamedTuple):
    head: list[str]
    rows: list[list[str]]


def servers(stack: ExitStack, options: Options) -> dict[str, Server]:
    """redis-server, and redtier from each tree, all of them empty."""
    arena = Arena(stack, options.trees, options.requests)
    return {"redis-server": stack.enter_context(RedisServer()), **arena.redtiers(MEMORY)}


def alternate(what: str, rounds: int) -> Iterator[int]:
    for number in range(rounds):
        print(f"{what}, round {number + 1} of {rounds}", file=sys.stderr)
        yield number


def asked(server: Server, requests: int, keys: int, *words: str) -> Figures:
    """What redis-benchmark's test (``-t``, name) or command costs at -P 16; ``keys`` bounds __rand_int__."""
    load = f"-P 16 -c {CLIENTS} -d {VALUE_SIZE} -n {requests} -r {keys}".split()
    return observe(server.pid, requests, partial(redis_benchmark, server.port, *load, *words))


# What a test takes away, one before it has put there.
TESTS: Final = ("LPUSH", "RPUSH", "LPOP", "RPOP", "SADD", "HSET", "SPOP", "ZADD", "ZPOPMIN")
RANGES: Final = (100, 300, 500, 600)


def commands(options: Options) -> Table:
    with ExitStack() as stack:
        places = servers(stack, options)
        for server in places.values():
            with redis.Redis(port=server.port) as client:
                client.rpush("list", *(random.randbytes(VALUE_SIZE // 2).hex() for _ in range(RANGES[-1])))
        loads = {test: (options.requests, 2.5, ["-t", test.lower()]) for test in TESTS}
        for count in RANGES:
            words = ["LRANGE", "list", "0", str(count - 1)]
            loads[f"LRANGE_{count}"] = (max(options.requests // 20, 1), 3.0, words)
        cases = []
        for name, (requests, bar, words) in loads.items():
            measures: dict[str, Measure] = {
                place: partial(asked, server, requests, KEYS, *words) for place, server in places.items()
            }
            others = {"redis-server": measures.pop("redis-server")}
            cases.append(Case(name, others, measures, {"compiled": bar}))
        for _ in alternate("commands", options.rounds):
            for case in cases:
                case.play()
    return Table(
        ["operations/s", "CPU µs each", "ratio", "bar"], [row for case in cases for row in case.rows()]
    )


R: Final = "__rand_int__"  # redis-benchmark puts twelve digits there, each time others


def questions(count: int) -> dict[str, list[str]]:
    """Commands, by name, on the keys of so many elements that ``grow_all`` makes."""
    hashed, listed, ranked = (f"{kind}:{count}" for kind in ("hash", "list", "zset"))
    middle = count // 2
    return {
        "HGET": ["HGET", hashed, f"e:{R}"],
        "HSET in a script": ["EVAL", HSET, "1", hashed, f"e:{R}"],
        "LMOVE in a script": ["EVAL", LMOVE, "1", listed],
        "ZADD in a script": ["EVAL", ZADD, "1", ranked, R, f"e:{R}"],
        "LINDEX 20": ["LINDEX", listed, "20"],
        "LINDEX -20": ["LINDEX", listed, "-20"],
        "ZADD": ["ZADD", ranked, R, f"e:{R}"],
        "ZRANK": ["ZRANK", ranked, f"e:{R}"],
        "ZRANGE in the middle": ["ZRANGE", ranked, str(middle), str(middle + 9)],
        "ZRANGE BYSCORE LIMIT": ["ZRANGE", ranked, R, "+inf", "BYSCORE", "LIMIT", "10", "10"],
        DEEP: ["ZRANGE", ranked, "-inf", "+inf", "BYSCORE", "LIMIT", str(middle), "10"],
    }


HSET: Final = "return redis.call('hset', KEYS[1], ARGV[1], 'value')"
LMOVE: Final = "return redis.call('lmove', KEYS[1], KEYS[1], 'left', 'right')"
ZADD: Final = "return redis.call('zadd', KEYS[1], ARGV[1], ARGV[2])"
DEEP: Final = "ZRANGE LIMIT in the middle"
"""redis-server walks up to there, so it is not asked: milliseconds, each time."""


def grow_all(port: int, count: int, at_once: int = 1000) -> None:
    with redis.Redis(port=port) as client:
        for first in range(0, count, at_once):
            elements = [f"e:{number:012}" for number in range(first, min(first + at_once, count))]
            client.hset(f"hash:{count}", mapping=dict.fromkeys(elements, "v" * 20))
            client.rpush(f"list:{count}", *elements)
            client.zadd(f"zset:{count}", {element: first + n for n, element in enumerate(elements)})


def large(options: Options) -> Table:
    sizes = (FEW, options.elements)
    with ExitStack() as stack:
        places = servers(stack, options)
        for server in places.values():
            for size in sizes:
                grow_all(server.port, size)
        taken: dict[tuple[str, str, int], list[float]] = {}
        for _ in alternate("large", options.rounds):
            for name in questions(FEW):
                for place, server in places.items():
                    for size in sizes if (name, place) != (DEEP, "redis-server") else ():
                        figures = asked(server, options.requests, size, *questions(size)[name])
                        taken.setdefault((name, place, size), []).append(figures.cpu)
    rows = []
    for name, place in dict.fromkeys((name, place) for name, place, _ in taken):
        few, many = (statistics.median(taken[name, place, size]) for size in sizes)
        bar = "" if place == "redis-server" else "≤ 3"
        rows.append([f"{name}, {place}", f"{few:.1f}", f"{many:.1f}", f"{many / few:.2f}", bar])
    return Table([f"µs of {FEW}", f"µs of {options.elements:,}", "ratio", "bar"], rows)


GROWTH: Final = {
    "hash": ["HSET", "big", *[f"e:{R}", "v" * 20] * 10],
    "list": ["RPUSH", "big", *[f"e:{R}"] * 10],
    "set": ["SADD", "big", *[f"e:{R}"] * 10],
    "sorted set": ["ZADD", "big", *[R, f"e:{R}"] * 10],
}
"""What adds ten elements."""

AT_ONCE: Final = 10_000  # GETs of which a p99 is taken
GETTERS: Final = 10


class Waits(NamedTuple):
    p99: float  # the highest of those of batches that follow each other
    longest: float  # ms


class Getter(asyncio.Protocol):
    """Asks for a small value again and again; how long each answer took goes to ``waits``, in seconds."""

    def __init__(self, number: int, waits: list[float]) -> None:
        self._request = encode_command([b"GET", b"key:%012d" % number])
        self._waits = waits
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n"):  # a small reply comes in one piece
            self._waits.append(time.perf_counter() - self._sent)
            self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)


def stalls(options: Options) -> Table:
    with ExitStack() as stack:
        places = servers(stack, options)
        for server in places.values():
            fill(server.port, 1000)
        taken: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
        for _ in alternate("stalls", (options.rounds + 1) // 2):
            for kind, words in GROWTH.items():
                for place, server in places.items():
                    rest, busy = uvloop.run(_get_while_it_grows(server.port, options.elements, words))
                    taken.setdefault((kind, place), []).append((rest.p99, *busy))
    rows = []
    for (kind, place), figures in taken.items():
        at_rest, p99, longest = map(statistics.median, zip(*figures, strict=True))
        cells = (f"{figure:.2f}" for figure in (at_rest, p99, longest, p99 / at_rest))
        rows.append([f"{kind}, {place}", *cells, "" if place == "redis-server" else "≤ 10"])
    return Table(["GET p99 ms at rest", "highest p99 ms", "longest ms", "p99 ratio", "bar"], rows)


async def _get_while_it_grows(port: int, elements: int, words: Sequence[str]) -> tuple[Waits, Waits]:
    """What GETs wait for at rest, and while a key grows to so many elements and is deleted."""
    loop = asyncio.get_running_loop()
    waits: list[float] = []
    getters = [
        (await loop.create_connection(partial(Getter, number, waits), "127.0.0.1", port))[0]
        for number in range(GETTERS)
    ]
    await asyncio.sleep(0.2)
    waits.clear()
    while len(waits) < 5 * AT_ONCE:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    rest = _waits(waits)
    waits.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(elements // 10):
        argv = [
            b"%012d" % random.randrange(10**9)
            if word == R
            else word.replace(R, f"{random.randrange(10**9):012}").encode()
            for word in words
        ]
        writer.write(encode_command(argv))
        await reader.readline()
    writer.write(encode_command([b"DEL", b"big"]))
    assert await reader.readline() == b":1\r\n"
    while len(waits) < AT_ONCE:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    busy = _waits(waits)
    writer.close()
    for getter in getters:
        getter.abort()
    return rest, busy


def _waits(seconds: Sequence[float]) -> Waits:
    batches = [seconds[at : at + AT_ONCE] for at in range(0, len(seconds) - AT_ONCE + 1, AT_ONCE)]
    return Waits(1000 * max(percentile(batch, 0.99) for batch in batches), 1000 * max(seconds))


Fill = Callable[[Any, str, list[Any]], object]


def _words(count: int) -> list[str]:
    return [random.randbytes(10).hex() for _ in range(count)]


def _integers(bits: int) -> Callable[[int], list[int]]:
    """Such that need so many bits, so that all are stored in as many."""
    least, most = 1 << (bits - 2), (1 << (bits - 1)) - 1
    return lambda count: random.sample(range(least, most), count)


COLLECTIONS: Final[dict[str, tuple[Fill, Callable[[int], list[Any]]]]] = {
    "hashes": (lambda pipeline, key, found: pipeline.hset(key, mapping=dict(enumerate(found))), _words),
    "lists": (lambda pipeline, key, found: pipeline.rpush(key, *found), _words),
    "sets": (lambda pipeline, key, found: pipeline.sadd(key, *found), _words),
    **{
        f"sets, {bits} bits": (lambda pipeline, key, found: pipeline.sadd(key, *found), _integers(bits))
        for bits in (16, 32, 64)
    },
}


def memory(options: Options) -> Table:
    rows = []
    for kind in COLLECTIONS:
        print(f"memory, {kind}", file=sys.stderr)
        with ExitStack() as stack:
            places = servers(stack, options)
            base = _growth(places.pop("redis-server"), _used_memory, kind, options.keys)
            rows.append([f"{kind}, redis-server", f"{base / options.keys:.0f}", "", ""])
            for place, server in places.items():
                grown = _growth(server, lambda server: resident(server.pid), kind, options.keys)
                ratio = f"{grown / base:.2f}"
                rows.append([f"{kind}, {place}", f"{grown / options.keys:.0f}", ratio, "≤ 3"])
    return Table(["bytes each", "ratio", "bar"], rows)


def _used_memory(server: Server) -> int:
    with redis.Redis(port=server.port) as client:
        return int(client.info("memory")["used_memory"])


def _growth(server: Server, measure: Callable[[Server], int], kind: str, keys: int) -> int:
    """Bytes by which so many collections of ten elements make the server grow."""
    write, elements = COLLECTIONS[kind]
    random.seed(kind)  # all servers get the same
    before = measure(server)
    with redis.Redis(port=server.port) as client:
        for first in range(0, keys, 500):
            pipeline = client.pipeline(transaction=False)
            for number in range(first, min(first + 500, keys)):
                write(pipeline, f"key:{number:012}", elements(10))
            pipeline.execute()
    return measure(server) - before


SECTIONS: Final = {section.__name__: section for section in (commands, large, stalls, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.families", description="collections beside redis-server")
    sections, trees = ",".join(SECTIONS), ",".join(built_trees())
    parser.add_argument("--only", type=some_of(SECTIONS), default=sections, help="default: %(default)s")
    parser.add_argument("--trees", type=some_of(built_trees()), default=trees, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=50_000, help="of each command, default: %(default)s")
    parser.add_argument("--elements", type=int, default=1_000_000, help="of a large key")
    parser.add_argument("--keys", type=int, default=100_000, help="small collections of each kind")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables there too")
    given = parser.parse_args()
    options = Options(given.trees, given.rounds, given.requests, given.elements, given.keys)
    tables = []
    for name in given.only:
        table = SECTIONS[name](options)
        tables.append(markdown(name, ["", *table.head], table.rows))
        print(tables[-1], flush=True)
    if given.markdown:
        given.markdown.write_text("\n".join(tables))


if __name__ == "__main__":
    main()
