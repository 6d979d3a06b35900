"""The U-Net of milesial/Pytorch-UNet: its state dict and our `unet`, in both directions.

    inc.double_conv.{0,3}.weight                    params/encoder/stage0/conv{1,2}/kernel
    inc.double_conv.{1,4}.{weight,bias}             params/encoder/stage0/norm{1,2}/{scale,bias}
    inc.double_conv.{1,4}.running_{mean,var}        batch_stats/encoder/stage0/norm{1,2}/{mean,var}
    down1.maxpool_conv.1.double_conv.…              …/encoder/stage1/…
    up1.up.{weight,bias}                            params/decoder/stage3/up/{kernel,bias}; none if bilinear
    up1.conv.double_conv.…                          …/decoder/stage3/convs/…
    outc.conv.{weight,bias}                         params/heads/pixel/{kernel,bias}
    mask_values                                     data.value_map, or data.palette for colours

Releases up to 2.0 have a bias in each convolution (`model.conv_bias`). A model of one class answers with a logit z and
the probability sigmoid(z); here it has the classes background and foreground with the logits [0, z], which softmax
turns into the same. Counters of batches have no part in the answers: a converted model keeps them beside its weights
for the way back, in a model that was trained here they are 0.
"""

import dataclasses
import reprlib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seg.config import Config, DataConfig, ModelConfig
from seg.data.masks.class_settings import mask_values
from seg.errors import UserError
from seg.published.layers import CONV1X1, CONV2D, UP_CONV, batch_norm
from seg.published.mapping import Layout, Pair

ANCHOR = "inc.double_conv.0.weight"

CONVS, NORMS = ("0", "3"), ("1", "4")
"""Places in `double_conv` of the two convolutions and of the norms behind them."""

SIGMOID_KERNEL = Layout(
    lambda w_1i11: np.stack([np.zeros_like(w_1i11[0, :, 0, 0]), w_1i11[0, :, 0, 0]], axis=1),
    lambda w_i2: w_i2[:, 1][None, :, None, None],
)
SIGMOID_BIAS = Layout(lambda b_1: np.concatenate([np.zeros_like(b_1), b_1]), lambda b_2: b_2[1:])
"""A head of one class: the background's logit is 0."""

COUNTER = ".num_batches_tracked"
MAX_VALUE = (1 << 16) - 1
"""Masks have 16 bits at most."""


def is_ignored(name: str) -> bool:
    """Return whether a tensor has no part in the answers."""
    return name.endswith(COUNTER)


def has_one_class(tensors: Mapping[str, np.ndarray]) -> bool:
    """Return whether the model answers with the single logit of a foreground."""
    return len(tensors["outc.conv.weight"]) == 1


def answers_sigmoid(params: Any) -> bool:
    """Return whether our model has two classes and a background whose logit is 0: it can be written as one class."""
    head = params["heads"]["pixel"]
    kernel_ck, bias_k = np.asarray(head["kernel"]), np.asarray(head["bias"])
    return len(bias_k) == 2 and not kernel_ck[:, 0].any() and not bias_k[0]


def read_milesial_config(tensors: Mapping[str, np.ndarray], path: Path) -> ModelConfig:
    """Return the model that the tensors belong to: widths, depth, up-sampling and classes from their shapes and names.

    Args:
        tensors: a state dict.
        path: where it comes from, for the message.

    Raises:
        UserError: not a U-Net of this kind, or one of images that have not three channels.
    """
    first, last = (tensors.get(name) for name in ("inc.double_conv.0.weight", "outc.conv.weight"))
    depth = 0
    while f"down{depth + 1}.maxpool_conv.1.double_conv.0.weight" in tensors:
        depth += 1
    if first is None or last is None or not depth or first.ndim != 4 or last.ndim != 4:
        raise UserError(
            f"{path}: expected the state dict of milesial/Pytorch-UNet (inc.double_conv.0.weight, down1.…, up1.…, "
            f"outc.conv.weight), found {', '.join(list(tensors)[:3])}, …"
        )
    if first.shape[1] != 3:
        raise UserError(f"{path}: a model of images with {first.shape[1]} channels; images here have 3")
    return ModelConfig(
        name="unet",
        num_classes=max(len(last), 2),
        base_width=len(first),
        depth=depth,
        conv_bias="inc.double_conv.0.bias" in tensors,
        upsample="transposed" if "up1.up.weight" in tensors else "bilinear",
    )


