"""Weights in their final form give the answers of the trained ones."""

import dataclasses
import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.config import Config, DecoderConfig, EncoderConfig, ModelConfig
from asr.inference import processor, tuning
from asr.inference.processor import Processor
from asr.inference.tuning import BY_DEFAULT, BY_EIGEN, BY_ONEDNN, BY_YNNPACK, PackedWeights, ready_weights
from asr.models import build_model, stack_blocks
from asr.published.funasr import array_shapes

MODEL = ModelConfig(
    vocab_size=9,
    input_dim=12,
    encoder=EncoderConfig(num_layers=2, width=8, num_heads=2, ffn_width=12, kernel_size=3),
    decoder=DecoderConfig(num_layers=1, num_ffn_layers=0, num_heads=2, ffn_width=10, kernel_size=3),
)
FEATURES, LENGTHS = np.random.default_rng(1).normal(size=(2, 7, 12)).astype(np.float32), np.array([7, 4], np.int32)
XEON = Processor(is_intel=True, has_avx512=True)
XEON_WITH_AMX = Processor(is_intel=True, has_avx512=True, has_avx512_bf16=True, has_amx_bf16=True)
ZEN_4 = Processor(has_avx512=True, has_avx512_bf16=True)


def config(dtype="float32", scan=False):
    encoder = dataclasses.replace(MODEL.encoder, scan=scan)
    return Config(model=dataclasses.replace(MODEL, dtype=dtype, encoder=encoder))


@functools.cache
def variables():
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in array_shapes(MODEL).items()}
    return flax.traverse_util.unflatten_dict(arrays, sep="/")


# Compiling takes longer than running here, so the compiler is told not to polish its machine code.
quick_jit = functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})


@quick_jit
def listen(model_config, weights):
    return build_model(model_config).apply(weights, FEATURES, LENGTHS, method="encode")


@quick_jit
def answer(model_config, weights):
    """Return (frames and weights of the predictor, logits)."""
    model = build_model(model_config)
    acoustics = model.apply(weights, FEATURES, LENGTHS, method="encode")
    return acoustics, model.apply(weights, acoustics, 5, method="decode").logits_buv


def test_a_scanned_encoder_is_unrolled_and_answers_the_same():
    scanned = {**variables(), "params": stack_blocks(variables()["params"])}
    ready_config, ready = ready_weights(config(scan=True), scanned)
    assert ready_config == config()
    jax.tree.map(np.testing.assert_array_equal, ready, variables())
    found, expected = listen(ready_config.model, ready), listen(config(scan=True).model, scanned)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, expected)
    assert np.ptp(found.hidden_btd) > 1  # else the comparison says little


def test_in_float32_nothing_else_changes():
    ready_config, ready = ready_weights(config(), variables())
    assert ready_config == config()
    assert all(a is b for a, b in zip(jax.tree.leaves(ready), jax.tree.leaves(variables()), strict=True))


def test_kernels_are_rounded_once_and_the_answers_are_the_same_to_the_bit():
    ready_config, ready = ready_weights(config("bfloat16"), variables())
    assert ready_config == config("bfloat16")
    for name, leaf in flax.traverse_util.flatten_dict(ready["params"], sep="/").items():
        rounded = name.endswith("/kernel") and not name.startswith("predictor/")
        assert leaf.dtype == (jnp.bfloat16 if rounded else jnp.float32), name
    assert {leaf.dtype.name for leaf in jax.tree.leaves(ready)} == {"bfloat16", "float32"}
    (found, logits_buv), expected = (answer(ready_config.model, weights) for weights in (ready, variables()))
    jax.tree.map(np.testing.assert_array_equal, (found, logits_buv), expected)
    assert found.hidden_btd.dtype == jnp.bfloat16
    assert np.ptp(found.alpha_bt[0, :-1]) > 0.05 and np.ptp(logits_buv) > 0.5  # else the comparison says little


OLD_JAX, NEW_JAX, EVERYTHING = (0, 10, 2), (0, 12, 0), (BY_EIGEN, BY_ONEDNN)


