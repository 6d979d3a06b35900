"""The count of operations, against numbers that can be worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from asr.profiling.flops import count_flops


def zeros(*shape):
    return np.zeros(shape, np.float32)


def test_a_product_of_matrices():
    assert count_flops(lambda a, b: a @ b, zeros(3, 4), zeros(4, 5)) == 2 * 3 * 4 * 5
    batched = lambda a, b: jnp.einsum("bij,bjk->bik", a, b)  # noqa: E731
    assert count_flops(batched, zeros(7, 3, 4), zeros(7, 4, 5)) == 7 * 2 * 3 * 4 * 5


def test_a_convolution_and_its_groups():
    image, numbers = zeros(2, 8, 8, 6), ("NHWC", "HWIO", "NHWC")
    convolve = lambda x, w, groups: lax.conv_general_dilated(  # noqa: E731
        x, w, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )
    assert count_flops(lambda x, w: convolve(x, w, 1), image, zeros(3, 3, 6, 4)) == 2 * (2 * 8 * 8 * 4) * 9 * 6
    assert count_flops(lambda x, w: convolve(x, w, 6), image, zeros(3, 3, 1, 6)) == 2 * (2 * 8 * 8 * 6) * 9


def test_a_loop_counts_as_often_as_it_runs():
    def loop(x):
        return lax.scan(lambda carry, _: (carry @ carry, None), x, length=5)[0]

    assert count_flops(loop, zeros(4, 4)) == 5 * 2 * 4**3


def test_what_lies_within_is_counted():
    inner = jax.checkpoint(jax.jit(lambda x: x @ x))
    assert count_flops(jax.jit(inner), zeros(4, 4)) == 2 * 4**3


def test_a_backward_pass_of_a_product_costs_two_products():
    grad = jax.grad(lambda w, x: jnp.sum(jnp.sin(x @ w)), argnums=(0, 1))
    assert count_flops(grad, zeros(4, 5), zeros(3, 4)) == 3 * 2 * 3 * 4 * 5


def test_what_nobody_uses_is_left_out():
    def first(x):
        _unused = x @ x
        return jnp.sin(x)

    assert count_flops(first, zeros(4, 4)) == 0
