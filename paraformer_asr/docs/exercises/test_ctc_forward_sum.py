"""CTC: all alignments counted one by one, equal neighbours, gradients, and a long utterance."""

import itertools

import ctc_forward_sum
import jax
import numpy as np
import pytest


def make_logits(*shape, seed=0):
    """Return float32 logits."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def counted(logits_tv, tokens, blank=0):
    """Return −log of the sum over all paths, by the definition."""
    q = np.exp(np.float64(logits_tv))
    q /= q.sum(1, keepdims=True)
    total = 0.0
    for path in itertools.product(range(q.shape[1]), repeat=len(q)):
        spelled = [token for token, _ in itertools.groupby(path) if token != blank]
        if spelled == list(tokens):
            total += np.prod(q[np.arange(len(q)), path])
    return -np.log(total)


@pytest.mark.parametrize("tokens", [[], [1], [2, 1], [1, 1], [2, 2, 1]])
def test_value_is_that_of_all_alignments(tokens):
    """Between two equal tokens there must be a blank."""
    logits_tv = make_logits(5, 3)
    loss = ctc_forward_sum.ctc_loss(logits_tv, np.array(tokens, np.int32))
    np.testing.assert_allclose(loss, counted(logits_tv, tokens), rtol=1e-5)


def test_the_blank_may_be_another_token():
    """It is the last one in some models."""
    logits_tv = make_logits(5, 3, seed=1)
    loss = ctc_forward_sum.ctc_loss(logits_tv, np.array([0, 1], np.int32), blank=2)
    np.testing.assert_allclose(loss, counted(logits_tv, [0, 1], blank=2), rtol=1e-5)


def test_one_alignment_alone_is_certain():
    """As many frames as tokens, no two of them equal."""
    logits_tv = make_logits(3, 4, seed=2)
    log_q_tv = np.asarray(jax.nn.log_softmax(logits_tv))
    loss = ctc_forward_sum.ctc_loss(logits_tv, np.array([1, 3, 2], np.int32))
    np.testing.assert_allclose(loss, -(log_q_tv[0, 1] + log_q_tv[1, 3] + log_q_tv[2, 2]), rtol=1e-5)


def test_gradient_is_the_slope():
    """By finite differences of the definition."""
    logits_tv, tokens = make_logits(4, 3, seed=3), [1, 2]
    slopes_tv = np.asarray(jax.grad(ctc_forward_sum.ctc_loss)(logits_tv, np.array(tokens, np.int32)))
    for t, v in np.ndindex(4, 3):
        step_tv = np.zeros((4, 3))
        step_tv[t, v] = 1e-4
        slope = (counted(logits_tv + step_tv, tokens) - counted(logits_tv - step_tv, tokens)) / 2e-4
        np.testing.assert_allclose(slopes_tv[t, v], slope, atol=1e-4)


def test_a_long_utterance_is_finite_with_its_gradient():
    """The probability of 120 frames is far below the smallest float32."""
    logits_tv, tokens_u = 5 * make_logits(120, 6, seed=4), np.tile([1, 2, 2, 5], 6).astype(np.int32)
    loss, slopes_tv = jax.value_and_grad(ctc_forward_sum.ctc_loss)(logits_tv, tokens_u)
    assert 100 < loss < 10_000 and np.isfinite(slopes_tv).all()
    # Adding a number to all logits of a frame changes nothing.
    np.testing.assert_allclose(np.sum(slopes_tv, axis=1), 0, atol=1e-3)
