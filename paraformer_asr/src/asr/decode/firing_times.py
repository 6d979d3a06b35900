"""Start and end of each token, from the weights of the timestamp predictor.

The weights of an utterance of n tokens are scaled to the sum n + 1 and integrated once more. Row u of the overlap
matrix ends where token u begins: the predictor was trained so that it fires at a token's start. Hence

    place[u] = last step of row u                    u = 0 … n
    start[u] = place[u] − 1.5
    end[u]   = min(place[u + 1] − 1.5, start[u] + 12)

in steps of 20 ms. The last token ends at the end of the sound, or if more than 5 steps follow its last place, halfway
to it. Every row has a last step, so each token has one pair of times. Two rows may end in the same step, where a weight
is above 1: then the later one moves by a step, or at the end of the sound the earlier one does.

Letters: b batch, u token positions, s steps.

Reference: Shi et al., 2023, section 3; the numbers are FunASR's (`ts_prediction_lfr6_standard`).
"""

import chex
import jax
import jax.numpy as jnp

from asr.ops import cif
from asr.ops.masks import length_mask

THRESHOLD = 1 - 1e-4  # a token fires just below 1, so that rounding cannot lose the last one
SHIFT_STEPS = 1.5  # the predictor fires this much late
LONGEST_STEPS = 12
REST_STEPS = 5  # a longer rest behind the last place is silence in its second half


def firing_times(
    alpha_bs: jax.Array, step_lengths_b: jax.Array, spoken_bu: jax.Array, *, step_s: float
) -> tuple[jax.Array, jax.Array]:
    """Return start and end of each token, in seconds from the start of the sound.

    It holds 0 ≤ start[u] ≤ end[u] ≤ start[u + 1], and the last end is at most that of the last step. A position that is
    not spoken lasts no time, at the end of the token before it.

    Args:
        alpha_bs: float32[b, s] ≥ 0, of any scale, 0 in padding.
        step_lengths_b: int32[b], real steps.
        spoken_bu: bool[b, u], True for the tokens that are written: neither special ones nor padding.
        step_s: time from one step to the next.

    Returns:
        start_bu and end_bu, float32[b, u].
    """
    chex.assert_rank([alpha_bs, step_lengths_b, spoken_bu], [2, 1, 2])
    chex.assert_equal_shape_prefix([alpha_bs, step_lengths_b, spoken_bu], 1)
    chex.assert_type([alpha_bs, step_lengths_b, spoken_bu], [jnp.float32, int, bool])
    num_spoken_b = spoken_bu.sum(1, dtype=jnp.int32)
    place_bu = _places(alpha_bs, step_lengths_b, num_spoken_b, spoken_bu.shape[1] + 1) - SHIFT_STEPS

    token_1u = jnp.arange(spoken_bu.shape[1])[None, :]
    start_bu, next_bu, cut_bu = place_bu[:, :-1], place_bu[:, 1:], place_bu[:, :-1] + LONGEST_STEPS
    stop_b1 = step_lengths_b[:, None].astype(jnp.float32)
    final_bu = jnp.where(stop_b1 - next_bu > REST_STEPS, (stop_b1 + next_bu) / 2, stop_b1)
    is_last_bu = token_1u == num_spoken_b[:, None] - 1
    # The last token reaches into the rest only if nothing was cut off before it.
    end_bu = jnp.where(next_bu > cut_bu, cut_bu, jnp.where(is_last_bu, final_bu, next_bu))
    times_bu2 = jnp.clip(jnp.stack([start_bu, end_bu], axis=2), 0.0, stop_b1[..., None]) * step_s

    # From the n-th spoken token back to its position.
    number_bu = jnp.cumsum(spoken_bu, axis=1) - 1
    times_bu2 = jnp.take_along_axis(times_bu2, jnp.maximum(number_bu, 0)[..., None], axis=1)
    end_bu = jnp.where(number_bu >= 0, times_bu2[..., 1], 0.0)
    return jnp.where(spoken_bu, times_bu2[..., 0], end_bu), end_bu


def _places(alpha_bs, step_lengths_b, num_spoken_b, num_rows: int):
    """Return the step in which each row is complete, int32[b, num_rows]; rows behind n + 1 are of no use."""
    valid_bs = length_mask(step_lengths_b, alpha_bs.shape[1])
    cumulative_bs = cif.scaled_cumulative(alpha_bs, valid_bs, num_spoken_b + 1)
    has_weight_bus = cif.align(cumulative_bs / THRESHOLD, num_rows) > 0
    last_bu = alpha_bs.shape[1] - 1 - jnp.argmax(has_weight_bus[:, :, ::-1], axis=2)
    row_1u = jnp.arange(num_rows)[None, :]
    # One row a step: a crowd of rows queues up behind the first, and the queue must fit before the end.
    queued_bu = jax.lax.cummax(last_bu - row_1u, axis=1) + row_1u
    latest_bu = step_lengths_b[:, None] - 1 - num_spoken_b[:, None] + row_1u
    return jnp.maximum(jnp.minimum(queued_bu, latest_bu), 0)
