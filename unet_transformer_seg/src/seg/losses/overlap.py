"""Soft overlap of prediction and truth: the Dice and the Tversky loss, and the sums that they are made of.

Letters: b batch, h w pixels, k classes, g groups of pixels that are summed together (the images, or one: the batch).
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from seg.losses.pixels import count_pixels, weighted_mean, weights_or_ones

EPSILON = 1e-5
"""Added to numerator and denominator, as in nnU-Net. Classes without a true pixel are left out (see
`mean_over_present_classes`), so a denominator is never below one pixel and the term is negligible."""


def dice_loss(
    logits_bhwk: jax.Array,
    labels_bhw: jax.Array,
    *,
    class_weights_k: chex.Array | None = None,
    per_image: bool = False,
    probability: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
) -> jax.Array:
    """Return one minus the soft Dice coefficient, averaged over the classes that occur in the truth.

        dice[k] = (2·Σ p[k]·t[k] + EPSILON) / (Σ p[k] + Σ t[k] + EPSILON)
        loss    = Σ_k weight[k]·(1 − dice[k]) / Σ_k weight[k],   k over the classes with Σ t[k] > 0

    p = probability(logits), t = one-hot truth, sums over the counted pixels of the batch (or, with `per_image`,
    of each image, the losses of the images then being averaged). Being a ratio of sums, the loss of a batch is
    not the mean of the losses of its parts. For the empty-class rule see `mean_over_present_classes`.

    Args:
        logits_bhwk: float[b, h, w, k].
        labels_bhw: integer[b, h, w], 0…k−1, or 255 where ignored; of overlapping classes [b, h, w, k], 0, 1 or 255.
        class_weights_k: float[k] ≥ 0, or None for equal weights.
        per_image: take the ratios image by image.
        probability: logits to probabilities over the last axis, `jax.nn.softmax` or `jax.nn.sigmoid`.

    Returns:
        float32 scalar, 0 (perfect) to 1; 0 when nothing is counted.

    Reference: Milletari et al. 2016, "V-Net"; the denominator without squares, as in Drozdzal et al. 2016, "The
    Importance of Skip Connections in Biomedical Image Segmentation".
    """
    both_gk, predicted_gk, true_gk = measure_overlap(
        logits_bhwk, labels_bhw, per_image=per_image, probability=probability
    )
    # A small class weighs as much as a large one: each has one ratio.
    dice_gk = (2 * both_gk + EPSILON) / (predicted_gk + true_gk + EPSILON)
    return mean_over_present_classes(1 - dice_gk, true_gk, class_weights_k)


def tversky_loss(
    logits_bhwk: jax.Array,
    labels_bhw: jax.Array,
    *,
    class_weights_k: chex.Array | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    per_image: bool = False,
    probability: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
) -> jax.Array:
    """Return one minus the soft Tversky index, averaged over the classes that occur in the truth.

        false_alarm[k] = Σ p[k]·(1 − t[k]),   miss[k] = Σ (1 − p[k])·t[k],   p = probability(logits)
        tversky[k] = (Σ p[k]·t[k] + EPSILON) / (Σ p[k]·t[k] + alpha·false_alarm[k] + beta·miss[k] + EPSILON)
        loss       = Σ_k weight[k]·(1 − tversky[k]) / Σ_k weight[k],   k over the classes with Σ t[k] > 0

    alpha = beta = 0.5 is Dice, alpha = beta = 1 is the Jaccard index (IoU); beta > alpha finds more of a rare
    class at the cost of more false alarms. Sums and the empty-class rule as in `dice_loss`.

    Args:
        logits_bhwk: float[b, h, w, k].
        labels_bhw: integer[b, h, w], 0…k−1, or 255 where ignored; of overlapping classes [b, h, w, k], 0, 1 or 255.
        class_weights_k: float[k] ≥ 0, or None for equal weights.
        alpha: price of a false alarm, ≥ 0.
        beta: price of a miss, ≥ 0.
        per_image: take the ratios image by image.
        probability: logits to probabilities over the last axis, `jax.nn.softmax` or `jax.nn.sigmoid`.

    Returns:
        float32 scalar, 0 (perfect) to 1; 0 when nothing is counted.

    Reference: Salehi et al. 2017, "Tversky loss function for image segmentation using 3D fully convolutional
    deep networks".
    """
    both_gk, predicted_gk, true_gk = measure_overlap(
        logits_bhwk, labels_bhw, per_image=per_image, probability=probability
    )
    # Predicted without being true, and true without being predicted.
    cost_gk = alpha * (predicted_gk - both_gk) + beta * (true_gk - both_gk)
    tversky_gk = (both_gk + EPSILON) / (both_gk + cost_gk + EPSILON)
    return mean_over_present_classes(1 - tversky_gk, true_gk, class_weights_k)


class Overlap(NamedTuple):
    """Sums over the counted pixels of each group, all float32[g, k], in pixels."""

    both: jax.Array  # Σ p·t, the soft true positives
    predicted: jax.Array  # Σ p
    true: jax.Array  # Σ t, the number of true pixels


def measure_overlap(
    logits_bhwk: jax.Array,
    labels_bhw: jax.Array,
    *,
    per_image: bool,
    probability: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
) -> Overlap:
    """Return the soft overlap of `probability(logits)` = p with the truth t of 0 and 1."""
    pixels = count_pixels(logits_bhwk, labels_bhw)
    # Ignored pixels are no false alarms: their probabilities go too.
    p_bhwk = jnp.where(pixels.counted, probability(pixels.logits), 0.0)
    axes = (1, 2) if per_image else (0, 1, 2)
    sums = [jnp.sum(x_bhwk, axes) for x_bhwk in (p_bhwk * pixels.target, p_bhwk, pixels.target)]
    return Overlap(*(jnp.atleast_2d(x) for x in sums))


def mean_over_present_classes(loss_gk: jax.Array, true_gk: jax.Array, class_weights_k: chex.Array | None) -> jax.Array:
    """Return the mean of `loss_gk` over the classes that occur in the truth of a group, then over groups.

    The empty-class rule: a class without a true pixel in the group is left out of the mean, predicted or not. Its
    ratio would be 0 with a vanishing slope however few pixels were wrong. With the softmax, pixels wrongly assigned
    to it still cost the classes that they belong to.

    A group in which no class (of positive weight) occurs is left out of the mean over groups.
    """
    chex.assert_equal_shape([loss_gk, true_gk])
    weights_k = weights_or_ones(class_weights_k, loss_gk.shape[-1])
    # Present in the truth, not in the prediction: else a single wrong pixel would bring in a term near 1.
    weight_gk = jnp.where(true_gk > 0, weights_k.reshape(1, -1), 0.0)
    loss_g = weighted_mean(loss_gk, weight_gk, axis=1)
    return weighted_mean(loss_g, (jnp.sum(weight_gk, axis=1) > 0).astype(jnp.float32))
