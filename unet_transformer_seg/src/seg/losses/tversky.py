"""Tversky loss: a Dice loss in which false alarms and misses have different prices."""

import chex
import jax

from seg.losses.overlap import EPSILON, mean_over_present_classes, measure_overlap


def tversky_loss(
    logits_bhwk: jax.Array,
    labels_bhw: jax.Array,
    *,
    class_weights_k: chex.Array | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    per_image: bool = False,
) -> jax.Array:
    """Return one minus the soft Tversky index, averaged over the classes that occur in the truth.

        false_alarm[k] = Σ p[k]·(1 − t[k]),   miss[k] = Σ (1 − p[k])·t[k],   p = softmax(logits)
        tversky[k] = (Σ p[k]·t[k] + EPSILON) / (Σ p[k]·t[k] + alpha·false_alarm[k] + beta·miss[k] + EPSILON)
        loss       = Σ_k weight[k]·(1 − tversky[k]) / Σ_k weight[k],   k over the classes with Σ t[k] > 0

    alpha = beta = 0.5 is Dice, alpha = beta = 1 is the Jaccard index (IoU); beta > alpha finds more of a rare
    class at the cost of more false alarms. Sums and the empty-class rule as in `dice_loss`.

    Args:
        logits_bhwk: float[b, h, w, k].
        labels_bhw: integer[b, h, w], 0…k−1, or 255 where ignored.
        class_weights_k: float[k] ≥ 0, or None for equal weights.
        alpha: price of a false alarm, ≥ 0.
        beta: price of a miss, ≥ 0.
        per_image: take the ratios image by image.

    Returns:
        float32 scalar, 0 (perfect) to 1; 0 when nothing is counted.

    Reference: Salehi et al. 2017, "Tversky loss function for image segmentation using 3D fully convolutional
    deep networks".
    """
    both_gk, predicted_gk, true_gk = measure_overlap(logits_bhwk, labels_bhw, per_image=per_image)
    cost_gk = alpha * (predicted_gk - both_gk) + beta * (true_gk - both_gk)
    tversky_gk = (both_gk + EPSILON) / (both_gk + cost_gk + EPSILON)
    return mean_over_present_classes(1 - tversky_gk, true_gk, class_weights_k)
