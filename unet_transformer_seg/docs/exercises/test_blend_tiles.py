"""Blending: constants stay, places are right, the middle of a tile decides, small images are filled up."""

import numpy as np
from blend_tiles import blend_tiles

RNG = np.random.default_rng(0)


def bell(n):
    """Return the Gaussian along one side of a tile."""
    return np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2)


def as_it_is(tiles_bhwc):
    """Predict the image itself."""
    return tiles_bhwc.astype(np.float32)


def test_a_constant_prediction_stays_constant():
    """The weights sum to 1 at every pixel, the corners too."""
    for size in [(9, 8), (17, 30), (8, 23), (40, 8)]:
        result = blend_tiles(np.zeros((*size, 3)), lambda x: np.full((*x.shape[:3], 2), 0.5), tile=(8, 8), overlap=0.5)
        assert result.shape == (*size, 2) and result.dtype == np.float32
        np.testing.assert_allclose(result, 0.5, rtol=1e-5)


def test_each_tile_is_put_back_where_it_was_cut_out():
    """A network that copies its input gives the image back."""
    image_hwc = RNG.random((21, 30, 2)).astype(np.float32)
    for overlap in (0.0, 0.25, 0.5, 0.9):
        np.testing.assert_allclose(
            blend_tiles(image_hwc, as_it_is, tile=(6, 10), overlap=overlap), image_hwc, atol=1e-5
        )


def test_two_tiles_by_hand():
    """Rows 0 … 7 and 4 … 11: where both see a pixel, the Gaussians decide."""
    values = iter([1.0, 3.0])

    def predict(tiles_bhwc):
        return np.stack([np.full((*tiles_bhwc.shape[1:3], 1), next(values), np.float32) for _ in tiles_bhwc])

    result = blend_tiles(np.zeros((12, 8, 1)), predict, tile=(8, 8), overlap=0.5)
    first, second = np.pad(bell(8), (0, 4)), np.pad(bell(8), (4, 0))
    expected = (first * 1 + second * 3) / (first + second)
    np.testing.assert_allclose(result[:, :, 0], np.tile(expected[:, None], (1, 8)), rtol=1e-5)
    assert (result[:4] == 1).all() and (result[8:] == 3).all()


def test_as_few_tiles_as_the_overlap_allows_evenly_spaced():
    """Shown by what the network is given: each pixel holds its row and column."""
    y, x = np.mgrid[:25, :11]
    corners = []

    def predict(tiles_bhwc):
        corners.extend(tuple(tile_hwc[0, 0].astype(int)) for tile_hwc in tiles_bhwc)
        return tiles_bhwc.astype(np.float32)

    blend_tiles(np.stack([y, x], -1), predict, tile=(8, 8), overlap=0.5)
    # Rows: 17 are left behind the first tile, so that steps of at most 4 are five.
    assert set(corners) == {(row, column) for row in (0, 3, 6, 10, 13, 17) for column in (0, 3)}


def test_a_small_image_is_filled_up_with_its_last_row_and_column():
    """And the result has the size of the image."""
    image_hwc = RNG.random((3, 5, 2)).astype(np.float32)
    given = []

    def predict(tiles_bhwc):
        given.append(tiles_bhwc[0])
        return tiles_bhwc.astype(np.float32)

    result = blend_tiles(image_hwc, predict, tile=(8, 8), overlap=0.5)
    np.testing.assert_allclose(result, image_hwc, atol=1e-6)
    np.testing.assert_array_equal(given[0], np.pad(image_hwc, ((0, 5), (0, 3), (0, 0)), mode="edge"))


def test_the_prediction_at_the_border_of_a_tile_hardly_counts():
    """A network that is wrong in its outermost pixels changes little where another tile sees better."""

    def wrong_at_the_border(tiles_bhwc):
        p = np.ones((*tiles_bhwc.shape[:3], 1), np.float32)
        p[:, :, 0], p[:, :, -1] = 0, 0
        return p

    result = blend_tiles(np.zeros((16, 40, 1)), wrong_at_the_border, tile=(16, 16), overlap=0.5)
    assert (result[:, 1:-1] > 0.95).all() and (result[:, [0, -1]] < 0.05).all()
