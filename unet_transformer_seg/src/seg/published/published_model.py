"""A published model: its file opened as settings, classes and variables of a model here."""

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np

from seg.checkpoints.arrays import describe_arrays, named_arrays
from seg.classes import ClassTable, make_class_table
from seg.config import Config, DataConfig, ModelConfig
from seg.config.rules import check_config, check_ranges
from seg.data.image_file import naming_file
from seg.errors import UserError
from seg.models import abstract_variables
from seg.published import milesial, nnunet, nnunet_images, nnunet_plans, r50_vit, segformer, smp, transunet
from seg.published.mapping import Pair, export_arrays, import_arrays
from seg.published.smp_encoders import usual_names
from seg.published.state_dict import plain_names
from seg.published.torch_file import read_torch_file
from seg.published.torch_writer import write_torch_file

log = logging.getLogger("seg")

WINDOW, PHOTOGRAPH_WINDOW = (512, 512), (224, 224)
WHOLE_UP_TO = 2_500_000  # images of up to this many pixels are predicted whole, as published programs do

SCALE_IN_NAME = re.compile(r"scale[_-]?(\d+(?:\.\d+)?)", re.IGNORECASE)

COUNTERS = "num_batches_tracked"

TO_PLUS_MINUS_ONE = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


class Published(NamedTuple):
    """A published model."""

    config: Config  # its settings
    classes: ClassTable  # names and colours
    variables: dict[str, Any]  # `params` and `batch_stats`; arrays may be views of the file
    origin: dict[str, Any]  # kind, file name, and what only the way back needs


def open_milesial(path: Path) -> Published:
    """Return the U-Net in a `.pth` of milesial/Pytorch-UNet. Errors as in `open_published`."""
    tensors, extras = read_torch_file(path)
    tensors = plain_names(tensors, milesial.ANCHOR, path)
    with naming_file(path):
        model = _supported(milesial.read_milesial_config(tensors))
        # A model of one class was trained with mask values for background and foreground.
        num_values = max(len(tensors["outc.conv.weight"]), 2)
        channels = tensors[milesial.ANCHOR].shape[1]
        data = milesial.read_mask_values(_unchanged(WINDOW, channels), extras, num_values)
    pairs = milesial.milesial_pairs(model, milesial.has_one_class(tensors))
    variables = _variables(pairs, tensors, model, path, milesial.is_ignored, channels)
    return _published(model, data, variables, {COUNTERS: milesial.read_counters(tensors)})


def open_transunet(path: Path, num_heads: int | None = None) -> Published:
    """Return the TransUNet in a `.pth` of its authors' program. Errors as in `open_published`."""
    tensors = plain_names(read_torch_file(path).tensors, transunet.ANCHOR, path)
    with naming_file(path):
        model = _supported(transunet.read_transunet_config(tensors, num_heads))
    variables = _variables(transunet.transunet_pairs(model), tensors, model, path, transunet.is_ignored)
    rows, columns = model.transunet.position_grid
    return _published(model, _unchanged((16 * rows, 16 * columns)), variables)


def open_r50_vit(path: Path, num_classes: int = 2) -> Published:
    """Return a TransUNet with the ResNet and transformer of an `.npz` and an untrained decoder."""
    arrays = r50_vit.read_vit_npz(path)
    with naming_file(path):
        model = _supported(r50_vit.read_vit_npz_config(arrays, num_classes))
    variables = r50_vit.vit_npz_variables(arrays, path, model, jax.random.key(0))
    return _published(model, DataConfig(size=PHOTOGRAPH_WINDOW, **TO_PLUS_MINUS_ONE), variables)


