"""What programs hold that are lowered here for a CPU and for a GPU: each its own form of the convolutions, no other."""

import collections
import dataclasses
import re

import jax
import jax.export
import jax.numpy as jnp
import optax
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from seg.checkpoints.arrays import named_arrays
from seg.config import Config, LossConfig, ModelConfig, TransformerConfig
from seg.data.fit import window_shape
from seg.data.transforms import make_augment
from seg.inference.forward import make_forward
from seg.inference.model_folder import export_program
from seg.losses import build_loss
from seg.models import abstract_variables, build_model
from seg.ops import attention, cpu_conv
from seg.training.state import init_state
from seg.training.step import make_train_step

UNET = ModelConfig(name="unet", num_classes=3, base_width=8, depth=1, stem_stride=2)
HYBRID = dataclasses.replace(UNET, name="unet_transformer", transformer=TransformerConfig(num_layers=1, num_heads=2))
MODELS = {"unet": UNET, "unet_transformer": HYBRID}

FUSED_ATTENTION = {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}


@pytest.fixture(autouse=True, scope="module")
def large_convolutions():
    """Give every convolution of a tiny network the forms that a CPU has for large ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_conv, "WIDE", 1)
        patch.setattr(cpu_conv, "MANY_WEIGHTS", 0)
        jax.clear_caches()  # traces made with the usual limits
        yield
    jax.clear_caches()


def lower(function, platforms, *arguments):
    """Return the StableHLO of a function for these platforms, as written on this machine."""
    unstable = [jax.export.DisabledSafetyCheck.custom_call(name) for name in FUSED_ATTENTION]
    export = jax.export.export(jax.jit(function), platforms=platforms, disabled_checks=unstable)
    return export(*arguments).mlir_module()


def count(text):
    """Return how often each operation is written; equal layers share a function."""
    return collections.Counter(re.findall(r"stablehlo\.(\w+)", text))


def custom_calls(text):
    return set(re.findall(r"custom_call @([\w$.]+)", text))


def train_step(config):
    model, optimizer = build_model(config), optax.adam(1e-3)
    loss = build_loss(LossConfig(name="ce_dice"))
    step = make_train_step(model, optimizer, loss, make_augment(Config().data), seed=0)
    state = jax.eval_shape(lambda: init_state(model, (32, 32), optimizer, jax.random.key(0), with_ema=False))
    image = jax.ShapeDtypeStruct((2, *Config().data.size, 3), jnp.uint8)
    return step, state, {"image": image, "label": jax.ShapeDtypeStruct(image.shape[:3], jnp.uint8)}


def prediction(config):
    variables = abstract_variables(config)
    image = jax.ShapeDtypeStruct((1, *window_shape(Config()), 3), jnp.uint8)
    return make_forward(build_model(config), Config()), variables, image


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_has_the_convolutions_of_its_platform(name):
    function, *arguments = train_step(MODELS[name])
    cpu, cuda = (lower(function, (platform,), *arguments) for platform in ("cpu", "cuda"))
    assert "stablehlo.convolution" in cuda and "stablehlo.convolution" not in cpu
    assert count(cuda)["dot_general"] < count(cpu)["dot_general"]  # patches as matrix products
    assert count(cuda)["dynamic_slice"] < count(cpu)["dynamic_slice"]  # kernel gradients, band by band
    # Two of depth to space, three in the kernel gradient of each of five shapes.
    assert count(cpu)["optimization_barrier"] == 2 + 3 * 5 and "optimization_barrier" not in cuda
    assert not custom_calls(cpu) and not custom_calls(cuda)


@pytest.mark.parametrize("name", MODELS)
def test_a_prediction_has_the_convolutions_of_its_platform_and_an_exported_program_both(name):
    function, *arguments = prediction(MODELS[name])
    cpu, cuda = (lower(function, (platform,), *arguments) for platform in ("cpu", "cuda"))
    assert "stablehlo.convolution" in cuda and "stablehlo.convolution" not in cpu
    assert count(cuda)["dot_general"] < count(cpu)["dot_general"]  # patches as matrix products
    assert not custom_calls(cpu) and not custom_calls(cuda)

    config = dataclasses.replace(Config(), model=MODELS[name])
    exported = jax.export.deserialize(bytearray(export_program(config, named_arrays(arguments[0]))))
    both = exported.mlir_module()
    assert exported.platforms == ("cpu", "cuda")
    assert count(both)["convolution"] >= count(cuda)["convolution"]
    assert count(both)["dot_general"] >= count(cpu)["dot_general"]
    assert custom_calls(both) <= {"shape_assertion"}  # of the batch size, which is open


@pytest.fixture
def cudnn(monkeypatch):
    """Let jax trace the fused attention as on a machine with its packages for NVIDIA GPUs."""
    monkeypatch.setattr(attention, "has_cudnn", lambda: True)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)


def test_fused_attention_is_in_a_program_for_a_gpu_only(cudnn):
    qkv = [jax.ShapeDtypeStruct((2, 16, 2, 8), jnp.bfloat16)] * 3

    def gradient(implementation):
        return jax.grad(lambda qkv: jnp.sum(attention.attention(*qkv, implementation=implementation)))

    cpu, cuda = (lower(gradient("cudnn"), (platform,), qkv) for platform in ("cpu", "cuda"))
    assert custom_calls(cuda) == FUSED_ATTENTION and "dot_general" not in cuda
    assert count(cpu)["dot_general"] == count(lower(gradient("explicit"), ("cpu",), qkv))["dot_general"]
    assert not custom_calls(cpu)
