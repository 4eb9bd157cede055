"""Streams read from a place on: XREAD XREADGROUP.

With BLOCK, and nothing to answer, they wait; ``$`` then stays the last entry of when the wait began.
"""

from __future__ import annotations

from proxy import errors
from proxy.commands.spec import keys_command
from proxy.commands.streamargs import Reading, parse_id, parse_reading, stream_of
from proxy.commands.streams import entries_reply
from proxy.datatypes import streamid
from proxy.datatypes.stream import Stream
from proxy.datatypes.streamgroup import CONSUMER_OVERHEAD, DELIVERY_OVERHEAD, Consumer, Group
from proxy.errors import CommandError
from proxy.keyspace import Block, Keyspace
from proxy.lru import Entry
from proxy.resp import NULL_ARRAY, Argv, PairedMap, Reply


@keys_command("xread")
def xread(ks: Keyspace, argv: Argv) -> Reply:
    reading = parse_reading(argv, False)
    names: list[bytes] = []
    replies: list[Reply] = []
    seen: list[bytes] = []  # up to where, of each stream
    for key, place in zip(reading.keys, reading.places, strict=True):
        entry = ks.find(key)
        stream = None if entry is None else stream_of(entry)
        after = parse_after(place, stream)
        if stream is not None and stream.length and stream.top() > after:
            start = streamid.after(after)
            assert start is not None  # nothing is larger than the last one
            names.append(key)
            replies.append(entries_reply(stream.range(start, streamid.LAST, reading.count)))
        seen.append(streamid.text(after))
    return PairedMap(names, replies) if names else _nothing(reading, [*argv[: -len(seen)], *seen])


def _nothing(reading: Reading, argv: Argv) -> Reply:
    return NULL_ARRAY if reading.block < 0 else Block(reading.block, NULL_ARRAY, argv)


def parse_after(place: bytes, stream: Stream | None) -> bytes:
    """The id after which XREAD is to read: ``$`` is the last one now."""
    if place == b"$":
        return streamid.FIRST if stream is None else stream.last
    if place == b">":
        raise CommandError(errors.XREAD_NEW)
    return parse_id(place)


class Share:
    """One stream of XREADGROUP."""

    def __init__(self, entry: Entry, stream: Stream, group: Group, after: bytes | None) -> None:
        self.entry: Entry = entry
        self.stream: Stream = stream
        self.group: Group = group
        self.after: bytes | None = after  # what the consumer has pending after this id; None: what is new


@keys_command("xreadgroup")
def xreadgroup(ks: Keyspace, argv: Argv) -> Reply:
    reading = parse_reading(argv, True)
    shares = [
        find_share(ks, reading, key, place) for key, place in zip(reading.keys, reading.places, strict=True)
    ]
    for share in shares:
        ks.reserve(share.entry.key, share.entry, growth(reading, share))
        check_loaded(reading, share)
    names: list[bytes] = []
    replies: list[Reply] = []
    for share in shares:
        stream, group = share.stream, share.group
        if share.after is None and (not stream.length or stream.top() <= group.last):
            continue
        consumer = see_consumer(ks, share.entry, stream, group, reading.consumer)
        names.append(share.entry.key)
        if share.after is None:
            replies.append(read_new(ks, reading, stream, group, consumer))
        else:
            replies.append(read_pending(ks, reading, stream, consumer, share.after))
        ks.update(share.entry, stream)
    return PairedMap(names, replies) if names else _nothing(reading, argv)


def find_share(ks: Keyspace, reading: Reading, key: bytes, place: bytes) -> Share:
    entry = ks.edit_part(key)
    name = reading.group
    assert name is not None  # the parser has refused what has none
    stream = None if entry is None else stream_of(entry)
    group = None if stream is None else stream.groups.get(name)
    if entry is None or stream is None or group is None:
        raise errors.no_group_to_read(key, name)
    if place == b"$":
        raise CommandError(errors.XREADGROUP_LAST)
    if place == b">":
        return Share(entry, stream, group, None)
    after = parse_id(place)
    return Share(entry, stream, group, None if after == streamid.LAST else after)


def check_loaded(reading: Reading, share: Share) -> None:
    """Raise NeedChunks unless all entries that may be given are loaded."""
    if share.after is None:
        start = streamid.after(share.group.last)
        if start is not None:
            share.stream.need_range(start, streamid.LAST, reading.count, False)
        return
    consumer = share.group.consumers.get(reading.consumer)
    start = streamid.after(share.after)
    if consumer is not None and start is not None and share.stream.chunked:
        ids = [id for id, _ in consumer.pending.walk(start)]
        share.stream.need_ids(ids[: reading.count] if reading.count else ids)


def growth(reading: Reading, share: Share) -> int:
    """Bytes of memory that a stream may grow by."""
    more = 0
    if reading.consumer not in share.group.consumers:
        more = CONSUMER_OVERHEAD + len(reading.consumer)
    if share.after is None and not reading.acknowledged:
        more += DELIVERY_OVERHEAD * share.stream.count_after(share.group.last, reading.count)
    return more


def see_consumer(ks: Keyspace, entry: Entry, stream: Stream, group: Group, name: bytes) -> Consumer:
    """A consumer that asks for something now, and is made if it is new."""
    now = ks.clock.ms
    consumer = group.consumers.get(name)
    if consumer is None:
        consumer = stream.create_consumer(group, name, now)
        ks.event("xgroup-createconsumer", entry.key)
    consumer.see(now)
    return consumer


def read_new(ks: Keyspace, reading: Reading, stream: Stream, group: Group, consumer: Consumer) -> list[Reply]:
    """What the group has not been given, which is now the consumer's."""
    start = streamid.after(group.last)
    assert start is not None  # nothing is larger than the last one
    found = stream.range(start, streamid.LAST, reading.count)
    for id, _ in found:
        stream.read_up_to(group, id)
        if not reading.acknowledged:
            stream.deliver(group, consumer, id, ks.clock.ms)
    return entries_reply(found)


def read_pending(
    ks: Keyspace, reading: Reading, stream: Stream, consumer: Consumer, after: bytes
) -> list[Reply]:
    """What the consumer has been given and has not acknowledged, given to it once more."""
    start = streamid.after(after)
    assert start is not None  # that place means what is new
    replies: list[Reply] = []
    for id, delivery in consumer.pending.walk(start):
        items = stream.get(id)
        if items is None:
            replies.append([streamid.text(id), NULL_ARRAY])
        else:
            delivery.set(ks.clock.ms, delivery.count + 1)
            replies.append([streamid.text(id), items])
        if len(replies) == reading.count:
            break
    return replies