def open_smp(path: Path) -> Published:
    """Return the `Unet` in a `.pth` of segmentation_models_pytorch or a folder of its `save_pretrained`.

    Errors as in `open_published`.
    """
    interpolation = smp.DEFAULT_INTERPOLATION
    if path.is_dir():
        path, interpolation = smp.find_pretrained(path)
    else:
        log.warning(
            "%s: no tensor shows decoder_interpolation; assuming nearest, the default of segmentation_models_pytorch. "
            "If the model uses bilinear, add model.resnet_unet.interpolation=bilinear, or with an encoder other than "
            "ResNet model.unet_decoder.interpolation=bilinear",
            path,
        )
    tensors = plain_names(read_torch_file(path).tensors, smp.ANCHOR, path)
    if classifier := [name for name in tensors if name.startswith(smp.CLASSIFIER)]:
        log.warning("%s: dropped %s, the head that classifies whole images (aux_params)", path, smp.some(classifier))
    tensors, by_timm = usual_names(tensors)
    with naming_file(path):
        model = _supported(smp.read_smp_config(tensors, interpolation, by_timm))
        channels = smp.count_channels(tensors)
        # ImageNet's mean and deviation are the default; they are of red, green and blue.
        data = DataConfig(size=WINDOW) if channels == 3 else _unchanged(WINDOW, channels)
    if channels != 3:
        log.warning(
            "%s: images of %d channels; assuming 0 … 1 without normalisation. If the model was trained with another "
            "normalisation, add data.mean=[…] data.std=[…]",
            path,
            channels,
        )
    pairs = smp.smp_pairs(model, smp.has_one_class(tensors))
    variables = _variables(pairs, tensors, model, path, smp.ignored_in(model), channels)
    return _published(model, data, variables)


def open_nnunet(path: Path) -> Published:
    """Return the PlainConvUNet in a checkpoint of nnU-Net v2, or in the results folder of one fold.

    Errors as in `open_published`.
    """
    path = nnunet_plans.find_checkpoint(path)
    tensors, extras = read_torch_file(path)
    tensors = plain_names(nnunet.without_repetitions(tensors), nnunet.ANCHOR, path)
    with naming_file(path):
        nnunet.check_is_planar(tensors)
    plans = nnunet_plans.read_plans(path, extras.get("init_args"))
    size, names = nnunet_plans.read_patch_size(plans), nnunet_plans.read_class_names(plans)
    with naming_file(path):
        classes = make_class_table(names)
        stages = nnunet_plans.read_stages(plans)
        model = _supported(ModelConfig(name="plain_conv_unet", num_classes=len(names), plain_conv_unet=stages))
        data = nnunet_images.read_data_settings(plans, size)
        check_ranges(data, "data.")
    variables = _variables(nnunet.nnunet_pairs(model), tensors, model, path, nnunet.ignored_in(model), data.channels)
    return _published(model, data, variables)._replace(classes=classes)


def open_segformer(folder: Path) -> Published:
    """Return the SegFormer in a folder of transformers' `save_pretrained`. Errors as in `open_published`."""
    files = segformer.find_segformer(folder)
    path = files.weights
    tensors = plain_names(read_torch_file(path).tensors, segformer.ANCHOR, path)
    with naming_file(path):
        num_classes, channels = segformer.count_classes(tensors), tensors[segformer.ANCHOR].shape[1]
    with naming_file(files.where):
        model = _supported(segformer.read_segformer_config(files, num_classes))
        names = segformer.read_class_names(files, num_classes)
        classes = make_class_table(names) if names else None
    data = segformer.read_data_settings(folder, channels)
    with naming_file(folder / segformer.IMAGES):
        check_ranges(data, "data.")
    pairs = segformer.segformer_pairs(model, num_classes == 1)
    published = _published(model, data, _variables(pairs, tensors, model, path, segformer.is_ignored, channels))
    return published._replace(classes=classes) if classes else published


