"""Losses: pure functions `(logits_bhwk, labels_bhw, *, class_weights_k=None, …) → float32 scalar`.

Those of overlapping classes take labels_bhwk of 0 and 1; `seg.losses.multilabel` has them.

All share the rules of `losses.pixels`: float32 inside, label 255 is ignored, a batch without counted pixels
gives 0. To add one:

1. write the function, starting from `count_pixels` (and `weighted_mean`, or
   `measure_overlap` for ratios of sums), which brings the rules with it;
2. add its name to `LossConfig.name` in `config/schema.py`, and a `case` to `build_loss` or `build_multilabel_loss`
   below;
3. add a line to `LOSSES` in `tests/test_losses.py`: the common rules are then tested for it.

docs/losses_and_metrics.md shows one in full.
"""

from collections.abc import Callable
from functools import partial

import chex
import jax
import numpy as np

from seg.config import LossConfig
from seg.errors import UserError
from seg.losses.class_weights import build_class_weights, given_weights, median_frequency_weights
from seg.losses.combined import bce_dice_loss, ce_dice_loss, deep_supervision_loss
from seg.losses.cross_entropy import bce_loss, cross_entropy_loss, focal_loss
from seg.losses.multilabel import multilabel_bce_dice_loss, multilabel_bce_loss, multilabel_focal_loss
from seg.losses.overlap import dice_loss, tversky_loss

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""(logits float[b, h, w, k], labels integer[b, h, w], or [b, h, w, k] if classes overlap) → float32 scalar."""


def build_loss(config: LossConfig, class_weights_k: chex.Array | None = None) -> Loss:
    """Return the loss that `config.name` asks for, with its settings and class weights bound.

    `class_weights_k` is float[k] as `build_class_weights` returns it, or None.
    """
    weights_k = None if class_weights_k is None else np.asarray(class_weights_k, np.float32)
    # Bound here, so that the train step sees a function of logits and labels alone.
    dice_settings = {"dice_weight": config.dice_weight, "per_image": config.dice_per_image}
    match config.name:
        case "cross_entropy":
            loss = partial(cross_entropy_loss, label_smoothing=config.label_smoothing)
        case "bce":
            loss = bce_loss
        case "dice":
            loss = partial(dice_loss, per_image=config.dice_per_image)
        # A loss per pixel and an overlap: the first learns everywhere, the second does not neglect small classes.
        case "ce_dice":
            loss = partial(ce_dice_loss, label_smoothing=config.label_smoothing, **dice_settings)
        case "bce_dice":
            loss = partial(bce_dice_loss, **dice_settings)
        case "focal":
            loss = partial(focal_loss, gamma=config.focal_gamma)
        case "tversky":
            loss = partial(
                tversky_loss,
                alpha=config.tversky_alpha,
                beta=config.tversky_beta,
                per_image=config.dice_per_image,
            )
        case _:
            raise _no_loss(config)
    return partial(loss, class_weights_k=weights_k)


def build_multilabel_loss(config: LossConfig, class_weights_k: chex.Array | None = None) -> Loss:
    """Return the same as `build_loss` for overlapping classes: each class has a sigmoid and a cross entropy of two."""
    weights_k = None if class_weights_k is None else np.asarray(class_weights_k, np.float32)
    sigmoid_settings = {"per_image": config.dice_per_image, "probability": jax.nn.sigmoid}
    match config.name:
        # The cross entropy of a yes and a no is the binary one, so the default `ce_dice` works here as well.
        case "cross_entropy" | "bce":
            loss = multilabel_bce_loss
        case "ce_dice" | "bce_dice":
            loss = partial(multilabel_bce_dice_loss, dice_weight=config.dice_weight, per_image=config.dice_per_image)
        case "focal":
            loss = partial(multilabel_focal_loss, gamma=config.focal_gamma)
        case "dice":
            loss = partial(dice_loss, **sigmoid_settings)
        case "tversky":
            loss = partial(tversky_loss, alpha=config.tversky_alpha, beta=config.tversky_beta, **sigmoid_settings)
        case _:
            raise _no_loss(config)
    return partial(loss, class_weights_k=weights_k)


def _no_loss(config: LossConfig) -> Exception:
    """Return the error to raise for a loss that is not built here."""
    if config.name == "custom":
        return UserError(
            "loss.name: custom: the loss comes from outside the package, so it works from Python only; pass it: "
            "seg.train(..., loss=...)"
        )
    return ValueError(f"loss.name {config.name!r} has no case in seg.losses.build_loss or build_multilabel_loss")


__all__ = [
    "Loss",
    "bce_dice_loss",
    "bce_loss",
    "build_class_weights",
    "build_loss",
    "build_multilabel_loss",
    "ce_dice_loss",
    "cross_entropy_loss",
    "deep_supervision_loss",
    "dice_loss",
    "focal_loss",
    "given_weights",
    "median_frequency_weights",
    "multilabel_bce_dice_loss",
    "multilabel_bce_loss",
    "multilabel_focal_loss",
    "tversky_loss",
]
