"""Which pixels a loss counts, and the mean that all losses share.

Letters: b batch, h w pixels, k classes.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from seg.classes import IGNORE_LABEL


class CountedPixels(NamedTuple):
    """The input of a loss, cleaned so that ignored pixels cannot reach the result."""

    logits: jax.Array  # float32[b, h, w, k], 0 at ignored pixels
    target: jax.Array  # float32[b, h, w, k], 1 for the true classes, all 0 at ignored pixels
    counted: jax.Array  # bool[b, h, w, 1], or [b, h, w, k] if classes overlap; False at ignored pixels


def count_pixels(logits_bhwk: jax.Array, labels: jax.Array) -> CountedPixels:
    """Return logits in float32 and the truth as 0 and 1 for each class, with ignored pixels cut off.

    The cut is a `where` on the logits, before anything is computed from them. Its derivative is exactly 0, and
    0 times an infinite logit never happens: an ignored pixel changes neither value nor gradient, whatever its
    logits are, NaN and infinity included.

    A label that is neither a class nor 255 makes the loss NaN, which training reports with the step. (Counting
    it as ignored would hide a wrong mask.) All logits of the batch become NaN for it, and the pixel counts as one of
    the nearest class, so that no loss can miss it: of a single NaN, `0 · NaN` may or may not be left after
    compilation.

    Args:
        logits_bhwk: float16, bfloat16 or float32[b, h, w, k].
        labels: integer[b, h, w], 0…k−1, or 255 where ignored; of overlapping classes integer[b, h, w, k], 0, 1 or 255.
    """
    chex.assert_rank(logits_bhwk, 4)
    chex.assert_shape(labels, logits_bhwk.shape[: labels.ndim])
    chex.assert_type([logits_bhwk, labels], [float, int])
    overlap, num_classes = labels.ndim == 4, logits_bhwk.shape[-1]
    labels = labels.astype(jnp.int32)
    counted = labels != IGNORE_LABEL  # padding of the image, and what the annotators left out
    # A wrong label must not be silent: it makes the whole loss NaN.
    nearest = jnp.clip(labels, 0, 1 if overlap else num_classes - 1)
    impossible = jnp.any(counted & (labels != nearest))
    logits_bhwk = jnp.where(impossible, jnp.nan, logits_bhwk.astype(jnp.float32))
    if overlap:
        target_bhwk = jnp.where(counted, nearest, 0).astype(jnp.float32)
    else:
        target_bhwk = jax.nn.one_hot(jnp.where(counted, nearest, -1), num_classes, dtype=jnp.float32)
        counted = counted[..., None]
    return CountedPixels(jnp.where(counted, logits_bhwk, 0.0), target_bhwk, counted)


def weights_or_ones(class_weights_k: chex.Array | None, num_classes: int) -> jax.Array:
    """Return the class weights as float32[k]; without weights every class weighs 1."""
    if class_weights_k is None:
        return jnp.ones(num_classes, jnp.float32)
    chex.assert_shape(class_weights_k, (num_classes,))
    return jnp.asarray(class_weights_k, jnp.float32)


def weights_of_true_classes(pixels: CountedPixels, class_weights_k: chex.Array | None) -> jax.Array:
    """Return the weight of each pixel, that of its true class: float32[b, h, w], 0 at ignored pixels."""
    weights_k = weights_or_ones(class_weights_k, pixels.target.shape[-1])
    return jnp.sum(pixels.target * weights_k.reshape(1, 1, 1, -1), axis=-1)


def weighted_mean(values: jax.Array, weights: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """Return Σ weights·values / Σ weights over `axis`, and 0 (with gradient 0) where all weights are 0."""
    chex.assert_equal_shape([values, weights])
    return jnp.sum(values * weights, axis) * inverse_or_zero(jnp.sum(weights, axis))


def inverse_or_zero(total: jax.Array) -> jax.Array:
    """Return 1 / total, and 0 where total is 0, so that the mean over nothing is 0."""
    # Two selects: the inner one keeps 1 / 0 out of the gradient, where 0 · ∞ would be NaN.
    return jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1.0), 0.0)
