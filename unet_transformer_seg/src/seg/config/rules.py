"""Refuses contradictory settings; `seg.config.parsing` has checked each one by itself."""

import dataclasses
import math
import re
from typing import Any

from seg.config import Config, DataConfig, ModelConfig, PlainConvUNetConfig
from seg.errors import UserError

PLAIN_SETTINGS = ("base_width", "depth", "stem_stride", "conv_bias", "norm", "norm_groups", "upsample")
PLAIN_SETTINGS += ("deep_supervision",)
"""Settings of the plain encoder and its decoder."""

CHOICES = ("encoder", "encoder_form", "encoder_depth", "decoder", "unet_decoder", "segformer_decoder")
"""Settings of `unet` and `unet_transformer` that choose an encoder and a decoder."""

COARSEST_WIDTHS = {
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "efficientnet_lite0": 320,
    "efficientnet_lite1": 320,
    "efficientnet_lite2": 352,
    "mit_b0": 256,
    "mit_b1": 512,
    "mit_b2": 512,
}
"""Encoder → channels of its coarsest map."""

CLASS_PLACEHOLDER = "{class}"
"""In `data.masks_dir`, `mask_prefix` and `mask_suffix`: the name of a class, each of which has a file of its own."""

MAX_STAGES, MAX_STRIDE = 12, 4096
"""Most stages of a `plain_conv_unet`, and largest product of its strides, in pixels a side."""


def check_config(config: Config) -> None:
    """Refuse settings that contradict each other, naming the keys involved."""
    model, data, loss = config.model, config.data, config.loss
    if data.dataset == "image_folder" and not data.root:
        raise UserError("data.root: the folder of the data set is missing; give it as data.root=FOLDER")
    if model.stem_stride not in (1, 2, 4):
        raise UserError(f"model.stem_stride: expected 1, 2 or 4, found {model.stem_stride}")
    if model.deep_supervision and model.depth == 1:
        raise UserError("model.deep_supervision needs model.depth of 2 or more: there is no coarser decoder stage")
    if config.training.batch_size % config.training.accumulate:
        raise UserError(
            f"training.batch_size {config.training.batch_size} cannot be split into "
            f"training.accumulate {config.training.accumulate} equal parts"
        )
    for pattern, factor in config.optimizer.rate_factors.items():
        if not 0 < factor <= 1000:
            raise UserError(
                f"optimizer.rate_factors[{pattern}]: expected a factor above 0, at most 1000, found {factor:g}; "
                "optimizer.freeze keeps parameters as they are"
            )
    if (loss.class_weighting == "given") != bool(loss.class_weights):
        raise UserError("loss.class_weights are needed with, and only with, loss.class_weighting: given")
    if loss.name == "custom" and loss.class_weighting != "none":
        raise UserError("loss.class_weighting: a custom loss weights its classes itself; leave this setting out")
    _check_labels(config)
    _check_split(data)
    _check_objects(data)
    if data.value_range[0] >= data.value_range[1] and data.value_range != (0, 0):
        raise UserError(f"data.value_range: expected [black, white], black below white, found {list(data.value_range)}")
    for key in ("mean", "std"):
        if len(values := getattr(data, key)) not in (0, data.channels):
            raise UserError(
                f"data.{key}: expected a value for each of data.channels = {data.channels}, found {len(values)}"
            )
    _check_ranges_of_images(data)
    if len(data.shown_channels) not in (0, 1, 3) or max(data.shown_channels, default=0) >= data.channels:
        raise UserError(
            f"data.shown_channels: expected 1 or 3 channels, each from 0 to {data.channels - 1}, found "
            f"{list(data.shown_channels)}"
        )
    for key in ("saturation", "hue"):
        if getattr(data.augment, key) and data.channels != 3:
            raise UserError(
                f"data.augment.{key}: images of data.channels = {data.channels} have no colours; expected 0; "
                "brightness and contrast work with any number of channels"
            )
    if data.augment.scale[0] > data.augment.scale[1]:
        raise UserError(f"data.augment.scale: expected [low, high], found {list(data.augment.scale)}")
    if model.norm == "group" and model.base_width % model.norm_groups:
        raise UserError(f"model.norm_groups {model.norm_groups} does not divide model.base_width {model.base_width}")
    width = bottleneck_width(model)
    if model.name == "unet_transformer" and width % model.transformer.num_heads:
        raise UserError(
            f"model.transformer.num_heads {model.transformer.num_heads} does not divide the bottleneck's width {width}"
        )
    if model.name == "unet_transformer" and model.transformer.position == "sincos" and width % 4:
        raise UserError(f"model.transformer.position: sincos needs a width divisible by 4, the bottleneck has {width}")
    _check_ignored(model)
    widths, most = model.unet_decoder.widths, model.encoder_depth
    if not 1 <= len(widths) <= most:
        raise UserError(f"model.unet_decoder.widths: expected 1 to {most} blocks, found {list(widths)}")
    if model.name == "plain_conv_unet":
        _check_stages(model.plain_conv_unet)
    heads, width = model.transunet.num_heads, model.transunet.hidden_width
    if model.name == "transunet" and width % heads:
        raise UserError(f"model.transunet.num_heads {heads} does not divide model.transunet.hidden_width {width}")


