"""The converter of nnU-Net's two-dimensional network, against answers that torch gave.

Recorded with `PlainConvUNet` of dynamic_network_architectures: narrow, of uneven kernels and strides.
"""

import copy
import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from seg.data.image_input import read_input
from seg.errors import UserError
from seg.models import build_model
from seg.published.published_model import open_published
from seg.published.torch_writer import write_torch_file

ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "features_per_stage": [3, 4, 5],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3], [1, 3], [3, 3]],
        "strides": [[1, 1], [2, 2], [1, 2]],
        "n_conv_per_stage": [1, 2, 1],
        "n_conv_per_stage_decoder": [1, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
}
CONFIGURATION = {
    "patch_size": [16, 24],
    "normalization_schemes": ["RGBTo01Normalization"] * 3,
    "architecture": ARCHITECTURE,
}
PLANS = {"configurations": {"2d": CONFIGURATION}}
ZSCORE = "ZScoreNormalization"
DATASET = {
    "channel_names": {"0": "R", "1": "G", "2": "B"},
    "labels": {"background": 0, "edge": 2, "cell": 1, "ignore": 3},
}


@functools.cache
def recorded():
    with np.load(Path(__file__).parent / "recorded" / "nnunet.npz") as file:
        return dict(file)


def tensors():
    """The state dict: the recording keeps all values in one row, and each layer once."""
    content, named, start = recorded(), {}, 0
    for name, padded in zip(content["names"], content["shapes"], strict=True):
        shape = tuple(int(n) for n in padded if n)
        named[str(name)] = content["values"][start : start + np.prod(shape)].reshape(shape).astype(np.float32)
        start += np.prod(shape)
    again = {f"decoder.{name}": x for name, x in named.items() if name.startswith("encoder.")}
    again |= {name.replace(".conv.", ".all_modules.0."): x for name, x in named.items() if ".conv." in name}
    return {**named, **again}


@pytest.fixture
def results(tmp_path):
    """Return a function that writes a results folder with changed plans and data set, and returns the checkpoint."""

    def write(plans=PLANS, dataset=DATASET, fold="fold_0", weights=None, inside=False):
        folder = tmp_path / "nnUNetTrainer__nnUNetPlans__2d"
        (folder / fold).mkdir(parents=True)
        init_args = {"plans": plans, "configuration": "2d", "dataset_json": dataset}
        write_torch_file(folder / fold / "checkpoint_final.pth", weights or tensors(), {"init_args": init_args})
        if not inside:
            (folder / "plans.json").write_text(json.dumps(plans))
            (folder / "dataset.json").write_text(json.dumps(dataset))
        return folder / fold / "checkpoint_final.pth"

    return write


def changed(tree, path, value):
    """Return a copy of nested dictionaries with one entry replaced, or removed by None."""
    tree, (*parents, key) = copy.deepcopy(tree), path.split("/")
    place = functools.reduce(dict.__getitem__, parents, tree)
    place.pop(key) if value is None else place.update({key: value})
    return tree


def with_arguments(key, value):
    return changed(PLANS, f"configurations/2d/architecture/arch_kwargs/{key}", value)


# Compiling takes longer than running here, so the compiler is told not to polish its machine code.
@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def infer(model, variables, image):
    return model.apply(variables, image, False)


def test_the_logits_are_those_of_torch(results):
    published = open_published("nnunet", results())
    logits = infer(build_model(published.config.model), published.variables, recorded()["x"].astype(np.float32) / 32)
    np.testing.assert_allclose(logits, recorded()["y"], atol=1e-5)
    np.testing.assert_array_equal(np.argmax(logits, -1), recorded()["y"].argmax(-1))


def test_the_config_says_how_images_are_prepared_and_cut(results):
    published = open_published("nnunet", results())
    config, stages = published.config, published.config.model.plain_conv_unet
    assert (stages.widths, stages.encoder_convs, stages.decoder_convs) == ((3, 4, 5), (1, 2, 1), (2, 1))
    assert (config.data.size, config.inference.whole_up_to, config.inference.scale) == ((16, 24), 0, "native")
    assert (config.data.mean, config.data.std) == ((0, 0, 0), (1, 1, 1))
    assert published.classes.names == ("background", "cell", "edge")


