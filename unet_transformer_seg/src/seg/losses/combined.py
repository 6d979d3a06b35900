"""Sums of losses: a loss per pixel plus the Dice loss, and one loss over the stages of the decoder.

A loss per pixel has a useful gradient everywhere; the Dice loss does not neglect small classes.
"""

from collections.abc import Callable, Sequence

import chex
import jax
import numpy as np

from seg.losses.cross_entropy import bce_loss, cross_entropy_loss
from seg.losses.overlap import dice_loss


def ce_dice_loss(
    logits_bhwk: jax.Array,
    labels_bhw: jax.Array,
    *,
    class_weights_k: chex.Array | None = None,
    dice_weight: float = 1.0,
    per_image: bool = False,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Return cross entropy + dice_weight · soft Dice loss, both over the softmax.

    Arguments and result as in `cross_entropy_loss` and `dice_loss`; the class weights serve both terms, the
    label smoothing the cross entropy alone.

    Reference: Isensee et al. 2021, "nnU-Net", online methods (dice_weight = 1).
    """
    # The cross entropy pulls at every pixel from the start, the Dice term weighs a small class like a large one.
    cross_entropy = cross_entropy_loss(
        logits_bhwk, labels_bhw, class_weights_k=class_weights_k, label_smoothing=label_smoothing
    )
    dice = dice_loss(logits_bhwk, labels_bhw, class_weights_k=class_weights_k, per_image=per_image)
    return cross_entropy + dice_weight * dice


def bce_dice_loss(
    logits_bhwk: jax.Array,
    labels_bhw: jax.Array,
    *,
    class_weights_k: chex.Array | None = None,
    dice_weight: float = 1.0,
    per_image: bool = False,
) -> jax.Array:
    """Return one-vs-rest binary cross entropy + dice_weight · soft Dice loss, both over the sigmoid.

    Arguments and result as in `bce_loss` and `dice_loss`; the class weights serve both terms. With sigmoids the
    classes are not tied to each other, so pixels wrongly assigned to a class that is absent from the truth
    cost something in the first term only.
    """
    # The Dice term takes sigmoids as well: both terms then train the same probabilities.
    bce = bce_loss(logits_bhwk, labels_bhw, class_weights_k=class_weights_k)
    dice = dice_loss(
        logits_bhwk,
        labels_bhw,
        class_weights_k=class_weights_k,
        per_image=per_image,
        probability=jax.nn.sigmoid,
    )
    return bce + dice_weight * dice


def deep_supervision_loss(
    loss: Callable[[jax.Array, jax.Array], jax.Array], stages: Sequence[jax.Array], labels_bhw: jax.Array
) -> jax.Array:
    """Return Σ_i w_i·loss(logits_i, labels_i), w_i = 2^−i / Σ_j 2^−j, i = 0 being the full resolution.

    Args:
        loss: (logits[b, h, w, k], labels[b, h, w]) → scalar, as `build_loss` returns it.
        stages: logits float[b, h_i, w_i, k] of each stage, the finest first; stage 0 has the image's resolution.
        labels_bhw: integer[b, h, w], or [b, h, w, k]; a coarser stage is compared with `labels_at` its resolution.

    Returns:
        float32 scalar.

    Reference: Isensee et al. 2021, "nnU-Net", online methods. (nnU-Net sets the weight of its coarsest stage to 0.)
    """
    chex.assert_rank(stages, 4)
    chex.assert_shape(labels_bhw, stages[0].shape[: labels_bhw.ndim])
    # The labels are reduced, not the logits enlarged: a coarse map is judged at what it can resolve.
    losses = [loss(logits_bhwk, labels_at(labels_bhw, logits_bhwk.shape[1:3])) for logits_bhwk in stages]
    # A coarser stage has a quarter of the pixels and blurred borders: it should guide, not dominate.
    weights = [2.0**-i for i in range(len(losses))]
    return sum(w * value for w, value in zip(weights, losses, strict=True)) / sum(weights)


def labels_at(labels_bhw: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Return the labels under the pixel centres of a coarser grid: integer[b, *size], or [b, *size, k].

    Row i of n looks at row ⌊(i + ½)·h / n⌋ of h, columns likewise. Labels are picked, never averaged, so that
    no class is invented on a border and ignored stays ignored.
    """
    chex.assert_rank(labels_bhw, {3, 4})
    height, width = labels_bhw.shape[1:3]
    if size == (height, width):  # the finest stage
        return labels_bhw
    # In whole numbers, so that no rounding of ½ decides which pixel is looked at.
    rows = (2 * np.arange(size[0]) + 1) * height // (2 * size[0])
    columns = (2 * np.arange(size[1]) + 1) * width // (2 * size[1])
    return labels_bhw[:, rows][:, :, columns]
