"""Averages the predictions for several views of an image: scaled, mirrored.

Letters: b batch, h w pixels, c channels, k classes.
"""

from collections.abc import Callable, Sequence

import chex
import jax

from seg.ops.resize import resize_bilinear

Predict = Callable[[jax.Array], jax.Array]
"""image_bhwc → probabilities float32[b, h, w, k], of any size."""


def average_views(predict: Predict, image_bhwc: jax.Array, *, mirror: bool, scales: Sequence[float] = ()) -> jax.Array:
    """Return the mean of the probabilities of all views, each brought back to the image's own place and size.

    Probabilities are averaged, not logits: a view that is certain does not overrule the others.

    Args:
        predict: the network's probabilities.
        image_bhwc: float[b, h, w, c].
        mirror: whether each view is also seen with left and right exchanged.
        scales: factors of both sides; empty: the image as it is.

    Returns:
        float32[b, h, w, k].
    """
    chex.assert_rank(image_bhwc, 4)
    _, h, w, _ = image_bhwc.shape
    total_bhwk = 0.0
    for scale in scales or (1.0,):
        size = max(1, round(h * scale)), max(1, round(w * scale))
        view_bhwc = resize_bilinear(image_bhwc, size=size)
        view_bhwk = _with_mirrored(predict, view_bhwc) if mirror else predict(view_bhwc)
        total_bhwk += resize_bilinear(view_bhwk, size=(h, w))
    return total_bhwk / len(scales or (1.0,))


def _with_mirrored(predict: Predict, image_bhwc: jax.Array) -> jax.Array:
    return (predict(image_bhwc) + mirrored(predict(mirrored(image_bhwc)))) / 2


def mirrored(x_bhwc: jax.Array) -> jax.Array:
    """Return the array with left and right exchanged."""
    return x_bhwc[:, :, ::-1]
