"""Sets: SADD SCARD SDIFF SDIFFSTORE SINTER SINTERCARD SINTERSTORE SISMEMBER SMEMBERS SMISMEMBER SMOVE SPOP
SRANDMEMBER SREM SSCAN SUNION SUNIONSTORE.
"""

from __future__ import annotations

from typing import Final

from proxy.commands.args import INT64_MAX, Args, parse_cursor, parse_int, parse_int_or, parse_page
from proxy.commands.spec import keys_command
from proxy.datatypes.digits import digits
from proxy.datatypes.set import Set, ascending, set_of
from proxy.errors import (
    LIMIT_NEGATIVE,
    NOT_A_COUNT,
    NOT_POSITIVE,
    NUMKEYS_NOT_POSITIVE,
    NUMKEYS_TOO_MANY,
    SYNTAX,
    WRONG_TYPE,
    CommandError,
    too_many,
)
from proxy.keyspace import SET, Keyspace
from proxy.lru import Entry
from proxy.resp import Argv, Reply
from proxy.resp import Set as SetReply

DRAWS_MAX: Final = 2**20  # members that may be drawn with repetition; Redis would draw for ever


def _members(entry: Entry) -> Set:
    value = entry.value
    if isinstance(value, Set):
        return value
    raise CommandError(WRONG_TYPE)


def _find(ks: Keyspace, key: bytes) -> Set | None:
    entry = ks.find(key)
    return None if entry is None else _members(entry)


def _taken(ks: Keyspace, entry: Entry, members: Set) -> None:
    """Members have been taken out of an entry, got by ``edit``: with the last one it goes."""
    if len(members):
        ks.update(entry, members)
        return
    key = entry.key
    ks.remove(key)
    ks.event("del", key)


