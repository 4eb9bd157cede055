"""Walks over all keys: pages and order are each server's own, what is met is the same as in Redis."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.resp import Argv
from tests.differential.compare import Open
from tests.differential.frames import decode
from tests.differential.targets import SERVER_SESSIONS, SERVERS, Target, connect
from tests.servers import RedisServer

NAMES = [
    b"a",
    b"aa",
    b"ab",
    b"b",
    b"bb",
    b"",
    b"\xff\r\n",
    b"k*",
    *(b"%c:%d" % (c, n) for c in b"abc" for n in range(8)),
]
SCANS = [
    "",
    "COUNT 1",
    "COUNT 3 TYPE string",
    "COUNT 10000",
    "COUNT 9223372036854775807",
    "MATCH *",
    "MATCH a*",
    "match b:[1-3] count 2",
    "MATCH ?b",
    "MATCH [^a]*",
    "MATCH k\\*",
    "MATCH nosuch*",
    "TYPE STRING MATCH a",
    "TYPE list",
    "TYPE nosuch",
    "MATCH a* MATCH b*",
]


async def walk(session: Target, options: Argv) -> list[bytes]:
    cursor, met = b"0", []
    while True:
        cursor, names = decode(await session.send([b"SCAN", cursor, *options]))
        met += names
        if cursor == b"0":
            return sorted(met)


@pytest.mark.parametrize(("target", "proto"), SERVER_SESSIONS)
async def test_walks_meet_the_same_keys(
    redis_server: RedisServer, opener: Callable[[str], Open], target: str, proto: int
) -> None:
    async with connect(redis_server.port, proto) as redis, opener(target)(proto) as session:
        for db, names in ((b"0", NAMES), (b"7", NAMES[:3])):
            for each in (redis, session):
                await each.send_all([[b"SELECT", db], *([b"SET", name, b"v"] for name in names)])
            for options in SCANS:
                argv = options.encode().split()
                expected = await walk(redis, argv)
                assert await walk(session, argv) == expected, options


@pytest.mark.parametrize("target", SERVERS)
async def test_a_random_key_may_be_any(opener: Callable[[str], Open], target: str) -> None:
    names = {b"a", b"b", b"k", b"aa"}
    async with opener(target)(3) as session:
        await session.send_all([[b"SET", name, b"v"] for name in names])
        met: set[bytes] = set()
        while met != names:  # the test's timeout ends this
            met.add(decode(await session.send([b"RANDOMKEY"])))
            assert met <= names
