"""Confusion matrix and mean IoU: small cases by hand, ignored pixels, absent classes, sums over batches."""

import warnings

import jax.numpy as jnp
import numpy as np
from mean_iou import IGNORED, confusion_matrix, mean_iou

K = 4
RNG = np.random.default_rng(0)
PREDICTED = RNG.integers(0, K, (2, 5, 7)).astype(np.int32)
LABELS = RNG.integers(0, K, (2, 5, 7)).astype(np.int32)
LABELS[0, :2] = IGNORED


def count(predicted, labels):
    """Return the matrix, counted one pixel at a time."""
    matrix_kk = np.zeros((K, K), np.int64)
    for p, t in zip(predicted.ravel(), labels.ravel(), strict=True):
        if t != IGNORED:
            matrix_kk[t, p] += 1
    return matrix_kk


def test_rows_are_the_truth():
    """Three pixels of class 0 called 1, and one of class 2 found."""
    predicted, labels = jnp.array([[[1, 1, 1, 2]]]), jnp.array([[[0, 0, 0, 2]]])
    expected = np.zeros((K, K))
    expected[0, 1], expected[2, 2] = 3, 1
    np.testing.assert_array_equal(confusion_matrix(predicted, labels, K), expected)


def test_every_counted_pixel_is_in_one_cell():
    """And ignored ones are in none, whatever was predicted there."""
    matrix_kk = np.asarray(confusion_matrix(jnp.asarray(PREDICTED), jnp.asarray(LABELS), K))
    np.testing.assert_array_equal(matrix_kk, count(PREDICTED, LABELS))
    assert matrix_kk.sum() == (LABELS != IGNORED).sum() and matrix_kk.dtype == np.int32
    changed = np.where(LABELS == IGNORED, 0, PREDICTED)
    np.testing.assert_array_equal(confusion_matrix(jnp.asarray(changed), jnp.asarray(LABELS), K), matrix_kk)


def test_batches_add_up_but_their_mean_ious_do_not():
    """So that the ratio is taken once, of the sums."""
    first, second = (
        np.asarray(confusion_matrix(jnp.asarray(PREDICTED[b : b + 1]), jnp.asarray(LABELS[b : b + 1]), K), np.int64)
        for b in (0, 1)
    )
    np.testing.assert_array_equal(first + second, count(PREDICTED, LABELS))
    assert abs(mean_iou(first + second) - (mean_iou(first) + mean_iou(second)) / 2) > 1e-3


def test_mean_iou_by_hand():
    """Class 0: 3 of 3 + 2 pixels; class 1: 1 of 1 + 2; the others do not occur."""
    matrix_kk = np.zeros((K, K), np.int64)
    matrix_kk[:2, :2] = [[3, 2], [0, 1]]
    np.testing.assert_allclose(mean_iou(matrix_kk), (3 / 5 + 1 / 3) / 2)


def test_a_class_that_is_only_predicted_counts_as_0():
    """It is wrong wherever it was predicted; it is not absent."""
    matrix_kk = np.zeros((K, K), np.int64)
    matrix_kk[0, 0], matrix_kk[0, 3] = 8, 2
    np.testing.assert_allclose(mean_iou(matrix_kk), (0.8 + 0) / 2)


def test_a_matrix_of_zeros_has_no_mean_and_no_warning():
    """NaN is the answer, not an accident."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(mean_iou(np.zeros((K, K), np.int64)))


def test_counts_beyond_the_whole_numbers_of_float32():
    """2^24 + 1 pixels are not 2^24."""
    matrix_kk = np.zeros((K, K), np.int64)
    matrix_kk[0, 0], matrix_kk[1, 0] = 2**24, 1
    np.testing.assert_allclose(mean_iou(matrix_kk), 0.5 * 2**24 / (2**24 + 1), rtol=1e-12)
