"""Places, which are sorted sets with geohashes for scores: GEOADD GEODIST GEOHASH GEOPOS GEORADIUS
GEORADIUSBYMEMBER GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GEOSEARCHSTORE.
"""

from __future__ import annotations

from typing import Final

from proxy.commands.args import Args, parse_double, parse_int
from proxy.commands.spec import keys_command
from proxy.commands.zsets import CH, NX, XX, add, find_zset, store
from proxy.datatypes import geohash
from proxy.datatypes.geohash import Shape
from proxy.datatypes.zset import ZSet, make
from proxy.errors import (
    GEO_ANY,
    GEO_COUNT,
    GEO_HEIGHT,
    GEO_MEMBER,
    GEO_NEGATIVE_BOX,
    GEO_NEGATIVE_RADIUS,
    GEO_RADIUS,
    GEO_UNIT,
    GEO_WIDTH,
    SYNTAX,
    CommandError,
    geo_by,
    geo_from,
    geo_store,
    invalid_place,
)
from proxy.keyspace import Keyspace
from proxy.resp import NULL_ARRAY, Argv, Digits, Reply

UNITS: Final = {b"M": 1.0, b"KM": 1000.0, b"FT": 0.3048, b"MI": 1609.34}  # in metres
ADD_OPTIONS: Final = {b"NX": NX, b"XX": XX, b"CH": CH}


@keys_command("geoadd")
def geoadd(ks: Keyspace, argv: Argv) -> Reply:
    options = 0
    at = 2
    while at < len(argv):
        option = ADD_OPTIONS.get(argv[at].upper(), 0)
        if not option:
            break
        options |= option
        at += 1
    if at == len(argv) or (len(argv) - at) % 3 or (options & NX and options & XX):
        raise CommandError(SYNTAX)
    scores: list[float] = []
    members: list[bytes] = []
    for each in range(at, len(argv), 3):
        longitude, latitude = _parse_place(argv[each], argv[each + 1])
        scores.append(geohash.encode(longitude, latitude))
        members.append(argv[each + 2])
    return add(ks, argv[1], members, scores, options)


@keys_command("geodist")
def geodist(ks: Keyspace, argv: Argv) -> Reply:
    if len(argv) > 5:
        raise CommandError(SYNTAX)
    unit = _parse_unit(argv[4]) if len(argv) == 5 else 1.0
    zset = find_zset(ks, argv[1])
    if zset is None:
        return None
    one, other = zset.score(argv[2]), zset.score(argv[3])
    if one is None or other is None:
        return None
    longitude, latitude = geohash.decode(one)
    to_longitude, to_latitude = geohash.decode(other)
    return _format_distance(geohash.distance(longitude, latitude, to_longitude, to_latitude) / unit)


@keys_command("geohash")
def geohash_(ks: Keyspace, argv: Argv) -> Reply:
    scores = _scores(ks, argv)
    return [None if score is None else geohash.text(score) for score in scores]


@keys_command("geopos")
def geopos(ks: Keyspace, argv: Argv) -> Reply:
    scores = _scores(ks, argv)
    return [NULL_ARRAY if score is None else _position(score) for score in scores]


def _scores(ks: Keyspace, argv: Argv) -> list[float | None]:
    zset = find_zset(ks, argv[1])
    return [None if zset is None else zset.score(member) for member in argv[2:]]


def _position(score: float) -> Reply:
    return [_format_degrees(degrees) for degrees in geohash.decode(score)]


def _format_degrees(degrees: float) -> Digits:
    return Digits((b"%.17f" % degrees).rstrip(b"0").rstrip(b"."))


def _format_distance(distance: float) -> bytes:
    return b"%.4f" % distance


def _parse_place(longitude_text: bytes, latitude_text: bytes) -> tuple[float, float]:
    longitude, latitude = parse_double(longitude_text), parse_double(latitude_text)
    if not geohash.valid(longitude, latitude):
        raise invalid_place(longitude, latitude)
    return longitude, latitude


def _parse_unit(text: bytes) -> float:
    unit = UNITS.get(text.upper())
    if unit is None:
        raise CommandError(GEO_UNIT)
    return unit


