"""The spread of fresh parameters, and that drawing them flat changes no value."""

import jax
import numpy as np
import pytest

from seg.models.layers import table_normal, truncated_normal, xavier_uniform
from seg.models.transformer import residual_init

SHAPE = (3, 3, 16, 24)


@pytest.mark.parametrize(
    ("init", "variance", "bound"),
    [
        (truncated_normal(2.0), 2 / 144, 2.28),
        (truncated_normal(1.0), 1 / 144, 2.28),
        (table_normal(0.02), 0.0004, 2.28),
        (xavier_uniform(), 2 / (144 + 24), 3**0.5),
        (residual_init(4), 2 / (144 + 24) / 8, 3**0.5),
    ],
    ids=["relu", "linear", "table", "xavier", "residual of 4 layers"],
)
def test_mean_spread_and_bound(key, init, variance, bound):
    values = np.asarray(init(key, SHAPE))
    assert values.shape == SHAPE and values.dtype == np.float32
    assert abs(values.mean()) < 0.05 * variance**0.5
    assert np.isclose(values.var(), variance, rtol=0.05)
    assert 0.9 * bound < np.abs(values).max() / variance**0.5 < 1.01 * bound


def test_a_flat_draw_is_the_same_draw(key):
    flat = truncated_normal(2.0)(key, (2, 3, 4))
    shaped = jax.random.truncated_normal(key, -2, 2, (2, 3, 4)) * ((2 / 6) ** 0.5 / 0.87962566)
    np.testing.assert_allclose(flat, shaped, rtol=1e-6)
