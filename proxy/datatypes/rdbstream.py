"""Streams in the form of a DUMP (see ``proxy.datatypes.rdb``).

Entries come in nodes: the id that a node begins with, and a listpack.  That begins with a master entry (how
many entries are there, and how many are deleted; number of fields, fields, 0).  Each entry then is its flags;
what its id is more than the node's; either values for the master's fields, or number of fields, fields and
values in turns; and of how many elements all that is.
"""

from __future__ import annotations

from typing import Final

from proxy.datatypes import listpack, streamid
from proxy.datatypes.rdbreader import (
    STREAM_1,
    STREAM_2,
    STREAM_3,
    BadFormat,
    Reader,
)
from proxy.datatypes.rdbwriter import write_length, write_string
from proxy.datatypes.stream import Stream
from proxy.datatypes.streamgroup import UNKNOWN, Group

DELETED: Final = 1  # flags of an entry
SAME_FIELDS: Final = 2

NODE_ENTRIES: Final = 100  # which are written into one
NODE_BYTES: Final = 4096
UNSIGNED: Final = (1 << 64) - 1


def read_stream(reader: Reader, form: int) -> Stream:
    made = Stream()
    # There may be none: a stream may be empty.
    for _ in range(reader.length()):
        _read_node(reader, made)
    if reader.length() != len(made):
        raise BadFormat("not as many entries as were announced")
    last = _read_id(reader)
    if last < made.last:
        raise BadFormat("an entry after the last one")
    made.last = last
    if form != STREAM_1:
        _read_id(reader)  # of the first entry
        made.max_deleted = _read_id(reader)
        made.added = reader.length()
    for _ in range(reader.length()):
        _read_group(reader, made, form)
    return made


def _read_id(reader: Reader) -> bytes:
    ms = reader.length()
    return streamid.make(ms, reader.length())


def _read_node(reader: Reader, stream: Stream) -> None:
    node = reader.string()
    if len(node) != streamid.SIZE:
        raise BadFormat("no id")
    ms, seq = streamid.split(node)
    items = listpack.items(reader.string())
    left, deleted, width = int(items[0]), int(items[1]), int(items[2])
    fields = items[3 : 3 + width]
    at = 4 + width
    if left < 0 or deleted < 0 or width < 1 or at > len(items):
        raise BadFormat("no master entry")
    for _ in range(left + deleted):
        flags = int(items[at])
        id = streamid.make(ms + int(items[at + 1]) & UNSIGNED, seq + int(items[at + 2]) & UNSIGNED)
        at += 3
        if flags & SAME_FIELDS:
            values = items[at : at + width]
            at += width
            pairs = [word for pair in zip(fields, values, strict=True) for word in pair]
        else:
            count = int(items[at])
            pairs = items[at + 1 : at + 1 + 2 * count]
            at += 1 + 2 * count
            if count < 1 or len(pairs) != 2 * count:
                raise BadFormat("cut off")
        at += 1  # how many elements there were
        if not flags & DELETED:
            if id <= stream.last:
                raise BadFormat("ids that do not rise")
            stream.append(id, pairs)


def _read_group(reader: Reader, stream: Stream, form: int) -> None:
    name = reader.string()
    if name in stream.groups:
        raise BadFormat("a group twice")
    last = _read_id(reader)
    read = UNKNOWN
    if form != STREAM_1:
        read = reader.length()
        if read == UNSIGNED:
            read = UNKNOWN
    group = stream.create_group(name, last, read)
    deliveries: dict[bytes, tuple[int, int]] = {}
    for _ in range(reader.length()):
        id = reader.take(streamid.SIZE)
        at = reader.number()
        deliveries[id] = at, reader.length()
    for _ in range(reader.length()):
        _read_consumer(reader, stream, group, form, deliveries)
    if deliveries:
        raise BadFormat("what is pending has no consumer")


def _read_consumer(
    reader: Reader, stream: Stream, group: Group, form: int, deliveries: dict[bytes, tuple[int, int]]
) -> None:
    """``deliveries`` by id, of which this consumer's are taken out."""
    name = reader.string()
    if name in group.consumers:
        raise BadFormat("a consumer twice")
    consumer = stream.create_consumer(group, name, reader.number())
    if form == STREAM_3:
        reader.number()  # when it last was given something
    for _ in range(reader.length()):
        id = reader.take(streamid.SIZE)
        if id not in deliveries:
            raise BadFormat("what is pending is not in the group's list")
        at, count = deliveries.pop(id)
        stream.deliver(group, consumer, id, at).count = count


def write_stream(out: bytearray, stream: Stream) -> None:
    out.append(STREAM_2)
    nodes = _nodes(stream.range(streamid.FIRST, streamid.LAST))
    write_length(out, len(nodes))
    for id, data in nodes:
        write_string(out, id)
        write_string(out, data)
    write_length(out, len(stream))
    _write_id(out, stream.last)
    _write_id(out, stream.first())
    _write_id(out, stream.max_deleted)
    write_length(out, stream.added)
    write_length(out, len(stream.groups))
    for name, group in stream.groups.items():
        write_string(out, name)
        _write_id(out, group.last)
        write_length(out, group.entries_read & UNSIGNED)
        _write_group(out, group)


def _write_id(out: bytearray, id: bytes) -> None:
    for number in streamid.split(id):
        write_length(out, number)


def _write_group(out: bytearray, group: Group) -> None:
    write_length(out, len(group.pending))
    for id, delivery in group.pending.walk(streamid.FIRST):
        out += id
        out += delivery.at.to_bytes(8, "little")
        write_length(out, delivery.count)
    write_length(out, len(group.consumers))
    for consumer in group.consumers.values():
        write_string(out, consumer.name)
        out += consumer.seen_at.to_bytes(8, "little")
        write_length(out, len(consumer.pending))
        for id, _ in consumer.pending.walk(streamid.FIRST):
            out += id


def _nodes(entries: list[tuple[bytes, list[bytes]]]) -> list[tuple[bytes, bytes]]:
    """Nodes of some entries each: the first id, and the listpack."""
    nodes: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(entries):
        begin, size = at, 0
        while at < len(entries) and at - begin < NODE_ENTRIES and size < NODE_BYTES:
            size += sum(map(len, entries[at][1]))
            at += 1
        nodes.append((entries[begin][0], _node(entries[begin:at])))
    return nodes


def _node(entries: list[tuple[bytes, list[bytes]]]) -> bytes:
    first, items = entries[0]
    fields = items[::2]
    writer = listpack.Writer()
    for number in (len(entries), 0, len(fields)):
        writer.integer(number)
    for field in fields:
        writer.item(field)
    writer.integer(0)
    for id, items in entries:
        same = items[::2] == fields
        writer.integer(SAME_FIELDS if same else 0)
        for number, base in zip(streamid.split(id), streamid.split(first), strict=True):
            writer.integer(_signed(number - base))
        values = items[1::2] if same else items
        if not same:
            writer.integer(len(items) // 2)
        for item in values:
            writer.item(item)
        writer.integer(len(values) + (3 if same else 4))
    return writer.finish()


def _signed(number: int) -> int:
    """As 64 bits with a sign hold it."""
    number &= UNSIGNED
    return number - (1 << 64) if number >= 1 << 63 else number
