"""Focal loss: cross entropy that turns away from pixels which are already right."""

import chex
import jax
import jax.numpy as jnp

from seg.losses.pixels import count_pixels, weighted_mean, weights_of_true_classes


def focal_loss(
    logits_bhwk: jax.Array,
    labels_bhw: jax.Array,
    *,
    class_weights_k: chex.Array | None = None,
    gamma: float = 2.0,
) -> jax.Array:
    """Return the cross entropy with each pixel scaled by (1 − p)^gamma, p being the softmax of its true class.

        loss = Σ_pixels weight[label]·(1 − p)^gamma·(−log p) / Σ_pixels weight[label]

    gamma = 0 is the cross entropy. At gamma = 2 a pixel with p = 0.9 counts a hundredth of what it did.

    Args:
        logits_bhwk: float[b, h, w, k].
        labels_bhw: integer[b, h, w], 0…k−1, or 255 where ignored.
        class_weights_k: float[k] ≥ 0 (the paper's alpha), or None for equal weights.
        gamma: focusing exponent ≥ 0.

    Returns:
        float32 scalar; 0 when nothing is counted.

    Reference: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5, with the softmax in the
    sigmoid's place and the sum of weights as the normaliser.
    """
    pixels = count_pixels(logits_bhwk, labels_bhw)
    weight_bhw = weights_of_true_classes(pixels, class_weights_k)
    log_p_bhw = jnp.sum(pixels.target * jax.nn.log_softmax(pixels.logits), axis=-1)
    # Not below float32's resolution: x**gamma has an infinite slope at 0 when gamma < 1.
    miss_bhw = jnp.maximum(-jnp.expm1(log_p_bhw), jnp.finfo(jnp.float32).eps)
    return weighted_mean(-(miss_bhw**gamma) * log_p_bhw, weight_bhw)
