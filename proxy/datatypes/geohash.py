"""Places on earth as numbers of 52 bits, so that those near each other lie in few ranges of a sorted set.

A geohash halves the ranges of latitude and longitude in turns; ``step`` is how often each was halved, and 26
of them fit into a double exactly.  Constants and steps are Redis' own, since the digits of positions and
distances, and the order in which an unsorted search finds things, hang on them: see
redis.io/commands/geoadd and redis.io/commands/geohash.

Longitudes and latitudes are in degrees, distances in metres.
"""

from __future__ import annotations

import math
from typing import Final

STEP_MAX: Final = 26
LONGITUDE_MAX: Final = 180.0
LATITUDE_MAX: Final = 85.05112878  # of the Mercator projection (EPSG:3857)
POLE: Final = 90.0  # the limit of latitudes in the geohashes that others use
EARTH_RADIUS: Final = 6372797.560856
MERCATOR_MAX: Final = 20037726.37
RADIANS: Final = math.pi / 180.0
ALPHABET: Final = b"0123456789bcdefghjkmnpqrstuvwxyz"
TEXT_SIZE: Final = 11

# What lies around a cell, in the order in which it is searched: east and north of it.
AROUND: Final = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))


class Cell:
    """A rectangle: one of ``2**step`` times ``2**step``, numbered from the south west."""

    def __init__(self, column: int, row: int, step: int) -> None:
        self.column: int = column
        self.row: int = row
        self.step: int = step
        cells = float(1 << step)
        self.west: float = -LONGITUDE_MAX + column / cells * (2 * LONGITUDE_MAX)
        self.east: float = -LONGITUDE_MAX + (column + 1) / cells * (2 * LONGITUDE_MAX)
        self.south: float = -LATITUDE_MAX + row / cells * (2 * LATITUDE_MAX)
        self.north: float = -LATITUDE_MAX + (row + 1) / cells * (2 * LATITUDE_MAX)

    def beside(self, east: int, north: int) -> Cell:
        """The cell so many to the east and to the north; behind the edge it begins anew.

        A column or row that is not left may be one beyond the last: that of a place at the very edge.
        """
        mask = (1 << self.step) - 1
        column = self.column + east & mask if east else self.column
        row = self.row + north & mask if north else self.row
        return Cell(column, row, self.step)

    def scores(self) -> tuple[float, float]:
        """Of all places in it: from the first to below the second."""
        bits = _interleave(self.row, self.column)
        shift = 2 * (STEP_MAX - self.step)
        return float(bits << shift), float(bits + 1 << shift)


class Shape:
    """What is searched: a circle of ``radius``, or where that is negative, a rectangle."""

    def __init__(self) -> None:
        self.longitude: float = 0.0  # of its centre
        self.latitude: float = 0.0
        self.radius: float = -1.0  # in ``unit``, as the others
        self.width: float = 0.0
        self.height: float = 0.0
        self.unit: float = 1.0  # metres

    def distance(self, longitude: float, latitude: float) -> float:
        """From its centre to a place in it; -1 if the place is not in it."""
        if self.radius >= 0:
            away = distance(self.longitude, self.latitude, longitude, latitude)
            return -1.0 if away > self.radius * self.unit else away
        if _along_meridian(latitude, self.latitude) > self.height * self.unit / 2:
            return -1.0
        if distance(longitude, latitude, self.longitude, latitude) > self.width * self.unit / 2:
            return -1.0
        return distance(self.longitude, self.latitude, longitude, latitude)

    def cells(self) -> list[Cell]:
        """Nine or fewer that cover it, in the order in which they are searched."""
        reach = self.radius
        if reach < 0:
            reach = math.sqrt((self.width / 2) * (self.width / 2) + (self.height / 2) * (self.height / 2))
        reach *= self.unit
        step = _step_of(reach, self.latitude)
        centre = cell_of(self.longitude, self.latitude, step)
        west, south, east, north = self._bounds()
        if step > 1 and self._reaches_beyond(centre):
            step -= 1
            centre = cell_of(self.longitude, self.latitude, step)
        cells: list[Cell] = []
        for column, row in AROUND:
            # Where the centre's own cell goes beyond the shape, nothing is behind it.
            if step >= 2 and (
                (row < 0 and centre.south < south)
                or (row > 0 and centre.north > north)
                or (column < 0 and centre.west < west)
                or (column > 0 and centre.east > east)
            ):
                continue
            cell = centre.beside(column, row)
            # Where cells are huge, those on two sides are the same.
            last = cells[-1] if len(cells) > 1 else None
            if last is None or (last.column, last.row) != (cell.column, cell.row):
                cells.append(cell)
        return cells

    def _bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north of the rectangle around it."""
        height = self.unit * (self.height / 2 if self.radius < 0 else self.radius)
        width = self.unit * (self.width / 2 if self.radius < 0 else self.radius)
        up = height / EARTH_RADIUS / RADIANS
        # The parallel that is nearer to the pole is the shorter one.
        edge = self.latitude - up if self.latitude < 0 else self.latitude + up
        aside = width / EARTH_RADIUS / _cos(edge * RADIANS) / RADIANS
        return self.longitude - aside, self.latitude - up, self.longitude + aside, self.latitude + up

    def _reaches_beyond(self, centre: Cell) -> bool:
        """Whether the cells around the centre's are too small."""
        west, south, east, north = self._bounds()
        return (
            centre.beside(0, 1).north < north
            or centre.beside(0, -1).south > south
            or centre.beside(1, 0).east < east
            or centre.beside(-1, 0).west > west
        )


