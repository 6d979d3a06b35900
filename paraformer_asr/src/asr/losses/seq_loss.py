"""Losses of the parallel decoder: cross entropy of the tokens, and the error of their number.

Letters: b batch, u token positions, v vocabulary. All losses are sums over the batch; `asr.losses` divides them by
the number of tokens, so that the parts of a split batch add up to the loss of the whole.
"""

import math

import chex
import jax
import jax.numpy as jnp

from asr.ops.masks import length_mask


def masked_cross_entropy(
    logits_buv: jax.Array, tokens_bu: jax.Array, token_lengths_b: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """Return the divergence of the output distribution from the smoothed truth, summed over the real tokens.

        q[v] = log_softmax(logits)[v]
        p[v] = 1 − label_smoothing for the true token, label_smoothing / (vocabulary − 1) for every other one
        loss = Σ_real tokens Σ_v p[v]·(log p[v] − q[v])

    It is 0, not the entropy of p, where the output is exactly p; without smoothing it is −q[true token]. The `where`
    on the logits comes before anything is computed from them: what padding holds, NaN included, reaches neither
    value nor gradient. A token outside the vocabulary makes the loss NaN, which training reports with the step.

    Args:
        logits_buv: float[b, u, v], second pass of the decoder; accumulated in float32.
        tokens_bu: int32[b, u], 0…v−1, with the end of sentence where the decoder emits it; padding may hold anything.
        token_lengths_b: int32[b], real tokens of each row, 0 for a padding row.
        label_smoothing: share of the target given to the other tokens, 0 ≤ label_smoothing < 1.

    Reference: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", section 7; the form
    with v − 1 others and the divergence is that of ESPnet and FunASR (`LabelSmoothingLoss`).
    """
    chex.assert_rank([logits_buv, tokens_bu, token_lengths_b], [3, 2, 1])
    chex.assert_equal_shape_prefix([logits_buv, tokens_bu], 2)
    chex.assert_equal_shape_prefix([logits_buv, token_lengths_b], 1)
    chex.assert_type([logits_buv, tokens_bu, token_lengths_b], [float, int, int])
    num_positions, vocab_size = logits_buv.shape[1:]
    valid_bu = length_mask(token_lengths_b, num_positions)
    logits_buv = jnp.where(valid_bu[..., None], logits_buv.astype(jnp.float32), 0.0)
    nearest_bu = jnp.clip(tokens_bu, 0, vocab_size - 1)
    # log_softmax at the true token alone: no array of log probabilities over the vocabulary.
    normaliser_bu = jax.nn.logsumexp(logits_buv, axis=-1)
    log_true_bu = jnp.take_along_axis(logits_buv, nearest_bu[..., None], axis=-1)[..., 0] - normaliser_bu
    cost_bu = -log_true_bu
    if label_smoothing:
        # Σ_v log q[v] over the other tokens, without making an array of the vocabulary's size for the target.
        others = vocab_size - 1
        log_others_bu = jnp.sum(logits_buv, axis=-1) - vocab_size * normaliser_bu - log_true_bu
        cost_bu = -(1 - label_smoothing) * log_true_bu - label_smoothing / others * log_others_bu
        # Minus the entropy of the target, a constant: with it the minimum is 0.
        cost_bu += (1 - label_smoothing) * math.log(1 - label_smoothing)
        cost_bu += label_smoothing * math.log(label_smoothing / others)
    # A token that had to be clipped is none of the vocabulary.
    cost_bu = jnp.where(nearest_bu == tokens_bu, cost_bu, jnp.nan)
    return jnp.sum(jnp.where(valid_bu, cost_bu, 0.0))


def quantity_loss(token_count_b: jax.Array, token_lengths_b: jax.Array) -> jax.Array:
    """Return Σ_b abs(token_lengths[b] − token_count[b]): by how many tokens the predictor's weights miss the truth.

    A row that is exactly right adds 0 and no gradient, and so does a padding row (no frames, so no weights, and no
    tokens). A row of real sound without tokens does count: its weights should be 0.

    Args:
        token_count_b: float[b], sum of the predictor's weights, not scaled, tail not counted, in tokens.
        token_lengths_b: int32[b], true number of tokens, with the end of sentence where the decoder emits it.

    Reference: Dong and Xu 2020, "CIF: Continuous Integrate-and-Fire for End-to-End Speech Recognition".
    """
    chex.assert_rank([token_count_b, token_lengths_b], 1)
    chex.assert_equal_shape([token_count_b, token_lengths_b])
    chex.assert_type([token_count_b, token_lengths_b], [float, int])
    missed_b = token_lengths_b.astype(jnp.float32) - token_count_b.astype(jnp.float32)
    return jnp.sum(jnp.where(missed_b == 0, 0.0, jnp.abs(missed_b)))  # jax's slope of |x| at 0 is 1
