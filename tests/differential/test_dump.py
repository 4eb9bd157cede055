"""Values of every type and encoding go from redis-server to the handlers and back, by DUMP and RESTORE."""

from __future__ import annotations

import pytest

from proxy.resp import OK, Argv, encode_reply
from tests.differential.compare import same
from tests.differential.targets import HandlerTarget, SocketTarget, Target, connect
from tests.servers import RedisServer


def words(text: str) -> Argv:
    return text.encode().split()


def numbered(command: str, prefix: str, count: int, *more: str) -> Argv:
    """A command with many arguments, after each of which come ``more``."""
    return [
        *words(command),
        *[word for n in range(count) for word in words(" ".join((f"{prefix}{n}", *more)))],
    ]


LARGE = b"x" * 5000
TEXT = b"the same words over and over, " * 40
NUMBERS = [b"%d" % (sign * (1 << bits)) for bits in range(0, 63, 3) for sign in (1, -1)]

# What makes a value at k, by what is special about it.
STRINGS = {
    "short": [words("SET k v")],
    "empty": [[b"SET", b"k", b""]],
    "binary": [[b"SET", b"k", bytes(range(256))]],
    "8 bits": [words("SET k -128")],
    "16 bits": [words("SET k 32767")],
    "32 bits": [words("SET k -2147483648")],
    "64 bits": [words("SET k 9223372036854775807")],
    "no canonical number": [words("SET k 007")],
    "compressed": [[b"SET", b"k", TEXT]],
    "compressed to almost nothing": [[b"SET", b"k", bytes(100_000)]],
}
LISTS = {
    "packed": [[b"RPUSH", b"k", b"a", b"", b"1", b"-5000", b"x" * 100, *NUMBERS]],
    "of several nodes": [numbered("RPUSH k", "element:", 3000)],
    "with large elements": [[b"RPUSH", b"k", b"a", LARGE, b"b", LARGE * 4]],
    "compressed": [[b"RPUSH", b"k", *[TEXT] * 20]],
}
SETS = {
    "intset of 16 bits": [words("SADD k 1 2 3 -4")],
    "intset of 32 bits": [words("SADD k 1 100000 -100000")],
    "intset of 64 bits": [words("SADD k 1 9223372036854775807")],
    "hashtable": [[b"SADD", b"k", b"a", b"", b"1", LARGE]],
    "large hashtable": [numbered("SADD k", "member:", 2000)],
    "integers in a hashtable": [numbered("SADD k", "", 1000)],
}
HASHES = {
    "listpack": [[b"HSET", b"k", b"f", b"v", b"g", b"1", b"", b"", b"h", b"x" * 64]],
    "listpack of numbers": [[b"HSET", b"k", *[word for n in NUMBERS for word in (n, n)]]],
    "hashtable": [[b"HSET", b"k", b"f", LARGE, b"1", b"2"]],
    "large hashtable": [numbered("HSET k", "field:", 1000, "value")],
}
ZSETS = {
    "listpack": [words("ZADD k 1 a 2.5 b -3 1 inf c -inf d 1e300 e 0.1 f")],
    "skiplist": [[b"ZADD", b"k", b"1", LARGE, b"2", b"b", b"inf", b"c"]],
    "large skiplist": [[b"ZADD", b"k", *[word for n in range(1000) for word in (b"%d.5" % n, b"m%d" % n)]]],
}
STREAMS = {
    "entries": [words("XADD k 1-1 f v g 1"), words("XADD k 1-2 f w g 2"), words("XADD k 5-0 other 3")],
    "empty": [words("XADD k 1-1 f v"), words("XDEL k 1-1")],
    "many nodes": [words(f"XADD k {n}-{n % 3} f value{n} g {n}") for n in range(1, 350)],
    "deleted and trimmed": [
        *[words(f"XADD k {n}-1 f {n}") for n in range(1, 30)],
        words("XDEL k 7-1 9-1"),
        words("XTRIM k MAXLEN 20"),
    ],
    "groups": [
        *[words(f"XADD k {n}-1 f {n}") for n in range(1, 10)],
        words("XGROUP CREATE k g 0"),
        words("XGROUP CREATE k h 5-1 ENTRIESREAD 5"),
        words("XGROUP CREATE k unknown 3-1"),
        words("XGROUP CREATECONSUMER k g idle"),
        words("XREADGROUP GROUP g c COUNT 3 STREAMS k >"),
        words("XREADGROUP GROUP g d COUNT 2 STREAMS k >"),
        words("XACK k g 2-1"),
        words("XDEL k 1-1"),
    ],
}
VALUES = {
    f"{type}: {what}": made
    for type, all_made in (
        ("string", STRINGS),
        ("list", LISTS),
        ("set", SETS),
        ("hash", HASHES),
        ("zset", ZSETS),
        ("stream", STREAMS),
    )
    for what, made in all_made.items()
}
LOOK = {
    "string": ["GET k", "OBJECT ENCODING k"],
    "list": ["LRANGE k 0 -1", "OBJECT ENCODING k"],
    "set": ["SMEMBERS k", "OBJECT ENCODING k"],
    "zset": ["ZRANGE k 0 -1 WITHSCORES", "OBJECT ENCODING k"],
    "stream": [
        "XRANGE k - +",
        "XLEN k",
        "XINFO GROUPS k",
        "XPENDING k g",
        "XREADGROUP GROUP g c STREAMS k 0",
        "XADD k 1-1 too small",
    ],
    "hash": ["HGETALL k", "OBJECT ENCODING k"],
}


async def payload(target: Target, key: bytes = b"k") -> bytes:
    reply = await target.send([b"DUMP", key])
    return reply[reply.index(b"\r\n") + 2 : -2]


async def assert_alike(type: str, redis: SocketTarget, ours: Target) -> None:
    for look in LOOK[type]:
        theirs, mine = await redis.send(words(look)), await ours.send(words(look))
        assert same(words(look), theirs, mine), f"{look}\nredis-server: {theirs!r}\nhandlers:     {mine!r}"


@pytest.mark.parametrize("name", VALUES)
async def test_what_redis_dumps_is_restored_here(redis_server: RedisServer, name: str) -> None:
    ours = HandlerTarget(2)
    async with connect(redis_server.port, 2) as redis:
        await redis.send_all(VALUES[name])
        assert await ours.send([b"RESTORE", b"k", b"0", await payload(redis)]) == encode_reply(OK)
        await assert_alike(name.split(":")[0], redis, ours)


@pytest.mark.parametrize("name", VALUES)
async def test_what_is_dumped_here_is_restored_by_redis(redis_server: RedisServer, name: str) -> None:
    ours = HandlerTarget(2)
    async with connect(redis_server.port, 2) as redis:
        await ours.send_all(VALUES[name])
        await redis.send(words("CONFIG SET sanitize-dump-payload yes"))  # all that is in it is looked at
        reply = await redis.send([b"RESTORE", b"k", b"0", await payload(ours)])
        await redis.send(words("CONFIG SET sanitize-dump-payload no"))
        assert reply == encode_reply(OK)
        await assert_alike(name.split(":")[0], redis, ours)
