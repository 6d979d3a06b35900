"""Bilinear resizing of feature maps, equal to torch's `interpolate(mode="bilinear", antialias=False)`.

Letters: b batch, h w rows and columns before, y x rows and columns after, c channels, n m samples of a line.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np


@functools.partial(jax.jit, static_argnames=("size", "align_corners"))
def resize_bilinear(x_bhwc, *, size: tuple[int, int], align_corners: bool = False):
    """Return `x` sampled bilinearly on a grid of `size`: along the rows first, then along the columns.

    Args:
        x_bhwc: float[b, h, w, c], any range.
        size: rows and columns of the result.
        align_corners: True puts the centres of the corner pixels onto each other, False the corners of the image.

    Returns:
        y_byxc: float[b, *size, c], the dtype of `x`, within the range of `x`. Its own size returns `x`
        itself.
    """
    chex.assert_rank(x_bhwc, 4)
    chex.assert_type(x_bhwc, float)
    # Bilinear weights are a product of one for the row and one for the column, so the axes are resampled in turn.
    for axis, new_length in zip((1, 2), size, strict=True):
        if x_bhwc.shape[axis] != new_length:
            x_bhwc = _resample(x_bhwc, axis, new_length, align_corners)
    return x_bhwc


def linear_weights(length: int, new_length: int, align_corners: bool) -> np.ndarray:
    """Return the float32[m, n] matrix that samples a line of n = `length` samples at m = `new_length` points.

    A row has at most two weights, whose sum is 1.
    """
    index_m = np.arange(new_length)
    if align_corners:
        position_m = index_m * ((length - 1) / max(new_length - 1, 1))
    else:  # pixel i covers i … i + 1, its centre is at i + ½; what is left of the first centre repeats it
        position_m = np.maximum((index_m + 0.5) * (length / new_length) - 0.5, 0.0)
    low_m = np.minimum(position_m.astype(int), length - 1)
    high_m = np.minimum(low_m + 1, length - 1)
    share_m = position_m - low_m  # the nearer of two neighbours weighs more; at the last one they coincide
    weights_mn = np.zeros((new_length, length), np.float32)
    np.add.at(weights_mn, (index_m, low_m), 1 - share_m)
    np.add.at(weights_mn, (index_m, high_m), share_m)
    return weights_mn


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _resample(x_bhwc, axis: int, new_length: int, align_corners: bool):
    return _sparse_product(linear_weights(x_bhwc.shape[axis], new_length, align_corners), x_bhwc, axis)


def _resample_forward(x_bhwc, axis: int, new_length: int, align_corners: bool):
    return _resample(x_bhwc, axis, new_length, align_corners), x_bhwc.shape[axis]


def _resample_backward(axis: int, new_length: int, align_corners: bool, length: int, gradient_bhwc):
    # The gradient of W·x is Wᵀ·g: gathers again, where automatic differentiation would scatter and add.
    return (_sparse_product(linear_weights(length, new_length, align_corners).T, gradient_bhwc, axis),)


_resample.defvjp(_resample_forward, _resample_backward)


def _sparse_product(weights_mn: np.ndarray, x_bhwc, axis: int):
    """Return the product along `axis` with a matrix of few values a row, gathering one of them at a time.

    On 2 CPU cores, 128² → 256² with 64 channels and batch 2, this takes 11 ms (with the gradient 15) where dense
    matrix products take 86 (71), and it is exact on GPUs that round the factors of a matrix product.
    """
    # The t columns of the values that are not 0 in each row; rows with fewer get zeros, which add nothing.
    columns_mt = np.argsort(weights_mn == 0, axis=1, kind="stable")[:, : (weights_mn != 0).sum(1).max()]
    values_mt = np.take_along_axis(weights_mn, columns_mt, 1)
    total_bhwc = 0.0
    for column_m, value_m in zip(columns_mt.T, values_mt.T, strict=True):
        along_axis = jnp.asarray(np.expand_dims(value_m, [i for i in range(4) if i != axis]), x_bhwc.dtype)
        total_bhwc += jnp.take(x_bhwc, column_m, axis) * along_axis
    return total_bhwc