def test_the_file_the_fold_and_the_folder_are_the_same_model(results, tmp_path):
    checkpoint = results()
    models = [open_published("nnunet", path) for path in (checkpoint, checkpoint.parent, checkpoint.parent.parent)]
    assert models[0].config.model == models[1].config.model == models[2].config.model
    (checkpoint.parent.parent / "fold_1").mkdir()
    checkpoint.rename(checkpoint.parent.parent / "fold_1" / "checkpoint_best.pth")
    checkpoint = results(fold="fold_2")
    with pytest.raises(UserError, match="2 folds are trained; name the checkpoint of one, such as .*fold_1"):
        open_published("nnunet", checkpoint.parent.parent)
    with pytest.raises(UserError, match="no fold_0/checkpoint_final.pth"):
        open_published("nnunet", tmp_path)


def test_a_checkpoint_alone_has_its_plans_inside(results):
    assert open_published("nnunet", results(inside=True)).classes.names == ("background", "cell", "edge")


def test_plans_of_older_releases_and_inherited_ones(results):
    old = {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 3,
        "unet_max_num_features": 5,
        "n_conv_per_stage_encoder": [1, 2, 1],
        "n_conv_per_stage_decoder": [1, 2],
        "conv_kernel_sizes": [[3, 3], [1, 3], [3, 3]],
        "pool_op_kernel_sizes": [[1, 1], [2, 2], [1, 2]],
        "inherits_from": "base",
    }
    base = {"patch_size": [16, 24], "normalization_schemes": ["RGBTo01Normalization"] * 3, "batch_size": 2}
    with pytest.raises(UserError, match=r"encoder\.stages\.1\.0\.convs\.0\.conv\.weight: expected floats \[5, 3"):
        open_published("nnunet", results({"configurations": {"2d": old, "base": base}}))  # 3, 5, 5 channels


@pytest.mark.parametrize(
    ("plans", "error"),
    [
        (changed(PLANS, "configurations/2d/patch_size", [8, 16, 24]), "this is a 3-D nnU-Net"),
        (
            changed(PLANS, "configurations/2d/architecture/network_class_name", "a.b.ResidualEncoderUNet"),
            "this is a ResidualEncoderUNet of nnU-Net; only its PlainConvUNet is read",
        ),
        (with_arguments("norm_op", "torch.nn.modules.batchnorm.BatchNorm2d"), "norm_op: expected InstanceNorm2d"),
        (with_arguments("nonlin", "torch.nn.ReLU"), "nonlin: expected LeakyReLU, found 'torch.nn.ReLU'"),
        (with_arguments("norm_op_kwargs", {"eps": 1e-3}), "norm_op_kwargs: expected eps 1e-05, found 0.001"),
        (with_arguments("nonlin_first", True), "nonlin_first: expected the norm before"),
        (
            with_arguments("strides", [[1, 1], [2, 2]]),
            "plain_conv_unet.strides: expected 3 entries for 3 stages, found 2",
        ),
        (with_arguments("kernel_sizes", 2), "plain_conv_unet.kernel_sizes: expected odd numbers"),
        (with_arguments("kernel_sizes", [[3, 3, 3]] * 3), "kernel_sizes: expected two numbers"),
        (with_arguments("features_per_stage", [10**30, 4, 5]), "plain_conv_unet.widths: expected 1 to 8192"),
        (with_arguments("features_per_stage", [4] * 10**5), "plain_conv_unet.widths: expected 2 to 12 stages"),
        (with_arguments("n_conv_per_stage", 10**9), "plain_conv_unet.encoder_convs: expected 1 to 32"),
        (with_arguments("n_conv_per_stage", None), "n_conv_per_stage: expected a whole number, found None"),
        (with_arguments("conv_bias", 1), "conv_bias: expected true or false, found 1"),
        (changed(PLANS, "configurations/2d/inherits_from", "2d"), "2d inherits from itself"),
        (changed(PLANS, "configurations/2d", None), "configurations: 2d: expected a mapping, it is missing"),
        (
            changed(PLANS, "configurations/2d/normalization_schemes", ["RescaleTo01Normalization"] * 3),
            "normalization_schemes: .*found 'RescaleTo01Normalization'",
        ),
        (changed(PLANS, "configurations/2d/normalization_schemes", [[]] * 3), r"normalization_schemes: .*found \[\]"),
        (changed(PLANS, "configurations/2d/normalization_schemes", []), "expected one for each of 3 channels, found 0"),
        (
            changed(PLANS, "configurations/2d/normalization_schemes", ["CTNormalization"] * 3),
            "intensities of channel 0: 0: expected a mapping, it is missing",
        ),
        (
            {
                "configurations": {
                    "2d": CONFIGURATION | {"normalization_schemes": [ZSCORE] * 3, "use_mask_for_norm": [True]}
                }
            },
            "use_mask_for_norm: expected false",
        ),
    ],
)
def test_other_plans_are_refused_by_what_they_are(results, plans, error):
    with pytest.raises(UserError, match=error):
        open_published("nnunet", results(plans))


