"""Sorted sets, by member: ZADD ZCARD ZINCRBY ZMPOP ZMSCORE ZPOPMAX ZPOPMIN ZRANDMEMBER ZRANK ZREM ZREVRANK
ZSCAN ZSCORE.

Those that speak of ranges are in ``zranges``, those of several sets in ``zunions``.
"""

from __future__ import annotations

import random
from typing import Final, cast

from proxy.commands.args import (
    INT64_MAX,
    Args,
    parse_cursor,
    parse_double,
    parse_int,
    parse_int_or,
    parse_page,
)
from proxy.commands.spec import keys_command
from proxy.datatypes.digits import digits
from proxy.datatypes.zset import ZSet
from proxy.errors import (
    COUNT_NOT_POSITIVE,
    COUNT_OUT_OF_RANGE,
    NAN_SCORE,
    NOT_A_COUNT,
    NOT_POSITIVE,
    NUMKEYS_NOT_POSITIVE,
    SYNTAX,
    WRONG_TYPE,
    ZADD_GT_LT_NX,
    ZADD_INCR_ONE,
    ZADD_NX_XX,
    CommandError,
    too_many,
)
from proxy.keyspace import ZSET, Keyspace
from proxy.lru import Entry
from proxy.resp import NULL_ARRAY, Argv, Pairs, Reply, format_double

# Options of ZADD, as bits.
NX: Final = 1
XX: Final = 2
GT: Final = 4
LT: Final = 8
CH: Final = 16
INCR: Final = 32
ADD_OPTIONS: Final = {b"NX": NX, b"XX": XX, b"GT": GT, b"LT": LT, b"CH": CH, b"INCR": INCR}

INTEGER_MAX: Final = 2.0**62
DRAWS_MAX: Final = 2**20  # members that may be drawn with repetition; Redis would draw for ever


def zset_of(entry: Entry) -> ZSet:
    """A sorted set entry's value; raises WRONGTYPE for another kind."""
    value = entry.value
    if isinstance(value, ZSet):
        return value
    raise CommandError(WRONG_TYPE)


def find_zset(ks: Keyspace, key: bytes) -> ZSet | None:
    entry = ks.find(key)
    return None if entry is None else zset_of(entry)


def taken(ks: Keyspace, entry: Entry, zset: ZSet) -> None:
    """Members have been taken out of an entry, got by ``edit``: with the last one it goes."""
    if not zset.empty():
        ks.update(entry, zset)
        return
    key = entry.key
    ks.remove(key)
    ks.event("del", key)


def store(ks: Keyspace, key: bytes, zset: ZSet, event: str) -> int:
    """Put a new set in the place of whatever is there; its members."""
    if zset.empty():
        if ks.remove(key):
            ks.event("del", key)
        return 0
    ks.reserve(key, None, zset.size)
    ks.put(key, ZSET, zset)
    ks.event(event, key)
    return len(zset)


@keys_command("zadd")
def zadd(ks: Keyspace, argv: Argv) -> Reply:
    return _parse_and_add(ks, argv, 0)


@keys_command("zincrby")
def zincrby(ks: Keyspace, argv: Argv) -> Reply:
    return _parse_and_add(ks, argv, INCR)


def _parse_and_add(ks: Keyspace, argv: Argv, options: int) -> Reply:
    at = 2
    end = len(argv)
    while at < end:
        option = ADD_OPTIONS.get(argv[at].upper(), 0)
        if not option:
            break
        options |= option
        at += 1
    if at == end or (end - at) % 2:
        raise CommandError(SYNTAX)
    if options & NX and options & XX:
        raise CommandError(ZADD_NX_XX)
    if (options & NX and options & (GT | LT)) or (options & GT and options & LT):
        raise CommandError(ZADD_GT_LT_NX)
    if options & INCR and end - at > 2:
        raise CommandError(ZADD_INCR_ONE)
    if end - at == 2:
        return add_one(ks, argv[1], argv[at + 1], parse_double(argv[at]), options)
    scores = [parse_double(text) for text in argv[at::2]]
    return add(ks, argv[1], argv[at + 1 :: 2], scores, options)


