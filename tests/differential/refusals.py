"""What a target refuses though Redis does it, and why; all else must be answered as Redis answers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from proxy import errors
from proxy.commands.keyspecs import FINDERS, PATTERNS
from proxy.errors import CommandError
from proxy.resp import Argv
from tests.differential.targets import HANDLERS, SERVERS


class Refusal(NamedTuple):
    """One command's, on one target.

    ``rehearsal`` is played to redis-server in its place: a script that does the command with the arguments
    ARGV and undoes it, so that both sides go on with the same keys, and returns 1 if there was something to
    refuse; an error of Redis' own goes before ours.
    """

    reason: str
    example: str
    error: Callable[[Argv], CommandError]
    rehearsal: bytes
    before: tuple[str, ...] = ()  # what goes before the example

    def instead(self, argv: Argv) -> Argv:
        # A script would be queued by MULTI.
        return [DISCARD] if self.rehearsal is DISCARD else [b"EVAL", self.rehearsal, b"0", *argv[1:]]


UNTRIED: Final = b"return 1"  # it is refused whatever it would do
DISCARD: Final = b"DISCARD"
MOVE: Final = b"""
    if redis.call('COPY', ARGV[1], ARGV[1], 'DB', ARGV[2]) == 0 then return 0 end
    redis.call('SELECT', ARGV[2])
    return redis.call('DEL', ARGV[1])
"""
MSETNX: Final = b"""
    if redis.call('MSETNX', unpack(ARGV)) == 1 then
        for i = 1, #ARGV, 2 do redis.call('DEL', ARGV[i]) end
    end
    return 1
"""
# Of what is refused by its keys alone: only a handler would look at the other arguments, and none is asked.
UNSEEN: Final = b"return 1"
SWAPDB: Final = b"""
    for _ = 1, 2 do redis.call('SWAPDB', unpack(ARGV)) end
    return 1
"""


def not_atomic(argv: Argv) -> CommandError:
    return errors.not_atomic(argv[0].decode().lower(), "s3")


def counted(argv: Argv) -> list[bytes]:
    """Keys behind their number; none where that is no number."""
    number = argv[1] if len(argv) > 1 else b""
    return argv[2 : 2 + int(number)] if number.isdigit() else []


def stored_and_counted(argv: Argv) -> list[bytes]:
    keys = counted(argv[1:])
    return [argv[1], *keys] if keys else []


def stored_places(argv: Argv) -> list[bytes]:
    """Keys of GEORADIUS and GEORADIUSBYMEMBER: the last STORE counts."""
    stores = [at for at, word in enumerate(argv[:-1]) if word.upper() in (b"STORE", b"STOREDIST")]
    return [argv[1], argv[stores[-1] + 1]] if stores else argv[1:2]


def read(argv: Argv) -> list[bytes]:
    """Keys of streams, behind the word that says so."""
    first = [arg.upper() for arg in argv].index(b"STREAMS") + 1
    return argv[first : (first + len(argv)) // 2]


def cross_tier(names: slice | Callable[[Argv], list[bytes]]) -> Callable[[Argv], CommandError]:
    """The error that names the prefix of the first key, and the next that has another backend."""

    def error(argv: Argv) -> CommandError:
        prefixes = [
            max((prefix for prefix in SERVERS["mixed"] if name.startswith(prefix.encode())), key=len)
            for name in (argv[names] if isinstance(names, slice) else names(argv))
        ]
        first = next(iter(prefixes), "none")
        other = next((prefix for prefix in prefixes if prefix != first), "none")
        return errors.cross_tier(argv[0].decode().lower(), first.encode(), other.encode())

    return error


def not_shared(key: str) -> dict[bytes, Refusal]:
    """On a target where ``key`` is on a Redis."""
    return {
        example.split()[0].encode(): Refusal(
            reason, example, lambda argv: errors.not_shared(argv[0].decode().lower()), UNSEEN
        )
        for example, reason in {
            f"PFDEBUG ENCODING {key}": "what an administrator looks into is not sent over shared connections",
            f"RESTORE-ASKING {key} 0 x": "what a cluster moves is not sent over shared connections",
        }.items()
    }


SCRIPTS: Final = (b"EVAL", b"EVAL_RO", b"EVALSHA", b"EVALSHA_RO")
SCRIPT: Final = b"return 1"  # it has not begun, or has changed nothing


def script_cross_tier(argv: Argv) -> CommandError:
    count = int(argv[2]) if len(argv) > 3 and argv[2].isdigit() else 0
    return cross_tier(slice(3, 3 + count))(argv) if count else CommandError(errors.SYNTAX)


def no_swap(backend: str) -> Refusal:
    return Refusal(
        "what stands in a store or a Redis is not renumbered",
        "SWAPDB 0 1",
        lambda argv: errors.not_swapped(backend),
        SWAPDB,
    )


def refused(reason: str, error: Callable[[Argv], CommandError], *examples: str) -> dict[bytes, Refusal]:
    """Of commands that are refused by their keys alone."""
    return {example.split()[0].encode(): Refusal(reason, example, error, UNSEEN) for example in examples}


def sorting(argv: Argv) -> list[bytes]:
    """SORT's key, how the names begin that it reads by patterns, and the key that it stores to."""
    source, *target = [argv[position] for position, _ in FINDERS[argv[0].lower()](argv)]
    patterns = PATTERNS[argv[0].lower()](argv)
    return [source, *(pattern.partition(b"*")[0] for pattern in patterns), *target]


