"""The number of errors between sequences of tokens, counted on the device.

Letters: b batch, u positions of the reference, w positions of the hypothesis.
"""

import chex
import jax
import jax.numpy as jnp


@jax.jit
def edit_distance(
    reference_bu: jax.Array, reference_lengths_b: jax.Array, hypothesis_bw: jax.Array, hypothesis_lengths_b: jax.Array
) -> jax.Array:
    """Return the fewest substitutions, deletions and insertions that turn each reference into its hypothesis.

    Row w of the table holds, for the first w tokens of the hypothesis, the distance to the first u of the reference:

        row'[u] = min(row[u−1] + (reference[u] ≠ hypothesis[w]),  row[u] + 1,  row'[u−1] + 1)

    One scan goes over the hypothesis. The last term refers to the row itself; but a chain of such steps from k to u
    costs u − k, so row'[u] = u + min_{k ≤ u} (best[k] − k) with `best` the minimum of the first two: a running minimum
    over the whole row at once.

    Args:
        reference_bu: int32[b, u], true tokens; padding is anything.
        reference_lengths_b: int32[b], real tokens of each.
        hypothesis_bw: int32[b, w], recognised tokens; padding may hold anything.
        hypothesis_lengths_b: int32[b], real tokens of each.

    Reference: Wagner and Fischer 1974, "The String-to-String Correction Problem".
    """
    chex.assert_rank([reference_bu, reference_lengths_b, hypothesis_bw, hypothesis_lengths_b], [2, 1, 2, 1])
    chex.assert_equal_shape_prefix([reference_bu, reference_lengths_b, hypothesis_bw, hypothesis_lengths_b], 1)
    chex.assert_type([reference_bu, reference_lengths_b, hypothesis_bw, hypothesis_lengths_b], int)
    (batch, num_reference), num_hypothesis = reference_bu.shape, hypothesis_bw.shape[1]
    position_1s = jnp.arange(num_reference + 1, dtype=jnp.int32)[None, :]  # s = u + 1: none, one, … of the reference

    def step(row_bs, column):
        token_b, valid_b = column
        substituted_bu = row_bs[:, :-1] + (reference_bu != token_b[:, None]).astype(jnp.int32)
        # Two of the three steps come from the row before; the third, along the row, is the running minimum.
        best_bs = (row_bs + 1).at[:, 1:].min(substituted_bu)
        new_bs = position_1s + jax.lax.cummin(best_bs - position_1s, axis=1)
        # Behind its end a hypothesis costs nothing more.
        return jnp.where(valid_b[:, None], new_bs, row_bs), None

    valid_wb = jnp.arange(num_hypothesis)[:, None] < hypothesis_lengths_b[None, :]
    first_bs = jnp.broadcast_to(position_1s, (batch, num_reference + 1))
    row_bs, _ = jax.lax.scan(step, first_bs, (hypothesis_bw.T, valid_wb))
    return jnp.take_along_axis(row_bs, reference_lengths_b[:, None], axis=1)[:, 0]


@jax.jit
def pack_tokens(tokens_bu: jax.Array, kept_bu: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the kept tokens of each row, moved together to its front in their order, and their number.

    Returns:
        int32[b, u], 0 behind the kept tokens, and int32[b].
    """
    chex.assert_rank(tokens_bu, 2)
    chex.assert_equal_shape([tokens_bu, kept_bu])
    chex.assert_type([tokens_bu, kept_bu], [int, bool])
    lengths_b = jnp.sum(kept_bu, axis=1, dtype=jnp.int32)
    num_positions = tokens_bu.shape[1]
    place_bu = jnp.where(kept_bu, jnp.cumsum(kept_bu, axis=1) - 1, num_positions)  # one place more for what goes
    packed_bu = jnp.zeros((len(tokens_bu), num_positions + 1), tokens_bu.dtype)
    packed_bu = packed_bu.at[jnp.arange(len(tokens_bu))[:, None], place_bu].set(tokens_bu)
    return packed_bu[:, :num_positions], lengths_b
