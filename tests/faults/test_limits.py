"""Clients that ask for much at once, or never read what they asked for; and memory that is full."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

import pytest
import redis

from tests import s3
from tests.faults.load import Client
from tests.homes import PREFIXES, config
from tests.rawclient import RawClient
from tests.servers import MotoServer, PostgresServer, RedisServer, RedtierServer, wait_until

pytestmark = pytest.mark.once

MB = 1 << 20
COMMANDS = 10_000


@pytest.fixture(scope="module")
def redtier(
    redis_server: RedisServer, postgres: PostgresServer, s3_moto: MotoServer
) -> Iterator[RedtierServer]:
    table = {"backends.postgres": {"table": "limits"}}
    with RedtierServer(config(redis_server.url, postgres.url, s3.place(s3_moto), table)) as redtier:
        asyncio.run(until_served(redtier))
        yield redtier


async def until_served(redtier: RedtierServer) -> None:
    async with await Client.connect(redtier.port) as client:
        await client.until_served(*PREFIXES.values())


@pytest.mark.parametrize("kind", PREFIXES)
async def test_ten_thousand_pipelined_commands(kind: str, redtier: RedtierServer) -> None:
    prefix = PREFIXES[kind] + "many:"
    count = 40 if kind == "s3" else COMMANDS // 2  # keys; reads are answered by the near cache
    async with await Client.connect(redtier.port) as client:
        written = [("SET", f"{prefix}{number}", number) for number in range(count)]
        read = [("GET", f"{prefix}{number % count}") for number in range(COMMANDS - count)]
        replies = await client.pipeline([*written, *read])
    assert replies == [b"OK"] * count + [b"%d" % (number % count) for number in range(COMMANDS - count)]


async def test_ten_thousand_commands_on_all_routes_mixed(redtier: RedtierServer) -> None:
    chance = random.Random(1)
    values: dict[str, bytes | None] = {
        f"{prefix}mixed:{number}": None for prefix in PREFIXES.values() for number in range(10)
    }
    names = list(values)
    commands: list[tuple[str | bytes, ...]] = []
    expected: list[object] = []
    for number in range(COMMANDS):
        name = chance.choice(names)
        if chance.random() < 0.02:  # a write waits until those to other backends are acknowledged
            values[name] = b"%d" % number
            commands.append(("SET", name, values[name] or b""))
            expected.append(b"OK")
        elif chance.random() < 0.02:
            some = chance.sample(names, 5)
            commands.append(("MGET", *some))
            expected.append([values[each] for each in some])
        else:
            commands.append(("GET", name))
            expected.append(values[name])
    async with await Client.connect(redtier.port) as client:
        assert await client.pipeline(commands) == expected


@pytest.mark.parametrize("kind", PREFIXES)
async def test_values_of_8_mb(kind: str, redtier: RedtierServer) -> None:
    noise = os.urandom(8 * MB)
    texts = (b"the same again and again " * (8 * MB // 25 + 1))[: 8 * MB]
    key = PREFIXES[kind] + "large"
    async with await Client.connect(redtier.port) as client, await Client.connect(redtier.port) as other:
        for value in (noise, texts):
            at_work = asyncio.create_task(
                client.pipeline([("SET", key, value), ("GET", key), ("STRLEN", key), ("APPEND", key, "!")])
            )
            while not at_work.done():
                assert await other.ask("SET", "short:small", "x") == b"OK"
            replies = await at_work
            assert replies[1] == value
            assert replies[::2] == [b"OK", len(value)]
            assert replies[3] == len(value) + 1
            assert await other.ask("GETRANGE", key, -3, -1) == value[-2:] + b"!"
        assert await client.ask("DEL", key) == 1


LIMITED = """
[server]
output_buffer_max = "1mb"
[backends.hot]
type = "memory"
[backends.main]
type = "redis"
url = "{url}"
[backends.local]
type = "sqlite"
path = "redtier.db"
[[routes]]
prefix = ""
backend = "hot"
[[routes]]
prefix = "working:"
backend = "main"
[[routes]]
prefix = "note:"
backend = "local"
cache = false
"""


@pytest.fixture(scope="module")
def limited(redis_server: RedisServer) -> Iterator[RedtierServer]:
    with RedtierServer(LIMITED.format(url=redis_server.url)) as redtier:
        yield redtier


class TestAClientThatDoesNotRead:
    SIZE, TIMES = 100_000, 1000

    def test_is_read_no_further_until_it_reads(self, limited: RedtierServer) -> None:
        with RawClient(limited.port) as client, limited.client() as other:
            value = "x" * self.SIZE
            client.ask(f"SET short:value {value}")
            client.send(*["GET short:value"] * self.TIMES)
            other.set("short:other", "y")
            for _ in range(100):
                assert other.get("short:other") == b"y"
            (session,) = [each for each in other.client_list() if each["addr"] == client.address]
            assert int(session["omem"]) <= MB
            for _ in range(self.TIMES):
                assert client.frame() == b"$%d\r\n%b\r\n" % (self.SIZE, value.encode())
            assert client.ask("ECHO done") == b"$4\r\ndone\r\n"

    @pytest.mark.parametrize("prefix", ["working:", "note:"])
    def test_is_cut_where_more_replies_come_than_its_limit(self, prefix: str, limited: RedtierServer) -> None:
        with RawClient(limited.port) as client, limited.client() as other:
            client.ask(f"SET {prefix}value {'x' * self.SIZE}")
            other.set(prefix + "other", "y")
            # What lies between keeps the replies apart: those to commands side by side come as one.
            client.send(*[f"GET {prefix}value", "ECHO x"] * self.TIMES)

            def is_gone() -> bool:
                assert other.get(prefix + "other") == b"y"
                return client.address not in [each["addr"] for each in other.client_list()]

            wait_until(is_gone)
            assert limited.log_tail().count(f"client {client.address} is cut") == 1
            with pytest.raises((EOFError, ConnectionResetError)):
                [client.frame() for _ in range(2 * self.TIMES)]


FULL = "".join(
    f"""
