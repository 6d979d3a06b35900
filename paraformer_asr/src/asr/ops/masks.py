"""Which places of a padded row are real."""

import chex
import jax
import jax.numpy as jnp


def length_mask(lengths_b: jax.Array, size: int) -> jax.Array:
    """Return bool[b, size], True before each length: mask[b, i] = i < lengths[b]."""
    chex.assert_rank(lengths_b, 1)
    return jnp.arange(size)[None, :] < lengths_b[:, None]
