"""3 × 3 convolution with 16 products where the definition takes 36, by Winograd's algorithm F(2 × 2, 3 × 3).

In one dimension, two neighbouring results of a filter with three taps g take six products of the values d:

    y₀ = d₀g₀ + d₁g₁ + d₂g₂,    y₁ = d₁g₀ + d₂g₁ + d₃g₂

Four are enough. Three linear maps say which:

    values   Bᵀd = (d₀ − d₂, d₁ + d₂, d₂ − d₁, d₁ − d₃)
    taps     Gg  = (g₀, ½(g₀ + g₁ + g₂), ½(g₀ − g₁ + g₂), g₂)
    results  Aᵀm = (m₀ + m₁ + m₂, m₁ − m₂ − m₃)    of the products m = Gg · Bᵀd

In two dimensions each map is applied to rows and to columns. A tile of 4 × 4 values gives 2 × 2 results:

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

and with channels each of the 16 products is a matrix product over all tiles. It is exact but for rounding,
which is no worse than the definition's (docs/performance.md).

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1.

Letters: b batch, h w pixels, y x rows and columns of tiles, n all tiles, c input channels, o output channels, i j rows
and columns of the kernel or of a product, p q those of a tile's results.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

PIXELS_PER_BAND = 4096
"""Pixels whose tiles are laid out at once. They hold four values for each pixel: few enough for the cache."""


def winograd_conv(x_bhwc: jax.Array, kernel_ijco: jax.Array) -> jax.Array:
    """Return the convolution with stride 1 and padding "SAME", computed in float32.

    Args:
        x_bhwc: float[b, h, w, c].
        kernel_ijco: float[3, 3, c, o].

    Returns:
        y_bhwo: float[b, h, w, o], of the image's dtype.
    """
    (b, h, w, _), o = x_bhwc.shape, kernel_ijco.shape[-1]
    # Without the barrier the compiler would transform the kernel again in each band.
    taps_co = jax.lax.optimization_barrier(_rows_and_columns(_taps, kernel_ijco.astype(jnp.float32)))
    rows, num_bands = _split_rows(b, h, w)
    padded_bhwc = _pad(x_bhwc, rows * num_bands)

    def add_band(number, y_bhwo):
        tiles_nc = _tiles(padded_bhwc, number * rows, rows)
        products_no = [[tiles_nc[i][j] @ taps_co[i][j] for j in range(4)] for i in range(4)]
        results_no = _rows_and_columns(_results, products_no)
        results_byxo = [[y_no.reshape(b, rows // 2, -1, o) for y_no in row] for row in results_no]
        band_bypxqo = jnp.stack([jnp.stack(row, axis=3) for row in results_byxo], axis=2)
        band_bhwo = band_bypxqo.reshape(b, rows, -1, o).astype(x_bhwc.dtype)
        return jax.lax.dynamic_update_slice_in_dim(y_bhwo, band_bhwo, number * rows, axis=1)

    empty_bhwo = jnp.zeros((b, num_bands * rows, w + w % 2, o), x_bhwc.dtype)
    return jax.lax.fori_loop(0, num_bands, add_band, empty_bhwo)[:, :h, :w]


def winograd_kernel_gradient(x_bhwc: jax.Array, dy_bhwo: jax.Array) -> jax.Array:
    """Return the gradient with respect to the kernel: each map transposed, in reverse order.

    dg = Gᵀ [Σ_tiles (Bᵀ d B) ⊗ (A dY Aᵀ)] G: again 16 matrix products, summed over the bands in float32.

    Args:
        x_bhwc: float[b, h, w, c], the image.
        dy_bhwo: float[b, h, w, o], the gradient of the result.

    Returns:
        dkernel_ijco: float[3, 3, c, o], of the image's dtype.
    """
    (b, h, w, c), o = x_bhwc.shape, dy_bhwo.shape[-1]
    rows, num_bands = _split_rows(2 * b, h, w)  # as for twice the batch: the tiles of both maps are laid out
    padded_bhwc = _pad(x_bhwc, rows * num_bands)
    dy_bhwo = jnp.pad(dy_bhwo, ((0, 0), (0, rows * num_bands - h), (0, w % 2), (0, 0)))

    def add_band(number, dtaps_co):
        tiles_nc = _tiles(padded_bhwc, number * rows, rows)
        band_bhwo = jax.lax.dynamic_slice_in_dim(dy_bhwo, number * rows, rows, axis=1).astype(jnp.float32)
        dy_bypxqo = jax.lax.optimization_barrier(band_bhwo).reshape(b, rows // 2, 2, -1, 2, o)
        dresults_no = [[dy_bypxqo[:, :, p, :, q].reshape(-1, o) for q in range(2)] for p in range(2)]
        dproducts_no = _rows_and_columns(_results_transposed, dresults_no)
        return [[dtaps_co[i][j] + tiles_nc[i][j].T @ dproducts_no[i][j] for j in range(4)] for i in range(4)]

    zeros_co = [[jnp.zeros((c, o), jnp.float32)] * 4] * 4
    dkernel_co = _rows_and_columns(_taps_transposed, jax.lax.fori_loop(0, num_bands, add_band, zeros_co))
    return jnp.stack([jnp.stack(row) for row in dkernel_co]).astype(x_bhwc.dtype)


def _values(d: Sequence) -> list:
    """Return Bᵀd."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _taps(g: Sequence) -> list:
    """Return Gg."""
    return [g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]]


