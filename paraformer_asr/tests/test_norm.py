"""Layer norm against its definition, and its precision."""

import jax
import jax.numpy as jnp
import numpy as np

from asr.ops.norm import layer_norm
from drawn import draw


def test_equals_the_definition_in_float64():
    x, scale, bias = draw(2, 3, 8) * 5 + 100, draw(8, seed=1), np.arange(8, dtype=np.float32)
    x64 = np.asarray(x, np.float64)
    normal = (x64 - x64.mean(-1, keepdims=True)) / np.sqrt(x64.var(-1, keepdims=True) + 1e-12)
    expected = normal * scale + bias
    np.testing.assert_allclose(layer_norm(x, scale, bias), expected, atol=2e-4)


def test_a_constant_vector_gives_the_bias_with_a_finite_gradient():
    x, ones, bias = np.full((1, 4), 3, np.float32), np.ones(4, np.float32), np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(np.asarray(layer_norm(x, ones, bias))[0], bias)
    assert np.isfinite(jax.jit(jax.grad(lambda x: layer_norm(x, ones, bias)[0, 0]))(x)).all()


def test_statistics_are_float32_for_bfloat16():
    x, scale, bias = (draw(4, 256) + 50).astype(jnp.bfloat16), np.ones(256, np.float32), np.zeros(256, np.float32)
    y = np.asarray(layer_norm(x, scale, bias))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), layer_norm(x.astype(np.float32), scale, bias), atol=0.02)
