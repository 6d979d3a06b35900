"""Polygons that fill the region again, each with its own holes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from seg.serve.outlines import find_polygons

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


def fill(polygon, shape):
    """Return the pixels whose centre is inside, by the even-odd rule: each vertical edge flips all to its right."""
    inside_hw = np.zeros(shape, bool)
    for ring in polygon:
        for (x, y), (next_x, next_y) in zip(ring, ring[1:], strict=False):
            if x == next_x:
                inside_hw[min(y, next_y) : max(y, next_y), x:] ^= True
    return inside_hw


def area(ring):
    return sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in zip(ring, ring[1:], strict=False)) / 2


@given(MASKS)
def test_the_polygons_fill_the_region_exactly_once(mask_hw):
    filled = sum((fill(polygon, mask_hw.shape).astype(int) for polygon in find_polygons(mask_hw)), start=0)
    np.testing.assert_array_equal(np.broadcast_to(filled, mask_hw.shape), mask_hw.astype(int))


@given(MASKS)
def test_each_polygon_is_one_connected_part(mask_hw):
    """Its area is that of its pixels, outer rings turn one way and holes the other, and corners alternate."""
    for polygon in find_polygons(mask_hw):
        assert sum(map(area, polygon)) == fill(polygon, mask_hw.shape).sum()
        assert [area(ring) > 0 for ring in polygon] == [True] + [False] * (len(polygon) - 1)
        for ring in polygon:
            assert ring[0] == ring[-1] and len(ring) >= 5
            turns = [(x == next_x) for (x, _), (next_x, _) in zip(ring, ring[1:], strict=False)]
            assert all(one != other for one, other in zip(turns, turns[1:], strict=False))  # no needless vertex


def parts(mask_hw):
    """Return the number of 4-connected parts, by flooding."""
    left, number = {(y, x) for y, x in zip(*np.nonzero(mask_hw), strict=True)}, 0
    while left:
        number, front = number + 1, [left.pop()]
        while front:
            y, x = front.pop()
            for place in ((y, x + 1), (y, x - 1), (y + 1, x), (y - 1, x)):
                if place in left:
                    left.remove(place)
                    front.append(place)
    return number


@given(MASKS)
def test_pixels_that_touch_at_a_corner_are_apart(mask_hw):
    assert len(find_polygons(mask_hw)) == parts(mask_hw)


@pytest.mark.parametrize("offset", [0, 7])
def test_an_island_in_a_hole_is_a_polygon_of_its_own(offset):
    mask_hw = np.zeros((9 + offset, 9 + offset), bool)
    mask_hw[offset:, offset:] = True
    mask_hw[offset + 2 : offset + 7, offset + 2 : offset + 7] = False
    mask_hw[offset + 4, offset + 4] = True
    outer, island = find_polygons(mask_hw)
    square = [[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]
    hole = [[2, 2], [2, 7], [7, 7], [7, 2], [2, 2]]
    assert outer == [[[x + offset, y + offset] for x, y in ring] for ring in (square, hole)]
    assert island == [[[x + offset, y + offset] for x, y in ([4, 4], [5, 4], [5, 5], [4, 5], [4, 4])]]


def test_nothing_has_no_outline():
    assert find_polygons(np.zeros((3, 4), bool)) == []


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_full_image_is_its_frame(height, width):
    assert find_polygons(np.ones((height, width), bool)) == [
        [[[0, 0], [width, 0], [width, height], [0, height], [0, 0]]]
    ]
