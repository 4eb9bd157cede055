"""Sequences that are made up, over few keys, so that commands meet each other's results.

They are the same in each run of the same sources; ``REDTIER_LONG`` looks at others each time, and
``REDTIER_EXAMPLES`` multiplies how many are tried.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from random import Random, randrange

import pytest

from proxy.resp import Argv
from tests.differential.compare import Open, compare
from tests.differential.generators import DATABASES, any_case, command, families
from tests.differential.making import Made, sampled_from
from tests.differential.refusals import REFUSALS
from tests.differential.targets import HANDLERS, LONG, asked_twice
from tests.servers import TREE, TREES, RedisServer

FAMILIES = families()
TIMES = int(os.environ.get("REDTIER_EXAMPLES", "1"))
SEED = randrange(1 << 32) if LONG else 0
LENGTH = 30  # of a sequence, at most
# Both trees are of the same sources: what differs between them needs fewer to be seen.
HANDLED = 1000 if TREES["compiled"] == TREE or LONG else 100
# Each target, the protocol version it is asked in, and how many sequences of a family it gets.  What replies
# look like is the handlers' and the reply writer's affair, which the first two see to.
EXAMPLES = {
    (HANDLERS, 2): HANDLED,
    (HANDLERS, 3): HANDLED,
    ("memory", 3): 50,
    ("sqlite", 2): 200,
    ("postgres", 3): 200,
    ("redis", 2): 20,
    ("redis", 3): 20,
    ("near", 2): 100,
    ("sealed", 2): 50,
    ("mixed", 3): 50,
    ("s3", 3): 20,
}
# What is moved or sealed may be encoded otherwise; and a script sees what is sealed as it is.
HIDDEN = {"mixed": [b"OBJECT"], "s3": [b"OBJECT"], "sealed": [b"OBJECT", b"EVAL", b"EVAL_RO"]}
KEYLESS = any_case(
    command("DBSIZE"),
    command("KEYS", sampled_from([b"*", b"a", b"?", b"", b"[^a]*", b"b*"])),
    command("FLUSHDB"),
    command("SWAPDB", DATABASES, DATABASES),
)
# A key that has expired may count until somebody comes upon it, here as in Redis: so somebody does.
LOOK = [b"EXISTS", b"a", b"b", b"c", b""]

Play = Callable[[list[Argv]], Awaitable[None]]


def looked_for(requests: list[Argv]) -> list[Argv]:
    return [each for argv in requests for each in ([LOOK, argv] if argv[0].upper() == b"DBSIZE" else [argv])]


def sequence(random: Random, family: str, keyless: bool) -> list[Argv]:
    commands, start = FAMILIES[family]
    drawn: Made[Argv] = commands | KEYLESS if keyless else commands
    length = min(1 + int(random.expovariate(1 / 6)), LENGTH)  # most are short
    played = looked_for([drawn.draw(random) for _ in range(length)])
    return [*start, *played] if random.random() < 0.5 else played


async def difference(play: Play, requests: list[Argv]) -> AssertionError | None:
    try:
        await play(requests)
    except AssertionError as error:
        return error
    return None


async def check(play: Play, requests: list[Argv]) -> None:
    """Raises AssertionError for as few of the requests as are still answered differently."""
    found = await difference(play, requests)
    if found is None:
        return
    for at in reversed(range(len(requests))):
        fewer = requests[:at] + requests[at + 1 :]
        shorter = await difference(play, fewer)
        if shorter is not None:
            requests, found = fewer, shorter
    raise found


def of_target(target: str, proto: int, examples: int) -> Callable[..., Awaitable[None]]:
    """The test of one target."""

    @pytest.mark.parametrize("family", FAMILIES)
    async def test(redis_server: RedisServer, opener: Callable[[str], Open], family: str) -> None:
        async def play(requests: list[Argv]) -> None:
            await compare(redis_server.port, opener(target), proto, requests, REFUSALS[target])

        for number in range(examples * TIMES):
            random = Random(f"{family} {target} {proto} {SEED + number}")
            requests = sequence(random, family, target != HANDLERS)
            hidden = HIDDEN.get(target, [])
            requests = [argv for argv in requests if argv[0].upper() not in hidden]
            if target == "near":
                requests = asked_twice(requests)
            await check(play, requests)

    return test


for (target, proto), examples in EXAMPLES.items():
    played = of_target(target, proto, examples)
    globals()[f"test_{target}_answers_what_comes_to_mind_as_redis_does_in_resp{proto}"] = (
        played if target == HANDLERS or LONG else pytest.mark.once(played)
    )