LIST_MOVES: Final = ("LMOVE a b LEFT LEFT", "RPOPLPUSH a b")
XREADGROUP: Final = "XREADGROUP GROUP g c STREAMS a b > >"
ZSET_STORES: Final = ("ZUNIONSTORE b 1 a", "ZINTERSTORE b 1 a", "ZDIFFSTORE b 1 a")
COPIES: Final = ("ZRANGESTORE b a 0 1", "GEOSEARCHSTORE b a FROMLONLAT 1 1 BYRADIUS 1 m")
PLACES: Final = ("GEORADIUS a 1 1 1 m STORE b", "GEORADIUSBYMEMBER a x 1 m STOREDIST b")
SET_STORES: Final = ("SUNIONSTORE b a", "SINTERSTORE b a", "SDIFFSTORE b a")

OF_A_REDIS: Final = {
    **not_shared("a"),
    b"SWAPDB": no_swap("redis"),
}

INSIDE: Final = (
    *("APPEND a x", "GETRANGE a 0 1", "SETRANGE a 0 x", "STRLEN a", "SUBSTR a 0 1", "LCS a b"),
    *(
        "BITCOUNT a",
        "BITFIELD a",
        "BITFIELD_RO a",
        "BITOP NOT b a",
        "BITPOS a 1",
        "GETBIT a 1",
        "SETBIT a 1 1",
    ),
)


def works_inside(argv: Argv) -> CommandError:
    return errors.inside_sealed(argv[0].decode().lower(), b"")


def sorted_by_sealed(argv: Argv) -> CommandError:
    return errors.sorted_by_sealed(argv[0].decode().lower(), b"")