def _check_labels(config: Config) -> None:
    """Refuse settings that need labels of the other kind."""
    model, data, loss = config.model, config.data, config.loss
    if model.labels == "exclusive":
        if config.inference.thresholds:
            raise UserError("inference.thresholds need model.labels: overlapping")
        if CLASS_PLACEHOLDER in "".join((data.masks_dir, data.mask_prefix, data.mask_suffix)) and (
            len(data.class_names) != 1
        ):
            raise UserError(
                "data.masks_dir, data.mask_prefix, data.mask_suffix: {class} needs model.labels: overlapping; "
                "exclusive labels have one mask file for each image"
            )
    if data.toy.overlap and data.dataset != "toy_shapes":
        raise UserError(f"data.toy.overlap goes with data.dataset: toy_shapes, not {data.dataset}")
    if data.dataset == "toy_shapes" and data.toy.overlap != (model.labels == "overlapping"):
        needed = "data.toy.overlap: true" if model.labels == "overlapping" else "model.labels: overlapping"
        raise UserError(f"model.labels: {model.labels}, data.toy.overlap: {data.toy.overlap}: also set {needed}")
    if model.labels == "exclusive":
        return
    if config.inference.logit_shift:
        raise UserError("inference.logit_shift needs model.labels: exclusive; overlapping ones have thresholds")
    if loss.label_smoothing:
        raise UserError("loss.label_smoothing is for exclusive labels; set loss.label_smoothing=0")
    if config.instances.method != "none" and model.num_classes > 1:
        raise UserError("instances.method: objects of overlapping classes are not counted; set instances.method=none")
    if 0 in loss.class_weights:
        raise UserError(
            "loss.class_weights: with overlapping labels a weight of 0 would teach that no pixel is of the class; "
            "leave the class out of data.class_names"
        )
    if data.augment.copy_paste:
        raise UserError("data.augment.copy_paste is for exclusive labels; set data.augment.copy_paste=0")
    if data.value_map or data.read_masks_by == "colour":
        key = "value_map: {}" if data.value_map else "read_masks_by: auto"
        raise UserError(
            "data.value_map, data.read_masks_by: overlapping labels have a mask for each class, 0 where it is not; set "
            f"data.{key}"
        )


def _check_stages(settings: PlainConvUNetConfig) -> None:
    """Refuse stages that do not match, and kernels that would shift the image."""
    num_stages = len(settings.widths)
    if not 2 <= num_stages <= MAX_STAGES:
        raise UserError(f"model.plain_conv_unet.widths: expected 2 to {MAX_STAGES} stages, found {num_stages}")
    for key in ("kernel_sizes", "strides", "encoder_convs", "decoder_convs"):
        expected, length = num_stages - (key == "decoder_convs"), len(getattr(settings, key))
        if length != expected:
            raise UserError(
                f"model.plain_conv_unet.{key}: expected {expected} entries for {num_stages} stages, found {length}"
            )
    if even := [list(sizes) for sizes in settings.kernel_sizes if not all(n % 2 for n in sizes)]:
        raise UserError(f"model.plain_conv_unet.kernel_sizes: expected odd numbers, found {even[0]}")
    if settings.strides[0] != (1, 1):
        raise UserError(f"model.plain_conv_unet.strides: expected [1, 1] first, found {list(settings.strides[0])}")
    if math.prod(r for r, _ in settings.strides) > MAX_STRIDE or math.prod(c for _, c in settings.strides) > MAX_STRIDE:
        raise UserError(f"model.plain_conv_unet.strides: expected a product of at most {MAX_STRIDE} a side")


def _check_ranges_of_images(data: DataConfig) -> None:
    """Refuse contradictory ways to find black and white."""
    if data.range == "percentiles" and data.value_range != (0, 0):
        raise UserError("data.range: percentiles and data.value_range: expected one of them; both set black and white")
    if data.percentiles[0] >= data.percentiles[1]:
        raise UserError(f"data.percentiles: expected [black, white], black below white, found {list(data.percentiles)}")
    if data.channel_ranges and (data.range != "percentiles" or len(data.channel_ranges) != data.channels):
        raise UserError(
            f"data.channel_ranges: expected a pair for each of data.channels = {data.channels}, together with "
            f"data.range: percentiles; found {len(data.channel_ranges)} pairs and data.range: {data.range}"
        )
    for black, white in data.channel_ranges:
        if black >= white:
            raise UserError(f"data.channel_ranges: expected [black, white], black below white, found {[black, white]}")


