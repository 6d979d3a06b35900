"""Max-pooling in the layout b h w c: b batch, h w pixels, c channels."""

import functools

import chex
import jax
import jax.numpy as jnp


@jax.jit
def max_pool(x_bhwc: chex.Array) -> chex.Array:
    """Return the largest value of each 2×2 block, float[b, ⌊h/2⌋, ⌊w/2⌋, c]; a last odd row or column is dropped.

    The largest of four is written as three comparisons: the maximum over two axes at once has a gradient that
    jax 0.10.2 compiles wrongly on a CPU for some odd sizes. Equal values share the gradient.
    """
    chex.assert_rank(x_bhwc, 4)
    b, h, w, c = x_bhwc.shape
    blocks = x_bhwc[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    # Pairs within a row first, then the two rows of a block.
    upper, lower = (jnp.maximum(blocks[:, :, i, :, 0], blocks[:, :, i, :, 1]) for i in (0, 1))
    return jnp.maximum(upper, lower)


@functools.partial(jax.jit, static_argnames="padding")
def max_pool_3x3(x_bhwc: chex.Array, *, padding: int) -> chex.Array:
    """Return the largest value of each 3×3 neighbourhood, at every second pixel.

    y[b, h, w, c] = max_ij x[b, 2h + i − padding, 2w + j − padding, c], i and j from 0 to 2, the image's pixels only

    With a padding of 0 the neighbourhoods are inside the image, which has at least 3 rows and columns; with 1 they may
    reach over its edge. The result is float[b, ⌊(h + 2·padding − 1)/2⌋, ⌊(w + 2·padding − 1)/2⌋, c]. The largest of
    nine is written as comparisons of two arrays, for the same reason as in `max_pool`.
    """
    chex.assert_rank(x_bhwc, 4)
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    x_bhwc = jnp.pad(x_bhwc, sides, constant_values=-jnp.inf)  # never the largest
    for axis in (1, 2):  # the maximum of a square is that of its columns' maxima
        last = (x_bhwc.shape[axis] - 3) // 2 * 2
        first, second, third = (jax.lax.slice_in_dim(x_bhwc, i, i + last + 1, stride=2, axis=axis) for i in range(3))
        x_bhwc = jnp.maximum(jnp.maximum(first, second), third)
    return x_bhwc
