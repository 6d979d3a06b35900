"""Softmax cross entropy: exactly one class is true at each pixel."""

import chex
import jax
import jax.numpy as jnp

from seg.losses.pixels import count_pixels, inverse_or_zero, weights_of_true_classes, weights_or_ones


def cross_entropy_loss(
    logits_bhwk: jax.Array,
    labels_bhw: jax.Array,
    *,
    class_weights_k: chex.Array | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Return the mean negative log-likelihood of the true classes, each pixel weighed by its true class.

        smooth[k] = (1 − label_smoothing)·target[k] + label_smoothing / K
        loss = −Σ_pixels Σ_k weight[k]·smooth[k]·log_softmax(logits)[k] / Σ_pixels weight[label]

    The sums run over the counted pixels of the whole batch. It follows that the loss of a batch is the mean of
    the losses of its parts weighed by Σ weight[label] of each part (not their plain mean), and that a common
    factor on the weights changes nothing.

    Args:
        logits_bhwk: float[b, h, w, k].
        labels_bhw: integer[b, h, w], 0…k−1, or 255 where ignored.
        class_weights_k: float[k] ≥ 0, or None for equal weights.
        label_smoothing: share of the target that is spread evenly over all classes, 0 to 1.

    Returns:
        float32 scalar; 0 when nothing is counted.

    Reference: the rules are those of `torch.nn.functional.cross_entropy`; smoothing: Szegedy et al. 2016,
    "Rethinking the Inception Architecture for Computer Vision", section 7.
    """
    pixels = count_pixels(logits_bhwk, labels_bhw)
    num_classes = logits_bhwk.shape[-1]
    weights_k = weights_or_ones(class_weights_k, num_classes)
    counted_bhw1 = pixels.counted[..., None].astype(jnp.float32)
    smooth_bhwk = (1 - label_smoothing) * pixels.target + counted_bhw1 * (label_smoothing / num_classes)
    cost_bhwk = -smooth_bhwk * jax.nn.log_softmax(pixels.logits) * weights_k.reshape(1, 1, 1, -1)
    total = jnp.sum(weights_of_true_classes(pixels, class_weights_k))
    return jnp.sum(cost_bhwk) * inverse_or_zero(total)
