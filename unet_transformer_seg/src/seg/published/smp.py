"""`Unet` of segmentation_models_pytorch with a ResNet encoder: its state dict and our `resnet_unet`.

    encoder.conv1.weight                             params/encoder/conv1/kernel
    encoder.bn1.{weight,bias}                        params/encoder/norm1/{scale,bias}
    encoder.bn1.{running_mean,running_var}           batch_stats/encoder/norm1/{mean,var}
    encoder.layer2.0.conv1.weight                    params/encoder/layer2/unit0/conv1/kernel
    encoder.layer2.0.downsample.{0,1}.…              …/encoder/layer2/unit0/shortcut_{conv,norm}/…
    decoder.blocks.0.conv1.{0,1}.…                   …/decoder/block0/{conv1,norm1}/…
    segmentation_head.0.{weight,bias}                params/head/{kernel,bias}

The decoder enlarges maps by repeating pixels unless `decoder_interpolation` differs. No tensor shows it: a folder of
`save_pretrained` states it in `config.json`; for a state dict alone, set `model.resnet_unet.interpolation`. The head
that classifies whole images (`aux_params`) is dropped. A model of one class becomes one of background and foreground
(`sigmoid_head`).
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np

from seg.config import ModelConfig, ResNetUNetConfig
from seg.errors import UserError
from seg.published.encoders import resnet_pairs
from seg.published.file_kinds import describe_folder
from seg.published.layers import CONV2D, COUNTER, conv_norm, count, sigmoid_head
from seg.published.mapping import AS_IS, Pair
from seg.published.settings_file import read_settings
from seg.untrusted import shown

log = logging.getLogger("seg")

ANCHOR = "encoder.conv1.weight"
NUM_BLOCKS = 5

SETTINGS, WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
"""Files in a folder of `save_pretrained`."""

DEFAULT_INTERPOLATION = "nearest"

CLASSIFIER = "classification_head."


def is_ignored(name: str) -> bool:
    """Return whether a tensor takes no part in predictions: a batch counter, or part of an image classifier."""
    return name.endswith(COUNTER) or name.startswith(("encoder.fc.", CLASSIFIER))


def find_pretrained(folder: Path) -> tuple[Path, str]:
    """Return (weights file, decoder_interpolation) of a folder of `save_pretrained`."""
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(f"{folder}: {describe_folder(folder)}")
    settings = read_settings(path, "save_pretrained")
    interpolation = settings.get("decoder_interpolation", DEFAULT_INTERPOLATION)
    supported = {
        "_model_class": ("Unet",),
        "decoder_interpolation": get_args(get_type_hints(ResNetUNetConfig)["interpolation"]),
        "decoder_attention_type": (None,),
        "encoder_depth": (5,),
    }
    for key, values in supported.items():
        if key in settings and settings[key] not in values:
            raise UserError(f"{path}: {key}: expected {' or '.join(map(str, values))}, found {shown(settings[key])}")
    files = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not files:
        raise UserError(f"{folder}: expected {' or '.join(WEIGHTS)} beside {SETTINGS}, found neither")
    return files[0], interpolation


def has_one_class(tensors: Mapping[str, np.ndarray]) -> bool:
    """Return whether the head gives the single logit of a foreground."""
    return len(tensors["segmentation_head.0.weight"]) == 1


def read_smp_config(tensors: Mapping[str, np.ndarray], interpolation: str = DEFAULT_INTERPOLATION) -> ModelConfig:
    """Return the model of a state dict: units, widths and classes from its names and shapes."""

    def shape(name: str) -> tuple[int, ...]:
        conv_shape = tensors.get(f"{name}.weight", np.zeros(0)).shape
        if len(conv_shape) != 4 or 0 in conv_shape:
            raise _unsupported(f"no convolution {name}.weight among {some(tensors)}")
        return conv_shape

    width, *_ = shape("encoder.conv1")
    units = tuple(count(tensors, f"encoder.layer{layer}.{{}}.conv1.weight") for layer in range(1, 5))
    if 0 in units:
        raise _unsupported(f"no unit encoder.layer{units.index(0) + 1}.0 among {some(tensors)}")
    block = "bottleneck" if "encoder.layer1.0.conv3.weight" in tensors else "basic"
    outputs, inputs, *_ = shape("encoder.layer1.0.conv2")
    if (outputs, inputs) != (width, width):
        raise _unsupported("units that are grouped or widened (ResNeXt, Wide ResNet)")
    if extra := sorted(name for name in tensors if ".attention" in name or name.startswith("decoder.center.")):
        raise _unsupported(f"a decoder with attention or a centre block, {some(extra)}")
    decoder_widths = tuple(shape(f"decoder.blocks.{i}.conv1.0")[0] for i in range(NUM_BLOCKS))
    num_classes = max(shape("segmentation_head.0")[0], 2)
    sizes = ResNetUNetConfig(
        block=block, units=units, encoder_width=width, decoder_widths=decoder_widths, interpolation=interpolation
    )
    return ModelConfig(name="resnet_unet", num_classes=num_classes, resnet_unet=sizes)


def smp_pairs(config: ModelConfig, one_class: bool = False) -> list[Pair]:
    """Return the pairs of every array of a `resnet_unet`; `one_class` as `has_one_class` of the other side."""
    sizes = config.resnet_unet
    pairs = resnet_pairs(sizes, "encoder.")
    for i in range(len(sizes.decoder_widths)):
        for n in (1, 2):
            ours, theirs = f"decoder/block{i}", f"decoder.blocks.{i}.conv{n}"
            pairs += conv_norm(f"{ours}/conv{n}", f"{ours}/norm{n}", f"{theirs}.0", f"{theirs}.1")
    kernel, bias = (sigmoid_head(CONV2D), sigmoid_head(AS_IS)) if one_class else (CONV2D, AS_IS)
    pairs.append(Pair("params/head/kernel", "segmentation_head.0.weight", kernel))
    pairs.append(Pair("params/head/bias", "segmentation_head.0.bias", bias))
    return pairs


def _unsupported(contents: str) -> UserError:
    return UserError(
        "expected the state dict of segmentation_models_pytorch's Unet with a ResNet encoder (resnet18 to "
        f"resnet152, depth 5; decoder with batch norm, without attention), found {contents}"
    )


def some(names: Iterable[str]) -> str:
    """Return the first few names."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
