"""Convolutions over time, against loops; padding never reaches real frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.ops.conv import conv1d, depthwise_conv1d, fsmn_memory

B, T, D, F, K = 2, 9, 3, 4, 5


def loop_depthwise(x, kernel, left):
    y = np.zeros_like(x)
    for t in range(T):
        for i in range(kernel.shape[0]):
            if 0 <= t - left + i < T:
                y[:, t] += kernel[i] * x[:, t - left + i]
    return y


@pytest.mark.parametrize("left", [0, 2, 4])
def test_depthwise_equals_the_loop_and_a_grouped_convolution(keys, left):
    x, kernel = jax.random.normal(keys(), (B, T, D)), jax.random.normal(keys(), (K, D))
    y = depthwise_conv1d(x, kernel, left=left)
    np.testing.assert_allclose(y, loop_depthwise(np.asarray(x), np.asarray(kernel), left), atol=1e-5)
    grouped = jax.lax.conv_general_dilated(
        x, kernel[:, None], (1,), [(left, K - 1 - left)], dimension_numbers=("NTC", "TIO", "NTC"), feature_group_count=D
    )
    np.testing.assert_allclose(y, grouped, atol=1e-5)


@pytest.mark.parametrize("left", [0, 2, 4])
def test_the_gradient_of_the_depthwise_convolution_is_that_of_a_grouped_one(keys, left):
    x, kernel = jax.random.normal(keys(), (B, T, D)), jax.random.normal(keys(), (K, D))
    weight = jax.random.normal(keys(), (B, T, D))

    def grouped(x, kernel):
        padding, numbers = [(left, K - 1 - left)], ("NTC", "TIO", "NTC")
        return jax.lax.conv_general_dilated(
            x, kernel[:, None], (1,), padding, dimension_numbers=numbers, feature_group_count=D
        )

    expected = jax.grad(lambda x, kernel: (weight * grouped(x, kernel)).sum(), argnums=(0, 1))(x, kernel)

    def score(x, kernel):
        return (weight * depthwise_conv1d(x, kernel, left=left)).sum()

    found = jax.jit(jax.grad(score, argnums=(0, 1)))(x, kernel)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    half = jax.jit(jax.grad(score, argnums=(0, 1)))(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert [leaf.dtype for leaf in half] == [jnp.bfloat16] * 2
    np.testing.assert_allclose(half[1].astype(jnp.float32), expected[1], atol=0.15)


def test_conv1d_equals_the_compilers(keys):
    x, kernel, bias = (jax.random.normal(keys(), shape) for shape in ((B, T, D), (3, D, F), (F,)))
    expected = jax.lax.conv_general_dilated(x, kernel, (1,), [(1, 1)], dimension_numbers=("NTC", "TIO", "NTC"))
    np.testing.assert_allclose(conv1d(x, kernel, bias, left=1), expected + bias[None, None], atol=1e-5)


def test_causal_taps_see_no_later_frame(keys):
    x, kernel = jax.random.normal(keys(), (1, T, D)), jax.random.normal(keys(), (K, D))
    valid = jnp.ones((1, T), bool)
    jacobian = jax.jacobian(lambda x: fsmn_memory(x, kernel, valid, left=K - 1)[0].sum(-1))(x)[:, 0].sum(-1)
    assert not np.triu(np.asarray(jacobian), 1).any() and np.tril(np.asarray(jacobian)).any()


def test_the_memory_adds_the_frame_itself_and_ignores_padding(keys):
    v, kernel = jax.random.normal(keys(), (B, T, D)), jax.random.normal(keys(), (K, D))
    valid = jnp.arange(T)[None] < jnp.array([[T], [6]])
    memory = fsmn_memory(v, kernel, valid, left=2)
    masked = np.where(valid[..., None], v, 0)
    expected = np.where(valid[..., None], loop_depthwise(masked, np.asarray(kernel), 2) + masked, 0)
    np.testing.assert_allclose(memory, expected, atol=1e-5)
    poisoned = jnp.where(valid[..., None], v, jnp.nan)
    np.testing.assert_array_equal(fsmn_memory(poisoned, kernel, valid, left=2), memory)


def test_contracts(keys):
    x = jax.random.normal(keys(), (B, T, D))
    with pytest.raises(AssertionError):
        depthwise_conv1d(x, jnp.ones((K, D + 1)), left=2)
    with pytest.raises(AssertionError):
        fsmn_memory(x, jnp.ones((K, D)), jnp.ones((B, T)), left=2)
