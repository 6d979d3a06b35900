"""Continuous integrate-and-fire: from a sequence of frames to one vector for each token.

Every frame t carries a weight alpha[t]. Their running sum c[t] = alpha[0] + … + alpha[t] climbs from 0; each time it
passes a whole number a token fires. Token u has collected what c climbed between u and u + 1, so frame t gives it
exactly the overlap of two intervals:

    alignment[u, t] = | [c[t−1], c[t]] ∩ [u, u+1] | = max(0, min(c[t], u+1) − max(c[t−1], u))
    embedding[u] = Σ_t alignment[u, t] · hidden[t]

The published form is a loop that integrates, tests `≥ 1`, fires and carries the rest over. The overlap gives the same
vectors without the loop, is also right for weights above 1 (a frame may complete several tokens), has a fixed number
of rows, and cannot lose the last token to rounding: its row exists because the count is given.

Everything here is float32: a running sum in bfloat16 would lose frames.

Letters: b batch, t frames, u tokens, d width.

Reference: Dong and Xu, ICASSP 2020; Gao et al., 2022, section 2.2.
"""

import functools

import chex
import jax
import jax.numpy as jnp


@functools.partial(jax.jit, static_argnames=("num_rows",))
def align(cumulative_bt, num_rows: int):
    """Return what each frame gives to each token: the overlap of [c[t−1], c[t]] with [u, u+1].

    Args:
        cumulative_bt: float32[b, t], running sum c of the weights, not falling.
        num_rows: u, rows of the result.

    Returns:
        alignment_but: float32[b, u, t], at least 0. Row u sums to 1 where c reaches u + 1, to the collected part where
        it ends in between, and to 0 beyond. Column t sums to the frame's weight, as far as the rows reach.
    """
    chex.assert_rank(cumulative_bt, 2)
    chex.assert_type(cumulative_bt, jnp.float32)
    before_bt = jnp.pad(cumulative_bt[:, :-1], ((0, 0), (1, 0)))
    # Frame t covers [c[t−1], c[t]] of the running sum, token u covers [u, u+1].
    token_u = jnp.arange(num_rows, dtype=jnp.float32)[None, :, None]
    upper_but = jnp.minimum(cumulative_bt[:, None, :], token_u + 1)
    lower_but = jnp.maximum(before_bt[:, None, :], token_u)
    # Negative where the two intervals do not meet. Gradients flow to the weights through the ends of the overlap.
    return jnp.maximum(upper_but - lower_but, 0.0)


@jax.jit
def cumulative(alpha_bt):
    """Return c, the running sum of the weights (at least 0, and 0 in padded frames): what decoding integrates."""
    chex.assert_rank(alpha_bt, 2)
    chex.assert_type(alpha_bt, jnp.float32)
    # Padded frames weigh 0, so the sum stays level behind the end.
    return jnp.cumsum(alpha_bt, axis=1)


@jax.jit
def scaled_cumulative(alpha_bt, valid_bt, num_tokens_b):
    """Return the running sum of the weights scaled to end at the token count: what training integrates.

    c[t] = N · (alpha[0] + … + alpha[t]) / (alpha[0] + … + alpha[T])

    The last value is N exactly, not up to rounding, so `align` gives N full rows. Where all weights of an utterance are
    0 its frames share the tokens evenly.

    Args:
        alpha_bt: float32[b, t], at least 0, of any scale, 0 in padded frames.
        valid_bt: bool[b, t], True for real frames.
        num_tokens_b: int32[b], N.
    """
    chex.assert_equal_shape([alpha_bt, valid_bt])
    chex.assert_shape(num_tokens_b, alpha_bt.shape[:1])
    chex.assert_type([alpha_bt, valid_bt, num_tokens_b], [jnp.float32, bool, int])
    # A common factor cancels in c; dividing by the largest keeps sums of very small or large weights in range.
    largest_b1 = jax.lax.stop_gradient(alpha_bt.max(1, keepdims=True))
    even_bt = valid_bt.astype(jnp.float32)
    weight_bt = jnp.where(largest_b1 > 0, alpha_bt / jnp.where(largest_b1 > 0, largest_b1, 1.0), even_bt)
    sum_bt = jnp.cumsum(weight_bt, axis=1)
    total_b1 = sum_bt[:, -1:]
    share_bt = jnp.minimum(sum_bt / jnp.where(total_b1 > 0, total_b1, 1.0), 1.0)
    # At the end the share is 1. Compilers replace x / y by x · (1 / y), whose x / x may miss 1 by a bit, so it is set.
    share_bt = jnp.where((sum_bt >= total_b1) & (total_b1 > 0), 1.0, share_bt)
    return share_bt * num_tokens_b[:, None].astype(jnp.float32)


