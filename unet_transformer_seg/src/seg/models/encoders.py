"""The encoders behind one face: a Flax module `(x_bhwc, train) → maps`, the finest first.

| encoder | pixels per pixel of its maps, along a side | channels |
|---|---|---|
| plain | 1, 2, 4, … 2^depth (times the stem's stride) | base_width · 1, 2, 4, … |
| resnet18, resnet34 | 2, 4, 8, 16, 32 | 64, 64, 128, 256, 512 |
| resnet50, resnet101 | 2, 4, 8, 16, 32 | 64, 256, 512, 1024, 2048 |
| efficientnet_lite0, 1, 2 | 2, 4, 8, 16, 32 | 16, 24, 40 (48), 112 (120), 320 (352) |
| mit_b0; mit_b1, mit_b2 | 4, 8, 16, 32 | 32, 64, 160, 256; 64, 128, 320, 512 |

`model.encoder_depth` below 5 leaves out the last of these maps and what only they need.

A map of an image whose sides are no multiples is rounded up; by `plain` rounded down.
"""

import dataclasses

import flax.linen as nn

from seg.config import ModelConfig, ResNetUNetConfig
from seg.models.efficientnet_lite import FACTORS, EfficientNetLite, StagePlan, plan_stages
from seg.models.mix_transformer import VARIANTS, MixTransformer, Sizes
from seg.models.resnet import ResNet
from seg.models.unet import Encoder

LITE_STAGES = {3: 3, 4: 5, 5: 7}
"""Depth → stages of an EfficientNet-Lite that it needs: stage 5 has the resolution of stage 4, stage 7 that of 6."""

RESNETS = {
    "resnet18": ResNetUNetConfig("basic", (2, 2, 2, 2)),
    "resnet34": ResNetUNetConfig("basic", (3, 4, 6, 3)),
    "resnet50": ResNetUNetConfig("bottleneck", (3, 4, 6, 3)),
    "resnet101": ResNetUNetConfig("bottleneck", (3, 4, 23, 3)),
}


def is_of_encoder(name: str) -> bool:
    """Return whether an array of a network, such as `params/encoder/stage1/…`, belongs to its encoder."""
    return name.startswith(("params/encoder/", "batch_stats/encoder/"))


def build_encoder(config: ModelConfig, name: str = "encoder") -> nn.Module:
    """Return the encoder that `model.encoder` names; a `resnet_unet` has its own settings."""
    if config.encoder == "plain" and config.name != "resnet_unet":
        return Encoder(config, name=name)
    match encoder_sizes(config):
        case ResNetUNetConfig() as sizes:
            return ResNet(sizes, config.remat, name=name)
        case Sizes() as sizes:
            return MixTransformer(sizes, config.transformer.attention, config.encoder_form, config.remat, name=name)
        case plans:
            return EfficientNetLite(plans, config.encoder_form, config.remat, name=name)


def encoder_sizes(config: ModelConfig) -> ResNetUNetConfig | tuple[StagePlan, ...] | Sizes:
    """Return the layers of an encoder other than plain, down to `encoder_depth`."""
    variant, depth = config.encoder, config.encoder_depth
    if config.name == "resnet_unet":
        return config.resnet_unet
    if variant in RESNETS:
        return dataclasses.replace(RESNETS[variant], units=RESNETS[variant].units[: depth - 1])
    if variant in FACTORS:
        return plan_stages(variant)[: LITE_STAGES[depth]]
    if variant in VARIANTS:
        return Sizes(*(values[: depth - 1] for values in VARIANTS[variant]))
    raise ValueError(f"model.encoder: found {variant!r}")
