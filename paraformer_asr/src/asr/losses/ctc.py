"""Connectionist temporal classification: the probability that the frames spell the tokens, over all alignments.

Letters: b batch, t frames, u token positions, v vocabulary.
"""

import chex
import jax
import jax.numpy as jnp

from asr.ops.masks import length_mask

LOG_ZERO = -1e30
"""Stands for log 0. It is finite: −∞ − (−∞) would be NaN, in the gradient too."""


def ctc_loss(
    logits_btv: jax.Array, frame_lengths_b: jax.Array, tokens_bu: jax.Array, token_lengths_b: jax.Array, blank: int = 0
) -> jax.Array:
    """Return −Σ_b log P(tokens[b] | frames[b]).

    An alignment gives every frame one token or the blank; leaving out repetitions and then blanks must leave the
    tokens. P is the sum over all alignments. While going through the frames two kinds of state are kept:

        blank_state[u]  log probability of all beginnings that have spelled u tokens and end on a blank
        token_state[u]  the same, ending on the token u

        token_state'[u]  = log q[token u] + log(e^token_state[u] + e^blank_state[u] + e^token_state[u−1])
        blank_state'[u]  = log q[blank]   + log(e^blank_state[u] + e^token_state[u−1])

    where the last term of the first line is left out if token u equals token u−1: between equal tokens there must
    be a blank. At the start, blank_state[0] = 0 and all others are log 0.

    Some cases: a row without tokens is the path of blanks alone. A row that cannot fit (fewer frames than its tokens
    and the blanks between equal ones) has probability 0; it gives 0, with gradient 0, so that one cut recording does
    not stop training. A token that is the blank, or none of the vocabulary, makes the loss NaN.

    Args:
        logits_btv: float[b, t, v], not normalised; the sums run in float32. Frames of padding are anything.
        frame_lengths_b: int32[b], real frames.
        tokens_bu: int32[b, u], without the end of sentence; padding is anything.
        token_lengths_b: int32[b], real tokens.
        blank: the blank's token.

    Returns:
        float32 scalar ≥ 0.

    Reference: Graves et al. 2006, "Connectionist Temporal Classification", sections 3 and 4.1.
    """
    chex.assert_rank([logits_btv, frame_lengths_b, tokens_bu, token_lengths_b], [3, 1, 2, 1])
    chex.assert_equal_shape_prefix([logits_btv, frame_lengths_b, tokens_bu, token_lengths_b], 1)
    chex.assert_type([logits_btv, frame_lengths_b, tokens_bu, token_lengths_b], [float, int, int, int])
    num_frames, vocab_size = logits_btv.shape[1:]
    valid_bt = length_mask(frame_lengths_b, num_frames)
    valid_bu = length_mask(token_lengths_b, tokens_bu.shape[1])
    # Before anything is computed: what padding holds, NaN included, reaches neither value nor gradient.
    logits_btv = jnp.where(valid_bt[..., None], logits_btv.astype(jnp.float32), 0.0)
    in_vocabulary_bu = (tokens_bu >= 0) & (tokens_bu < vocab_size) & (tokens_bu != blank)
    repeated_bu = repeated(tokens_bu) & valid_bu
    log_blank_bt, log_token_btu = log_probabilities(logits_btv, jnp.clip(tokens_bu, 0, vocab_size - 1), blank)
    log_likelihood_b = log_likelihood(log_blank_bt, log_token_btu, repeated_bu, valid_bt, token_lengths_b)
    # A frame for each token, and for a blank between equal ones.
    fits_b = frame_lengths_b >= token_lengths_b + jnp.sum(repeated_bu, axis=1)
    cost_b = jnp.where(fits_b, -log_likelihood_b, 0.0)
    return jnp.sum(jnp.where(jnp.all(in_vocabulary_bu | ~valid_bu, axis=1), cost_b, jnp.nan))


def repeated(tokens_bu: jax.Array) -> jax.Array:
    """Return bool[b, u], True where a token equals the one before it."""
    return jnp.pad(tokens_bu[:, 1:] == tokens_bu[:, :-1], ((0, 0), (1, 0)))[:, : tokens_bu.shape[1]]


def log_probabilities(logits_btv: jax.Array, tokens_bu: jax.Array, blank: int) -> tuple[jax.Array, jax.Array]:
    """Return log q of the blank, float32[b, t], and of each token of the utterance, float32[b, t, u].

    They are picked before the scan, so that it never sees the vocabulary; log_softmax is applied to what was picked.
    """
    normaliser_bt = jax.nn.logsumexp(logits_btv, axis=-1)
    log_token_btu = jnp.take_along_axis(logits_btv, tokens_bu[:, None, :], axis=2) - normaliser_bt[..., None]
    # With a finite blank no step of the recursion meets −∞ alone, whatever the logits are.
    return jnp.maximum(logits_btv[..., blank] - normaliser_bt, LOG_ZERO), log_token_btu


def log_likelihood(
    log_blank_bt: jax.Array,
    log_token_btu: jax.Array,
    repeated_bu: jax.Array,
    valid_bt: jax.Array,
    token_lengths_b: jax.Array,
) -> jax.Array:
    """Return log P(tokens | frames), float32[b]; about `LOG_ZERO` where they cannot fit."""
    batch, _, num_tokens = log_token_btu.shape

    def step(states, frame):
        blank_bs, token_bu = states  # s = u + 1: the blank before each token, and the one at the end
        log_blank_b, log_token_bu, valid_b = frame
        before_bs = jnp.pad(token_bu, ((0, 0), (1, 0)), constant_values=LOG_ZERO)  # token_state[u − 1]
        # A token may follow the one before it without a blank, unless they are equal.
        skip_bu = jnp.where(repeated_bu, LOG_ZERO, before_bs[:, :-1])
        new_token_bu = _log_sum_exp(token_bu, blank_bs[:, :-1], skip_bu) + log_token_bu
        new_blank_bs = _log_sum_exp(blank_bs, before_bs) + log_blank_b[:, None]
        valid_b1 = valid_b[:, None]
        return (jnp.where(valid_b1, new_blank_bs, blank_bs), jnp.where(valid_b1, new_token_bu, token_bu)), None

    blank_bs = jnp.full((batch, num_tokens + 1), LOG_ZERO).at[:, 0].set(0.0)
    token_bu = jnp.full((batch, num_tokens), LOG_ZERO)
    frames = (log_blank_bt.T, log_token_btu.transpose(1, 0, 2), valid_bt.T)
    (blank_bs, token_bu), _ = jax.lax.scan(step, (blank_bs, token_bu), frames)
    last_bs = jnp.pad(token_bu, ((0, 0), (1, 0)), constant_values=LOG_ZERO)
    # A path may end on the last token, or on a blank behind it.
    ends_bs = _log_sum_exp(blank_bs, last_bs)
    return jnp.take_along_axis(ends_bs, token_lengths_b[:, None], axis=1)[:, 0]


def _log_sum_exp(*terms: jax.Array) -> jax.Array:
    """Return log Σ e^term. At least one exponential is 1, so neither value nor gradient can become NaN."""
    largest = jax.lax.stop_gradient(jnp.stack(terms).max(axis=0))
    return largest + jnp.log(sum(jnp.exp(term - largest) for term in terms))