@pytest.mark.parametrize(
    ("cores", "units", "version", "known", "float32", "bfloat16"),
    [
        (1, XEON, NEW_JAX, EVERYTHING, BY_ONEDNN, BY_DEFAULT),
        (2, XEON, NEW_JAX, EVERYTHING, BY_ONEDNN, BY_DEFAULT),
        (1, XEON, NEW_JAX, (BY_EIGEN,), BY_EIGEN, BY_DEFAULT),
        (1, XEON, OLD_JAX, EVERYTHING, BY_EIGEN, BY_DEFAULT),
        (2, XEON, OLD_JAX, EVERYTHING, BY_YNNPACK, BY_DEFAULT),
        (2, XEON, NEW_JAX, (), BY_YNNPACK, BY_DEFAULT),
        (1, XEON, OLD_JAX, (), BY_DEFAULT, BY_DEFAULT),
        (1, XEON_WITH_AMX, NEW_JAX, EVERYTHING, BY_ONEDNN, BY_DEFAULT),
        (1, ZEN_4, NEW_JAX, EVERYTHING, BY_EIGEN, BY_ONEDNN),
        (2, ZEN_4, NEW_JAX, EVERYTHING, BY_ONEDNN, BY_ONEDNN),
        (2, ZEN_4, NEW_JAX, (), BY_YNNPACK, BY_DEFAULT),
        (2, ZEN_4, OLD_JAX, EVERYTHING, BY_YNNPACK, BY_DEFAULT),
        (1, Processor(), NEW_JAX, EVERYTHING, BY_DEFAULT, BY_DEFAULT),
        (2, Processor(), NEW_JAX, EVERYTHING, BY_YNNPACK, BY_DEFAULT),
    ],
)
def test_products_on_a_cpu_are_chosen_by_units_version_and_cores(
    cores, units, version, known, float32, bfloat16, monkeypatch
):
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setattr(tuning, "num_cores", lambda: cores)
    monkeypatch.setattr(tuning, "this_processor", lambda: units)
    monkeypatch.setattr(tuning, "_accepts", lambda products: products in known)
    assert tuning.choose_products(config().model) is float32
    assert tuning.choose_products(config("bfloat16").model) is bfloat16
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert tuning.choose_products(config().model) is BY_DEFAULT


@pytest.mark.parametrize("products", [BY_DEFAULT, BY_EIGEN, BY_YNNPACK, BY_ONEDNN])
def test_packed_weights_are_the_same_to_a_program(products, monkeypatch):
    monkeypatch.setattr(tuning, "choose_products", lambda _: products)
    packed = PackedWeights(config().model, variables())
    assert packed.options == products.options
    jax.tree.map(np.testing.assert_array_equal, packed.variables, variables())
    shapes = [leaf.shape for leaf in jax.tree.leaves(packed.arrays)]
    assert (shapes != [leaf.shape for leaf in jax.tree.leaves(variables())]) == products.turned
    program = packed.reading(lambda weights, factor: jax.tree.map(lambda leaf: leaf * factor, weights))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, 2 * y), program(packed.arrays, 2), variables())


@pytest.mark.parametrize("products", [BY_EIGEN, BY_YNNPACK, BY_ONEDNN])
def test_every_way_to_compute_the_products_gives_the_same_answers(products, monkeypatch):
    if not tuning._accepts(products):
        pytest.skip("this version of the compiler does not know the options")
    monkeypatch.setattr(tuning, "choose_products", lambda _: products)
    packed, model = PackedWeights(config().model, variables()), build_model(MODEL)

    @packed.reading
    def both(weights):
        acoustics = model.apply(weights, FEATURES, LENGTHS, method="encode")
        return acoustics, model.apply(weights, acoustics, 5, method="decode").logits_buv

    found = jax.jit(both).lower(packed.arrays).compile(packed.options)(packed.arrays)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, answer(MODEL, variables()))


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("vendor_id\t: GenuineIntel\nmodel name\t: a\nflags\t\t: fpu avx2 avx512f avx512bw\n", XEON),
        ("vendor_id\t: GenuineIntel\nflags\t\t: avx512f avx512_bf16 amx_tile amx_bf16\nbugs\t\t:\n", XEON_WITH_AMX),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: avx512f avx512_bf16\n", ZEN_4),
        ("vendor_id\t: a\nmodel name\t: GenuineIntel avx512f amx_bf16\nflags\t\t: avx2 avx512fp16x\n", Processor()),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", Processor()),
        (None, Processor()),
    ],
)
def test_a_processor_is_what_the_system_tells(told, expected, tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    if told:
        file.write_text(told)
    monkeypatch.setattr(processor, "CPU_INFO", file)
    assert processor.this_processor.__wrapped__() == expected


def test_options_that_the_compiler_does_not_know_are_found_out():
    assert tuning._accepts(BY_DEFAULT)
    assert not tuning._accepts(tuning.Products({"xla_cpu_has_no_such_option": True}, turned=False))
