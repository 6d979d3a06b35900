"""The overlap: values and gradients of the loop, exactly N rows, and weights of any scale."""

import integrate_and_fire_overlap as overlap
import jax
import jax.numpy as jnp
import numpy as np


def loop(alpha_t, num_rows):
    """Return float64[u, t], by the loop: what each frame gave to each token."""
    alignment_ut, row, level = np.zeros((num_rows, len(alpha_t))), 0, 0.0
    for t, weight in enumerate(np.float64(alpha_t)):
        while level + weight >= 1:
            if row < num_rows:
                alignment_ut[row, t] = 1 - level
            weight -= 1 - level
            row, level = row + 1, 0.0
        if row < num_rows:
            alignment_ut[row, t] = weight
        level += weight
    return alignment_ut


def draw(seed, largest):
    """Return float32[1, 30], weights."""
    return np.random.default_rng(seed).uniform(0, largest, (1, 30)).astype(np.float32)


def test_it_is_the_loop_for_weights_of_any_size():
    """Small weights, weights near 1, and some that complete several tokens."""
    for seed, largest in enumerate([0.3, 0.9, 3.5]):
        alpha_1t = draw(seed, largest)
        alignment = overlap.align(jnp.cumsum(alpha_1t, axis=1), 20)
        assert alignment.shape == (1, 20, 30) and alignment.dtype == jnp.float32
        np.testing.assert_allclose(alignment[0], loop(alpha_1t[0], 20), atol=3e-5)


def test_gradients_are_those_of_the_loop():
    """The loop's slope by finite differences, where no sum is at a whole number."""
    alpha_1t, probe_ut = draw(4, 0.6), np.random.default_rng(5).normal(size=(4, 30))

    def score(alpha_1t):
        return jnp.sum(overlap.align(jnp.cumsum(alpha_1t, axis=1), 4)[0] * probe_ut)

    slopes_t = np.asarray(jax.grad(score)(alpha_1t))[0]
    for t in range(0, 30, 5):
        step_t = 1e-6 * (np.arange(30) == t)
        up, down = (np.sum(loop(np.float64(alpha_1t[0]) + side * step_t, 4) * probe_ut) for side in (1, -1))
        np.testing.assert_allclose(slopes_t[t], (up - down) / 2e-6, atol=1e-3)


def test_n_tokens_are_n_full_rows():
    """Whatever the length, the number of tokens and the scale of the weights: no rounding loses the last one."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 121, 400)
    valid = np.arange(120) < lengths[:, None]
    alpha = rng.uniform(size=(400, 120)) ** 4 * 10.0 ** rng.uniform(-12, 6, (400, 1))
    alpha = np.where(valid, alpha, 0).astype(np.float32)
    num_tokens = rng.integers(1, 41, 400).astype(np.int32)
    cumulative = overlap.scaled_cumulative(alpha, valid, num_tokens)
    np.testing.assert_allclose(np.asarray(cumulative)[:, -1], num_tokens, rtol=1e-6)
    sums = np.asarray(overlap.align(cumulative, 44)).sum(2)
    np.testing.assert_allclose(sums, np.arange(44) < num_tokens[:, None], atol=1e-4)


def test_weights_that_are_all_zero_are_shared_evenly():
    """Six real frames, three tokens: half a token each; their gradient is finite."""
    valid = np.arange(8)[None] < 6

    def score(alpha):
        cumulative = overlap.scaled_cumulative(alpha, valid, np.array([3], np.int32))
        return jnp.sum(jnp.square(overlap.align(cumulative, 4)))

    cumulative = overlap.scaled_cumulative(np.zeros((1, 8), np.float32), valid, np.array([3], np.int32))
    alignment = np.asarray(overlap.align(cumulative, 4))[0]
    np.testing.assert_allclose(alignment.sum(0), [0.5] * 6 + [0, 0], atol=1e-6)
    np.testing.assert_allclose(alignment.sum(1), [1, 1, 1, 0], atol=1e-6)
    assert np.isfinite(jax.grad(score)(np.zeros((1, 8), np.float32))).all()
