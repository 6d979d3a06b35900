"""The encoders behind one face: a Flax module `(x_bhwc, train) → maps`, the finest first.

| encoder | pixels per pixel of its maps, along a side | channels |
|---|---|---|
| plain | 1, 2, 4, … 2^depth (times the stem's stride) | base_width · 1, 2, 4, … |
| resnet18, resnet34 | 2, 4, 8, 16, 32 | 64, 64, 128, 256, 512 |
| resnet50, resnet101 | 2, 4, 8, 16, 32 | 64, 256, 512, 1024, 2048 |
| efficientnet_lite0, 1, 2 | 2, 4, 8, 16, 32 | 16, 24, 40 (48), 112 (120), 320 (352) |
| mit_b0; mit_b1, mit_b2 | 4, 8, 16, 32 | 32, 64, 160, 256; 64, 128, 320, 512 |

A map of an image whose sides are no multiples is rounded up; by `plain` rounded down.
"""

import flax.linen as nn

from seg.config import ModelConfig, ResNetUNetConfig
from seg.models.efficientnet_lite import FACTORS, EfficientNetLite, plan_stages
from seg.models.mix_transformer import VARIANTS, MixTransformer
from seg.models.resnet import ResNet
from seg.models.unet import Encoder

COARSEST = 32  # image pixels per pixel of the last map, along a side; of every encoder but plain

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
    if config.name == "resnet_unet":
        return ResNet(config.resnet_unet, config.remat, name=name)
    match config.encoder:
        case "plain":
            return Encoder(config, name=name)
        case variant if variant in RESNETS:
            return ResNet(RESNETS[variant], config.remat, name=name)
        case variant if variant in FACTORS:
            return EfficientNetLite(plan_stages(variant), config.encoder_form, config.remat, name=name)
        case variant if variant in VARIANTS:
            sizes, attention = VARIANTS[variant], config.transformer.attention
            return MixTransformer(sizes, attention, config.encoder_form, config.remat, name=name)
        case variant:
            raise ValueError(f"model.encoder: found {variant!r}")