@jax.jit
def add_tail(alpha_bt, lengths_b, tail: float):
    """Return the weights with `tail` behind each utterance's last frame.

    When decoding, speech often ends before the last token has collected a whole 1. The tail completes a token that has
    collected at least 1 − tail; the frame that carries it holds no sound, so it adds nothing to the embedding.

    Args:
        alpha_bt: float32[b, t], 0 in padded frames.
        lengths_b: int32[b], real frames. An utterance without frames gets no tail.
        tail: 0.45 in the published model.

    Returns:
        alpha_bt: float32[b, t + 1]; the tail is in column lengths[b], wherever the padding of the batch ends.
    """
    chex.assert_rank([alpha_bt, lengths_b], [2, 1])
    chex.assert_type([alpha_bt, lengths_b], [jnp.float32, int])
    extended_bt = jnp.pad(alpha_bt, ((0, 0), (0, 1)))
    frame_t = jnp.arange(extended_bt.shape[1])[None, :]
    # Not behind the padding: a batch must not change where an utterance ends.
    at_tail_bt = (frame_t == lengths_b[:, None]) & (lengths_b[:, None] > 0)
    return jnp.where(at_tail_bt, tail, extended_bt)


@jax.jit
def integrate(alignment_but, hidden_btd):
    """Return the acoustic embedding of each token: embedding[u] = Σ_t alignment[u, t] · hidden[t].

    Args:
        alignment_but: float32[b, u, t], from `align`.
        hidden_btd: float[b, t, d], the encoder's output, 0 in padded frames.
    """
    chex.assert_rank([alignment_but, hidden_btd], 3)
    chex.assert_type([alignment_but, hidden_btd], float)
    chex.assert_equal(alignment_but.shape[2], hidden_btd.shape[1])
    highest = jax.lax.Precision.HIGHEST  # not rounded to fewer bits on a GPU either
    return jnp.einsum("but,btd->bud", alignment_but, hidden_btd.astype(jnp.float32), precision=highest)


@functools.partial(jax.jit, static_argnames=("num_rows",))
def integrate_chunk(alpha_bt, hidden_btd, weight_b, embedding_bd, num_rows: int):
    """Return the tokens that fire in a chunk of a stream, and what the next one has collected by its end.

    The token that had begun comes with what it collected so far, as if one more frame stood in front: of weight
    `weight`, and of the mean of its frames.

    Args:
        alpha_bt: float32[b, t], the chunk's weights.
        hidden_btd: float[b, t, d], its frames.
        weight_b: float32[b], in 0…1, what the token that has begun has collected.
        embedding_bd: float32[b, d], the mean of its frames by their weights.
        num_rows: u, at least the tokens that can fire.

    Returns:
        acoustic_bud: float32[b, u, d], 0 in rows that have not fired.
        cumulative_bt: float32[b, t], the running sum, `weight` included.
        count_b: int32[b], the tokens that fired.
        weight_b and embedding_bd of the token that has begun then.
    """
    chex.assert_rank([alpha_bt, hidden_btd, weight_b, embedding_bd], [2, 3, 1, 2])
    chex.assert_type([alpha_bt, weight_b, embedding_bd], jnp.float32)
    weights_bt = jnp.concatenate([weight_b[:, None], alpha_bt], axis=1)
    frames_btd = jnp.concatenate([embedding_bd[:, None], hidden_btd.astype(jnp.float32)], axis=1)

    def add(state, weight_b):
        count_b, begun_b = state
        sum_b = begun_b + weight_b
        whole_b = jnp.floor(sum_b)
        return (count_b + whole_b, sum_b - whole_b), (count_b, begun_b)

    # Frame by frame, whole tokens and the rest apart: in a sum of hours the rest would lose its digits.
    zero_b = jnp.zeros_like(weight_b)
    (total_b, weight_b), before = jax.lax.scan(add, (zero_b, zero_b), weights_bt.T)
    count_bt, begun_bt = (array_tb.T for array_tb in before)
    count_b = total_b.astype(jnp.int32)
    # One row more than can fire: that of the token which has begun at the end. Its overlap is that of `align`, in
    # coordinates that begin where the frame's token does.
    row_but = jnp.arange(num_rows + 1, dtype=jnp.float32)[None, :, None] - count_bt[:, None, :]
    upper_but = jnp.minimum((begun_bt + weights_bt)[:, None, :], row_but + 1)
    alignment_but = jnp.maximum(upper_but - jnp.maximum(begun_bt[:, None, :], row_but), 0.0)
    acoustic_bud = integrate(alignment_but, frames_btd)
    begun_bd = jnp.take_along_axis(acoustic_bud, count_b[:, None, None], axis=1)[:, 0]
    mean_bd = jnp.where(weight_b[:, None] > 0, begun_bd / jnp.where(weight_b > 0, weight_b, 1.0)[:, None], 0.0)
    fired_bu = jnp.arange(num_rows)[None, :] < count_b[:, None]
    acoustic_bud = jnp.where(fired_bu[..., None], acoustic_bud[:, :num_rows], 0.0)
    cumulative_bt = jnp.concatenate([(count_bt + begun_bt)[:, 2:], (total_b + weight_b)[:, None]], axis=1)
    return acoustic_bud, cumulative_bt, count_b, weight_b, mean_bd
