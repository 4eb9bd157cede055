"""That each command and option which is served is asked for, beside redis-server wherever that can be.

It counts what the written sequences ask for and redis-server 7.0, or the documentation of what is newer,
answers with anything but an error: test_corpus and test_documented play them against every target, in both
versions of the protocol.  What generators make up does not count, since it hangs on chance.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from proxy import commands, errors
from proxy.commands import debug
from proxy.commands.spec import Argument, CommandSpec, bind, every_spec, load_table, lookup
from proxy.resp import Argv
from tests.differential.compare import Open
from tests.differential.frames import decode
from tests.differential.targets import connect
from tests.differential.test_corpus import OF_REDIS, OF_SERVERS, SEQUENCES
from tests.differential.test_documented import DOCUMENTED
from tests.servers import RedisServer

pytestmark = pytest.mark.once

TESTS: Final = Path(__file__).parents[1]
ELSEWHERE: Final = {
    "clients/test_monitor.py": "monitor",
    "clients/test_purge.py": "tier|purge",
    "verifying/test_asking.py": "tier|quarantine, tier|verify",
    "commands/test_connection.py": """
        client|id, client|info, client|kill NORMAL USER, client|list NORMAL, client|maint_notifications,
        client|reply OFF SKIP, hello, script|debug
    """,
    "commands/test_debug.py": """
        bgrewriteaof, bgsave, debug, lastsave, memory|doctor, memory|malloc-stats, memory|purge, memory|stats,
        save
    """,
    "commands/test_help.py": """
        client|help, command|help, config|help, function|help, latency|help, memory|help, object|help,
        pubsub|help, script|help, slowlog|help, tier|help, xgroup|help, xinfo|help
    """,
    "commands/test_latency.py": """
        latency|doctor, latency|graph, latency|histogram, latency|history, latency|latest, latency|reset,
        slowlog|get, slowlog|len, slowlog|reset
    """,
    "commands/test_server_commands.py": """
        command, command|count, command|docs, config|get, config|resetstat, config|set, info, lolwut,
        memory|usage, time
    """,
    "commands/test_tier_commands.py": "tier|routes, tier|where",
    "commands/test_tier_dict.py": "tier|dict",
    "differential/test_tracking.py": """
        client|caching, client|getredir, client|tracking, client|trackinginfo
    """,
    "test_offload.py": "tier|url",
    "test_rewrite.py": "config|rewrite",
    "test_upstream_scripts.py": "function|kill, script|kill",
}
"""By the file that sees to them, what sequences can't: what tells of the server itself, leaves its client
without a reply, or needs several clients.  A command with all of its options, or some of its options."""
UNDOCUMENTED: Final = {
    "debug": [name.decode() for name in debug.SUBCOMMANDS],
    "pfdebug": ["DECODE", "ENCODING", "GETREG", "TODENSE"],
}
"""Options of which ``COMMAND DOCS`` knows nothing."""


class Use(NamedTuple):
    """Of a command, or of an option where ``token`` is not empty."""

    name: str
    token: str
    at: int  # so many words go before an option at least

    def __str__(self) -> str:
        return f"{self.name} {self.token}".rstrip()


def uses(spec: CommandSpec) -> Iterator[Use]:
    """The command itself and all its options, as documented: see ``test_spec``, which has redis-server's word
    for that documentation."""
    first = len(spec.title.split("|"))
    yield Use(spec.title, "", 0)
    for token, at in _tokens(spec.docs().get("arguments", []), first):
        yield Use(spec.title, token.upper(), at)
    for token in UNDOCUMENTED.get(spec.title, []):
        yield Use(spec.title, token, first)


def _tokens(arguments: Iterable[Argument], at: int) -> Iterator[tuple[str, int]]:
    for argument in arguments:
        if "token" in argument:
            yield argument["token"], at
        inner = argument.get("arguments", [])
        behind = at + ("token" in argument)
        for each in [[part] for part in inner] if argument["type"] == "oneof" else [inner]:
            yield from _tokens(each, behind)
        at += _least(argument)


def _least(argument: Argument) -> int:
    """How many words an argument has at least."""
    if "optional" in argument.get("flags", []):
        return 0
    parts = [_least(part) for part in argument.get("arguments", [])]
    words = {"oneof": min, "block": sum}.get(argument["type"], lambda parts: 1)(parts)
    return words + ("token" in argument and argument["type"] != "pure-token")


def every_command() -> list[CommandSpec]:
    """Those of the table that can be asked for: of containers, few without a subcommand."""
    commands.load()
    bind(load_table())
    return [spec for spec in every_spec(load_table()) if spec.handler is not None or not spec.subcommands]


class Asked:
    """What was asked for, and answered by anything but an error."""

    def __init__(self) -> None:
        self.words: dict[tuple[str, str], int] = {}  # the last place of each word in requests of a command

    def add(self, requests: Sequence[Argv], frames: Sequence[bytes]) -> None:
        for argv, frame in zip(requests, frames, strict=True):
            spec = lookup(load_table(), argv)
            if spec is not None and not frame.startswith((b"-", b"+QUEUED")):
                self.words[spec.title, ""] = 0
                for at, word in enumerate(argv):
                    key = spec.title, word.decode("latin-1").upper()
                    self.words[key] = max(at, self.words.get(key, 0))

    def __contains__(self, use: Use) -> bool:
        return self.words.get((use.name, use.token), -1) >= use.at


@pytest.fixture(scope="module")
def asked(redis_server: RedisServer) -> Asked:
    asked = Asked()

    async def play() -> None:
        for requests in (*SEQUENCES.values(), *OF_SERVERS.values(), *OF_REDIS.values()):
            async with connect(redis_server.port, 2) as session:
                asked.add(requests, await session.send_all(requests))

    asyncio.run(play())
    for steps in DOCUMENTED.values():
        asked.add([step.argv for step in steps], [step.frame(2) for step in steps])
    return asked


async def listed(open_target: Open) -> set[str]:
    """The commands and subcommands of which a server says that it has them."""
    async with open_target(2) as session:
        return {name.decode() for name in decode(await session.send([b"COMMAND", b"LIST"]))}


@pytest.fixture
async def served(opener: Callable[[str], Open]) -> set[Use]:
    """With a route to a Redis: more is served there."""
    known = await listed(opener("redis"))
    return {use for spec in every_command() if spec.title in known for use in uses(spec)}


def told_elsewhere() -> dict[str, list[str]]:
    """What ELSEWHERE lists, as words: a command, or a command and one option; and the files for each."""
    told: dict[str, list[str]] = {}
    for file, entries in ELSEWHERE.items():
        for entry in entries.split(","):
            name, *tokens = entry.split()
            for each in [f"{name} {token}" for token in tokens] or [name]:
                told.setdefault(each, []).append(file)
    return told


def names(text: str, use: Use) -> bool:
    """Whether a test's text has a line with this request: in quotes, or one of those that a client sends."""
    request = r"""(?: |", b?")""".join(map(re.escape, use.name.upper().split("|")))
    option = rf"\b[^\n]*\b(?i:{re.escape(use.token)})" if use.token else ""
    return re.search(rf"""(?m)(?:["']|^ +(?:[abc] )?){request}{option}\b""", text) is not None


def test_everything_that_is_served_is_asked_for(served: set[Use], asked: Asked) -> None:
    told = told_elsewhere()
    missing = [use for use in served if use not in asked and use.name not in told and str(use) not in told]
    assert not missing, ", ".join(sorted(map(str, missing)))


def test_what_another_test_sees_to_is_named_there_and_not_asked_for(served: set[Use], asked: Asked) -> None:
    for entry, files in told_elsewhere().items():
        uses = [use for use in served if entry in (use.name, str(use))]
        assert uses, f"{entry}: is not served"
        assert any(use not in asked for use in uses), f"{entry}: is asked for by a sequence"
        for file in files:
            text = (TESTS / file).read_text()
            for use in uses:
                assert use in asked or names(text, use), f"{file} does not ask for {use}"


async def test_what_is_not_served_says_so(opener: Callable[[str], Open]) -> None:
    known = await listed(opener("redis"))
    async with opener("redis")(2) as session:
        for spec in every_command():
            if spec.title not in known:
                argv = [*spec.name.split(b"|"), *[b"1"] * abs(spec.arity)][: abs(spec.arity)]
                reply = await session.send(argv)
                error = errors.not_shared if spec.has_keys else errors.not_served_yet
                assert reply == error(spec.title).wire
