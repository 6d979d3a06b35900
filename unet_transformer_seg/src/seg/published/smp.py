"""`Unet` and `Segformer` of segmentation_models_pytorch.

The state dict of a `Unet`, and our `resnet_unet` or our `unet` with one of its encoders:

    encoder.conv1.weight                             params/encoder/conv1/kernel
    encoder.bn1.{weight,bias}                        params/encoder/norm1/{scale,bias}
    encoder.bn1.{running_mean,running_var}           batch_stats/encoder/norm1/{mean,var}
    encoder.layer2.0.conv1.weight                    params/encoder/layer2/unit0/conv1/kernel
    encoder.layer2.0.downsample.{0,1}.…              …/encoder/layer2/unit0/shortcut_{conv,norm}/…
    decoder.blocks.0.conv1.{0,1}.…                   …/decoder/block0/{conv1,norm1}/…
    segmentation_head.0.{weight,bias}                params/head/{kernel,bias}

Names of other encoders: `smp_encoders`. A `Segformer` with an encoder mit_b0 to b2 becomes a `unet` with SegFormer's
decoder (`seg.published.encoders.IN_SMP`). A ResNet of five halvings becomes a `resnet_unet`, whatever its widths.

The decoder enlarges maps by repeating pixels unless `decoder_interpolation` differs. No tensor shows it: a folder of
`save_pretrained` states it in `config.json`; for a state dict alone, set `interpolation` of `model.resnet_unet` or
`model.unet_decoder`. The head that classifies whole images (`aux_params`) is dropped. A model of one class becomes one
of background and foreground (`sigmoid_head`).
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from seg.config import ModelConfig, ResNetUNetConfig, SegFormerDecoderConfig, UNetDecoderConfig
from seg.errors import UserError
from seg.models.encoder_decoder import decoder_settings
from seg.models.encoders import RESNETS
from seg.models.mix_transformer import VARIANTS
from seg.models.segformer import NUM_MAPS
from seg.published.encoders import IN_SMP, segformer_decoder_pairs
from seg.published.file_kinds import describe_folder
from seg.published.layers import CONV2D, conv_norm, count, with_sigmoid_head
from seg.published.mapping import Pair
from seg.published.settings_file import read_settings
from seg.published.smp_encoders import FIRST_LAYERS, RESNET, find_encoder, is_unused, smp_encoder_pairs
from seg.untrusted import shown

log = logging.getLogger("seg")

ANCHOR = "segmentation_head.0.weight"

SETTINGS, WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
"""Files in a folder of `save_pretrained`."""

DEFAULT_INTERPOLATION = "nearest"

CLASSIFIER, SEGFORMER = "classification_head.", "decoder.mlp_stage."


INTERPOLATIONS = {"nearest": "nearest", "nearest-exact": "nearest", "area": "nearest", "bilinear": "bilinear"}
"""decoder_interpolation → ours; at twice the size the first three repeat pixels."""

OTHER_DECODERS = {
    "decoder.blocks.x_0_0.": "UnetPlusPlus",
    "decoder.blocks.0.block.": "Linknet",
    "decoder.block1.": "DeepLabV3Plus",
    "decoder.aspp.": "DeepLabV3",
    "decoder.p5.": "FPN",
    "decoder.fpn_": "UPerNet",
    "decoder.psp.": "PSPNet",
    "decoder.blocks.0.SE_hl.": "MAnet",
    "decoder.fpa.": "PAN",
}
"""Beginning of a name → the model that has such tensors; the first that is there counts."""


def ignored_in(config: ModelConfig) -> Callable[[str], bool]:
    """Return the function that says whether a tensor takes no part in predictions."""
    return lambda name: name.startswith(CLASSIFIER) or is_unused(name, config.encoder_depth)


def find_pretrained(folder: Path) -> tuple[Path, str]:
    """Return (weights file, decoder_interpolation) of a folder of `save_pretrained`."""
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(f"{folder}: {describe_folder(folder)}")
    settings = read_settings(path, "save_pretrained")
    if (kind := settings.get("_model_class", "Unet")) not in ("Unet", "Segformer"):
        raise _other_architecture(f"{path}: ", shown(kind))
    interpolation = settings.get("decoder_interpolation", DEFAULT_INTERPOLATION)
    norms = (True, "batchnorm", {"type": "batchnorm"})
    supported = {
        "decoder_interpolation": tuple(INTERPOLATIONS),
        "decoder_attention_type": (None,),
        "decoder_use_norm": norms,
        "decoder_use_batchnorm": norms,
        "encoder_depth": (5, 4, 3),
        "encoder_output_stride": (32,),
        "upsampling": (4,),
    }
    for key, values in supported.items():
        if key in settings and settings[key] not in values:
            raise UserError(f"{path}: {key}: expected {' or '.join(map(str, values))}, found {shown(settings[key])}")
    files = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not files:
        raise UserError(f"{folder}: expected {' or '.join(WEIGHTS)} beside {SETTINGS}, found neither")
    return files[0], INTERPOLATIONS[interpolation]


def has_one_class(tensors: Mapping[str, np.ndarray]) -> bool:
    """Return whether the head gives the single logit of a foreground."""
    return len(tensors["segmentation_head.0.weight"]) == 1


def read_smp_config(
    tensors: Mapping[str, np.ndarray], interpolation: str = DEFAULT_INTERPOLATION, by_timm: bool = False
) -> ModelConfig:
    """Return the model of a state dict: encoder, widths and classes from its names and shapes.

    Args:
        tensors: under the names of `usual_names`.
        interpolation: "nearest" or "bilinear", which no tensor shows.
        by_timm: whether the encoder is timm's own (`tu-`), which `usual_names` returns.
    """
    if other := next((kind for start, kind in OTHER_DECODERS.items() if _has(tensors, start)), None):
        raise _other_architecture("", other)
    if _has(tensors, SEGFORMER):
        return _read_segformer(tensors)
    if extra := sorted(name for name in tensors if ".attention" in name and name.startswith("decoder.")):
        raise _unsupported(f"a decoder with attention (scse), {some(extra)}")
    if extra := sorted(name for name in tensors if name.startswith("decoder.center.")):
        raise _unsupported(f"a decoder with a centre block, {some(extra)}")
    depth = count(tensors, "decoder.blocks.{}.conv1.0.weight")
    if not 3 <= depth <= 5:
        raise _unsupported(f"{depth} convolutions decoder.blocks.….conv1.0.weight among {some(tensors)}")
    widths = tuple(_shape(tensors, f"decoder.blocks.{i}.conv1.0")[0] for i in range(depth))
    num_classes = max(_shape(tensors, "segmentation_head.0")[0], 2)
    if depth == 5 and RESNET in tensors:
        sizes = _read_resnet(tensors, widths, interpolation)
        return ModelConfig(name="resnet_unet", num_classes=num_classes, resnet_unet=sizes)
    encoder = find_encoder(tensors)
    if not encoder:
        raise _unsupported(f"another encoder, {some(name for name in tensors if name.startswith('encoder.'))}")
    return ModelConfig(
        name="unet",
        num_classes=num_classes,
        encoder=encoder,
        encoder_form="original" if by_timm or encoder in RESNETS else "smp",
        encoder_depth=depth,
        unet_decoder=UNetDecoderConfig(widths, interpolation),
    )


def _read_segformer(tensors: Mapping[str, np.ndarray]) -> ModelConfig:
    """Return the model of a `Segformer`; of another encoder it also reads the map of half the image's resolution."""
    encoder = find_encoder(tensors)
    if encoder not in VARIANTS or count(tensors, f"{SEGFORMER}{{}}.linear.weight") != NUM_MAPS:
        raise _unsupported("a Segformer with another encoder, or with fewer maps", "Segformer with mit_b0 to mit_b2")
    width = _shape(tensors, "decoder.fuse_stage.0")[0]
    return ModelConfig(
        name="unet",
        num_classes=max(_shape(tensors, "segmentation_head.0")[0], 2),
        encoder=encoder,
        encoder_form="smp",
        decoder="segformer",
        segformer_decoder=SegFormerDecoderConfig(width, align_corners=True),
    )


