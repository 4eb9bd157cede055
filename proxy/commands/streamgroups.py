"""Groups of consumers: XACK XAUTOCLAIM XCLAIM XGROUP XPENDING."""

from __future__ import annotations

from itertools import islice
from typing import Final

from proxy import errors
from proxy.commands.args import INT64_MAX, Args, parse_int, parse_int_or
from proxy.commands.help import help_lines
from proxy.commands.spec import keys_command, session_command
from proxy.commands.streamargs import parse_end, parse_id, parse_place, parse_start, stream_of
from proxy.commands.streamreads import see_consumer
from proxy.datatypes import streamid
from proxy.datatypes.stream import STREAM_OVERHEAD, Stream
from proxy.datatypes.streamgroup import (
    CONSUMER_OVERHEAD,
    DELIVERY_OVERHEAD,
    GROUP_OVERHEAD,
    UNKNOWN,
    Consumer,
    Group,
)
from proxy.errors import SYNTAX, CommandError, subcommand_syntax
from proxy.keyspace import STREAM, Keyspace
from proxy.lru import Entry
from proxy.resp import NULL_ARRAY, OK, Argv, Reply
from proxy.session import Session

ATTEMPTS: Final = 10  # entries that XAUTOCLAIM looks at for each that it may claim
CLAIM_MAX: Final = INT64_MAX // 16  # of XAUTOCLAIM's COUNT


def find_group(ks: Keyspace, key: bytes, name: bytes, change: bool) -> tuple[Entry, Stream, Group]:
    entry = ks.edit(key) if change else ks.find(key)
    if entry is not None:
        stream = stream_of(entry)
        group = stream.groups.get(name)
        if group is not None:
            return entry, stream, group
    raise errors.no_group(key, name)


@keys_command("xack")
def xack(ks: Keyspace, argv: Argv) -> Reply:
    entry = ks.edit_part(argv[1])
    stream = None if entry is None else stream_of(entry)
    group = None if stream is None else stream.groups.get(argv[2])
    if entry is None or stream is None or group is None:
        return 0
    ids = [parse_id(text) for text in argv[3:]]
    acknowledged = 0
    for id in ids:
        if stream.acknowledge(group, id):
            acknowledged += 1
    if acknowledged:
        ks.update(entry, stream)
    return acknowledged


@keys_command("xpending")
def xpending(ks: Keyspace, argv: Argv) -> Reply:
    size = len(argv)
    if size == 3:
        return pending_summary(find_group(ks, argv[1], argv[2], False)[2])
    if not 6 <= size <= 9:
        raise CommandError(SYNTAX)
    at, idle = 3, 0
    if argv[3].upper() == b"IDLE":
        at, idle = 5, parse_int(argv[4])
        if size < 8:
            raise CommandError(SYNTAX)
    count = max(parse_int(argv[at + 2]), 0)
    start, end = parse_start(argv[at]), parse_end(argv[at + 1])
    group = find_group(ks, argv[1], argv[2], False)[2]
    pending = group.pending
    if at + 3 < size:
        consumer = group.consumers.get(argv[at + 3])
        if consumer is None:
            return []
        pending = consumer.pending
    now = ks.clock.ms
    replies: list[Reply] = []
    if not count:
        return replies
    for id, delivery in pending.walk(start):
        if id > end:
            break
        if idle and now - delivery.at < idle:
            continue
        replies.append([streamid.text(id), delivery.consumer, max(now - delivery.at, 0), delivery.count])
        if len(replies) == count:
            break
    return replies


def pending_summary(group: Group) -> list[Reply]:
    pending = group.pending
    if not pending:
        return [0, None, None, NULL_ARRAY]
    consumers = [
        [name, b"%d" % len(consumer.pending)]
        for name, consumer in sorted(group.consumers.items())
        if consumer.pending
    ]
    return [len(pending), streamid.text(pending.first()), streamid.text(pending.last()), consumers]


class Claim:
    """Options of XCLAIM."""

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self.idle: int = 0  # ms since the delivery of what may be claimed
        self.at: int = -1  # the delivery's new time, -1: now
        self.count: int = -1  # the delivery's new count, -1: one more
        self.force: bool = False  # what is not pending becomes so
        self.just_id: bool = False
        self.last: bytes = streamid.FIRST  # the group is given all until this one


