"""Losses of overlapping classes against slow float64 twins: values, gradients, and the rules that all of them keep."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.config import LossConfig
from seg.losses import build_multilabel_loss, deep_supervision_loss

SHAPE = (2, 3, 4, 3)  # b, h, w, k
WEIGHTS = np.array([0.5, 2.0, 4.0], np.float32)


def make_batch(seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, shape)
    labels[rng.random(shape) < 0.2] = 255
    return rng.normal(size=shape).astype(np.float32) * 2, labels


# ---- slow twins: one class at a time, float64 ----


def of_class(logits, labels, k):
    """Return probability and truth of the counted pixels of a class."""
    counted = labels[..., k] != 255
    return 1 / (1 + np.exp(-logits[..., k][counted].astype(np.float64))), labels[..., k][counted]


def slow_focal(logits, labels, w, gamma=0.0):
    costs = []
    for k in range(logits.shape[-1]):
        p, t = of_class(logits, labels, k)
        if len(p):
            costs.append(np.mean(np.where(t == 1, -w[k] * (1 - p) ** gamma * np.log(p), -(p**gamma) * np.log(1 - p))))
    return np.mean(costs)


def slow_tversky(logits, labels, w, alpha=0.5, beta=0.5, epsilon=0.5e-5):
    losses, weights = [], []
    for k in range(logits.shape[-1]):
        p, t = of_class(logits, labels, k)
        if t.sum():
            both, alarm, miss = (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum()
            losses.append(1 - (both + epsilon) / (both + alpha * alarm + beta * miss + epsilon))
            weights.append(w[k])
    return np.average(losses, weights=weights)


def slow_bce_dice(logits, labels, w):
    return slow_focal(logits, labels, w) + 0.7 * slow_tversky(logits, labels, np.ones(len(w)))


LOSSES = {
    "bce": slow_focal,
    "cross_entropy": slow_focal,
    "focal": partial(slow_focal, gamma=2.0),
    "dice": slow_tversky,
    "tversky": partial(slow_tversky, alpha=0.3, beta=0.7, epsilon=1e-5),
    "bce_dice": slow_bce_dice,
    "ce_dice": slow_bce_dice,
}


def built(name):
    return jax.jit(jax.value_and_grad(build_multilabel_loss(LossConfig(name=name, dice_weight=0.7), WEIGHTS)))


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_equal_those_of_a_slow_twin(name):
    logits, labels = make_batch()
    value, gradient = built(name)(logits, labels)
    slow = LOSSES[name]
    np.testing.assert_allclose(value, slow(logits, labels, WEIGHTS), rtol=1e-5)
    expected, wide = np.zeros(SHAPE), logits.astype(np.float64)
    for place in np.ndindex(SHAPE):
        step = np.zeros(SHAPE)
        step[place] = 1e-5
        expected[place] = (slow(wide + step, labels, WEIGHTS) - slow(wide - step, labels, WEIGHTS)) / 2e-5
    np.testing.assert_allclose(gradient, expected, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("name", ["focal", "bce_dice", "tversky"])
def test_ignored_pixels_bad_labels_and_empty_batches_keep_the_rules_of_all_losses(name):
    logits, labels = make_batch()
    loss = built(name)
    broken = np.where(labels == 255, np.nan, logits)
    for one, other in zip(loss(logits, labels), loss(broken, labels), strict=True):
        np.testing.assert_array_equal(one, other)
    value, gradient = loss(logits, np.full(SHAPE, 255))
    assert value == 0 and not np.asarray(gradient).any()
    wrong = labels.copy()
    wrong[0, 0, 0, 0] = 2
    assert np.isnan(loss(logits, wrong)[0])
    extreme = jnp.where(labels == 1, -1e4, 1e4)
    assert all(np.isfinite(x).all() for x in loss(extreme, labels))


def test_a_class_whose_pixels_are_all_ignored_does_not_dilute_the_mean():
    logits, labels = make_batch()
    labels[..., 2] = 255
    without = built_without_weights("bce")(logits[..., :2], labels[..., :2])
    np.testing.assert_allclose(built_without_weights("bce")(logits, labels), without, rtol=1e-6)


def built_without_weights(name):
    return build_multilabel_loss(LossConfig(name=name))


def test_deep_supervision_looks_at_the_labels_of_each_class_under_the_coarse_pixels():
    labels = make_batch(1, (1, 4, 4, 2))[1]
    fine, coarse = make_batch(2, (1, 4, 4, 2))[0], make_batch(3, (1, 2, 2, 2))[0]
    loss = built_without_weights("bce")
    expected = (loss(fine, labels) + loss(coarse, labels[:, 1::2, 1::2]) / 2) / 1.5
    np.testing.assert_allclose(deep_supervision_loss(loss, (fine, coarse), jnp.asarray(labels)), expected, rtol=1e-6)
