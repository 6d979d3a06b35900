"""Convolutions over time, against loops; padding never reaches real frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.ops.conv import conv1d, depthwise_conv1d, fsmn_memory
from drawn import draw

B, T, D, F, K = 2, 9, 3, 4, 5


def loop_depthwise(x, kernel, left):
    y = np.zeros_like(x)
    for t in range(T):
        for i in range(kernel.shape[0]):
            if 0 <= t - left + i < T:
                y[:, t] += kernel[i] * x[:, t - left + i]
    return y


def grouped(x, kernel, left):
    padding, numbers = [(left, K - 1 - left)], ("NTC", "TIO", "NTC")
    return jax.lax.conv_general_dilated(
        x, kernel[:, None], (1,), padding, dimension_numbers=numbers, feature_group_count=D
    )


@pytest.mark.parametrize("left", [0, 2, 4])
def test_depthwise_equals_the_loop_and_a_grouped_convolution(left):
    x, kernel = draw(B, T, D), draw(K, D, seed=1)
    y = depthwise_conv1d(x, kernel, left=left)
    np.testing.assert_allclose(y, loop_depthwise(x, kernel, left), atol=1e-5)
    np.testing.assert_allclose(y, jax.jit(grouped, static_argnums=2)(x, kernel, left), atol=1e-5)


@pytest.mark.parametrize("left", [0, 2, 4])
def test_the_gradient_of_the_depthwise_convolution_is_that_of_a_grouped_one(left):
    x, kernel, weight = draw(B, T, D), draw(K, D, seed=1), draw(B, T, D, seed=2)

    def gradients(convolve):
        return jax.grad(lambda x, kernel: (weight * convolve(x, kernel, left=left)).sum(), argnums=(0, 1))

    @jax.jit
    def compute(x, kernel):
        half = gradients(depthwise_conv1d)(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
        return gradients(depthwise_conv1d)(x, kernel), gradients(grouped)(x, kernel), half

    by_shifts, expected, half = jax.device_get(compute(x, kernel))
    for one, other in zip(by_shifts, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert [leaf.dtype for leaf in half] == [jnp.bfloat16] * 2
    np.testing.assert_allclose(half[1].astype(np.float32), expected[1], atol=0.15)


def test_conv1d_equals_the_compilers():
    x, kernel, bias = draw(B, T, D), draw(3, D, F, seed=1), draw(F, seed=2)
    expected = jax.lax.conv_general_dilated(x, kernel, (1,), [(1, 1)], dimension_numbers=("NTC", "TIO", "NTC"))
    np.testing.assert_allclose(conv1d(x, kernel, bias, left=1), np.asarray(expected) + bias, atol=1e-5)


def test_causal_taps_see_no_later_frame():
    x, kernel, valid = draw(1, T, D), draw(K, D, seed=1), np.ones((1, T), bool)
    jacobian = jax.jit(jax.jacobian(lambda x: fsmn_memory(x, kernel, valid, left=K - 1)[0].sum(-1)))(x)
    influence = np.asarray(jacobian)[:, 0].sum(-1)
    assert not np.triu(influence, 1).any() and np.tril(influence).any()


def test_the_memory_adds_the_frame_itself_and_ignores_padding():
    v, kernel = draw(B, T, D), draw(K, D, seed=1)
    valid = np.arange(T) < np.array([[T], [6]])
    memory = fsmn_memory(v, kernel, valid, left=2)
    masked = np.where(valid[..., None], v, 0)
    expected = np.where(valid[..., None], loop_depthwise(masked, kernel, 2) + masked, 0)
    np.testing.assert_allclose(memory, expected, atol=1e-5)
    poisoned = np.where(valid[..., None], v, np.float32(np.nan))
    np.testing.assert_array_equal(fsmn_memory(poisoned, kernel, valid, left=2), memory)


def test_contracts():
    x = draw(B, T, D)
    with pytest.raises(AssertionError):
        depthwise_conv1d(x, np.ones((K, D + 1), np.float32), left=2)
    with pytest.raises(AssertionError):
        fsmn_memory(x, np.ones((K, D), np.float32), np.ones((B, T), np.float32), left=2)
