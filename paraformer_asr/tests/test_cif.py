"""Integrate-and-fire as overlap: against the published loop in values and gradients, and its count by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.ops import cif


def loop_cif(alpha, hidden, num_rows):
    """Integrate, fire, carry the rest on: the sequential form, in float64, for weights of any size.

    A token that is full up to rounding fires; what has not fired at the end is the last, partial row.
    """
    embeddings, row, level, collected = np.zeros((num_rows, hidden.shape[1])), 0, 0.0, np.zeros(hidden.shape[1])
    for weight, vector in zip(alpha, hidden, strict=True):
        while level + weight >= 1 - 1e-9:
            part = 1 - level
            if row < num_rows:
                embeddings[row] = collected + part * vector
            row, level, collected, weight = row + 1, 0.0, np.zeros_like(collected), weight - part
        level, collected = level + weight, collected + weight * vector
    if row < num_rows:
        embeddings[row] = collected
    return embeddings


def draw(seed, largest=0.6, t=40, d=3):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, largest, t).astype(np.float32), rng.normal(size=(t, d)).astype(np.float32)


@pytest.mark.parametrize("largest", [0.3, 0.9, 3.5])
def test_values_equal_the_loop(largest):
    for seed in range(10):
        alpha, hidden = draw(seed, largest)
        alignment = cif.align(cif.cumulative(alpha[None]), 25)
        embeddings = np.asarray(cif.integrate(alignment, hidden[None]))[0]
        expected = loop_cif(np.float64(alpha), np.float64(hidden), 25)
        np.testing.assert_allclose(embeddings, expected, atol=3e-5)


def test_gradients_equal_those_of_the_loop():
    alpha, hidden = draw(0, t=12)
    probe = np.random.default_rng(1).normal(size=(4, 3))

    def score(alpha, hidden):
        return jnp.sum(cif.integrate(cif.align(cif.cumulative(alpha[None]), 4), hidden[None])[0] * probe)

    by_alpha, by_hidden = jax.device_get(jax.jit(jax.grad(score, argnums=(0, 1)))(alpha, hidden))
    step = 1e-6
    for t in range(12):
        bumped = np.float64(alpha) + step * (np.arange(12) == t)
        lower = np.float64(alpha) - step * (np.arange(12) == t)
        slope = np.sum((loop_cif(bumped, hidden, 4) - loop_cif(lower, hidden, 4)) * probe) / (2 * step)
        np.testing.assert_allclose(by_alpha[t], slope, atol=1e-4)
    alignment = np.asarray(cif.align(cif.cumulative(alpha[None]), 4))[0]
    np.testing.assert_allclose(by_hidden, alignment.T @ probe, atol=1e-5)


def test_exactly_n_full_rows_on_ten_thousand_draws():
    """Any length, any scale of alpha, more tokens than frames or fewer: N rows of weight 1, and nothing behind them."""
    rng = np.random.default_rng(0)
    rows, frames, batch = 48, 160, 500
    full_rows = jax.jit(lambda a, v, n: cif.align(cif.scaled_cumulative(a, v, n), rows).sum(2))
    draws = 0
    for _ in range(20):
        lengths = rng.integers(1, frames + 1, batch)
        valid = np.arange(frames) < lengths[:, None]
        scale = 10.0 ** rng.uniform(-12, 6, (batch, 1))
        alpha = rng.uniform(size=(batch, frames)) ** rng.uniform(0.5, 8, (batch, 1)) * scale
        alpha = np.where(valid, alpha, 0).astype(np.float32)
        num_tokens = rng.integers(1, rows + 1, batch)
        sums = np.asarray(full_rows(alpha, valid, num_tokens.astype(np.int32)))
        expected = (np.arange(rows) < num_tokens[:, None]).astype(np.float32)
        np.testing.assert_allclose(sums, expected, atol=1e-4)
        draws += batch
    assert draws == 10_000


def test_the_scaled_sum_ends_at_the_count_to_the_last_bit():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 121, 2000)
    valid = np.arange(120) < lengths[:, None]
    alpha = np.where(valid, rng.uniform(size=valid.shape) ** 4, 0).astype(np.float32)
    num_tokens = rng.integers(1, 41, 2000).astype(np.int32)
    cumulative = np.asarray(cif.scaled_cumulative(alpha, valid, num_tokens))
    np.testing.assert_array_equal(cumulative[np.arange(2000), lengths - 1], num_tokens)
    np.testing.assert_array_equal(cumulative[:, -1], num_tokens)
    assert (np.asarray(cif.scaled_cumulative(0 * alpha, valid & False, num_tokens)) == 0).all()


def test_the_published_test_for_one_loses_the_last_token():
    """What the exact count is for: `≥ 1` on the same weights misses fires in float32."""
    lost = 0
    for seed in range(16):
        alpha, _ = draw(seed, t=120)
        num_tokens = 17
        scaled, level, fires = (alpha * np.float32(num_tokens / alpha.sum())).astype(np.float32), np.float32(0), 0
        for weight in scaled:
            level += weight
            if level >= np.float32(1):
                level, fires = level - np.float32(1), fires + 1
        lost += fires < num_tokens
        cumulative = cif.scaled_cumulative(alpha[None], np.ones((1, 120), bool), np.array([num_tokens], np.int32))
        np.testing.assert_allclose(np.sum(cif.align(cumulative, num_tokens), 2), 1, atol=1e-5)
    assert lost > 0


def test_weights_that_are_all_zero_are_shared_evenly():
    valid = np.arange(8)[None] < 6
    cumulative = cif.scaled_cumulative(np.zeros((1, 8), np.float32), valid, np.array([3], np.int32))
    alignment = np.asarray(cif.align(cumulative, 4))[0]
    np.testing.assert_allclose(alignment.sum(1), [1, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(alignment.sum(0), [0.5] * 6 + [0, 0], atol=1e-6)


def test_scaling_has_finite_gradients_everywhere():
    def score(alpha):
        valid, num_tokens = np.ones((3, 10), bool), np.array([4, 0, 3], np.int32)
        return jnp.square(cif.align(cif.scaled_cumulative(alpha, valid, num_tokens), 5)).sum()

    alpha = np.array([[1e-20], [0.3], [0]], np.float32).repeat(10, 1)
    assert np.isfinite(jax.jit(jax.grad(score))(alpha)).all()


def test_the_tail_stands_behind_the_last_frame():
    alpha = np.array([[0.5, 0.5, 0.6], [0.7, 0.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    extended = cif.add_tail(alpha, np.array([3, 1, 0], np.int32), 0.45)
    np.testing.assert_allclose(extended, [[0.5, 0.5, 0.6, 0.45], [0.7, 0.45, 0, 0], [0, 0, 0, 0]])


def test_alignment_columns_give_each_frame_its_weight():
    alpha, _ = draw(3, largest=2.0)
    alignment = np.asarray(cif.align(cif.cumulative(alpha[None]), 60))
    np.testing.assert_allclose(alignment[0].sum(0), alpha, atol=2e-5)
    assert (alignment >= 0).all()


def test_bfloat16_weights_are_refused():
    with pytest.raises(AssertionError):
        cif.cumulative(jnp.ones((1, 4), jnp.bfloat16))
