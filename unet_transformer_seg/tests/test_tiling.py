import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg.inference.tiling import SIGMA, blend_windows, gaussian, place_axis, place_windows

NUM_CLASSES = 3
lengths_sides_overlaps = st.tuples(st.integers(1, 40), st.integers(0, 150), st.sampled_from([0.0, 0.25, 0.5, 0.9]))


def probabilities_of(windows_bhwc):
    """Return float64[b, h, w, k] that sum to one over the classes: a model of single pixels."""
    scores = windows_bhwc / 255.0 + 0.05
    return scores / scores.sum(-1, keepdims=True)


def weigh(probabilities_bhwk, weights_bh, weights_bw):
    return (probabilities_bhwk * weights_bh[:, :, None, None] * weights_bw[:, None, :, None]).astype(np.float32)


def pixel_forward(windows_bhwc, weights_bh, weights_bw):
    return weigh(probabilities_of(windows_bhwc), weights_bh, weights_bw)


def window_forward(windows_bhwc, weights_bh, weights_bw):
    """A model whose answer differs from window to window, so that blending matters."""
    mean_b111 = windows_bhwc.mean(axis=(1, 2, 3), keepdims=True)
    return weigh(probabilities_of((windows_bhwc + mean_b111) / 2), weights_bh, weights_bw)


def blend(image_hwc, forward=pixel_forward, tile=(16, 12), overlap=0.5, batch_size=4):
    bands = list(blend_windows(image_hwc, forward, tile=tile, overlap=overlap, batch_size=batch_size))
    assert [band.start for band in bands] == list(np.cumsum([0, *[len(b.probabilities) for b in bands[:-1]]]))
    return np.concatenate([band.probabilities for band in bands])


def blend_slowly(image_hwc, forward, tile, overlap):
    """One window at a time, with a weight for every pixel and a division at the end."""
    height, width, _ = image_hwc.shape
    total_hwk, weight_hw1 = np.zeros((height, width, NUM_CLASSES)), np.zeros((height, width, 1))
    y, x = np.indices(tile)
    bell_hw = np.exp(
        -0.5 * ((y - (tile[0] - 1) / 2) / (SIGMA * tile[0])) ** 2
        - 0.5 * ((x - (tile[1] - 1) / 2) / (SIGMA * tile[1])) ** 2
    )
    for top in place_windows(height, tile[0], overlap):
        for left in place_windows(width, tile[1], overlap):
            place = np.s_[top : top + tile[0], left : left + tile[1]]
            answer_bhwk = forward(image_hwc[place][None], np.ones((1, tile[0])), np.ones((1, tile[1])))
            total_hwk[place] += answer_bhwk[0] * bell_hw[..., None]
            weight_hw1[place] += bell_hw[..., None]
    return total_hwk / weight_hw1


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@given(lengths_sides_overlaps)
def test_windows_reach_both_borders_and_keep_the_overlap(values):
    side, longer, overlap = values
    starts = place_windows(side + longer, side, overlap)
    assert starts[0] == 0
    assert starts[-1] + side == side + longer
    assert np.all(np.diff(starts) <= max(side * (1 - overlap), 1))
    assert np.all(np.diff(starts) > 0)


def test_no_window_more_than_needed():
    assert place_windows(16, 16, 0.5).tolist() == [0]
    assert place_windows(24, 16, 0.5).tolist() == [0, 8]
    assert place_windows(25, 16, 0.5).tolist() == [0, 4, 9]
    assert place_windows(32, 16, 0.0).tolist() == [0, 16]


@given(lengths_sides_overlaps)
def test_the_weights_over_each_pixel_sum_to_one(values):
    side, longer, overlap = values
    axis = place_axis(side + longer, side, overlap)
    assert axis.weights.min() > 0
    total = np.zeros(side + longer)
    for start, weights in zip(axis.starts, axis.weights, strict=True):
        total[start : start + side] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_gaussian_is_symmetric_with_an_eighth_of_the_side_as_deviation():
    bell = gaussian(64)
    np.testing.assert_allclose(bell, bell[::-1])
    assert bell.argmax() in (31, 32)
    np.testing.assert_allclose(bell[32 + 8] / bell[32], np.exp(-(8.5**2 - 0.5**2) / (2 * 8**2)))


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(8, 60), st.integers(6, 60)),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 0.75]),
    batch_size=st.integers(1, 7),
)
def test_blending_equals_the_slow_way(size, overlap, batch_size):
    image_hwc = random_image(*size)
    blended_hwk = blend(image_hwc, window_forward, (8, 6), overlap, batch_size)
    expected_hwk = blend_slowly(image_hwc, window_forward, (8, 6), overlap)
    np.testing.assert_allclose(blended_hwk, expected_hwk, atol=2e-6)