def milesial_pairs(config: ModelConfig, one_class: bool = False) -> list[Pair]:
    """Return the pairs of every array of a `unet`.

    Args:
        config: of the model.
        one_class: whether the other side has the single logit of a foreground.

    Raises:
        UserError: a model that the other side has not.
    """
    wanted = {"name": "unet", "stem_stride": 1, "norm": "batch", "deep_supervision": False}
    for key, value in wanted.items():
        if getattr(config, key) != value:
            raise UserError(f"model.{key}: milesial's U-Net has {value}, this model {getattr(config, key)}")
    pairs = _double_conv("encoder/stage0", "inc", config)
    for stage in range(1, config.depth + 1):
        pairs += _double_conv(f"encoder/stage{stage}", f"down{stage}.maxpool_conv.1", config)
    for number in range(1, config.depth + 1):
        stage = f"decoder/stage{config.depth - number}"
        if config.upsample == "transposed":
            pairs.append(Pair(f"params/{stage}/up/kernel", f"up{number}.up.weight", UP_CONV))
            pairs.append(Pair(f"params/{stage}/up/bias", f"up{number}.up.bias"))
        pairs += _double_conv(f"{stage}/convs", f"up{number}.conv", config)
    kernel, bias = ((SIGMOID_KERNEL,), (SIGMOID_BIAS,)) if one_class else ((CONV1X1,), ())
    pairs.append(Pair("params/heads/pixel/kernel", "outc.conv.weight", *kernel))
    pairs.append(Pair("params/heads/pixel/bias", "outc.conv.bias", *bias))
    return pairs


def read_counters(tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return the counters of batches, by name."""
    counters = {
        name: x for name, x in tensors.items() if name.endswith(COUNTER) and x.size == 1 and x.dtype.kind in "iu"
    }
    return {name: max(int(counter.item()), 0) for name, counter in counters.items()}


def with_counters(
    tensors: Mapping[str, np.ndarray], counters: Mapping[str, int] = types.MappingProxyType({})
) -> dict[str, np.ndarray]:
    """Return the tensors with a counter of batches behind each running variance, where torch has it.

    Args:
        tensors: without counters.
        counters: those that are known; the others are 0.
    """
    found: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        found[name] = tensor
        if name.endswith(".running_var"):
            counter = name.removesuffix(".running_var") + COUNTER
            found[counter] = np.array(counters.get(counter, 0), np.int64)
    return found


def read_mask_values(data: DataConfig, extras: Mapping[str, Any], num_classes: int, path: Path) -> DataConfig:
    """Return the settings that translate the masks' values as `mask_values` does.

    Args:
        data: other settings.
        extras: what stands beside the tensors.
        num_classes: of the model.
        path: of the file, for the message.

    Raises:
        UserError: values that are no masks' values, or not one for each class.
    """
    values = extras.get("mask_values")
    if values is None:
        return data
    as_colours = isinstance(values, list) and all(isinstance(v, list | tuple) and len(v) == 3 for v in values)
    as_numbers = isinstance(values, list) and _are_whole(values, MAX_VALUE)
    as_colours = as_colours and all(_are_whole(colour, 255) for colour in values)
    if not (as_colours or as_numbers) or len(values) != num_classes:
        # A list may hold itself many times over: it is not shown whole.
        raise UserError(
            f"{path}: mask_values: expected {num_classes} numbers or colours, one for each class, "
            f"found {reprlib.repr(values):.200}"
        )
    if as_colours:
        return dataclasses.replace(data, palette=tuple(map(tuple, values)))
    return dataclasses.replace(data, value_map={value: label for label, value in enumerate(values)})


def _are_whole(values: Iterable, highest: int) -> bool:
    return all(type(v) is int and 0 <= v <= highest for v in values)


def make_mask_values(config: Config) -> list:
    """Return the masks' value, or colour, of each class: the inverse of `read_mask_values`."""
    values = mask_values(config.data, config.model.num_classes) or range(config.model.num_classes)
    return [list(value) if isinstance(value, tuple) else value for value in values]


def _double_conv(ours: str, theirs: str, config: ModelConfig) -> list[Pair]:
    """Return the pairs of two convolutions and their norms, in torch's order."""
    pairs = []
    for number, (conv, norm) in enumerate(zip(CONVS, NORMS, strict=True), start=1):
        conv, norm = f"{theirs}.double_conv.{conv}", f"{theirs}.double_conv.{norm}"
        pairs.append(Pair(f"params/{ours}/conv{number}/kernel", f"{conv}.weight", CONV2D))
        if config.conv_bias:
            pairs.append(Pair(f"params/{ours}/conv{number}/bias", f"{conv}.bias"))
        pairs += batch_norm(f"{ours}/norm{number}", norm)
    return pairs
