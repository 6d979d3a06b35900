"""The converter of segmentation_models_pytorch's U-Net, against answers that torch gave.

Recorded with a twin of the package's model (`tests/parity/smp_twin.py`) of narrow widths: its weights, an image, the
logits of the first picture in inference, and the running statistics after one training step of both.
"""

import dataclasses
import functools
import json
from pathlib import Path

import flax
import jax
import numpy as np
import pytest

from seg.checkpoints.safetensors_file import write_safetensors
from seg.config import ModelConfig, ResNetUNetConfig, SegFormerDecoderConfig, UNetDecoderConfig
from seg.errors import UserError
from seg.models import build_model
from seg.models.encoder_decoder import double
from seg.published.mapping import export_arrays, import_arrays
from seg.published.published_model import array_shapes, open_published
from seg.published.smp import count_channels, has_one_class, ignored_in, read_smp_config, smp_pairs
from seg.published.smp_encoders import smp_encoder_pairs, usual_names
from seg.published.torch_writer import write_torch_file

RECORDED = Path(__file__).parent / "recorded"
SIZES = {
    "basic": ResNetUNetConfig(block="basic", units=(2, 1, 1, 1), encoder_width=4, decoder_widths=(6, 6, 5, 4, 4)),
    "bottleneck": ResNetUNetConfig(
        block="bottleneck", units=(1, 2, 1, 1), encoder_width=2, decoder_widths=(6, 6, 5, 4, 4)
    ),
}
SOURCE = Path("weights.pth")


@functools.cache
def recorded(kind):
    with np.load(RECORDED / f"smp_{kind}.npz") as file:
        return dict(file)


@functools.cache
def tensors_of(kind):
    """The state dict: the recording keeps all values in one row."""
    content, tensors, start = recorded(kind), {}, 0
    for name, padded in zip(content["names"], content["shapes"], strict=True):
        shape = tuple(int(n) for n in padded if n)
        tensors[str(name)] = content["values"][start : start + np.prod(shape)].reshape(shape)
        start += np.prod(shape)
    tensors["encoder.bn1.num_batches_tracked"] = np.array(7)
    return tensors


@functools.cache
def converted(kind):
    """The model, our arrays by name, and the pairs that they came by."""
    config = read_smp_config(tensors_of(kind))
    model, pairs = build_model(config), smp_pairs(config, has_one_class(tensors_of(kind)))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image(kind), False))
    shapes = {name: leaf.shape for name, leaf in flax.traverse_util.flatten_dict(shapes, sep="/").items()}
    return model, import_arrays(pairs, tensors_of(kind), shapes, SOURCE, ignored_in(config)), pairs


# Compiling takes longer than running here, so the compiler is told not to polish its machine code.
@functools.partial(jax.jit, static_argnums=(0, 3), compiler_options={"xla_backend_optimization_level": 0})
def answer(model, variables, image, train):
    """Return (logits, changed statistics)."""
    return model.apply(variables, image, train, mutable=["batch_stats"])


def image(kind):
    return recorded(kind)["x"].astype(np.float32) / 32


def variables(arrays):
    return flax.traverse_util.unflatten_dict(arrays, sep="/")


@pytest.mark.parametrize("kind", SIZES)
def test_sizes_are_read_from_the_tensors(kind):
    config = read_smp_config(tensors_of(kind))
    assert (config.name, config.num_classes, config.resnet_unet) == ("resnet_unet", 2, SIZES[kind])


@pytest.mark.parametrize("kind", SIZES)
def test_the_logits_are_those_of_torch(kind):
    """One class there is two here: the background's logit is 0, and the probabilities are the same."""
    model, arrays, _ = converted(kind)
    logits, expected = answer(model, variables(arrays), image(kind)[:1], False)[0], recorded(kind)["y"]
    assert has_one_class(tensors_of(kind)) == (kind == "bottleneck")
    if kind == "bottleneck":
        np.testing.assert_array_equal(logits[..., 0], 0)
        np.testing.assert_allclose(jax.nn.softmax(logits)[..., 1:], 1 / (1 + np.exp(-expected)), atol=1e-5)
        logits = logits[..., 1:]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("kind", SIZES)