REFUSALS: Final[dict[str, dict[bytes, Refusal]]] = {
    HANDLERS: {},
    "memory": {},
    "sqlite": {b"SWAPDB": no_swap("sqlite")},
    "postgres": {b"SWAPDB": no_swap("postgres")},
    "redis": OF_A_REDIS,
    "near": OF_A_REDIS,
    "sealed": {
        **OF_A_REDIS,
        **refused("a sealed string has no inside", works_inside, *INSIDE),
        **refused(
            "a Redis would sort by sealed strings", sorted_by_sealed, "SORT a GET b_*", "SORT_RO a BY b_*"
        ),
    },
    "s3": {
        b"BITOP": Refusal(
            "the result's key can't change in one step with what others say",
            "BITOP NOT b a",
            not_atomic,
            UNSEEN,
        ),
        **{
            command: Refusal("several objects can't be looked at in one step", example, not_atomic, UNTRIED)
            for command, example in {
                b"BLPOP": "BLPOP a b 0",
                b"BRPOP": "BRPOP a b 0",
                b"BLMOVE": "BLMOVE a b LEFT LEFT 0",
                b"BRPOPLPUSH": "BRPOPLPUSH a b 0",
                b"BLMPOP": "BLMPOP 0 2 a b LEFT",
                b"BZPOPMIN": "BZPOPMIN a b 0",
                b"BZPOPMAX": "BZPOPMAX a b 0",
                b"BZMPOP": "BZMPOP 0 2 a b MIN",
            }.items()
        },
        b"EXEC": Refusal(
            "several objects can't change in one step",
            "EXEC",
            not_atomic,
            DISCARD,
            ("MULTI", "SET b 1", "SET c 2"),
        ),
        b"MOVE": Refusal("two objects can't change in one step", "MOVE a 1", not_atomic, MOVE),
        b"MSETNX": Refusal("several objects can't change in one step", "MSETNX b 1 c 2", not_atomic, MSETNX),
        b"PFMERGE": Refusal(
            "the sum's key can't change in one step with what others say", "PFMERGE b a", not_atomic, UNSEEN
        ),
        b"SWAPDB": no_swap("s3"),
        **refused("two objects can't change in one step", not_atomic, "SMOVE a b x", *LIST_MOVES),
        **refused("several objects can't change in one step", not_atomic, "LMPOP 2 a b LEFT", XREADGROUP),
        **refused("the result's key can't change in one step with the source", not_atomic, "SORT a STORE b"),
        **refused("the result's key can't change in one step with the others", not_atomic, *SET_STORES),
        **refused(
            "the result's key can't change in one step with the others",
            not_atomic,
            *(*ZSET_STORES, *COPIES, *PLACES),
        ),
        **refused(
            "several objects can't be looked at in one step with a change", not_atomic, "ZMPOP 2 a b MIN"
        ),
        b"EVAL": Refusal(
            "several objects can't change in one step",
            "EVAL return(redis.call('MSET','b',1,'c',2)) 2 b c",
            not_atomic,
            SCRIPT,
        ),
    },
    "mixed": {
        b"BITOP": Refusal("no backend has all values", "BITOP NOT b a", cross_tier(slice(2, None)), UNSEEN),
        b"EXEC": Refusal(
            "two backends can't change in one step",
            "EXEC",
            lambda argv: errors.cross_tier_exec(b"b", b"a"),
            DISCARD,
            ("MULTI", "SET b 1", "SET a 1"),
        ),
        **{
            name: Refusal(
                "two backends can't be had in one step", f"{name.decode()} x 2 a b", script_cross_tier, SCRIPT
            )
            for name in SCRIPTS
        },
        b"MSETNX": Refusal(
            "two backends can't change in one step",
            "MSETNX b 1 c 2",
            cross_tier(slice(1, None, 2)),
            MSETNX,
        ),
        **not_shared("b"),
        b"PFMERGE": Refusal("no backend has all values", "PFMERGE b a", cross_tier(slice(1, None)), UNSEEN),
        b"SWAPDB": no_swap("sqlite"),
        **refused(
            "two backends can't change in one step", cross_tier(slice(1, 3)), "SMOVE a b x", *LIST_MOVES
        ),
        **refused("no backend has all lists", cross_tier(counted), "LMPOP 2 a b LEFT"),
        **refused("no backend has all streams", cross_tier(read), "XREAD STREAMS a b 0 0", XREADGROUP),
        **refused("no backend has all keys", cross_tier(sorting), "SORT a STORE b", "SORT_RO a GET b_*"),
        **refused("no backend has all sets", cross_tier(slice(1, None)), *SET_STORES),
        **refused("no backend has all sets", cross_tier(counted), "ZMPOP 2 a b MIN"),
        **refused("no backend has all sets", cross_tier(stored_and_counted), *ZSET_STORES),
        **refused("no backend has both sets", cross_tier(slice(1, 3)), *COPIES),
        **refused("no backend has both sets", cross_tier(stored_places), *PLACES),
    },
}
"""By target and command."""