def ct(low, high, mean, std):
    return {"percentile_00_5": low, "percentile_99_5": high, "mean": mean, "std": std}


CT = {"0": ct(-100, 900, 300.5, 120.0), "1": ct(10, 60, 33, 7), "2": ct(0, 5000, 1500, 700)}


@pytest.mark.parametrize(
    ("schemes", "expected"),
    [
        ([ZSCORE] * 3, lambda x_hwc: (x_hwc - x_hwc.mean((0, 1))) / x_hwc.std((0, 1))),
        (["RGBTo01Normalization", "NoNormalization", "RGBTo01Normalization"], lambda x_hwc: x_hwc / [255, 1, 255]),
        (
            ["CTNormalization"] * 3,
            lambda x_hwc: (np.clip(x_hwc, [-100, 10, 0], [900, 60, 5000]) - [300.5, 33, 1500]) / [120, 7, 700],
        ),
    ],
    ids=["z-score", "bytes", "CT"],
)
def test_images_are_normalised_as_planned(results, schemes, expected):
    """nnU-Net's formulas on values of 16 bits, of which those of bytes keep within 255."""
    plans = changed(PLANS, "configurations/2d/normalization_schemes", schemes)
    plans["foreground_intensity_properties_per_channel"] = CT
    data = open_published("nnunet", results(plans)).config.data
    limit = 256 if "NoNormalization" in schemes else 2000
    image_hwc = np.random.default_rng(0).integers(0, limit, (8, 9, 3)).astype(np.int16)
    read_hwc = read_input(image_hwc, data, "image", lambda *_: None)
    theirs, ours = expected(image_hwc.astype(np.float64)), (read_hwc - np.array(data.mean)) / data.std
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        ({"background": 0, "whole": [1, 2], "core": 2}, "'whole' is a region of several labels"),
        ({"background": 0, "cell": 2, "edge": 3}, r"expected the numbers 0, 1, 2, …, found \[0, 2, 3\]"),
        ({"background": 0, "cell": 0, "edge": 1}, "expected the numbers 0, 1, 2"),
        ({"background": "0"}, "labels: expected a whole number, found '0'"),
        ({"background": 0, "cell": 1}, r"decoder.seg_layers.1.weight: expected floats \[2, 3, 1, 1\]"),
    ],
)
def test_other_labels_are_refused(results, labels, error):
    with pytest.raises(UserError, match=error):
        open_published("nnunet", results(dataset={**DATASET, "labels": labels}))


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"configurations": []}', "\xff"])
def test_a_damaged_file_of_plans_is_named(results, text):
    checkpoint = results()
    (checkpoint.parent.parent / "plans.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"plans\.json"):
        open_published("nnunet", checkpoint)


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ({"encoder.stem.convs.0.conv.weight": np.zeros((2, 3, 3, 3), np.float32)}, "this is a ResidualEncoderUNet"),
        ({"encoder.stages.0.0.convs.0.conv.weight": np.zeros((2, 3, 3, 3, 3), np.float32)}, "this is a 3-D nnU-Net"),
        ({"inc.weight": np.zeros((2, 3), np.float32)}, "expected the state dict of nnU-Net's PlainConvUNet"),
    ],
)
def test_weights_of_other_networks_are_refused_by_what_they_are(results, weights, error):
    with pytest.raises(UserError, match=error):
        open_published("nnunet", results(weights=weights))
