"""The convolution against loops over every pixel, in value and gradient."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from conv2d import conv2d


def draw(*shapes):
    """Return random float32 arrays, the same ones each time."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def loops(x_bhwc, kernel_ijco):
    """Return the sum of the equation, one product at a time."""
    (b, h, w, _), (i, j, _, o) = x_bhwc.shape, kernel_ijco.shape
    x_bhwc, kernel_ijco, y_bhwo = np.asarray(x_bhwc), np.asarray(kernel_ijco), np.zeros((b, h, w, o))
    for y, x, dy, dx in itertools.product(range(h), range(w), range(i), range(j)):
        row, column = y + dy - i // 2, x + dx - j // 2
        if 0 <= row < h and 0 <= column < w:
            y_bhwo[:, y, x] += x_bhwc[:, row, column] @ kernel_ijco[dy, dx]
    return y_bhwo


def test_a_kernel_of_one_weight_moves_the_image():
    """The weight right of the middle reads the pixel to the right: a correlation, the kernel is not flipped."""
    (x_bhwc,) = draw((1, 4, 5, 1))
    kernel_ijco = jnp.zeros((3, 3, 1, 1)).at[1, 2].set(1.0)
    expected = np.zeros((1, 4, 5, 1), np.float32)
    expected[:, :, :-1] = x_bhwc[:, :, 1:]
    np.testing.assert_array_equal(conv2d(x_bhwc, kernel_ijco), expected)


def test_values_are_those_of_the_loops():
    """Kernels with other rows than columns too, and images smaller than the kernel."""
    for image, kernel in [
        ((2, 6, 5, 3), (3, 3, 3, 4)),
        ((1, 7, 4, 2), (1, 5, 2, 1)),
        ((1, 4, 7, 2), (5, 1, 2, 3)),
        ((2, 3, 4, 2), (1, 1, 2, 3)),
        ((1, 1, 2, 1), (3, 3, 1, 2)),
    ]:
        x_bhwc, kernel_ijco = draw(image, kernel)
        y_bhwo = conv2d(x_bhwc, kernel_ijco)
        assert y_bhwo.shape == (*image[:3], kernel[3]) and y_bhwo.dtype == jnp.float32
        np.testing.assert_allclose(y_bhwo, loops(x_bhwc, kernel_ijco), atol=1e-5)


def test_the_bias_is_added_to_each_output_channel():
    """Also outside of nothing: at every pixel, once."""
    x_bhwc, kernel_ijco, bias_o = draw((1, 3, 3, 2), (3, 3, 2, 4), (4,))
    expected = loops(x_bhwc, kernel_ijco) + np.asarray(bias_o)
    np.testing.assert_allclose(conv2d(x_bhwc, kernel_ijco, bias_o), expected, atol=1e-5)


def test_gradients_are_those_of_the_sum():
    """The result is linear in each argument, so that a gradient is found by convolving unit vectors."""
    x_bhwc, kernel_ijco, bias_o, weight_bhwo = draw((1, 3, 4, 1), (3, 3, 1, 2), (2,), (1, 3, 4, 2))

    def total(x_bhwc, kernel_ijco, bias_o):
        return jnp.sum(weight_bhwo * conv2d(x_bhwc, kernel_ijco, bias_o))

    dx, dkernel, dbias = jax.grad(total, argnums=(0, 1, 2))(x_bhwc, kernel_ijco, bias_o)
    weight_bhwo = np.asarray(weight_bhwo)
    units = np.eye(x_bhwc.size, dtype=np.float32).reshape(-1, *x_bhwc.shape)
    expected = [np.sum(weight_bhwo * loops(unit, kernel_ijco)) for unit in units]
    np.testing.assert_allclose(dx.ravel(), expected, atol=1e-4)
    units = np.eye(kernel_ijco.size, dtype=np.float32).reshape(-1, *kernel_ijco.shape)
    expected = [np.sum(weight_bhwo * loops(x_bhwc, unit)) for unit in units]
    np.testing.assert_allclose(dkernel.ravel(), expected, atol=1e-4)
    np.testing.assert_allclose(dbias, np.sum(weight_bhwo, (0, 1, 2)), atol=1e-4)
