"""Cross entropy and quantity loss: slow twins, padding, smoothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.losses import masked_cross_entropy, quantity_loss

LENGTHS = np.array([4, 0, 2], np.int32)
VOCAB = 6
SMOOTHINGS = [0.0, 0.1, 0.6]


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    logits = (2 * rng.normal(size=(3, 5, VOCAB))).astype(np.float32)
    return logits, rng.integers(0, VOCAB, (3, 5)).astype(np.int32)


def padding(shape=(3, 5)):
    return np.arange(shape[1])[None] >= LENGTHS[:, None]


def slow_cross_entropy(logits, tokens, lengths, smoothing):
    """One token, one word of the vocabulary at a time, float64."""
    loss = 0.0
    for row, length in enumerate(lengths):
        for u in range(length):
            z = logits[row, u].astype(np.float64)
            log_q = z - z.max() - np.log(np.exp(z - z.max()).sum())
            for v in range(len(z)):
                p = 1 - smoothing if v == tokens[row, u] else smoothing / (len(z) - 1)
                loss += p * (np.log(p) - log_q[v]) if p else 0.0
    return loss


compiled = jax.jit(jax.value_and_grad(masked_cross_entropy), static_argnums=3)


def value_and_gradient(logits, tokens, lengths=LENGTHS, smoothing=0.1):
    value, gradient = compiled(logits, tokens, lengths, smoothing)
    return float(value), np.asarray(gradient)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_value_and_gradient_are_those_of_the_slow_twin(smoothing):
    logits, tokens = make_batch()
    value, gradient = value_and_gradient(logits, tokens, smoothing=smoothing)
    assert value == pytest.approx(slow_cross_entropy(logits, tokens, LENGTHS, smoothing), rel=1e-6)
    rng = np.random.default_rng(1)
    for _ in range(4):
        direction = rng.normal(size=logits.shape)
        up, down = (slow_cross_entropy(logits + step * direction, tokens, LENGTHS, smoothing) for step in (1e-5, -1e-5))
        assert np.sum(gradient * direction) == pytest.approx((up - down) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_loss_is_zero_exactly_where_the_output_is_the_smoothed_truth(smoothing):
    _, tokens = make_batch()
    target = np.where(np.eye(VOCAB)[tokens] == 1, 1 - smoothing, smoothing / (VOCAB - 1))
    value, gradient = value_and_gradient(
        np.log(np.maximum(target, 1e-30)).astype(np.float32), tokens, LENGTHS, smoothing
    )
    assert value == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_padding_changes_neither_value_nor_gradient(smoothing):
    logits, tokens = make_batch()
    value, gradient = value_and_gradient(logits, tokens, smoothing=smoothing)
    assert (gradient[padding()] == 0).all()
    assert (np.abs(gradient[~padding()]).max(axis=-1) > 0).all()
    for logit, token in [(7.0, 0), (np.nan, 3), (np.inf, -1), (-np.inf, VOCAB)]:
        logits[padding(), 1:] = logit
        tokens[padding()] = token
        value_2, gradient_2 = value_and_gradient(logits, tokens, smoothing=smoothing)
        assert value_2 == value, logit
        np.testing.assert_array_equal(gradient_2, gradient)


def test_the_loss_of_a_batch_is_the_sum_over_its_rows():
    logits, tokens = make_batch()
    rows = [value_and_gradient(logits[i : i + 1], tokens[i : i + 1], LENGTHS[i : i + 1])[0] for i in range(3)]
    assert rows[1] == 0
    assert value_and_gradient(logits, tokens)[0] == pytest.approx(sum(rows), rel=1e-6)


@pytest.mark.parametrize("token", [-1, VOCAB, 10**6])
def test_a_token_outside_the_vocabulary_makes_the_loss_nan(token):
    logits, tokens = make_batch()
    tokens[2, 1] = token
    assert np.isnan(value_and_gradient(logits, tokens)[0])


def test_sums_are_float32_whatever_the_dtype_of_the_logits():
    logits, tokens = make_batch()
    low = jnp.asarray(logits, jnp.bfloat16)
    value, _ = compiled(low, tokens, LENGTHS, 0.1)
    assert value.dtype == jnp.float32 and value.shape == ()
    assert value == pytest.approx(value_and_gradient(np.asarray(low, np.float32), tokens)[0], rel=1e-6)


def test_huge_logits_stay_finite():
    _, tokens = make_batch()
    right = np.where(np.eye(VOCAB)[tokens] == 1, 1e4, -1e4).astype(np.float32)
    values = []
    for logits in (right, -right):
        value, gradient = value_and_gradient(logits, tokens)
        assert np.isfinite(value) and np.isfinite(gradient).all()
        values.append(value)
    assert values[0] < values[1]


def test_wrong_shapes_and_dtypes_are_refused():
    logits, tokens = make_batch()
    for bad in [(logits[0], tokens, LENGTHS), (logits, tokens[:, 1:], LENGTHS), (logits, tokens, LENGTHS[1:])]:
        with pytest.raises(AssertionError):
            masked_cross_entropy(*bad)
    with pytest.raises(AssertionError):
        masked_cross_entropy(logits, tokens.astype(np.float32), LENGTHS)


# ---- quantity loss ----


def test_quantity_loss_is_the_summed_distance():
    count = np.array([3.25, 0.0, 2.5], np.float32)
    value, gradient = jax.jit(jax.value_and_grad(quantity_loss))(count, LENGTHS)
    assert value == 0.75 + 0 + 0.5 and value.dtype == jnp.float32
    np.testing.assert_array_equal(gradient, [-1, 0, 1])  # the filled-up row asks for nothing


def test_quantity_loss_minds_weights_in_a_row_without_tokens():
    assert quantity_loss(np.array([0.5], np.float32), np.array([0], np.int32)) == 0.5


def test_quantity_loss_refuses_wrong_shapes():
    with pytest.raises(AssertionError):
        quantity_loss(np.zeros((3, 1), np.float32), LENGTHS)