[backends.{policy}]
type = "memory"
max_bytes = "1mb"
policy = "{policy}"
[[routes]]
prefix = "{prefix}"
backend = "{policy}"
"""
    for prefix, policy in {
        "": "allkeys-lru",
        "vl:": "volatile-lru",
        "vt:": "volatile-ttl",
        "no:": "noeviction",
    }.items()
)


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    """Of a redtier with 1 MB for each policy."""
    with RedtierServer(FULL) as redtier, redtier.client() as client:
        yield client


class TestMemoryThatIsFull:
    VALUE = b"x" * 10_000

    def fill(self, client: redis.Redis, prefix: str, ttl: int | None = None) -> list[int]:
        """The numbers of 200 keys, two times as much as there is room for, that are there at the end."""
        client.set(prefix + "touched", self.VALUE, ex=ttl)
        for number in range(200):
            client.set(f"{prefix}{number}", self.VALUE, ex=ttl)
            client.get(prefix + "touched")
        assert client.exists(prefix + "touched")
        return [number for number in range(200) if client.exists(f"{prefix}{number}")]

    def test_allkeys_lru_drops_what_was_used_longest_ago(self, client: redis.Redis) -> None:
        left = self.fill(client, "al:")
        assert left == list(range(200 - len(left), 200))
        assert 80 < len(left) < 105

    def test_volatile_lru_drops_only_what_expires(self, client: redis.Redis) -> None:
        client.set("vl:kept", self.VALUE)
        left = self.fill(client, "vl:", ttl=1000)
        assert left == list(range(200 - len(left), 200))
        assert 80 < len(left) < 105
        assert client.get("vl:kept") == self.VALUE
        with pytest.raises(redis.OutOfMemoryError):
            [client.set(f"vl:for good:{number}", self.VALUE) for number in range(200)]
        assert client.get("vl:kept") == self.VALUE

    def test_volatile_ttl_drops_what_would_expire_first(self, client: redis.Redis) -> None:
        for number in range(200):
            client.set(f"vt:{number}", self.VALUE, ex=2000 - number)
        left = [number for number in range(200) if client.exists(f"vt:{number}")]
        # Who comes last would expire first, and is not its own victim.
        assert left[:-1] == list(range(len(left) - 1))
        assert 80 < len(left) < 105

    def test_noeviction_refuses_what_needs_room(self, client: redis.Redis) -> None:
        with pytest.raises(redis.OutOfMemoryError, match="command not allowed when used memory"):
            [client.set(f"no:{number}", self.VALUE) for number in range(200)]
        assert client.get("no:0") == self.VALUE
        with pytest.raises(redis.OutOfMemoryError):
            client.append("no:0", self.VALUE)
        assert client.delete(*(f"no:{number}" for number in range(20))) == 20
        assert client.set("no:again", self.VALUE)
