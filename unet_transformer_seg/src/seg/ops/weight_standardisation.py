"""Standardised kernels: what a convolution multiplies with when a group norm follows it.

Letters: i j rows and columns of the kernel, c input channels, o output channels.
"""

import functools

import chex
import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames=("epsilon",))
def standardise_kernel(kernel_ijco, *, epsilon: float = 1e-5):
    """Return the kernel with mean 0 and variance 1 over the inputs of each output channel.

    kernel' = (kernel − mean_ijc) / sqrt(var_ijc + ε)

    Args:
        kernel_ijco: float[i, j, c, o], any range.
        epsilon: added to the variance, which is the biased one (division by n = i·j·c).

    Returns:
        kernel_ijco: the shape and dtype of the kernel; computed in float32. An output whose inputs are all equal
        becomes 0.

    Reference: Qiao et al., 2019, equation 3.
    """
    chex.assert_rank(kernel_ijco, 4)
    chex.assert_type(kernel_ijco, float)
    kernel32_ijco = kernel_ijco.astype(jnp.float32)
    centred_ijco = kernel32_ijco - kernel32_ijco.mean((0, 1, 2), keepdims=True)
    var_111o = jnp.square(centred_ijco).mean((0, 1, 2), keepdims=True)
    return (centred_ijco * jax.lax.rsqrt(var_111o + epsilon)).astype(kernel_ijco.dtype)
