"""Depthwise convolution: every channel has a kernel of its own.

Letters: b batch, h w pixels of the map, y x pixels of the result, c channels, i j rows and columns of the kernel.
"""

import functools

import chex
import jax

from seg.ops.conv import Padding


@functools.partial(jax.jit, static_argnames=("stride", "padding"))
def depthwise_conv(
    x_bhwc: chex.Array, kernel_ijc: chex.Array, *, stride: int = 1, padding: Padding = "SAME"
) -> chex.Array:
    """Return the cross-correlation of each channel with its kernel.

    y[b, h, w, c] = Σ_ij x[b, h·stride + i − top, w·stride + j − left, c] · kernel[i, j, c]

    with zeros outside the map, (top, left) being the padding.

    Args:
        x_bhwc: float[b, h, w, c].
        kernel_ijc: float[i, j, c], of the map's dtype.
        stride: step between the positions of the kernel, in pixels.
        padding: as in `conv2d`.

    Returns:
        y_byxc: float[b, ⌈h/stride⌉, ⌈w/stride⌉, c] for "SAME".
    """
    chex.assert_rank([x_bhwc, kernel_ijc], [4, 3])
    chex.assert_type([x_bhwc, kernel_ijc], x_bhwc.dtype)
    chex.assert_shape(kernel_ijc, (None, None, x_bhwc.shape[-1]))
    return _compiler_conv(x_bhwc, kernel_ijc, stride, padding)


def _compiler_conv(x_bhwc, kernel_ijc, stride: int, padding: Padding):
    return jax.lax.conv_general_dilated(
        x_bhwc,
        kernel_ijc[:, :, None],
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x_bhwc.shape[-1],
    )
