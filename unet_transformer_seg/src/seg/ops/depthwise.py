"""Depthwise convolution: every channel has a kernel of its own.

XLA's CPU compiler has a slow form of it, and an even slower gradient: 5 × 5 on 2 × 32² × 240 values takes 20 ms, with
gradients 120. On a CPU it is written here as sums of shifted products: 1 ms, with gradients 3.

Letters: b batch, h w pixels of the map, y x pixels of the result, c channels, i j rows and columns of the kernel, t
neighbouring pixels that are summed at once.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from seg.ops.conv import Padding

TERMS = 16
"""Fewest products added in one step of the kernel's gradient: with fewer, reading the sum takes longer than adding."""


class Geometry(NamedTuple):
    """Where the kernel stands."""

    stride: int
    rows: tuple[int, int]  # zeros above and below the map
    columns: tuple[int, int]  # zeros left and right of it


@functools.partial(jax.jit, static_argnames=("stride", "padding"))
def depthwise_conv(
    x_bhwc: chex.Array, kernel_ijc: chex.Array, *, stride: int = 1, padding: Padding = "SAME"
) -> chex.Array:
    """Return the cross-correlation of each channel with its kernel.

    out[b, y, x, c] = Σ_ij map[b, y·stride + i − top, x·stride + j − left, c] · kernel[i, j, c]

    with zeros outside the map, (top, left) being the padding.

    Args:
        x_bhwc: float[b, h, w, c], the map.
        kernel_ijc: float[i, j, c], of the map's dtype.
        stride: step between the positions of the kernel, in pixels.
        padding: as in `conv2d`.

    Returns:
        out_byxc: float[b, ⌈h/stride⌉, ⌈w/stride⌉, c] for "SAME"; summed in float32.
    """
    chex.assert_rank([x_bhwc, kernel_ijc], [4, 3])
    chex.assert_type([x_bhwc, kernel_ijc], x_bhwc.dtype)
    chex.assert_shape(kernel_ijc, (None, None, x_bhwc.shape[-1]))
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x_bhwc.shape[1:3], kernel_ijc.shape[:2], (stride, stride), padding)
    return _conv(x_bhwc, kernel_ijc, Geometry(stride, *map(tuple, padding)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x_bhwc, kernel_ijc, geometry: Geometry):
    # Decided when the program is lowered: the same trace serves every platform.
    return jax.lax.platform_dependent(
        x_bhwc,
        kernel_ijc,
        cpu=functools.partial(shifted_products, geometry=geometry),
        default=functools.partial(_compiler_conv, geometry=geometry),
    )


def _conv_forward(x_bhwc, kernel_ijc, geometry: Geometry):
    return _conv(x_bhwc, kernel_ijc, geometry), (x_bhwc, kernel_ijc)


def _conv_backward(geometry: Geometry, residuals, dout_byxc):
    def by_compiler(x_bhwc, kernel_ijc, dout_byxc):
        return jax.vjp(functools.partial(_compiler_conv, geometry=geometry), x_bhwc, kernel_ijc)[1](dout_byxc)

    def by_shifts(x_bhwc, kernel_ijc, dout_byxc):
        dx_bhwc = map_gradient(kernel_ijc, dout_byxc, x_bhwc.shape, geometry)
        return dx_bhwc, kernel_gradient(x_bhwc, dout_byxc, kernel_ijc.shape, geometry)

    return jax.lax.platform_dependent(*residuals, dout_byxc, cpu=by_shifts, default=by_compiler)


_conv.defvjp(_conv_forward, _conv_backward)


def _compiler_conv(x_bhwc, kernel_ijc, geometry: Geometry):
    return jax.lax.conv_general_dilated(
        x_bhwc,
        kernel_ijc[:, :, None],
        (geometry.stride,) * 2,
        (geometry.rows, geometry.columns),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x_bhwc.shape[-1],
    )


def shifted_products(x_bhwc, kernel_ijc, geometry: Geometry):
    """Return the equation of `depthwise_conv` term by term: the map under each weight of the kernel, times the weight.

    The terms are as large as the result and have the channels side by side, so a processor adds several at once.
    """
    stride, (rows, columns, _) = geometry.stride, kernel_ijc.shape
    padded_bhwc = jnp.pad(x_bhwc, ((0, 0), geometry.rows, geometry.columns, (0, 0)))
    height, width = padded_bhwc.shape[1] - rows + 1, padded_bhwc.shape[2] - columns + 1
    total_byxc = 0.0
    for i in range(rows):
        for j in range(columns):
            shifted_byxc = padded_bhwc[:, i : i + height : stride, j : j + width : stride].astype(jnp.float32)
            total_byxc += shifted_byxc * kernel_ijc[i, j].reshape(1, 1, 1, -1).astype(jnp.float32)
    return total_byxc.astype(x_bhwc.dtype)


def map_gradient(kernel_ijc, dout_byxc, shape: tuple[int, ...], geometry: Geometry):
    """Return the gradient with respect to the map of `shape`: `dout` convolved with the kernel rotated by 180°.

    With a stride, zeros stand between the values of `dout`, where the kernel did not stop.
    """
    stride, sides = geometry.stride, []
    for before, n, size, count in zip(
        (geometry.rows[0], geometry.columns[0]), shape[1:3], kernel_ijc.shape[:2], dout_byxc.shape[1:3], strict=True
    ):
        low = size - 1 - before
        sides.append((low, n + size - 1 - low - ((count - 1) * stride + 1), stride - 1))
    dilated_bhwc = jax.lax.pad(dout_byxc, jnp.zeros((), dout_byxc.dtype), ((0, 0, 0), *sides, (0, 0, 0)))
    return shifted_products(dilated_bhwc, kernel_ijc[::-1, ::-1], Geometry(1, (0, 0), (0, 0)))


def kernel_gradient(x_bhwc, dout_byxc, kernel_shape: tuple[int, int, int], geometry: Geometry):
    """Return the gradient with respect to the kernel, summed in float32.

    dkernel[i, j, c] = Σ_byx map[b, y·stride + i − top, x·stride + j − left, c] · dout[b, y, x, c]

    The sum is as small as the kernel, so it stays in the cache while a few neighbouring pixels at a time are added.
    """
    stride, (rows, columns, c) = geometry.stride, kernel_shape
    b, height, width, _ = dout_byxc.shape
    count = min(max(TERMS // b, 1), width)  # of the pixels t
    steps = -(-width // count)  # to the end of a row
    rest = steps * count - width  # pixels of zeros behind a row, which add nothing
    left, right = geometry.columns
    padded_bhwc = jnp.pad(x_bhwc, ((0, 0), geometry.rows, (left, right + rest * stride), (0, 0)))
    dout_byxc = jnp.pad(dout_byxc, ((0, 0), (0, 0), (0, rest), (0, 0)))
    under = (b, rows, columns + (count - 1) * stride, c)  # of the map, below all positions of the kernel in a step

    def add_pixels(step, dkernel_ijc):
        y, x = step // steps, step % steps * count
        under_bijc = jax.lax.dynamic_slice(padded_bhwc, (0, y * stride, x * stride, 0), under).astype(jnp.float32)
        dout_btc = jax.lax.dynamic_slice(dout_byxc, (0, y, x, 0), (b, 1, count, c))[:, 0].astype(jnp.float32)
        for image in range(b):
            for t in range(count):
                patch_ijc = under_bijc[image, :, t * stride : t * stride + columns]
                dkernel_ijc += patch_ijc * dout_btc[image, t].reshape(1, 1, c)
        return dkernel_ijc

    dkernel_ijc = jax.lax.fori_loop(0, height * steps, add_pixels, jnp.zeros(kernel_shape, jnp.float32))
    return dkernel_ijc.astype(x_bhwc.dtype)
