"""Several sorted sets, or sets, whose members have a score of 1: ZDIFF ZDIFFSTORE ZINTER ZINTERCARD
ZINTERSTORE ZUNION ZUNIONSTORE.
"""

from __future__ import annotations

from typing import Final, cast

from proxy.commands.args import Args, parse_double, parse_int, parse_int_or
from proxy.commands.spec import keys_command
from proxy.commands.zsets import store
from proxy.datatypes.set import Set
from proxy.datatypes.zset import ZSet, make
from proxy.errors import (
    LIMIT_NEGATIVE,
    SYNTAX,
    WEIGHT_NOT_FLOAT,
    WRONG_TYPE,
    CommandError,
    no_input_key,
)
from proxy.keyspace import Keyspace
from proxy.resp import Argv, Pairs, Reply

UNION: Final = 0
INTER: Final = 1
DIFF: Final = 2

SUM: Final = 0
MIN: Final = 1
MAX: Final = 2
AGGREGATES: Final = {b"SUM": SUM, b"MIN": MIN, b"MAX": MAX}


class Source:
    """One of the sets, and its weight."""

    def __init__(self, value: object) -> None:
        self.zset: ZSet | None = None
        self.set: Set | None = None
        self.size: int = 0
        self.weight: float = 1.0
        if isinstance(value, ZSet):
            self.zset = value
            self.size = len(value)
        elif isinstance(value, Set):
            self.set = value
            self.size = len(value)
        elif value is not None:
            raise CommandError(WRONG_TYPE)

    def score(self, member: bytes) -> float | None:
        if self.zset is not None:
            return self.zset.score(member)
        return 1.0 if self.set is not None and self.set.has(member) else None

    def items(self) -> tuple[list[bytes], list[object]]:
        """Members and scores."""
        if self.zset is not None:
            return self.zset.items()
        members = [] if self.set is None else self.set.members()
        return members, [1.0] * len(members)

    def weighted(self, score: float) -> float:
        product = score * self.weight
        return product if product == product else 0.0  # infinity times 0, as in Redis


class Query:
    """The sets, and what is asked of them.  Raises CommandError, before and after the sets are looked at."""

    def __init__(self, ks: Keyspace, argv: Argv, at: int, operation: int, name: str) -> None:
        self.operation: int = operation
        self.scored: bool = False
        self.limit: int = 0
        self.aggregate: int = SUM
        storing = at == 2
        counting = name == "zintercard"
        numkeys = parse_int(argv[at])
        if numkeys < 1:
            raise no_input_key(name)
        if numkeys > len(argv) - at - 1:
            raise CommandError(SYNTAX)
        first = at + 1
        self.sources: list[Source] = []
        for key in argv[first : first + numkeys]:
            entry = ks.find(key)
            self.sources.append(Source(None if entry is None else entry.value))
        args = Args(argv, first + numkeys)
        while args.more():
            option = args.option()
            left = args.end - args.at
            if option == b"WEIGHTS" and operation != DIFF and not counting and left >= numkeys:
                for source in self.sources:
                    source.weight = parse_double(args.next(), WEIGHT_NOT_FLOAT)
            elif option == b"AGGREGATE" and operation != DIFF and not counting and left:
                aggregate = AGGREGATES.get(args.option(), -1)
                if aggregate < 0:
                    raise CommandError(SYNTAX)
                self.aggregate = aggregate
            elif option == b"WITHSCORES" and not storing and not counting:
                self.scored = True
            elif option == b"LIMIT" and counting and left:
                self.limit = parse_int_or(args.next(), LIMIT_NEGATIVE)
                if self.limit < 0:
                    raise CommandError(LIMIT_NEGATIVE)
            else:
                raise CommandError(SYNTAX)

    def run(self) -> dict[bytes, float]:
        if self.operation == DIFF:
            return _difference(self.sources)
        # The smallest first: it is less work, and Redis adds the scores in this order.
        sources = sorted(self.sources, key=_size)
        if self.operation == UNION:
            return _union(sources, self.aggregate)
        return _intersection(sources, self.aggregate, self.limit)


def _size(source: Source) -> int:
    return source.size


def _union(sources: list[Source], aggregate: int) -> dict[bytes, float]:
    found: dict[bytes, float] = {}
    for source in sources:
        members, scores = source.items()
        for member, each in zip(members, scores, strict=True):
            score = source.weighted(cast(float, each))
            old = found.get(member)
            found[member] = score if old is None else _joined(old, score, aggregate)
    return found


def _intersection(sources: list[Source], aggregate: int, limit: int) -> dict[bytes, float]:
    """What is in all of them, up to ``limit`` members of it (0: all)."""
    found: dict[bytes, float] = {}
    if not sources[0].size:
        return found
    members, scores = sources[0].items()
    for member, each in zip(members, scores, strict=True):
        score = sources[0].weighted(cast(float, each))
        for at in range(1, len(sources)):
            other = sources[at].score(member)
            if other is None:
                break
            # As Redis does: infinity times 0 counts as 0 of the first set alone, and undoes a sum.
            score = _joined(score, sources[at].weight * other, aggregate)
        else:
            found[member] = score
            if len(found) == limit:
                break
    return found


def _difference(sources: list[Source]) -> dict[bytes, float]:
    """What is in the first and in none of the others; whichever is less work."""
    members, scores = sources[0].items()
    found: dict[bytes, float] = dict(zip(members, cast("list[float]", scores), strict=True))
    for other in sources[1:]:
        if other.size <= len(found):
            for member in other.items()[0]:
                found.pop(member, None)
        else:
            found = {member: score for member, score in found.items() if other.score(member) is None}
    return found


def _joined(one: float, other: float, aggregate: int) -> float:
    if aggregate == SUM:
        total = one + other
        return total if total == total else 0.0  # infinities that cancel, as in Redis
    if aggregate == MIN:
        return other if other < one else one
    return other if other > one else one


def _reply(ks: Keyspace, argv: Argv, operation: int, name: str) -> Reply:
    query = Query(ks, argv, 1, operation, name)
    pairs = sorted([(score, member) for member, score in query.run().items()])
    members = [member for _, member in pairs]
    return Pairs(members, [score for score, _ in pairs]) if query.scored else members


def _store(ks: Keyspace, argv: Argv, operation: int, name: str) -> Reply:
    query = Query(ks, argv, 2, operation, name)
    return store(ks, argv[1], make(query.run()), name)


@keys_command("zunion")
def zunion(ks: Keyspace, argv: Argv) -> Reply:
    return _reply(ks, argv, UNION, "zunion")


@keys_command("zinter")
def zinter(ks: Keyspace, argv: Argv) -> Reply:
    return _reply(ks, argv, INTER, "zinter")


@keys_command("zdiff")
def zdiff(ks: Keyspace, argv: Argv) -> Reply:
    return _reply(ks, argv, DIFF, "zdiff")


@keys_command("zunionstore")
def zunionstore(ks: Keyspace, argv: Argv) -> Reply:
    return _store(ks, argv, UNION, "zunionstore")


@keys_command("zinterstore")
def zinterstore(ks: Keyspace, argv: Argv) -> Reply:
    return _store(ks, argv, INTER, "zinterstore")


@keys_command("zdiffstore")
def zdiffstore(ks: Keyspace, argv: Argv) -> Reply:
    return _store(ks, argv, DIFF, "zdiffstore")


@keys_command("zintercard")
def zintercard(ks: Keyspace, argv: Argv) -> Reply:
    return len(Query(ks, argv, 1, INTER, "zintercard").run())
