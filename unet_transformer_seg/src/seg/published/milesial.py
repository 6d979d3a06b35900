"""The U-Net of milesial/Pytorch-UNet: its state dict and our `unet`, in both directions.

    inc.double_conv.{0,3}.weight                    params/encoder/stage0/conv{1,2}/kernel
    inc.double_conv.{1,4}.{weight,bias}             params/encoder/stage0/norm{1,2}/{scale,bias}
    inc.double_conv.{1,4}.running_{mean,var}        batch_stats/encoder/stage0/norm{1,2}/{mean,var}
    down1.maxpool_conv.1.double_conv.…              …/encoder/stage1/…
    up1.up.{weight,bias}                            params/decoder/stage3/up/{kernel,bias}; none if bilinear
    up1.conv.double_conv.…                          …/decoder/stage3/convs/…
    outc.conv.{weight,bias}                         params/heads/pixel/{kernel,bias}
    mask_values                                     data.value_map, or data.palette for colours

Releases up to 2.0 have a bias in each convolution (`model.conv_bias`). A model of one class becomes one of background
and foreground (`sigmoid_head`). A converted model keeps the batch counters beside its weights for the way back; in a
model trained here they are 0.
"""

import dataclasses
import reprlib
import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from seg.classes import MAX_MASK_VALUE
from seg.config import Config, DataConfig, ModelConfig
from seg.data.masks.class_settings import mask_values
from seg.errors import UserError
from seg.published.layers import CONV1X1, CONV2D, COUNTER, UP_CONV, batch_norm, count, sigmoid_head
from seg.published.mapping import AS_IS, Pair

ANCHOR = "inc.double_conv.0.weight"


def is_ignored(name: str) -> bool:
    """Return whether a tensor takes no part in predictions."""
    return name.endswith(COUNTER)


def has_one_class(tensors: Mapping[str, np.ndarray]) -> bool:
    """Return whether the head gives the single logit of a foreground."""
    return len(tensors["outc.conv.weight"]) == 1


def answers_sigmoid(params: Any) -> bool:
    """Return whether our model has two classes with background logit 0, so that it can be written as one class."""
    head = params["heads"]["pixel"]
    kernel_ck, bias_k = np.asarray(head["kernel"]), np.asarray(head["bias"])
    return len(bias_k) == 2 and not kernel_ck[:, 0].any() and not bias_k[0]


def read_milesial_config(tensors: Mapping[str, np.ndarray]) -> ModelConfig:
    """Return the model of a state dict: widths, depth, up-sampling and classes from its names and shapes."""
    first, last = tensors.get(ANCHOR), tensors.get("outc.conv.weight")
    depth = count(tensors, "down{}.maxpool_conv.1.double_conv.0.weight", start=1)
    if first is None or last is None or not depth or first.ndim != 4 or last.ndim != 4:
        raise UserError(
            "expected the state dict of milesial/Pytorch-UNet (inc.double_conv.0.weight, down1.…, up1.…, "
            f"outc.conv.weight), found {', '.join(list(tensors)[:3])}, …"
        )
    return ModelConfig(
        name="unet",
        num_classes=max(len(last), 2),
        base_width=len(first),
        depth=depth,
        conv_bias="inc.double_conv.0.bias" in tensors,
        upsample="transposed" if "up1.up.weight" in tensors else "bilinear",
    )


def milesial_pairs(config: ModelConfig, one_class: bool = False) -> list[Pair]:
    """Return the pairs of every array of a `unet`; with `one_class`, the other side has the logit of a foreground."""
    required = {
        "name": "unet",
        "encoder": "plain",
        "decoder": "unet",
        "stem_stride": 1,
        "norm": "batch",
        "deep_supervision": False,
    }
    for key, value in required.items():
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
    kernel, bias = (sigmoid_head(CONV1X1), sigmoid_head(AS_IS)) if one_class else (CONV1X1, AS_IS)
    pairs.append(Pair("params/heads/pixel/kernel", "outc.conv.weight", kernel))
    pairs.append(Pair("params/heads/pixel/bias", "outc.conv.bias", bias))
    return pairs


def _double_conv(ours: str, theirs: str, config: ModelConfig) -> list[Pair]:
    """Return the pairs of two convolutions and their norms, in torch's order."""
    pairs = []
    for number, (conv, norm) in enumerate(((0, 1), (3, 4)), start=1):
        conv, norm = f"{theirs}.double_conv.{conv}", f"{theirs}.double_conv.{norm}"
        pairs.append(Pair(f"params/{ours}/conv{number}/kernel", f"{conv}.weight", CONV2D))
        if config.conv_bias:
            pairs.append(Pair(f"params/{ours}/conv{number}/bias", f"{conv}.bias"))
        pairs += batch_norm(f"{ours}/norm{number}", norm)
    return pairs


def read_counters(tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return the batch counters by name."""
    counters = {name: x for name, x in tensors.items() if name.endswith(COUNTER)}
    return {name: max(int(x.item()), 0) for name, x in counters.items() if x.size == 1 and x.dtype.kind in "iu"}


def with_counters(
    tensors: Mapping[str, np.ndarray], counters: Mapping[str, int] = types.MappingProxyType({})
) -> dict[str, np.ndarray]:
    """Return the tensors with a batch counter after each running variance, as torch has it; unknown ones are 0."""
    complete: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        complete[name] = tensor
        if name.endswith(".running_var"):
            counter = name.removesuffix(".running_var") + COUNTER
            complete[counter] = np.array(counters.get(counter, 0), np.int64)
    return complete


def read_mask_values(data: DataConfig, extras: Mapping[str, Any], num_classes: int) -> DataConfig:
    """Return `data` with the settings that read masks by the `mask_values` among the file's extras."""
    values = extras.get("mask_values")
    if values is None:
        return data
    as_colours = isinstance(values, list) and all(isinstance(v, list | tuple) and len(v) == 3 for v in values)
    as_colours = as_colours and all(_are_integers(colour, 255) for colour in values)
    as_numbers = isinstance(values, list) and _are_integers(values, MAX_MASK_VALUE)
    if not (as_colours or as_numbers) or len(values) != num_classes:
        # A list may contain itself many times over, so it is not shown whole.
        raise UserError(
            f"mask_values: expected {num_classes} numbers or colours, one for each class, "
            f"found {reprlib.repr(values):.200}"
        )
    if as_colours:
        return dataclasses.replace(data, palette=tuple(map(tuple, values)))
    return dataclasses.replace(data, value_map={value: label for label, value in enumerate(values)})


def _are_integers(values: Iterable, highest: int) -> bool:
    return all(type(v) is int and 0 <= v <= highest for v in values)


def make_mask_values(config: Config) -> list:
    """Return the mask value, or colour, of each class: the inverse of `read_mask_values`."""
    values = mask_values(config.data, config.model.num_classes) or range(config.model.num_classes)
    return [list(value) if isinstance(value, tuple) else value for value in values]