def _check_split(data: DataConfig) -> None:
    """Refuse contradictory ways to split a folder, and an invalid pattern."""
    if data.num_folds == 1 or (data.fold and data.fold >= data.num_folds):
        raise UserError(
            f"data.fold {data.fold} of data.num_folds {data.num_folds}: expected 2 folds or more, and a fold below that"
        )
    if data.num_folds and data.val_fraction:
        raise UserError("data.num_folds and data.val_fraction: expected one of them; a fold is the validation part")
    divides = data.num_folds or data.val_fraction or data.test_fraction
    if divides and data.dataset != "image_folder":
        raise UserError(f"data.val_fraction, data.num_folds: {data.dataset} has splits of its own")
    if not data.group_pattern:
        return
    if not divides:
        raise UserError("data.group_pattern needs data.val_fraction, data.test_fraction or data.num_folds")
    try:
        groups = re.compile(data.group_pattern).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"data.group_pattern {data.group_pattern!r:.200}: not a regular expression ({error})") from None
    if groups != 1:
        raise UserError(f"data.group_pattern {data.group_pattern!r:.200}: expected one group (…), found {groups}")


def _check_objects(data: DataConfig) -> None:
    """Refuse settings that masks of numbered objects would ignore, and a border without objects."""
    if data.masks == "classes" and data.object_border:
        raise UserError("data.object_border needs data.masks: objects: the border is where two numbered objects touch")
    ignored = [key for key in ("value_map", "threshold") if getattr(data, key)]
    if data.masks == "objects" and ignored:
        raise UserError(f"data.{ignored[0]}: data.masks: objects reads every value above 0 as an object; leave it out")


def check_ranges(settings: Any, prefix: str) -> None:
    """Refuse numbers out of the ranges of `seg.config`, for settings that do not come from a config."""
    for field in dataclasses.fields(settings):
        value, low, high = getattr(settings, field.name), field.metadata.get("low"), field.metadata.get("high")
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{prefix}{field.name}.")
        for number in _numbers(value):
            if (low is not None and number < low) or (high is not None and number > high):
                raise UserError(f"{prefix}{field.name}: expected {low} to {high}, found {number}")


def _numbers(value: Any) -> list:
    """Return the numbers of a setting: itself, or those of its tuple, or of the tuples in it."""
    return [number for part in value for number in _numbers(part)] if isinstance(value, tuple) else [value]


def _check_ignored(model: ModelConfig) -> None:
    """Refuse settings that the architecture would ignore."""
    for keys, owner, hint in _ignored_settings(model):
        for key in keys:
            value, default = getattr(model, key), getattr(ModelConfig(), key)
            if value != default:
                raise UserError(
                    f"model.{key}: {owner} has no such setting, expected the default {default}, found {value}{hint}"
                )


def _ignored_settings(model: ModelConfig) -> list[tuple[tuple[str, ...], str, str]]:
    """Return (names of settings, what ignores them, the end of the message)."""
    if model.name in ("transunet", "resnet_unet", "plain_conv_unet"):
        hint = f"; its widths, depths and rates are set in model.{model.name}"
        return [((*PLAIN_SETTINGS, "dropout", *CHOICES), model.name, hint)]
    if model.name == "custom":
        return []
    encoder, decoder = f"model.encoder {model.encoder}", f"model.decoder {model.decoder}"
    of_others = ("encoder_form", "encoder_depth")
    ignored = [(of_others if model.encoder == "plain" else PLAIN_SETTINGS, encoder, "")]
    if model.name == "unet_transformer":
        ignored.append((("encoder_depth",), model.name, ""))
    if model.decoder == "segformer":
        return [*ignored, (("encoder_depth", "unet_decoder", "upsample", "deep_supervision"), decoder, "")]
    if model.encoder == "plain":
        ignored.append((("unet_decoder",), encoder, "; its decoder has the encoder's widths"))
    return [*ignored, (("segformer_decoder",), decoder, "")]


def bottleneck_width(model: ModelConfig) -> int:
    """Return the channels of the coarsest map; bilinear up-sampling halves those of the plain encoder, as published."""
    if model.encoder != "plain":
        return COARSEST_WIDTHS[model.encoder]
    return model.base_width * 2**model.depth // (2 if model.upsample == "bilinear" else 1)
