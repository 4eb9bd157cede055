"""Large values of a Postgres route as blobs in S3: what clients see, and what is left when all is killed."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import itertools
import random
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import redis
import redis.asyncio

from tests import s3
from tests.cdn import CdnServer
from tests.faultproxy import Direction, FaultProxy
from tests.homes import toml
from tests.servers import MotoServer, PostgresServer, RedtierServer, eventually

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.once  # it takes long

TEXT = random.Random(1).randbytes(20_000).hex().encode() * 10  # 400 KB, and shrinks
NOISE = random.Random(2).randbytes(400_000)

_tables = itertools.count()
Start = Callable[..., "Offloading"]


class Offloading:
    """A redtier that offloads, and the insides of what is behind it."""

    def __init__(self, postgres: PostgresServer, moto: MotoServer, options: dict[str, Any]) -> None:
        self.table = f"offload_{next(_tables)}"
        self.place = s3.place(moto)
        self.bucket = s3.raw_client(moto)
        self._postgres = postgres
        self.server = self._server(options)

    def _server(self, options: dict[str, Any]) -> RedtierServer:
        place = {name: value for name, value in self.place.items() if name != "single_writer"}
        tables = {
            "backends.archive": {"type": "postgres", "url": self._postgres.url, "table": self.table},
            "backends.blobs": {"type": "s3", **place, **options.get("blobs", {})},
            "backends.memory": {"type": "memory"},
            "backends.local": {"type": "sqlite", "path": "copy.db"},
        }
        tables["backends.archive"]["sweep_interval"] = "100ms"
        routes = {"long:": "archive", "copied:": "local", "": "memory"}
        tables["backends.archive"].update(options.get("archive", {}))
        text = toml(tables, routes, {"long:": {"cache": False, **options.get("long", {})}})
        offload = {"backend": "blobs", "grace": "1h", **options.get("offload", {})}
        inline = ", ".join(f'{name} = "{value}"' for name, value in offload.items())
        text = text.replace('prefix = "long:"\n', f'prefix = "long:"\noffload = {{ {inline} }}\n')
        return RedtierServer(text)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[redis.asyncio.Redis]:
        client = redis.asyncio.Redis(port=self.server.port, socket_timeout=30)
        async with client:
            await eventually_true(lambda: is_served(client))
            yield client

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Connection]:
        connection = await asyncpg.connect(self._postgres.url)
        try:
            yield connection
        finally:
            await connection.close()

    async def rows(self, query: str) -> list[asyncpg.Record]:
        async with self.database() as database:
            rows: list[asyncpg.Record] = await database.fetch(query.format(table=self.table))
            return rows

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A subcommand of redtier, with the server's configuration."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "proxy", command[0], "--config", "redtier.toml", *command[1:]],
            cwd=self.server.directory,
            env=self.server.environment(),
            capture_output=True,
            text=True,
            timeout=50,
        )

    def objects(self) -> list[str]:
        listed = self.bucket.list_objects_v2(Bucket=s3.BUCKET, Prefix=f"{self.place['prefix']}/b/")
        return [entry["Key"] for entry in listed.get("Contents", ())]

    async def forget_grace(self) -> None:
        """As if all that nothing points to had been so for longer than the grace period."""
        await self.rows("update {table}_blobs set idle_since = 0 where refs = 0")


async def is_served(client: redis.asyncio.Redis) -> bool:
    try:
        return await client.exists("long:nothing") == 0
    except redis.RedisError:
        return False


async def eventually_true(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await check():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def fetch(url: str) -> tuple[bytes, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20) as answer:
        return answer.read(), answer.headers.get("Content-Encoding", "")


@pytest.fixture
def start(postgres: PostgresServer, s3_moto: MotoServer) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(**options: Any) -> Offloading:
            offloading = Offloading(postgres, s3_moto, options)
            stack.callback(offloading.bucket.close)
            stack.enter_context(offloading.server)
            return offloading

        yield start


async def test_a_large_value_lies_in_the_bucket_and_a_pointer_in_its_row(start: Start) -> None:
    home = start()
    async with home.client() as client:
        await client.set("long:text", TEXT)
        await client.set("long:noise", NOISE)
        await client.set("long:small", b"x" * 1000)
        assert await client.get("long:text") == TEXT
        assert await client.get("long:noise") == NOISE
        names = {name.rpartition("/")[2] for name in home.objects()}
        assert names == {hashlib.sha256(value).hexdigest() for value in (TEXT, NOISE)}
        [row] = await home.rows("select max(octet_length(value)) from {table}")
        assert row[0] < 100
        fields = await client.execute_command("TIER WHERE long:text")
        assert fields[b"blob"].endswith(hashlib.sha256(TEXT).hexdigest().encode())
        assert fields[b"raw_size"] == len(TEXT)


async def test_a_url_gives_any_client_the_raw_value(start: Start) -> None:
    home = start()
    async with home.client() as client:
        await client.set("long:text", TEXT)
        url = await client.execute_command("TIER URL long:text EX 60")
        assert b"X-Amz-Expires=60" in url
        body, coding = await asyncio.to_thread(fetch, url.decode())
        assert (gzip.decompress(body), coding) == (TEXT, "gzip")
        # What does not shrink is as it is.
        await client.set("long:noise", NOISE)
        url = await client.execute_command("TIER URL long:noise")
        assert await asyncio.to_thread(fetch, url.decode()) == (NOISE, "")

        # Who has none.
        assert await client.execute_command("TIER URL long:nothing") is None
        await client.set("long:small", "x")
        await client.rpush("long:list", *[b"x" * 1000] * 400)
        await client.set("memory", "x")
        for line, error in [
            ("long:small", "not offloaded"),
            ("memory", "not offloaded"),
            ("long:list", "WRONGTYPE"),
            ("long:small EX 0", "EX must be"),
            ("long:small PX 1", "syntax"),
        ]:
            with pytest.raises(redis.ResponseError, match=error):
                await client.execute_command(f"TIER URL {line}")


async def test_collections_and_changes_of_large_values(start: Start) -> None:
    home = start()
    async with home.client() as client:
        await client.rpush("long:list", *[b"x" * 1000] * 400)
        await client.rpush("long:list", b"last")
        assert await client.lrange("long:list", -2, -1) == [b"x" * 1000, b"last"]
        await client.delete("long:list")  # once it has grown it is in chunks
        await client.hset("long:hash", mapping={f"{number}": b"x" * 1000 for number in range(400)})
        await client.hset("long:hash", "last", "more")
        assert await client.hmget("long:hash", "399", "last") == [b"x" * 1000, b"more"]
        await client.set("long:s", TEXT)
        await client.append("long:s", b"!")
        assert await client.strlen("long:s") == len(TEXT) + 1
        assert await client.expire("long:s", 1000)
        assert await client.get("long:s") == TEXT + b"!"
        await client.rename("long:s", "long:t")
        assert await client.get("long:t") == TEXT + b"!"
        async with client.pipeline(transaction=True) as pipe:
            pipe.set("long:a", TEXT)
            pipe.set("long:b", NOISE)
            pipe.get("long:a")
            assert (await pipe.execute())[2] == TEXT
        refs = await home.rows("select refs from {table}_blobs where refs > 0")
        assert [row["refs"] for row in refs] == [1, 1, 1, 1]


async def test_equal_values_share_a_blob_which_goes_with_the_last_of_them(start: Start) -> None:
    home = start()
    async with home.client() as client:
        for name in ("a", "b", "c", "d"):
            await client.set(f"long:{name}", TEXT)
        assert len(home.objects()) == 1
        await client.delete("long:a")
        await client.set("long:b", b"small")
        await client.set("long:c", NOISE)
        await home.forget_grace()
        assert [row[0] for row in await home.rows("select refs from {table}_blobs")].count(1) == 2
        assert await client.get("long:d") == TEXT
        await client.pexpire("long:d", 1)  # the sweeper takes it
        await eventually_true(lambda: gone(home, "select from {table} where key = 'long:d'"))
        assert len(home.objects()) == 2  # for the grace period
        await home.forget_grace()
        await eventually(lambda: len(home.objects()) == 1)
        assert await client.get("long:c") == NOISE


async def gone(home: Offloading, query: str) -> bool:
    return not await home.rows(query)


async def test_a_damaged_blob_is_never_returned(start: Start) -> None:
    home = start(offload={"encoding": "none"})
    async with home.client() as client:
        await client.set("long:text", TEXT)
        await client.set("long:noise", NOISE)
        [name] = [name for name in home.objects() if name.endswith(hashlib.sha256(TEXT).hexdigest())]
        damaged = bytes((TEXT[0] ^ 1,)) + TEXT[1:]
        home.bucket.put_object(Bucket=s3.BUCKET, Key=name, Body=damaged)
        with pytest.raises(redis.ResponseError, match="INTEGRITY"):
            await client.get("long:text")
        home.bucket.delete_object(Bucket=s3.BUCKET, Key=name)
        with pytest.raises(redis.ResponseError, match="INTEGRITY"):
            await client.get("long:text")
        assert await client.get("long:noise") == NOISE
        assert await client.exists("long:text")


async def test_copies_and_verification_read_what_is_offloaded(start: Start) -> None:
    home = start()
    async with home.client() as client:
        await client.set("long:text", TEXT)
        await client.set("long:noise", NOISE)
        copied = await asyncio.to_thread(home.run, "copy", "--from", "archive", "--to", "local")
        assert copied.returncode == 0, copied.stderr
        copy = sqlite3.connect(home.server.directory / "copy.db")
        sizes = copy.execute("select key, raw_size from redtier where db = 0 order by key").fetchall()
        copy.close()
        assert sizes == [(b"long:noise", len(NOISE)), (b"long:text", len(TEXT))]
        sound = await asyncio.to_thread(home.run, "verify", "--backend", "archive")
        assert sound.returncode == 0, sound.stderr
        [name] = [name for name in home.objects() if name.endswith(hashlib.sha256(TEXT).hexdigest())]
        home.bucket.delete_object(Bucket=s3.BUCKET, Key=name)
        damaged = await asyncio.to_thread(home.run, "verify", "--backend", "archive")
        assert damaged.returncode == 1
        assert "long:text" in damaged.stdout + damaged.stderr
        assert "long:noise" not in damaged.stdout + damaged.stderr
        mended = await asyncio.to_thread(home.run, "verify", "--backend", "archive", "--repair-from", "local")
        assert mended.returncode == 0, mended.stderr
        assert await client.get("long:text") == TEXT


async def test_without_the_bucket_only_large_values_fail(
    start: Start, s3_moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(s3_moto.port) as network:
        home = start(blobs={"endpoint_url": f"http://127.0.0.1:{network.port}"})
        async with home.client() as client:
            await client.set("long:text", TEXT)
            await client.set("long:small", b"small")
            network.refuse()
            network.cut()
            with pytest.raises(redis.ResponseError, match=r"BACKENDDOWN.*blobs"):
                await client.get("long:text")
            with pytest.raises(redis.ResponseError, match=r"BACKENDDOWN.*blobs"):
                await client.set("long:noise", NOISE)
            assert await client.get("long:small") == b"small"
            assert await client.ttl("long:text") == -1
            assert await client.exists("long:noise") == 0
            home.server.kill()
            home.server.start()
            async with home.client() as again:
                assert await again.get("long:small") == b"small"
                network.refuse(False)
                await eventually_true(lambda: reads(again, "long:text", TEXT))


async def test_behind_a_journal_values_are_kept_and_have_urls(start: Start, s3_moto: MotoServer) -> None:
    with FaultProxy(s3_moto.port) as network:
        home = start(
            blobs={"endpoint_url": f"http://127.0.0.1:{network.port}"},
            archive={"journal": "journal"},
            long={"write": "back"},
        )
        async with home.client() as client:
            # Asked for at once, it is that of the value that was just written, which is flushed for it.
            for value in (NOISE, TEXT):
                await client.set("long:text", value)
                url = await client.execute_command("TIER URL long:text")
                assert hashlib.sha256(value).hexdigest().encode() in url
            assert await client.get("long:text") == TEXT

            network.refuse()
            network.cut()
            other = NOISE[::-1]  # whose blob is not there yet
            await client.set("long:text", other)
            await client.set("long:small", b"small")
            assert await client.get("long:text") == other
            assert (await client.execute_command("TIER VERIFY long:text"))[b"verdict"] == b"sound"
            fields = await client.execute_command("TIER WHERE long:text")
            assert (fields[b"raw_size"], fields[b"blob"]) == (len(other), b"")
            home.server.kill()
        home.server.start()
        async with home.client() as client:
            assert await client.get("long:text") == other
            assert await client.get("long:small") == b"small"
            network.refuse(False)
            url = await client.execute_command("TIER URL long:text")
            body, _ = await asyncio.to_thread(fetch, url.decode())
            assert body == other
            assert await client.dbsize() == 2
            assert await client.get("long:text") == other
            await client.delete("long:text")
            assert await client.execute_command("TIER URL long:text") is None
            await client.dbsize()
            await home.forget_grace()
            await eventually(lambda: home.objects() == [])


async def reads(client: redis.asyncio.Redis, name: str, value: bytes) -> bool:
    try:
        return bool(await client.get(name) == value)
    except redis.ResponseError as error:
        if "BACKENDDOWN" not in str(error):
            raise
        return False


async def test_killed_between_the_blob_and_its_row_nothing_is_half_there(start: Start) -> None:
    home = start()
    async with home.client() as client, home.database() as database, database.transaction():
        await database.execute(f"lock table {home.table} in share row exclusive mode")
        write = asyncio.create_task(client.set("long:text", TEXT))
        await eventually(lambda: len(home.objects()) == 1)
        home.server.kill()
        with pytest.raises(redis.RedisError):
            await write
        # What it has sent to the database dies with it.
        await home.rows(
            "select pg_terminate_backend(pid) from pg_locks"
            " where relation = '{table}'::regclass and not granted"
        )
    assert await home.rows("select from {table}") == []
    home.server.start()
    async with home.client() as client:
        assert await client.get("long:text") is None
        assert len(home.objects()) == 1  # for the grace period
        await home.forget_grace()
        await eventually(lambda: home.objects() == [])
        await eventually_true(lambda: gone(home, "select from {table}_blobs"))


@pytest.mark.parametrize("deleted", [False, True], ids=["before the bucket", "after the bucket"])
async def test_killed_while_it_collects_it_harms_no_later_value(
    deleted: bool, start: Start, s3_moto: MotoServer
) -> None:
    with FaultProxy(s3_moto.port) as network:
        home = start(blobs={"endpoint_url": f"http://127.0.0.1:{network.port}"})
        async with home.client() as client:
            await client.set("long:text", TEXT)
            await client.delete("long:text")
            network.stall(Direction.UP)
            await home.forget_grace()
            await eventually_true(lambda: marked(home))
            async with home.database() as database, database.transaction():
                await database.execute(f"select from {home.table}_blobs for update")
                if deleted:
                    network.resume(Direction.UP)
                    await eventually(lambda: home.objects() == [])
                home.server.kill()
                await home.rows(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where wait_event_type = 'Lock' and query like '%{table}_blobs%'"
                )
        assert await marked(home)
        network.cut()
        network.resume(Direction.UP)
        home.server.start()
        async with home.client() as client:
            await client.set("long:text", TEXT)
            assert len(home.objects()) == (1 if deleted else 2)  # the new one has another name
            await home.forget_grace()
            await eventually_true(lambda: no_longer_marked(home))
            assert len(home.objects()) == 1
            assert await client.get("long:text") == TEXT


async def no_longer_marked(home: Offloading) -> bool:
    return not await marked(home)


async def marked(home: Offloading) -> bool:
    return bool(await home.rows("select from {table}_blobs where deleting"))


async def test_a_cdn_is_read_through_and_never_believed(start: Start, s3_moto: MotoServer) -> None:
    with CdnServer(s3_moto, s3.BUCKET) as cdn:
        home = start(blobs={"cdn_url": cdn.url})

        async def counts() -> tuple[int, ...]:
            info = await client.info("everything")
            [tier] = [each for each in info.values() if isinstance(each, dict) and "cdn_hits" in each]
            return tuple(tier[name] for name in ("cdn_hits", "cdn_misses", "cdn_fallbacks"))

        async with home.client() as client:
            await client.set("long:text", TEXT)
            url = (await client.execute_command("TIER URL long:text")).decode()
            assert url.startswith(cdn.url)
            assert await client.get("long:text") == TEXT
            assert await counts() == (0, 1, 0)
            assert await client.get("long:text") == TEXT
            assert await counts() == (1, 1, 0)
            body, coding = await asyncio.to_thread(fetch, url)
            assert (gzip.decompress(body), coding) == (TEXT, "gzip")
            cdn.be("corrupt")
            assert await client.get("long:text") == TEXT
            cdn.be("failing")
            assert await client.get("long:text") == TEXT
            assert await counts() == (1, 1, 2)
            cdn.kill()
            assert await client.get("long:text") == TEXT
            assert await counts() == (1, 1, 3)
