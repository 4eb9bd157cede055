"""Places, at random ones and at the edges of the earth."""

from __future__ import annotations

from tests.differential import making
from tests.differential.generators import ANY_TYPE, KEYS, any_case, command
from tests.differential.generators.zsets import join


def digits(number: float) -> bytes:
    return repr(number).encode()


MEMBERS = making.binary(min_size=1, max_size=1) | making.sampled_from([b"a", b"b", b"c"])
LONGITUDES = making.floats(-180, 180).map(digits) | making.sampled_from(
    [b"0", b"180", b"-180", b"13.5", b"181", b"x"]
)
LATITUDES = making.floats(-85, 85).map(digits) | making.sampled_from(
    [b"0", b"85.05112878", b"-85", b"38", b"86"]
)
LENGTHS = making.one_of(
    making.sampled_from([b"0", b"1", b"500", b"3000", b"-1", b"x"]),
    making.floats(0, 30000).map(digits),
    making.floats(0, 1e8).map(digits),
)
UNITS = making.sampled_from([b"m", b"km", b"mi", b"ft", b"KM", b"km", b"yd"])
PLACES = making.lists(making.tuples(LONGITUDES, LATITUDES, MEMBERS), min_size=1, max_size=6).map(
    lambda places: [word for place in places for word in place]
)
CENTRES = making.one_of(
    making.tuples(making.just(b"FROMLONLAT"), LONGITUDES, LATITUDES).map(list),
    making.tuples(making.just(b"FROMMEMBER"), MEMBERS).map(list),
)
SHAPES = making.one_of(
    making.tuples(making.just(b"BYRADIUS"), LENGTHS, UNITS).map(list),
    making.tuples(making.just(b"BYBOX"), LENGTHS, LENGTHS, UNITS).map(list),
)
# Where two are as far, and not all are asked for, the order is Redis' own: so all are.
OPTIONS = making.lists(
    making.sampled_from([b"ASC", b"DESC", b"WITHDIST", b"WITHCOORD", b"WITHHASH", b"ANY"]), max_size=3
)
COUNT = making.just([]) | making.sampled_from(
    [[b"COUNT", b"100"], [b"COUNT", b"2", b"ANY"], [b"COUNT", b"0"]]
)
STORED = making.just([]) | making.tuples(making.sampled_from([b"STORE", b"STOREDIST"]), KEYS).map(list)

COMMANDS = any_case(
    join(command("GEOADD", KEYS), PLACES),
    join(command("GEOADD", KEYS, making.sampled_from([b"NX", b"XX", b"CH", b"GT"])), PLACES),
    command("GEOPOS", KEYS, MEMBERS, MEMBERS),
    command("GEOHASH", KEYS, MEMBERS, MEMBERS),
    command("GEODIST", KEYS, MEMBERS, MEMBERS),
    command("GEODIST", KEYS, MEMBERS, MEMBERS, UNITS),
    join(command("GEOSEARCH", KEYS), CENTRES, SHAPES, OPTIONS, COUNT),
    join(command("GEOSEARCH", KEYS), CENTRES, SHAPES, OPTIONS, COUNT),
    join(command("GEOSEARCHSTORE", KEYS, KEYS), CENTRES, SHAPES, COUNT),
    join(command("GEOSEARCHSTORE", KEYS, KEYS, making.just(b"STOREDIST")), CENTRES, SHAPES, COUNT),
    join(command("GEORADIUS", KEYS, LONGITUDES, LATITUDES, LENGTHS, UNITS), OPTIONS, COUNT, STORED),
    join(command("GEORADIUSBYMEMBER", KEYS, MEMBERS, LENGTHS, UNITS), OPTIONS, COUNT, STORED),
    join(command("GEORADIUS_RO", KEYS, LONGITUDES, LATITUDES, LENGTHS, UNITS), OPTIONS),
    join(command("GEORADIUSBYMEMBER_RO", KEYS, MEMBERS, LENGTHS, UNITS), OPTIONS),
    command("ZREM", KEYS, MEMBERS),
    command("ZRANGE", KEYS, making.just(b"0"), making.just(b"-1"), making.just(b"WITHSCORES")),
    ANY_TYPE,
)
START = [
    [b"GEOADD", b"a", b"13.361389", b"38.115556", b"a", b"15.087269", b"37.502669", b"b", b"-1", b"-2", b"c"],
    [
        b"GEOADD",
        b"a",
        b"179.9",
        b"10",
        b"e",
        b"-179.9",
        b"10",
        b"f",
        b"0",
        b"84.9",
        b"g",
        b"100",
        b"-85",
        b"h",
    ],
    [b"GEOADD", b"b", b"0.001", b"0.001", b"a", b"-0.001", b"-0.001", b"b", b"0", b"0.002", b"c"],
]