class Found:
    """A place that a search has found: metres from the centre."""

    def __init__(self, member: bytes, score: float, distance: float) -> None:
        self.member: bytes = member
        self.score: float = score
        self.distance: float = distance


def _distance(found: Found) -> float:
    return found.distance


class Search:
    """What is asked for, by whichever command: one of its kinds, and options.

    Options are read before the key is known to be missing, but a member's place only from one that is there:
    so it is made with the sorted set, or None.
    """

    def __init__(self, zset: ZSet | None) -> None:
        self.zset: ZSet | None = zset
        self.shape: Shape = Shape()
        self.target: bytes | None = None  # where to store the result
        self.by_distance: bool = False  # stored scores are distances
        self.distances: bool = False
        self.hashes: bool = False
        self.places: bool = False
        self.any: bool = False
        self.ascending: bool = False
        self.descending: bool = False
        self.count: int = 0  # 0: all
        self.centred: bytes = b""  # the options that have told of centre and shape
        self.shaped: bytes = b""

    def parse_member(self, member: bytes) -> None:
        if self.zset is None:
            return
        score = self.zset.score(member)
        if score is None:
            raise CommandError(GEO_MEMBER)
        self.shape.longitude, self.shape.latitude = geohash.decode(score)

    def parse_centre(self, longitude: bytes, latitude: bytes) -> None:
        self.shape.longitude, self.shape.latitude = _parse_place(longitude, latitude)

    def parse_circle(self, radius: bytes, unit: bytes) -> None:
        self.shape.radius = parse_double(radius, GEO_RADIUS)
        if self.shape.radius < 0:
            raise CommandError(GEO_NEGATIVE_RADIUS)
        self.shape.unit = _parse_unit(unit)

    def parse_box(self, width: bytes, height: bytes, unit: bytes) -> None:
        shape = self.shape
        shape.width, shape.height = parse_double(width, GEO_WIDTH), parse_double(height, GEO_HEIGHT)
        if shape.width < 0 or shape.height < 0:
            raise CommandError(GEO_NEGATIVE_BOX)
        shape.unit = _parse_unit(unit)

    def parse_option(self, args: Args, option: bytes) -> bool:
        """An option that all searches have; false for another one."""
        if option == b"WITHDIST":
            self.distances = True
        elif option == b"WITHHASH":
            self.hashes = True
        elif option == b"WITHCOORD":
            self.places = True
        elif option == b"ANY":
            self.any = True
        elif option == b"ASC":
            self.ascending, self.descending = True, False
        elif option == b"DESC":
            self.ascending, self.descending = False, True
        elif option == b"COUNT" and args.more():
            self.count = parse_int(args.next())
            if self.count <= 0:
                raise CommandError(GEO_COUNT)
        else:
            return False
        return True

    def parse_search(self, args: Args, storing: bool) -> None:
        """The options of GEOSEARCH and GEOSEARCHSTORE."""
        while args.more():
            option = args.option()
            left = args.end - args.at
            if option == b"STOREDIST" and storing:
                self.by_distance = True
            elif option == b"FROMMEMBER" and left >= 1 and self.centred != b"FROMLONLAT":
                self.parse_member(args.next())
                self.centred = option
            elif option == b"FROMLONLAT" and left >= 2 and self.centred != b"FROMMEMBER":
                self.parse_centre(args.next(), args.next())
                self.centred = option
            elif option == b"BYRADIUS" and left >= 2 and self.shaped != b"BYBOX":
                self.parse_circle(args.next(), args.next())
                self.shaped = option
            elif option == b"BYBOX" and left >= 3 and self.shaped != b"BYRADIUS":
                self.parse_box(args.next(), args.next(), args.next())
                self.shaped = option
            elif not self.parse_option(args, option):
                raise CommandError(SYNTAX)

    def parse_radius(self, args: Args, storing: bool) -> None:
        """The options of GEORADIUS and its kin."""
        while args.more():
            option = args.option()
            if storing and (option == b"STORE" or option == b"STOREDIST") and args.more():
                self.target = args.next()
                self.by_distance = option == b"STOREDIST"
            elif not self.parse_option(args, option):
                raise CommandError(SYNTAX)

    def check(self, name: str) -> None:
        """Refuse what does not go together, but for centre and shape; ``name``: as the error calls it."""
        if self.target is not None and (self.distances or self.hashes or self.places):
            raise geo_store(name)

    def run(self, ks: Keyspace, event: str) -> Reply:
        if self.any and not self.count:
            raise CommandError(GEO_ANY)
        found = [] if self.zset is None else self.find(self.zset)
        if self.target is None:
            return [self.item(each) for each in found]
        unit = self.shape.unit
        scores = {each.member: each.distance / unit if self.by_distance else each.score for each in found}
        return store(ks, self.target, make(scores), event)

    def find(self, zset: ZSet) -> list[Found]:
        """Places in the shape: in the order that is asked for, as many as are asked for."""
        found: list[Found] = []
        enough = self.count if self.any else 0
        for cell in self.shape.cells():
            low, high = cell.scores()
            start, stop = zset.rank_of_score(low, False), zset.rank_of_score(high, False)
            members, scores = zset.slice(start, stop)
            for member, score in zip(members, scores, strict=True):
                assert isinstance(score, float)
                longitude, latitude = geohash.decode(score)
                distance = self.shape.distance(longitude, latitude)
                if distance != -1.0:
                    found.append(Found(member, score, distance))
                    if len(found) == enough:
                        break
            if enough and len(found) >= enough:
                break
        # Without an order, the first so many are the nearest ones, unless any will do.
        if self.ascending or self.descending or (self.count and not self.any):
            found.sort(key=_distance, reverse=self.descending)
        return found[: self.count] if self.count else found

    def item(self, found: Found) -> Reply:
        """What is replied of a place."""
        if not (self.distances or self.hashes or self.places):
            return found.member
        item: list[Reply] = [found.member]
        if self.distances:
            item.append(_format_distance(found.distance / self.shape.unit))
        if self.hashes:
            item.append(int(found.score))
        if self.places:
            item.append(_position(found.score))
        return item


