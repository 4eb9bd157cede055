"""What it costs to add to a long history on Postgres, beside a plain SET.

    python -m bench.growing [--kilobytes 1024] [--keys 50] [--rounds N] [--tree compiled|plain]
                            [--markdown FILE]

50 clients work on ``--keys`` lists and streams of 300-byte messages, each ``--kilobytes`` large, made of the
words of bench/dialogs.jsonl.  Each command, and a SET of 300 bytes, is played in turn in several rounds; told
are the medians, and what one costs in SETs, by time and by CPU time of the proxy and of Postgres.  "In one
piece" is with ``chunk_over = 0``.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import time
from pathlib import Path
from typing import Final, NamedTuple

from bench.measure import CLIENTS, cpu_seconds, markdown, redis_benchmark
from bench.servers import Redtier, built_trees
from tests.homes import toml
from tests.servers import PostgresServer

SIZE: Final = 300  # bytes of a message
MESSAGE: Final = "x" * SIZE
COMMANDS: Final = {
    "SET": ["set", "string:__rand_int__", MESSAGE],
    "RPUSH": ["rpush", "list:__rand_int__", MESSAGE],
    "LRANGE -50 -1": ["lrange", "list:__rand_int__", "-50", "-1"],
    "LTRIM 1 -1": ["ltrim", "list:__rand_int__", "1", "-1"],
    "XADD": ["xadd", "stream:__rand_int__", "*", "message", MESSAGE],
    "XREVRANGE COUNT 50": ["xrevrange", "stream:__rand_int__", "+", "-", "COUNT", "50"],
}
WAYS: Final[dict[str, dict[str, object]]] = {
    "": {},
    "cache off": {"cache": False},
    "in one piece": {"chunk_over": 0},
}
REQUESTS: Final = {"": 5000, "cache off": 3000, "in one piece": 60}
PART: Final = 100  # messages of one request that fills


class Round(NamedTuple):
    each: float  # seconds for one
    proxy: float  # CPU seconds for one
    postgres: float


def messages(count: int) -> list[str]:
    """They shrink as those of people do."""
    text = (Path(__file__).parent / "dialogs.jsonl").read_text()
    said = [message["content"] for line in text.splitlines() for message in json.loads(line)["messages"]]
    words = re.findall(r"\w+", " ".join(said))
    chance = random.Random(1)
    return [
        f"{chance.randbytes(8).hex()} {' '.join(chance.choices(words, k=SIZE // 3))}"[:SIZE]
        for _ in range(count)
    ]


def fill(server: Redtier, keys: int, size: int) -> None:
    made = messages(size // SIZE)
    with server.client() as client:
        for number in range(keys):
            for first in range(0, len(made), PART):
                client.rpush(f"list:{number:012}", *made[first : first + PART])
                pipeline = client.pipeline()
                for message in made[first : first + PART]:
                    pipeline.xadd(f"stream:{number:012}", {"message": message})
                pipeline.execute()


def measure(server: Redtier, postgres: PostgresServer, words: list[str], keys: int, requests: int) -> Round:
    pids = [server.pid, postgres.pid]
    before, began = [cpu_seconds(pid) for pid in pids], time.perf_counter()
    redis_benchmark(server.port, *f"-c {CLIENTS} -n {requests} -r {keys}".split(), *words, timeout=600)
    elapsed = time.perf_counter() - began
    used = [cpu_seconds(pid) - was for pid, was in zip(pids, before, strict=True)]
    return Round(*(each / requests for each in (elapsed, *used)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kilobytes", type=int, default=1024)
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tree", default=built_trees()[0])
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    rows = []
    with PostgresServer() as postgres:
        backend = {"backends.store": {"type": "postgres", "url": postgres.url}}
        for way, settings in WAYS.items():
            taken: dict[str, list[Round]] = {title: [] for title in COMMANDS}
            with Redtier(options.tree, toml(backend, {"": "store"}, {"": settings})) as server:
                if not way:
                    fill(server, options.keys, options.kilobytes << 10)
                for _ in range(options.rounds):
                    for title, words in COMMANDS.items():
                        requests = REQUESTS[way] if title != "SET" else REQUESTS[""]
                        taken[title].append(measure(server, postgres, words, options.keys, requests))
            base = Round(*map(statistics.median, zip(*taken["SET"], strict=True)))
            for title, rounds in taken.items():
                middle = Round(*map(statistics.median, zip(*rounds, strict=True)))
                ratios = (f"{mine / its:.2f}" for mine, its in zip(middle, base, strict=True))
                micro = (f"{1e6 * each:,.0f}" for each in middle)
                rows.append([f"{title}, {way}".rstrip(", "), *micro, *ratios])
    head = ["", "µs each", "proxy CPU", "Postgres CPU", "in SETs", "proxy", "Postgres"]
    table = markdown(f"{options.kilobytes} KB in {SIZE}-byte messages", head, rows)
    print(table)
    if options.markdown:
        options.markdown.write_text(table)


if __name__ == "__main__":
    main()