def _taps_transposed(u: Sequence) -> list:
    """Return Gᵀu."""
    return [u[0] + (u[1] + u[2]) / 2, (u[1] - u[2]) / 2, (u[1] + u[2]) / 2 + u[3]]


def _results(m: Sequence) -> list:
    """Return Aᵀm."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _results_transposed(y: Sequence) -> list:
    """Return Ay."""
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _rows_and_columns(linear_map: Callable[[Sequence], list], grid: Any) -> list[list]:
    """Return the map applied to each row of a grid of arrays and then to each column."""
    columns = zip(*(linear_map(row) for row in grid), strict=True)
    return [list(row) for row in zip(*(linear_map(column) for column in columns), strict=True)]


def _tiles(padded_bhwc: jax.Array, top: Any, rows: int) -> list[list]:
    """Return Bᵀ d B of all tiles of a band: a grid of 4 × 4 matrices float32[n, c].

    A barrier keeps the compiler from computing what it is after once more for each of its uses.
    """
    band_bhwc = jax.lax.dynamic_slice_in_dim(padded_bhwc, top, rows + 2, axis=1).astype(jnp.float32)
    lines = _values(_shifts(jax.lax.optimization_barrier(band_bhwc), axis=1))
    grid = [_values(_shifts(line_bhwc, axis=2)) for line_bhwc in jax.lax.optimization_barrier(lines)]
    return [[values.reshape(-1, values.shape[-1]) for values in row] for row in grid]


def _shifts(x_bhwc: jax.Array, axis: int) -> list:
    """Return what each of the four values of a tile is, for all tiles along an axis of even length."""
    shape = x_bhwc.shape
    pairs = x_bhwc.reshape(*shape[:axis], -1, 2, *shape[axis + 1 :])
    num_tiles = shape[axis] // 2 - 1  # a tile is two pairs, and the next begins with the second
    return [
        jax.lax.index_in_dim(jax.lax.slice_in_dim(pairs, s, s + num_tiles, axis=axis), n, axis + 1, keepdims=False)
        for s in range(2)
        for n in range(2)
    ]


def _split_rows(b: int, h: int, w: int) -> tuple[int, int]:
    """Return the rows of a band, an even number, and how many bands hold all rows."""
    num_bands = -(-h // max(PIXELS_PER_BAND // (b * w), 2))
    return 2 * -(-h // (2 * num_bands)), num_bands


def _pad(x_bhwc: jax.Array, num_rows: int) -> jax.Array:
    """Return the image with a frame of zeros, filled up to this number of rows and an even number of columns."""
    _, h, w, _ = x_bhwc.shape
    return jnp.pad(x_bhwc, ((0, 0), (1, 1 + num_rows - h), (1, 1 + w % 2), (0, 0)))
