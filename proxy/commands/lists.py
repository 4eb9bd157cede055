"""Lists: LINDEX LINSERT LLEN LMOVE LMPOP LPOP LPOS LPUSH LPUSHX LRANGE LREM LSET LTRIM RPOP RPOPLPUSH RPUSH
RPUSHX.

The pushes, the pops and LRANGE are as hot as GET: they do nothing that they need not do.
"""

from __future__ import annotations

from proxy.commands.args import INT64_MIN, Args, parse_int, parse_int_or
from proxy.commands.spec import keys_command
from proxy.datatypes.list import ITEM_OVERHEAD, LIST_OVERHEAD, List
from proxy.errors import (
    COUNT_NEGATIVE,
    COUNT_NOT_POSITIVE,
    INDEX_OUT_OF_RANGE,
    MAXLEN_NEGATIVE,
    NO_SUCH_KEY,
    NOT_POSITIVE,
    NUMKEYS_NOT_POSITIVE,
    RANK_ZERO,
    SYNTAX,
    WRONG_TYPE,
    CommandError,
    wrong_arity,
)
from proxy.keyspace import LIST, Keyspace
from proxy.lru import Entry
from proxy.resp import NULL_ARRAY, OK, Argv, Reply


def list_of(entry: Entry) -> List:
    """A list entry's value; raises WRONGTYPE for another kind."""
    value = entry.value
    if isinstance(value, List):
        return value
    raise CommandError(WRONG_TYPE)


# Pushing


@keys_command("lpush")
def lpush(ks: Keyspace, argv: Argv) -> Reply:
    return _push(ks, argv, ks.edit_part(argv[1]), True)


@keys_command("rpush")
def rpush(ks: Keyspace, argv: Argv) -> Reply:
    return _push(ks, argv, ks.edit_part(argv[1]), False)


@keys_command("lpushx")
def lpushx(ks: Keyspace, argv: Argv) -> Reply:
    entry = ks.edit_part(argv[1])
    return 0 if entry is None else _push(ks, argv, entry, True)


@keys_command("rpushx")
def rpushx(ks: Keyspace, argv: Argv) -> Reply:
    entry = ks.edit_part(argv[1])
    return 0 if entry is None else _push(ks, argv, entry, False)


def _push(ks: Keyspace, argv: Argv, entry: Entry | None, left: bool) -> Reply:
    key = argv[1]
    target = None if entry is None else list_of(entry)
    more = 0
    for at in range(2, len(argv)):
        more += len(argv[at]) + ITEM_OVERHEAD
    ks.reserve(key, entry, more if target is not None else more + LIST_OVERHEAD)
    if target is None:
        target = List()
    for at in range(2, len(argv)):
        if left:
            target.push_left(argv[at])
        else:
            target.push_right(argv[at])
    _keep(ks, key, entry, target)
    ks.event("lpush" if left else "rpush", key)
    return target.count


def _keep(ks: Keyspace, key: bytes, entry: Entry | None, target: List) -> None:
    """Store a list that has grown."""
    if entry is None:
        ks.put(key, LIST, target)
    else:
        ks.update(entry, target)


# Popping


@keys_command("lpop")
def lpop(ks: Keyspace, argv: Argv) -> Reply:
    return _pop(ks, argv, True)


@keys_command("rpop")
def rpop(ks: Keyspace, argv: Argv) -> Reply:
    return _pop(ks, argv, False)


def _pop(ks: Keyspace, argv: Argv, left: bool) -> Reply:
    size = len(argv)
    count = 1
    if size > 2:
        if size > 3:
            raise wrong_arity("lpop" if left else "rpop")
        count = _natural(argv[2], NOT_POSITIVE)
    entry = ks.edit_part(argv[1])
    if entry is None:
        return None if size == 2 else NULL_ARRAY
    source = list_of(entry)
    if size > 2:
        return _take(ks, entry, source, count, left) if count else []
    item = source.pop_left() if left else source.pop_right()
    _taken(ks, entry, source, left)
    return item


