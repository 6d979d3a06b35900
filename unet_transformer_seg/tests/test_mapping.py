import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg.errors import UserError
from seg.published.layers import CONV1X1, CONV2D, UP_CONV, sigmoid_head
from seg.published.mapping import (
    AS_IS,
    LINEAR,
    MAX_LINES_SHOWN,
    Pair,
    export_arrays,
    import_arrays,
)

SOURCE = Path("weights.pth")
# Shapes there, in letters; a digit is a size that never changes.
LAYOUTS = {
    "as is": (AS_IS, "o", "o"),
    "linear": (LINEAR, "oi", "io"),
    "convolution": (CONV2D, "oihw", "hwio"),
    "1 × 1 convolution": (CONV1X1, "oi11", "io"),
    "transposed convolution": (UP_CONV, "iohw", "ihwo"),
    "1 × 1 kernel of one class": (sigmoid_head(CONV1X1), "1i11", "i2"),
    "bias of one class": (sigmoid_head(AS_IS), "1", "2"),
    "3 × 3 kernel of one class": (sigmoid_head(CONV2D), "1ihw", "hwi2"),
}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", LAYOUTS)
@settings(max_examples=20)
@given(sizes=st.fixed_dictionaries({letter: st.integers(1, 4) for letter in "oihw"}))
def test_a_layout_goes_there_and_back(kind, sizes):
    layout, theirs, ours = LAYOUTS[kind]
    shape, our_shape = (
        tuple(sizes[letter] if letter in sizes else int(letter) for letter in axes) for axes in (theirs, ours)
    )
    tensor, pairs = draw(*shape), [Pair("x", "weight", layout)]
    arrays = import_arrays(pairs, {"weight": tensor}, {"x": our_shape}, SOURCE)
    assert arrays["x"].shape == our_shape
    np.testing.assert_array_equal(export_arrays(pairs, arrays)["weight"], tensor, strict=True)
    if "2" not in ours:  # of two classes only the difference can go back
        array = draw(*our_shape, seed=1)
        again = import_arrays(pairs, export_arrays(pairs, {"x": array}), {"x": our_shape}, SOURCE)["x"]
        np.testing.assert_array_equal(again, array, strict=True)


@pytest.mark.parametrize("kind", ["linear", "convolution", "transposed convolution"])
def test_each_value_has_the_place_of_its_letters(kind):
    layout, theirs, ours = LAYOUTS[kind]
    tensor = draw(*range(2, 2 + len(theirs)))
    np.testing.assert_array_equal(layout.to_ours(tensor), np.einsum(f"{theirs}->{ours}", tensor))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.float32])
def test_any_float_becomes_float32_and_float32_is_not_copied(dtype):
    tensor = draw(2, 3).astype(dtype)
    found = import_arrays([Pair("x", "w", LINEAR)], {"w": tensor}, {"x": (3, 2)}, SOURCE)["x"]
    np.testing.assert_array_equal(found, tensor.T.astype(np.float32), strict=True)
    assert np.shares_memory(found, tensor) == (dtype == np.float32)


def test_layers_are_stacked_along_a_new_first_axis():
    pairs = [Pair("x", ("layer.0.w", "layer.1.w", "layer.2.w"), LINEAR)]
    tensors = {f"layer.{n}.w": draw(2, 3, seed=n) for n in range(3)}
    arrays = import_arrays(pairs, tensors, {"x": (3, 3, 2)}, SOURCE)
    np.testing.assert_array_equal(arrays["x"][1], tensors["layer.1.w"].T)
    back = export_arrays(pairs, arrays)
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)
    del tensors["layer.2.w"]
    with pytest.raises(UserError, match=r"layer.2.w: missing, expected \[2, 3\]"):
        import_arrays(pairs, tensors, {"x": (3, 3, 2)}, SOURCE)


def test_all_that_differs_is_listed_at_once():
    pairs = [Pair("a", "good"), Pair("b", "lost", CONV2D), Pair("c", "turned", LINEAR), Pair("d", "whole")]
    tensors = {"good": draw(2), "turned": draw(3, 2), "whole": np.ones(2, np.int64), "more": draw(1), "count": draw()}
    shapes = {"a": (2,), "b": (3, 3, 4, 5), "c": (3, 2), "d": (2,)}
    with pytest.raises(UserError) as error:
        import_arrays(pairs, tensors, shapes, SOURCE, ignored=lambda name: name == "count")
    assert str(error.value).splitlines() == [
        "weights.pth: 4 of its tensors do not fit the model:",
        "  lost: missing, expected [5, 4, 3, 3]",
        "  more: unexpected, float32[1]",
        "  turned: expected floats [2, 3], found float32[3, 2]",
        "  whole: expected floats [2], found int64[2]",
    ]


def test_a_long_list_is_cut():
    with pytest.raises(UserError, match=re.escape("50 of its tensors")) as error:
        import_arrays([], {f"t{n}": draw(1) for n in range(50)}, {}, SOURCE)
    lines = str(error.value).splitlines()
    assert len(lines) == 1 + MAX_LINES_SHOWN + 1 and lines[-1] == "  … and 10 more"


def test_pairs_that_do_not_cover_the_model_are_a_mistake_of_ours():
    for shapes in ({}, {"x": (1,), "y": (1,)}):
        with pytest.raises(AssertionError, match="do not cover"):
            import_arrays([Pair("x", "w")], {"w": draw(1)}, shapes, SOURCE)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tensors_that_are_not_finite_are_refused_by_their_names_there(dtype, value):
    pairs = [Pair("one", "theirs.one", AS_IS), Pair("two", "theirs.two", AS_IS)]
    tensors = {"theirs.one": np.ones((2, 3), dtype), "theirs.two": np.array([[1, 2], [3, value]], dtype)}
    with pytest.raises(UserError, match=r"weights are NaN or infinite in theirs\.two;"):
        import_arrays(pairs, tensors, {"one": (2, 3), "two": (2, 2)}, SOURCE)
