"""MWER: hypotheses, error counts, and a gradient that lowers the expected number of errors."""

from functools import partial

import jax
import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from asr.losses.mwer import count_errors, mwer_loss, sample_hypotheses
from drawn import draw

LENGTHS = np.array([6, 3, 0, 5], np.int32)
SHAPE = (4, 6, 9)  # b, u, v
SETTINGS = {"num_candidates": 5, "mask_share": 0.4}
EOS = 2


def make_batch(seed=0):
    """Return logits that are right in some places, and tokens that end with the end of sentence."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, SHAPE[2], SHAPE[:2]).astype(np.int32)
    for row, length in zip(tokens, LENGTHS, strict=True):
        row[max(length - 1, 0)] = EOS
    logits = rng.normal(size=SHAPE) + 1.2 * np.eye(SHAPE[2])[tokens]
    return logits.astype(np.float32), tokens


def padding():
    return np.arange(SHAPE[1])[None] >= LENGTHS[:, None]


@jax.jit
def value_and_gradient(logits, tokens, key):
    return jax.value_and_grad(mwer_loss)(logits, tokens, LENGTHS, key, **SETTINGS)


def slow_terms(logits, tokens, said):
    """Return (weights, errors) of each utterance's hypotheses, in float64, one by one."""
    found = []
    for row, length in enumerate(LENGTHS):
        z = logits[row].astype(np.float64)
        log_q = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
        log_p = np.array([sum(log_q[u, hypothesis[row, u]] for u in range(length)) for hypothesis in said])
        truth = [token for token in tokens[row, :length] if token > EOS]
        texts = [[token for token in hypothesis[row, :length] if token > EOS] for hypothesis in said]
        errors = np.array([Levenshtein.distance(truth, text) for text in texts])
        found.append((np.exp(log_p) / np.exp(log_p).sum(), errors))
    return found


compiled_sampling = jax.jit(sample_hypotheses, static_argnums=3)


def hypotheses(logits, key):
    return np.asarray(compiled_sampling(logits, LENGTHS, key, SETTINGS["num_candidates"], SETTINGS["mask_share"]))


def test_value_is_that_of_the_slow_twin(key):
    logits, tokens = make_batch()
    terms = slow_terms(logits, tokens, hypotheses(logits, key))
    assert len({error for _, errors in terms for error in errors}) > 2, "hypotheses should differ in this test"
    expected = sum(np.sum(weights * (errors - errors.mean())) for weights, errors in terms)
    assert value_and_gradient(logits, tokens, key)[0] == pytest.approx(expected, rel=1e-5)


def test_gradient_is_the_slope_of_the_slow_twin_with_the_errors_held(key):
    logits, tokens = make_batch()
    said = hypotheses(logits, key)
    gradient = np.asarray(value_and_gradient(logits, tokens, key)[1])
    direction = np.random.default_rng(1).normal(size=SHAPE)
    up, down = (
        sum(np.sum(weights * errors) for weights, errors in slow_terms(logits + h * direction, tokens, said))
        for h in (1e-5, -1e-5)
    )
    assert np.sum(gradient * direction) == pytest.approx((up - down) / 2e-5, rel=1e-3)


def test_a_step_along_the_gradient_lowers_the_expected_errors(keys):
    for seed in range(3):
        logits, tokens = make_batch(seed)
        key = keys()
        said = hypotheses(logits, key)
        expected_errors = [
            sum(np.sum(weights * errors) for weights, errors in slow_terms(z, tokens, said))
            for z in (logits, logits - 0.3 * np.asarray(value_and_gradient(logits, tokens, key)[1]))
        ]
        assert expected_errors[1] < expected_errors[0] - 0.01


def test_equal_hypotheses_give_no_gradient(key):
    logits, tokens = make_batch()
    loss = partial(mwer_loss, num_candidates=3, mask_share=0.0)
    value, gradient = jax.jit(jax.value_and_grad(loss))(logits, tokens, LENGTHS, key)
    assert value == 0 and (np.asarray(gradient) == 0).all()


def test_padding_changes_neither_value_nor_gradient(key):
    logits, tokens = make_batch()
    value, gradient = value_and_gradient(logits, tokens, key)
    assert (np.asarray(gradient)[padding()] == 0).all() and (np.asarray(gradient) != 0).any()
    for there in (1e30, np.nan, np.inf):
        logits[padding(), 1:] = there
        tokens[padding()] = 7
        changed, changed_gradient = value_and_gradient(logits, tokens, key)
        assert changed == value
        np.testing.assert_array_equal(changed_gradient, gradient)


def test_hypotheses_are_the_best_and_variations_by_the_second_best(key):
    logits, _ = make_batch()
    ranked = np.argsort(-logits, axis=-1)
    said = hypotheses(logits, key)
    assert said.dtype == np.int32
    np.testing.assert_array_equal(said[0], ranked[..., 0])
    for hypothesis in said[1:]:
        masked = hypothesis != ranked[..., 0]
        np.testing.assert_array_equal(hypothesis[masked], ranked[..., 1][masked])
        np.testing.assert_array_equal(masked.sum(axis=1), [3, 2, 0, 2])  # ⌈0.4 · (6, 3, 0, 5)⌉
        assert not masked[padding()].any()
    assert len({hypothesis.tobytes() for hypothesis in said}) > 3
    other = hypotheses(logits, jax.random.fold_in(key, 1))
    assert (other[1:] != said[1:]).any() and (other[0] == said[0]).all()


@pytest.mark.parametrize(
    ("share", "length", "masked"), [(0.6, 25, 15), (0.2, 5, 1), (0.7, 10, 7), (1.0, 4, 4), (0.2, 1, 1)]
)
def test_shares_round_up_but_not_by_rounding_errors(key, share, length, masked):
    logits = draw(1, 30, 4)
    said = np.asarray(compiled_sampling(logits, np.array([length], np.int32), key, 2, share))
    assert (said[1] != said[0]).sum() == masked


def test_special_tokens_are_no_text():
    truth = np.array([[5, 6, EOS, 9]], np.int32)
    said = np.array([[[5, 6, EOS, 0]], [[5, EOS, 6, 0]], [[0, 5, 6, 0]], [[5, 6, 7, 0]], [[EOS, 1, 0, 0]]], np.int32)
    np.testing.assert_array_equal(count_errors(said, truth, np.array([3], np.int32))[:, 0], [0, 0, 0, 1, 2])
