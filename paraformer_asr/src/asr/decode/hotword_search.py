"""The best tokens with a bonus for hot words: a beam over the states of their automaton, jitted.

    score(tokens) = Σ_t ln q_t(label_t) + bonus of the hot words in the tokens

A label is a token of the parallel decoder, or one of a CTC head, whose path is then collapsed. The labels of different
positions are independent given the sound: of all beginnings that lead to one state of the automaton (and, in CTC, to
one last label) only the best has to be kept. With as many paths as states, and all tokens tried, the search is exact.

Letters: b batch, t positions or frames, v vocabulary, h paths of the beam, k labels tried, n = h · k.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from asr.decode.greedy import CtcTokens, collapse_path
from asr.decode.hotword_automaton import START, HotwordAutomaton, finish, step
from asr.ops.masks import length_mask

NO_LABEL = -1


class _Beam(NamedTuple):
    """The paths that are kept."""

    state_bh: jax.Array  # int32, of the automaton
    label_bh: jax.Array  # int32, the last one; always NO_LABEL if equal ones are not collapsed
    score_bh: jax.Array  # float32, −inf for a place without a path


def search_tokens(
    logits_buv: jax.Array,
    token_lengths_b: jax.Array,
    automaton: HotwordAutomaton,
    *,
    beam_size: int = 10,
    num_candidates: int = 8,
) -> tuple[jax.Array, jax.Array]:
    """Return the tokens of the parallel decoder with hot words, and the model's probability of each.

    Without a hot word near the best tokens the result is that of `asr.decode.greedy`.

    Args:
        logits_buv: float[b, u, v], of the parallel decoder. Padding is anything.
        token_lengths_b: int32[b], real positions.
        automaton: of the hot words.
        beam_size: paths kept.
        num_candidates: tokens tried at each position: so many of all ordinary ones, and so many of those in hot words.

    Returns:
        tokens_bu int32[b, u] and confidence_bu float32[b, u]; both are 0 at padding.
    """
    log_q_buv = _log_softmax(logits_buv, token_lengths_b)
    valid_bu = length_mask(token_lengths_b, logits_buv.shape[1])
    label_buk = _candidates(log_q_buv, automaton, num_candidates)
    label_bu = _search(log_q_buv, label_buk, valid_bu, automaton, beam_size, None)
    return jnp.where(valid_bu, label_bu, 0), jnp.where(valid_bu, _probability(log_q_buv, label_bu), 0.0)


def search_ctc(
    logits_btv: jax.Array,
    frame_lengths_b: jax.Array,
    automaton: HotwordAutomaton,
    blank: int = 0,
    *,
    beam_size: int = 10,
    num_candidates: int = 8,
) -> CtcTokens:
    """Return the tokens of the best CTC path with hot words; arguments and result as `search_tokens`, `ctc_greedy`."""
    log_q_btv = _log_softmax(logits_btv, frame_lengths_b)
    valid_bt = length_mask(frame_lengths_b, logits_btv.shape[1])
    label_btk = _candidates(log_q_btv, automaton, num_candidates)
    label_btk = jnp.pad(label_btk, ((0, 0), (0, 0), (0, 1)), constant_values=blank)
    label_bt = _search(log_q_btv, label_btk, valid_bt, automaton, beam_size, blank)
    return collapse_path(label_bt, _probability(log_q_btv, label_bt), frame_lengths_b, blank)


def _log_softmax(logits_btv: jax.Array, lengths_b: jax.Array) -> jax.Array:
    chex.assert_rank([logits_btv, lengths_b], [3, 1])
    chex.assert_equal_shape_prefix([logits_btv, lengths_b], 1)
    chex.assert_type([logits_btv, lengths_b], [float, int])
    return jax.nn.log_softmax(logits_btv.astype(jnp.float32))


def _probability(log_q_btv: jax.Array, label_bt: jax.Array) -> jax.Array:
    return jnp.exp(jnp.take_along_axis(log_q_btv, label_bt[:, :, None], axis=2))[:, :, 0]


def _candidates(log_q_btv: jax.Array, automaton: HotwordAutomaton, number: int) -> jax.Array:
    """Return the labels worth trying: the best one, the best of the ordinary ones, and the best of those in hot words.

    A hot word's token may be far behind: of several thousand characters dozens sound alike.
    """
    label_btk = jnp.argmax(log_q_btv, axis=2, keepdims=True).astype(jnp.int32)
    number = min(number, log_q_btv.shape[2])
    for mask_v in (jnp.asarray(automaton.is_ordinary_v), jnp.asarray(automaton.is_hot_v)):
        value_btk, more_btk = jax.lax.top_k(jnp.where(mask_v[None, None, :], log_q_btv, -jnp.inf), number)
        more_btk = jnp.where(value_btk > -jnp.inf, more_btk, label_btk[:, :, :1])  # there may be fewer than `number`
        label_btk = jnp.concatenate([label_btk, more_btk], axis=2)
    return label_btk


def _search(
    log_q_btv: jax.Array,
    label_btk: jax.Array,
    valid_bt: jax.Array,
    automaton: HotwordAutomaton,
    beam_size: int,
    blank: int | None,
) -> jax.Array:
    """Return the labels of the best path, int32[b, t]; `blank`: collapse the path, None: every label is a token."""
    log_q_btk = jnp.take_along_axis(log_q_btv, label_btk, axis=2)
    # Measured from the best label, the greedy path sums to exactly 0: no rounding can prefer another one to it.
    loss_btk = log_q_btk - jnp.max(log_q_btv, axis=2, keepdims=True)
    places_h, lent_s = jnp.arange(beam_size, dtype=jnp.int32), jnp.asarray(automaton.potential_s)
    shape = label_btk.shape[0], beam_size
    first_bh = jnp.broadcast_to(jnp.where(places_h == 0, 0.0, -jnp.inf)[None, :], shape)
    beam = _Beam(jnp.full(shape, START, jnp.int32), jnp.full(shape, NO_LABEL, jnp.int32), first_bh)

    def advance(beam: _Beam, inputs):
        label_bk, loss_bk, valid_b = inputs
        grown, from_bh, label_bh = _prune(
            _extend(beam, label_bk, loss_bk, automaton, blank), label_bk, lent_s, beam_size
        )
        kept = jax.tree.map(lambda new, old: jnp.where(valid_b[:, None], new, old), grown, beam)
        return kept, (jnp.where(valid_b[:, None], from_bh, places_h[None, :]), label_bh)

    inputs = jnp.swapaxes(label_btk, 0, 1), jnp.swapaxes(loss_btk, 0, 1), jnp.swapaxes(valid_bt, 0, 1)
    beam, (from_tbh, label_tbh) = jax.lax.scan(advance, beam, inputs)
    best_b = jnp.argmax(beam.score_bh + finish(automaton, beam.state_bh), axis=1)

    def trace(place_b, inputs):
        from_b, label_b = (jnp.take_along_axis(values_bh, place_b[:, None], axis=1)[:, 0] for values_bh in inputs)
        return from_b, label_b

    _, label_tb = jax.lax.scan(trace, best_b, (from_tbh, label_tbh), reverse=True)
    return jnp.swapaxes(label_tb, 0, 1)


def _extend(beam: _Beam, label_bk, loss_bk, automaton: HotwordAutomaton, blank: int | None) -> _Beam:
    """Return all paths after one more label, as a beam of h · k places."""
    shape = *beam.state_bh.shape, label_bk.shape[1]
    state_bhk, last_bhk = (jnp.broadcast_to(values[:, :, None], shape) for values in (beam.state_bh, beam.label_bh))
    label_bhk = jnp.broadcast_to(label_bk[:, None, :], shape)
    after_bhk, gain_bhk = step(automaton, state_bhk, label_bhk)
    if blank is None:
        label_bhk = last_bhk
    else:
        is_silent_bhk = (label_bhk == blank) | (label_bhk == last_bhk)  # no new token
        after_bhk = jnp.where(is_silent_bhk, state_bhk, after_bhk)
        gain_bhk = jnp.where(is_silent_bhk, 0.0, gain_bhk)
    score_bhk = beam.score_bh[:, :, None] + loss_bk[:, None, :] + gain_bhk
    return _Beam(*(values.reshape(shape[0], -1) for values in (after_bhk, label_bhk, score_bhk)))


def _prune(grown: _Beam, label_bk: jax.Array, lent_s: jax.Array, beam_size: int) -> tuple[_Beam, jax.Array, jax.Array]:
    """Return the best paths, each of another state and last label; the place each comes from, and its new label.

    The path that is best without what is lent is always kept: however large the bonus of phrases that are then not
    completed, the answer scores no worse than that of the greedy path.
    """
    num_paths, num_labels = grown.score_bh.shape[1], label_bk.shape[1]
    places_n = jnp.arange(num_paths)
    state_bn1, last_bn1, score_bn1 = (values_bn[:, :, None] for values_bn in grown)
    state_b1n, last_b1n, score_b1n = (values_bn[:, None, :] for values_bn in grown)
    is_same_bnn = (state_bn1 == state_b1n) & (last_bn1 == last_b1n)
    is_first_1nn = (places_n[None, :] < places_n[:, None])[None]
    is_better_bnn = (score_b1n > score_bn1) | ((score_b1n == score_bn1) & is_first_1nn)
    score_bn = jnp.where(jnp.any(is_same_bnn & is_better_bnn, axis=2), -jnp.inf, grown.score_bh)
    safest_b1 = jnp.argmax(score_bn - lent_s[grown.state_bh], axis=1, keepdims=True)
    place_bh = jax.lax.top_k(jnp.where(places_n[None, :] == safest_b1, jnp.inf, score_bn), beam_size)[1]
    columns = grown.state_bh, grown.label_bh, score_bn
    state_bh, last_bh, score_bh = (jnp.take_along_axis(values_bn, place_bh, axis=1) for values_bn in columns)
    from_bh, number_bh = (values.astype(jnp.int32) for values in jnp.divmod(place_bh, num_labels))
    return _Beam(state_bh, last_bh, score_bh), from_bh, jnp.take_along_axis(label_bk, number_bh, axis=1)
