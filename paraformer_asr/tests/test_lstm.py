"""The long short-term memory beside a loop, and what padding must not change."""

import jax.numpy as jnp
import numpy as np
import pytest

from asr.ops.lstm import lstm
from drawn import draw

B, T, D, E = 3, 7, 4, 5
LENGTHS = np.array([7, 1, 4], np.int32)
KERNELS = draw(D, 4 * E, seed=1), draw(E, 4 * E, seed=2), draw(4 * E, seed=3)
X = draw(B, T, D)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop(x_td, backward=False):
    """Return the states of one sequence, step by step."""
    input_kernel, state_kernel, bias = KERNELS
    h, c, states = np.zeros(E), np.zeros(E), np.zeros((len(x_td), E))
    for t in reversed(range(len(x_td))) if backward else range(len(x_td)):
        i, f, g, o = np.split(x_td[t] @ input_kernel + h @ state_kernel + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states[t] = h
    return states, h


@pytest.mark.parametrize("backward", [False, True])
def test_it_is_the_loop_over_each_sequence_alone(backward):
    padded = np.where(np.arange(T)[None, :, None] < LENGTHS[:, None, None], X, np.nan)  # padding may hold anything
    h, last = lstm(jnp.array(padded), jnp.array(LENGTHS), *KERNELS, backward=backward)
    for row, length in enumerate(LENGTHS):
        states, end = loop(X[row, :length], backward)
        np.testing.assert_allclose(h[row, :length], states, atol=1e-5)
        np.testing.assert_allclose(last[row], end, atol=1e-5)
        assert not np.any(h[row, length:])


def test_no_step_at_all_leaves_zeros():
    h, last = lstm(X, jnp.zeros(B, jnp.int32), *KERNELS, backward=True)
    assert not np.any(h) and not np.any(last)