def _natural(text: bytes, error: str) -> int:
    """A number that is not negative."""
    number = parse_int_or(text, error)
    if number < 0:
        raise CommandError(error)
    return number


def _take(ks: Keyspace, entry: Entry, source: List, count: int, left: bool) -> Reply:
    """Pop up to ``count`` elements."""
    size = source.count
    count = min(count, size)
    if left:
        items = source.slice(0, count)
        source.trim(count, size - count)
    else:
        items = source.slice(size - count, count)
        items.reverse()
        source.trim(0, size - count)
    _taken(ks, entry, source, left)
    return items


def _taken(ks: Keyspace, entry: Entry, source: List, left: bool) -> None:
    """Elements were popped of a list."""
    ks.event("lpop" if left else "rpop", entry.key)
    _shrunk(ks, entry, source)


def _shrunk(ks: Keyspace, entry: Entry, source: List) -> None:
    """Store a list that may have become empty."""
    if source.count:
        ks.update(entry, source)
    else:
        key = entry.key
        ks.remove(key)
        ks.event("del", key)


@keys_command("lmpop")
def lmpop(ks: Keyspace, argv: Argv) -> Reply:
    numkeys = _positive(argv[1], NUMKEYS_NOT_POSITIVE)
    args = Args(argv, 2 + numkeys)
    left = _is_left(args)
    count = 0
    while args.more():
        if count or not args.match(b"COUNT"):
            raise CommandError(SYNTAX)
        count = _positive(args.next(), COUNT_NOT_POSITIVE)
    for at in range(2, 2 + numkeys):
        entry = ks.edit_part(argv[at])
        if entry is not None:
            return [argv[at], _take(ks, entry, list_of(entry), count or 1, left)]
    return NULL_ARRAY


def _positive(text: bytes, error: str) -> int:
    number = _natural(text, error)
    if not number:
        raise CommandError(error)
    return number


def _is_left(args: Args) -> bool:
    """LEFT or RIGHT."""
    if args.match(b"LEFT"):
        return True
    if args.match(b"RIGHT"):
        return False
    raise CommandError(SYNTAX)


@keys_command("lmove")
def lmove(ks: Keyspace, argv: Argv) -> Reply:
    args = Args(argv, 3)
    pop_left = _is_left(args)
    return _move(ks, argv, pop_left, _is_left(args))


@keys_command("rpoplpush")
def rpoplpush(ks: Keyspace, argv: Argv) -> Reply:
    return _move(ks, argv, False, True)


def _move(ks: Keyspace, argv: Argv, pop_left: bool, push_left: bool) -> Reply:
    key = argv[2]
    source_entry = ks.edit_part(argv[1])
    if source_entry is None:
        return None
    source = list_of(source_entry)
    entry = ks.edit_part(key)
    target = None if entry is None else list_of(entry)
    size = len(source.get(0 if pop_left else source.count - 1)) + ITEM_OVERHEAD
    ks.reserve(key, entry, size if target is not None else size + LIST_OVERHEAD)
    source_entry = ks.edit_part(argv[1])
    if source_entry is None:  # what the new list needs has pushed it out of memory
        return None
    if target is None:
        target = List()
    item = source.pop_left() if pop_left else source.pop_right()
    if push_left:
        target.push_left(item)
    else:
        target.push_right(item)
    _keep(ks, key, entry, target)
    ks.event("lpush" if push_left else "rpush", key)
    _taken(ks, source_entry, source, pop_left)
    return item


# Reading


@keys_command("llen")
def llen(ks: Keyspace, argv: Argv) -> Reply:
    entry = ks.find(argv[1])
    return 0 if entry is None else list_of(entry).count


@keys_command("lrange")
def lrange(ks: Keyspace, argv: Argv) -> Reply:
    start, end = parse_int(argv[2]), parse_int(argv[3])
    entry = ks.find(argv[1])
    if entry is None:
        return []
    source = list_of(entry)
    first, count = _span(start, end, source.count)
    return source.slice(first, count) if count else []


