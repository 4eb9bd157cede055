"""HyperLogLogs of few items and of thousands, in both forms; GET shows all of their bytes."""

from __future__ import annotations

from proxy.resp import Argv
from tests.differential import making
from tests.differential.generators import ANY_TYPE, KEYS, VALUES, any_case, command


def numbered(first: int, size: int) -> Argv:
    return [b"%d" % number for number in range(first, first + size)]


FEW = making.lists(VALUES, max_size=5)
SOME = making.builds(numbered, making.integers(0, 10_000), making.integers(1, 60))
MANY = making.builds(numbered, making.integers(0, 10_000), making.just(1600))  # beyond the sparse form; slow
ITEMS = making.integers(0, 30).flatmap(lambda choice: MANY if choice == 30 else SOME if choice % 2 else FEW)

COMMANDS = any_case(
    making.builds(list.__add__, command("PFADD", KEYS), ITEMS),
    making.builds(list.__add__, command("PFADD", KEYS), ITEMS),
    command("GET", KEYS),
    command("GET", KEYS),
    command("PFCOUNT", KEYS),
    command("PFCOUNT", KEYS, KEYS, KEYS),
    command("PFMERGE", KEYS, KEYS),
    command("PFMERGE", KEYS, KEYS, KEYS, KEYS),
    command("PFDEBUG", making.sampled_from([b"ENCODING", b"DECODE", b"TODENSE", b"GETREG", b"OTHER"]), KEYS),
    ANY_TYPE,
)
START = [
    [b"PFADD", b"a", *numbered(0, 200)],
    [b"PFADD", b"b", b"x", b"y"],
    [b"PFADD", b"c", *numbered(150, 200)],
    [b"PFDEBUG", b"TODENSE", b"c"],
]
