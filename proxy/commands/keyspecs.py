"""Which arguments of a request are keys.

A key spec says where keys begin (at an index, or after a keyword) and how many follow (a range, or
as many as an argument tells).  A few commands can't be described so; for those there is a finder
written by hand.  The meanings are those of redis.io/docs/reference/key-specs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

KeyFlags = tuple[str, ...]
"""What a command does with a key, in Redis' order: RO, RW, OW or RM, then access, update, insert, delete."""

KeyUse = tuple[int, KeyFlags]
"""A key's position in argv (the command's name is at 0), and what is done with it."""

KEY_FLAGS: Final = (
    "RO",
    "RW",
    "OW",
    "RM",
    "access",
    "update",
    "insert",
    "delete",
    "not_key",
    "incomplete",
    "variable_flags",
)

# The kinds of both halves of a key spec, with the names of their parameters in order.
BEGIN_SEARCH: Final[dict[str, tuple[str, ...]]] = {
    "index": ("index",),
    "keyword": ("keyword", "startfrom"),
    "unknown": (),
}
FIND_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "range": ("lastkey", "keystep", "limit"),
    "keynum": ("keynumidx", "firstkey", "keystep"),
    "unknown": (),
}

NO_KEYS: Final = range(0)


class SpecError(Exception):
    """The command table and the code do not fit together; the message names the command."""


class KeySpec:
    """One key spec.  Raises SpecError for a flag, a kind or a parameter list that Redis 7.0 does not have."""

    def __init__(self, flags: str, begin: Sequence[str | int], find: Sequence[str | int]) -> None:
        self.flags: KeyFlags = tuple(flags.split(" "))
        self.begin: str = str(begin[0])
        self.find: str = str(find[0])
        for flag in self.flags:
            if flag not in KEY_FLAGS:
                raise SpecError(f"unknown key spec flag '{flag}'")
        if self.begin not in BEGIN_SEARCH or len(begin) != 1 + len(BEGIN_SEARCH[self.begin]):
            raise SpecError(f"unknown begin_search {list(begin)}")
        if self.find not in FIND_KEYS or len(find) != 1 + len(FIND_KEYS[self.find]):
            raise SpecError(f"unknown find_keys {list(find)}")
        self.is_key: bool = "not_key" not in self.flags  # a channel may be routed as a key is, but is none
        self.keyword: bytes = str(begin[1]).encode() if self.begin == "keyword" else b""
        # Where keys begin, or where the search for the keyword does.
        self.start: int = int(begin[-1]) if self.begin != "unknown" else 0
        self.numbers: tuple[int, ...] = tuple(int(number) for number in find[1:])

    @property
    def fixed(self) -> int:
        """The position of the only key where it is the same in every request, else 0."""
        one_key = self.begin == "index" and self.find == "range" and self.numbers[0] == 0
        return self.start if one_key and self.is_key else 0

    @property
    def computable(self) -> bool:
        """False where only a finder can tell the keys."""
        return self.find != "unknown" and self.start > 0

    def facts(self) -> dict[str, object]:
        """The spec as ``COMMAND INFO`` nests it: flags, begin_search and find_keys."""
        begin: tuple[str | int, ...] = (self.start,)
        if self.begin == "keyword":
            begin = (self.keyword.decode(), self.start)
        return {
            "flags": list(self.flags),
            "begin_search": {
                "type": self.begin,
                "spec": dict(zip(BEGIN_SEARCH[self.begin], begin, strict=False)),
            },
            "find_keys": {
                "type": self.find,
                "spec": dict(zip(FIND_KEYS[self.find], self.numbers, strict=False)),
            },
        }

    def positions(self, argv: Sequence[bytes]) -> range | None:
        """Where the keys stand: an empty range if the keyword is absent, None if the request is malformed."""
        argc = len(argv)
        first = self.start
        if self.keyword:
            first = _after(self.keyword, argv, first)
            if not first:
                return NO_KEYS
        if self.find == "range":
            last, step, limit = self.numbers
            if last >= 0:
                last += first
            elif limit <= 1:
                last += argc
            else:
                last += first + (argc - first) // limit
        else:
            index, offset, step = self.numbers
            count = _count(argv[first + index]) if first + index < argc else 0
            first += offset
            last = first + (count - 1) * step
        if not first <= last < argc:
            return None
        return range(first, last + 1, step)


def _is(argument: bytes, word: bytes) -> bool:
    # The length goes first: a value may be megabytes long, and upper() would copy it.
    return len(argument) == len(word) and argument.upper() == word


def _after(word: bytes, argv: Sequence[bytes], start: int) -> int:
    """The position that follows the first ``word``, or 0."""
    for position in range(start, len(argv)):
        if _is(argv[position], word):
            return position + 1
    return 0


def _count(argument: bytes) -> int:
    """A number of keys as Redis reads it (no sign, no leading zero, no blanks), or 0."""
    # Ten digits are more than a request can have arguments; int() would raise for thousands of them.
    if argument.isdigit() and len(argument) <= 10 and argument[:1] != b"0":
        return int(argument)
    return 0


