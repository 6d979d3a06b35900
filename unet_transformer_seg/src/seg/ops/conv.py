"""Convolution, up-convolution, pooling, and moves between space and depth; all in the layout b h w c.

Letters: b batch, h w pixels, c input channels, o output channels, i j rows and columns of the kernel.

On a GPU a convolution is the one that the compiler offers. On a CPU the compiler's gradient of a large kernel runs at
a third of the speed of its matrix products, and so do its convolutions of small maps with many channels; there
`conv2d` writes them as matrix products. docs/performance.md has the measurements.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp

Padding = str | tuple[tuple[int, int], tuple[int, int]]

PIXELS_PER_BAND = 4096
"""Pixels whose patches are laid out at once for the gradient of a kernel: few enough for the cache."""

LARGE_GRADIENT = 10**9
"""From this many operations on, and MIN_CHANNELS, the gradient of a kernel on a CPU is taken band by band."""

MIN_CHANNELS = 32

MANY_WEIGHTS = 8
"""From this many weights per value of the map on, a convolution on a CPU is one matrix product of its patches."""


@functools.partial(jax.jit, static_argnames=("stride", "padding"))
def conv2d(
    x_bhwc: chex.Array,
    kernel_ijco: chex.Array,
    bias_o: chex.Array | None = None,
    *,
    stride: int = 1,
    padding: Padding = "SAME",
) -> chex.Array:
    """Return the cross-correlation of the image with the kernel, plus the bias.

    y[b, h, w, o] = Σ_ijc x[b, h·stride + i − top, w·stride + j − left, c] · kernel[i, j, c, o] + bias[o]

    with zeros outside the image, (top, left) being the padding.

    Args:
        x_bhwc: float[b, h, w, c].
        kernel_ijco: float[i, j, c, o], of the image's dtype.
        bias_o: float[o], or None.
        stride: step between the positions of the kernel, in pixels.
        padding: "SAME" (with stride 1 the result has the image's size), "VALID", or zeros to add
            ((top, bottom), (left, right)).

    Returns:
        y_bhwo: float[b, ⌈h/stride⌉, ⌈w/stride⌉, o] for "SAME".
    """
    chex.assert_rank([x_bhwc, kernel_ijco], 4)
    chex.assert_type([x_bhwc, kernel_ijco], x_bhwc.dtype)
    chex.assert_shape(kernel_ijco, (None, None, x_bhwc.shape[-1], None))
    odd = kernel_ijco.shape[0] % 2 == kernel_ijco.shape[1] % 2 == 1
    if jax.default_backend() == "cpu" and stride == 1 and padding == "SAME" and odd:
        y_bhwo = _same_conv_cpu(x_bhwc, kernel_ijco)
    else:
        y_bhwo = _compiler_conv(x_bhwc, kernel_ijco, stride, padding)
    return y_bhwo if bias_o is None else y_bhwo + bias_o[None, None, None, :]


def _compiler_conv(x_bhwc, kernel_ijco, stride: int = 1, padding: Padding = "SAME"):
    return jax.lax.conv_general_dilated(
        x_bhwc, kernel_ijco, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def _same_conv_cpu(x_bhwc, kernel_ijco):
    """Return the convolution of equal size; its gradients are written out below."""
    rows, columns, c, o = kernel_ijco.shape
    # In an exported program the number of images is open: the choice is made for one.
    values = x_bhwc.size if isinstance(x_bhwc.shape[0], int) else math.prod(x_bhwc.shape[1:])
    if kernel_ijco.size < MANY_WEIGHTS * values and rows * columns > 1:
        return _compiler_conv(x_bhwc, kernel_ijco)
    padded_bhwc = _pad_for(x_bhwc, rows, columns)
    _, h, w, _ = x_bhwc.shape
    patches_bhwf = jnp.concatenate(
        [padded_bhwc[:, i : i + h, j : j + w] for i in range(rows) for j in range(columns)], axis=-1
    )
    return jnp.einsum("bhwf,fo->bhwo", patches_bhwf, kernel_ijco.reshape(rows * columns * c, o))


def _same_conv_forward(x_bhwc, kernel_ijco):
    return _same_conv_cpu(x_bhwc, kernel_ijco), (x_bhwc, kernel_ijco)


def _same_conv_backward(saved, dy_bhwo):
    """Return the gradients: dx is the convolution of dy with the turned kernel, dkernel see below."""
    x_bhwc, kernel_ijco = saved
    dx_bhwc = _same_conv_cpu(dy_bhwo, kernel_ijco[::-1, ::-1].swapaxes(2, 3))
    operations = 2 * dy_bhwo.size * kernel_ijco.size // kernel_ijco.shape[-1]
    if operations >= LARGE_GRADIENT and min(kernel_ijco.shape[2:]) >= MIN_CHANNELS:
        return dx_bhwc, kernel_gradient(x_bhwc, dy_bhwo, kernel_ijco.shape[:2])
    (dkernel_ijco,) = jax.vjp(lambda kernel: _compiler_conv(x_bhwc, kernel), kernel_ijco)[1](dy_bhwo)
    return dx_bhwc, dkernel_ijco


_same_conv_cpu.defvjp(_same_conv_forward, _same_conv_backward)


def kernel_gradient(x_bhwc, dy_bhwo, kernel_size: tuple[int, int]):
    """Return the gradient of a convolution of equal size with respect to its kernel.

    dkernel[i, j, c, o] = Σ_bhw x[b, h + i − top, w + j − left, c] · dy[b, h, w, o]

    A step i down in x is a step i up in dy. So, band by band of a few rows, the columns j are laid side by side in x,
    the rows i in dy, and one matrix product over the pixels of the band gives all i and j at once.

    Args:
        x_bhwc: float[b, h, w, c], the image.
        dy_bhwo: float[b, h, w, o], the gradient of the result.
        kernel_size: rows and columns of the kernel, both odd.

    Returns:
        dkernel_ijco: the dtype of the image; summed in float32.
    """
    (b, h, w, c), o = x_bhwc.shape, dy_bhwo.shape[-1]
    rows, columns = kernel_size
    band = min(max(PIXELS_PER_BAND // (b * w), 1), h)
    num_bands = -(-h // band)
    rest = num_bands * band - h  # rows of zeros: they add nothing
    x_bhwc = jnp.pad(x_bhwc, ((0, 0), (0, rest), (columns // 2, columns // 2), (0, 0)))
    dy_bhwo = jnp.pad(dy_bhwo, ((0, 0), (rows // 2, rows // 2 + rest), (0, 0), (0, 0)))

    def add_band(number, dkernel_gf):
        x_brwc = jax.lax.dynamic_slice_in_dim(x_bhwc, number * band, band, axis=1)
        dy_brwo = jax.lax.dynamic_slice_in_dim(dy_bhwo, number * band, band + rows - 1, axis=1)
        x_brwf = jnp.concatenate([x_brwc[:, :, j : j + w] for j in range(columns)], axis=-1)
        dy_brwg = jnp.concatenate([dy_brwo[:, i : i + band] for i in reversed(range(rows))], axis=-1)
        return dkernel_gf + jnp.einsum("brwg,brwf->gf", dy_brwg, x_brwf, preferred_element_type=jnp.float32)

    start_gf = jnp.zeros((rows * o, columns * c), jnp.float32)
    dkernel_gf = jax.lax.fori_loop(0, num_bands, add_band, start_gf)
    dkernel_iojc = dkernel_gf.reshape(rows, o, columns, c)
    return dkernel_iojc.transpose(0, 2, 3, 1).astype(x_bhwc.dtype)


def _pad_for(x_bhwc, rows: int, columns: int):
    """Return the image with the zeros around it that an odd kernel of this size looks at."""
    return jnp.pad(x_bhwc, ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))


@jax.jit
def up_conv(x_bhwc: chex.Array, kernel_cijo: chex.Array, bias_o: chex.Array | None = None) -> chex.Array:
    """Return the transposed convolution of kernel 2×2 and stride 2: twice the height and width.

    y[b, 2h + i, 2w + j, o] = Σ_c x[b, h, w, c] · kernel[c, i, j, o] + bias[o]

    The blocks do not overlap, so this is a dense layer to four times the channels and a move from depth to space.

    Args:
        x_bhwc: float[b, h, w, c].
        kernel_cijo: float[c, 2, 2, o].
        bias_o: float[o], or None.

    Returns:
        y_bhwo: float[b, 2h, 2w, o].
    """
    chex.assert_rank(x_bhwc, 4)
    b, h, w, c = x_bhwc.shape
    chex.assert_shape(kernel_cijo, (c, 2, 2, None))
    o = kernel_cijo.shape[3]
    blocks_nf = x_bhwc.reshape(b * h * w, c) @ kernel_cijo.reshape(c, 4 * o)
    out_bhwo = depth_to_space(blocks_nf.reshape(b, h, w, 4 * o), 2)
    return out_bhwo if bias_o is None else out_bhwo + bias_o[None, None, None, :]


@jax.jit
def max_pool(x_bhwc: chex.Array) -> chex.Array:
    """Return the largest value of each 2×2 block; a last odd row or column is dropped.

    The largest of four is written as three comparisons: the maximum over two axes at once has a gradient that
    jax 0.10.2 compiles wrongly on a CPU for some odd sizes. Equal values share the gradient.

    Args:
        x_bhwc: float[b, h, w, c].

    Returns:
        y_bhwc: float[b, ⌊h/2⌋, ⌊w/2⌋, c].
    """
    chex.assert_rank(x_bhwc, 4)
    b, h, w, c = x_bhwc.shape
    blocks = x_bhwc[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    upper, lower = (jnp.maximum(blocks[:, :, i, :, 0], blocks[:, :, i, :, 1]) for i in (0, 1))
    return jnp.maximum(upper, lower)


@functools.partial(jax.jit, static_argnames="padding")
def max_pool_3x3(x_bhwc: chex.Array, *, padding: int) -> chex.Array:
    """Return the largest value of each 3×3 neighbourhood, at every second pixel.

    y[b, h, w, c] = max_ij x[b, 2h + i − padding, 2w + j − padding, c], i and j from 0 to 2, the image's pixels only

    The largest of nine is written as comparisons of two arrays, for the reason given at `max_pool`.

    Args:
        x_bhwc: float[b, h, w, c].
        padding: 0 (the neighbourhoods lie inside the image, h and w at least 3) or 1.

    Returns:
        y_bhwc: float[b, ⌊(h + 2·padding − 1)/2⌋, ⌊(w + 2·padding − 1)/2⌋, c].
    """
    chex.assert_rank(x_bhwc, 4)
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    x_bhwc = jnp.pad(x_bhwc, sides, constant_values=-jnp.inf)
    for axis in (1, 2):
        last = (x_bhwc.shape[axis] - 3) // 2 * 2
        first, second, third = (jax.lax.slice_in_dim(x_bhwc, i, i + last + 1, stride=2, axis=axis) for i in range(3))
        x_bhwc = jnp.maximum(jnp.maximum(first, second), third)
    return x_bhwc


@functools.partial(jax.jit, static_argnames="factor")
def space_to_depth(x_bhwc: chex.Array, factor: int) -> chex.Array:
    """Return each factor × factor block of pixels as one pixel of factor² · c channels, ordered (dy, dx, c)."""
    chex.assert_rank(x_bhwc, 4)
    b, h, w, c = x_bhwc.shape
    blocks = x_bhwc.reshape(b, h // factor, factor, w // factor, factor, c)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor * factor * c)


@functools.partial(jax.jit, static_argnames="factor")
def depth_to_space(x_bhwc: chex.Array, factor: int) -> chex.Array:
    """Return the inverse of `space_to_depth`."""
    chex.assert_rank(x_bhwc, 4)
    return _depth_to_space_cpu(x_bhwc, factor) if jax.default_backend() == "cpu" else _to_space(x_bhwc, factor)


def _to_space(x_bhwc, factor: int):
    b, h, w, c = x_bhwc.shape
    o = c // factor**2
    blocks = x_bhwc.reshape(b, h, w, factor, factor, o)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, o)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _depth_to_space_cpu(x_bhwc, factor: int):
    """Return `_to_space`; its gradient is written out below."""
    return _to_space(x_bhwc, factor)


def _depth_to_space_forward(x_bhwc, factor: int):
    return _to_space(x_bhwc, factor), None


def _depth_to_space_backward(factor: int, _, dy_bhwo):
    """Return the gradient, whose rows of a block are laid side by side.

    Without the barrier the compiler would compute dy once for each product that the gradient goes into.
    """
    b, h, w, o = dy_bhwo.shape
    rows_bhiwf = jax.lax.optimization_barrier(dy_bhwo).reshape(b, h // factor, factor, w // factor, factor * o)
    return (jnp.concatenate([rows_bhiwf[:, :, i] for i in range(factor)], axis=-1),)


_depth_to_space_cpu.defvjp(_depth_to_space_forward, _depth_to_space_backward)
