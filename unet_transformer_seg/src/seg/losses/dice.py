"""Soft Dice loss: one minus the overlap of prediction and truth, class by class."""

from collections.abc import Callable

import chex
import jax

from seg.losses.overlap import EPSILON, mean_over_present_classes, measure_overlap


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
    no mean of the losses of its parts. For the empty-class rule see `overlap.mean_over_present_classes`.

    Args:
        logits_bhwk: float[b, h, w, k].
        labels_bhw: integer[b, h, w], 0…k−1, or 255 where ignored.
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
    dice_gk = (2 * both_gk + EPSILON) / (predicted_gk + true_gk + EPSILON)
    return mean_over_present_classes(1 - dice_gk, true_gk, class_weights_k)
