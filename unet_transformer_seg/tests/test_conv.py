"""Convolutions against loops in numpy, in both of the forms that they take on a CPU."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.ops import conv, cpu_conv, pool, winograd
from seg.ops.winograd import winograd_conv, winograd_kernel_gradient

# (height, width, channels in, channels out, kernel): small maps with many weights become one matrix product.
SIZES = [(8, 8, 4, 3, 3), (7, 5, 2, 3, 3), (1, 1, 3, 2, 3), (5, 9, 3, 4, 1), (6, 7, 2, 2, 5), (2, 2, 40, 33, 3)]


def slow_conv(x_bhwc, kernel_ijco, stride=1):
    """The sum of the definition, for each position of the kernel in a loop, in float64."""
    x_bhwc, kernel_ijco = np.asarray(x_bhwc, np.float64), np.asarray(kernel_ijco, np.float64)
    rows, columns, _, o = kernel_ijco.shape
    b, h, w, _ = x_bhwc.shape
    padded = np.pad(x_bhwc, ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
    y_bhwo = np.zeros((b, -(-h // stride), -(-w // stride), o))
    for i in range(0, h, stride):
        for j in range(0, w, stride):
            patch_bijc = padded[:, i : i + rows, j : j + columns]
            y_bhwo[:, i // stride, j // stride] = np.einsum("bijc,ijco->bo", patch_bijc, kernel_ijco)
    return y_bhwo


RANDOM = np.random.default_rng(0)


def draw(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def draw_conv(size):
    """Return an image, a kernel, and the gradient of a result."""
    h, w, c, o, side = size
    return draw(2, h, w, c), draw(side, side, c, o), draw(2, h, w, o)


@pytest.fixture
def winograd_everywhere(monkeypatch):
    """Take 3 × 3 convolutions of any width by Winograd's algorithm, in bands of two rows or more."""
    monkeypatch.setattr(cpu_conv, "WIDE", 1)
    monkeypatch.setattr(cpu_conv, "MANY_WEIGHTS", np.inf)
    monkeypatch.setattr(winograd, "PIXELS_PER_BAND", 2 * 2 * 6)
    jax.clear_caches()  # traces made with the usual limits
    yield
    jax.clear_caches()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_it_is_the_sum_of_its_definition(size):
    x_bhwc, kernel_ijco, _ = draw_conv(size)
    np.testing.assert_allclose(conv.conv2d(x_bhwc, kernel_ijco), slow_conv(x_bhwc, kernel_ijco), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(h, w, 3, 4, 3) for h in (1, 2, 5, 8) for w in (1, 6, 7)], ids=str)