def _read_resnet(tensors: Mapping[str, np.ndarray], widths: tuple[int, ...], interpolation: str) -> ResNetUNetConfig:
    """Return the sizes of a ResNet of any width."""
    width = _shape(tensors, "encoder.conv1")[0]
    units = tuple(count(tensors, f"encoder.layer{layer}.{{}}.conv1.weight") for layer in range(1, 5))
    if 0 in units:
        raise _unsupported(f"no unit encoder.layer{units.index(0) + 1}.0 among {some(tensors)}")
    block = "bottleneck" if "encoder.layer1.0.conv3.weight" in tensors else "basic"
    outputs, inputs, *_ = _shape(tensors, "encoder.layer1.0.conv2")
    if (outputs, inputs) != (width, width):
        raise _unsupported("units that are grouped or widened (ResNeXt, Wide ResNet)")
    return ResNetUNetConfig(block, units, width, widths, interpolation)


def count_channels(tensors: Mapping[str, np.ndarray]) -> int:
    """Return the number of an image's channels."""
    return next(_shape(tensors, name.removesuffix(".weight"))[1] for name in FIRST_LAYERS if name in tensors)


def _shape(tensors: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
    """Return the shape of a convolution's kernel."""
    shape = tensors.get(f"{name}.weight", np.zeros(0)).shape
    if len(shape) != 4 or 0 in shape:
        raise _unsupported(f"no convolution {name}.weight among {some(tensors)}")
    return shape


def _has(tensors: Mapping[str, np.ndarray], start: str) -> bool:
    return any(name.startswith(start) for name in tensors)


def smp_pairs(config: ModelConfig, one_class: bool = False) -> list[Pair]:
    """Return the pairs of every array of a model; `one_class` as `has_one_class` of the other side."""
    pairs = smp_encoder_pairs(config)
    if config.decoder == "segformer":
        pairs += segformer_decoder_pairs(IN_SMP)
        return with_sigmoid_head(pairs) if one_class else pairs
    for i in range(len(decoder_settings(config).widths)):
        for n in (1, 2):
            ours, theirs = f"decoder/block{i}", f"decoder.blocks.{i}.conv{n}"
            pairs += conv_norm(f"{ours}/conv{n}", f"{ours}/norm{n}", f"{theirs}.0", f"{theirs}.1")
    pairs.append(Pair("params/head/kernel", "segmentation_head.0.weight", CONV2D))
    pairs.append(Pair("params/head/bias", "segmentation_head.0.bias"))
    return with_sigmoid_head(pairs) if one_class else pairs


UNET = (
    "Unet with an encoder resnet18 to resnet152, timm-tf_efficientnet_lite0 to 2 or mit_b0 to b2, depth 3 to 5; "
    "decoder with batch norm, without attention"
)


def _unsupported(contents: str, expected: str = UNET) -> UserError:
    return UserError(f"expected the state dict of segmentation_models_pytorch's {expected}; found {contents}")


def _other_architecture(where: str, name: str) -> UserError:
    return UserError(f"{where}this is a {name} of segmentation_models_pytorch; only its Unet and Segformer are read")


def some(names: Iterable[str]) -> str:
    """Return the first few names."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
