"""Minimum word error rate training: probability moves from the hypotheses with many errors to those with few.

Letters: b batch, u token positions, v vocabulary, n hypotheses of an utterance.
"""

import chex
import jax
import jax.numpy as jnp

from asr.ops.edit_distance import edit_distance, pack_tokens
from asr.ops.masks import length_mask

LAST_SPECIAL_TOKEN = 2
"""The tokens 0, 1, 2 (blank, start, end) are no text: they are left out before errors are counted."""


def mwer_loss(
    logits_buv: jax.Array,
    tokens_bu: jax.Array,
    token_lengths_b: jax.Array,
    key: jax.Array,
    *,
    num_candidates: int,
    mask_share: float,
) -> jax.Array:
    """Return how many errors the hypotheses have on average when weighed by their probability, and not evenly.

        P[n]      = Π_u softmax(logits[u])[hypothesis[n, u]]
        weight[n] = P[n] / Σ_m P[m]
        loss      = Σ_b Σ_n weight[n]·(errors[n] − mean_m errors[m])

    The hypotheses are `sample_hypotheses`'. The gradient goes through the weights alone; the errors are counts. The
    mean changes the value, not the gradient, as the weights add up to 1. The errors are those of tokens: which of
    them make a word is known to the tokenizer only.

    Args:
        logits_buv: float[b, u, v], second pass of the decoder; the sums run in float32. Padding is anything.
        tokens_bu: int32[b, u], true tokens, with or without the end of sentence.
        token_lengths_b: int32[b], real tokens of each row.
        key: random key, for the hypotheses.
        num_candidates: n ≥ 2, hypotheses of an utterance, the best one counted.
        mask_share: share of the positions that the others change.

    Returns:
        float32 scalar; below 0 where the better hypotheses are the more probable ones.

    Reference: Gao et al. 2022, "Paraformer" (the negative samples of its MWER training); Prabhavalkar et al. 2018,
    "Minimum Word Error Rate Training for Attention-based Sequence-to-Sequence Models".
    """
    chex.assert_rank([logits_buv, tokens_bu, token_lengths_b], [3, 2, 1])
    chex.assert_equal_shape_prefix([logits_buv, tokens_bu], 2)
    chex.assert_type([logits_buv, tokens_bu, token_lengths_b], [float, int, int])
    valid_bu = length_mask(token_lengths_b, tokens_bu.shape[1])
    logits_buv = jnp.where(valid_bu[..., None], logits_buv.astype(jnp.float32), 0.0)
    said_nbu = sample_hypotheses(logits_buv, token_lengths_b, key, num_candidates, mask_share)
    # Counts have no gradient; the weights below carry it.
    errors_nb = count_errors(said_nbu, tokens_bu, token_lengths_b)
    # In whole numbers: equal hypotheses give 0 exactly, and no gradient.
    excess_nb = (num_candidates * errors_nb - jnp.sum(errors_nb, axis=0, keepdims=True)).astype(jnp.float32)
    normaliser_bu = jax.nn.logsumexp(logits_buv, axis=-1)
    said_bun = said_nbu.transpose(1, 2, 0)
    log_token_bun = jnp.take_along_axis(logits_buv, said_bun, axis=2) - normaliser_bu[..., None]
    # Padding adds the same to all hypotheses of an utterance; the softmax takes it out again.
    weight_nb = jax.nn.softmax(jnp.sum(log_token_bun, axis=1), axis=1).T
    return jnp.sum(weight_nb * excess_nb) / num_candidates


def sample_hypotheses(
    logits_buv: jax.Array, token_lengths_b: jax.Array, key: jax.Array, num_candidates: int, mask_share: float
) -> jax.Array:
    """Return the best hypothesis of each utterance and random variations of it: int32[n, b, u].

    Number 0 takes the best token everywhere. In each of the others the best token is masked at ⌈mask_share·length⌉
    random positions, and the second best steps in. No gradient flows.
    """
    two_best_bu2 = jax.lax.top_k(jax.lax.stop_gradient(logits_buv), 2)[1].astype(jnp.int32)
    batch, num_positions = logits_buv.shape[:2]
    draw_nbu = jax.random.uniform(key, (num_candidates, batch, num_positions))
    valid_bu = length_mask(token_lengths_b, num_positions)
    draw_nbu = jnp.where(valid_bu[None], draw_nbu, 2.0)  # padding ranks last
    # 0.6 · 25 is a little above 15 in float32, and must not round up to 16.
    num_masked_b = jnp.ceil(mask_share * token_lengths_b.astype(jnp.float32) - 1e-4).astype(jnp.int32)
    num_masked_nb = jnp.where(jnp.arange(num_candidates)[:, None] == 0, 0, num_masked_b[None])
    ranked_nbu = jnp.pad(jnp.sort(draw_nbu, axis=2), ((0, 0), (0, 0), (0, 1)), constant_values=2.0)
    masked_nbu = draw_nbu < jnp.take_along_axis(ranked_nbu, num_masked_nb[..., None], axis=2)
    return jnp.where(masked_nbu, two_best_bu2[None, ..., 1], two_best_bu2[None, ..., 0])


def count_errors(said_nbu: jax.Array, tokens_bu: jax.Array, token_lengths_b: jax.Array) -> jax.Array:
    """Return the edit distance of each hypothesis to the truth, in tokens of text: int32[n, b]."""
    num_candidates, batch, num_positions = said_nbu.shape
    valid_bu = length_mask(token_lengths_b, num_positions)
    said_bu = said_nbu.reshape(-1, num_positions)  # the rows of all hypotheses, one under the other

    def text(rows_bu):
        repeated_bu = jnp.tile(valid_bu, (len(rows_bu) // batch, 1))
        return pack_tokens(rows_bu, repeated_bu & (rows_bu > LAST_SPECIAL_TOKEN))

    truth_bu, truth_lengths_b = (jnp.tile(x, (num_candidates, *[1] * (x.ndim - 1))) for x in text(tokens_bu))
    return edit_distance(truth_bu, truth_lengths_b, *text(said_bu)).reshape(num_candidates, batch)
