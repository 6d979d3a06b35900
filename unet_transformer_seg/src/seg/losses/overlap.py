"""Soft overlap of prediction and truth: what the Dice and the Tversky loss are made of.

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
`mean_over_present_classes`), so that a denominator is never below one pixel and the term is not felt."""


class Overlap(NamedTuple):
    """Sums over the counted pixels of each group, all float32[g, k], in pixels.

    Attributes:
        both: Σ p·t, the soft true positives.
        predicted: Σ p.
        true: Σ t, the number of true pixels.
    """

    both: jax.Array
    predicted: jax.Array
    true: jax.Array


def measure_overlap(
    logits_bhwk: jax.Array,
    labels_bhw: jax.Array,
    *,
    per_image: bool,
    probability: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
) -> Overlap:
    """Return the soft overlap of `probability(logits)` = p with the one-hot truth t."""
    pixels = count_pixels(logits_bhwk, labels_bhw)
    p_bhwk = jnp.where(pixels.counted[..., None], probability(pixels.logits), 0.0)
    axes = (1, 2) if per_image else (0, 1, 2)
    sums = [jnp.sum(x_bhwk, axes) for x_bhwk in (p_bhwk * pixels.target, p_bhwk, pixels.target)]
    return Overlap(*(jnp.atleast_2d(x) for x in sums))


def mean_over_present_classes(loss_gk: jax.Array, true_gk: jax.Array, class_weights_k: chex.Array | None) -> jax.Array:
    """Return the mean of `loss_gk` over the classes that occur in the truth of a group, then over groups.

    The empty-class rule: a class without a true pixel in the group is left out of the mean, whether it is
    predicted there or not. Its ratio would be 0 with a vanishing slope however few pixels were wrong. With the
    softmax, pixels wrongly given to it are still paid for by the classes they were taken from.

    A group in which no class (of positive weight) occurs is left out of the mean over groups.
    """
    chex.assert_equal_shape([loss_gk, true_gk])
    weights_k = weights_or_ones(class_weights_k, loss_gk.shape[-1])
    weight_gk = jnp.where(true_gk > 0, weights_k.reshape(1, -1), 0.0)
    loss_g = weighted_mean(loss_gk, weight_gk, axis=1)
    return weighted_mean(loss_g, (jnp.sum(weight_gk, axis=1) > 0).astype(jnp.float32))
