"""Greedy decoding of the parallel decoder and of CTC: slow twins, padding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.decode import ctc_greedy, greedy

LENGTHS = np.array([5, 0, 3], np.int32)
compiled_greedy, compiled_ctc_greedy = jax.jit(greedy), jax.jit(ctc_greedy, static_argnames="blank")


def make_logits(shape=(3, 5, 7), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(logits):
    z = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
    return z / z.sum(axis=-1, keepdims=True)


def test_the_best_token_and_its_probability():
    logits = make_logits()
    tokens, confidence = compiled_greedy(logits, LENGTHS)
    assert tokens.dtype == jnp.int32 and confidence.dtype == jnp.float32
    for row, length in enumerate(LENGTHS):
        probability = softmax(logits[row])
        for u in range(5):
            if u < length:
                assert tokens[row, u] == probability[u].argmax()
                assert confidence[row, u] == pytest.approx(probability[u].max(), rel=1e-6)
            else:
                assert tokens[row, u] == 0 and confidence[row, u] == 0


@pytest.mark.parametrize("there", [np.nan, np.inf, 1e30])
def test_padding_is_not_looked_at(there):
    logits = make_logits()
    expected = compiled_greedy(logits, LENGTHS)
    logits[np.arange(5)[None] >= LENGTHS[:, None], 1:] = there
    for found, value in zip(compiled_greedy(logits, LENGTHS), expected, strict=True):
        np.testing.assert_array_equal(found, value)


def test_confidence_is_float32_for_bfloat16_logits():
    low = jnp.asarray(make_logits(), jnp.bfloat16)
    _, confidence = compiled_greedy(low, LENGTHS)
    assert confidence[0, 0] == pytest.approx(softmax(np.asarray(low, np.float32))[0, 0].max(), rel=1e-6)


def test_wrong_shapes_are_refused():
    with pytest.raises(AssertionError):
        greedy(make_logits(), LENGTHS[:2])
    with pytest.raises(AssertionError):
        ctc_greedy(make_logits()[0], LENGTHS)


# ---- CTC ----


def slow_ctc(logits, length, blank):
    """Return [(token, confidence, first frame, last frame)] of one utterance, run by run."""
    probability = softmax(logits[:length]) if length else np.zeros((0, logits.shape[1]))
    runs = itertools.groupby(range(length), key=lambda t: probability[t].argmax())
    runs = [(token, list(frames)) for token, frames in runs]
    return [
        (token, max(probability[t, token] for t in frames), frames[0], frames[-1])
        for token, frames in runs
        if token != blank
    ]


@pytest.mark.parametrize("blank", [0, 2])
def test_ctc_best_path_is_that_of_the_slow_twin(blank):
    lengths = np.array([30, 17, 0, 1, 24], np.int32)
    logits = make_logits((5, 30, 4), seed=1)  # so few tokens repeat themselves
    found = compiled_ctc_greedy(logits, lengths, blank=blank)
    assert found.tokens_bu.dtype == found.first_frame_bu.dtype == found.token_lengths_b.dtype == jnp.int32
    for row, length in enumerate(lengths):
        expected = slow_ctc(logits[row], length, blank)
        count = int(found.token_lengths_b[row])
        assert count == len(expected)
        columns = [np.asarray(field)[row] for field in found[:4]]
        for u, (token, confidence, first, last) in enumerate(expected):
            assert (columns[0][u], columns[2][u], columns[3][u]) == (token, first, last)
            assert columns[1][u] == pytest.approx(confidence, rel=1e-6)
        assert all((column[count:] == 0).all() for column in columns)


def test_a_token_comes_twice_only_with_a_blank_between():
    path = np.array([[1, 1, 0, 1, 2, 2, 1]])
    logits = 9 * np.eye(3, dtype=np.float32)[path]
    found = compiled_ctc_greedy(logits, np.array([7], np.int32))
    assert found.tokens_bu[0, : found.token_lengths_b[0]].tolist() == [1, 1, 2, 1]


def test_ctc_padding_is_not_looked_at():
    logits, lengths = make_logits((3, 9, 4), seed=2), np.array([9, 4, 0], np.int32)
    expected = compiled_ctc_greedy(logits, lengths)
    logits[np.arange(9)[None] >= lengths[:, None]] = np.nan
    for found, value in zip(compiled_ctc_greedy(logits, lengths), expected, strict=True):
        np.testing.assert_array_equal(found, value)
