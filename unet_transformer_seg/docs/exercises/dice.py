"""The soft Dice loss, with classes that are absent and pixels that are ignored.

    dice[k] = (2·Σ p[k]·t[k] + ε) / (Σ p[k] + Σ t[k] + ε)
    loss    = mean_k (1 − dice[k])        over the classes with Σ t[k] > 0

p = softmax of the logits over the classes, t = one-hot truth, sums over the pixels of the whole batch whose label is
not 255. A class without a true pixel is left out of the mean. A batch in which no pixel counts has loss 0 and
gradient 0. An ignored pixel changes neither loss nor gradient, even if its logits are infinite.

Letters: b batch, h w rows and columns, k classes.
"""

import jax

IGNORED = 255
EPSILON = 1e-5


def dice_loss(logits_bhwk: jax.Array, labels_bhw: jax.Array) -> jax.Array:
    """Return one minus the soft Dice coefficient, averaged over the classes that occur in the truth.

    Args:
        logits_bhwk: float32[b, h, w, k].
        labels_bhw: int32[b, h, w], 0…k−1, or 255 where ignored.

    Returns:
        float32[], 0 (perfect) to 1.
    """
    raise NotImplementedError
