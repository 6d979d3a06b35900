"""Losses of overlapping classes: a yes or no at each pixel for each class, by a sigmoid of its own.

The truth is integer[b, h, w, k] of 0 and 1, and 255 where a class is ignored. `dice_loss` and `tversky_loss` take such
labels, too, with `probability=jax.nn.sigmoid`.
"""

import chex
import jax
import jax.numpy as jnp

from seg.losses.overlap import dice_loss
from seg.losses.pixels import CountedPixels, count_pixels, weighted_mean, weights_or_ones


def multilabel_bce_loss(
    logits_bhwk: jax.Array, labels_bhwk: jax.Array, *, class_weights_k: chex.Array | None = None
) -> jax.Array:
    """Return the binary cross entropy, averaged over the counted pixels of each class, then over the classes.

        bce[k] = mean_pixels −weight[k]·t·log p − (1 − t)·log(1 − p),   p = sigmoid(logits[k])
        loss   = mean_k bce[k],   k over the classes with a counted pixel

    Args:
        logits_bhwk: float[b, h, w, k].
        labels_bhwk: integer[b, h, w, k], 0, 1, or 255 where ignored.
        class_weights_k: float[k] > 0, the weight of the pixels of a class against those that are not, or None for 1.

    Returns:
        float32 scalar; 0 when nothing is counted.

    Reference: `torch.nn.functional.binary_cross_entropy_with_logits`, the weights being its `pos_weight`.
    """
    pixels = count_pixels(logits_bhwk, labels_bhwk)
    return mean_over_counted_classes(_binary_cross_entropy(pixels, class_weights_k), pixels)


def multilabel_focal_loss(
    logits_bhwk: jax.Array,
    labels_bhwk: jax.Array,
    *,
    class_weights_k: chex.Array | None = None,
    gamma: float = 2.0,
) -> jax.Array:
    """Return the binary cross entropy with each decision scaled by (1 − q)^gamma, q being the probability of its truth.

    Arguments, means and result as in `multilabel_bce_loss`, which is the case gamma = 0.

    Reference: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 4, the mean in the place of the sum.
    """
    pixels = count_pixels(logits_bhwk, labels_bhwk)
    log_q_bhwk = jax.nn.log_sigmoid(jnp.where(pixels.target > 0, pixels.logits, -pixels.logits))
    # Not below float32's resolution: x**gamma has an infinite slope at 0 when gamma < 1.
    miss_bhwk = jnp.maximum(-jnp.expm1(log_q_bhwk), jnp.finfo(jnp.float32).eps)
    return mean_over_counted_classes(miss_bhwk**gamma * _binary_cross_entropy(pixels, class_weights_k), pixels)


def multilabel_bce_dice_loss(
    logits_bhwk: jax.Array,
    labels_bhwk: jax.Array,
    *,
    class_weights_k: chex.Array | None = None,
    dice_weight: float = 1.0,
    per_image: bool = False,
) -> jax.Array:
    """Return binary cross entropy + dice_weight · soft Dice loss, both over the sigmoid.

    Arguments and result as in `multilabel_bce_loss` and `dice_loss`. The class weights serve the cross entropy alone:
    in the Dice loss each class has one ratio, whatever the number of its pixels.

    Reference: Isensee et al. 2021, "nnU-Net", its loss of overlapping regions (dice_weight = 1).
    """
    bce = multilabel_bce_loss(logits_bhwk, labels_bhwk, class_weights_k=class_weights_k)
    # The Dice term leaves out a class that no image of the batch has; a false alarm there costs in the first term.
    dice = dice_loss(logits_bhwk, labels_bhwk, per_image=per_image, probability=jax.nn.sigmoid)
    return bce + dice_weight * dice


def _binary_cross_entropy(pixels: CountedPixels, class_weights_k: chex.Array | None) -> jax.Array:
    """Return float32[b, h, w, k], the cost of each decision."""
    weights_k = weights_or_ones(class_weights_k, pixels.target.shape[-1])
    # −log sigmoid(z) = softplus(−z), which does not overflow.
    positive_bhwk = weights_k.reshape(1, 1, 1, -1) * jax.nn.softplus(-pixels.logits)
    return jnp.where(pixels.target > 0, positive_bhwk, jax.nn.softplus(pixels.logits))


def mean_over_counted_classes(cost_bhwk: jax.Array, pixels: CountedPixels) -> jax.Array:
    """Return the mean over the counted pixels of each class, then over the classes that have one."""
    counted_bhwk = pixels.counted.astype(jnp.float32)
    cost_k = weighted_mean(cost_bhwk, counted_bhwk, axis=(0, 1, 2))
    return weighted_mean(cost_k, counted_bhwk.max((0, 1, 2)))
