"""The forms that convolution and depth-to-space take on a CPU: the same sums, several times faster there.

XLA's CPU compiler takes a convolution as its definition says, the gradient of a large kernel at a third of the speed of
its matrix products, and is slow for small maps with many channels. All are written as matrix products here.
docs/performance.md has the measurements.

Letters: b batch, h w pixels, c input channels, o output channels, i j rows and columns of the kernel, f values of a
patch.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from seg.ops.winograd import winograd_conv, winograd_kernel_gradient

MANY_WEIGHTS = 8
"""Fewest weights per value of the map for which a convolution is one matrix product of its patches."""

WIDE = 64
"""Fewest channels, on either side, for which a differentiated 3 × 3 convolution takes Winograd's algorithm."""

LARGE_GRADIENT, WIDE_GRADIENT = 10**9, 32
"""Or, for a kernel's gradient: fewest operations, and fewest channels with so many operations."""


@jax.custom_vjp
def same_conv(x_bhwc, kernel_ijco):
    """Return `conv2d` with stride 1 and padding "SAME" for a kernel of odd sides.

    The platform is asked only where the forms differ: XLA optimises less inside of a branch. Winograd's algorithm saves
    time in every call but takes half a second to compile: it is for what is differentiated, and `for_many_calls`.

    Args:
        x_bhwc: float[b, h, w, c].
        kernel_ijco: float[i, j, c, o].

    Returns:
        y_bhwo: float[b, h, w, o].
    """
    return _plain_conv(x_bhwc, kernel_ijco)


def _plain_conv(x_bhwc, kernel_ijco):
    if kernel_ijco.shape[:2] != (1, 1) and not _has_many_weights(x_bhwc, kernel_ijco):
        return _compiler_conv(x_bhwc, kernel_ijco)
    # Decided when the program is lowered, not by the machine that traces it: an exported program may run elsewhere.
    return jax.lax.platform_dependent(x_bhwc, kernel_ijco, cpu=conv_by_patches, default=_compiler_conv)


def _training_conv(x_bhwc, kernel_ijco):
    if not _is_wide(kernel_ijco, WIDE) or _has_many_weights(x_bhwc, kernel_ijco):
        return _plain_conv(x_bhwc, kernel_ijco)
    return jax.lax.platform_dependent(x_bhwc, kernel_ijco, cpu=winograd_conv, default=_compiler_conv)


def _has_many_weights(x_bhwc, kernel_ijco) -> bool:
    # In an exported program the batch size is symbolic: decide as for one image.
    num_values = x_bhwc.size if isinstance(x_bhwc.shape[0], int) else math.prod(x_bhwc.shape[1:])
    return kernel_ijco.size >= MANY_WEIGHTS * num_values


def _is_wide(kernel_ijco, num_channels: int) -> bool:
    rows, columns, c, o = kernel_ijco.shape
    return (rows, columns) == (3, 3) and min(c, o) >= num_channels


def _compiler_conv(x_bhwc, kernel_ijco):
    return jax.lax.conv_general_dilated(x_bhwc, kernel_ijco, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _same_conv_forward(x_bhwc, kernel_ijco):
    return _training_conv(x_bhwc, kernel_ijco), (x_bhwc, kernel_ijco)


def _same_conv_backward(residuals, dy_bhwo):
    x_bhwc, kernel_ijco = residuals
    # The gradient of the image is the convolution of dy with the kernel rotated by 180°.
    dx_bhwc = _training_conv(dy_bhwo, kernel_ijco[::-1, ::-1].swapaxes(2, 3))

    def by_compiler(x_bhwc, dy_bhwo):
        return jax.vjp(lambda kernel: _compiler_conv(x_bhwc, kernel), kernel_ijco)[1](dy_bhwo)[0]

    is_large = 2 * dy_bhwo.size * kernel_ijco.size // kernel_ijco.shape[-1] >= LARGE_GRADIENT
    if not _is_wide(kernel_ijco, WIDE_GRADIENT if is_large else WIDE):
        return dx_bhwc, by_compiler(x_bhwc, dy_bhwo)
    by_winograd = jax.lax.platform_dependent(x_bhwc, dy_bhwo, cpu=winograd_kernel_gradient, default=by_compiler)
    return dx_bhwc, by_winograd


same_conv.defvjp(_same_conv_forward, _same_conv_backward)


def for_many_calls(function: Callable) -> Callable:
    """Return `function(variables, …)` with the convolutions of training, which pay when a program is called often.

    Their form depends on whether they are differentiated. The gradient is not used, so nothing of it is computed.
    """
    return lambda variables, *rest: jax.vjp(lambda variables: function(variables, *rest), variables)[0]


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
