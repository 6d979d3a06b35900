"""Sums of a loss per pixel, which has a good gradient everywhere, and the Dice loss, which minds small classes."""

import chex
import jax

from seg.losses.bce import bce_loss
from seg.losses.cross_entropy import cross_entropy_loss
from seg.losses.dice import dice_loss


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
    classes are not tied to each other, so pixels wrongly given to a class that is absent from the truth are
    paid for in the first term only.
    """
    bce = bce_loss(logits_bhwk, labels_bhw, class_weights_k=class_weights_k)
    dice = dice_loss(
        logits_bhwk,
        labels_bhw,
        class_weights_k=class_weights_k,
        per_image=per_image,
        probability=jax.nn.sigmoid,
    )
    return bce + dice_weight * dice
