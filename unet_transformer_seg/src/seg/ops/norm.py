"""Normalisation with float32 statistics: batch, group and layer norm of features, standardised kernels.

Letters: b batch, h w rows and columns, c channels, g groups, i j rows and columns of a kernel, o output channels.

Features are float[b, h, w, c] of any range, and a result has their shape and dtype. `scale` and `bias`, float32[c], are
learned; ε = `epsilon` is added to the variance.

The variance is computed in two passes, mean((x − mean(x))²). The one-pass form mean(x²) − mean(x)² subtracts two
large numbers when the mean is large against the spread, and can come out negative.
"""

import functools

import chex
import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames=("epsilon",))
def batch_norm_train(x_bhwc, scale_c, bias_c, *, epsilon: float = 1e-5):
    """Return `x` normalised per channel over batch and pixels, with the mean and the biased variance used, float32[c].

    y = (x − mean) / sqrt(var + ε) · scale + bias, var being divided by n = b·h·w

    Reference: Ioffe and Szegedy, 2015, algorithm 1.
    """
    _check_channels(x_bhwc, scale_c, bias_c)
    # A bfloat16 sum over millions of pixels would stop growing: the statistics are float32.
    x32_bhwc = x_bhwc.astype(jnp.float32)
    mean_c = x32_bhwc.mean((0, 1, 2))
    centred_bhwc = x32_bhwc - _per_channel(mean_c)  # two passes, see above
    var_c = jnp.square(centred_bhwc).mean((0, 1, 2))
    y_bhwc = centred_bhwc * _per_channel(scale_c * jax.lax.rsqrt(var_c + epsilon)) + _per_channel(bias_c)
    return y_bhwc.astype(x_bhwc.dtype), mean_c, var_c


@functools.partial(jax.jit, static_argnames=("epsilon",))
def batch_norm_infer(x_bhwc, scale_c, bias_c, mean_c, var_c, *, epsilon: float = 1e-5):
    """Return `x` normalised per channel with the running statistics of training: images do not influence each other.

    y = x · m + (bias − mean · m) with m = scale / sqrt(var + ε)
    """
    _check_channels(x_bhwc, scale_c, bias_c, mean_c, var_c)
    # The statistics are constants here, so the whole norm is one affine map of each channel.
    factor_c = scale_c * jax.lax.rsqrt(var_c + epsilon)
    offset_c = bias_c - mean_c * factor_c
    y_bhwc = x_bhwc.astype(jnp.float32) * _per_channel(factor_c) + _per_channel(offset_c)
    return y_bhwc.astype(x_bhwc.dtype)


@functools.partial(jax.jit, static_argnames=("groups", "epsilon"))
def group_norm(x_bhwc, scale_c, bias_c, *, groups: int, epsilon: float = 1e-5):
    """Return `x` normalised over the pixels and the channels of each of `groups` groups, image by image.

    The same in training and inference. One group is a layer norm over the whole image, c groups an instance norm.

    Reference: Wu and He, 2018.
    """
    _check_channels(x_bhwc, scale_c, bias_c)
    b, h, w, c = x_bhwc.shape
    chex.assert_is_divisible(c, groups)
    # n pixels, g groups of e channels: the statistics of a group run over n and e, never over the batch.
    x_bnge = x_bhwc.astype(jnp.float32).reshape(b, h * w, groups, c // groups)
    centred_bnge = x_bnge - x_bnge.mean((1, 3), keepdims=True)
    var_b1g1 = jnp.square(centred_bnge).mean((1, 3), keepdims=True)
    normal_bhwc = (centred_bnge * jax.lax.rsqrt(var_b1g1 + epsilon)).reshape(b, h, w, c)
    return (normal_bhwc * _per_channel(scale_c) + _per_channel(bias_c)).astype(x_bhwc.dtype)


@functools.partial(jax.jit, static_argnames=("epsilon",))
def layer_norm(x, scale_d, bias_d, *, epsilon: float = 1e-6):
    """Return `x`, float[..., d], normalised over its last axis, each vector by itself.

    Reference: Ba, Kiros and Hinton, 2016.
    """
    chex.assert_shape([scale_d, bias_d], (x.shape[-1],))
    chex.assert_type([x, scale_d, bias_d], float)
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    last_axis = (1,) * (x.ndim - 1) + (-1,)  # explicit, as ranks are never promoted in this package
    return (normal * scale_d.reshape(last_axis) + bias_d.reshape(last_axis)).astype(x.dtype)


@functools.partial(jax.jit, static_argnames=("epsilon",))
def standardise_kernel(kernel_ijco, *, epsilon: float = 1e-5):
    """Return the kernel, float[i, j, c, o], with mean 0 and variance 1 over the inputs of each output channel.

    kernel' = (kernel − mean_ijc) / sqrt(var_ijc + ε), var being divided by n = i·j·c

    An output whose inputs are all equal becomes 0.

    Reference: Qiao et al., 2019, equation 3.
    """
    chex.assert_rank(kernel_ijco, 4)
    chex.assert_type(kernel_ijco, float)
    # The kernel is normalised instead of the features, so nothing depends on the batch.
    kernel32_ijco = kernel_ijco.astype(jnp.float32)
    centred_ijco = kernel32_ijco - kernel32_ijco.mean((0, 1, 2), keepdims=True)
    var_111o = jnp.square(centred_ijco).mean((0, 1, 2), keepdims=True)
    return (centred_ijco * jax.lax.rsqrt(var_111o + epsilon)).astype(kernel_ijco.dtype)


def _check_channels(x_bhwc, *vectors_c):
    chex.assert_rank(x_bhwc, 4)
    chex.assert_type([x_bhwc, *vectors_c], float)
    chex.assert_shape(vectors_c, (x_bhwc.shape[-1],))


def _per_channel(vector_c):
    return vector_c.reshape(1, 1, 1, -1)
