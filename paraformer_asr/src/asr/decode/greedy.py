"""The best token at every position, with its probability.

Letters: b batch, u token positions, t frames, v vocabulary.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from asr.ops.masks import length_mask


def greedy(logits_buv: jax.Array, token_lengths_b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the best token of each position and how sure the network is of it.

        token[u]      = argmax_v logits[u, v]
        confidence[u] = softmax(logits[u])[token[u]]

    The end of sentence and other special tokens stay in: the tokenizer leaves them out when it makes text.

    Args:
        logits_buv: float[b, u, v], of the parallel decoder; the softmax is float32. Padding is anything.
        token_lengths_b: int32[b], real positions.

    Returns:
        tokens_bu int32[b, u] and confidence_bu float32[b, u], a probability; both are 0 at padding.
    """
    chex.assert_rank([logits_buv, token_lengths_b], [3, 1])
    chex.assert_equal_shape_prefix([logits_buv, token_lengths_b], 1)
    chex.assert_type([logits_buv, token_lengths_b], [float, int])
    valid_bu = length_mask(token_lengths_b, logits_buv.shape[1])
    tokens_bu, confidence_bu = _best(logits_buv)
    return jnp.where(valid_bu, tokens_bu, 0), jnp.where(valid_bu, confidence_bu, 0.0)


class CtcTokens(NamedTuple):
    """What the best path of a CTC head spells; positions u ≥ token_lengths are 0."""

    tokens_bu: jax.Array  # int32[b, t], as wide as there are frames: a path cannot spell more
    confidence_bu: jax.Array  # float32[b, t], the largest probability of the token in its frames
    first_frame_bu: jax.Array  # int32[b, t], first frame of the token
    last_frame_bu: jax.Array  # int32[b, t], last frame of the token, at least first_frame
    token_lengths_b: jax.Array  # int32[b], real tokens


def ctc_greedy(logits_btv: jax.Array, frame_lengths_b: jax.Array, blank: int = 0) -> CtcTokens:
    """Return the tokens of the most probable path: repetitions are left out, then blanks.

    Args:
        logits_btv: float[b, t, v], of the CTC head; the softmax is float32. Padding is anything.
        frame_lengths_b: int32[b], real frames.
        blank: the blank's token.

    Reference: Graves et al. 2006, "Connectionist Temporal Classification", section 3.2 (best path decoding).
    """
    chex.assert_rank([logits_btv, frame_lengths_b], [3, 1])
    chex.assert_equal_shape_prefix([logits_btv, frame_lengths_b], 1)
    chex.assert_type([logits_btv, frame_lengths_b], [float, int])
    return collapse_path(*_best(logits_btv), frame_lengths_b, blank)


def collapse_path(
    label_bt: jax.Array, probability_bt: jax.Array, frame_lengths_b: jax.Array, blank: int = 0
) -> CtcTokens:
    """Return the tokens that CTC paths spell: repetitions are left out, then blanks.

    Args:
        label_bt: int32[b, t], the path. Padding is anything.
        probability_bt: float32[b, t], of each label.
        frame_lengths_b: int32[b], real frames.
        blank: the blank's token.
    """
    chex.assert_equal_shape([label_bt, probability_bt])
    num_frames = label_bt.shape[1]
    valid_bt = length_mask(frame_lengths_b, num_frames)
    spoken_bt = valid_bt & (label_bt != blank)
    before_bt = jnp.pad(label_bt[:, :-1], ((0, 0), (1, 0)), constant_values=blank)
    starts_bt = spoken_bt & (label_bt != before_bt)
    number_bt = jnp.cumsum(starts_bt, axis=1) - 1  # of the token that a spoken frame belongs to
    slot_bt = jnp.where(spoken_bt, number_bt, num_frames)  # one slot more takes what is not spoken

    def collect(values_bt, smallest):
        """Return the largest value of each token's frames."""
        slots = jnp.full((len(values_bt), num_frames + 1), smallest, values_bt.dtype)
        rows_b1 = jnp.arange(len(values_bt))[:, None]
        return slots.at[rows_b1, slot_bt].max(values_bt)[:, :-1]

    frame_bt = jnp.broadcast_to(jnp.arange(num_frames, dtype=jnp.int32)[None, :], slot_bt.shape)
    lengths_b = jnp.sum(starts_bt, axis=1, dtype=jnp.int32)
    is_token_bt = frame_bt < lengths_b[:, None]
    first_frame_bt = -collect(-frame_bt, -num_frames)
    return CtcTokens(
        tokens_bu=collect(label_bt, 0),
        confidence_bu=collect(probability_bt, 0.0),
        first_frame_bu=jnp.where(is_token_bt, first_frame_bt, 0),
        last_frame_bu=collect(frame_bt, 0),
        token_lengths_b=lengths_b,
    )


def _best(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    logits = logits.astype(jnp.float32)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), jnp.exp(jnp.max(jax.nn.log_softmax(logits), axis=-1))
