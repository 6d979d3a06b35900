"""Bilinear resizing against a loop over pixels, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.ops.resize import linear_weights, resize_bilinear

SIZES = [((3, 5), (6, 10)), ((4, 4), (2, 2)), ((5, 7), (3, 11)), ((1, 1), (2, 2)), ((2, 3), (1, 1)), ((1, 6), (4, 2))]


def draw(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def loop_resize(x_bhwc, size, align_corners):
    """Each new pixel from its four neighbours, one at a time, in float64."""
    x_bhwc = np.asarray(x_bhwc, np.float64)
    b, h, w, c = x_bhwc.shape
    y_byxc = np.zeros((b, *size, c))

    def place(new, old_length, new_length):
        if align_corners:
            position = new * (old_length - 1) / (new_length - 1) if new_length > 1 else 0.0
        else:
            position = max((new + 0.5) * old_length / new_length - 0.5, 0.0)
        low = int(position)
        return low, min(low + 1, old_length - 1), position - low

    for y, x in np.ndindex(*size):
        top, bottom, down = place(y, h, size[0])
        left, right, across = place(x, w, size[1])
        upper = (1 - across) * x_bhwc[:, top, left] + across * x_bhwc[:, top, right]
        lower = (1 - across) * x_bhwc[:, bottom, left] + across * x_bhwc[:, bottom, right]
        y_byxc[:, y, x] = (1 - down) * upper + down * lower
    return y_byxc


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_resize_is_the_loop(old, new, align_corners):
    x = draw(2, *old, 3)
    y = resize_bilinear(x, size=new, align_corners=align_corners)
    np.testing.assert_allclose(y, loop_resize(x, new, align_corners), atol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("old", "new"), SIZES[:3])
def test_the_gradient_is_that_of_the_dense_matrices(old, new, align_corners):
    x, target = draw(2, *old, 3), draw(2, *new, 3)
    rows = linear_weights(old[0], new[0], align_corners)
    columns = linear_weights(old[1], new[1], align_corners)
    _, pull_back = jax.vjp(lambda x: resize_bilinear(x, size=new, align_corners=align_corners), x)
    (gradient,) = pull_back(target)
    np.testing.assert_allclose(gradient, np.einsum("yh,byxc,xw->bhwc", rows, target, columns), atol=1e-5)


def test_values_written_by_hand():
    x = jnp.array([0.0, 3.0]).reshape(1, 1, 2, 1)
    corners = resize_bilinear(x, size=(1, 4), align_corners=True)
    np.testing.assert_allclose(corners.ravel(), [0, 1, 2, 3], atol=1e-6)
    areas = resize_bilinear(x, size=(1, 4), align_corners=False)
    np.testing.assert_allclose(areas.ravel(), [0, 0.75, 2.25, 3], atol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_constant_stays_constant_and_the_own_size_is_the_identity(align_corners):
    constant = resize_bilinear(jnp.full((1, 5, 6, 2), 7.0), size=(13, 4), align_corners=align_corners)
    np.testing.assert_allclose(constant, 7, rtol=1e-6)
    x = draw(1, 5, 6, 2)
    np.testing.assert_array_equal(resize_bilinear(x, size=(5, 6), align_corners=align_corners), x)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("n", "m"), [(5, 10), (10, 5), (7, 3), (1, 4), (9, 9)])
def test_the_weights_of_a_row(n, m, align_corners):
    weights = linear_weights(n, m, align_corners)
    assert weights.shape == (m, n) and (weights >= 0).all() and ((weights > 0).sum(1) <= 2).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)


def test_bfloat16_stays_bfloat16():
    x = draw(1, 4, 4, 2).astype(jnp.bfloat16)
    y = resize_bilinear(x, size=(8, 8), align_corners=True)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), loop_resize(x, (8, 8), True), atol=0.05)
