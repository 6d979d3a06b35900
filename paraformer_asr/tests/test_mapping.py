"""Pairs of arrays here and tensors there: both ways, and everything that does not fit listed at once."""

from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest

from asr.errors import UserError
from asr.published import funasr_pairs, mapping
from asr.published.funasr_pairs import CONV1D, DEPTHWISE
from asr.published.mapping import AS_IS, LINEAR, Pair, export_arrays, import_arrays

SOURCE = Path("model.pt")
AXES = {"AS_IS": "io", "LINEAR": "oi", "DEPTHWISE": "o1k", "CONV1D": "oik"}
"""Axes of each layout there; those here, in `ours_at`, are written out once more as a slow, obvious rule."""


def ours_at(layout, theirs, index):
    """The value that our array has at an index, looked up in the tensor."""
    match layout:
        case "LINEAR":
            i, o = index
            return theirs[o, i]
        case "DEPTHWISE":
            k, o = index
            return theirs[o, 0, k]
        case "CONV1D":
            k, i, o = index
            return theirs[o, i, k]
    return theirs[index]


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def theirs_of(layout, sizes, seed=0):
    sizes = {"i": sizes[0], "o": sizes[1], "k": sizes[2], "1": 1}
    return draw([sizes[axis] for axis in AXES[layout]], seed)


@pytest.mark.parametrize("layout", AXES)
@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(sizes=st.tuples(*[st.integers(1, 4)] * 3))
def test_values_go_to_their_places_and_come_back(layout, sizes):
    theirs = theirs_of(layout, sizes)
    pair = Pair("params/x", "x.weight", getattr(funasr_pairs if hasattr(funasr_pairs, layout) else mapping, layout))
    shape = pair.layout.to_ours(theirs).shape
    ours = import_arrays([pair], {"x.weight": theirs}, {"params/x": shape}, SOURCE)["params/x"]
    assert all(ours[index] == ours_at(layout, theirs, index) for index in np.ndindex(ours.shape))
    assert np.shares_memory(ours, theirs)
    back = export_arrays([pair], {"params/x": ours})
    assert list(back) == ["x.weight"]
    np.testing.assert_array_equal(back["x.weight"], theirs)


@pytest.mark.parametrize("layout", AXES)
def test_an_array_of_all_layers_holds_one_tensor_for_each(layout):
    tensors = {f"layers.{i}.weight": theirs_of(layout, (2, 3, 4), seed=i) for i in range(3)}
    pair = Pair("params/x", tuple(tensors), getattr(funasr_pairs if hasattr(funasr_pairs, layout) else mapping, layout))
    parts = [pair.layout.to_ours(tensor) for tensor in tensors.values()]
    ours = import_arrays([pair], tensors, {"params/x": (3, *parts[0].shape)}, SOURCE)["params/x"]
    np.testing.assert_array_equal(ours, parts)
    back = export_arrays([pair], {"params/x": ours})
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_floats_of_any_width_become_float32(dtype):
    tensor = np.asarray([[1.5, -2.0, 0.0]], dtype)
    pairs = [Pair("one", "a", LINEAR), Pair("all", ("a", "a"))]
    found = import_arrays(pairs, {"a": tensor}, {"one": (3, 1), "all": (2, 1, 3)}, SOURCE)
    for array in found.values():
        assert array.dtype == np.float32
    np.testing.assert_array_equal(found["one"][:, 0], [1.5, -2, 0])
    np.testing.assert_array_equal(found["all"], [[[1.5, -2, 0]]] * 2)


PAIRS = [
    Pair("params/a", "a.weight", LINEAR),
    Pair("params/b", "b.weight", DEPTHWISE),
    Pair("params/c", ("c.0.weight", "c.1.weight"), CONV1D),
    Pair("params/d", "d.bias", AS_IS),
    Pair("params/e", "e.bias", AS_IS),
]
SHAPES = {
    "params/a": (2, 3),
    "params/b": (5, 4),
    "params/c": (2, 3, 2, 4),
    "params/d": (6,),
    "params/e": (7,),
}


def test_all_that_is_missing_superfluous_or_of_another_shape_is_listed_at_once():
    tensors = {
        "a.weight": draw((2, 3)),
        "b.weight": draw((4, 2, 5)),
        "c.0.weight": draw((4, 2, 3)),
        "d.bias": np.zeros(6, np.int64),
        "e.bias": draw(()),
        "surplus.weight": draw((9, 1)),
        "surplus.num_batches": np.array(3),
    }
    with pytest.raises(UserError) as error:
        import_arrays(PAIRS, tensors, SHAPES, SOURCE, lambda name: name.endswith("num_batches"))
    first, *lines = str(error.value).splitlines()
    assert first == "model.pt: 6 of its tensors do not fit the model:"
    assert lines == [
        "  a.weight: expected floats [3, 2], found float32[2, 3]",
        "  b.weight: expected floats [4, 1, 5], found float32[4, 2, 5]",
        "  c.1.weight: missing, expected [4, 2, 3]",
        "  d.bias: expected floats [6], found int64[6]",
        "  e.bias: expected floats [7], found float32[]",
        "  surplus.weight: unexpected, float32[9, 1]",
    ]


def test_a_long_list_is_cut_off():
    tensors = {f"surplus.{i:03}": draw(1) for i in range(50)}
    with pytest.raises(UserError) as error:
        import_arrays([], tensors, {}, SOURCE)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("model.pt: 50 of its tensors")
    assert lines[1:3] == ["  surplus.000: unexpected, float32[1]", "  surplus.001: unexpected, float32[1]"]
    assert lines[-1] == "  … and 10 more"
    assert len(lines) == 42


def test_a_table_that_does_not_cover_the_model_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="params/e"):
        import_arrays(PAIRS[:-1], {}, SHAPES, SOURCE)
    with pytest.raises(AssertionError, match="params/c has 3 layers, but 2 names"):
        import_arrays(PAIRS, {}, SHAPES | {"params/c": (3, 3, 2, 4)}, SOURCE)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tensors_that_are_not_finite_are_refused_by_their_names_there(dtype, value):
    pairs = [Pair("one", "theirs.one", AS_IS), Pair("two", "theirs.two", AS_IS)]
    tensors = {"theirs.one": np.ones((2, 3), dtype), "theirs.two": np.array([[1, 2], [3, value]], dtype)}
    with pytest.raises(UserError, match=r"weights are NaN or infinite in theirs\.two;"):
        import_arrays(pairs, tensors, {"one": (2, 3), "two": (2, 2)}, SOURCE)
