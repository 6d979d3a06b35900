"""Losses against slow float64 twins, and the rules that all of them keep."""

import re
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.classes import IGNORE_LABEL
from seg.losses import (
    bce_dice_loss,
    bce_loss,
    ce_dice_loss,
    cross_entropy_loss,
    dice_loss,
    focal_loss,
    tversky_loss,
)

DOCUMENT = Path(__file__).parents[1] / "docs" / "losses_and_metrics.md"
WEIGHTS = np.array([0.5, 2.0, 1.0, 4.0], np.float32)
EQUAL = np.ones(4, np.float32)
SHAPE = (2, 3, 4, 4)  # b, h, w, k


# ---- slow twins: one pixel, one class at a time, float64 ----


def slow_softmax(z):
    e = [np.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def slow_sigmoid(z):
    return [1 / (1 + np.exp(-v)) for v in z]


def counted(logits, labels):
    """Yield (image, logits of the pixel, label) of each counted pixel."""
    for b, i, j in np.ndindex(labels.shape):
        if labels[b, i, j] != IGNORE_LABEL:
            yield b, logits[b, i, j], int(labels[b, i, j])


def slow_cross_entropy(logits, labels, w, smoothing=0.0, gamma=0.0):
    hard = soft = total = 0.0
    for _, z, y in counted(logits, labels):
        p = slow_softmax(z)
        hard += w[y] * (1 - p[y]) ** gamma * -np.log(p[y])
        soft += sum(w[k] * -np.log(p[k]) for k in range(len(z))) / len(z)
        total += w[y]
    return ((1 - smoothing) * hard + smoothing * soft) / total


def slow_bce(logits, labels, w):
    pixels = list(counted(logits, labels))
    value = 0.0
    for _, z, y in pixels:
        p = slow_sigmoid(z)
        value += sum(w[k] * -np.log(p[k] if k == y else 1 - p[k]) for k in range(len(z)))
    return value / len(pixels) / sum(w)


def slow_tversky(logits, labels, w, alpha, beta, per_image=False, probability=slow_softmax, epsilon=1e-5):
    losses = []
    for group in [[b] for b in range(len(labels))] if per_image else [range(len(labels))]:
        both, alarm, miss, true = np.zeros((4, logits.shape[-1]))
        for b, z, y in counted(logits, labels):
            for k, p in enumerate(probability(z) if b in group else []):
                t = float(k == y)
                both[k] += p * t
                alarm[k] += p * (1 - t)
                miss[k] += (1 - p) * t
                true[k] += t
        present = [k for k in range(len(true)) if true[k]]
        index = [(both[k] + epsilon) / (both[k] + alpha * alarm[k] + beta * miss[k] + epsilon) for k in present]
        if present:
            losses.append(np.average([1 - v for v in index], weights=[w[k] for k in present]))
    return np.mean(losses)


def slow_dice(logits, labels, w, **settings):
    # (2·both + ε) / (Σp + Σt + ε) is the Tversky index of ½, ½ with half the ε
    return slow_tversky(logits, labels, w, 0.5, 0.5, epsilon=0.5e-5, **settings)


def slow_ce_dice(logits, labels, w):
    return slow_cross_entropy(logits, labels, w, 0.2) + 0.7 * slow_dice(logits, labels, w)


def slow_bce_dice(logits, labels, w):
    return slow_bce(logits, labels, w) + 0.7 * slow_dice(logits, labels, w, probability=slow_sigmoid)


TVERSKY = {"alpha": 0.3, "beta": 0.7}
LOSSES = {
    "cross_entropy": (cross_entropy_loss, slow_cross_entropy),
    "cross_entropy, smoothed": (
        partial(cross_entropy_loss, label_smoothing=0.2),
        partial(slow_cross_entropy, smoothing=0.2),
    ),
    "bce": (bce_loss, slow_bce),
    "dice": (dice_loss, slow_dice),
    "dice per image": (partial(dice_loss, per_image=True), partial(slow_dice, per_image=True)),
    "focal": (focal_loss, partial(slow_cross_entropy, gamma=2.0)),
    "focal, gamma ½": (partial(focal_loss, gamma=0.5), partial(slow_cross_entropy, gamma=0.5)),
    "tversky": (partial(tversky_loss, **TVERSKY), partial(slow_tversky, **TVERSKY)),
    "ce_dice": (partial(ce_dice_loss, dice_weight=0.7, label_smoothing=0.2), slow_ce_dice),
    "bce_dice": (partial(bce_dice_loss, dice_weight=0.7), slow_bce_dice),
}
every_loss = pytest.mark.parametrize("loss", [pair[0] for pair in LOSSES.values()], ids=LOSSES.keys())


@cache
def compiled(loss):
    """Return (logits, labels, weights) → (value, gradient), compiled once for all tests of a loss."""
    return jax.jit(lambda logits, labels, w: jax.value_and_grad(loss)(logits, labels, class_weights_k=w))


def run(loss, logits, labels, weights=EQUAL):
    value, gradient = compiled(loss)(logits, labels, weights)
    return float(value), np.asarray(gradient)


def make_batch(seed=0, shape=SHAPE):
    """Return logits, and labels of which some are ignored and the last class is missing in the first image."""
    rng = np.random.default_rng(seed)
    logits = (2 * rng.normal(size=shape)).astype(np.float32)
    labels = rng.integers(0, shape[-1], shape[:3]).astype(np.int32)
    labels[0][labels[0] == shape[-1] - 1] = 0
    labels[rng.random(labels.shape) < 0.3] = IGNORE_LABEL
    labels[:, 0, 0] = IGNORE_LABEL
    return logits, labels


# ---- values and gradients ----


@pytest.mark.parametrize("weights", [EQUAL, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize(("loss", "slow"), LOSSES.values(), ids=LOSSES.keys())
def test_value_and_gradient_are_those_of_the_slow_twin(loss, slow, weights):
    logits, labels = make_batch()
    w = weights.astype(float)
    value, gradient = run(loss, logits, labels, weights)
    assert value == pytest.approx(slow(logits.astype(float), labels, w), rel=2e-6)

    rng = np.random.default_rng(1)
    for _ in range(6):  # slopes along random directions of all logits, by central differences
        direction = rng.normal(size=SHAPE)
        up, down = (slow(logits.astype(float) + step * direction, labels, w) for step in (1e-5, -1e-5))
        assert np.sum(gradient * direction) == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-6)


@every_loss
def test_sums_are_float32_whatever_the_dtypes_of_logits_and_labels(loss):
    logits, labels = make_batch()
    low = jnp.asarray(logits, jnp.bfloat16)
    value = jax.jit(loss)(low, labels.astype(np.uint8))
    assert value.dtype == jnp.float32 and value.shape == ()
    expected, _ = run(loss, np.asarray(low, np.float32), labels)
    assert value == pytest.approx(expected, rel=1e-6), "bfloat16 would be wrong in the third digit"
    assert jax.eval_shape(jax.grad(loss), low, labels).dtype == jnp.bfloat16


@every_loss
def test_huge_logits_stay_finite_and_right_is_better_than_wrong(loss):
    labels = np.arange(24, dtype=np.int32).reshape(SHAPE[:3]) % 4
    right = np.where(np.eye(4, dtype=bool)[labels], 1e4, -1e4).astype(np.float32)
    for logits in (right, -right):
        value, gradient = run(loss, logits, labels)
        assert np.isfinite(value) and np.isfinite(gradient).all()
    assert run(loss, right, labels)[0] < run(loss, -right, labels)[0]


# ---- ignored pixels ----


@every_loss
def test_ignored_pixels_change_neither_value_nor_gradient(loss):
    logits, labels = make_batch()
    ignored = labels == IGNORE_LABEL
    value, gradient = run(loss, logits, labels)
    assert np.isfinite(value)
    assert (gradient[ignored] == 0).all()
    assert (np.abs(gradient[~ignored]).max(axis=-1) > 0).all()
    for there in (7.0, 1e30, np.inf, -np.inf, np.nan):
        changed = logits.copy()
        changed[ignored, 1:] = there  # not class 0: a shift common to all classes would say nothing
        value_2, gradient_2 = run(loss, changed, labels)
        assert value_2 == value, there
        np.testing.assert_array_equal(gradient_2, gradient)


@every_loss
def test_a_batch_without_counted_pixels_gives_zero(loss):
    logits, labels = make_batch()
    value, gradient = run(loss, logits, np.full_like(labels, IGNORE_LABEL))
    assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("per_image", [False, True])
def test_an_image_that_is_ignored_as_a_whole_is_no_image(per_image):
    logits, labels = make_batch()
    loss = jax.jit(partial(dice_loss, per_image=per_image))
    longer = np.concatenate([logits, logits]), np.concatenate([labels, np.full_like(labels, IGNORE_LABEL)])
    assert loss(*longer) == pytest.approx(float(loss(logits, labels)), rel=1e-6)


@every_loss
def test_an_impossible_label_makes_the_loss_nan(loss):
    for label in (4, 254, 256, -1):
        logits, labels = make_batch()
        labels[1, 2, 3] = label
        assert np.isnan(run(loss, logits, labels)[0]), label
        assert np.isnan(run(loss, logits, np.full_like(labels, label))[0]), f"nothing but {label}"


@every_loss
def test_wrong_shapes_and_dtypes_are_refused(loss):
    logits, labels = make_batch()
    for bad in [(logits[0], labels), (logits, labels[:, 1:]), (logits, labels.astype(np.float32))]:
        with pytest.raises(AssertionError):
            loss(*bad)
    with pytest.raises(AssertionError):
        loss(logits, labels, class_weights_k=np.ones(3, np.float32))


# ---- class weights ----


@every_loss
def test_class_weights_change_the_loss_but_a_common_factor_does_not(loss):
    logits, labels = make_batch()

    plain, weighted = run(loss, logits, labels)[0], run(loss, logits, labels, WEIGHTS)[0]
    assert abs(weighted - plain) > 1e-3
    assert run(loss, logits, labels, 10 * WEIGHTS)[0] == pytest.approx(weighted, rel=1e-6)
    assert run(loss, logits, labels, 3 * EQUAL)[0] == pytest.approx(plain, rel=1e-6)
    assert loss(logits, labels) == pytest.approx(plain, rel=1e-6), "no weights are equal weights"


@every_loss
def test_weights_that_are_all_zero_give_zero(loss):
    logits, labels = make_batch()
    value, gradient = run(loss, logits, labels, 0 * WEIGHTS)
    assert value == 0 and (gradient == 0).all()


# ---- single losses ----


def test_cross_entropy_of_a_batch_is_the_weighted_mean_of_its_parts():
    logits, labels = make_batch(shape=(6, 5, 5, 4))
    loss = jax.jit(partial(cross_entropy_loss, class_weights_k=WEIGHTS, label_smoothing=0.1))
    for parts in ([[0, 1], [2, 3, 4, 5]], [[0, 2], [1, 5], [3, 4]]):
        values = [float(loss(logits[list(part)], labels[list(part)])) for part in parts]
        totals = [sum(WEIGHTS[y] for _, _, y in counted(logits[list(part)], labels[list(part)])) for part in parts]
        assert loss(logits, labels) == pytest.approx(np.average(values, weights=totals), rel=1e-6)


def test_focal_loss_without_focus_is_cross_entropy():
    logits, labels = make_batch()
    expected = cross_entropy_loss(logits, labels, class_weights_k=WEIGHTS)
    assert focal_loss(logits, labels, class_weights_k=WEIGHTS, gamma=0.0) == pytest.approx(float(expected), rel=1e-6)


def test_tversky_of_one_half_is_dice():
    logits, labels = make_batch()
    expected = dice_loss(logits, labels, class_weights_k=WEIGHTS)
    found = tversky_loss(logits, labels, class_weights_k=WEIGHTS, alpha=0.5, beta=0.5)
    assert found == pytest.approx(float(expected), abs=1e-5)


def test_tversky_prices_are_not_swapped():
    labels = np.array([[[0, 0, 1, 1]]], np.int32)
    too_much_1 = np.array([[[[9, 0], [0, 9], [0, 9], [0, 9]]]], np.float32)  # one false alarm of class 1
    loss = jax.jit(partial(tversky_loss, class_weights_k=np.array([0.0, 1.0], np.float32)))
    assert loss(too_much_1, labels, alpha=0.1, beta=0.9) < loss(too_much_1, labels, alpha=0.9, beta=0.1)


def one_hot_logits(classes, num_classes):
    return np.where(np.eye(num_classes, dtype=bool)[classes], 50.0, -50.0).astype(np.float32)


@pytest.mark.parametrize("loss", [dice_loss, partial(dice_loss, per_image=True), tversky_loss])
def test_a_class_absent_from_truth_and_prediction_is_left_out(loss):
    logits, labels = make_batch()
    loss = jax.jit(loss)
    labels[labels == 3] = 0
    logits[..., 3] = -200.0
    with_absent = loss(logits, labels)
    assert with_absent == pytest.approx(float(loss(logits[..., :3], labels)), rel=1e-6)
    assert loss(one_hot_logits(np.minimum(labels, 3), 4), labels) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", [dice_loss, partial(dice_loss, per_image=True), tversky_loss])
def test_a_class_absent_from_the_truth_only_is_paid_for_by_the_classes_it_takes_from(loss):
    labels = np.array([[[0, 0, 0, 0], [1, 1, 1, 1]]], np.int32)
    said = labels.copy()
    said[0, 0, :2] = 2  # half of class 0 is given to class 2, which does not occur
    value, _ = run(loss, one_hot_logits(said, 3), labels, EQUAL[:3])
    class_0 = 1 - 4 / 6 if loss is not tversky_loss else 1 - 2 / (2 + 0.7 * 2)
    assert value == pytest.approx((class_0 + 0) / 2, abs=1e-5), "a mean over two classes, not three"
    _, gradient = run(loss, np.zeros((1, 2, 4, 3), np.float32), labels, EQUAL[:3])
    assert (gradient[..., 2] > 0).all(), "descent must lower the logit of the absent class"


def test_dice_per_image_and_over_the_batch_differ_as_documented():
    labels = np.zeros((2, 1, 4), np.int32)
    labels[0, 0, :2] = 1  # class 1 occurs in the first image only, and is found there to one half
    said = np.array([[[1, 0, 0, 0]], [[0, 0, 0, 0]]])
    logits = one_hot_logits(said, 2)
    batch = 1 - np.mean([2 * 6 / (7 + 6), 2 * 1 / (1 + 2)])
    images = np.mean([1 - np.mean([2 * 2 / (3 + 2), 2 * 1 / (1 + 2)]), 0])
    assert jax.jit(dice_loss)(logits, labels) == pytest.approx(batch, abs=1e-5)
    assert jax.jit(partial(dice_loss, per_image=True))(logits, labels) == pytest.approx(images, abs=1e-5)


# ---- the documented way to add a loss ----


def test_the_documented_example_is_a_loss_that_keeps_the_rules():
    code = re.search(r"```python\n(# absolute_error\.py.*?)```", DOCUMENT.read_text(), re.DOTALL).group(1)
    namespace = {}
    exec(code, namespace)
    loss = namespace["absolute_error_loss"]
    logits, labels = make_batch()
    p = np.array([slow_softmax(z)[y] for _, z, y in counted(logits.astype(float), labels)])
    assert loss(logits, labels) == pytest.approx(np.mean(1 - p), rel=1e-6)
    test_ignored_pixels_change_neither_value_nor_gradient(loss)
    test_a_batch_without_counted_pixels_gives_zero(loss)
    test_class_weights_change_the_loss_but_a_common_factor_does_not(loss)
    test_sums_are_float32_whatever_the_dtypes_of_logits_and_labels(loss)