def add_one(ks: Keyspace, key: bytes, member: bytes, score: float, options: int) -> Reply:
    """ZADD of one member: the hottest of all, and the only one that may be told to increment."""
    entry = ks.edit(key)
    zset = ZSet() if entry is None else zset_of(entry)
    old = zset.boxed_score(member)
    if old is None:
        if options & XX:
            return None if options & INCR else 0
        ks.reserve(key, entry, zset.growth(1, len(member)))
    else:
        was = cast(float, old)
        if options:
            if options & NX:
                return None if options & INCR else 0
            if options & INCR:
                score += was
                if score != score:
                    raise CommandError(NAN_SCORE)
            if (options & GT and score <= was) or (options & LT and score >= was):
                return None if options & INCR else 0
        if score == was:
            return score if options & INCR else 0
    zset.put(member, score)
    if entry is None:
        ks.put(key, ZSET, zset)
    else:
        ks.update(entry, zset)
    if options & INCR:
        ks.event("zincr", key)
        return score
    ks.event("zadd", key)
    return 1 if old is None or options & CH else 0


def add(ks: Keyspace, key: bytes, members: list[bytes], scores: list[float], options: int) -> Reply:
    """ZADD of many."""
    entry = ks.edit(key)
    if entry is None and options & XX:
        return 0
    zset = ZSet() if entry is None else zset_of(entry)
    new = size = 0
    for member in members:
        if not options & XX and zset.boxed_score(member) is None:
            new += 1
            size += len(member)
    if new:
        ks.reserve(key, entry, zset.growth(new, size))
    added = updated = 0
    for member, score in zip(members, scores, strict=True):
        old = zset.boxed_score(member)
        if old is None:
            if not options & XX:
                zset.put(member, score)
                added += 1
            continue
        was = cast(float, old)
        if score == was or options & NX or (options & GT and score < was) or (options & LT and score > was):
            continue
        zset.put(member, score)
        updated += 1
    if added or updated:
        if entry is None:
            ks.put(key, ZSET, zset)
        else:
            ks.update(entry, zset)
        ks.event("zadd", key)
    return added + updated if options & CH else added


