"""The encoders of segmentation_models_pytorch: which one a state dict holds, and its names.

    encoder.conv1.weight                  a ResNet, under torchvision's names
    encoder.conv_stem.weight              `timm-tf_efficientnet_lite0` to 2, under timm's names
    encoder.patch_embed1.proj.weight      `mit_b0` to 2, under names of its own: here they become those of transformers
    encoder.model.…                       a `tu-` encoder: timm's own ResNet or EfficientNet-Lite

smp builds its EfficientNet-Lite and its MiT with details of its own (`model.encoder_form`).
"""

import re
from collections.abc import Mapping

import numpy as np

from seg.config import ModelConfig
from seg.models.efficientnet_lite import FACTORS, StagePlan, plan_stages
from seg.models.encoders import RESNETS, encoder_sizes
from seg.models.mix_transformer import VARIANTS, Sizes
from seg.published.encoders import is_key_bias, lite_pairs, mit_pairs, resnet_pairs
from seg.published.layers import COUNTER, count
from seg.published.mapping import Pair

RESNET, LITE, MIT = "encoder.conv1.weight", "encoder.conv_stem.weight", "encoder.patch_embeddings.0.proj.weight"
FIRST_LAYERS = (RESNET, LITE, MIT)

UNUSED = ("encoder.fc.", "encoder.conv_head.", "encoder.bn2.", "encoder.head.")
"""Prefixes of tensors that only the encoder's classifier of images needs."""

MIT_NAMES = (
    (r"^encoder\.patch_embed(\d)\.norm\.", r"encoder.patch_embeddings.#\1.layer_norm."),
    (r"^encoder\.patch_embed(\d)\.", r"encoder.patch_embeddings.#\1."),
    (r"^encoder\.norm(\d)\.", r"encoder.layer_norm.#\1."),
    (r"^encoder\.block(\d)\.", r"encoder.block.#\1."),
    (r"\.norm([12])\.", r".layer_norm_\1."),
    (r"\.attn\.(k|v|sr)\.", r".attention.self.\1."),
    (r"\.attn\.q\.", ".attention.self.query."),
    (r"\.attn\.norm\.", ".attention.self.layer_norm."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.self\.k\.", ".self.key."),
    (r"\.self\.v\.", ".self.value."),
    (r"\.mlp\.fc([12])\.", r".mlp.dense\1."),
)
"""Part of a name in smp's MiT → that of transformers; stages, marked by #, count from 0 there."""


def usual_names(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], bool]:
    """Return the tensors under the names that the other functions expect, and whether it is a `tu-` encoder."""
    if any(name.startswith("encoder.model.") for name in tensors):
        return {re.sub(r"^encoder\.model\.", "encoder.", name): x for name, x in tensors.items()}, True
    if not any(name.startswith("encoder.patch_embed1.") for name in tensors):
        return dict(tensors), False
    usual = {}
    for name, x in tensors.items():
        if ".attn.kv." in name and x.ndim and len(x) % 2 == 0:
            # One linear map to keys and values; here there are two.
            halves = {name.replace(".kv.", ".k."): x[: len(x) // 2], name.replace(".kv.", ".v."): x[len(x) // 2 :]}
        else:
            halves = {name: x}
        usual |= {_mit_name(half): part for half, part in halves.items()}
    return usual, False


def _mit_name(name: str) -> str:
    if not name.startswith("encoder."):
        return name
    for pattern, replacement in MIT_NAMES:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"#(\d)", lambda match: str(int(match[1]) - 1), name)


def find_encoder(tensors: Mapping[str, np.ndarray]) -> str:
    """Return the encoder of `model.encoder` that has the stages and widths of the tensors, or an empty text."""
    if RESNET in tensors:
        block = "bottleneck" if "encoder.layer1.0.conv3.weight" in tensors else "basic"
        units = [count(tensors, f"encoder.layer{layer}.{{}}.conv1.weight") for layer in range(1, 5)]
        units = [n for n in units if n]  # a `tu-` encoder lacks the layers that it does not need
        fits = (name for name, x in RESNETS.items() if x.block == block and list(x.units[: len(units)]) == units)
        # Of 18 and 34, and of 50 and 101, the first layers differ, or those of an encoder of few layers are the same.
        return next(fits, "") if _length(tensors, RESNET) == 64 else ""
    if LITE in tensors and not any(".se." in name for name in tensors):
        return next((name for name in FACTORS if _fits_lite(tensors, plan_stages(name))), "")
    if MIT in tensors:
        return next((name for name, sizes in VARIANTS.items() if _fits_mit(tensors, sizes)), "")
    return ""


def _fits_lite(tensors: Mapping[str, np.ndarray], plans: tuple[StagePlan, ...]) -> bool:
    """Return whether the stages that are there have the units and widths of the plans."""
    numbers = [count(tensors, f"encoder.blocks.{stage}.{{}}.conv_dw.weight") for stage in range(len(plans))]
    present = [(n, plan) for n, plan in zip(numbers, plans, strict=True) if n]
    last = f"encoder.blocks.{len(present) - 1}.0.conv_pwl.weight"
    return (
        bool(present) and all(n == plan.units for n, plan in present) and _length(tensors, last) == present[-1][1].width
    )


def _fits_mit(tensors: Mapping[str, np.ndarray], sizes: Sizes) -> bool:
    for stage, (width, blocks) in enumerate(zip(*sizes, strict=True)):
        found = count(tensors, f"encoder.block.{stage}.{{}}.layer_norm_1.weight")
        if found != blocks or _length(tensors, f"encoder.patch_embeddings.{stage}.proj.weight") != width:
            return False
    return True


def _length(tensors: Mapping[str, np.ndarray], name: str) -> int:
    """Return the size of a tensor's first axis, or 0."""
    shape = tensors.get(name, np.zeros(0)).shape
    return shape[0] if shape else 0


def smp_encoder_pairs(config: ModelConfig) -> list[Pair]:
    """Return the pairs of an encoder's arrays."""
    sizes = encoder_sizes(config)
    if isinstance(sizes, Sizes):
        return mit_pairs(sizes, "encoder.")
    return lite_pairs(sizes, "encoder.") if isinstance(sizes, tuple) else resnet_pairs(sizes, "encoder.")


def is_unused(name: str, depth: int) -> bool:
    """Return whether an encoder's tensor takes no part in predictions of a network that halves `depth` times."""
    if name.startswith(UNUSED) or name.endswith(COUNTER) or is_key_bias(name):
        return True
    deeper = {3: ("layer3", "layer4", "blocks.3", "blocks.4"), 4: ("layer4",)}.get(depth, ())
    deeper += ("blocks.5", "blocks.6") if depth < 5 else ()
    deeper += tuple(f"{part}.{n}" for n in range(depth - 1, 4) for part in ("patch_embeddings", "block", "layer_norm"))
    return name.startswith(tuple(f"encoder.{part}." for part in deeper))
