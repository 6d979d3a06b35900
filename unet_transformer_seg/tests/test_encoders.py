"""The encoders and decoders by choice: published sizes, maps, recorded values, switches, groups of parameters."""

import dataclasses
import functools
import sys
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.checkpoints.arrays import named_arrays
from seg.config import Config, ModelConfig, OptimizerConfig, TransformerConfig, UNetDecoderConfig
from seg.config.rules import COARSEST_WIDTHS, check_config
from seg.errors import UserError
from seg.models import build_model, count_parameters
from seg.models.efficientnet_lite import FACTORS, EfficientNetLite, plan_stages
from seg.models.encoders import RESNETS, build_encoder
from seg.models.mix_transformer import VARIANTS, MixTransformer
from seg.models.segformer import SegFormerDecoder
from seg.published.encoders import (
    IN_TRANSFORMERS,
    is_key_bias,
    lite_pairs,
    mit_pairs,
    resnet_pairs,
    segformer_decoder_pairs,
)
from seg.published.mapping import export_arrays, import_arrays
from seg.training.parameter_groups import check_groups, frozen_mask, rate_factors

sys.path.insert(0, str(Path(__file__).parent))
from drawn_tensors import NARROW_LITE, NARROW_MIT, draw_image, draw_tensor  # noqa: E402

RECORDED = Path(__file__).parent / "recorded" / "encoders.npz"

# Compiling takes longer than running here, so the compiler is told not to polish its machine code.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

PARAMETERS = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "efficientnet_lite0": 2_958_848,
    "efficientnet_lite1": 3_723_520,
    "efficientnet_lite2": 4_357_952,
    "mit_b0": 3_319_392,
    "mit_b1": 13_151_424,
    "mit_b2": 24_196_288,
}
"""As torchvision, timm and transformers count them, without what classifies images."""

KEY_BIASES = {"mit_b0": 2 * 512, "mit_b1": 2 * 1024, "mit_b2": 3 * 64 + 4 * 128 + 6 * 320 + 3 * 512}
"""Parameters of MiT that change no answer, and have no place here."""

WIDTHS = {
    "resnet18": (64, 64, 128, 256, 512),
    "efficientnet_lite2": (16, 24, 48, 120, 352),
    "mit_b0": (32, 64, 160, 256),
}


def config_of(encoder, **changes):
    return ModelConfig(name="unet", num_classes=3, encoder=encoder, **changes)


@functools.cache
def shapes_of(config):
    model = build_model(config)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))


@pytest.mark.parametrize("encoder", PARAMETERS)
def test_the_published_numbers_of_parameters(encoder):
    counted = count_parameters(shapes_of(config_of(encoder))["params"]["encoder"])
    assert counted == PARAMETERS[encoder] - KEY_BIASES.get(encoder, 0)


