"""Plays chats through redis-py, as a chatbot's memory does, on every kind of backend; and checks them.

    python -m bench.chat [DIALOGS] [--config FILE | --url URL] [--tree compiled|plain] [--workers N]
                         [--markdown FILE]

DIALOGS has a JSON object a line, as bench/dialogs.jsonl, the default, has them (see bench/dialogs.md).
Their messages are written in LangChain's form, once with one key a conversation, a JSON list that is
written anew with each message, and once with one key a message; then all keys are read back, and what
is read must be what was written.  That on each of the prefixes short:, working:, long: and blob:.

Without --config and --url there is a redtier of its own, with the four in memory, in a redis-server, in
Postgres and in S3 (moto), and with near caches off, so that what is read comes from there.

Raw is what the keys hold in the end, stored what the backend says that it keeps of it (TIER WHERE).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import redis

from bench.measure import markdown, percentile
from bench.servers import Redtier, built_trees, make_bucket, s3_backend
from tests.servers import MotoServer, PostgresServer, RedisServer

PREFIXES: Final = ("short:", "working:", "long:", "blob:")
TYPES: Final = {"user": "human", "assistant": "ai"}

Write = tuple[str, str]  # key and value


class Dialog(NamedTuple):
    id: str
    messages: list[dict[str, Any]]  # as LangChain serialises them


def load(path: Path) -> list[Dialog]:
    with path.open(encoding="utf-8") as file:
        dialogs = [json.loads(line) for line in file]
    return [Dialog(dialog["id"], [_message(**each) for each in dialog["messages"]]) for dialog in dialogs]


def _message(role: str, content: str) -> dict[str, Any]:
    kind = TYPES[role]
    fields: dict[str, Any] = {"additional_kwargs": {}, "response_metadata": {}, "name": None, "id": None}
    return {"type": kind, "data": {"content": content, "type": kind, **fields}}


def by_conversation(prefix: str, dialog: Dialog) -> Iterator[Write]:
    for count in range(1, len(dialog.messages) + 1):
        yield f"{prefix}conversation:{dialog.id}", json.dumps(dialog.messages[:count])


def by_message(prefix: str, dialog: Dialog) -> Iterator[Write]:
    for number, message in enumerate(dialog.messages):
        yield f"{prefix}message:{dialog.id}:{number}", json.dumps(message)


FORMS: Final[dict[str, Callable[[str, Dialog], Iterator[Write]]]] = {
    "a key a conversation": by_conversation,
    "a key a message": by_message,
}


class Played(NamedTuple):
    """What some calls took, and how long all of them together; in seconds."""

    latencies: list[float]
    elapsed: float

    def cells(self) -> list[str]:
        rate = f"{len(self.latencies) / self.elapsed:,.0f}"
        return [rate, *(f"{1000 * percentile(self.latencies, share):.2f}" for share in (0.5, 0.99))]


def play(chats: Iterable[list[Callable[[], object]]], workers: int) -> Played:
    """Make the calls of each chat one after the other, and of ``workers`` chats at the same time."""

    def one(calls: list[Callable[[], object]]) -> list[float]:
        latencies = []
        for call in calls:
            began = time.perf_counter()
            call()
            latencies.append(time.perf_counter() - began)
        return latencies

    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        latencies = [latency for taken in pool.map(one, chats) for latency in taken]
    return Played(latencies, time.perf_counter() - began)


def check(client: redis.Redis, key: str, value: str) -> None:
    found = client.get(key)
    if found != value.encode():
        raise SystemExit(f"{key} is not what was written: {found!r} instead of {value!r}")


def measure(client: redis.Redis, prefix: str, form: str, dialogs: list[Dialog], workers: int) -> list[str]:
    """The table's row for one prefix and one form."""
    chats = [list(FORMS[form](prefix, dialog)) for dialog in dialogs]
    written = play(([partial(client.set, *write) for write in chat] for chat in chats), workers)
    kept = [dict(chat) for chat in chats]  # the last write of each key
    read = play(([partial(check, client, *write) for write in chat.items()] for chat in kept), workers)
    values = {key: value.encode() for chat in kept for key, value in chat.items()}
    raw, stored = sum(map(len, values.values())), stored_size(client, list(values))
    sizes = [f"{raw:,}", f"{stored:,}", f"{raw / stored:.2f}"]
    return [f"{prefix} {form}", f"{len(values):,}", *written.cells(), *read.cells(), *sizes]


def stored_size(client: redis.Redis, keys: list[str]) -> int:
    """Bytes that the keys' backends keep."""
    total = 0
    for start in range(0, len(keys), 1000):
        pipeline: Any = client.pipeline(transaction=False)
        for key in keys[start : start + 1000]:
            pipeline.execute_command("TIER WHERE", key)
        total += sum(where[b"stored_size"] for where in pipeline.execute())
    return total


@contextmanager
def everything(tree: str) -> Iterator[str]:
    """A redtier with a backend of each kind behind it; its URL."""
    with RedisServer() as redis_server, PostgresServer() as postgres, MotoServer() as moto:
        make_bucket(moto)
        config = f"""
[backends.hot]
type = "memory"
[backends.main]
type = "redis"
url = "{redis_server.url}"
[backends.archive]
type = "postgres"
url = "{postgres.url}"
[backends.blobs]
{s3_backend(moto)}
[[routes]]
prefix = ""
backend = "hot"
[[routes]]
prefix = "working:"
backend = "main"
[[routes]]
prefix = "long:"
backend = "archive"
cache = false
[[routes]]
prefix = "blob:"
backend = "blobs"
cache = false
"""
        with Redtier(tree, config) as server:
            yield f"redis://127.0.0.1:{server.port}"


@contextmanager
def configured(tree: str, config: str) -> Iterator[str]:
    """A redtier with a configuration; its URL."""
    with Redtier(tree, config) as server:
        yield f"redis://127.0.0.1:{server.port}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.chat", description="play chats through redtier")
    parser.add_argument("dialogs", nargs="?", type=Path, default=Path(__file__).parent / "dialogs.jsonl")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--config", metavar="FILE", type=Path, help="start redtier with this configuration")
    where.add_argument("--url", help="of a server that runs already")
    parser.add_argument(
        "--tree", choices=built_trees(), default=built_trees()[0], help="default: %(default)s"
    )
    parser.add_argument("--workers", type=int, default=8, help="chats at the same time, default: %(default)s")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table there too")
    options = parser.parse_args()
    dialogs = load(options.dialogs)
    if options.url:
        server: AbstractContextManager[str] = nullcontext(options.url)
    elif options.config:
        server = configured(options.tree, options.config.read_text())
    else:
        server = everything(options.tree)
    with server as url, redis.Redis.from_url(url, protocol=3) as client:
        rows = [
            measure(client, prefix, form, dialogs, options.workers) for prefix in PREFIXES for form in FORMS
        ]
    units = ["/s", "p50 ms", "p99 ms"]
    head = ["", "keys", *(f"SET {unit}" for unit in units), *(f"GET {unit}" for unit in units)]
    messages = sum(len(dialog.messages) for dialog in dialogs)
    title = f"chat: {len(dialogs):,} dialogs, {messages:,} messages"
    table = markdown(title, [*head, "raw bytes", "stored", "ratio"], rows)
    print(table)
    if options.markdown:
        options.markdown.write_text(table)


if __name__ == "__main__":
    main()
