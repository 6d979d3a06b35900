"""Layer norm with float32 statistics.

Letters: d model width.
"""

import functools

import chex
import jax
import jax.numpy as jnp

EPSILON = 1e-12  # of the published Paraformer


@functools.partial(jax.jit, static_argnames=("epsilon",))
def layer_norm(x, scale_d, bias_d, *, epsilon: float = EPSILON):
    """Return `x` normalised over its last axis, each vector by itself.

    y = (x − mean) / sqrt(mean((x − mean)²) + ε) · scale + bias

    Args:
        x: float[..., d], any range and rank.
        scale_d: float32[d], learned factor.
        bias_d: float32[d], learned offset.
        epsilon: added to the variance. The published Paraformer has 1e-12: a vector of equal values gives the bias.

    Reference: Ba, Kiros and Hinton, 2016.
    """
    chex.assert_shape([scale_d, bias_d], (x.shape[-1],))
    chex.assert_type([x, scale_d, bias_d], float)
    # In bfloat16 the mean of hundreds of squares would lose the variance.
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    # Each vector by itself: an utterance has the same values in any batch.
    last_axis = (1,) * (x.ndim - 1) + (-1,)
    return (normal * scale_d.reshape(last_axis) + bias_d.reshape(last_axis)).astype(x.dtype)
