"""The written sequences, against every target, in both protocol versions; those in ``servers`` need a server,
those in ``redis`` a Redis behind it.

``corpus/*.txt``: a line a request, split at blanks; an argument in double quotes is written like a Python
bytes literal.  ``# title`` begins a sequence, on empty databases.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest

from proxy.resp import Argv
from tests.differential.compare import Open, compare
from tests.differential.refusals import REFUSALS, Refusal
from tests.differential.targets import SERVER_SESSIONS, SESSIONS, asked_twice
from tests.servers import RedisServer

CORPUS = Path(__file__).parent / "corpus"
ARGUMENT = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"]+')


def sequences(path: Path) -> Iterator[tuple[str, list[Argv]]]:
    title = ""
    requests: list[Argv] = []
    for line in [*path.read_text().splitlines(), "# end"]:
        if line.startswith("# "):
            if requests:
                yield f"{path.stem}: {title}", requests
            title, requests = line[2:], []
        elif line:
            requests.append([argument(word) for word in ARGUMENT.findall(line)])


def argument(word: str) -> bytes:
    if word.startswith('"'):
        value = ast.literal_eval("b" + word)
        assert isinstance(value, bytes)
        return value
    return word.encode()


SEQUENCES = dict(chain.from_iterable(map(sequences, sorted(CORPUS.glob("*.txt")))))
OF_SERVERS = dict(chain.from_iterable(map(sequences, sorted(CORPUS.glob("servers/*.txt")))))
OF_REDIS = dict(chain.from_iterable(map(sequences, sorted(CORPUS.glob("redis/*.txt")))))


STORED = ("dump: DUMP", "keys: OBJECT ENCODING", "scripting: read-only scripts")
"""Sequences that show strings as a Redis has them, which may be sealed."""


@pytest.mark.parametrize(("target", "proto"), SESSIONS)
@pytest.mark.parametrize("title", SEQUENCES)
async def test_a_sequence_is_answered_as_redis_answers_it(
    redis_server: RedisServer, opener: Callable[[str], Open], title: str, target: str, proto: int
) -> None:
    requests = SEQUENCES[title]
    if target == "sealed" and title in STORED:
        pytest.skip("it shows what is stored")
    if target == "near":
        requests = asked_twice(requests)
    await compare(redis_server.port, opener(target), proto, requests, REFUSALS[target])


@pytest.mark.parametrize(("target", "proto"), SERVER_SESSIONS)
@pytest.mark.parametrize("title", OF_SERVERS)
async def test_what_only_a_server_can_be_asked_is_answered_as_redis_answers_it(
    redis_server: RedisServer, opener: Callable[[str], Open], title: str, target: str, proto: int
) -> None:
    requests = OF_SERVERS[title]
    if target == "near":
        requests = asked_twice(requests)
    await compare(redis_server.port, opener(target), proto, requests, REFUSALS[target])


@pytest.mark.once
@pytest.mark.parametrize("proto", [2, 3])
@pytest.mark.parametrize("title", OF_REDIS)
async def test_what_only_a_redis_can_be_asked_is_answered_as_redis_answers_it(
    redis_server: RedisServer, opener: Callable[[str], Open], title: str, proto: int
) -> None:
    await compare(redis_server.port, opener("redis"), proto, OF_REDIS[title], REFUSALS["redis"])


@pytest.mark.parametrize(
    ("target", "refusal"), [(name, each) for name in REFUSALS for each in REFUSALS[name].values()]
)
async def test_what_a_target_refuses_it_does_refuse(
    opener: Callable[[str], Open], target: str, refusal: Refusal
) -> None:
    argv = refusal.example.encode().split()
    async with opener(target)(2) as session:
        await session.send([b"SET", b"a", b"1"])
        for request in refusal.before:
            await session.send(request.encode().split())
        assert await session.send(argv) == refusal.error(argv).wire, refusal.reason
