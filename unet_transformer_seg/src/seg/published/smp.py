"""`Unet` of segmentation_models_pytorch with a ResNet encoder: its state dict and our `resnet_unet`.

    encoder.conv1.weight                             params/encoder/conv1/kernel
    encoder.bn1.{weight,bias}                        params/encoder/norm1/{scale,bias}
    encoder.bn1.{running_mean,running_var}           batch_stats/encoder/norm1/{mean,var}
    encoder.layer2.0.conv1.weight                    params/encoder/layer2/unit0/conv1/kernel
    encoder.layer2.0.downsample.{0,1}.…              …/encoder/layer2/unit0/shortcut_{conv,norm}/…
    decoder.blocks.0.conv1.{0,1}.…                   …/decoder/block0/{conv1,norm1}/…
    segmentation_head.0.{weight,bias}                params/head/{kernel,bias}

Its decoder enlarges maps by repeating pixels unless `decoder_interpolation` says otherwise, which no tensor tells: a
folder that `save_pretrained` wrote says it in `config.json`, for a state dict alone it is the setting
`model.resnet_unet.interpolation`. The head that classifies whole images (`aux_params`) is left out.

A model of one class answers with one logit z and the probability sigmoid(z). Here background is a class too: the same
model has the logits [0, z], and softmax([0, z]) is [1 − sigmoid(z), sigmoid(z)].
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np

from seg.config import ModelConfig, ResNetUNetConfig
from seg.errors import UserError
from seg.files import decoded, read_bounded
from seg.models.resnet import KERNELS, plan_units
from seg.published.file_kinds import describe_folder
from seg.published.layers import CONV2D, conv_norm
from seg.published.mapping import Layout, Pair
from seg.untrusted import shown

log = logging.getLogger("seg")

ANCHOR = "encoder.conv1.weight"
NUM_BLOCKS = 5

SETTINGS, WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
"""Files of a folder that `save_pretrained` wrote."""

MAX_SETTINGS_BYTES = 1 << 16
DEFAULT_INTERPOLATION = "nearest"

CLASSIFIER = "classification_head."

SIGMOID_KERNEL = Layout(
    lambda w_1ihw: CONV2D.to_ours(np.concatenate([np.zeros_like(w_1ihw), w_1ihw])),
    lambda w_hwi2: CONV2D.to_theirs(w_hwi2[..., 1:] - w_hwi2[..., :1]),
)
"""A head of one class: the background's logit is 0. Back, only the difference of the two logits counts."""
SIGMOID_BIAS = Layout(lambda b_1: np.concatenate([np.zeros_like(b_1), b_1]), lambda b_2: b_2[1:] - b_2[:1])


def is_ignored(name: str) -> bool:
    """Return whether a tensor has no part in the masks: a counter of batches, or of a classifier of whole images."""
    return name.endswith(".num_batches_tracked") or name.startswith(("encoder.fc.", CLASSIFIER))


