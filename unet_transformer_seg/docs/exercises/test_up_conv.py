"""The up-convolution against the equation, pixel by pixel; its gradients against the adjoint."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from up_conv import up_conv


def draw(*shapes):
    """Return random float32 arrays, the same ones each time."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def loops(x_bhwc, kernel_cijo):
    """Return the sum of the equation for one pixel after the other."""
    (b, h, w, _), (_, r, s, o) = x_bhwc.shape, kernel_cijo.shape
    x_bhwc, kernel_cijo, y_bhwo = np.asarray(x_bhwc), np.asarray(kernel_cijo), np.zeros((b, r * h, s * w, o))
    for row, column, i, j in itertools.product(range(h), range(w), range(r), range(s)):
        y_bhwo[:, r * row + i, s * column + j] = x_bhwc[:, row, column] @ kernel_cijo[:, i, j]
    return y_bhwo


def test_one_pixel_becomes_the_kernel():
    """Not rotated: its first row is above."""
    (kernel_cijo,) = draw((1, 2, 2, 1))
    y_bhwo = up_conv(jnp.ones((1, 1, 1, 1)), kernel_cijo)
    np.testing.assert_array_equal(y_bhwo[0, :, :, 0], kernel_cijo[0, :, :, 0])


def test_values_are_those_of_the_loops():
    """Also where rows and columns grow by different factors, or not at all."""
    for image, kernel in [
        ((2, 3, 4, 3), (3, 2, 2, 5)),
        ((1, 3, 2, 2), (2, 3, 3, 1)),
        ((1, 2, 3, 2), (2, 1, 2, 3)),
        ((1, 2, 3, 2), (2, 4, 2, 3)),
        ((2, 2, 2, 3), (3, 1, 1, 2)),
    ]:
        x_bhwc, kernel_cijo = draw(image, kernel)
        y_bhwo = up_conv(x_bhwc, kernel_cijo)
        assert y_bhwo.dtype == jnp.float32
        np.testing.assert_allclose(y_bhwo, loops(x_bhwc, kernel_cijo), atol=1e-5)


def test_the_bias_is_added_once():
    """To each of the pixels of a block."""
    x_bhwc, kernel_cijo, bias_o = draw((1, 2, 2, 3), (3, 2, 2, 4), (4,))
    expected = loops(x_bhwc, kernel_cijo) + np.asarray(bias_o)
    np.testing.assert_allclose(up_conv(x_bhwc, kernel_cijo, bias_o), expected, atol=1e-5)


def test_gradients():
    """Those of image, kernel and bias, from the equation: each output has one pixel, so that they are plain sums."""
    x_bhwc, kernel_cijo, bias_o, weight = draw((2, 3, 2, 2), (2, 2, 3, 4), (4,), (2, 6, 6, 4))

    def total(x_bhwc, kernel_cijo, bias_o):
        return jnp.sum(weight * up_conv(x_bhwc, kernel_cijo, bias_o))

    dx, dkernel, dbias = jax.grad(total, argnums=(0, 1, 2))(x_bhwc, kernel_cijo, bias_o)
    weight, blocks = np.asarray(weight), np.zeros((2, 3, 2, 2, 3, 4))  # [b, h, w, i, j, o]
    for row, column, i, j in itertools.product(range(3), range(2), range(2), range(3)):
        blocks[:, row, column, i, j] = weight[:, 2 * row + i, 3 * column + j]
    np.testing.assert_allclose(dx, np.einsum("bhwijo,cijo->bhwc", blocks, kernel_cijo), atol=1e-4)
    np.testing.assert_allclose(dkernel, np.einsum("bhwijo,bhwc->cijo", blocks, x_bhwc), atol=1e-4)
    np.testing.assert_allclose(dbias, blocks.sum((0, 1, 2, 3, 4)), atol=1e-4)
