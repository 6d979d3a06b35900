"""Spatial positions: what the fixed code tells apart, and how the learned table follows the grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.ops.position import interpolate_positions, sincos_2d


def test_sincos_is_the_formula():
    code = sincos_2d(3, 4, 8)
    assert code.shape == (3, 4, 8) and code.dtype == jnp.float32
    for r, c in np.ndindex(3, 4):
        omega = np.array([1.0, 0.01])  # 10000^(−i/2)
        expected = np.concatenate([np.sin(r * omega), np.cos(r * omega), np.sin(c * omega), np.cos(c * omega)])
        np.testing.assert_allclose(code[r, c], expected, atol=1e-6)


def test_every_position_has_its_own_code_and_equal_length():
    code = sincos_2d(13, 7, 32).reshape(91, 32)
    code = np.asarray(code)
    distance = np.linalg.norm(code[:, None] - code[None], axis=-1) + 9 * np.eye(91)
    assert distance.min() > 0.1
    np.testing.assert_allclose(np.linalg.norm(code, axis=-1), 4.0, rtol=1e-5)


def test_sincos_of_a_smaller_grid_is_a_part_of_a_larger_one():
    np.testing.assert_allclose(sincos_2d(3, 5, 16), sincos_2d(6, 9, 16)[:3, :5], atol=1e-6)


def test_rows_and_columns_are_told_apart():
    code = np.asarray(sincos_2d(4, 4, 16))
    assert (code[0, :, :8] == code[0, :1, :8]).all() and (code[:, 0, 8:] == code[:1, 0, 8:]).all()
    assert np.abs(code[1, 2] - code[2, 1]).max() > 0.1


def test_a_width_that_four_does_not_divide_is_refused():
    with pytest.raises(AssertionError):
        sincos_2d(2, 2, 6)


@pytest.mark.parametrize("size", [(4, 6), (7, 5), (1, 1), (16, 16)])
def test_a_learned_table_fits_any_grid(size):
    table = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
    positions = interpolate_positions(table, size=size)
    assert positions.shape == (*size, 8)
    assert positions.min() >= table.min() and positions.max() <= table.max()
    if size == (4, 6):
        np.testing.assert_array_equal(positions, table)


def test_a_doubled_grid_keeps_the_picture():
    """A table that grows evenly to the right still does after doubling, in steps half as large."""
    table = np.broadcast_to(np.arange(6.0)[None, :, None], (3, 6, 1)).astype(np.float32)
    doubled = interpolate_positions(table, size=(6, 12))[2, :, 0]
    np.testing.assert_allclose(doubled[1:-1], np.arange(1, 11) / 2 - 0.25, atol=1e-6)


def test_gradients_reach_the_whole_table(key):
    table = jax.random.normal(key, (3, 3, 4))
    gradient = jax.jit(jax.grad(lambda t: jnp.square(interpolate_positions(t, size=(5, 7))).sum()))(table)
    assert (np.abs(gradient) > 0).all()
