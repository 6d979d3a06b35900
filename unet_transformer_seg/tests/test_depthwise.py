"""Depthwise convolution against its equation in numpy, and its gradients against the compiler's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.ops.depthwise import Geometry, _compiler_conv, depthwise_conv, kernel_gradient, map_gradient, shifted_products

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

CASES = [
    ((2, 7, 9, 3), (3, 3), 1, "SAME"),
    ((1, 8, 6, 2), (5, 3), 2, "SAME"),
    ((3, 9, 7, 2), (5, 5), 2, ((2, 2), (2, 2))),
    ((1, 5, 40, 1), (3, 3), 1, ((1, 1), (1, 1))),
    ((2, 11, 8, 2), (3, 3), 3, "VALID"),
]
"""Shape of the map, size of the kernel, stride, padding."""


def draw(shape, size, dtype=np.float32):
    random = np.random.default_rng(0)
    return random.normal(size=shape).astype(dtype), random.normal(size=(*size, shape[-1])).astype(dtype)


def pads(shape, size, stride, padding):
    if padding == "VALID":
        return ((0, 0), (0, 0))
    if padding != "SAME":
        return padding
    totals = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k in zip(shape[1:3], size, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def oracle(x_bhwc, kernel_ijc, stride, sides):
    """Return the equation's sum, one position of the kernel at a time."""
    padded, (rows, columns, _) = np.pad(x_bhwc, ((0, 0), *sides, (0, 0))), kernel_ijc.shape
    height, width = ((n - k) // stride + 1 for n, k in zip(padded.shape[1:3], (rows, columns), strict=True))
    out = np.zeros((len(x_bhwc), height, width, x_bhwc.shape[-1]))
    for y, x in np.ndindex(height, width):
        patch = padded[:, y * stride : y * stride + rows, x * stride : x * stride + columns]
        out[:, y, x] = (patch * kernel_ijc).sum((1, 2))
    return out


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_sum_of_the_equation(case):
    shape, size, stride, padding = case
    x_bhwc, kernel_ijc = draw(shape, size)
    expected = oracle(x_bhwc, kernel_ijc, stride, pads(*case))
    np.testing.assert_allclose(depthwise_conv(x_bhwc, kernel_ijc, stride=stride, padding=padding), expected, atol=1e-5)
    geometry = Geometry(stride, *pads(*case))
    np.testing.assert_allclose(_compiler_conv(x_bhwc, kernel_ijc, geometry), expected, atol=1e-5)
    np.testing.assert_allclose(shifted_products(x_bhwc, kernel_ijc, geometry), expected, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_gradients_are_those_of_the_compiler(case):
    shape, size, stride, padding = case
    x_bhwc, kernel_ijc = draw(shape, size)
    geometry = Geometry(stride, *pads(*case))
    out, pull = jax.vjp(lambda x, k: _compiler_conv(x, k, geometry), x_bhwc, kernel_ijc)
    dout = np.random.default_rng(1).normal(size=out.shape).astype(np.float32)
    dx, dkernel = pull(dout)
    np.testing.assert_allclose(map_gradient(kernel_ijc, dout, shape, geometry), dx, atol=1e-5)
    np.testing.assert_allclose(
        quick_jit(lambda x, d: kernel_gradient(x, d, kernel_ijc.shape, geometry))(x_bhwc, dout), dkernel, atol=1e-4
    )


def test_the_gradient_of_the_public_function_is_the_written_one():
    x_bhwc, kernel_ijc = draw((2, 8, 6, 2), (3, 3))
    out, pull = jax.vjp(functools.partial(depthwise_conv, stride=2), x_bhwc, kernel_ijc)
    dx, dkernel = pull(jnp.ones_like(out))
    geometry = Geometry(2, (0, 1), (0, 1))
    _, expected = jax.vjp(lambda x, k: _compiler_conv(x, k, geometry), x_bhwc, kernel_ijc)
    for value, right in zip((dx, dkernel), expected(jnp.ones_like(out)), strict=True):
        np.testing.assert_allclose(value, right, atol=1e-5)


def test_bfloat16_is_summed_in_float32():
    x_bhwc, kernel_ijc = draw((1, 40, 40, 1), (3, 3))
    x_bhwc, kernel_ijc = jnp.asarray(abs(x_bhwc) + 1, jnp.bfloat16), jnp.ones_like(kernel_ijc, jnp.bfloat16)
    geometry = Geometry(1, (1, 1), (1, 1))
    exact = oracle(np.asarray(x_bhwc, np.float64), np.asarray(kernel_ijc, np.float64), 1, ((1, 1), (1, 1)))
    out = depthwise_conv(x_bhwc, kernel_ijc)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float64), exact, rtol=2**-8)
    # 1600 equal values: in bfloat16 the sum would stop growing at 256.
    dkernel = kernel_gradient(jnp.ones_like(x_bhwc), jnp.ones_like(x_bhwc), (3, 3, 1), geometry)
    assert float(dkernel[1, 1, 0]) == 1600


def test_the_compilers_form_is_lowered_elsewhere():
    x_bhwc, kernel_ijc = draw((1, 8, 8, 4), (3, 3))
    for platform, has_conv in (("cpu", False), ("cuda", True)):
        text = jax.jit(depthwise_conv).trace(x_bhwc, kernel_ijc).lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.convolution" in text) == has_conv
