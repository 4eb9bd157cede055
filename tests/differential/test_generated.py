"""Sequences that Hypothesis makes up, over few keys, so that commands meet each other's results.

REDTIER_EXAMPLES multiplies how many are tried.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.resp import Argv
from tests.differential.compare import Open, compare
from tests.differential.generators import DATABASES, any_case, command, families
from tests.differential.refusals import REFUSALS
from tests.differential.targets import HANDLERS, LONG, asked_twice
from tests.servers import TREE, TREES, RedisServer

FAMILIES = families()
TIMES = int(os.environ.get("REDTIER_EXAMPLES", "1"))
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
KEYLESS = any_case(
    command("DBSIZE"),
    command("KEYS", st.sampled_from([b"*", b"a", b"?", b"", b"[^a]*", b"b*"])),
    command("FLUSHDB"),
    command("SWAPDB", DATABASES, DATABASES),
)
# A key that has expired may count until somebody comes upon it, here as in Redis: so somebody does.
LOOK = [b"EXISTS", b"a", b"b", b"c", b""]


def looked_for(requests: list[Argv]) -> list[Argv]:
    return [each for argv in requests for each in ([LOOK, argv] if argv[0].upper() == b"DBSIZE" else [argv])]


@cache  # a strategy costs as much to make as some sequences
def sequences(family: str, keyless: bool) -> st.SearchStrategy[list[Argv]]:
    commands, start = FAMILIES[family]
    played = st.lists(commands | KEYLESS if keyless else commands, min_size=1, max_size=30).map(looked_for)
    return st.builds(list.__add__, st.sampled_from([[], start]), played)


def of_target(target: str, proto: int, examples: int) -> Callable[..., Awaitable[None]]:
    """The test of one target: how many examples Hypothesis tries is a function's own setting."""

    @pytest.mark.parametrize("family", FAMILIES)
    @settings(max_examples=examples * TIMES)
    @given(data=st.data())
    async def test(
        redis_server: RedisServer, opener: Callable[[str], Open], family: str, data: st.DataObject
    ) -> None:
        requests = data.draw(sequences(family, target != HANDLERS))
        if target in ("mixed", "s3", "sealed"):  # what is moved or sealed there may be encoded otherwise
            requests = [argv for argv in requests if argv[0].upper() != b"OBJECT"]
        if target == "near":
            requests = asked_twice(requests)
        await compare(redis_server.port, opener(target), proto, requests, REFUSALS[target])

    return test


for (target, proto), examples in EXAMPLES.items():
    test = of_target(target, proto, examples)
    globals()[f"test_{target}_answers_what_comes_to_mind_as_redis_does_in_resp{proto}"] = (
        test if target == HANDLERS or LONG else pytest.mark.once(test)
    )
