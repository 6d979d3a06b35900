"""Linear maps in 8-bit integers: the product, the weights of a model, and what is chosen for a processor."""

import dataclasses
import importlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import asr
from asr.config import Config, FeaturesConfig
from asr.config.reader import override_config
from asr.errors import UserError
from asr.inference import tuning
from asr.inference.int8_weights import MAPS, float_variables, quantize_maps
from asr.inference.processor import Processor
from asr.inference.transcriber import Transcriber
from asr.inference.tuning import BY_ONEDNN, BY_YNNPACK, PackedWeights, choose_dtype, ready_weights
from asr.models.layers import INT8_STEPS, Dense
from asr.ops.int8 import int8_product, quantize_kernel
from asr.serve.__main__ import parse_arguments as parse_service_arguments
from drawn import draw
from tiny_model import CMVN, TOKENIZER, random_variables, tiny_model

MODEL = tiny_model()
VARIABLES = random_variables(MODEL, scale=0.3)


def config(*overrides):
    features = FeaturesConfig(sample_rate_hz=8000, num_mels=10)
    model = dataclasses.replace(MODEL, input_dim=70)
    return override_config(Config(features=features, model=model), overrides)


# The product.


def test_a_kernel_is_within_half_a_step_and_zeros_stay_zeros():
    kernel_df = draw(30, 6)
    kernel_df[:, 2] = 0
    kernel_df[:, 3] *= 1000  # a column has a step of its own
    q_df, step_f = map(np.asarray, quantize_kernel(kernel_df))
    assert (q_df.dtype, np.abs(q_df[:, [0, 1, 3]]).max(0).tolist()) == (np.int8, [127] * 3)
    assert (np.abs(q_df * step_f - kernel_df) <= step_f / 2 * 1.001).all()
    assert step_f[2] == 1 and not q_df[:, 2].any()


@pytest.mark.parametrize("shape", [(5, 30), (2, 5, 30)])
def test_a_product_of_integers_is_that_of_the_rounded_floats(shape):
    """Against the definition in numpy's integers; vectors of very different sizes have steps of their own."""
    x, kernel_df = draw(*shape, seed=1) * np.logspace(-6, 6, shape[-2])[:, None].astype(np.float32), draw(30, 6)
    x[..., 3, :] = 0
    q_df, step_f = map(np.asarray, quantize_kernel(kernel_df))
    found = np.asarray(int8_product(x, q_df, step_f))
    s = np.abs(x).max(-1, keepdims=True) / 127
    rounded = np.round(x / np.where(s == 0, 1, s)).astype(np.int64)
    expected = (rounded @ q_df.astype(np.int64)) * s * step_f
    tolerance = np.abs(s) * step_f * 127  # one element of a vector may round the other way
    assert found.shape == (*shape[:-1], 6) and (np.abs(found - expected) <= tolerance).all()
    exact = x @ kernel_df
    assert np.abs(found - exact).max() / np.abs(exact).max() < 0.02
    with jax.debug_nans(True):  # a vector of zeros is not divided by its step
        assert not np.asarray(int8_product(x[..., 3, :], q_df, step_f)).any()


def test_what_is_not_finite_stays_so():
    """Rounding to integers would hide it."""
    q_df, step_f = quantize_kernel(draw(4, 3))
    x = np.ones((3, 4), np.float32)
    x[0, 1], x[1, 2] = np.nan, np.inf
    assert np.isfinite(np.asarray(int8_product(x, q_df, step_f))).all(-1).tolist() == [False, False, True]


def test_a_layer_computes_in_integers_when_its_kernel_is_one():
    layer, x = Dense(6), draw(2, 30)
    params = {"kernel": draw(30, 6, seed=2), "bias": draw(6, seed=3)}
    q_df, step_f = quantize_kernel(params["kernel"])
    variables = {"params": params | {"kernel": q_df}, INT8_STEPS: {"kernel": step_f}}
    jaxpr = str(jax.make_jaxpr(layer.apply)(variables, x))
    assert "i8[2,30]" in jaxpr and "i32[2,6]" in jaxpr
    expected = np.asarray(int8_product(x, q_df, step_f)) + params["bias"]
    np.testing.assert_allclose(layer.apply(variables, x), expected, rtol=1e-5)


# The weights.


def test_linear_maps_are_integers_and_the_rest_is_float32():
    _, variables = ready_weights(config("inference.dtype=int8"), VARIABLES)
    flat = flax.traverse_util.flatten_dict(variables["params"])
    maps = {path for path, leaf in flat.items() if leaf.dtype == jnp.int8}
    assert {path[-2] for path in maps} == {"qkv", "out", "expand", "contract", "q", "kv"} < MAPS
    assert {leaf.dtype.name for path, leaf in flat.items() if path not in maps} == {"float32"}
    assert flax.traverse_util.flatten_dict(variables[INT8_STEPS]).keys() == maps
    back = flax.traverse_util.flatten_dict(float_variables(variables)["params"])
    for path, leaf in flax.traverse_util.flatten_dict(VARIABLES["params"]).items():
        step = np.abs(leaf).max(0) / 127 if path in maps else 0
        assert (np.abs(back[path] - leaf) <= step * 0.501).all(), path
        assert back[path].dtype == np.float32


