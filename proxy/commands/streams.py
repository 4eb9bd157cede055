"""Entries of streams: XADD XDEL XLEN XRANGE XREVRANGE XSETID XTRIM."""

from __future__ import annotations

from typing import Final

from proxy import errors
from proxy.commands.args import Args
from proxy.commands.spec import keys_command
from proxy.commands.streamargs import Addition, parse_addition, parse_end, parse_id, parse_start, stream_of
from proxy.datatypes import streamid
from proxy.datatypes.stream import Stream
from proxy.datatypes.streamblock import Item
from proxy.errors import NO_SUCH_KEY, SYNTAX, CommandError, wrong_arity
from proxy.keyspace import STREAM, Keyspace
from proxy.resp import NULL_ARRAY, OK, Argv, Reply

ENTRY_MAX: Final = 1 << 30  # bytes of an entry's fields and values, as in Redis


@keys_command("xadd")
def xadd(ks: Keyspace, argv: Argv) -> Reply:
    added = parse_addition(argv, True)
    items = argv[added.fields :]
    if len(items) < 2 or len(items) % 2:
        raise wrong_arity("xadd")
    if added.id == streamid.FIRST:
        raise CommandError(errors.STREAM_ID_ZERO)
    key = argv[1]
    entry = ks.edit_part(key)
    if entry is None and not added.create:
        return None
    stream = Stream() if entry is None else stream_of(entry)
    id = new_id(stream, added, ks.clock.ms)
    if sum(map(len, items)) > ENTRY_MAX:
        raise CommandError(errors.STREAM_ENTRY_TOO_LARGE)
    ks.reserve(key, entry, stream.cost(items))
    added.check(stream, 1)
    stream.append(id, items)
    trimmed = added.apply(stream)
    if entry is None:
        ks.put(key, STREAM, stream)
    else:
        ks.update(entry, stream)
    ks.event("xadd", key)
    if trimmed:
        ks.event("xtrim", key)
    return streamid.text(id)


def new_id(stream: Stream, added: Addition, now: int) -> bytes:
    """The id that an entry gets, larger than all before."""
    last = stream.last
    if last == streamid.LAST:
        raise CommandError(errors.STREAM_IDS_USED)
    id = added.id
    if id is None and added.ms < 0:
        id = stream.next_id(now)
    elif id is None:
        id = streamid.make(added.ms, 0)
        ms, seq = streamid.split(last)
        if added.ms == ms:
            id = None if seq == streamid.SEQ_MAX else streamid.after(last)
    if id is None or id <= last:
        raise CommandError(errors.STREAM_ID_SMALL)
    return id


@keys_command("xtrim")
def xtrim(ks: Keyspace, argv: Argv) -> Reply:
    added = parse_addition(argv, False)
    key = argv[1]
    entry = ks.edit_part(key)
    if entry is None:
        return 0
    stream = stream_of(entry)
    trimmed = added.apply(stream)
    if trimmed:
        ks.update(entry, stream)
        ks.event("xtrim", key)
    return trimmed


@keys_command("xdel")
def xdel(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[1]
    entry = ks.edit_part(key)
    if entry is None:
        return 0
    stream = stream_of(entry)
    ids = [parse_id(text) for text in argv[2:]]
    stream.need_ids(ids)
    deleted = 0
    for id in ids:
        if stream.delete(id):
            deleted += 1
    if deleted:
        ks.update(entry, stream)
        ks.event("xdel", key)
    return deleted


@keys_command("xlen")
def xlen(ks: Keyspace, argv: Argv) -> Reply:
    entry = ks.find(argv[1])
    return 0 if entry is None else stream_of(entry).length


@keys_command("xrange")
def xrange_(ks: Keyspace, argv: Argv) -> Reply:
    return _range(ks, argv, False)


@keys_command("xrevrange")
def xrevrange(ks: Keyspace, argv: Argv) -> Reply:
    return _range(ks, argv, True)


def _range(ks: Keyspace, argv: Argv, reverse: bool) -> Reply:
    start = parse_start(argv[3 if reverse else 2])
    end = parse_end(argv[2 if reverse else 3])
    count = -1
    args = Args(argv, 4)
    while args.more():
        if args.option() != b"COUNT":
            raise CommandError(SYNTAX)
        count = max(args.next_int(), 0)
    entry = ks.find(argv[1])
    if entry is None:
        return []
    stream = stream_of(entry)
    if not count:
        return NULL_ARRAY
    find = stream.reverse_range if reverse else stream.range
    return entries_reply(find(start, end, max(count, 0)))


def entries_reply(found: list[Item]) -> list[Reply]:
    """Entries as clients see them: each an array of the id and an array of fields and values."""
    return [[streamid.text(id), items] for id, items in found]


@keys_command("xsetid")
def xsetid(ks: Keyspace, argv: Argv) -> Reply:
    last = parse_id(argv[2])
    entries_added, max_deleted = -1, streamid.FIRST
    args = Args(argv, 3)
    while args.more():
        option = args.option()
        if option == b"ENTRIESADDED":
            entries_added = args.next_int()
            if entries_added < 0:
                raise CommandError(errors.XSETID_ADDED)
        elif option == b"MAXDELETEDID":
            max_deleted = parse_id(args.next())
            if last < max_deleted:
                raise CommandError(errors.XSETID_DELETED)
        else:
            raise CommandError(SYNTAX)
    key = argv[1]
    entry = ks.edit_part(key)
    if entry is None:
        raise CommandError(NO_SUCH_KEY)
    stream = stream_of(entry)
    if stream.length and last < stream.top():
        raise CommandError(errors.XSETID_SMALL)
    if stream.length and 0 <= entries_added < stream.length:
        raise CommandError(errors.XSETID_ADDED_SMALL)
    if entries_added < 0:
        entries_added = stream.added
    if max_deleted == streamid.FIRST:
        max_deleted = stream.max_deleted
    stream.set_ids(last, entries_added, max_deleted)
    ks.update(entry, stream)
    ks.event("xsetid", key)
    return OK