@keys_command("xclaim")
def xclaim(ks: Keyspace, argv: Argv) -> Reply:
    entry, stream, group = find_group(ks, argv[1], argv[2], True)
    now = ks.clock.ms
    claim = parse_claim(argv, now)
    name = argv[3]
    ks.reserve(entry.key, entry, _room(name, len(claim.ids) if claim.force else 0))
    group.set(max(group.last, claim.last), group.entries_read)
    consumer: Consumer | None = None  # not made for nothing
    replies: list[Reply] = []
    for id in claim.ids:
        items = stream.get(id)
        if items is None:
            stream.acknowledge(group, id)
            continue
        delivery = group.pending.get(id)
        if delivery is None and not claim.force:
            continue
        if delivery is not None and claim.idle and now - delivery.at < claim.idle:
            continue
        if consumer is None:
            consumer = see_consumer(ks, entry, stream, group, name)
        if delivery is None:
            delivery = stream.deliver(group, consumer, id, now)
        group.hand_over(id, delivery, consumer)
        count = claim.count
        if count < 0:
            count = delivery.count if claim.just_id else delivery.count + 1
        delivery.set(claim.at, count)
        replies.append(streamid.text(id) if claim.just_id else [streamid.text(id), items])
    ks.update(entry, stream)
    return replies


def _room(consumer: bytes, deliveries: int) -> int:
    """Bytes of memory that claiming may take."""
    return CONSUMER_OVERHEAD + len(consumer) + DELIVERY_OVERHEAD * deliveries


def parse_claim(argv: Argv, now: int) -> Claim:
    claim = Claim()
    claim.idle = max(parse_int_or(argv[4], errors.invalid_claim("min-idle-time", "XCLAIM")), 0)
    args = Args(argv, 5)
    while args.more():
        try:
            claim.ids.append(parse_id(argv[args.at]))
        except CommandError:  # the first option
            break
        args.at += 1
    while args.more():
        option = args.option()
        if option == b"FORCE":
            claim.force = True
        elif option == b"JUSTID":
            claim.just_id = True
        elif option == b"LASTID" and args.more():
            claim.last = parse_id(args.next())
        elif option in (b"IDLE", b"TIME", b"RETRYCOUNT") and args.more():
            name = option.decode()
            number = parse_int_or(args.next(), errors.invalid_claim(f"{name} option", "XCLAIM"))
            if option == b"RETRYCOUNT":
                claim.count = number
            else:
                claim.at = now - number if option == b"IDLE" else number
        else:
            raise errors.unknown_claim_option(argv[args.at - 1])
    if not 0 <= claim.at <= now:  # clocks differ: what lies ahead is now
        claim.at = now
    return claim


@keys_command("xautoclaim")
def xautoclaim(ks: Keyspace, argv: Argv) -> Reply:
    idle = max(parse_int_or(argv[4], errors.invalid_claim("min-idle-time", "XAUTOCLAIM")), 0)
    start = parse_start(argv[5])
    count, just_id = 100, False
    args = Args(argv, 6)
    while args.more():
        option = args.option()
        if option == b"COUNT" and args.more():
            count = parse_int_or(args.next(), errors.XAUTOCLAIM_COUNT)
            if not 0 < count <= CLAIM_MAX:
                raise CommandError(errors.XAUTOCLAIM_COUNT)
        elif option == b"JUSTID":
            just_id = True
        else:
            raise CommandError(SYNTAX)
    entry, stream, group = find_group(ks, argv[1], argv[2], True)
    ks.reserve(entry.key, entry, _room(argv[3], 0))
    now = ks.clock.ms
    consumer: Consumer | None = None  # not made for nothing
    cursor = streamid.FIRST
    claimed: list[Reply] = []
    deleted: list[Reply] = []
    # One more than may be looked at: where the next call goes on.
    looked_at = list(islice(group.pending.walk(start), ATTEMPTS * count + 1))
    for number, (id, delivery) in enumerate(looked_at):
        if number == ATTEMPTS * count or len(claimed) + len(deleted) == count:
            cursor = id
            break
        items = stream.get(id)
        if items is None:
            stream.acknowledge(group, id)
            deleted.append(streamid.text(id))
        elif not idle or now - delivery.at >= idle:
            if consumer is None:
                consumer = see_consumer(ks, entry, stream, group, argv[3])
            group.hand_over(id, delivery, consumer)
            delivery.set(now, delivery.count + (0 if just_id else 1))
            claimed.append(streamid.text(id) if just_id else [streamid.text(id), items])
    ks.update(entry, stream)
    return [streamid.text(cursor), claimed, deleted]


