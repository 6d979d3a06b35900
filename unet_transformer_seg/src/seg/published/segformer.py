"""SegFormer as transformers saves it: a folder of `save_pretrained`, and our MiT with SegFormer's decoder.

    config.json                              depths and widths, which name the encoder; `id2label`, the classes
    model.safetensors or pytorch_model.bin   segformer.encoder.…, decode_head.…
    preprocessor_config.json                 mean, deviation and size of the images

The encoder's names are in `seg.published.encoders`. A model of one class becomes one of background and foreground
(`with_sigmoid_head`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seg.classes import MAX_CLASSES
from seg.config import DataConfig, ModelConfig, SegFormerDecoderConfig
from seg.errors import UserError
from seg.models.mix_transformer import HEADS, MLP_RATIO, REDUCTIONS, VARIANTS
from seg.published.encoders import IN_TRANSFORMERS, is_key_bias, mit_pairs, segformer_decoder_pairs
from seg.published.file_kinds import describe_folder
from seg.published.layers import COUNTER, with_sigmoid_head
from seg.published.mapping import Pair
from seg.published.settings_file import entry, read_settings
from seg.untrusted import shown

SETTINGS, IMAGES = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ENCODER = "segformer.encoder."
ANCHOR = f"{ENCODER}patch_embeddings.0.proj.weight"
HEAD = "decode_head.classifier.weight"

FIXED = {
    "num_encoder_blocks": 4,
    "num_attention_heads": list(HEADS),
    "sr_ratios": list(REDUCTIONS),
    "patch_sizes": [7, 3, 3, 3],
    "strides": [4, 2, 2, 2],
    "mlp_ratios": [MLP_RATIO] * 4,
    "hidden_act": "gelu",
    "reshape_last_stage": True,
}
"""Settings that are the same in all published sizes; a file may leave them out."""

DEFAULTS = {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256}
"""Settings of SegFormer-B0, which transformers assumes where a file leaves them out."""


class Files(NamedTuple):
    """What a folder of `save_pretrained` holds."""

    weights: Path
    where: Path  # the settings' file, for messages
    settings: dict[str, Any]


def find_segformer(folder: Path) -> Files:
    """Return the files of a folder of `save_pretrained`; refuse a model that is no SegFormer, by its name."""
    where = folder / SETTINGS
    if not where.is_file():
        kind = describe_folder(folder) if folder.is_dir() else f"this is a file: name the folder with its {SETTINGS}"
        raise UserError(f"{folder}: {kind}")
    settings = read_settings(where, "save_pretrained")
    architectures = settings.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else settings.get("model_type")
    if name not in ("SegformerForSemanticSegmentation", "segformer"):
        raise UserError(f"{where}: this is {shown(name)} of transformers; expected SegformerForSemanticSegmentation")
    weights = [folder / file for file in WEIGHTS if (folder / file).is_file()]
    if not weights:
        raise UserError(f"{folder}: expected {' or '.join(WEIGHTS)} beside {SETTINGS}, found neither")
    return Files(weights[0], where, settings)


def read_segformer_config(files: Files, num_classes: int) -> ModelConfig:
    """Return the model that the settings describe, of the classes that its head has."""
    settings, where = {**DEFAULTS, **FIXED, **files.settings}, files.where
    for key, value in FIXED.items():
        if settings[key] != value:
            raise UserError(f"{where}: {key}: expected {value}, found {shown(settings[key])}")
    sizes = [tuple(entry(settings, key, list, where)) for key in ("hidden_sizes", "depths")]
    encoder = next((name for name, variant in VARIANTS.items() if [variant.widths, variant.blocks] == sizes), None)
    if encoder is None:
        raise UserError(
            f"{where}: hidden_sizes, depths: expected those of SegFormer-B0, B1 or B2, found {shown(list(sizes[0]))} "
            f"and {shown(list(sizes[1]))}"
        )
    width = entry(settings, "decoder_hidden_size", int, where)
    return ModelConfig(
        name="unet",
        encoder=encoder,
        decoder="segformer",
        segformer_decoder=SegFormerDecoderConfig(width),
        num_classes=max(num_classes, 2),
    )


def read_class_names(files: Files, num_classes: int) -> tuple[str, ...]:
    """Return the names of `id2label`, or none where it has other numbers than the head."""
    labels = files.settings.get("id2label")
    if not isinstance(labels, dict) or not 2 <= num_classes == len(labels) <= MAX_CLASSES:
        return ()
    names = [labels.get(str(number)) for number in range(num_classes)]
    return tuple(names) if all(isinstance(name, str) for name in names) else ()


def read_data_settings(folder: Path, channels: int) -> DataConfig:
    """Return size and normalisation of the images; those of ImageNet and 512 × 512 where the file is missing."""
    path, size = folder / IMAGES, (512, 512)
    settings = read_settings(path, "save_pretrained") if path.is_file() else {}
    sides = settings.get("size", {})
    sides = sides if isinstance(sides, dict) else {"height": sides, "width": sides}
    if {"height", "width"} <= sides.keys():
        size = tuple(entry(sides, side, int, f"{path}: size") for side in ("height", "width"))
    elif "shortest_edge" in sides:
        size = (entry(sides, "shortest_edge", int, f"{path}: size"),) * 2
    data = DataConfig(size=size, channels=channels)
    if not entry({"do_normalize": True, **settings}, "do_normalize", bool, path):
        return DataConfig(size=size, channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    if "image_mean" in settings or "image_std" in settings:
        mean, std = (
            _numbers(entry(settings, key, list, path), f"{path}: {key}") for key in ("image_mean", "image_std")
        )
        if not len(mean) == len(std) == channels:
            raise UserError(f"{path}: image_mean, image_std: expected {channels} numbers, one for each channel")
        return DataConfig(size=size, channels=channels, mean=mean, std=std)
    return data


def segformer_pairs(config: ModelConfig, one_class: bool = False) -> list[Pair]:
    """Return the pairs of every array; with `one_class`, the other side has the logit of a foreground."""
    pairs = mit_pairs(VARIANTS[config.encoder], ENCODER) + segformer_decoder_pairs(IN_TRANSFORMERS)
    return with_sigmoid_head(pairs) if one_class else pairs


def count_classes(tensors: Mapping[str, np.ndarray]) -> int:
    """Return the number of logits of a pixel; refuse tensors of another network."""
    head, first = tensors.get(HEAD, np.zeros(0)), tensors.get(ANCHOR, np.zeros(0))
    if head.ndim != 4 or first.ndim != 4 or 0 in (*head.shape, *first.shape):
        some = ", ".join(list(tensors)[:3])
        raise UserError(f"expected the state dict of a SegFormer ({ANCHOR}, {HEAD}), found {some} …")
    return len(head)


def is_ignored(name: str) -> bool:
    """Return whether a tensor takes no part in predictions: a batch counter, or the keys' bias."""
    return name.endswith(COUNTER) or is_key_bias(name)


def _numbers(values: list, where: str) -> tuple[float, ...]:
    return tuple(float(entry({str(i): value}, str(i), float, where)) for i, value in enumerate(values))
