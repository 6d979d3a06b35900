"""Norms against float64 formulas, and who may influence whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.ops.norm import batch_norm_infer, batch_norm_train, group_norm, layer_norm


def draw(shape=(3, 4, 5, 6), mean=2.0):
    random = np.random.default_rng(0)
    x = mean + random.normal(size=shape) * np.linspace(0.5, 3, shape[-1])
    scale, bias = 1 + random.normal(size=shape[-1]) / 4, random.normal(size=shape[-1])
    return [a.astype(np.float32) for a in (x, scale, bias)]


def normalised(x, axes, epsilon, scale, bias):
    x, scale, bias = (np.asarray(a, np.float64) for a in (x, scale, bias))
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon) * scale + bias


def test_batch_norm_in_training():
    x, scale, bias = draw()
    y, mean, var = batch_norm_train(x, scale, bias, epsilon=1e-5)
    np.testing.assert_allclose(y, normalised(x, (0, 1, 2), 1e-5, scale, bias), atol=1e-5)
    np.testing.assert_allclose(mean, np.mean(x, (0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, np.var(x, (0, 1, 2)), rtol=1e-5)


def test_batch_norm_in_inference_uses_the_given_statistics():
    x, scale, bias = draw()
    y, mean, var = map(np.asarray, batch_norm_train(x, scale, bias))
    np.testing.assert_allclose(batch_norm_infer(x, scale, bias, mean, var), y, atol=1e-5)
    shifted = batch_norm_infer(x, scale, bias, mean + 1, var)
    expected = np.asarray(y - (scale / np.sqrt(var + 1e-5)).reshape(1, 1, 1, -1))
    np.testing.assert_allclose(shifted, expected, atol=1e-5)


def test_the_variance_survives_a_large_mean():
    """mean(x²) − mean(x)² in float32 has an error of about 1 here, as large as the variance itself."""
    x = draw((4, 8, 8, 2), mean=3000.0)[0]
    _, _, var = batch_norm_train(x, np.ones(2, np.float32), np.zeros(2, np.float32))
    np.testing.assert_allclose(var, np.var(np.asarray(x, np.float64), (0, 1, 2)), rtol=1e-3)
    one_pass = np.square(x).mean((0, 1, 2), np.float32) - np.square(np.mean(x, (0, 1, 2), np.float32))
    assert np.abs(one_pass - var).max() > 0.05


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm(groups):
    x, scale, bias = draw()
    grouped = np.asarray(x).reshape(3, 4, 5, groups, 6 // groups)
    plain = normalised(grouped, (1, 2, 4), 1e-5, 1.0, 0.0).reshape(x.shape)
    y = group_norm(x, scale, bias, groups=groups, epsilon=1e-5)
    np.testing.assert_allclose(y, plain * np.asarray(scale) + np.asarray(bias), atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8), (2, 3, 4, 8)])
def test_layer_norm_of_any_rank(shape):
    x, scale, bias = draw(shape)
    np.testing.assert_allclose(layer_norm(x, scale, bias), normalised(x, -1, 1e-6, scale, bias), atol=1e-5)


def influence(norm, x):
    """0/1 matrix: does image j of the batch change the result for image i?"""
    _, pull_back = jax.vjp(norm, x)
    target = np.random.default_rng(5).normal(size=x.shape).astype(np.float32)
    only = np.eye(len(x), dtype=np.float32)[:, :, None, None, None]
    gradients = [pull_back(jnp.asarray(image * target))[0] for image in only]
    return (np.abs(gradients).max((2, 3, 4)) > 1e-6).astype(int)


def test_images_meet_only_in_the_batch_norm_of_training():
    x, scale, bias = draw()
    everyone, oneself = np.ones((3, 3)), np.eye(3)
    np.testing.assert_array_equal(influence(lambda x: batch_norm_train(x, scale, bias)[0], x), everyone)
    np.testing.assert_array_equal(influence(lambda x: batch_norm_infer(x, scale, bias, bias, scale), x), oneself)
    np.testing.assert_array_equal(influence(lambda x: group_norm(x, scale, bias, groups=3), x), oneself)
    np.testing.assert_array_equal(influence(lambda x: layer_norm(x, scale, bias), x), oneself)


def test_statistics_are_float32_and_results_keep_the_dtype():
    x, scale, bias = draw((2, 16, 16, 4), mean=100.0)
    low = x.astype(jnp.bfloat16)
    y, mean, var = batch_norm_train(low, scale, bias)
    assert mean.dtype == var.dtype == jnp.float32
    np.testing.assert_allclose(mean, np.mean(np.asarray(low, np.float64), (0, 1, 2)), rtol=1e-6)
    exact = normalised(np.asarray(low, np.float64), (0, 1, 2), 1e-5, scale, bias)
    np.testing.assert_allclose(np.float32(y), exact, atol=0.05)
    results = [y, batch_norm_infer(low, scale, bias, mean, var), group_norm(low, scale, bias, groups=2)]
    assert all(r.dtype == jnp.bfloat16 for r in [*results, layer_norm(low, scale, bias)])


def test_a_single_value_per_channel_gives_the_bias():
    y, _, var = batch_norm_train(jnp.full((1, 1, 1, 2), 5.0), jnp.ones(2), jnp.array([1.0, -2.0]))
    np.testing.assert_allclose(y.ravel(), [1, -2])
    np.testing.assert_array_equal(var, 0)


def test_wrong_shapes_are_refused():
    x, ones = jnp.zeros((2, 3, 3, 6)), jnp.ones(6)
    with pytest.raises(AssertionError):
        group_norm(x, ones, ones, groups=4)
    with pytest.raises(AssertionError):
        batch_norm_train(x, ones[:5], ones)
    with pytest.raises(AssertionError):
        layer_norm(x, ones, ones[:5])
