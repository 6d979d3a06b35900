"""The converter of milesial's U-Net, against answers that torch gave.

Recorded with a twin of the network (`tests/parity/milesial_twin.py`) of narrow widths: its weights, images and logits,
and of one training step in float64 the gradients of the cross entropy and the running statistics.
"""

import dataclasses
import functools
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seg.config import Config, DataConfig, ModelConfig
from seg.errors import UserError
from seg.models import build_model
from seg.published.mapping import export_arrays, import_arrays
from seg.published.milesial import (
    answers_sigmoid,
    has_one_class,
    is_ignored,
    make_mask_values,
    milesial_pairs,
    read_mask_values,
    read_milesial_config,
)
from seg.published.published_model import array_shapes, open_published, save_milesial
from seg.published.torch_file import read_torch_file
from seg.published.torch_writer import write_torch_file

RECORDED = Path(__file__).parent / "recorded"
SOURCE = Path("weights.pth")
TINY = ModelConfig(name="unet", num_classes=3, base_width=4, depth=2)
CONFIGS = {
    "transposed": dataclasses.replace(TINY, conv_bias=True),
    "bilinear": dataclasses.replace(TINY, num_classes=2, upsample="bilinear"),
}
SIZES = [("transposed", 32, 32), ("transposed", 35, 45), ("transposed", 33, 23), ("bilinear", 33, 23)]

# Compiling takes longer than running here, so the compiler is told not to polish its machine code.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def recorded(kind):
    with np.load(RECORDED / f"milesial_{kind}.npz") as file:
        return dict(file)


def cut(values, shapes):
    """Return arrays by name: a recording keeps all values in one row."""
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
    assert ends[-1] == len(values)
    return {name: part.reshape(shapes[name]) for name, part in zip(shapes, np.split(values, ends[:-1]), strict=True)}


@functools.cache
def tensors_of(kind):
    """The state dict; its counters of batches are scalars."""
    content = recorded(kind)
    shapes = {
        str(name): tuple(int(n) for n in padded if n)
        for name, padded in zip(content["names"], content["shapes"], strict=True)
    }
    tensors = cut(content["values"].astype(np.float32), shapes)
    return {name: tensor.astype(np.int64) if is_ignored(name) else tensor for name, tensor in tensors.items()}


@functools.cache
def converted(kind):
    """Our arrays by name, and the pairs that they came by."""
    pairs = milesial_pairs(CONFIGS[kind])
    return import_arrays(pairs, tensors_of(kind), array_shapes(CONFIGS[kind]), SOURCE, is_ignored), pairs


def nested(arrays):
    return flax.traverse_util.unflatten_dict(arrays, sep="/")


def image(content, name):
    return content[name].astype(np.float32) / 32


def write(path, tensors, **extras):
    write_torch_file(path, tensors, extras)
    return path


def one_class(tensors):
    head = {name: tensors[name][:1] for name in ("outc.conv.weight", "outc.conv.bias")}
    return {**tensors, **head}


# ---- answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "h", "w"), SIZES)
def test_the_logits_are_those_of_torch(kind, h, w):
    variables, content = nested(converted(kind)[0]), recorded(kind)
    model = build_model(CONFIGS[kind])
    logits = quick_jit(lambda v, x: model.apply(v, x, False))(variables, image(content, f"x_{h}x{w}"))
    np.testing.assert_allclose(logits, content[f"y_{h}x{w}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_any_number_of_channels(tmp_path, channels):
    """The answers are those of torch where channels share a kernel, or sum up to it."""
    tensors, content = tensors_of("bilinear"), recorded("bilinear")
    weight_oihw, x_bhwc = tensors["inc.double_conv.0.weight"], image(content, "x_33x23")
    if channels == 4:
        halves = [weight_oihw[:, :1] / 2, weight_oihw[:, 1:], weight_oihw[:, :1] / 2]
        changed, x_bhwc = np.concatenate(halves, 1), np.concatenate([x_bhwc, x_bhwc[..., :1]], -1)
        expected = content["y_33x23"]
    else:
        changed, grey_bhw1 = weight_oihw.sum(1, keepdims=True), x_bhwc[..., :1]
        model = build_model(CONFIGS["bilinear"])
        variables = nested(converted("bilinear")[0])
        expected = quick_jit(lambda v, x: model.apply(v, x, False))(variables, np.repeat(grey_bhw1, 3, -1))
        x_bhwc = grey_bhw1
    file = write(tmp_path / "w.pth", {**tensors, "inc.double_conv.0.weight": changed})
    published = open_published("milesial", file)
    assert published.config.data.channels == channels == len(published.config.data.mean)
    model = build_model(published.config.model)
    logits = quick_jit(lambda v, x: model.apply(v, x, False))(published.variables, x_bhwc)
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)
    save_milesial(tmp_path / "back.pth", published.config, published.variables)
    np.testing.assert_array_equal(read_torch_file(tmp_path / "back.pth").tensors["inc.double_conv.0.weight"], changed)


@pytest.mark.parametrize("channels", [0, 1025])
def test_no_channels_and_too_many_are_refused(tmp_path, channels):
    tensors = {**tensors_of("bilinear"), "inc.double_conv.0.weight": np.zeros((4, channels, 3, 3), np.float32)}
    with pytest.raises(UserError, match=rf"w\.pth: data\.channels: expected 1 to 1024, found {channels}"):
        open_published("milesial", write(tmp_path / "w.pth", tensors))


def trained(kind):
    """Return what torch has after the training step: gradients and running statistics by name."""
    shapes = {name: tensor.shape for name, tensor in tensors_of(kind).items() if not is_ignored(name)}
    return cut(recorded(kind)["trained"], shapes)


def train(model, variables, content):
    """Return (cross entropy, statistics) of the recorded batch."""
    labels_bhw = content["train_t"].astype(np.int32)
    logits, state = model.apply(variables, image(content, "train_x"), True, mutable=["batch_stats"])
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels_bhw[..., None], axis=-1).mean(), state


