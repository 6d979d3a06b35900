"""Class weights: median frequency by hand, the rules for classes that never occur, and the config."""

import numpy as np
import pytest

from seg.config import LossConfig
from seg.errors import UserError
from seg.losses import build_class_weights, given_weights, median_frequency_weights

COUNTS = np.array([900, 60, 20, 0], np.int64)
PIXELS = np.array([1000, 600, 100, 0], np.int64)  # of the images that contain the class


def test_weights_by_hand():
    # frequencies 0.9, 0.1, 0.2: the median over the classes that occur is 0.2
    np.testing.assert_allclose(median_frequency_weights(COUNTS, PIXELS), [0.2 / 0.9, 2.0, 1.0, 1.0], rtol=1e-6)


def test_frequency_is_counted_in_the_images_that_contain_the_class():
    rare_but_large, common_but_small = median_frequency_weights(np.array([50, 50]), np.array([100, 1000]))
    assert common_but_small == pytest.approx(10 * rare_but_large)


def test_an_even_number_of_classes_takes_the_mean_of_the_two_in_the_middle():
    weights = median_frequency_weights(np.array([10, 20, 40, 80]), np.full(4, 100))
    np.testing.assert_allclose(weights, [3, 1.5, 0.75, 0.375], rtol=1e-6)


def test_power_halves_the_spread_on_a_log_scale():
    full = median_frequency_weights(COUNTS, PIXELS)
    np.testing.assert_allclose(median_frequency_weights(COUNTS, PIXELS, power=0.5), np.sqrt(full), rtol=1e-6)
    np.testing.assert_array_equal(median_frequency_weights(COUNTS, PIXELS, power=0.0), np.ones(4))


def test_a_class_that_never_occurs_weighs_one_and_does_not_move_the_others():
    without = median_frequency_weights(COUNTS[:3], PIXELS[:3])
    weights = median_frequency_weights(COUNTS, PIXELS)
    np.testing.assert_array_equal(weights[:3], without)
    assert weights[3] == 1 and weights.dtype == np.float32


def test_masks_without_a_labelled_pixel_are_refused():
    with pytest.raises(UserError, match="none"):
        median_frequency_weights(np.zeros(3, np.int64), np.zeros(3, np.int64))


def test_huge_counts_do_not_overflow():
    weights = median_frequency_weights(np.array([2**40, 2**41]), np.array([2**42, 2**42]))
    np.testing.assert_allclose(weights, [1.5, 0.75])


def test_given_weights_are_raised_to_the_power_and_zero_stays_zero():
    np.testing.assert_allclose(given_weights((4.0, 0.0, 1.0), 3, power=0.5), [2, 0, 1])
    np.testing.assert_array_equal(given_weights((4.0, 0.0, 1.0), 3, power=0.0), [1, 0, 1])


@pytest.mark.parametrize(("weights", "message"), [((1.0, 2.0), "each of 3 classes, found 2"), ((0.0,) * 3, "only 0")])
def test_given_weights_that_cannot_serve_are_refused(weights, message):
    with pytest.raises(UserError, match=message):
        given_weights(weights, 3)


def test_build_reads_the_masks_only_when_needed():
    calls = []

    def count_pixels():
        calls.append(1)
        return COUNTS, PIXELS

    assert build_class_weights(LossConfig(), 4, count_pixels) is None
    given = LossConfig(class_weighting="given", class_weights=(1.0, 4.0, 0.0, 9.0), class_weight_power=0.5)
    np.testing.assert_allclose(build_class_weights(given, 4, count_pixels), [1, 2, 0, 3])
    assert not calls
    median = LossConfig(class_weighting="median_frequency", class_weight_power=0.5)
    expected = median_frequency_weights(COUNTS, PIXELS, 0.5)
    np.testing.assert_array_equal(build_class_weights(median, 4, count_pixels), expected)
    assert calls
