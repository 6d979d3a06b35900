"""Cross entropies, pixel by pixel: softmax (one true class), one-vs-rest (a sigmoid for each class), and focal."""

import chex
import jax
import jax.numpy as jnp

from seg.losses.pixels import count_pixels, inverse_or_zero, weighted_mean, weights_of_true_classes, weights_or_ones


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
    counted_bhw1 = pixels.counted.astype(jnp.float32)
    # No target is exactly 0 or 1, so the logits need not grow for ever.
    smooth_bhwk = (1 - label_smoothing) * pixels.target + counted_bhw1 * (label_smoothing / num_classes)
    cost_bhwk = -smooth_bhwk * jax.nn.log_softmax(pixels.logits) * weights_k.reshape(1, 1, 1, -1)
    # The weights of the true classes, not the number of pixels: a common factor on the weights changes nothing.
    total = jnp.sum(weights_of_true_classes(pixels, class_weights_k))
    return jnp.sum(cost_bhwk) * inverse_or_zero(total)


def bce_loss(logits_bhwk: jax.Array, labels_bhw: jax.Array, *, class_weights_k: chex.Array | None = None) -> jax.Array:
    """Return the one-vs-rest binary cross entropy, averaged over the counted pixels, then over the classes.

        bce[k] = mean_pixels −log sigmoid(z),   z = +logits[k] where k is the true class, −logits[k] elsewhere
        loss   = Σ_k weight[k]·bce[k] / Σ_k weight[k]

    A weight belongs to the class whose logit it is, not to the true class of the pixel. The prediction stays the
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
    # Every class is a question of its own at every pixel, so its weight is that of its logit.
    weights_k = weights_or_ones(class_weights_k, logits_bhwk.shape[-1])
    # −log sigmoid(z) = softplus(−z), which does not overflow.
    z_bhwk = jnp.where(pixels.target > 0, pixels.logits, -pixels.logits)
    counted_bhwk = jnp.broadcast_to(pixels.counted, z_bhwk.shape).astype(jnp.float32)
    bce_k = weighted_mean(jax.nn.softplus(-z_bhwk), counted_bhwk, axis=(0, 1, 2))
    return weighted_mean(bce_k, weights_k)


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
    # log p by log_softmax: exact where p itself would round to 0.
    log_p_bhw = jnp.sum(pixels.target * jax.nn.log_softmax(pixels.logits), axis=-1)
    # Not below float32's resolution: x**gamma has an infinite slope at 0 when gamma < 1.
    miss_bhw = jnp.maximum(-jnp.expm1(log_p_bhw), jnp.finfo(jnp.float32).eps)
    return weighted_mean(-(miss_bhw**gamma) * log_p_bhw, weight_bhw)
