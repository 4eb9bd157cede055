"""What there is to know of a stream: XINFO."""

from __future__ import annotations

from itertools import islice
from typing import Final

from proxy import errors
from proxy.commands.args import parse_int
from proxy.commands.help import help_lines
from proxy.commands.spec import keys_command, session_command
from proxy.commands.streamargs import stream_of
from proxy.commands.streams import entries_reply
from proxy.datatypes import streamid
from proxy.datatypes.stream import Stream
from proxy.datatypes.streamgroup import UNKNOWN, Consumer, Group, Pending
from proxy.errors import NO_SUCH_KEY, CommandError, subcommand_syntax
from proxy.keyspace import Keyspace
from proxy.resp import Argv, Reply
from proxy.session import Session

FULL_COUNT: Final = 10  # entries that FULL shows of each list where no COUNT is given


def find_stream(ks: Keyspace, key: bytes) -> Stream:
    entry = ks.find(key)
    if entry is None:
        raise CommandError(NO_SUCH_KEY)
    return stream_of(entry)


@keys_command("xinfo|stream")
def xinfo_stream(ks: Keyspace, argv: Argv) -> Reply:
    stream = find_stream(ks, argv[2])
    size = len(argv)
    if size > 3 and (
        size not in (4, 6) or argv[3].upper() != b"FULL" or (size == 6 and argv[4].upper() != b"COUNT")
    ):
        raise subcommand_syntax(argv[1], "xinfo")
    count = parse_int(argv[5]) if size == 6 else FULL_COUNT
    reply: dict[bytes, Reply] = {
        b"length": stream.length,
        b"radix-tree-keys": stream.blocks,
        b"radix-tree-nodes": stream.blocks + 1,  # there is no such tree here
        b"last-generated-id": streamid.text(stream.last),
        b"max-deleted-entry-id": streamid.text(stream.max_deleted),
        b"entries-added": stream.added,
        b"recorded-first-entry-id": streamid.text(stream.first()),
    }
    if size > 3:
        count = FULL_COUNT if count < 0 else count
        reply[b"entries"] = entries_reply(stream.range(streamid.FIRST, streamid.LAST, count))
        reply[b"groups"] = [
            full_group(stream, name, group, count) for name, group in sorted(stream.groups.items())
        ]
        return reply
    reply[b"groups"] = len(stream.groups)
    first = entries_reply(stream.range(streamid.FIRST, streamid.LAST, 1))
    last = entries_reply(stream.reverse_range(streamid.FIRST, streamid.LAST, 1))
    reply[b"first-entry"] = first[0] if first else None
    reply[b"last-entry"] = last[0] if last else None
    return reply


def full_group(stream: Stream, name: bytes, group: Group, count: int) -> dict[bytes, Reply]:
    return {
        b"name": name,
        b"last-delivered-id": streamid.text(group.last),
        b"entries-read": entries_read(group),
        b"lag": stream.lag(group),
        b"pel-count": len(group.pending),
        b"pending": pending_rows(group.pending, count, True),
        b"consumers": [full_consumer(consumer, count) for _, consumer in sorted(group.consumers.items())],
    }


def full_consumer(consumer: Consumer, count: int) -> dict[bytes, Reply]:
    return {
        b"name": consumer.name,
        b"seen-time": consumer.seen_at,
        b"pel-count": len(consumer.pending),
        b"pending": pending_rows(consumer.pending, count, False),
    }


def pending_rows(pending: Pending, count: int, named: bool) -> list[Reply]:
    """Each one's id, consumer (if ``named``), time and count of delivery."""
    rows: list[Reply] = []
    for id, delivery in islice(pending.walk(streamid.FIRST), count or None):
        consumer = [delivery.consumer] if named else []
        rows.append([streamid.text(id), *consumer, delivery.at, delivery.count])
    return rows


def entries_read(group: Group) -> int | None:
    return None if group.entries_read == UNKNOWN else group.entries_read


@keys_command("xinfo|groups")
def xinfo_groups(ks: Keyspace, argv: Argv) -> Reply:
    stream = find_stream(ks, argv[2])
    return [
        {
            b"name": name,
            b"consumers": len(group.consumers),
            b"pending": len(group.pending),
            b"last-delivered-id": streamid.text(group.last),
            b"entries-read": entries_read(group),
            b"lag": stream.lag(group),
        }
        for name, group in sorted(stream.groups.items())
    ]


@keys_command("xinfo|consumers")
def xinfo_consumers(ks: Keyspace, argv: Argv) -> Reply:
    group = find_stream(ks, argv[2]).groups.get(argv[3])
    if group is None:
        raise errors.no_group_of_key(argv[3], argv[2])
    now = ks.clock.ms
    return [
        {b"name": name, b"pending": len(consumer.pending), b"idle": max(now - consumer.seen_at, 0)}
        for name, consumer in sorted(group.consumers.items())
    ]


@session_command("xinfo|help")
def xinfo_help(session: Session, argv: Argv) -> Reply:
    return help_lines(b"xinfo")