def say_what_is_left_out(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Warn of a head that classifies whole images."""
    if found := [name for name in tensors if name.startswith(CLASSIFIER)]:
        log.warning("%s: left out %s, the head that classifies whole images (aux_params)", path, _some(found))


def find_pretrained(folder: Path) -> tuple[Path, str]:
    """Return (file of weights, decoder_interpolation) of a folder that `save_pretrained` wrote.

    Raises:
        UserError: not such a folder, or a model that is not read here, naming the setting.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(f"{folder}: {describe_folder(folder)}")
    try:
        settings = json.loads(decoded(path, read_bounded(path, MAX_SETTINGS_BYTES), "settings"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not valid JSON; copy it again") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path}: expected settings as save_pretrained writes them, found {shown(settings)}")
    interpolation = settings.get("decoder_interpolation", DEFAULT_INTERPOLATION)
    known = get_args(get_type_hints(ResNetUNetConfig)["interpolation"])
    wanted = {"_model_class": ("Unet",), "decoder_interpolation": known, "decoder_attention_type": (None,)}
    wanted |= {"encoder_depth": (5,), "in_channels": (3,)}
    for key, values in wanted.items():
        if key in settings and settings[key] not in values:
            raise UserError(f"{path}: {key}: expected {' or '.join(map(str, values))}, found {shown(settings[key])}")
    files = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not files:
        raise UserError(f"{folder}: expected {' or '.join(WEIGHTS)} beside {SETTINGS}, found neither")
    return files[0], interpolation


def has_one_class(tensors: Mapping[str, np.ndarray]) -> bool:
    """Return whether the model answers with the single logit of a foreground."""
    return len(tensors["segmentation_head.0.weight"]) == 1


def read_smp_config(
    tensors: Mapping[str, np.ndarray], path: Path, interpolation: str = DEFAULT_INTERPOLATION
) -> ModelConfig:
    """Return the model that the tensors belong to: kind and number of units, widths and classes from their shapes.

    Args:
        tensors: a state dict, its names without a common prefix.
        path: where it comes from, for the message.
        interpolation: how its decoder enlarges maps, which no tensor tells.

    Raises:
        UserError: not a `Unet` with a ResNet encoder of five stages and a plain decoder with batch norm.
    """

    def shape(name: str) -> tuple[int, ...]:
        found = tensors.get(f"{name}.weight", np.zeros(0)).shape
        if len(found) != 4 or 0 in found:
            raise _not_supported(path, f"no convolution {name}.weight among {_some(tensors)}")
        return found

    width, channels, *_ = shape("encoder.conv1")
    if channels != 3:
        raise _not_supported(path, f"a model of {channels} channels (in_channels); images here have 3")
    units = tuple(_count_units(tensors, layer) for layer in range(1, 5))
    if 0 in units:
        raise _not_supported(path, f"no unit encoder.layer{units.index(0) + 1}.0 among {_some(tensors)}")
    block = "bottleneck" if "encoder.layer1.0.conv3.weight" in tensors else "basic"
    outputs, inputs, *_ = shape("encoder.layer1.0.conv2")
    if (outputs, inputs) != (width, width):
        raise _not_supported(path, "units that are grouped or widened (ResNeXt, Wide ResNet)")
    if extra := sorted(name for name in tensors if ".attention" in name or name.startswith("decoder.center.")):
        raise _not_supported(path, f"a decoder with attention or a centre block, {_some(extra)}")
    decoder_widths = tuple(shape(f"decoder.blocks.{i}.conv1.0")[0] for i in range(NUM_BLOCKS))
    num_classes = max(shape("segmentation_head.0")[0], 2)
    sizes = ResNetUNetConfig(
        block=block, units=units, encoder_width=width, decoder_widths=decoder_widths, interpolation=interpolation
    )
    return ModelConfig(name="resnet_unet", num_classes=num_classes, resnet_unet=sizes)


def smp_pairs(config: ModelConfig, one_class: bool = False) -> list[Pair]:
    """Return the pairs of every array of the model.

    Args:
        config: a `resnet_unet`.
        one_class: whether the other side has the single logit of a foreground (`has_one_class`) where ours has two.
    """
    sizes = config.resnet_unet
    pairs = conv_norm("encoder/conv1", "encoder/norm1", "encoder.conv1", "encoder.bn1")
    for plan in plan_units(sizes):
        ours, theirs = f"encoder/layer{plan.layer}/unit{plan.number}", f"encoder.layer{plan.layer}.{plan.number}"
        for n in range(1, len(KERNELS[sizes.block]) + 1):
            pairs += conv_norm(f"{ours}/conv{n}", f"{ours}/norm{n}", f"{theirs}.conv{n}", f"{theirs}.bn{n}")
        if plan.projects:
            down = f"{theirs}.downsample"
            pairs += conv_norm(f"{ours}/shortcut_conv", f"{ours}/shortcut_norm", f"{down}.0", f"{down}.1")
    for i in range(len(sizes.decoder_widths)):
        for n in (1, 2):
            ours, theirs = f"decoder/block{i}", f"decoder.blocks.{i}.conv{n}"
            pairs += conv_norm(f"{ours}/conv{n}", f"{ours}/norm{n}", f"{theirs}.0", f"{theirs}.1")
    head = "segmentation_head.0"
    pairs.append(Pair("params/head/kernel", f"{head}.weight", SIGMOID_KERNEL if one_class else CONV2D))
    pairs.append(Pair("params/head/bias", f"{head}.bias", *([SIGMOID_BIAS] if one_class else [])))
    return pairs


def _count_units(tensors: Mapping[str, np.ndarray], layer: int) -> int:
    count = 0
    while f"encoder.layer{layer}.{count}.conv1.weight" in tensors:
        count += 1
    return count


def _not_supported(path: Path, found: str) -> UserError:
    return UserError(
        f"{path}: expected the state dict of segmentation_models_pytorch's Unet with a ResNet encoder (resnet18 to "
        f"resnet152, depth 5, 3 channels; decoder with batch norm, without attention), found {found}"
    )


def _some(names: Mapping[str, np.ndarray] | list[str]) -> str:
    """Return the first few names."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
