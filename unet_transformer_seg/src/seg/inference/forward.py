"""From a batch of images to class probabilities: what is compiled for prediction, and what is exported."""

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from seg.config import Config
from seg.data.transforms import normalise, to_unit

Forward = Callable[[Any, jax.Array], jax.Array]
"""(variables, image_bhwc uint8) → probabilities float32[b, h, w, k]."""


def make_forward(model: nn.Module, config: Config) -> Forward:
    """Return `forward(variables, image_bhwc) → probabilities_bhwk`, to be compiled by the caller.

    Args:
        model: `apply(variables, image_bhwc, train) → logits_bhwk`.
        config: `data.mean` and `data.std`; `inference.mirror` averages with the answer for the mirrored image.

    Returns:
        a pure function of variables and image_bhwc: uint8[b, h, w, 3], RGB. It returns float32[b, h, w, k], which
        sums to 1 over the classes.
    """

    def probabilities(variables: Any, image_bhwc: jax.Array) -> jax.Array:
        x_bhwc = normalise(to_unit(image_bhwc), config.data.mean, config.data.std)
        return jax.nn.softmax(model.apply(variables, x_bhwc, train=False), axis=-1)

    def forward(variables: Any, image_bhwc: jax.Array) -> jax.Array:
        chex.assert_shape(image_bhwc, (None, None, None, 3))
        chex.assert_type(image_bhwc, jnp.uint8)
        if not config.inference.mirror:
            return probabilities(variables, image_bhwc)
        both_nhwc = jnp.concatenate([image_bhwc, mirror(image_bhwc)])
        plain_bhwk, mirrored_bhwk = jnp.split(probabilities(variables, both_nhwc), 2)
        return (plain_bhwk + mirror(mirrored_bhwk)) / 2

    return forward


def mirror(x_bhwc: jax.Array) -> jax.Array:
    """Return the array with left and right exchanged."""
    return x_bhwc[:, :, ::-1]
