"""Binary cross entropy: each class answers "mine or not" on its own, through a sigmoid."""

import chex
import jax
import jax.numpy as jnp

from seg.losses.pixels import count_pixels, weighted_mean, weights_or_ones


def bce_loss(logits_bhwk: jax.Array, labels_bhw: jax.Array, *, class_weights_k: chex.Array | None = None) -> jax.Array:
    """Return the one-vs-rest binary cross entropy, averaged over the counted pixels, then over the classes.

        bce[k] = mean_pixels −log sigmoid(z),   z = +logits[k] where k is the true class, −logits[k] elsewhere
        loss   = Σ_k weight[k]·bce[k] / Σ_k weight[k]

    The weight goes with the class that answers, not with the class that is true. The prediction stays the
    class of the largest logit.

    Args:
        logits_bhwk: float[b, h, w, k].
        labels_bhw: integer[b, h, w], 0…k−1, or 255 where ignored.
        class_weights_k: float[k] ≥ 0, or None for equal weights.

    Returns:
        float32 scalar; 0 when nothing is counted.

    Reference: `torch.nn.functional.binary_cross_entropy_with_logits` on the one-hot truth.
    """
    pixels = count_pixels(logits_bhwk, labels_bhw)
    weights_k = weights_or_ones(class_weights_k, logits_bhwk.shape[-1])
    z_bhwk = jnp.where(pixels.target > 0, pixels.logits, -pixels.logits)
    counted_bhwk = jnp.broadcast_to(pixels.counted[..., None], z_bhwk.shape).astype(jnp.float32)
    bce_k = weighted_mean(jax.nn.softplus(-z_bhwk), counted_bhwk, axis=(0, 1, 2))
    return weighted_mean(bce_k, weights_k)