def valid(longitude: float, latitude: float) -> bool:
    return -LONGITUDE_MAX <= longitude <= LONGITUDE_MAX and -LATITUDE_MAX <= latitude <= LATITUDE_MAX


def cell_of(longitude: float, latitude: float, step: int) -> Cell:
    column, row = _offsets(longitude, latitude, LATITUDE_MAX, step)
    return Cell(column, row, step)


def encode(longitude: float, latitude: float) -> float:
    """The score of a place."""
    column, row = _offsets(longitude, latitude, LATITUDE_MAX, STEP_MAX)
    return float(_interleave(row, column))


def decode(score: float) -> tuple[float, float]:
    """Longitude and latitude of the middle of a score's cell."""
    bits = int(score) & (1 << 64) - 1
    cell = Cell(_every_other(bits >> 1), _every_other(bits), STEP_MAX)
    longitude = (cell.west + cell.east) / 2
    latitude = (cell.south + cell.north) / 2
    return (
        max(min(longitude, LONGITUDE_MAX), -LONGITUDE_MAX),
        max(min(latitude, LATITUDE_MAX), -LATITUDE_MAX),
    )


def text(score: float) -> bytes:
    """The geohash as others write it, in eleven characters: the last one has no bits of its own."""
    longitude, latitude = decode(score)
    column, row = _offsets(longitude, latitude, POLE, STEP_MAX)
    bits = _interleave(row, column)
    digits = [bits >> 2 * STEP_MAX - 5 * (at + 1) & 31 for at in range(TEXT_SIZE - 1)]
    return bytes([ALPHABET[digit] for digit in digits]) + ALPHABET[:1]


def distance(longitude: float, latitude: float, to_longitude: float, to_latitude: float) -> float:
    """Along the great circle, by the haversine formula."""
    aside = math.sin((to_longitude * RADIANS - longitude * RADIANS) / 2)
    if aside == 0:
        return _along_meridian(latitude, to_latitude)
    from_radians, to_radians = latitude * RADIANS, to_latitude * RADIANS
    up = math.sin((to_radians - from_radians) / 2)
    square = up * up + math.cos(from_radians) * math.cos(to_radians) * aside * aside
    return 2.0 * EARTH_RADIUS * math.asin(math.sqrt(square)) if square <= 1 else math.nan


def _along_meridian(latitude: float, to_latitude: float) -> float:
    return EARTH_RADIUS * abs(to_latitude * RADIANS - latitude * RADIANS)


def _cos(angle: float) -> float:
    return math.cos(angle) if math.isfinite(angle) else math.nan


def _step_of(reach: float, latitude: float) -> int:
    """How small cells can be so that one and those around it cover what is so far from it."""
    if reach == 0:
        return STEP_MAX
    step = -1
    while reach < MERCATOR_MAX:
        reach *= 2
        step += 1
    if abs(latitude) > 66:  # meridians draw together
        step -= 1
    if abs(latitude) > 80:
        step -= 1
    return max(1, min(step, STEP_MAX))


def _offsets(longitude: float, latitude: float, latitude_max: float, step: int) -> tuple[int, int]:
    """Column and row of a place; at the very edge, one beyond the last."""
    cells = float(1 << step)
    column = int((longitude + LONGITUDE_MAX) / (2 * LONGITUDE_MAX) * cells)
    row = int((latitude + latitude_max) / (2 * latitude_max) * cells)
    return column, row


def _interleave(low: int, high: int) -> int:
    """The bits of two numbers in turns, the lowest bit from ``low``."""
    return _spread(low) | _spread(high) << 1


def _spread(number: int) -> int:
    """A number of up to 32 bits with a zero above each."""
    number = (number | number << 16) & 0x0000FFFF0000FFFF
    number = (number | number << 8) & 0x00FF00FF00FF00FF
    number = (number | number << 4) & 0x0F0F0F0F0F0F0F0F
    number = (number | number << 2) & 0x3333333333333333
    return (number | number << 1) & 0x5555555555555555


def _every_other(bits: int) -> int:
    """What ``_spread`` was given, whatever the bits between are."""
    bits &= 0x5555555555555555
    bits = (bits | bits >> 1) & 0x3333333333333333
    bits = (bits | bits >> 2) & 0x0F0F0F0F0F0F0F0F
    bits = (bits | bits >> 4) & 0x00FF00FF00FF00FF
    bits = (bits | bits >> 8) & 0x0000FFFF0000FFFF
    return (bits | bits >> 16) & 0x00000000FFFFFFFF
