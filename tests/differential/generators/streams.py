"""Streams, with ids near each other, so that commands meet what others have added, read and deleted."""

from __future__ import annotations

from hypothesis import strategies as st

from proxy.resp import Argv
from tests.differential.generators import ANY_TYPE, INTEGERS, KEYS, any_case, command, with_options

SMALL = st.integers(0, 6).map(b"%d".__mod__)
BIG = b"18446744073709551615"
IDS = st.one_of(
    st.tuples(SMALL, SMALL).map(b"-".join),
    SMALL,
    st.sampled_from([b"0-0", BIG, BIG + b"-" + BIG, b"1-" + BIG, b"x", b"-", b"+", b"*", b"1-x", b"$", b">"]),
)
# What is added has an id that the next one can be larger than, most of the time: a time of day would differ.
NEW_IDS = st.one_of(
    st.tuples(st.integers(0, 9).map(b"%d".__mod__), st.sampled_from([b"*", b"0", b"1", b"2"])).map(b"-".join),
    st.sampled_from([b"9-*", b"8-*", b"10-1", b"0-0", b"x", b"3"]),
)
PLACES = st.one_of(IDS, IDS.map(b"(".__add__), st.sampled_from([b"-", b"+", b"-", b"+"]))
NAMES = st.sampled_from([b"g", b"h", b""])
CONSUMERS = st.sampled_from([b"x", b"y", b""])
COUNTS = st.one_of(SMALL, INTEGERS)
FIELDS = st.lists(
    st.tuples(st.sampled_from([b"f", b"g"]), st.sampled_from([b"1", b"two", b""])), min_size=1, max_size=3
).map(lambda pairs: [item for pair in pairs for item in pair])
# Long ago or never: no reply hangs on the time that has passed since.
IDLE = st.sampled_from([b"0", b"-1", b"3600000", b"x"])
LONG_IDLE = st.sampled_from([b"0", b"7200000", b"5000000", b"x"])
TRIMS = st.one_of(
    st.just([]),
    st.tuples(st.just(b"MAXLEN"), SMALL).map(list),
    st.tuples(st.just(b"MAXLEN"), st.sampled_from([b"=", b"~"]), COUNTS).map(list),
    st.tuples(st.just(b"MINID"), st.sampled_from([b"=", b"~"]), IDS).map(list),
    st.tuples(st.just(b"MAXLEN"), st.just(b"~"), SMALL, st.just(b"LIMIT"), COUNTS).map(list),
    st.tuples(st.just(b"MINID"), IDS, st.just(b"LIMIT"), SMALL).map(list),
)


def joined(*parts: st.SearchStrategy[Argv]) -> st.SearchStrategy[Argv]:
    return st.tuples(*parts).map(lambda lists: [word for words in lists for word in words])


def ids(least: int = 1) -> st.SearchStrategy[Argv]:
    return st.lists(IDS, min_size=least, max_size=4)


def options(*choices: st.SearchStrategy[Argv]) -> st.SearchStrategy[Argv]:
    return joined(*(st.just([]) | choice for choice in choices))


def reading(place: st.SearchStrategy[bytes]) -> st.SearchStrategy[Argv]:
    one = st.tuples(st.just(b"STREAMS"), KEYS, place).map(list)
    return one | st.tuples(st.just(b"STREAMS"), KEYS, KEYS, place, place).map(list)


def option(name: bytes, value: st.SearchStrategy[bytes]) -> st.SearchStrategy[Argv]:
    return st.tuples(st.just(name), value).map(list)


XADD = joined(
    command("XADD", KEYS), options(st.just([b"NOMKSTREAM"])), TRIMS, NEW_IDS.map(lambda id: [id]), FIELDS
)
NEW = st.one_of(st.just(b">"), st.just(b">"), IDS)
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
        command("XREADGROUP", st.just(b"GROUP"), NAMES, CONSUMERS),
        options(option(b"COUNT", COUNTS), st.just([b"NOACK"])),
        reading(NEW),
    ),
    joined(command("XACK", KEYS, NAMES), ids()),
    command("XPENDING", KEYS, NAMES),
    joined(
        command("XPENDING", KEYS, NAMES),
        options(option(b"IDLE", IDLE)),
        st.tuples(PLACES, PLACES, COUNTS).map(list),
        options(CONSUMERS.map(lambda name: [name])),
    ),
    joined(
        command("XCLAIM", KEYS, NAMES, CONSUMERS, IDLE),
        ids(),
        options(
            st.just([b"FORCE"]),
            st.just([b"JUSTID"]),
            option(b"RETRYCOUNT", COUNTS),
            option(b"IDLE", LONG_IDLE),
            option(b"LASTID", IDS),
        ),
    ),
    joined(
        command("XAUTOCLAIM", KEYS, NAMES, CONSUMERS, IDLE, PLACES),
        # A count for which Redis finds no memory is refused there.
        options(option(b"COUNT", SMALL), st.just([b"JUSTID"])),
    ),
    joined(
        command("XGROUP", st.just(b"CREATE"), KEYS, NAMES, st.just(b"0") | IDS),
        options(st.just([b"MKSTREAM"]), option(b"ENTRIESREAD", COUNTS)),
    ),
    joined(command("XGROUP", st.just(b"SETID"), KEYS, NAMES, IDS), options(option(b"ENTRIESREAD", COUNTS))),
    command("XGROUP", st.just(b"DESTROY"), KEYS, NAMES),
    command("XGROUP", st.sampled_from([b"CREATECONSUMER", b"DELCONSUMER"]), KEYS, NAMES, CONSUMERS),
    command("XINFO", st.just(b"STREAM"), KEYS),
    command("XINFO", st.just(b"STREAM"), KEYS, st.just(b"FULL")),
    command("XINFO", st.just(b"GROUPS"), KEYS),
    command("XINFO", st.just(b"CONSUMERS"), KEYS, NAMES),
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