@keys_command("zrem")
def zrem(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    entry = ks.edit(key)
    if entry is None:
        return 0
    zset = zset_of(entry)
    removed = 0
    for at in range(2, len(argv)):
        if zset.remove(argv[at]):
            removed += 1
    if removed:
        ks.event("zrem", key)
        taken(ks, entry, zset)
    return removed


@keys_command("zcard")
def zcard(ks: Keyspace, argv: Argv) -> Reply:
    zset = find_zset(ks, argv[1])
    return 0 if zset is None else len(zset)


@keys_command("zscore")
def zscore(ks: Keyspace, argv: Argv) -> Reply:
    zset = find_zset(ks, argv[1])
    return None if zset is None else zset.boxed_score(argv[2])


@keys_command("zmscore")
def zmscore(ks: Keyspace, argv: Argv) -> Reply:
    zset = find_zset(ks, argv[1])
    return [None if zset is None else zset.boxed_score(member) for member in argv[2:]]


@keys_command("zrank")
def zrank(ks: Keyspace, argv: Argv) -> Reply:
    zset = find_zset(ks, argv[1])
    rank = -1 if zset is None else zset.rank(argv[2])
    return None if rank < 0 else rank


@keys_command("zrevrank")
def zrevrank(ks: Keyspace, argv: Argv) -> Reply:
    zset = find_zset(ks, argv[1])
    if zset is None:
        return None
    rank = zset.rank(argv[2])
    return None if rank < 0 else len(zset) - 1 - rank


@keys_command("zpopmin")
def zpopmin(ks: Keyspace, argv: Argv) -> Reply:
    return _pop(ks, argv, False)


@keys_command("zpopmax")
def zpopmax(ks: Keyspace, argv: Argv) -> Reply:
    return _pop(ks, argv, True)


def _pop(ks: Keyspace, argv: Argv, highest: bool) -> Reply:
    if len(argv) > 3:
        raise CommandError(SYNTAX)
    count = parse_int_or(argv[2], NOT_POSITIVE) if len(argv) == 3 else 1
    if count < 0:
        raise CommandError(NOT_POSITIVE)
    entry = ks.edit(argv[1])
    if entry is None:
        return []
    zset = zset_of(entry)
    if not count:
        return []
    members, scores = pop(ks, entry, zset, count, highest)
    return Pairs(members, scores) if len(argv) == 3 else [members[0], scores[0]]


def pop(
    ks: Keyspace, entry: Entry, zset: ZSet, count: int, highest: bool
) -> tuple[list[bytes], list[object]]:
    """Take the members with the lowest or highest scores out of an entry, got by ``edit``."""
    size = len(zset)
    start, stop = (max(size - count, 0), size) if highest else (0, min(count, size))
    members, scores = zset.slice(start, stop)
    if highest:
        members.reverse()
        scores.reverse()
    zset.cut(start, stop)
    ks.event("zpopmax" if highest else "zpopmin", entry.key)
    taken(ks, entry, zset)
    return members, scores


@keys_command("zmpop")
def zmpop(ks: Keyspace, argv: Argv) -> Reply:
    numkeys = parse_int_or(argv[1], NUMKEYS_NOT_POSITIVE)
    if numkeys < 1:
        raise CommandError(NUMKEYS_NOT_POSITIVE)
    args = Args(argv, min(2 + numkeys, len(argv)))
    end = args.option()
    if end not in (b"MIN", b"MAX"):
        raise CommandError(SYNTAX)
    count = 0
    while args.more():
        if count or not args.match(b"COUNT"):
            raise CommandError(SYNTAX)
        count = parse_int_or(args.next(), COUNT_NOT_POSITIVE)
        if count < 1:
            raise CommandError(COUNT_NOT_POSITIVE)
    for key in argv[2 : 2 + numkeys]:
        entry = ks.edit(key)
        if entry is not None:
            members, scores = pop(ks, entry, zset_of(entry), count or 1, end == b"MAX")
            return [key, [list(pair) for pair in zip(members, scores, strict=True)]]
    return NULL_ARRAY


@keys_command("zrandmember")
def zrandmember(ks: Keyspace, argv: Argv) -> Reply:
    if len(argv) == 2:
        zset = find_zset(ks, argv[1])
        return None if zset is None else zset.random()
    count = parse_int(argv[2])
    if count < -INT64_MAX:
        raise CommandError(NOT_A_COUNT)
    scored = len(argv) == 4 and argv[3].upper() == b"WITHSCORES"
    if len(argv) > 3 and not scored:
        raise CommandError(SYNTAX)
    if scored and not -(INT64_MAX // 2) <= count <= INT64_MAX // 2:
        raise CommandError(COUNT_OUT_OF_RANGE)
    zset = find_zset(ks, argv[1])
    if zset is None or not count:
        return []
    size = len(zset)
    if count >= size:
        members, scores = zset.items()
        members.reverse()  # as Redis goes through it
        scores.reverse()
    else:
        if -count > DRAWS_MAX:
            raise too_many(-count, DRAWS_MAX)
        ranks = random.sample(range(size), count) if count > 0 else random.choices(range(size), k=-count)
        members, scores = zset.pick(ranks)
    return Pairs(members, scores) if scored else members


@keys_command("zscan")
def zscan(ks: Keyspace, argv: Argv) -> Reply:
    cursor = parse_cursor(argv[2])
    zset = find_zset(ks, argv[1])
    if zset is None:
        return [b"0", []]
    pattern, count = parse_page(argv, 3)
    cursor, members = zset.scan(cursor, count)
    found: list[bytes] = []
    for member in members:
        if pattern is None or pattern.matches(member):
            found.append(member)
            found.append(_format_scanned(cast(float, zset.boxed_score(member)), zset.packed()))
    return [digits(cursor), found]


def _format_scanned(score: float, packed: bool) -> bytes:
    """A score as ZSCAN gives it: Redis keeps whole ones as integers while a set is packed."""
    if packed and -INTEGER_MAX <= score <= INTEGER_MAX and score == int(score):
        return b"%d" % int(score)
    return format_double(score)
