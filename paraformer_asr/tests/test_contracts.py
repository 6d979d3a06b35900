"""Shape patterns and the detection of NaN and infinities: what passes, and what the messages say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.contracts import assert_shape, check_nan_inf


def test_letters_take_the_sizes_found():
    assert assert_shape(np.zeros((2, 5, 7, 3)), "B,U,T,3") == {"B": 2, "U": 5, "T": 7}
    assert assert_shape(np.zeros(()), "") == {}
    assert assert_shape(np.zeros((4, 4)), " side , side ") == {"side": 4}


@pytest.mark.parametrize(
    ("shape", "pattern", "said"),
    [
        ((2, 5, 7, 4), "B,U,T,3", "axis 3 (3) should be 3, is 4"),
        ((2, 5, 7, 1), "B,U,T,3", "axis 3 (3) should be 3, is 1"),
        ((2, 5, 7), "B,U,T,3", "4 axes expected, 3 found"),
        ((2, 5, 7), "B,T,T", "axis 2 (T) should be 5, is 7"),
        ((2,), "", "0 axes expected, 1 found"),
    ],
)
def test_a_wrong_shape_is_named(shape, pattern, said):
    with pytest.raises(AssertionError) as error:
        assert_shape(np.zeros(shape), pattern, "alignment")
    for part in ("alignment", f"[{pattern}]", str(list(shape)), said):
        assert part in str(error.value)


def test_sizes_given_bind_the_letters():
    dims = assert_shape(np.zeros((2, 5, 7, 3)), "B,U,T,I", I=3)
    assert assert_shape(np.zeros((2, 5, 7)), "B,U,T", **dims) == {"B": 2, "U": 5, "T": 7}
    with pytest.raises(AssertionError, match="should be 5, is 6"):
        assert_shape(np.zeros((2, 6, 7)), "B,U,T", **dims)


def test_shapes_are_checked_while_tracing():
    with pytest.raises(AssertionError, match="features"):
        jax.jit(lambda x: assert_shape(x, "B,T,3", "features") and x)(jnp.zeros((2, 3)))


@pytest.mark.parametrize("pattern", ["B,,C", "B;C", "-1", "B C"])
def test_a_malformed_pattern_is_refused(pattern):
    with pytest.raises(ValueError, match="pattern"):
        assert_shape(np.zeros(2), pattern)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_nan_and_infinities_are_counted_and_located(dtype):
    values = jnp.asarray([[1.0, -2.0, 0.5], [jnp.inf, jnp.nan, jnp.nan]], dtype)
    with pytest.raises(FloatingPointError) as error:
        check_nan_inf(values, "logits")
    message = str(error.value)
    for part in ("logits", "2 NaN", "1 infinite", "of 6", "(1, 0)", "-2 to 1", np.dtype(dtype).name):
        assert part in message


def test_an_array_without_any_finite_value():
    with pytest.raises(FloatingPointError, match="no finite value"):
        check_nan_inf(np.full(3, -np.inf), "loss")


@pytest.mark.parametrize("x", [1.5, np.arange(3), np.zeros(0), np.ones(2, bool), jnp.ones((2, 2), jnp.bfloat16)])
def test_finite_values_pass(x):
    check_nan_inf(x, "x")


def test_a_traced_value_is_refused_with_advice():
    with pytest.raises(TypeError, match="return it from the jitted function"):
        jax.jit(lambda x: check_nan_inf(x, "x"))(1.0)