def test_packed_integers_come_back_as_they_were(monkeypatch):
    monkeypatch.setattr(tuning, "choose_products", lambda _: BY_ONEDNN)  # which is for floats
    variables = quantize_maps(VARIABLES)
    packed = PackedWeights(MODEL, variables)
    assert packed.options == BY_YNNPACK.options
    jax.tree.map(np.testing.assert_array_equal, packed.variables, variables)
    assert packed.arrays["params"]["encoder"]["block0"]["qkv"]["kernel"].dtype == jnp.int8


@pytest.fixture(scope="module")
def transcribers():
    parts = TOKENIZER, CMVN, VARIABLES
    return {name: Transcriber(config(f"inference.dtype={name}"), *parts) for name in ("float32", "int8")}


def test_a_transcriber_in_int8_hears_nearly_the_same(transcribers):
    waves = [0.1 * draw(8000, seed=seed) for seed in range(4)]
    answers = {name: [t.text for t in each.transcribe(waves, 8000)] for name, each in transcribers.items()}
    pairs = [(a, b) for x, y in zip(*answers.values(), strict=True) for a, b in zip(x, y, strict=False)]
    assert len(pairs) > 20 and np.mean([a == b for a, b in pairs]) > 0.8
    assert repr(transcribers["int8"]) == repr(transcribers["float32"])  # the steps are no parameters


def test_what_is_saved_is_float32(transcribers, monkeypatch):
    saved = []
    monkeypatch.setattr("asr.inference.model_folder.save_model_folder", lambda *parts, **_: saved.append(parts[4]))
    asr.save(transcribers["int8"], "folder")
    (found,), expected = saved, float_variables(transcribers["int8"].variables)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}


# The choice.


@pytest.mark.parametrize(
    ("asked", "trained", "units", "version", "expected"),
    [
        ("model", "bfloat16", False, (0, 10, 2), "bfloat16"),
        ("model", "float32", True, (0, 12, 0), "float32"),
        ("auto", "float32", True, (0, 12, 0), "bfloat16"),
        ("auto", "float32", True, (0, 10, 2), "float32"),
        ("auto", "bfloat16", False, (0, 12, 0), "float32"),
        ("float32", "bfloat16", True, (0, 12, 0), "float32"),
        ("bfloat16", "float32", False, (0, 10, 2), "bfloat16"),
        ("int8", "bfloat16", False, (0, 10, 2), "int8"),
    ],
)
def test_the_dtype_is_chosen_by_setting_units_and_version(asked, trained, units, version, expected, monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setattr(tuning, "this_processor", lambda: Processor(has_amx_bf16=units))
    chosen = config(f"inference.dtype={asked}", f"model.dtype={trained}")
    assert choose_dtype(chosen) == expected
    ready, _ = ready_weights(chosen, VARIABLES)
    assert ready.model.dtype == ("float32" if expected == "int8" else expected)


def test_on_another_device_int8_is_refused_and_auto_is_the_model(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choose_dtype(config("inference.dtype=auto", "model.dtype=bfloat16")) == "bfloat16"
    with pytest.raises(UserError, match="int8 is for CPUs, this is gpu; bfloat16 is faster here"):
        choose_dtype(config("inference.dtype=int8"))


def test_a_network_from_outside_has_its_own_dtype():
    with pytest.raises(UserError, match="inference.dtype: int8 needs a model of this package"):
        config("model.name=custom", "inference.dtype=int8")


@pytest.mark.parametrize("command", ["infer", "eval"])
def test_the_option_of_a_command_sets_the_dtype(command, monkeypatch):
    module, read = importlib.import_module(f"asr.{command}"), []

    def read_settings(folder, overrides, **_):
        read.extend(overrides)
        raise UserError("enough")

    monkeypatch.setattr(module, "read_settings", read_settings)
    inputs = ["--out", "scores"] if command == "eval" else ["a.wav"]
    monkeypatch.setattr("sys.argv", [command, "--model", "folder", "--dtype", "int8", *inputs])
    with pytest.raises(UserError, match="enough"):
        module.main()
    assert read == ["inference.dtype=int8"]


def test_the_option_of_the_service_sets_the_dtype(monkeypatch):
    monkeypatch.setattr("sys.argv", ["serve", "--model", "folder", "--dtype", "auto", "inference.batch_size=2"])
    assert parse_service_arguments().overrides == ["inference.batch_size=2", "inference.dtype=auto"]