def test_a_training_step_moves_the_running_statistics_as_torch_does(kind):
    model, arrays, pairs = converted(kind)
    _, state = answer(model, variables(arrays), image(kind), True)
    moved = flax.traverse_util.flatten_dict(dict(state), sep="/")
    tensors = export_arrays([pair for pair in pairs if pair.ours in moved], moved)
    names = [name for name in tensors_of(kind) if "running" in name]
    found = np.concatenate([tensors[name] for name in names])
    np.testing.assert_allclose(found, recorded(kind)["trained"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", SIZES)
def test_the_way_back_gives_the_same_tensors(kind):
    _, arrays, pairs = converted(kind)
    tensors = {name: tensor for name, tensor in tensors_of(kind).items() if "num_batches" not in name}
    back = export_arrays(pairs, arrays)
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_a_head_of_two_logits_goes_back_to_one_class_by_their_difference():
    """After training here the background's logit is no longer 0; sigmoid(b − a) is softmax([a, b])."""
    _, arrays, pairs = converted("bottleneck")
    changed = {**arrays, "params/head/bias": np.array([1.5, 4.0], np.float32)}
    assert export_arrays(pairs, changed)["segmentation_head.0.bias"] == 2.5


def test_the_encoders_own_classifier_is_passed_over():
    is_ignored = ignored_in(read_smp_config(tensors_of("basic")))
    assert is_ignored("encoder.fc.weight") and is_ignored("decoder.blocks.0.conv1.1.num_batches_tracked")
    assert not any(is_ignored(name) for name in tensors_of("basic") if "num_batches" not in name)


# A folder that save_pretrained wrote, and what no tensor tells.


@pytest.fixture
def pretrained(tmp_path):
    """Return a function that writes such a folder with other settings."""

    def write(**changes):
        settings = {"_model_class": "Unet", "encoder_depth": 5, "decoder_interpolation": "nearest", "in_channels": 3}
        settings |= {"decoder_attention_type": None, "aux_params": None, "activation": None, "classes": 1}
        (tmp_path / "config.json").write_text(json.dumps(settings | changes))
        tensors = {name: array for name, array in tensors_of("basic").items() if "num_batches" not in name}
        write_safetensors(tmp_path / "model.safetensors", tensors)
        return tmp_path

    return write


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_a_folder_says_how_its_decoder_enlarges(pretrained, interpolation):
    found = open_published("smp", pretrained(decoder_interpolation=interpolation))
    assert found.config.model.resnet_unet == dataclasses.replace(SIZES["basic"], interpolation=interpolation)
    kernel = found.variables["params"]["encoder"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, converted("basic")[1]["params/encoder/conv1/kernel"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("decoder_interpolation", "bicubic"),
        ("encoder_depth", 2),
        ("decoder_use_norm", False),
        ("decoder_use_batchnorm", "inplace"),
        ("decoder_attention_type", "scse"),
    ],
)
def test_a_folder_of_another_model_is_refused_with_the_setting(pretrained, key, value):
    folder = pretrained(**{key: value})
    with pytest.raises(UserError) as error:
        open_published("smp", folder)
    assert str(error.value).startswith(f"{folder / 'config.json'}: {key}: expected ")
    assert str(error.value).endswith(f"found {value!r}")


@pytest.mark.parametrize("kind", ["UnetPlusPlus", "DeepLabV3", 5])
def test_a_folder_of_another_architecture_is_refused_by_its_name(pretrained, kind):
    with pytest.raises(UserError, match=f"this is a {kind!r} of .*; only its Unet and Segformer are read"):
        open_published("smp", pretrained(_model_class=kind))


@pytest.mark.parametrize("interpolation", ["nearest-exact", "area"])
def test_other_words_for_repeating_pixels(pretrained, interpolation):
    published = open_published("smp", pretrained(decoder_interpolation=interpolation))
    assert published.config.model.resnet_unet.interpolation == "nearest"


def test_a_folder_without_weights_or_settings_is_refused(pretrained, tmp_path):
    (pretrained() / "model.safetensors").unlink()
    with pytest.raises(UserError, match="expected model.safetensors or pytorch_model.bin beside config.json"):
        open_published("smp", tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "w.pth").touch()
    with pytest.raises(UserError, match="this is a folder: name the weights file in it, such as .*w.pth"):
        open_published("smp", tmp_path)


def test_of_a_state_dict_alone_it_is_a_setting_and_the_default_is_said(tmp_path, caplog):
    write_torch_file(tmp_path / "w.pth", {f"model.{name}": array for name, array in tensors_of("basic").items()})
    assert open_published("smp", tmp_path / "w.pth").config.model.resnet_unet.interpolation == "nearest"
    assert "model.resnet_unet.interpolation=bilinear" in caplog.text


def test_other_numbers_of_channels_are_not_normalised_and_the_log_says_so(tmp_path, caplog):
    """Two channels that share a kernel are one; ImageNet's statistics are of red, green and blue."""
    tensors, x_bhwc = tensors_of("basic"), image("basic")[:1]
    weight_oihw = tensors["encoder.conv1.weight"]
    halves = np.concatenate([weight_oihw[:, :1] / 2, weight_oihw[:, 1:], weight_oihw[:, :1] / 2], 1)
    write_torch_file(tmp_path / "w.pth", {**tensors, "encoder.conv1.weight": halves})
    published = open_published("smp", tmp_path / "w.pth")
    data = published.config.data
    assert (data.channels, data.mean, data.std) == (4, (0, 0, 0, 0), (1, 1, 1, 1))
    assert "images of 4 channels; assuming 0 … 1 without normalisation" in caplog.text
    x_bhwc = np.concatenate([x_bhwc, x_bhwc[..., :1]], -1)
    logits, _ = answer(build_model(published.config.model), published.variables, x_bhwc, False)
    np.testing.assert_allclose(logits, recorded("basic")["y"], atol=1e-4)


def test_a_head_that_classifies_images_is_left_out_and_said(tmp_path, caplog):
    head = {"classification_head.3.weight": np.zeros((2, 8), np.float32), "classification_head.3.bias": np.zeros(2)}
    write_torch_file(tmp_path / "w.pth", {**tensors_of("basic"), **head})
    open_published("smp", tmp_path / "w.pth")
    assert "dropped classification_head.3.weight, classification_head.3.bias, the head that classifies" in caplog.text


def test_bilinear_doubling_is_that_of_torch():
    """With the corners of the image, not of its pixels, put onto each other; the edge is repeated."""
    x_bhwc = np.arange(12, dtype=np.float32).reshape(1, 2, 3, 2) ** 2
    expected = np.zeros((1, 4, 6, 2), np.float32)
    for row in range(4):
        for column in range(6):
            y, x = np.clip((row + 0.5) / 2 - 0.5, 0, 1), np.clip((column + 0.5) / 2 - 0.5, 0, 2)
            for i in range(2):
                for j in range(3):
                    weight = max(1 - abs(y - i), 0) * max(1 - abs(x - j), 0)
                    expected[0, row, column] += weight * x_bhwc[0, i, j]
    np.testing.assert_allclose(double(x_bhwc, "bilinear"), expected, rtol=1e-5)
    assert not np.allclose(double(x_bhwc, "nearest"), expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder.conv1.weight": None}, r"another encoder, encoder.bn1.weight, .* more"),
        ({"encoder.layer3.0.conv1.weight": None}, "no unit encoder.layer3.0"),
        ({"encoder.layer1.0.conv2.weight": np.zeros((4, 2, 3, 3))}, "ResNeXt"),
        ({"decoder.blocks.4.conv1.0.weight": None}, "another encoder, encoder.conv1.weight"),
        ({"decoder.blocks.2.conv1.0.weight": None}, "2 convolutions decoder.blocks.….conv1.0.weight"),
        ({"decoder.blocks.0.attention1.attention.cSE.1.weight": np.zeros(4)}, "attention .scse."),
        ({"decoder.center.0.0.weight": np.zeros((4, 4, 3, 3))}, "a centre block"),
        ({"segmentation_head.0.weight": np.zeros((0, 4, 3, 3))}, "no convolution segmentation_head"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_another_model_is_refused_with_what_is_supported(changes, said):
    tensors = {**tensors_of("basic"), **changes}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(UserError, match=f"^expected .* Unet with an encoder .* found .*{said}"):
        read_smp_config(tensors)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("decoder.blocks.x_0_0.conv1.0.weight", "UnetPlusPlus"),
        ("decoder.aspp.0.convs.0.0.weight", "DeepLabV3"),
    ],
)
def test_the_decoder_names_another_architecture(name, kind):
    with pytest.raises(UserError, match=f"^this is a {kind} of .*; only its Unet and Segformer are read"):
        read_smp_config({**tensors_of("basic"), name: np.zeros(1)})


def test_a_segformer_is_read_with_the_encoders_that_give_it_four_maps():
    with pytest.raises(UserError, match="Segformer with mit_b0 to mit_b2; found a Segformer with another"):
        read_smp_config({**tensors_of("basic"), "decoder.mlp_stage.0.linear.weight": np.zeros(1)})
    decoder = SegFormerDecoderConfig(96, align_corners=True)
    config = ModelConfig(
        name="unet", num_classes=3, encoder="mit_b1", encoder_form="smp", decoder="segformer", segformer_decoder=decoder
    )
    tensors = stand_ins(smp_pairs(config), config)
    assert read_smp_config(tensors) == config and count_channels(tensors) == 4
    assert tensors["decoder.mlp_stage.0.linear.weight"].shape == (96, 512)  # the coarsest map is its first
    assert not has_one_class(tensors) and tensors["segmentation_head.0.weight"].shape == (3, 96, 1, 1)


def stand_ins(pairs, config):
    """Return zeros of the tensors' shapes, which take no memory."""
    shapes = array_shapes(config, channels=4)
    return {pair.theirs: pair.layout.to_theirs(np.broadcast_to(np.float32(0), shapes[pair.ours])) for pair in pairs}


ENCODERS = [
    ("resnet34", "original", 4),
    ("resnet101", "original", 3),
    ("efficientnet_lite0", "smp", 5),
    ("efficientnet_lite2", "smp", 3),
    ("efficientnet_lite1", "original", 4),
    ("mit_b0", "smp", 5),
    ("mit_b2", "smp", 4),
]


@pytest.mark.parametrize(("encoder", "form", "depth"), ENCODERS)
def test_an_encoder_and_its_depth_are_read_from_the_tensors(encoder, form, depth):
    decoder = UNetDecoderConfig((32, 24, 16, 8, 4)[:depth], "bilinear")
    config = ModelConfig(
        name="unet", num_classes=3, encoder=encoder, encoder_form=form, encoder_depth=depth, unet_decoder=decoder
    )
    tensors = stand_ins(smp_pairs(config), config)
    # Layers below the coarsest map are in the file, unless the encoder is timm's own.
    if form == "smp" or encoder.startswith("resnet"):
        whole = dataclasses.replace(config, encoder_depth=5)
        tensors = stand_ins(smp_encoder_pairs(whole), whole) | tensors
        deeper = tensors.keys() - {pair.theirs for pair in smp_pairs(config)}
        assert bool(deeper) == (depth < 5) and all(map(ignored_in(config), deeper))
    found = read_smp_config(tensors, "bilinear", by_timm=form == "original")
    assert found == config and count_channels(tensors) == 4
    assert not any(ignored_in(config)(pair.theirs) for pair in smp_pairs(config))


def test_names_of_a_mix_transformer_become_those_of_transformers():
    kv, sr = np.arange(12.0).reshape(4, 3), np.zeros(1)
    names = {"encoder.block2.1.attn.kv.weight": kv, "encoder.patch_embed1.proj.bias": sr, "encoder.norm4.bias": sr}
    names |= {"encoder.block1.0.norm1.weight": sr, "encoder.block1.0.attn.norm.weight": sr}
    names |= {"encoder.block1.0.mlp.fc2.bias": sr, "encoder.patch_embed2.norm.bias": sr, "segmentation_head.0.bias": sr}
    usual, by_timm = usual_names(names)
    assert not by_timm and sorted(usual) == [
        "encoder.block.0.0.attention.self.layer_norm.weight",
        "encoder.block.0.0.layer_norm_1.weight",
        "encoder.block.0.0.mlp.dense2.bias",
        "encoder.block.1.1.attention.self.key.weight",
        "encoder.block.1.1.attention.self.value.weight",
        "encoder.layer_norm.3.bias",
        "encoder.patch_embeddings.0.proj.bias",
        "encoder.patch_embeddings.1.layer_norm.bias",
        "segmentation_head.0.bias",
    ]
    np.testing.assert_array_equal(usual["encoder.block.1.1.attention.self.value.weight"], kv[2:])
    assert usual_names({"encoder.model.conv1.weight": sr}) == ({"encoder.conv1.weight": sr}, True)


def test_the_pairs_cover_the_published_networks():
    """`import_arrays` compares the pairs with the model's arrays before it looks at a tensor."""
    for block, units in (("basic", (3, 4, 6, 3)), ("bottleneck", (3, 4, 6, 3))):
        sizes = ResNetUNetConfig(block=block, units=units)
        config = dataclasses.replace(read_smp_config(tensors_of("basic")), resnet_unet=sizes)
        shapes = jax.eval_shape(lambda c=config: build_model(c).init(jax.random.key(0), image("basic"), False))
        assert {pair.ours for pair in smp_pairs(config)} == set(flax.traverse_util.flatten_dict(shapes, sep="/"))