def open_published(
    kind: str, path: Path, *, num_heads: int | None = None, num_classes: int = 2, names: Sequence[str] = ()
) -> Published:
    """Return the model in a published file.

    Args:
        kind: "milesial", "transunet", "r50-vit", "smp", "nnunet" or "segformer".
        path: of the file or folder.
        num_heads: attention heads of a transunet, which no shape shows.
        num_classes: classes that an r50-vit will learn.
        names: of the classes; numbered by default.

    Raises:
        UserError: a file that cannot be read, would run a program, or holds another model; a wrong number of names.
    """
    match kind:
        case "milesial":
            published = open_milesial(path)
        case "transunet":
            published = open_transunet(path, num_heads)
        case "r50-vit":
            published = open_r50_vit(path, len(names) or num_classes)
        case "smp":
            published = open_smp(path)
        case "nnunet":
            published = open_nnunet(path)
        case "segformer":
            published = open_segformer(path)
        case _:
            raise UserError(f"expected milesial, transunet, r50-vit, smp, nnunet or segformer, found {kind!r}")
    # nnU-Net always predicts by windows, and its norms make an answer depend on the window.
    whole_up_to = 0 if kind == "nnunet" else WHOLE_UP_TO
    inference = dataclasses.replace(published.config.inference, whole_up_to=whole_up_to, scale=_scale(kind, path))
    config = dataclasses.replace(published.config, name=path.stem, inference=inference)
    classes = published.classes
    if names:
        if len(names) != len(classes):
            raise UserError(f"{path}: the model has {len(classes)} classes, but there are {len(names)} names")
        classes = make_class_table(tuple(names), config.data.palette)
    origin = {"kind": kind, "file": path.name, **published.origin}
    return published._replace(config=config, classes=classes, origin=origin)


def _scale(kind: str, path: Path) -> str | float:
    """Return the `inference.scale` that matches a published program.

    The programs of TransUNet and SegFormer resize every image to the training size. milesial's scales by its option
    --scale, which is in the names of its published files (`unet_carvana_scale0.5_epoch2.pth`). smp has no program.
    """
    if kind in ("transunet", "r50-vit", "segformer"):
        return "trained"
    stated = SCALE_IN_NAME.search(path.name) if kind == "milesial" else None
    scale = float(stated[1]) if stated else 1.0
    return scale if scale != 1 and 0.01 <= scale <= 100 else "native"


def save_milesial(path: Path, config: Config, variables: Any, origin: Mapping[str, Any] | None = None) -> None:
    """Write a `unet` as a `.pth` that milesial's program loads; `origin` is that of a model opened from such a file."""
    one_class = config.model.name == "unet" and milesial.answers_sigmoid(variables["params"])
    pairs = milesial.milesial_pairs(config.model, one_class)
    arrays = {name: np.asarray(array) for name, array in named_arrays(variables).items()}
    tensors = milesial.with_counters(export_arrays(pairs, arrays), (origin or {}).get(COUNTERS, {}))
    write_torch_file(path, tensors, {"mask_values": milesial.make_mask_values(config)})


def array_shapes(config: ModelConfig, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Return name → shape of the variables of a model for images of `channels`."""
    arrays = describe_arrays(abstract_variables(config, channels=channels))
    return {name: shape for name, (shape, _) in arrays.items()}


def _variables(
    pairs: Sequence[Pair],
    tensors: Mapping[str, np.ndarray],
    model: ModelConfig,
    path: Path,
    ignored: Callable[[str], bool],
    channels: int = 3,
) -> dict[str, Any]:
    arrays = import_arrays(pairs, tensors, array_shapes(model, channels), path, ignored)
    return {"batch_stats": {}, **flax.traverse_util.unflatten_dict(arrays, sep="/")}


def _unchanged(size: tuple[int, int], channels: int = 3) -> DataConfig:
    """Return settings under which pixels stay in 0…1 as they are."""
    data = DataConfig(size=size, channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    check_ranges(data, "data.")
    return data


def _supported(model: ModelConfig) -> ModelConfig:
    """Return the model of a file's tensors, after checking it like one from a config."""
    try:
        check_ranges(model, "model.")
        check_config(Config(model=model))
    except UserError as error:
        raise UserError(f"the tensors describe a model that cannot be built here: {error}") from None
    return model


def _published(
    model: ModelConfig, data: DataConfig, variables: dict[str, Any], origin: dict[str, Any] | None = None
) -> Published:
    names = ("background", *(f"class {number}" for number in range(1, model.num_classes)))
    return Published(Config(model=model, data=data), make_class_table(names, data.palette), variables, origin or {})