@keys_command("georadius")
def georadius(ks: Keyspace, argv: Argv) -> Reply:
    return _around_point(ks, argv, True)


@keys_command("georadius_ro")
def georadius_ro(ks: Keyspace, argv: Argv) -> Reply:
    return _around_point(ks, argv, False)


def _around_point(ks: Keyspace, argv: Argv, storing: bool) -> Reply:
    search = Search(find_zset(ks, argv[1]))
    search.parse_centre(argv[2], argv[3])
    search.parse_circle(argv[4], argv[5])
    search.parse_radius(Args(argv, 6), storing)
    search.check("STORE option in GEORADIUS")
    return search.run(ks, "georadiusstore")


@keys_command("georadiusbymember")
def georadiusbymember(ks: Keyspace, argv: Argv) -> Reply:
    return _around_member(ks, argv, True)


@keys_command("georadiusbymember_ro")
def georadiusbymember_ro(ks: Keyspace, argv: Argv) -> Reply:
    return _around_member(ks, argv, False)


def _around_member(ks: Keyspace, argv: Argv, storing: bool) -> Reply:
    search = Search(find_zset(ks, argv[1]))
    if search.zset is not None:
        search.parse_member(argv[2])
        search.parse_circle(argv[3], argv[4])
    search.parse_radius(Args(argv, 5), storing)
    search.check("STORE option in GEORADIUS")
    return search.run(ks, "georadiusstore")


@keys_command("geosearch")
def geosearch(ks: Keyspace, argv: Argv) -> Reply:
    return _search(ks, argv, 1, None)


@keys_command("geosearchstore")
def geosearchstore(ks: Keyspace, argv: Argv) -> Reply:
    return _search(ks, argv, 2, argv[1])


def _search(ks: Keyspace, argv: Argv, at: int, target: bytes | None) -> Reply:
    search = Search(find_zset(ks, argv[at]))
    search.target = target
    search.parse_search(Args(argv, at + 1), target is not None)
    search.check("GEOSEARCHSTORE")
    if not search.centred:
        raise geo_from(argv[0])
    if not search.shaped:
        raise geo_by(argv[0])
    return search.run(ks, "geosearchstore")
