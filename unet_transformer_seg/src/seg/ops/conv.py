"""Convolution, up-convolution, and moves between space and depth; all in the layout b h w c.

Letters: b batch, h w pixels, c input channels, o output channels, i j rows and columns of the kernel.
"""

import functools

import chex
import jax

from seg.ops import cpu_conv

Padding = str | tuple[tuple[int, int], tuple[int, int]]
Stride = int | tuple[int, int]  # one number for both sides, or rows and columns


@functools.partial(jax.jit, static_argnames=("stride", "padding"))
def conv2d(
    x_bhwc: chex.Array,
    kernel_ijco: chex.Array,
    bias_o: chex.Array | None = None,
    *,
    stride: Stride = 1,
    padding: Padding = "SAME",
) -> chex.Array:
    """Return the cross-correlation of the image with the kernel, plus the bias.

    y[b, h, w, o] = Σ_ijc x[b, h·stride + i − top, w·stride + j − left, c] · kernel[i, j, c, o] + bias[o]

    with zeros outside the image, (top, left) being the padding.

    Args:
        x_bhwc: float[b, h, w, c].
        kernel_ijco: float[i, j, c, o], of the image's dtype.
        bias_o: float[o], or None.
        stride: step between the positions of the kernel, in pixels; one number, or rows and columns.
        padding: "SAME" (with stride 1 the result has the image's size), "VALID", or zeros to add
            ((top, bottom), (left, right)).

    Returns:
        y_bhwo: float[b, ⌈h/stride⌉, ⌈w/stride⌉, o] for "SAME".
    """
    chex.assert_rank([x_bhwc, kernel_ijco], 4)
    chex.assert_type([x_bhwc, kernel_ijco], x_bhwc.dtype)
    chex.assert_shape(kernel_ijco, (None, None, x_bhwc.shape[-1], None))
    odd = kernel_ijco.shape[0] % 2 == kernel_ijco.shape[1] % 2 == 1
    strides = (stride, stride) if isinstance(stride, int) else stride
    # The same sum in both cases. The first has a form that is also fast on a CPU, gradients included.
    if strides == (1, 1) and padding == "SAME" and odd:
        y_bhwo = cpu_conv.same_conv(x_bhwc, kernel_ijco)
    else:
        layout = ("NHWC", "HWIO", "NHWC")
        y_bhwo = jax.lax.conv_general_dilated(x_bhwc, kernel_ijco, strides, padding, dimension_numbers=layout)
    return y_bhwo if bias_o is None else y_bhwo + bias_o[None, None, None, :]


@jax.jit
def up_conv(x_bhwc: chex.Array, kernel_cijo: chex.Array, bias_o: chex.Array | None = None) -> chex.Array:
    """Return the transposed convolution whose stride is the size of its kernel, r × s: r times the height, s the width.

    y[b, r·h + i, s·w + j, o] = Σ_c x[b, h, w, c] · kernel[c, i, j, o] + bias[o]

    The blocks do not overlap, so this is a dense layer to r·s times the channels and a move from depth to space.

    Args:
        x_bhwc: float[b, h, w, c].
        kernel_cijo: float[c, r, s, o].
        bias_o: float[o], or None.

    Returns:
        y_bhwo: float[b, r·h, s·w, o].
    """
    chex.assert_rank([x_bhwc, kernel_cijo], 4)
    b, h, w, c = x_bhwc.shape
    _, r, s, o = kernel_cijo.shape  # (r, s, o) become the channels of a pixel, which are then unfolded
    # One matrix product, so its gradients are matrix products too: no scatter, no dilated convolution.
    blocks_nf = x_bhwc.reshape(b * h * w, c) @ kernel_cijo.reshape(c, r * s * o)
    if r == s:
        out_bhwo = depth_to_space(blocks_nf.reshape(b, h, w, r * s * o), r)
    else:
        out_bhwo = blocks_nf.reshape(b, h, w, r, s, o).transpose(0, 1, 3, 2, 4, 5).reshape(b, h * r, w * s, o)
    return out_bhwo if bias_o is None else out_bhwo + bias_o[None, None, None, :]


@functools.partial(jax.jit, static_argnames="factor")
def space_to_depth(x_bhwc: chex.Array, factor: int) -> chex.Array:
    """Return each factor × factor block of pixels as one pixel of factor² · c channels, ordered (dy, dx, c)."""
    chex.assert_rank(x_bhwc, 4)
    b, h, w, c = x_bhwc.shape
    # Nothing is lost: the pixels of a block only move into its channels.
    blocks = x_bhwc.reshape(b, h // factor, factor, w // factor, factor, c)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor * factor * c)


@functools.partial(jax.jit, static_argnames="factor")
def depth_to_space(x_bhwc: chex.Array, factor: int) -> chex.Array:
    """Return the inverse of `space_to_depth`."""
    chex.assert_rank(x_bhwc, 4)

    def to_space(x_bhwc):
        b, h, w, c = x_bhwc.shape
        blocks = x_bhwc.reshape(b, h, w, factor, factor, c // factor**2)
        return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c // factor**2)

    # The move alone is fast everywhere; its gradient has a form of its own on a CPU.
    return cpu_conv.with_gradient_by_rows(to_space, factor)(x_bhwc)