@keys_command("sadd")
def sadd(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    names = argv[2:]
    entry = ks.edit(key)
    members = Set() if entry is None else _members(entry)
    ks.reserve(key, entry, members.growth(names))
    added = 0
    for name in names:
        if members.add(name):
            added += 1
    if entry is None:
        ks.put(key, SET, members)
    elif added:
        ks.update(entry, members)
    if added:
        ks.event("sadd", key)
    return added


@keys_command("srem")
def srem(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    entry = ks.edit(key)
    if entry is None:
        return 0
    members = _members(entry)
    removed = 0
    for at in range(2, len(argv)):
        if members.remove(argv[at]):
            removed += 1
    if removed:
        ks.event("srem", key)
        _taken(ks, entry, members)
    return removed


@keys_command("smove")
def smove(ks: Keyspace, argv: Argv) -> Reply:
    source, target, name = argv[1], argv[2], argv[3]
    entry = ks.edit(source)
    if entry is None:
        return 0
    members = _members(entry)
    other_entry = ks.edit(target)
    others = Set() if other_entry is None else _members(other_entry)
    if not members.has(name):
        return 0
    if source == target:
        return 1
    ks.reserve(target, other_entry, others.growth([name]))
    entry = ks.edit(source)  # to make room for one, the other may have been evicted
    if entry is None:
        return 0
    members.remove(name)
    ks.event("srem", source)
    _taken(ks, entry, members)
    added = others.add(name)
    if other_entry is None:
        ks.put(target, SET, others)
    elif added:
        ks.update(other_entry, others)
    if added:
        ks.event("sadd", target)
    return 1


@keys_command("sismember")
def sismember(ks: Keyspace, argv: Argv) -> Reply:
    members = _find(ks, argv[1])
    return 1 if members is not None and members.has(argv[2]) else 0


@keys_command("smismember")
def smismember(ks: Keyspace, argv: Argv) -> Reply:
    members = _find(ks, argv[1])
    return [1 if members is not None and members.has(name) else 0 for name in argv[2:]]


@keys_command("scard")
def scard(ks: Keyspace, argv: Argv) -> Reply:
    members = _find(ks, argv[1])
    return 0 if members is None else len(members)


@keys_command("smembers")
def smembers(ks: Keyspace, argv: Argv) -> Reply:
    members = _find(ks, argv[1])
    return SetReply([] if members is None else members.members())


@keys_command("sscan")
def sscan(ks: Keyspace, argv: Argv) -> Reply:
    cursor = parse_cursor(argv[2])
    members = _find(ks, argv[1])
    if members is None:
        return [b"0", []]
    pattern, count = parse_page(argv, 3)
    cursor, found = members.scan(cursor, count)
    if pattern is not None:
        found = [name for name in found if pattern.matches(name)]
    return [digits(cursor), found]


@keys_command("spop")
def spop(ks: Keyspace, argv: Argv) -> Reply:
    if len(argv) > 2:
        return _pop_many(ks, argv)
    key = argv[1]
    entry = ks.edit(key)
    if entry is None:
        return None
    members = _members(entry)
    name = members.random()
    members.remove(name)
    ks.event("spop", key)
    _taken(ks, entry, members)
    return name


def _pop_many(ks: Keyspace, argv: Argv) -> Reply:
    if len(argv) > 3:
        raise CommandError(SYNTAX)
    count = parse_int_or(argv[2], NOT_POSITIVE)
    if count < 0:
        raise CommandError(NOT_POSITIVE)
    key = argv[1]
    entry = ks.edit(key)
    if entry is None:
        return SetReply([])
    members = _members(entry)
    if not count:
        return SetReply([])
    ks.event("spop", key)
    if count >= len(members):
        names = members.members()
        ks.remove(key)
        ks.event("del", key)
        return SetReply(names)
    names = members.sample(count)
    for name in names:
        members.remove(name)
    ks.update(entry, members)
    return SetReply(names)


@keys_command("srandmember")
def srandmember(ks: Keyspace, argv: Argv) -> Reply:
    if len(argv) > 3:
        raise CommandError(SYNTAX)
    if len(argv) == 2:
        members = _find(ks, argv[1])
        return None if members is None else members.random()
    count = parse_int(argv[2])
    if count < -INT64_MAX:
        raise CommandError(NOT_A_COUNT)
    members = _find(ks, argv[1])
    if members is None or not count:
        return []
    if count > 0:
        return members.members() if count >= len(members) else members.sample(count)
    if -count > DRAWS_MAX:
        raise too_many(-count, DRAWS_MAX)
    return members.draws(-count)


@keys_command("sinter")
def sinter(ks: Keyspace, argv: Argv) -> Reply:
    return SetReply(_intersection(_find_all(ks, argv[1:]), 0))


@keys_command("sinterstore")
def sinterstore(ks: Keyspace, argv: Argv) -> Reply:
    return _store(ks, argv[1], set_of(_intersection(_find_all(ks, argv[2:]), 0)), "sinterstore")


@keys_command("sintercard")
def sintercard(ks: Keyspace, argv: Argv) -> Reply:
    count = parse_int_or(argv[1], NUMKEYS_NOT_POSITIVE)
    if count < 1:
        raise CommandError(NUMKEYS_NOT_POSITIVE)
    if count > len(argv) - 2:
        raise CommandError(NUMKEYS_TOO_MANY)
    limit = 0
    args = Args(argv, 2 + count)
    while args.more():
        if not args.match(b"LIMIT"):
            raise CommandError(SYNTAX)
        limit = parse_int_or(args.next(), LIMIT_NEGATIVE)
        if limit < 0:
            raise CommandError(LIMIT_NEGATIVE)
    return len(_intersection(_find_all(ks, argv[2 : 2 + count]), limit))


@keys_command("sunion")
def sunion(ks: Keyspace, argv: Argv) -> Reply:
    return SetReply(ascending(list(_union(_find_all(ks, argv[1:])))))


@keys_command("sunionstore")
def sunionstore(ks: Keyspace, argv: Argv) -> Reply:
    return _store(ks, argv[1], set_of(list(_union(_find_all(ks, argv[2:])))), "sunionstore")


@keys_command("sdiff")
def sdiff(ks: Keyspace, argv: Argv) -> Reply:
    return SetReply(ascending(_difference(_find_all(ks, argv[1:])).members()))


@keys_command("sdiffstore")
def sdiffstore(ks: Keyspace, argv: Argv) -> Reply:
    return _store(ks, argv[1], _difference(_find_all(ks, argv[2:])), "sdiffstore")


def _find_all(ks: Keyspace, keys: list[bytes]) -> list[Set | None]:
    return [_find(ks, key) for key in keys]


def _store(ks: Keyspace, key: bytes, members: Set, event: str) -> int:
    """Put a new set in the place of whatever is there."""
    if not len(members):
        if ks.remove(key):
            ks.event("del", key)
        return 0
    ks.reserve(key, None, members.size)
    ks.put(key, SET, members)
    ks.event(event, key)
    return len(members)


def _intersection(sets: list[Set | None], limit: int) -> list[bytes]:
    """What is in all of the sets, up to ``limit`` members of it (0: all)."""
    there = [members for members in sets if members is not None]
    if len(there) < len(sets):
        return []
    there.sort(key=len)
    found: list[bytes] = []
    for name in there[0].members():
        for at in range(1, len(there)):
            if not there[at].has(name):
                break
        else:
            found.append(name)
            if len(found) == limit:
                break
    return found


def _union(sets: list[Set | None]) -> dict[bytes, None]:
    found: dict[bytes, None] = {}
    for members in sets:
        if members is not None:
            for name in members.members():
                found[name] = None
    return found


def _difference(sets: list[Set | None]) -> Set:
    """What is in the first set and in none of the others.

    Whether it looks for each member in the others, or takes theirs out of a copy, whichever is less work,
    Redis decides alike; it shows in how the result is encoded.
    """
    first = sets[0]
    if first is None:
        return Set()
    others = [members for members in sets[1:] if members is not None]
    theirs = sum([len(members) for members in others])
    if len(first) * (len(others) + 1) // 2 <= len(first) + theirs:
        others.sort(key=len, reverse=True)
        found = Set()
        for name in first.members():
            for members in others:
                if members.has(name):
                    break
            else:
                found.add(name)
        return found
    found = set_of(first.members())
    for members in others:
        for name in members.members():
            found.remove(name)
    return found
