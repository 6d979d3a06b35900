"""From a batch of images to class probabilities: the function that prediction compiles and export writes."""

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax

from seg.config import Config
from seg.contracts import assert_shape
from seg.data.transforms import normalise, to_unit
from seg.labels import build_labels
from seg.ops.views import average_views

Forward = Callable[[Any, jax.Array], jax.Array]
"""(variables, image_bhwc) → probabilities float32[b, h, w, k]."""


def make_forward(model: nn.Module, config: Config) -> Forward:
    """Return `forward(variables, image_bhwc) → probabilities_bhwk`, to be compiled by the caller.

    Args:
        model: `apply(variables, image_bhwc, train) → logits_bhwk`.
        config: channels, precision and normalisation of `data`; `inference.mirror` and `scales` average the
            predictions of several views, `logit_shift` raises or lowers classes.

    Returns:
        a pure function of variables and image_bhwc, [b, h, w, c] of `data.precision`. It returns float32[b, h, w, k],
        which sums to 1 over exclusive classes.
    """
    labels = build_labels(config, config.model.num_classes)

    def forward(variables: Any, image_bhwc: jax.Array) -> jax.Array:
        assert_shape(image_bhwc, f"b,h,w,{config.data.channels}", "image")
        chex.assert_type(image_bhwc, config.data.precision)
        x_bhwc = normalise(to_unit(image_bhwc), *config.data.normalisation)

        def probabilities(x_bhwc: jax.Array) -> jax.Array:
            return labels.probabilities(model.apply(variables, x_bhwc, train=False))

        return average_views(probabilities, x_bhwc, mirror=config.inference.mirror, scales=config.inference.scales)

    return forward


@jax.jit
def weigh(probabilities_bhwk: jax.Array, weights_bh: jax.Array, weights_bw: jax.Array) -> jax.Array:
    """Return probabilities_bhwk · weights_bh · weights_bw, each pixel with the weight of its row and column."""
    chex.assert_equal_shape_prefix([probabilities_bhwk, weights_bh], 2)
    return probabilities_bhwk * weights_bh[:, :, None, None] * weights_bw[:, None, :, None]