def test_winograds_algorithm_gives_the_sums_of_the_definition(size, winograd_everywhere):
    x_bhwc, kernel_ijco, _ = draw_conv(size)
    trained = jax.jit(lambda *arrays: jax.vjp(conv.conv2d, *arrays)[0])
    expected = slow_conv(x_bhwc, kernel_ijco)
    np.testing.assert_allclose(trained(x_bhwc, kernel_ijco), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(conv.conv2d(x_bhwc, kernel_ijco), expected, rtol=1e-5, atol=1e-5)


def test_only_training_takes_winograds_algorithm():
    x_bhwc, kernel_ijco = jnp.zeros((1, 16, 16, 64)), jnp.zeros((3, 3, 64, 64))
    assert "while" not in jax.jit(conv.conv2d).lower(x_bhwc, kernel_ijco).as_text()
    trained = jax.jit(lambda *arrays: jax.vjp(conv.conv2d, *arrays)[0])
    assert "while" in trained.lower(x_bhwc, kernel_ijco).as_text()  # over bands of rows


def test_winograds_algorithm_rounds_like_the_definition():
    x_bhwc, kernel_ijco, dy_bhwo = draw(2, 16, 16, 128), draw(3, 3, 128, 64), draw(2, 16, 16, 64)
    wide = [array.astype(np.float64) for array in (x_bhwc, kernel_ijco, dy_bhwo)]
    with jax.enable_x64(True):
        exact = jax.device_get((cpu_conv._compiler_conv(*wide[:2]), *gradients(cpu_conv._compiler_conv, *wide)))
    ours = (winograd_conv(x_bhwc, kernel_ijco), winograd_kernel_gradient(x_bhwc, dy_bhwo))
    plain = (
        cpu_conv._compiler_conv(x_bhwc, kernel_ijco),
        gradients(cpu_conv._compiler_conv, x_bhwc, kernel_ijco, dy_bhwo)[1],
    )
    for found, by_compiler, expected in zip(ours, plain, (exact[0], exact[2]), strict=True):
        assert np.abs(found - expected).max() <= 3 * np.abs(by_compiler - expected).max()


def test_the_bias_is_added_and_a_stride_takes_every_second_pixel_of_odd_sizes():
    x_bhwc, kernel_ijco, _ = draw_conv((7, 9, 2, 3, 3))
    bias_o = np.arange(3, dtype=np.float32)
    expected = slow_conv(x_bhwc, kernel_ijco, stride=2) + np.arange(3.0)
    np.testing.assert_allclose(conv.conv2d(x_bhwc, kernel_ijco, bias_o, stride=2), expected, rtol=1e-4, atol=1e-4)


def gradients(function, x_bhwc, kernel_ijco, dy_bhwo):
    return jax.vjp(function, x_bhwc, kernel_ijco)[1](dy_bhwo)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradients_are_those_of_the_compilers_convolution(size):
    check_gradients(size)


@pytest.mark.parametrize("size", [(h, w, 3, 4, 3) for h in (1, 4, 5, 8) for w in (1, 6, 7)], ids=str)
def test_gradients_by_winograds_algorithm_are_those_of_the_compilers_convolution(size, winograd_everywhere):
    check_gradients(size)


def check_gradients(size):
    both = jax.jit(lambda *arrays: [gradients(f, *arrays) for f in (cpu_conv.same_conv, cpu_conv._compiler_conv)])
    for name, one, other in zip(("dx", "dkernel"), *both(*draw_conv(size)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3, err_msg=name)


def test_the_kernel_gradient_is_the_sum_of_its_definition():
    x_bhwc, _, dy_bhwo = draw_conv((5, 6, 3, 4, 3))
    padded = np.pad(x_bhwc, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(np.float64)
    expected = np.zeros((3, 3, 3, 4))
    for i in range(3):
        for j in range(3):
            expected[i, j] = np.einsum("bhwc,bhwo->co", padded[:, i : i + 5, j : j + 6], dy_bhwo)
    np.testing.assert_allclose(winograd_kernel_gradient(x_bhwc, dy_bhwo), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_its_dtype_and_sums_in_float32(winograd_everywhere):
    ones_bhwc = np.ones((1, 64, 64, 1), jnp.bfloat16)
    for side in (1, 3):
        kernel_ijco = np.ones((side, side, 1, 1), jnp.bfloat16)
        found = jax.jit(lambda *arrays: gradients(conv.conv2d, *arrays)[1])(ones_bhwc, kernel_ijco, ones_bhwc)
        assert found.dtype == jnp.bfloat16
        assert float(found[side // 2, side // 2, 0, 0]) == 4096  # a sum in bfloat16 would stop at 256
    x_bhwc, kernel_ijco = (array.astype(jnp.bfloat16) for array in draw_conv((8, 8, 4, 3, 3))[:2])
    for y_bhwo in (conv.conv2d(x_bhwc, kernel_ijco), winograd_conv(x_bhwc, kernel_ijco)):
        assert y_bhwo.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(y_bhwo), slow_conv(x_bhwc, kernel_ijco), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("form", ["compiler", "winograd"])
def test_it_can_be_mapped_and_recomputed(form, request):
    if form == "winograd":
        request.getfixturevalue("winograd_everywhere")
    x_bhwc, kernel_ijco, _ = draw_conv((6, 6, 3, 3, 3))

    def loss(x_bhwc, kernel_ijco):
        return jnp.square(conv.conv2d(conv.conv2d(x_bhwc, kernel_ijco), kernel_ijco)).sum()

    gradient = jax.grad(loss, argnums=1)
    expected = jax.jit(gradient)(x_bhwc, kernel_ijco)
    recomputed = jax.jit(jax.grad(jax.checkpoint(loss), argnums=1))(x_bhwc, kernel_ijco)
    np.testing.assert_allclose(recomputed, expected, rtol=1e-4)
    mapped = np.asarray(jax.jit(jax.vmap(gradient, in_axes=(0, None)))(x_bhwc[:, None], kernel_ijco))
    np.testing.assert_allclose(mapped.sum(0), expected, rtol=1e-3, atol=1e-2)


SPREAD = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from seg.ops import conv, cpu_conv
cpu_conv.WIDE, cpu_conv.MANY_WEIGHTS = 1, np.inf
keys = jax.random.split(jax.random.key(0), 2)
x, kernel = jax.random.normal(keys[0], (8, 6, 6, 3)), jax.random.normal(keys[1], (3, 3, 3, 4))
gradient = lambda x, kernel: jax.grad(lambda k: jnp.square(conv.conv2d(x, k)).sum())(kernel)
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
np.testing.assert_allclose(jax.jit(gradient)(spread, kernel), jax.jit(gradient)(x, kernel), rtol=1e-4, atol=1e-3)
print(len(spread.sharding.device_set))
"""


def test_a_batch_spread_over_eight_devices_gives_the_same_gradient():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SPREAD], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "8"


@pytest.mark.parametrize(("h", "w", "c", "o"), [(3, 4, 5, 2), (1, 1, 1, 1)])
def test_up_convolution_puts_a_scaled_kernel_at_each_block(h, w, c, o):
    x_bhwc, kernel_cijo = draw(2, h, w, c), draw(c, 2, 2, o)
    bias_o = np.arange(o, dtype=np.float32)
    expected = np.zeros((2, 2 * h, 2 * w, o))
    for i in range(h):
        for j in range(w):
            block = np.einsum("bc,cyxo->byxo", x_bhwc[:, i, j], kernel_cijo)
            expected[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = block
    found = conv.up_conv(x_bhwc, kernel_cijo, bias_o)
    np.testing.assert_allclose(found, expected + np.arange(o), rtol=1e-4, atol=1e-5)


def test_max_pool_takes_the_largest_of_each_block_and_drops_an_odd_rest():
    x_bhwc = draw(2, 5, 7, 3)
    expected = np.stack(
        [[x_bhwc[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2)) for j in range(3)] for i in range(2)]
    )
    np.testing.assert_array_equal(pool.max_pool(x_bhwc), np.moveaxis(expected, 2, 0))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_space_to_depth_keeps_each_block_together_and_can_be_undone(factor):
    x_bhwc = draw(2, 8, 4, 3)
    deep = np.asarray(conv.space_to_depth(x_bhwc, factor))
    np.testing.assert_array_equal(deep[1, 0, 0].reshape(factor, factor, 3), x_bhwc[1, :factor, :factor])
    np.testing.assert_array_equal(conv.depth_to_space(deep, factor), x_bhwc)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_the_gradient_of_depth_to_space_moves_back(factor):
    deep_bhwc, weights_bhwo = draw(2, 3, 4, 5 * factor**2), draw(2, 3 * factor, 4 * factor, 5)
    found = jax.jit(jax.grad(lambda x: jnp.sum(conv.depth_to_space(x, factor) * weights_bhwo)))(deep_bhwc)
    np.testing.assert_array_equal(found, conv.space_to_depth(weights_bhwo, factor))
