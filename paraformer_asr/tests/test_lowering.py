"""What programs hold that are lowered here for a CPU and for a GPU: the same products, and no call of the other's."""

import collections
import dataclasses
import re

import jax
import jax.export
import jax.numpy as jnp
import optax
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from asr.checkpoints.arrays import named_arrays
from asr.config import Config, DecoderConfig, EncoderConfig, FeaturesConfig, InferenceConfig, ModelConfig
from asr.data.frontend import make_train_frontend
from asr.inference import tuning
from asr.inference.exported_program import export_program
from asr.inference.programs import abstract_sound, make_listen, make_spell
from asr.inference.shapes import Shape
from asr.models import abstract_variables, build_model
from asr.ops import attention
from asr.training.state import init_state
from asr.training.step import make_train_step

FEATURES = FeaturesConfig(num_mels=10, sample_rate_hz=8000)
MODEL = ModelConfig(
    vocab_size=9,
    input_dim=FEATURES.input_dim,
    encoder=EncoderConfig(num_layers=1, width=16, num_heads=2, ffn_width=16, kernel_size=3),
    decoder=DecoderConfig(num_layers=1, num_ffn_layers=0, num_heads=2, ffn_width=16, kernel_size=3),
)
CONFIG = Config(features=FEATURES, model=MODEL, inference=InferenceConfig(max_segment_s=2))
SHAPE = Shape(2, 16000)
FUSED_ATTENTION = {"__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"}
PRODUCTS = ("dot_general", "convolution", "fft")


def lower(function, platforms, *arguments):
    """Return the StableHLO of a function for these platforms, as written on this machine."""
    unstable = [jax.export.DisabledSafetyCheck.custom_call(name) for name in FUSED_ATTENTION]
    export = jax.export.export(jax.jit(function), platforms=platforms, disabled_checks=unstable)
    return export(*arguments).mlir_module()


def count(text):
    """Return how often each operation is written; equal layers share a function."""
    return collections.Counter(re.findall(r"stablehlo\.(\w+)", text))


def products(text):
    return {name: count(text)[name] for name in PRODUCTS}


def custom_calls(text):
    return set(re.findall(r"custom_call @([\w$.]+)", text))


def train_step():
    model, optimizer = build_model(MODEL), optax.adam(1e-3)
    step = make_train_step(model, optimizer, make_train_frontend(FEATURES, CONFIG.data, None), CONFIG)
    state = jax.eval_shape(lambda: init_state(model, FEATURES.input_dim, optimizer, jax.random.key(0), with_ema=False))
    wave_bn, lengths_b = abstract_sound(SHAPE)
    tokens_bu = jax.ShapeDtypeStruct((SHAPE.batch_size, 6), jnp.int32)
    return step, state, {"wave": wave_bn, "wave_lengths": lengths_b, "tokens": tokens_bu, "token_lengths": lengths_b}


def transcription():
    """Return the whole recognition as `asr.infer` runs it, for one number of tokens."""
    listen, spell = make_listen(CONFIG, None), make_spell(CONFIG)

    def transcribe(variables, wave_bn, lengths_b):
        return dataclasses.astuple(spell(variables, listen(variables, wave_bn, lengths_b), 8))

    return transcribe, abstract_variables(MODEL), *abstract_sound(SHAPE)


@pytest.mark.parametrize("program", [train_step, transcription])
def test_programs_for_a_cpu_and_a_gpu_have_the_same_products_and_no_custom_calls(program):
    function, *arguments = program()
    cpu, cuda = (lower(function, (platform,), *arguments) for platform in ("cpu", "cuda"))
    assert products(cpu) == products(cuda)
    assert products(cpu)["dot_general"] > 10 and products(cpu)["fft"] == 1
    assert products(cpu)["convolution"] <= 2  # the memory is shifted products, its gradient too
    assert not custom_calls(cpu) and not custom_calls(cuda)


def test_an_exported_program_is_for_both_and_does_not_depend_on_this_processor(monkeypatch):
    weights = named_arrays(abstract_variables(MODEL))
    programs = []
    for choice in (tuning.BY_DEFAULT, tuning.BY_YNNPACK):
        monkeypatch.setattr(tuning, "choose_products", lambda _, choice=choice: choice)
        programs.append(jax.export.deserialize(bytearray(export_program(CONFIG, None, weights))))
    first, second = (program.mlir_module() for program in programs)
    assert programs[0].platforms == ("cpu", "cuda")
    assert first == second
    function, *arguments = transcription()
    assert count(first)["dot_general"] >= count(lower(function, ("cuda",), *arguments))["dot_general"]
    assert custom_calls(first) <= {"shape_assertion"}  # of the number of utterances, which is open


@pytest.fixture
def cudnn(monkeypatch):
    """Let jax trace the fused attention as on a machine with its packages for NVIDIA GPUs."""
    monkeypatch.setattr(attention, "has_cudnn", lambda: True)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)


def test_fused_attention_is_in_a_program_for_a_gpu_only(cudnn):
    qkv, mask = [jax.ShapeDtypeStruct((2, 16, 2, 8), jnp.bfloat16)] * 3, jnp.ones((2, 1, 16), bool)

    def gradient(implementation):
        return jax.grad(lambda qkv: jnp.sum(attention.attention(*qkv, mask, implementation=implementation)))

    cpu, cuda = (lower(gradient("cudnn"), (platform,), qkv) for platform in ("cpu", "cuda"))
    assert custom_calls(cuda) == FUSED_ATTENTION and "dot_general" not in cuda
    assert products(cpu) == products(lower(gradient("explicit"), ("cpu",), qkv))
    assert not custom_calls(cpu)
