"""Hashed dropout: rate, mean, independence of elements and keys."""

import jax
import numpy as np
import pytest

from asr.ops.dropout import dropout, random_bits

compiled, compiled_bits = jax.jit(dropout, static_argnums=2), jax.jit(random_bits, static_argnums=1)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.85])
def test_the_rate_and_the_mean_are_right(key, rate):
    y = np.asarray(compiled(np.ones((300, 400), np.float32), key, rate))
    dropped, deviation = (y == 0).mean(), np.sqrt(rate * (1 - rate) / y.size)
    assert abs(dropped - rate) < 5 * deviation
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


def test_equal_keys_drop_equal_elements_and_others_do_not(keys):
    x, one, other = np.ones((100, 100), np.float32), keys(), keys()
    np.testing.assert_array_equal(compiled(x, one, 0.5), compiled(x, one, 0.5))
    agree = (np.asarray(compiled(x, one, 0.5)) == np.asarray(compiled(x, other, 0.5))).mean()
    assert abs(agree - 0.5) < 0.03


def test_bits_are_uncorrelated_between_neighbours_rows_and_folded_keys(key):
    def bits(key):
        return (np.asarray(compiled_bits(key, (256, 256)))[..., None] >> np.arange(32)) & 1

    one, other = bits(jax.random.fold_in(key, 0)), bits(jax.random.fold_in(key, 1))
    assert abs(one.mean((0, 1)) - 0.5).max() < 0.012  # six deviations of 65,536 draws
    for partner in (np.roll(one, 1, 0), np.roll(one, 1, 1), np.roll(one, 2, 1), other):
        assert abs((one == partner).mean((0, 1)) - 0.5).max() < 0.012


def test_no_two_elements_of_a_mask_share_a_word(key):
    words = np.asarray(compiled_bits(key, (64, 32, 16))).ravel()
    assert len(np.unique(words)) > len(words) - 8  # 0.13 collisions are expected


def test_rate_zero_changes_nothing_and_gradients_follow_the_mask(key):
    x = np.arange(1, 101, dtype=np.float32)
    np.testing.assert_array_equal(dropout(x, key, 0.0), x)
    gradient = jax.jit(jax.grad(lambda x: dropout(x, key, 0.5).sum()))(x)
    np.testing.assert_array_equal(gradient, compiled(np.ones(100, np.float32), key, 0.5))
