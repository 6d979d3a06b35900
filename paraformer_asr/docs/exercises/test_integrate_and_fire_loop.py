"""Integrate-and-fire: split frames, frames that hold several tokens, and what is left at the end."""

import integrate_and_fire_loop
import numpy as np

UNIT = np.eye(4)
"""Frame t is the unit vector t, so a token's vector shows what each frame gave to it."""


def test_a_frame_is_split_where_a_token_fires():
    """The weights 0.4, 0.8, 0.5 and 0.9 of the course."""
    rows = integrate_and_fire_loop.integrate_and_fire(np.array([0.4, 0.8, 0.5, 0.9]), UNIT, 3)
    np.testing.assert_allclose(rows, [[0.4, 0.6, 0, 0], [0, 0.2, 0.5, 0.3], [0, 0, 0, 0.6]], atol=1e-9)


def test_a_weight_above_one_completes_several_tokens():
    """A test for 1 once per frame would fire one of them."""
    rows = integrate_and_fire_loop.integrate_and_fire(np.array([0.5, 2.7, 0.1, 0.4]), UNIT, 5)
    expected = [[0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0.2, 0.1, 0.4], [0, 0, 0, 0]]
    np.testing.assert_allclose(rows, expected, atol=1e-9)


def test_a_token_that_is_full_up_to_rounding_fires():
    """Ten times 0.1 is less than 1 in floating point."""
    hidden_td = np.arange(20.0)[:, None]
    rows = integrate_and_fire_loop.integrate_and_fire(np.full(20, 0.1), hidden_td, 3)
    np.testing.assert_allclose(rows[:, 0], [4.5, 14.5, 0], atol=1e-6)


def test_tokens_beyond_the_rows_are_left_out():
    """The rows that are there do not change."""
    alpha_t, hidden_td = np.full(40, 0.3), np.random.default_rng(0).normal(size=(40, 3))
    many = integrate_and_fire_loop.integrate_and_fire(alpha_t, hidden_td, 12)
    few = integrate_and_fire_loop.integrate_and_fire(alpha_t, hidden_td, 5)
    assert many.shape == (12, 3) and few.shape == (5, 3)
    np.testing.assert_allclose(few, many[:5], atol=1e-12)


def test_nothing_is_lost():
    """All rows together have collected every frame by its weight; silence adds nothing."""
    rng = np.random.default_rng(1)
    alpha_t, hidden_td = rng.uniform(0, 1.8, 50) * (rng.random(50) < 0.7), rng.normal(size=(50, 4))
    rows = integrate_and_fire_loop.integrate_and_fire(alpha_t, hidden_td, 100)
    np.testing.assert_allclose(rows.sum(0), alpha_t @ hidden_td, atol=1e-6)
    assert not integrate_and_fire_loop.integrate_and_fire(np.zeros(50), hidden_td, 2).any()
