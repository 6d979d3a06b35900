"""Layer norm against its definition, and its precision."""

import jax
import jax.numpy as jnp
import numpy as np

from asr.ops.norm import layer_norm


def test_equals_the_definition_in_float64(keys):
    x, scale, bias = jax.random.normal(keys(), (2, 3, 8)) * 5 + 100, jax.random.normal(keys(), (8,)), jnp.arange(8.0)
    x64 = np.asarray(x, np.float64)
    normal = (x64 - x64.mean(-1, keepdims=True)) / np.sqrt(x64.var(-1, keepdims=True) + 1e-12)
    expected = normal * np.asarray(scale) + np.asarray(bias)
    np.testing.assert_allclose(layer_norm(x, scale, bias), expected, atol=2e-4)


def test_a_constant_vector_gives_the_bias_with_a_finite_gradient():
    x, ones, bias = jnp.full((1, 4), 3.0), jnp.ones(4), jnp.arange(4.0)
    np.testing.assert_array_equal(layer_norm(x, ones, bias)[0], bias)
    assert np.isfinite(jax.grad(lambda x: layer_norm(x, ones, bias)[0, 0])(x)).all()


def test_statistics_are_float32_for_bfloat16(key):
    x = (jax.random.normal(key, (4, 256)) + 50).astype(jnp.bfloat16)
    y = layer_norm(x, jnp.ones(256), jnp.zeros(256))
    assert y.dtype == jnp.bfloat16
    exact = layer_norm(x.astype(jnp.float32), jnp.ones(256), jnp.zeros(256))
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.02)
