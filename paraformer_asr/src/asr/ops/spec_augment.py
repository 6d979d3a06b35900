"""SpecAugment: random bands of filters and stretches of time to hide from the model.

These functions return which values are hidden; the caller replaces them.

Letters: b batch, t frames, m mel filters, r masks.

Reference: Park et al. 2019, SpecAugment, arXiv:1904.08779, section 2 (without time warping).
"""

import functools

import chex
import jax
import jax.numpy as jnp

_SIZES = ("num_frames", "num_mels", "num_mel_masks", "max_mel_width", "num_time_masks", "max_time_width")
_SIZES += ("max_time_share",)


@functools.partial(jax.jit, static_argnames=_SIZES)
def spec_augment_masks(
    key,
    lengths_b,
    *,
    num_frames: int,
    num_mels: int,
    num_mel_masks: int = 2,
    max_mel_width: int = 27,
    num_time_masks: int = 2,
    max_time_width: int = 100,
    max_time_share: float = 1.0,
):
    """Return which frames and which filters SpecAugment hides; a value is hidden if either is.

    Every mask of every utterance is drawn independently: its width uniformly from 0 … its maximum, then its start
    uniformly from where it fits. A stretch of time lies inside its utterance and is never longer than `max_time_share`
    of it, rounded down; masks may overlap.

    Args:
        key: random key; the result is a pure function of it.
        lengths_b: int32[b], frames of each utterance, 0 … num_frames.
        num_frames: number t of frames in the batch.
        num_mels: number m of filters.
        num_mel_masks: bands of filters in each utterance, each over all its frames.
        max_mel_width: widest band; more than `num_mels` means `num_mels`.
        num_time_masks: stretches of time in each utterance, each over all filters.
        max_time_width: longest stretch, in frames.
        max_time_share: longest stretch as a share of the utterance.

    Returns:
        hidden_bt: bool[b, t], True = all filters of the frame are hidden; False behind an utterance's end.
        hidden_bm: bool[b, m], True = the filter is hidden in all frames.
    """
    chex.assert_rank(lengths_b, 1)
    chex.assert_type(lengths_b, jnp.int32)
    # Bands hide a formant, stretches a sound: the model must use what is left.
    mel_key, time_key = jax.random.split(key)
    size_b = jnp.full_like(lengths_b, num_mels)
    hidden_bm = draw_stretches(mel_key, size_b, jnp.minimum(size_b, max_mel_width), num_mel_masks, num_mels)
    # At most a share of the utterance, or a short one could vanish as a whole.
    share_b = jnp.floor(lengths_b.astype(jnp.float32) * max_time_share).astype(jnp.int32)
    width_b = jnp.minimum(jnp.minimum(share_b, max_time_width), lengths_b)
    hidden_bt = draw_stretches(time_key, lengths_b, width_b, num_time_masks, num_frames)
    return hidden_bt, hidden_bm


def draw_stretches(key, sizes_b, max_widths_b, num_stretches: int, length: int):
    """Return bool[b, length], True inside any of `num_stretches` random stretches of each line.

    Those of line b lie in its first sizes[b] places, and are at most max_widths[b] ≤ sizes[b] places wide.
    """
    width_key, start_key = jax.random.split(key)
    shape = (sizes_b.shape[0], num_stretches)
    # First the width, then a start from where it fits: nothing is cut off at the end.
    width_br = jax.random.randint(width_key, shape, 0, max_widths_b[:, None] + 1)
    start_br = jax.random.randint(start_key, shape, 0, sizes_b[:, None] - width_br + 1)
    place_11l = jnp.arange(length)[None, None, :]
    inside_brl = (place_11l >= start_br[:, :, None]) & (place_11l < (start_br + width_br)[:, :, None])
    # Masks may overlap.
    return inside_brl.any(axis=1)