def _span(start: int, end: int, size: int) -> tuple[int, int]:
    """The first of a range of indexes, negative ones from the right, and how many they are of ``size``."""
    if start < 0:
        start = max(start + size, 0)
    if end < 0:
        end += size
    return start, max(min(end, size - 1) - start + 1, 0)


@keys_command("lindex")
def lindex(ks: Keyspace, argv: Argv) -> Reply:
    entry = ks.find(argv[1])
    if entry is None:
        return None
    source = list_of(entry)
    index = _place(parse_int(argv[2]), source.count)
    return None if index < 0 else source.get(index)


def _place(index: int, size: int) -> int:
    """An index from the left; -1 where there is no element."""
    if index < 0:
        index += size
    return index if 0 <= index < size else -1


@keys_command("lpos")
def lpos(ks: Keyspace, argv: Argv) -> Reply:
    rank = 1
    count = -1
    depth = 0
    args = Args(argv, 3)
    while args.more():
        option = args.option()
        if option == b"RANK":
            rank = args.next_int()
            if not rank:
                raise CommandError(RANK_ZERO)
            if rank == INT64_MIN:
                rank = -1  # as in Redis, where it can't be turned into the positive one
        elif option == b"COUNT":
            count = _natural(args.next(), COUNT_NEGATIVE)
        elif option == b"MAXLEN":
            depth = _natural(args.next(), MAXLEN_NEGATIVE)
        else:
            raise CommandError(SYNTAX)
    entry = ks.find(argv[1])
    if entry is None:
        return None if count < 0 else []
    places = list_of(entry).positions(argv[2], rank, 1 if count < 0 else count, depth)
    if count >= 0:
        return places
    return places[0] if places else None


# Changing


@keys_command("lset")
def lset(ks: Keyspace, argv: Argv) -> Reply:
    key, item = argv[1], argv[3]
    entry = ks.edit_part(key)
    if entry is None:
        raise CommandError(NO_SUCH_KEY)
    target = list_of(entry)
    index = _place(parse_int(argv[2]), target.count)
    if index < 0:
        raise CommandError(INDEX_OUT_OF_RANGE)
    ks.reserve(key, entry, len(item) + ITEM_OVERHEAD)
    target.set(index, item)
    ks.update(entry, target)
    ks.event("lset", key)
    return OK


@keys_command("linsert")
def linsert(ks: Keyspace, argv: Argv) -> Reply:
    key, where, pivot, item = argv[1], argv[2].upper(), argv[3], argv[4]
    if where != b"BEFORE" and where != b"AFTER":
        raise CommandError(SYNTAX)
    entry = ks.edit_part(key)
    if entry is None:
        return 0
    target = list_of(entry)
    ks.reserve(key, entry, len(item) + ITEM_OVERHEAD)
    if not target.insert(pivot, item, where == b"AFTER"):
        return -1
    ks.update(entry, target)
    ks.event("linsert", key)
    return target.count


@keys_command("lrem")
def lrem(ks: Keyspace, argv: Argv) -> Reply:
    count = parse_int(argv[2])
    entry = ks.edit_part(argv[1])
    if entry is None:
        return 0
    target = list_of(entry)
    removed = target.remove(argv[3], count)
    if removed:
        ks.event("lrem", argv[1])
        _shrunk(ks, entry, target)
    return removed


@keys_command("ltrim")
def ltrim(ks: Keyspace, argv: Argv) -> Reply:
    start, end = parse_int(argv[2]), parse_int(argv[3])
    entry = ks.edit_part(argv[1])
    if entry is None:
        return OK
    target = list_of(entry)
    first, count = _span(start, end, target.count)
    target.trim(first if count else 0, count)
    ks.event("ltrim", argv[1])
    _shrunk(ks, entry, target)
    return OK


def check_ends(argv: Argv) -> None:
    """Refuse what LMOVE and BLMOVE would in the places of LEFT and RIGHT."""
    args = Args(argv, 3)
    _is_left(args)
    _is_left(args)
