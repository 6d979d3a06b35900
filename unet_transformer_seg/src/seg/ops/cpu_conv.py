"""The forms that convolution and depth-to-space take on a CPU: the same sums, several times faster there.

XLA's CPU compiler takes the gradient of a large kernel at a third of the speed of its matrix products, and is slow for
small maps with many channels. Both are written as matrix products here. docs/performance.md has the measurements.

Letters: b batch, h w pixels, c input channels, o output channels, i j rows and columns of the kernel, r rows of a band,
f values of a patch, g output gradients under a kernel's rows.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

PIXELS_PER_BAND = 4096
"""Pixels whose patches are laid out at once for a kernel's gradient: few enough for the cache."""

LARGE_GRADIENT = 10**9  # fewest operations for which a kernel's gradient is taken band by band
MIN_CHANNELS = 32  # fewest channels, on either side, for which a kernel's gradient is taken band by band

MANY_WEIGHTS = 8
"""Fewest weights per value of the map for which a convolution is one matrix product of its patches."""


@jax.custom_vjp
def same_conv(x_bhwc, kernel_ijco):
    """Return `conv2d` with stride 1 and padding "SAME" for a kernel of odd sides.

    The platform is asked only where the forms differ: XLA optimises less inside of a branch.

    Args:
        x_bhwc: float[b, h, w, c].
        kernel_ijco: float[i, j, c, o].

    Returns:
        y_bhwo: float[b, h, w, o].
    """
    rows, columns = kernel_ijco.shape[:2]
    # In an exported program the batch size is symbolic: decide as for one image.
    num_values = x_bhwc.size if isinstance(x_bhwc.shape[0], int) else math.prod(x_bhwc.shape[1:])
    if kernel_ijco.size < MANY_WEIGHTS * num_values and rows * columns > 1:
        return _compiler_conv(x_bhwc, kernel_ijco)
    # Decided when the program is lowered, not by the machine that traces it: an exported program may run elsewhere.
    return jax.lax.platform_dependent(x_bhwc, kernel_ijco, cpu=conv_by_patches, default=_compiler_conv)


