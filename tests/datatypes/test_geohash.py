"""Geohashes, by their own laws; their digits are compared with Redis' in differential/."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.datatypes import geohash
from proxy.datatypes.geohash import LATITUDE_MAX, LONGITUDE_MAX, Shape

# Not to the very edge, beyond which a place that is rounded up may come to lie.
LONGITUDES = st.floats(-LONGITUDE_MAX, 179.999)
LATITUDES = st.floats(-LATITUDE_MAX, 85.05)


@given(LONGITUDES, LATITUDES)
def test_a_place_is_found_again_within_its_cell(longitude: float, latitude: float) -> None:
    score = geohash.encode(longitude, latitude)
    assert score == int(score) < 2**52
    again = geohash.decode(score)
    assert abs(again[0] - longitude) <= 2 * LONGITUDE_MAX / 2**26
    assert abs(again[1] - latitude) <= 2 * LATITUDE_MAX / 2**26
    assert geohash.encode(*again) == score


@given(LONGITUDES, LATITUDES, st.integers(1, 26))
def test_a_cell_has_the_scores_of_the_places_in_it(longitude: float, latitude: float, step: int) -> None:
    cell = geohash.cell_of(longitude, latitude, step)
    low, high = cell.scores()
    assert low <= geohash.encode(longitude, latitude) < high
    assert high - low == 4.0 ** (26 - step)


@pytest.mark.parametrize(
    ("longitude", "latitude", "text"),
    [(13.361389, 38.115556, b"sqc8b49rny0"), (0.0, 0.0, b"s0000000000")],
)
def test_the_text_is_the_one_that_others_write(longitude: float, latitude: float, text: bytes) -> None:
    assert geohash.text(geohash.encode(longitude, latitude)) == text


def test_a_degree_along_the_equator_and_along_a_meridian() -> None:
    degree = geohash.EARTH_RADIUS * math.pi / 180
    assert geohash.distance(0, 0, 1, 0) == pytest.approx(degree)
    assert geohash.distance(7, 10, 7, 11) == pytest.approx(degree)
    assert geohash.distance(0, 0, 180, 0) == pytest.approx(180 * degree)


@given(LONGITUDES, st.floats(-60, 60), st.floats(1, 2_000_000), st.floats(0, 2 * math.pi), st.floats(0, 0.99))
def test_what_is_in_a_circle_is_in_one_of_its_cells(
    longitude: float, latitude: float, radius: float, direction: float, share: float
) -> None:
    shape = Shape()
    shape.longitude, shape.latitude, shape.radius = longitude, latitude, radius
    up = math.degrees(radius * share * math.sin(direction) / geohash.EARTH_RADIUS)
    aside = math.degrees(radius * share * math.cos(direction) / geohash.EARTH_RADIUS)
    aside /= math.cos(math.radians(latitude))
    place = (longitude + aside + LONGITUDE_MAX) % (2 * LONGITUDE_MAX) - LONGITUDE_MAX, latitude + up
    if not geohash.valid(*place):
        return
    score = geohash.encode(*place)
    if shape.distance(*geohash.decode(score)) < 0:
        return
    assert any(low <= score < high for low, high in (cell.scores() for cell in shape.cells()))