def named(kind, tree):
    """Return arrays of ours by their names there."""
    arrays = {name: np.asarray(x) for name, x in flax.traverse_util.flatten_dict(dict(tree), sep="/").items()}
    return export_arrays([pair for pair in converted(kind)[1] if pair.ours in arrays], arrays)


def assert_statistics(found, expected):
    assert found.keys() == {name for name in expected if "running" in name}
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=name)


def test_a_training_step_has_the_gradients_and_the_statistics_of_torch():
    kind = "transposed"
    model, variables, expected = build_model(CONFIGS[kind]), nested(converted(kind)[0]), trained(kind)

    def loss(params):
        return train(model, {**variables, "params": params}, recorded(kind))

    gradients, state = quick_jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert_statistics(named(kind, state), expected)
    found = named(kind, {"params": gradients})
    assert found.keys() == {name for name in expected if "running" not in name}
    for name, value in found.items():
        if name.endswith(("double_conv.0.bias", "double_conv.3.bias")):
            # The norm takes such a bias off again: rounding errors are left.
            np.testing.assert_allclose(value, 0, atol=1e-6, err_msg=name)
        else:
            scale = abs(expected[name]).max()
            np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-4 * scale, err_msg=name)


def test_a_training_step_of_the_bilinear_one_has_the_statistics_of_torch():
    """Its gradients, which take two seconds to compile, are left to the parity tests."""
    kind = "bilinear"
    model, variables = build_model(CONFIGS[kind]), nested(converted(kind)[0])
    _, state = quick_jit(lambda v: train(model, v, recorded(kind)))(variables)
    assert_statistics(named(kind, state), trained(kind))


# ---- names and shapes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_model_is_read_from_the_recorded_tensors(kind):
    assert read_milesial_config(tensors_of(kind)) == CONFIGS[kind]


@pytest.mark.parametrize("upsample", ["transposed", "bilinear"])
@pytest.mark.parametrize("conv_bias", [False, True])
def test_every_variant_is_read_from_its_tensors_and_comes_back(tmp_path, upsample, conv_bias):
    """With the counters of batches that it had; in a model that was trained here they are 0."""
    config = dataclasses.replace(TINY, upsample=upsample, conv_bias=conv_bias)
    random = np.random.default_rng(5)
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in array_shapes(config).items()}
    tensors = save_and_read(tmp_path / "ours.pth", config, nested(arrays)).tensors
    counters = [name for name in tensors if is_ignored(name)]
    assert len(counters) == 2 * 5 and all(tensors[name].shape == () and tensors[name] == 0 for name in counters)
    tensors |= {name: np.array(number) for number, name in enumerate(counters)}
    published = open_published("milesial", write(tmp_path / "theirs.pth", tensors))
    assert published.config.model == config
    back = save_and_read(tmp_path / "back.pth", published.config, published.variables, published.origin).tensors
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, strict=True)


def save_and_read(path, model, variables, *origin):
    config = model if isinstance(model, Config) else Config(model=model)
    save_milesial(path, config, variables, *origin)
    return read_torch_file(path)


def test_the_written_file_has_the_names_of_torch_in_its_order(tmp_path):
    written = save_and_read(tmp_path / "w.pth", CONFIGS["transposed"], nested(converted("transposed")[0]))
    assert list(written.tensors) == list(tensors_of("transposed"))


def test_the_pairs_cover_the_published_network():
    config = ModelConfig(name="unet", num_classes=2)
    pairs = milesial_pairs(config)
    assert {pair.ours for pair in pairs} == array_shapes(config).keys()
    assert {"inc.double_conv.4.running_var", "down4.maxpool_conv.1.double_conv.3.weight", "up4.up.bias"} <= {
        pair.theirs for pair in pairs
    }


# ---- one class -------------------------------------------------------------------------------------------------


