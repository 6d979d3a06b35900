"""Cutting a sequence into overlapping windows, one for each chunk that is decoded, and putting it together again.

Window k holds the frames from k · size − context on: `left` frames that were decoded before, `size` that are decoded
now, `right` of look-ahead. With `delay` = right, a window ends with the newest frame that has been heard:

    frame of row r in window k = k · size + r − left − delay

All functions are pure; the same ones serve a whole utterance (n windows at once) and a stream (n = 1).

Letters: b batch, t frames, n windows, w rows of a window, l rows of a cache, d width, u tokens.
"""

import chex
import jax.numpy as jnp
import numpy as np


def unfold(timeline_bsd, *, num_windows: int, size: int, window: int):
    """Return float[b, n, w, d], the windows that begin every `size` rows; the rows must reach to the last one's end."""
    chex.assert_rank(timeline_bsd, 3)
    if num_windows == 1:
        return timeline_bsd[:, None, :window]
    row_nw = size * np.arange(num_windows)[:, None] + np.arange(window)[None, :]
    return timeline_bsd[:, row_nw]


def earlier_rows(past_bld, kept_bnkd):
    """Return (before_bnld, past_bld): the rows that precede each window, and those that will precede the next one.

    Each window adds k rows to what was kept before; a window sees the last l. For several windows l must be a multiple
    of k, so that all of it can be done with whole blocks.
    """
    chex.assert_rank([past_bld, kept_bnkd], [3, 4])
    (b, n, k, d), num_rows = kept_bnkd.shape, past_bld.shape[1]
    if num_rows == 0:
        return jnp.zeros((b, n, 0, d), kept_bnkd.dtype), past_bld
    timeline_bsd = jnp.concatenate([past_bld, kept_bnkd.reshape(b, n * k, d)], axis=1)
    past_bld = timeline_bsd[:, -num_rows:]
    if n == 1:
        return timeline_bsd[:, None, :num_rows], past_bld
    chex.assert_is_divisible(num_rows, k)
    num_blocks = num_rows // k
    block_bmkd = timeline_bsd.reshape(b, num_blocks + n, k, d)
    # Slices of whole blocks: their gradients are slices, too, and no scatter.
    before_bnld = jnp.concatenate([block_bmkd[:, j : j + n] for j in range(num_blocks)], axis=2)
    return before_bnld, past_bld


def fold(x_bnwd, window_bt, row_bt):
    """Return float[b, t, d]: of each frame the row of the window in which it was decoded."""
    b, n, w, d = x_bnwd.shape
    index_bt1 = (window_bt * w + row_bt)[..., None]
    return jnp.take_along_axis(x_bnwd.reshape(b, n * w, d), index_bt1, axis=1)


def window_mask(window_bu, valid_bnw, *, size: int, look_back: int):
    """Return bool[b, u, n · w]: token u sees its own window, and of `look_back` earlier ones what leaves them.

    Args:
        window_bu: int32[b, u], the window in which each token fired.
        valid_bnw: bool[b, n, w], True for real rows.
        size: rows that leave a window with each step, its first ones.
        look_back: earlier windows; -1: all.
    """
    chex.assert_rank([window_bu, valid_bnw], [2, 3])
    _, n, w = valid_bnw.shape
    distance_bun = window_bu[:, :, None] - jnp.arange(n)[None, None, :]
    seen_bun = (distance_bun > 0) & ((distance_bun <= look_back) | (look_back < 0))
    leaves_w = jnp.arange(w) < size
    mask_bunw = (distance_bun == 0)[..., None] | (seen_bun[..., None] & leaves_w[None, None, None, :])
    return (mask_bunw & valid_bnw[:, None]).reshape(*window_bu.shape, n * w)
