"""Deep supervision: the loss is also taken at the coarser stages of the decoder."""

from collections.abc import Callable, Sequence

import chex
import jax
import numpy as np


def deep_supervision_loss(
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    logits_bhwk: jax.Array,
    auxiliary_logits: Sequence[jax.Array],
    labels_bhw: jax.Array,
) -> jax.Array:
    """Return Σ_i w_i·loss(logits_i, labels_i), w_i = 2^−i / Σ_j 2^−j, i = 0 being the full resolution.

    Args:
        loss: (logits[b, h, w, k], labels[b, h, w]) → scalar, as `build_loss` returns it.
        logits_bhwk: float[b, h, w, k], the prediction at full resolution.
        auxiliary_logits: one float[b, h_i, w_i, k] per coarser stage, the finest first; may be empty.
        labels_bhw: integer[b, h, w]; those of a coarser stage are read off by `labels_at`.

    Returns:
        float32 scalar.

    Reference: Isensee et al. 2021, "nnU-Net", online methods. (nnU-Net gives its coarsest stage the weight 0.)
    """
    chex.assert_rank(logits_bhwk, 4)
    chex.assert_shape(labels_bhw, logits_bhwk.shape[:3])
    losses = [loss(logits_bhwk, labels_bhw)]
    losses += [loss(stage, labels_at(labels_bhw, stage.shape[1:3])) for stage in auxiliary_logits]
    weights = [2.0**-i for i in range(len(losses))]
    return sum(w * value for w, value in zip(weights, losses, strict=True)) / sum(weights)


def labels_at(labels_bhw: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Return the labels under the pixel centres of a coarser grid: integer[b, *size].

    Row i of n looks at row ⌊(i + ½)·h / n⌋ of h, columns likewise. Labels are picked, never averaged, so that
    no class is invented on a border and ignored stays ignored.
    """
    chex.assert_rank(labels_bhw, 3)
    height, width = labels_bhw.shape[1:]
    rows = (2 * np.arange(size[0]) + 1) * height // (2 * size[0])
    columns = (2 * np.arange(size[1]) + 1) * width // (2 * size[1])
    return labels_bhw[:, rows][:, :, columns]