def test_one_class_becomes_background_and_foreground_and_one_class_again(tmp_path):
    tensors = one_class(tensors_of("transposed"))
    assert has_one_class(tensors) and not has_one_class(tensors_of("transposed"))
    published = open_published("milesial", write(tmp_path / "one.pth", tensors, mask_values=[0, 255]))
    assert published.config.model.num_classes == len(published.classes) == 2
    assert published.config.data.value_map == {0: 0, 255: 1}
    model, content = build_model(published.config.model), recorded("transposed")
    logits = quick_jit(lambda v, x: model.apply(v, x, False))(published.variables, image(content, "x_32x32"))
    sigmoid = 1 / (1 + np.exp(-content["y_32x32"][..., 0]))
    np.testing.assert_allclose(jax.nn.softmax(logits)[..., 1], sigmoid, atol=1e-5)
    assert answers_sigmoid(published.variables["params"])
    back = save_and_read(tmp_path / "back.pth", published.config, published.variables, published.origin)
    assert back.extras == {"mask_values": [0, 255]}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back.tensors[name], tensor, strict=True)


def test_two_classes_that_were_trained_here_stay_two(tmp_path):
    variables = nested(converted("bilinear")[0])
    assert not answers_sigmoid(variables["params"])
    written = save_and_read(tmp_path / "two.pth", CONFIGS["bilinear"], variables)
    np.testing.assert_array_equal(written.tensors["outc.conv.bias"], tensors_of("bilinear")["outc.conv.bias"])


# ---- mask_values -----------------------------------------------------------------------------------------------

COLOURS = [[0, 0, 0], [255, 128, 0], [9, 9, 9]]


@pytest.mark.parametrize(
    ("extras", "setting", "back"),
    [
        ({"mask_values": [0, 100, 255]}, {"value_map": {0: 0, 100: 1, 255: 2}}, [0, 100, 255]),
        ({"mask_values": COLOURS}, {"palette": tuple(map(tuple, COLOURS))}, COLOURS),
        ({}, {}, [0, 1, 2]),
    ],
    ids=["numbers", "colours", "none"],
)
def test_the_values_of_the_masks_are_kept(tmp_path, extras, setting, back):
    published = open_published("milesial", write(tmp_path / "w.pth", tensors_of("transposed"), **extras))
    data = published.config.data
    assert {name: getattr(data, name) for name in setting} == setting
    assert (data.mean, data.std) == ((0.0,) * 3, (1.0,) * 3)  # pixels in 0…1
    if "palette" in setting:
        assert published.classes.palette == setting["palette"]
    written = save_and_read(tmp_path / "back.pth", published.config, published.variables)
    assert written.extras == {"mask_values": back}
    assert make_mask_values(published.config) == back


@pytest.mark.parametrize(
    "values", [[0, 255], [0, 1, 2, 3], [[0, 0, 0], [1, 1, 1], [2, 2]], [0, 1, [2, 2, 2]], "012", [True, 1, 2]], ids=str
)
def test_values_that_are_not_one_for_each_class_are_refused(values):
    with pytest.raises(UserError, match=r"^mask_values: expected 3 numbers or colours, .* found"):
        read_mask_values(DataConfig(), {"mask_values": values}, 3)


# ---- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inc.double_conv.0.weight": None}, "expected the state dict of milesial/Pytorch-UNet .*found inc.double"),
        ({"inc.double_conv.0.weight": np.zeros(4)}, "expected the state dict of milesial"),
        ({"outc.conv.weight": None}, "expected the state dict of milesial"),
        ({"down1.maxpool_conv.1.double_conv.0.weight": None}, "expected the state dict of milesial"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_another_file_is_refused(changes, said):
    tensors = {**tensors_of("transposed"), **changes}
    with pytest.raises(UserError, match=f"^{said}"):
        read_milesial_config({name: tensor for name, tensor in tensors.items() if tensor is not None})


def test_tensors_that_contradict_each_other_are_all_listed(tmp_path):
    tensors = {**tensors_of("transposed"), "up1.up.bias": np.zeros(9, np.float32), "up9.up.bias": np.zeros(1)}
    del tensors["inc.double_conv.3.bias"]
    with pytest.raises(UserError) as error:
        open_published("milesial", write(tmp_path / "w.pth", tensors))
    assert [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]] == [
        "inc.double_conv.3.bias",
        "up1.up.bias",
        "up9.up.bias",
    ]


@pytest.mark.parametrize(
    "setting",
    [{"norm": "group"}, {"stem_stride": 2}, {"deep_supervision": True}, {"name": "unet_transformer"}],
    ids=str,
)
def test_a_model_that_the_other_side_has_not_is_refused(tmp_path, setting):
    ((key, value),) = setting.items()
    with pytest.raises(UserError, match=f"model.{key}: milesial's U-Net has .*, this model {value}"):
        milesial_pairs(dataclasses.replace(TINY, **setting))