def test_constant_in_constant_out():
    image_hwc = np.broadcast_to(np.array([200, 100, 7], np.uint8), (53, 71, 3))
    blended_hwk = blend(image_hwc, window_forward)
    np.testing.assert_allclose(blended_hwk, np.broadcast_to(blended_hwk[0, 0], blended_hwk.shape), atol=1e-6)
    np.testing.assert_allclose(blended_hwk.sum(-1), 1, atol=1e-6)


def test_an_image_of_one_window_is_one_forward_pass():
    image_hwc = random_image(16, 12)
    ones = np.ones((1, 16), np.float32), np.ones((1, 12), np.float32)
    np.testing.assert_array_equal(blend(image_hwc), pixel_forward(image_hwc[None], *ones)[0])


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (40, 5), (15, 12)])
def test_sides_shorter_than_the_window_are_filled_up_and_cut_off_again(size):
    image_hwc = random_image(*size)
    blended_hwk = blend(image_hwc)
    assert blended_hwk.shape == (*size, NUM_CLASSES)
    np.testing.assert_allclose(blended_hwk, probabilities_of(image_hwc), atol=1e-6)


def test_a_short_side_is_filled_up_with_its_last_row():
    seen = []

    def forward(windows_bhwc, weights_bh, weights_bw):
        seen.append(windows_bhwc)
        return pixel_forward(windows_bhwc, weights_bh, weights_bw)

    image_hwc = random_image(10, 12)
    blend(image_hwc, forward, batch_size=1)
    np.testing.assert_array_equal(seen[0][0, :10], image_hwc)
    np.testing.assert_array_equal(seen[0][0, 10:], np.broadcast_to(image_hwc[9], (6, 12, 3)))


def test_every_call_has_the_same_shape_and_the_copies_count_nowhere():
    shapes = set()

    def forward(windows_bhwc, weights_bh, weights_bw):
        shapes.add((windows_bhwc.shape, weights_bh.shape, weights_bw.shape))
        return pixel_forward(windows_bhwc, weights_bh, weights_bw)

    for size in [(16, 12), (40, 30), (17, 90)]:
        image_hwc = random_image(*size)
        np.testing.assert_allclose(blend(image_hwc, forward, batch_size=5), probabilities_of(image_hwc), atol=1e-6)
    assert shapes == {((5, 16, 12, 3), (5, 16), (5, 12))}


def test_rows_are_handed_out_before_the_rest_is_computed():
    calls = []

    def forward(windows_bhwc, weights_bh, weights_bw):
        calls.append(len(windows_bhwc))
        return pixel_forward(windows_bhwc, weights_bh, weights_bw)

    bands = blend_windows(random_image(160, 12), forward, tile=(16, 12), overlap=0.5, batch_size=1)
    first = next(bands)
    assert first.rows == slice(0, 8)
    assert len(calls) == 2  # the window of the band, and the one that is computed meanwhile
    first.probabilities[:] = np.nan  # the caller may do with it what it likes
    assert all(np.isfinite(band.probabilities).all() for band in bands)


MEASURE_MEMORY = """
import resource, sys
import numpy as np
from seg.inference.tiling import blend_windows

def forward(windows_bhwc, weights_bh, weights_bw):
    answer_bhwk = np.empty((*windows_bhwc.shape[:3], 11), np.float32)
    answer_bhwk[:] = (weights_bh[:, :, None] * weights_bw[:, None, :] / 11)[..., None]
    return answer_bhwk

image_hwc = np.full((int(sys.argv[1]), 2000, 3), 7, np.uint8)
for band in blend_windows(image_hwc, forward, tile=(256, 256), overlap=0.5, batch_size=4):
    assert abs(band.probabilities - 1 / 11).max() < 1e-6
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_height():
    """Beyond the image itself: 3000 more rows of probabilities would be 264 MB."""

    def peak_mb(height):
        command = [sys.executable, "-c", MEASURE_MEMORY, str(height)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    image_mb = 3000 * 2000 * 3 / 2**20
    assert peak_mb(4000) - peak_mb(1000) < image_mb + 40