def _compiler_conv(x_bhwc, kernel_ijco):
    return jax.lax.conv_general_dilated(x_bhwc, kernel_ijco, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _same_conv_forward(x_bhwc, kernel_ijco):
    return same_conv(x_bhwc, kernel_ijco), (x_bhwc, kernel_ijco)


def _same_conv_backward(residuals, dy_bhwo):
    x_bhwc, kernel_ijco = residuals
    # The gradient of the image is the convolution of dy with the kernel rotated by 180°.
    dx_bhwc = same_conv(dy_bhwo, kernel_ijco[::-1, ::-1].swapaxes(2, 3))

    def by_compiler(x_bhwc, dy_bhwo):
        return jax.vjp(lambda kernel: _compiler_conv(x_bhwc, kernel), kernel_ijco)[1](dy_bhwo)[0]

    def by_bands(x_bhwc, dy_bhwo):
        return kernel_gradient(x_bhwc, dy_bhwo, kernel_ijco.shape[:2])

    operations = 2 * dy_bhwo.size * kernel_ijco.size // kernel_ijco.shape[-1]
    if operations < LARGE_GRADIENT or min(kernel_ijco.shape[2:]) < MIN_CHANNELS:
        return dx_bhwc, by_compiler(x_bhwc, dy_bhwo)
    return dx_bhwc, jax.lax.platform_dependent(x_bhwc, dy_bhwo, cpu=by_bands, default=by_compiler)


same_conv.defvjp(_same_conv_forward, _same_conv_backward)


def conv_by_patches(x_bhwc, kernel_ijco):
    """Return `same_conv` as one matrix product: the patch under each position of the kernel times all weights."""
    rows, columns, c, o = kernel_ijco.shape
    _, h, w, _ = x_bhwc.shape
    padded_bhwc = jnp.pad(x_bhwc, ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
    # im2col: a copy of the map for each weight of the kernel, then one product that BLAS runs at full speed.
    patches_bhwf = jnp.concatenate(
        [padded_bhwc[:, i : i + h, j : j + w] for i in range(rows) for j in range(columns)], axis=-1
    )
    return jnp.einsum("bhwf,fo->bhwo", patches_bhwf, kernel_ijco.reshape(rows * columns * c, o))


def kernel_gradient(x_bhwc, dy_bhwo, kernel_size: tuple[int, int]):
    """Return the gradient of `same_conv` with respect to its kernel, band by band.

    dkernel[i, j, c, o] = Σ_bhw x[b, h + i − top, w + j − left, c] · dy[b, h, w, o]

    A shift i down in x is a shift i up in dy. So the columns j are laid side by side in x, the rows i in dy, and one
    matrix product over the pixels of a band of rows gives all i and j at once.

    Args:
        x_bhwc: float[b, h, w, c], the image.
        dy_bhwo: float[b, h, w, o], the gradient of the result.
        kernel_size: rows and columns of the kernel, both odd.

    Returns:
        dkernel_ijco: the dtype of the image; summed in float32.
    """
    (b, h, w, c), o = x_bhwc.shape, dy_bhwo.shape[-1]
    rows, columns = kernel_size
    band = min(max(PIXELS_PER_BAND // (b * w), 1), h)  # rows
    num_bands = -(-h // band)
    rest = num_bands * band - h  # rows of zeros to fill the last band: they add nothing
    x_bhwc = jnp.pad(x_bhwc, ((0, 0), (0, rest), (columns // 2, columns // 2), (0, 0)))
    dy_bhwo = jnp.pad(dy_bhwo, ((0, 0), (rows // 2, rows // 2 + rest), (0, 0), (0, 0)))

    def add_band(number, dkernel_gf):
        x_brwc = jax.lax.dynamic_slice_in_dim(x_bhwc, number * band, band, axis=1)
        dy_brwo = jax.lax.dynamic_slice_in_dim(dy_bhwo, number * band, band + rows - 1, axis=1)
        x_brwf = jnp.concatenate([x_brwc[:, :, j : j + w] for j in range(columns)], axis=-1)
        dy_brwg = jnp.concatenate([dy_brwo[:, i : i + band] for i in reversed(range(rows))], axis=-1)
        return dkernel_gf + jnp.einsum("brwg,brwf->gf", dy_brwg, x_brwf, preferred_element_type=jnp.float32)

    # Summed in float32 over the bands, whatever the dtype of the map.
    start_gf = jnp.zeros((rows * o, columns * c), jnp.float32)
    dkernel_gf = jax.lax.fori_loop(0, num_bands, add_band, start_gf)
    dkernel_iojc = dkernel_gf.reshape(rows, o, columns, c)
    return dkernel_iojc.transpose(0, 2, 3, 1).astype(x_bhwc.dtype)


def with_gradient_by_rows(to_space: Callable, factor: int) -> Callable:
    """Return `to_space`, which moves depth to space; on a CPU its gradient lays the rows of a block side by side."""
    function = jax.custom_vjp(to_space)

    def forward(x_bhwc):
        return to_space(x_bhwc), x_bhwc.shape

    def by_rows(dy_bhwo):
        b, h, w, o = dy_bhwo.shape
        # Without the barrier the compiler would compute dy again for each product that the gradient enters.
        rows_bhiwf = jax.lax.optimization_barrier(dy_bhwo).reshape(b, h // factor, factor, w // factor, factor * o)
        return jnp.concatenate([rows_bhiwf[:, :, i] for i in range(factor)], axis=-1)

    def backward(shape, dy_bhwo):
        by_compiler = jax.linear_transpose(to_space, jax.ShapeDtypeStruct(shape, dy_bhwo.dtype))
        return (jax.lax.platform_dependent(dy_bhwo, cpu=by_rows, default=lambda dy: by_compiler(dy)[0]),)

    function.defvjp(forward, backward)
    return function
