"""Streams, with ids near each other, so that commands meet what others have added, read and deleted."""

from __future__ import annotations

from proxy.resp import Argv
from tests.differential import making
from tests.differential.generators import ANY_TYPE, INTEGERS, KEYS, any_case, command, with_options

SMALL = making.integers(0, 6).map(b"%d".__mod__)
BIG = b"18446744073709551615"
IDS = making.one_of(
    making.tuples(SMALL, SMALL).map(b"-".join),
    SMALL,
    making.sampled_from(
        [b"0-0", BIG, BIG + b"-" + BIG, b"1-" + BIG, b"x", b"-", b"+", b"*", b"1-x", b"$", b">"]
    ),
)
# What is added has an id that the next one can be larger than, most of the time: a time of day would differ.
NEW_IDS = making.one_of(
    making.tuples(
        making.integers(0, 9).map(b"%d".__mod__), making.sampled_from([b"*", b"0", b"1", b"2"])
    ).map(b"-".join),
    making.sampled_from([b"9-*", b"8-*", b"10-1", b"0-0", b"x", b"3"]),
)
PLACES = making.one_of(IDS, IDS.map(b"(".__add__), making.sampled_from([b"-", b"+", b"-", b"+"]))
NAMES = making.sampled_from([b"g", b"h", b""])
CONSUMERS = making.sampled_from([b"x", b"y", b""])
COUNTS = making.one_of(SMALL, INTEGERS)
FIELDS = making.lists(
    making.tuples(making.sampled_from([b"f", b"g"]), making.sampled_from([b"1", b"two", b""])),
    min_size=1,
    max_size=3,
).map(lambda pairs: [item for pair in pairs for item in pair])
# Long ago or never: no reply hangs on the time that has passed since.
IDLE = making.sampled_from([b"0", b"-1", b"3600000", b"x"])
LONG_IDLE = making.sampled_from([b"0", b"7200000", b"5000000", b"x"])
TRIMS = making.one_of(
    making.just([]),
    making.tuples(making.just(b"MAXLEN"), SMALL).map(list),
    making.tuples(making.just(b"MAXLEN"), making.sampled_from([b"=", b"~"]), COUNTS).map(list),
    making.tuples(making.just(b"MINID"), making.sampled_from([b"=", b"~"]), IDS).map(list),
    making.tuples(making.just(b"MAXLEN"), making.just(b"~"), SMALL, making.just(b"LIMIT"), COUNTS).map(list),
    making.tuples(making.just(b"MINID"), IDS, making.just(b"LIMIT"), SMALL).map(list),
)


def joined(*parts: making.Made[Argv]) -> making.Made[Argv]:
    return making.tuples(*parts).map(lambda lists: [word for words in lists for word in words])


def ids(least: int = 1) -> making.Made[Argv]:
    return making.lists(IDS, min_size=least, max_size=4)


def options(*choices: making.Made[Argv]) -> making.Made[Argv]:
    return joined(*(making.just([]) | choice for choice in choices))


def reading(place: making.Made[bytes]) -> making.Made[Argv]:
    one = making.tuples(making.just(b"STREAMS"), KEYS, place).map(list)
    return one | making.tuples(making.just(b"STREAMS"), KEYS, KEYS, place, place).map(list)


def option(name: bytes, value: making.Made[bytes]) -> making.Made[Argv]:
    return making.tuples(making.just(name), value).map(list)


XADD = joined(
    command("XADD", KEYS), options(making.just([b"NOMKSTREAM"])), TRIMS, NEW_IDS.map(lambda id: [id]), FIELDS
)
NEW = making.one_of(making.just(b">"), making.just(b">"), IDS)
COMMANDS = any_case(
    XADD,
    XADD,
    command("XLEN", KEYS),
    joined(command("XDEL", KEYS), ids()),
    joined(command("XTRIM", KEYS), TRIMS.filter(bool)),
    joined(
        command("XSETID", KEYS, IDS),
        options(option(b"ENTRIESADDED", COUNTS), option(b"MAXDELETEDID", IDS)),
    ),
    with_options(command("XRANGE", KEYS, PLACES, PLACES), b"FOO", times={b"COUNT": COUNTS}),
    with_options(command("XREVRANGE", KEYS, PLACES, PLACES), b"FOO", times={b"COUNT": COUNTS}),
    joined(command("XREAD"), options(option(b"COUNT", COUNTS)), reading(IDS)),
    joined(
        command("XREADGROUP", making.just(b"GROUP"), NAMES, CONSUMERS),
        options(option(b"COUNT", COUNTS), making.just([b"NOACK"])),
        reading(NEW),
    ),
    joined(command("XACK", KEYS, NAMES), ids()),
    command("XPENDING", KEYS, NAMES),
    joined(
        command("XPENDING", KEYS, NAMES),
        options(option(b"IDLE", IDLE)),
        making.tuples(PLACES, PLACES, COUNTS).map(list),
        options(CONSUMERS.map(lambda name: [name])),
    ),
    joined(
        command("XCLAIM", KEYS, NAMES, CONSUMERS, IDLE),
        ids(),
        options(
            making.just([b"FORCE"]),
            making.just([b"JUSTID"]),
            option(b"RETRYCOUNT", COUNTS),
            option(b"IDLE", LONG_IDLE),
            option(b"LASTID", IDS),
        ),
    ),
    joined(
        command("XAUTOCLAIM", KEYS, NAMES, CONSUMERS, IDLE, PLACES),
        # A count for which Redis finds no memory is refused there.
        options(option(b"COUNT", SMALL), making.just([b"JUSTID"])),
    ),
    joined(
        command("XGROUP", making.just(b"CREATE"), KEYS, NAMES, making.just(b"0") | IDS),
        options(making.just([b"MKSTREAM"]), option(b"ENTRIESREAD", COUNTS)),
    ),
    joined(
        command("XGROUP", making.just(b"SETID"), KEYS, NAMES, IDS), options(option(b"ENTRIESREAD", COUNTS))
    ),
    command("XGROUP", making.just(b"DESTROY"), KEYS, NAMES),
    command("XGROUP", making.sampled_from([b"CREATECONSUMER", b"DELCONSUMER"]), KEYS, NAMES, CONSUMERS),
    command("XINFO", making.just(b"STREAM"), KEYS),
    command("XINFO", making.just(b"STREAM"), KEYS, making.just(b"FULL")),
    command("XINFO", making.just(b"GROUPS"), KEYS),
    command("XINFO", making.just(b"CONSUMERS"), KEYS, NAMES),
    ANY_TYPE,
)
START = [
    *([b"XADD", b"a", b"%d-1" % number, b"f", b"%d" % number] for number in range(1, 6)),
    [b"XADD", b"b", b"1-1", b"f", b"1"],
    [b"XGROUP", b"CREATE", b"a", b"g", b"0"],
    [b"XGROUP", b"CREATE", b"a", b"h", b"2"],
    [b"XGROUP", b"CREATE", b"b", b"g", b"0"],
    [b"XREADGROUP", b"GROUP", b"g", b"x", b"COUNT", b"2", b"STREAMS", b"a", b">"],
    [b"XREADGROUP", b"GROUP", b"g", b"y", b"COUNT", b"1", b"STREAMS", b"a", b">"],
]