@keys_command("xgroup|create")
def xgroup_create(ks: Keyspace, argv: Argv) -> Reply:
    make, entries_read = parse_group_options(argv, True)
    key, name = argv[2], argv[3]
    entry = ks.edit_part(key)
    stream = None if entry is None else stream_of(entry)
    if stream is None and not make:
        raise CommandError(errors.XGROUP_NO_KEY)
    if len(argv) > 8:
        raise subcommand_syntax(argv[1], "xgroup")
    last = streamid.FIRST if stream is None else stream.last
    if argv[4] != b"$":
        last = parse_id(argv[4])
    if stream is not None and name in stream.groups:
        raise CommandError(errors.XGROUP_BUSY)
    ks.reserve(key, entry, STREAM_OVERHEAD + GROUP_OVERHEAD + len(name))
    if stream is None:
        stream = Stream()
    stream.create_group(name, last, entries_read)
    if entry is None:
        ks.put(key, STREAM, stream)
    else:
        ks.update(entry, stream)
    ks.event("xgroup-create", key)
    return OK


@keys_command("xgroup|setid")
def xgroup_setid(ks: Keyspace, argv: Argv) -> Reply:
    _, entries_read = parse_group_options(argv, False)
    entry, stream, group = group_of_key(ks, argv)
    if len(argv) != 5 and len(argv) != 7:
        raise subcommand_syntax(argv[1], "xgroup")
    last = stream.last if argv[4] == b"$" else parse_place(argv[4])
    group.set(last, entries_read)
    ks.update(entry, stream)
    ks.event("xgroup-setid", argv[2])
    return OK


def parse_group_options(argv: Argv, create: bool) -> tuple[bool, int]:
    """Of XGROUP CREATE and SETID: whether to make the stream, and how many entries the group has read."""
    make, entries_read = False, UNKNOWN
    args = Args(argv, 5)
    while args.more():
        option = args.option()
        if create and option == b"MKSTREAM":
            make = True
        elif option == b"ENTRIESREAD" and args.more():
            entries_read = args.next_int()
            if entries_read < UNKNOWN:
                raise CommandError(errors.ENTRIES_READ)
        else:
            raise subcommand_syntax(argv[1], "xgroup")
    return make, entries_read


def group_of_key(ks: Keyspace, argv: Argv) -> tuple[Entry, Stream, Group]:
    """The group that a subcommand of XGROUP is to change."""
    entry = ks.edit_part(argv[2])
    if entry is None:
        raise CommandError(errors.XGROUP_NO_KEY)
    stream = stream_of(entry)
    group = stream.groups.get(argv[3])
    if group is None:
        raise errors.no_group_of_key(argv[3], argv[2])
    return entry, stream, group


@keys_command("xgroup|destroy")
def xgroup_destroy(ks: Keyspace, argv: Argv) -> Reply:
    key = argv[2]
    entry = ks.edit_part(key)
    if entry is None:
        raise CommandError(errors.XGROUP_NO_KEY)
    stream = stream_of(entry)
    if not stream.destroy_group(argv[3]):
        return 0
    ks.update(entry, stream)
    ks.event("xgroup-destroy", key)
    return 1


@keys_command("xgroup|createconsumer")
def xgroup_createconsumer(ks: Keyspace, argv: Argv) -> Reply:
    entry, stream, group = group_of_key(ks, argv)
    name = argv[4]
    if name in group.consumers:
        return 0
    ks.reserve(entry.key, entry, CONSUMER_OVERHEAD + len(name))
    stream.create_consumer(group, name, ks.clock.ms)
    ks.update(entry, stream)
    ks.event("xgroup-createconsumer", entry.key)
    return 1


@keys_command("xgroup|delconsumer")
def xgroup_delconsumer(ks: Keyspace, argv: Argv) -> Reply:
    entry, stream, group = group_of_key(ks, argv)
    if argv[4] not in group.consumers:
        return 0
    pending = stream.delete_consumer(group, argv[4])
    ks.update(entry, stream)
    ks.event("xgroup-delconsumer", entry.key)
    return pending


@session_command("xgroup|help")
def xgroup_help(session: Session, argv: Argv) -> Reply:
    return help_lines(b"xgroup")