# Finders: what key specs can't say.

READ: Final[KeyFlags] = ("RO", "access")
STORE: Final[KeyFlags] = ("OW", "update")
MOVE: Final[KeyFlags] = ("RW", "access", "delete")
CHANGE: Final[KeyFlags] = ("RW", "access", "update")
MERGE: Final[KeyFlags] = ("RW", "access", "insert")


def _skip(argument: bytes, options: dict[bytes, int]) -> int:
    """How many values follow an option."""
    return options.get(argument.upper(), 0) if len(argument) <= 8 else 0


SORT_OPTIONS: Final = {b"BY": 1, b"GET": 1, b"LIMIT": 2}
MIGRATE_OPTIONS: Final = {b"AUTH": 1, b"AUTH2": 2}


def _sort(argv: Sequence[bytes]) -> list[KeyUse]:
    """STORE may stand anywhere, and the last one counts, but what another option takes is none."""
    target = 0
    position = 2
    while position < len(argv):
        if _is(argv[position], b"STORE") and position + 1 < len(argv):
            target = position + 1
            position += 2
        else:
            position += 1 + _skip(argv[position], SORT_OPTIONS)
    return [(1, READ), (target, STORE)] if target else [(1, READ)]


def _sort_ro(argv: Sequence[bytes]) -> list[KeyUse]:
    """BY and GET name keys by patterns; which ones only the sorted values tell."""
    return [(1, READ)]


def _sort_patterns(argv: Sequence[bytes]) -> list[bytes]:
    """What BY and GET name keys by."""
    patterns: list[bytes] = []
    position = 2
    while position < len(argv):
        taken = _skip(argv[position], SORT_OPTIONS)
        if taken == 1 and position + 1 < len(argv):
            patterns.append(argv[position + 1])
        position += 1 + (taken or _is(argv[position], b"STORE"))
    return [pattern for pattern in patterns if b"*" in pattern]


def _georadius(argv: Sequence[bytes], start: int) -> list[KeyUse]:
    """The last STORE or STOREDIST counts, as when the command runs.

    Redis' key specs name the first of each: with ``STORE a STORE b`` they overlook the key that is written.
    """
    target = 0
    position = start
    while position < len(argv) - 1:
        if _is(argv[position], b"STORE") or _is(argv[position], b"STOREDIST"):
            target = position + 1
            position += 2
        else:
            position += 1
    return [(1, READ), (target, STORE)] if target else [(1, READ)]


def _georadius_point(argv: Sequence[bytes]) -> list[KeyUse]:
    return _georadius(argv, 6)


def _georadius_member(argv: Sequence[bytes]) -> list[KeyUse]:
    return _georadius(argv, 5)


def _migrate(argv: Sequence[bytes]) -> list[KeyUse]:
    """One key at 3, or an empty argument there and the keys after KEYS, at the end."""
    position = 6
    while position < len(argv) - 1:
        if _is(argv[position], b"KEYS"):
            if argv[3]:
                return []
            return [(key, MOVE) for key in range(position + 1, len(argv))]
        position += 1 + _skip(argv[position], MIGRATE_OPTIONS)
    return [(3, MOVE)]


def _pfmerge(argv: Sequence[bytes]) -> list[KeyUse]:
    """Without a source it has a key all the same; key specs that find nothing say that it is malformed."""
    return [(1, MERGE), *[(position, READ) for position in range(2, len(argv))]]


Finder = Callable[[Sequence[bytes]], list[KeyUse]]
"""Finds the keys of a request whose arity is right; an empty list says that it is malformed."""

FINDERS: Final[dict[bytes, Finder]] = {
    b"georadius": _georadius_point,
    b"georadiusbymember": _georadius_member,
    b"migrate": _migrate,
    b"pfmerge": _pfmerge,
    b"sort": _sort,
    b"sort_ro": _sort_ro,
}


PATTERNS: Final[dict[bytes, Callable[[Sequence[bytes]], list[bytes]]]] = {
    b"sort": _sort_patterns,
    b"sort_ro": _sort_patterns,
}
"""Commands that read keys beside those that they name: the names' patterns, with a ``*`` in each."""


# Variable flags: what is done with the key depends on the arguments.


def _set_flags(argv: Sequence[bytes]) -> KeyFlags:
    for position in range(3, len(argv)):
        if _is(argv[position], b"GET"):
            return CHANGE
    return STORE


def _bitfield_flags(argv: Sequence[bytes]) -> KeyFlags:
    position = 2
    while position < len(argv):
        following = len(argv) - position - 1
        if _is(argv[position], b"GET") and following >= 2:
            position += 3
        elif _is(argv[position], b"OVERFLOW") and following >= 1:
            position += 2
        else:
            return CHANGE
    return READ


VARIABLE_FLAGS: Final[dict[bytes, Callable[[Sequence[bytes]], KeyFlags]]] = {
    b"bitfield": _bitfield_flags,
    b"set": _set_flags,
}
