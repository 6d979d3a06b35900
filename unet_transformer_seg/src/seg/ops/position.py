"""Spatial positions for the tokens of a feature map.

Letters: h w rows and columns of tokens, d model width.
"""

import functools

import chex
import jax
import jax.numpy as jnp

from seg.ops.resize import resize_bilinear


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def sincos_2d(height: int, width: int, dim: int):
    """Return a fixed code of each grid position: half of its channels tell the row, half the column.

    With n = d/4 and ω_i = 10000^(−i/n):
    code[r, c] = [sin(r·ω), cos(r·ω), sin(c·ω), cos(c·ω)], four runs of n channels.

    Args:
        height: rows of the grid.
        width: columns of the grid.
        dim: channels d, a multiple of 4.

    Returns:
        position_hwd: float32[h, w, d], in −1…1.

    Reference: Vaswani et al., 2017, section 3.5, applied to both axes.
    """
    chex.assert_is_divisible(dim, 4)
    quarter = dim // 4
    # Wavelengths from 2π to 20,000π pixels: the fast ones tell neighbours apart, the slow ones the ends of the grid.
    frequency_n = jnp.exp(-jnp.log(10000.0) * jnp.arange(quarter, dtype=jnp.float32) / quarter)
    rows_hn = jnp.outer(jnp.arange(height, dtype=jnp.float32), frequency_n)
    columns_wn = jnp.outer(jnp.arange(width, dtype=jnp.float32), frequency_n)
    rows_hd = jnp.concatenate([jnp.sin(rows_hn), jnp.cos(rows_hn)], -1)
    columns_wd = jnp.concatenate([jnp.sin(columns_wn), jnp.cos(columns_wn)], -1)
    # A row's code is the same in all columns, and the other way round.
    grid = (height, width, 2 * quarter)
    return jnp.concatenate([jnp.broadcast_to(rows_hd[:, None], grid), jnp.broadcast_to(columns_wd[None], grid)], -1)


@functools.partial(jax.jit, static_argnames=("size",))
def interpolate_positions(table_hwd, *, size: tuple[int, int]):
    """Return a learned table of positions, float[h, w, d], resampled to another grid: any image size can be read.

    Bilinear, the corners of the two grids aligned as areas (align_corners False); its own size returns the table.
    """
    chex.assert_rank(table_hwd, 3)
    # Resampled, not cut off: what was learned for the middle of an image stays in the middle.
    return resize_bilinear(table_hwd[None], size=size)[0]