@pytest.mark.parametrize("encoder", WIDTHS)
def test_every_map_halves_the_one_before(encoder):
    """And an odd row or column is kept."""
    module = build_encoder(config_of(encoder))
    maps = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), jnp.zeros((2, 75, 101, 3)), False)[0])
    strides = [32 // 2**i for i in range(len(WIDTHS[encoder]))][::-1]
    expected = [(2, -(-75 // r), -(-101 // r), c) for r, c in zip(strides, WIDTHS[encoder], strict=True)]
    assert [x.shape for x in maps] == expected


def test_the_rules_know_the_width_of_every_coarsest_map():
    assert COARSEST_WIDTHS.keys() == PARAMETERS.keys()
    for encoder, width in COARSEST_WIDTHS.items():
        kernel = shapes_of(config_of(encoder))["params"]["decoder"]["block0"]["conv1"]["kernel"]
        skip = {"resnet": width // 2, "effici": 120 if encoder.endswith("2") else 112, "mit_b0": 160}
        assert kernel.shape[2] == width + skip.get(encoder[:6], 320)


@pytest.mark.parametrize(
    ("name", "encoder", "changes"),
    [
        ("unet", "resnet18", {"unet_decoder": UNetDecoderConfig((16, 8, 8, 8))}),
        ("unet", "efficientnet_lite0", {"dtype": "bfloat16", "encoder_form": "smp"}),
        ("unet_transformer", "efficientnet_lite0", {"decoder": "segformer", "remat": True}),
        ("unet_transformer", "mit_b0", {"unet_decoder": UNetDecoderConfig((16, 8), "bilinear"), "remat": True}),
        ("unet", "plain", {"decoder": "segformer", "base_width": 4}),
        ("unet_transformer", "plain", {"decoder": "segformer", "base_width": 4, "depth": 2, "stem_stride": 4}),
    ],
    ids=str,
)
def test_any_size_in_is_the_size_out(name, encoder, changes):
    config = dataclasses.replace(config_of(encoder, **changes), name=name)
    config = dataclasses.replace(config, transformer=TransformerConfig(num_layers=1, num_heads=4))
    check_config(Config(model=config))
    model, variables = build_model(config), shapes_of(config)
    assert ("bottleneck" in variables["params"]) == (name == "unet_transformer")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    size = (1, 33) if name == "unet" else (65, 31)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)

    def train(variables, image):
        return model.apply(variables, image, True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})

    logits, _ = jax.eval_shape(train, variables, image)
    assert logits.shape == (2, *size, 3) and logits.dtype == jnp.float32


def test_a_transformer_of_no_layers_is_none():
    config = config_of("efficientnet_lite0")
    hybrid = dataclasses.replace(config, name="unet_transformer", transformer=TransformerConfig(num_layers=0))
    assert jax.tree.map(lambda x: x.shape, shapes_of(hybrid)) == jax.tree.map(lambda x: x.shape, shapes_of(config))


# --- values ---


def torch_values(pairs, shapes, names=()):
    """Return the tensors of a published file, drawn by their names."""
    known = {pair.theirs: pair.layout.to_theirs(np.zeros(shapes[pair.ours], np.float32)).shape for pair in pairs}
    return {name: draw_tensor(name, shape) for name, shape in {**known, **dict(names)}.items()}


def encoder_variables(module, pairs):
    """Return the variables of an encoder alone, by way of a published file."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))
    shapes = {name.replace("/", "/encoder/", 1): x.shape for name, x in named_arrays(shapes).items()}
    arrays = import_arrays(pairs, torch_values(pairs, shapes), shapes, Path("file"))
    return {kind: tree["encoder"] for kind, tree in flax.traverse_util.unflatten_dict(arrays, sep="/").items()}


@functools.partial(quick_jit, static_argnums=0)
def encode(module, variables, image):
    return module.apply(variables, image, False)


@pytest.mark.parametrize(
    ("kind", "module", "pairs"),
    [
        ("lite", EfficientNetLite(NARROW_LITE), lite_pairs(NARROW_LITE)),
        ("mit", MixTransformer(NARROW_MIT), mit_pairs(NARROW_MIT)),
    ],
    ids=["lite", "mit"],
)
def test_the_maps_are_those_of_torch(kind, module, pairs):
    """Narrow ones, of an image of odd sides; recorded by tests/parity/test_encoder_parity.py."""
    maps = encode(module, encoder_variables(module, pairs), draw_image(39, 53))
    with np.load(RECORDED) as recorded:
        for number, x_bhwc in enumerate(maps):
            expected = recorded[f"{kind}_{number}"]
            assert expected.std() > 0.1
            np.testing.assert_allclose(x_bhwc, expected, atol=1e-4)


ALL_PAIRS = {
    **{name: resnet_pairs(sizes) for name, sizes in RESNETS.items()},
    **{name: lite_pairs(plan_stages(name)) for name in FACTORS},
    **{name: mit_pairs(sizes) for name, sizes in VARIANTS.items()},
}


@pytest.mark.parametrize("encoder", ALL_PAIRS)
def test_every_array_of_an_encoder_has_a_name_there_and_the_way_back_is_exact(encoder):
    shapes = {name: x.shape for name, x in named_arrays(shapes_of(config_of(encoder))).items() if "/encoder/" in name}
    pairs = ALL_PAIRS[encoder]
    assert {pair.ours for pair in pairs} == shapes.keys()
    assert len({pair.theirs for pair in pairs}) == len(pairs)
    # One array of each layout is enough.
    chosen = {id(pair.layout): pair for pair in pairs}.values()
    ours = {pair.ours: draw_tensor(pair.ours, shapes[pair.ours]) for pair in chosen}
    back = import_arrays(chosen, export_arrays(chosen, ours), {name: x.shape for name, x in ours.items()}, Path("file"))
    jax.tree.map(np.testing.assert_array_equal, back, ours)


def test_the_packages_and_timm_name_the_same_arrays():
    plans = plan_stages("efficientnet_lite1")
    by_timm, by_package = lite_pairs(plans), lite_pairs(plans, by_timm=False)
    assert [pair.ours for pair in by_timm] == [pair.ours for pair in by_package]
    assert by_package[0].theirs == "_conv_stem.weight"
    assert by_package[-1].theirs == "_blocks.20._bn2.running_var"


def test_only_the_bias_of_a_key_is_dropped():
    assert is_key_bias("block.0.0.attention.self.key.bias")
    assert not is_key_bias("block.0.0.attention.self.key.weight")


def test_segformers_decoder_is_a_linear_map_of_the_resized_and_concatenated_maps():
    """As published: resize first, concatenate the coarsest first, and one product over all channels."""
    decoder, random = SegFormerDecoder(5), np.random.default_rng(0)
    maps = [random.normal(size=(1, 12 // 2**i, 8 // 2**i, 3 + i)).astype(np.float32) for i in range(3)]
    variables = decoder.init(jax.random.key(0), maps, False)
    variables = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.1), variables)
    params = variables["params"]
    resized = []
    for i, x in enumerate(maps):
        x = x @ np.asarray(params[f"project{i}"]["kernel"]) + np.asarray(params[f"project{i}"]["bias"])
        resized.append(np.asarray(jax.image.resize(x, (1, 12, 8, 5), "bilinear")))
    fuse = np.concatenate(np.asarray(params["fuse"])[::-1])
    total = np.concatenate(resized[::-1], -1) @ fuse
    stats, norm = variables["batch_stats"]["norm"], params["norm"]
    total = (total - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(decoder.apply(variables, maps, False), np.maximum(total, 0), atol=1e-5)


def test_the_decoder_of_transformers_concatenates_the_coarsest_map_first():
    pair = next(pair for pair in segformer_decoder_pairs(IN_TRANSFORMERS) if pair.ours == "params/decoder/fuse")
    theirs = np.arange(2 * 8, dtype=np.float32).reshape(2, 8, 1, 1)
    ours = pair.layout.to_ours(theirs)
    np.testing.assert_array_equal(ours[-1], theirs[:, :2, 0, 0].T)
    np.testing.assert_array_equal(pair.layout.to_theirs(ours), theirs)


# --- the config ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "resnet18", "base_width": 32}, r"model.base_width: model.encoder resnet18 has no such setting"),
        ({"encoder": "mit_b0", "deep_supervision": True}, r"model.deep_supervision: model.encoder mit_b0 has no such"),
        ({"encoder_form": "smp"}, r"model.encoder_form: model.encoder plain has no such setting"),
        ({"unet_decoder": UNetDecoderConfig((8, 8))}, r"model.unet_decoder: model.encoder plain has no such setting"),
        ({"decoder": "segformer", "upsample": "bilinear"}, r"model.upsample: model.decoder segformer has no such"),
        ({"encoder": "mit_b0", "unet_decoder": UNetDecoderConfig((8,) * 6)}, r"model.unet_decoder.widths: expected 1"),
        ({"name": "transunet", "encoder": "resnet18"}, r"model.encoder: transunet has no such setting"),
        (
            {
                "name": "unet_transformer",
                "encoder": "efficientnet_lite0",
                "transformer": TransformerConfig(num_heads=6),
            },
            r"num_heads 6 does not divide the bottleneck's width 320",
        ),
    ],
    ids=str,
)
def test_settings_that_would_be_ignored_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        check_config(Config(model=dataclasses.replace(ModelConfig(name="unet"), **changes)))


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "mit_b0"])
def test_an_encoder_is_frozen_and_slowed_down_by_its_names(encoder):
    params = shapes_of(config_of(encoder))["params"]
    frozen = frozen_mask(("encoder/stage1", "heads"), params)
    for name, is_frozen in named_arrays(frozen).items():
        assert is_frozen == name.startswith(("encoder/stage1/", "head/")), name
    config = OptimizerConfig(rate_factors={"encoder": 0.25}, layer_decay=0.5, freeze=("encoder/stage2",))
    check_groups(config, params)
    factors = named_arrays(rate_factors(config, params))
    last = 7 if encoder == "efficientnet_lite0" else 4
    for name, factor in factors.items():
        part, stage, *_ = name.split("/")
        if part != "encoder":
            assert factor == 1
        elif stage.startswith("stem"):
            assert factor == 0.25 * 0.5 ** (last + 1)
        else:
            assert factor == 0.25 * 0.5 ** (1 + last - int(stage.removeprefix("stage")))
