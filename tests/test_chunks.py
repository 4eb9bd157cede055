"""Collections in chunks: what is written and read of them, and what happens when something goes wrong."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis

from backends.postgres import PostgresStore
from proxy.clock import ManualClock
from proxy.errors import CommandError
from tests.chats import messages
from tests.coldhomes import Tier
from tests.damage import flipped
from tests.homes import toml
from tests.servers import TREE, PostgresServer, RedtierServer, wait_until

CHUNKED = {"chunk_over": 4000, "chunk_size": 1000}
MESSAGES = [b"message %03d, in a sentence or two, as people write them." % number for number in range(300)]

pytestmark = pytest.mark.once

_tables = itertools.count()


class Rows:
    """A table of records, and that of their chunks, as an SQL prompt sees them."""

    def __init__(self, url: str, table: str) -> None:
        self.url, self.table = url, table

    async def sql(self, statement: str, *args: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetch(statement.format(self.table), *args)
        finally:
            await connection.close()

    async def chunks(self, key: bytes = b"list") -> dict[int, bytes]:
        rows = await self.sql("select id, value from {}_chunks where key = $1 order by id", key)
        return {row["id"]: row["value"] for row in rows}

    async def root(self, key: bytes = b"list") -> tuple[int, bytes]:
        """Its kind and what is stored of it."""
        [row] = await self.sql("select kind, value from {} where key = $1", key)
        return row["kind"], row["value"]


@pytest.fixture
def rows(postgres: PostgresServer) -> Rows:
    return Rows(postgres.url, f"chunks_{next(_tables)}")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def serve(
    rows: Rows, stack: ExitStack, route: Mapping[str, Any] = CHUNKED, cache: str = "256mb", **backend: Any
) -> redis.Redis:
    """A client of a new redtier, all of whose keys live in the table."""
    options = {"type": "postgres", "url": rows.url, "table": rows.table, "sweep_interval": "100ms"}
    options |= {"flushable": True, **backend}
    tables = {"backends.store": options, "cache": {"max_bytes": cache}}
    server = stack.enter_context(RedtierServer(toml(tables, {"": "store"}, {"": route})))
    client = stack.enter_context(server.client(protocol=3))
    wait_until(lambda: client.execute_command("TIER ROUTES")[0][b"state"] == b"up")
    return client


@pytest.fixture
def client(rows: Rows, stack: ExitStack) -> redis.Redis:
    client = serve(rows, stack)
    grow(client)
    return client


def grow(client: redis.Redis, key: str = "list") -> None:
    for first in range(0, len(MESSAGES), 50):
        client.rpush(key, *MESSAGES[first : first + 50])


# --- what is written and read ---


async def test_a_push_writes_the_end_and_leaves_the_chunks_alone(client: redis.Redis, rows: Rows) -> None:
    before = await rows.chunks()
    assert len(before) > 3
    assert client.rpush("list", b"one more") == 301
    assert client.lpush("list", b"and one at the front") == 302
    assert await rows.chunks() == before
    assert len((await rows.root())[1]) < 3000
    assert client.lrange("list", 0, -1) == [b"and one at the front", *MESSAGES, b"one more"]


async def test_what_does_not_fit_the_end_any_more_becomes_a_chunk(client: redis.Redis, rows: Rows) -> None:
    before = await rows.chunks()
    for message in MESSAGES:
        client.rpush("list", message)
    after = await rows.chunks()
    assert before.items() < after.items()
    assert len(before) + 3 <= len(after) <= len(before) + 20
    assert client.lrange("list", 0, -1) == MESSAGES * 2


async def test_the_end_is_read_without_what_is_before_it(rows: Rows, stack: ExitStack) -> None:
    client = serve(rows, stack, {**CHUNKED, "cache": False})
    grow(client)
    await rows.sql("delete from {0}_chunks where id = (select min(id) from {0}_chunks)")
    assert client.lrange("list", -50, -1) == MESSAGES[-50:]
    assert client.llen("list") == 300
    assert client.rpush("list", b"more") == 301
    assert client.ltrim("list", 200, -1)
    assert client.lrange("list", 0, -1) == [*MESSAGES[200:], b"more"]


async def test_the_near_cache_counts_what_is_loaded(rows: Rows, stack: ExitStack) -> None:
    grow(serve(rows, stack))
    client = serve(rows, stack, cache="16kb")
    assert client.lrange("list", -5, -1) == MESSAGES[-5:]
    assert client.execute_command("TIER WHERE list")[b"cached"] == 1
    assert client.lrange("list", 0, -1) == MESSAGES  # which is too much for it
    assert client.execute_command("TIER WHERE list")[b"cached"] == 0


async def test_a_trim_removes_the_chunks_that_it_leaves_behind(client: redis.Redis, rows: Rows) -> None:
    before = await rows.chunks()
    client.ltrim("list", 150, -1)
    after = await rows.chunks()
    assert 0 < len(after) < len(before)
    assert after.items() <= before.items()
    assert client.lrange("list", 0, -1) == MESSAGES[150:]


async def test_a_list_that_has_become_short_is_in_one_piece_again(client: redis.Redis, rows: Rows) -> None:
    kind, _ = await rows.root()
    client.ltrim("list", -10, -1)
    assert await rows.chunks() == {}
    assert (await rows.root())[0] != kind
    assert client.lrange("list", 0, -1) == MESSAGES[-10:]


async def test_sizes_are_of_the_whole(client: redis.Redis) -> None:
    raw = sum(map(len, MESSAGES))
    found = client.execute_command("TIER WHERE list")
    assert found[b"kind"] == b"list"
    assert raw < found[b"raw_size"] < 1.2 * raw
    assert client.memory_usage("list") == found[b"stored_size"] + len("list")
    assert client.type("list") == b"list"
    assert list(client.scan_iter(_type="list")) == [b"list"]


# --- when the key goes, or becomes another ---


@pytest.mark.parametrize(
    "end",
    [
        ["DEL", "list"],
        ["SET", "list", "a string"],
        ["RENAME", "other", "list"],
        ["RENAME", "list", "other"],
        ["EXPIRE", "list", "-1"],
        ["PEXPIRE", "list", "1"],
        ["LTRIM", "list", "1", "0"],
        ["LPOP", "list", "1000"],
        ["FLUSHDB"],
        ["EVAL", "redis.call('DEL', KEYS[1]) redis.call('RPUSH', KEYS[1], 'a')", "1", "list"],
    ],
    ids=" ".join,
)
async def test_chunks_go_with_their_key(client: redis.Redis, rows: Rows, end: list[str]) -> None:
    client.rpush("other", *MESSAGES[:5])
    assert await rows.chunks()
    client.execute_command(*end)
    while await rows.chunks():  # what expires is swept
        pass


async def test_chunks_go_with_their_row(client: redis.Redis, rows: Rows) -> None:
    await rows.sql("delete from {} where key = 'list'")
    assert await rows.chunks() == {}


async def test_a_copy_has_chunks_of_its_own(client: redis.Redis, rows: Rows) -> None:
    client.copy("list", "copy")
    client.rpush("copy", b"more")
    assert not (await rows.chunks()).keys() & (await rows.chunks(b"copy")).keys()
    client.delete("list")
    assert client.lrange("copy", 0, -1) == [*MESSAGES, b"more"]


async def test_an_expiry_leaves_the_chunks_alone(client: redis.Redis, rows: Rows) -> None:
    before = await rows.chunks()
    client.expire("list", 1000)
    assert await rows.chunks() == before
    client.persist("list")
    assert client.lrange("list", 0, -1) == MESSAGES


# --- several writers ---


async def test_two_proxies_push_to_one_list(client: redis.Redis, rows: Rows, stack: ExitStack) -> None:
    clients = [client, serve(rows, stack)]
    for number in range(200):
        clients[number % 2].rpush("list", b"from %d: %d" % (number % 2, number))
        if not number % 10:
            clients[number // 10 % 2].lpop("list", 3)
    pushed = [b"from %d: %d" % (number % 2, number) for number in range(200)]
    for each in clients:
        wait_until(
            lambda each=each: each.lrange("list", 0, -1) == [*MESSAGES[60:], *pushed]
        )  # once it was told


async def test_a_reader_whose_chunks_were_replaced_reads_anew(rows: Rows, stack: ExitStack) -> None:
    options = {**CHUNKED, "cache_ttl": "1h"}  # and nobody tells: what is kept is old as soon as it is written
    other = serve(rows, stack, options, notify=False)
    grow(other)
    reader = serve(rows, stack, options, notify=False)
    assert reader.lrange("list", -5, -1) == MESSAGES[-5:]
    for number in range(0, 300, 10):
        other.lset("list", number, b"changed")
    assert reader.lrange("list", -5, -1) == MESSAGES[-5:]
    expected = [MESSAGES[number] if number % 10 else b"changed" for number in range(300)]
    assert reader.lrange("list", 0, -1) == expected


async def test_a_reader_that_is_overtaken_again_and_again_is_told(rows: Rows) -> None:
    tiers: list[Tier] = []
    for _ in range(2):
        store = PostgresStore("store", rows.url, clock=ManualClock(), table=rows.table, notify=False)
        await store.open()
        tiers.append(Tier(store, ManualClock(), shared=True, chunk_over=4000, chunk_size=1000))
    reader, writer = tiers
    await writer.send(b"RPUSH list " + b" ".join([b"element"] * 4000))
    await writer.send("RPUSH list more")
    numbers = itertools.count()

    async def overtake() -> None:
        await writer.send(f"LSET list {128 * next(numbers)} another")

    reader.store.before_load_chunks = overtake
    async with asyncio.timeout(30):
        reply = await reader.send("LRANGE list 0 -1")
        assert isinstance(reply, CommandError)
        assert reply.code == "CONFLICT"
        assert await reader.send("LLEN list") == 4001
    for tier in tiers:
        await tier.home.close()


async def test_a_transaction_changes_lists_in_chunks_together(client: redis.Redis) -> None:
    grow(client, "other")
    with client.pipeline() as transaction:
        transaction.rpush("list", b"more")
        transaction.lpop("other", 100)
        transaction.lrange("other", 0, 1)
        transaction.ltrim("list", 290, -1)
        replies = transaction.execute()
    assert replies == [301, MESSAGES[:100], MESSAGES[100:102], True]
    assert client.lrange("list", 0, -1) == [*MESSAGES[290:], b"more"]
    assert client.lrange("other", 0, -1) == MESSAGES[100:]


async def test_a_script_that_is_refused_leaves_the_list_as_it_was(client: redis.Redis) -> None:
    changes = "redis.call('LPOP', KEYS[1], 100) redis.call('RPUSH', KEYS[1], 'x')"
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.eval(f"{changes} return redis.call('INCR', KEYS[1])", 1, "list")
    listed = client.lrange("list", 0, -1)
    assert listed in (MESSAGES, [*MESSAGES[100:], b"x"])
    assert client.eval(f"{changes} return redis.call('LLEN', KEYS[1])", 1, "list") == len(listed) - 99
    assert client.lrange("list", 0, -1) == [*listed[100:], b"x"]


# --- other configurations ---


async def test_what_is_in_chunks_is_read_and_changed_without_them(rows: Rows, stack: ExitStack) -> None:
    with ExitStack() as first:
        grow(serve(rows, first))
    client = serve(rows, stack, {"chunk_over": 0})
    assert client.lrange("list", 0, -1) == MESSAGES
    client.rpush("list", b"more")
    assert await rows.chunks() == {}
    assert client.lrange("list", 0, -1) == [*MESSAGES, b"more"]


async def test_what_is_in_chunks_is_read_and_changed_behind_a_journal(rows: Rows, stack: ExitStack) -> None:
    with ExitStack() as first:
        grow(serve(rows, first))
    client = serve(rows, stack, {"write": "back"}, journal="journal")
    assert client.rpush("list", b"more") == 301
    assert client.lrange("list", 0, -1) == [*MESSAGES, b"more"]


@pytest.mark.parametrize("change", ["PERSIST list", "EVAL persist", "MULTI"])
async def test_an_expiry_that_stands_in_a_journal_names_no_chunks(
    rows: Rows, stack: ExitStack, change: str
) -> None:
    """The row may be swept, and its chunks with it, before what the journal has of it is flushed."""
    with ExitStack() as first:
        plain = serve(rows, first)
        grow(plain)
        plain.expire("list", 1000)
    client = serve(rows, stack, {"write": "back"}, journal="journal")
    if change == "MULTI":
        with client.pipeline() as transaction:
            transaction.set("beside", 1)
            transaction.persist("list")
            assert transaction.execute() == [True, True]
    elif change == "EVAL persist":
        assert client.eval("return redis.call('PERSIST', KEYS[1])", 1, "list") == 1
    else:
        assert client.execute_command(change) == 1
    assert client.ttl("list") == -1
    while await rows.chunks():  # it was flushed in one piece
        pass
    assert client.lrange("list", 0, -1) == MESSAGES


async def test_what_is_too_large_to_be_read_keeps_its_expiry_behind_a_journal(
    rows: Rows, stack: ExitStack
) -> None:
    with ExitStack() as first:
        grow(serve(rows, first))
    client = serve(rows, stack, {"write": "back", "max_value": "1kb"}, journal="journal")
    with pytest.raises(redis.ResponseError, match="can't stand in a journal"):
        client.expire("list", 1000)
    assert client.ttl("list") == -1
    assert await rows.chunks()


@pytest.mark.parametrize("dictionary", ["none", "auto"])
async def test_chunks_are_sealed_as_their_route_says(rows: Rows, stack: ExitStack, dictionary: str) -> None:
    options = {**CHUNKED, "integrity": "none", "compression_level": 19, "cache": False}
    if dictionary == "auto":
        options |= {"dictionary": "auto", "dictionary_samples": 100}
    client = serve(rows, stack, options)
    if dictionary == "auto":
        for number, message in enumerate(messages(150)):
            client.set(f"key {number}", message)
        wait_until(lambda: client.execute_command("TIER DICT")[0][b"in_use"] == 1)
    grow(client)
    assert client.lrange("list", 0, -1) == MESSAGES


# --- damage ---


async def replace(rows: Rows, id: int, sealed: bytes) -> None:
    await rows.sql("update {}_chunks set value = $2 where id = $1", id, sealed)


@pytest.mark.parametrize("kind", ["flipped", "swapped", "cut", "missing", "older"])
async def test_a_damaged_chunk_is_never_shown(rows: Rows, stack: ExitStack, kind: str) -> None:
    client = serve(rows, stack, {**CHUNKED, "cache": False})
    grow(client)
    older = await rows.chunks()
    client.lset("list", 90, b"changed")
    chunks = await rows.chunks()
    first, second = [id for id in chunks if id in older][:2]
    [new] = chunks.keys() - older.keys()
    if kind == "flipped":
        await replace(rows, first, flipped(chunks[first], 77))
    elif kind == "cut":
        await replace(rows, first, chunks[first][:-1])
    elif kind == "swapped":
        await replace(rows, first, chunks[second])
        await replace(rows, second, chunks[first])
    elif kind == "older":
        [old] = older.keys() - chunks.keys()
        await replace(rows, new, older[old])
    else:
        await rows.sql("delete from {}_chunks where id = $1", first)
    for command in (["LRANGE", "list", "0", "-1"], ["LPOS", "list", "none"], ["LPOP", "list", "300"]):
        with pytest.raises(redis.ResponseError, match="INTEGRITY"):
            client.execute_command(*command)
    assert client.lrange("list", -10, -1) == MESSAGES[-10:]  # where nothing is wrong
    verdict = client.execute_command("TIER VERIFY list")
    assert (verdict[b"verdict"], verdict[b"kind"]) == (b"damaged", b"list")
    assert b"chunk" in verdict[b"reason"]
    kept = client.execute_command("TIER QUARANTINE LIST")
    assert {each[b"kind"] for each in kept} == ({b"list"} if kind == "missing" else {b"list", b"chunk"})
    client.delete("list")
    assert client.rpush("list", b"anew") == 1


async def test_what_reads_past_a_tier_reads_chunks_too(
    client: redis.Redis, rows: Rows, tmp_path: Path
) -> None:
    """Copies, backups, verification, and repairs."""
    backends = {
        "backends.store": {"type": "postgres", "url": rows.url, "table": rows.table},
        "backends.second": {"type": "sqlite", "path": str(tmp_path / "second.db")},
        "backends.third": {"type": "postgres", "url": rows.url, "table": f"{rows.table}_third"},
    }
    (tmp_path / "my.toml").write_text(toml(backends, {"": "store"}, {"": CHUNKED}))
    client.expire("list", 100_000)

    def redtier(command: str, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "proxy", command, "--config", "my.toml", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(TREE)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    redtier("copy", "--from", "store", "--to", "second")
    redtier("backup", "--from", "store", "--to", "archive")
    redtier("restore", "--from", "archive", "--to", "third")
    redtier("copy", "--from", "third", "--to", "second")
    redtier("verify", "--backend", "store")
    chunks = await rows.chunks()
    await replace(rows, max(chunks), flipped(chunks[max(chunks)], 9))
    assert f"chunk {max(chunks)}" in redtier("verify", "--backend", "store", code=1)
    redtier("verify", "--backend", "store", "--repair-from", "second")
    assert await rows.chunks() == {}  # it is in one piece until it is changed again
    assert client.lrange("list", 0, -1) == MESSAGES
    assert client.rpush("list", b"more") == 301
    assert await rows.chunks()


# --- streams ---


def add(client: redis.Redis, key: str = "stream") -> list[tuple[bytes, dict[bytes, bytes]]]:
    pipeline = client.pipeline(transaction=False)
    for number, message in enumerate(MESSAGES, 1):
        pipeline.xadd(key, {"message": message}, id=f"{number}-0")
    pipeline.execute()
    return [(b"%d-0" % number, {b"message": message}) for number, message in enumerate(MESSAGES, 1)]


@pytest.fixture
def streaming(rows: Rows, stack: ExitStack) -> redis.Redis:
    return serve(rows, stack, {**CHUNKED, "cache": False})


async def test_an_entry_is_added_and_the_last_are_read_without_what_is_before(
    streaming: redis.Redis, rows: Rows
) -> None:
    entries = add(streaming)
    before = await rows.chunks(b"stream")
    assert len(before) > 3
    await rows.sql("delete from {0}_chunks where id <> (select max(id) from {0}_chunks)")
    streaming.xgroup_create("stream", "group", id="290-0")
    streaming.xadd("stream", {"message": "more"}, id="301-0")
    more = (b"301-0", {b"message": b"more"})
    assert streaming.xrevrange("stream", count=5) == [more, *entries[:-5:-1]]
    assert streaming.xrange("stream", min="298-0") == [*entries[-3:], more]
    assert streaming.xread({"stream": "299-0"}) == {b"stream": [[entries[-1], more]]}
    given = streaming.xreadgroup("group", "consumer", {"stream": ">"}, count=2)
    assert given == {b"stream": [entries[290:292]]}
    assert streaming.xack("stream", "group", "291-0") == 1
    assert streaming.xlen("stream") == 301
    assert streaming.xtrim("stream", minid="290-0", approximate=False) == 289
    assert streaming.xrange("stream") == [*entries[289:], more]


async def test_a_stream_in_chunks_is_trimmed_and_groups_read_it(streaming: redis.Redis, rows: Rows) -> None:
    entries = add(streaming)
    before = await rows.chunks(b"stream")
    streaming.xgroup_create("stream", "group", id="0")
    seen = []
    while given := streaming.xreadgroup("group", "consumer", {"stream": ">"}, count=40):
        seen += given[b"stream"][0]
    assert seen == entries
    assert streaming.xreadgroup("group", "consumer", {"stream": "100"}, count=3) == {
        b"stream": [entries[100:103]]
    }
    assert await rows.chunks(b"stream") == before
    assert streaming.xdel("stream", "5-0", "150-0", "299-0", "1000-0") == 3
    streaming.xadd("stream", {"message": "more"}, id="301-0", maxlen=200, approximate=False)
    left = [entry for number, entry in enumerate(entries) if number not in (4, 149, 298)][-199:]
    assert streaming.xrange("stream") == [*left, (b"301-0", {b"message": b"more"})]
    assert len(await rows.chunks(b"stream")) < len(before)
    streaming.delete("stream")
    assert await rows.chunks(b"stream") == {}


async def test_a_damaged_chunk_of_a_stream_is_never_shown(streaming: redis.Redis, rows: Rows) -> None:
    entries = add(streaming)
    chunks = await rows.chunks(b"stream")
    await replace(rows, min(chunks), flipped(chunks[min(chunks)], 77))
    with pytest.raises(redis.ResponseError, match="INTEGRITY"):
        streaming.xrange("stream")
    assert streaming.xrange("stream", min="200-0") == entries[199:]
    assert streaming.execute_command("TIER VERIFY stream")[b"verdict"] == b"damaged"
