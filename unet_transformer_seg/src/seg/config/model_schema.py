"""The settings of the networks: the section `model` of a config."""

import dataclasses
from typing import Literal

from seg.config.fields import section, setting


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The transformer at the bottleneck of `unet_transformer`; its width is the bottleneck's width."""

    num_layers: int = setting(4, "pre-norm blocks; 0 is exactly the U-Net", 0, 64)
    num_heads: int = setting(8, "attention heads; must divide the bottleneck's width", 1, 256)
    mlp_ratio: float = setting(4.0, "feed-forward width over model width", 0.125, 16)
    dropout: float = setting(0.1, "dropout rate after attention and in the feed-forward network", 0, 0.9)
    stochastic_depth: float = setting(0.0, "probability of skipping the last block; earlier ones less", 0, 0.9)
    position: Literal["sincos", "learned", "none"] = setting("sincos", "spatial position encoding")
    position_grid: tuple[int, int] = setting((16, 16), "rows and columns of the learned table", 1, 1024)
    attention: Literal["explicit", "xla", "cudnn"] = setting("explicit", "implementation of attention")


@dataclasses.dataclass(frozen=True)
class TransUNetConfig:
    """The widths and depths of `transunet`. The defaults are the published R50-ViT-B_16."""

    resnet_width: int = setting(64, "channels of the ResNet's stem; the blocks have 4, 8 and 16 times as many", 2, 1024)
    resnet_units: tuple[int, int, int] = setting((3, 4, 9), "residual units in the ResNet's three blocks", 1, 64)
    hidden_width: int = setting(768, "width of the tokens", 1, 8192)
    num_layers: int = setting(12, "pre-norm blocks of the transformer", 1, 64)
    num_heads: int = setting(12, "attention heads; must divide hidden_width", 1, 256)
    mlp_width: int = setting(3072, "feed-forward width", 1, 65536)
    dropout: float = setting(0.1, "dropout rate after positions and attention and in the feed-forward network", 0, 0.9)
    position_grid: tuple[int, int] = setting((14, 14), "rows and columns of the learned position table", 1, 1024)
    bridge_width: int = setting(512, "channels between the transformer and the decoder", 1, 8192)
    decoder_widths: tuple[int, int, int, int] = setting(
        (256, 128, 64, 16), "channels of the decoder's four blocks, coarsest first", 1, 8192
    )
    num_skips: int = setting(3, "decoder blocks with a skip connection, counted from the coarsest", 0, 3)
    attention: Literal["explicit", "xla", "cudnn"] = setting("explicit", "implementation of attention")


@dataclasses.dataclass(frozen=True)
class ResNetUNetConfig:
    """The widths and depths of `resnet_unet`. The defaults are those of a ResNet-34; 18 has (2, 2, 2, 2) units."""

    block: Literal["basic", "bottleneck"] = setting("basic", "residual unit; bottleneck from ResNet-50 on")
    units: tuple[int, int, int, int] = setting((3, 4, 6, 3), "residual units of the four layers", 1, 256)
    encoder_width: int = setting(64, "channels of the stem; each layer after the first doubles them", 1, 1024)
    decoder_widths: tuple[int, int, int, int, int] = setting(
        (256, 128, 64, 32, 16), "channels of the decoder's five blocks, coarsest first", 1, 8192
    )
    interpolation: Literal["nearest", "bilinear"] = setting(
        "nearest", "up-sampling in the decoder (decoder_interpolation of segmentation_models_pytorch)"
    )


@dataclasses.dataclass(frozen=True)
class PlainConvUNetConfig:
    """The stages of `plain_conv_unet`, the finest first, as nnU-Net plans them."""

    widths: tuple[int, ...] = setting((32, 64, 128, 256, 512, 512, 512), "channels of each stage", 1, 8192)
    kernel_sizes: tuple[tuple[int, int], ...] = setting(((3, 3),) * 7, "rows and columns of each stage's kernels", 1, 9)
    strides: tuple[tuple[int, int], ...] = setting(
        ((1, 1), *((2, 2),) * 6), "rows and columns of the stride that leads to each stage", 1, 8
    )
    encoder_convs: tuple[int, ...] = setting((2,) * 7, "convolutions of each stage on the way down", 1, 32)
    decoder_convs: tuple[int, ...] = setting((2,) * 6, "the same on the way up; the last stage has none", 1, 32)
    up_bias: bool = setting(True, "add a bias to the transposed convolutions")


@dataclasses.dataclass(frozen=True)
class UNetDecoderConfig:
    """The decoder `unet` behind an encoder other than plain."""

    widths: tuple[int, ...] = setting(
        (256, 128, 64, 32, 16),
        "channels of the blocks, coarsest first; each doubles the resolution: five reach the image's, four half of it",
        1,
        8192,
    )
    interpolation: Literal["nearest", "bilinear"] = setting("nearest", "how a block doubles the resolution")


@dataclasses.dataclass(frozen=True)
class SegFormerDecoderConfig:
    """The decoder `segformer`."""

    width: int = setting(256, "channels that the maps are brought to; 256 as published with mit_b0 and mit_b1", 1, 8192)
    align_corners: bool = setting(False, "enlarge the logits with corner pixels on each other, as smp's Segformer does")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. The defaults of `unet` are the published U-Net of 31,037,698 parameters (2 classes)."""

    name: Literal["unet", "unet_transformer", "transunet", "resnet_unet", "plain_conv_unet", "custom"] = setting(
        "unet_transformer", "architecture; custom: a Flax module passed to seg.train and seg.load"
    )
    num_classes: int = setting(0, "number of classes; 0: from the data set", 0, 255)
    labels: Literal["exclusive", "overlapping"] = setting(
        "exclusive", "exclusive: each pixel has one class; overlapping: any number of classes, or none"
    )
    encoder: Literal[
        "plain",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "efficientnet_lite0",
        "efficientnet_lite1",
        "efficientnet_lite2",
        "mit_b0",
        "mit_b1",
        "mit_b2",
    ] = setting("plain", "encoder of unet and unet_transformer; plain: two convolutions per stage")
    encoder_form: Literal["original", "smp"] = setting(
        "original", "details of the encoder; smp: as segmentation_models_pytorch builds it (docs/course/11_encoders.md)"
    )
    encoder_depth: int = setting(5, "halvings of the resolution in the encoder, with the decoder unet", 3, 5)
    decoder: Literal["unet", "segformer"] = setting("unet", "decoder of unet and unet_transformer")
    base_width: int = setting(64, "channels of the first stage; each stage down doubles them", 1, 1024)
    depth: int = setting(4, "number of down-sampling stages", 1, 8)
    stem_stride: int = setting(1, "factor of the space-to-depth stem: 1 (none), 2 or 4", 1, 4)
    conv_bias: bool = setting(False, "add a bias to each 3 × 3 convolution (redundant before a norm)")
    norm: Literal["batch", "group"] = setting("batch", "normalisation after each convolution")
    norm_groups: int = setting(8, "groups of the group norm", 1, 256)
    upsample: Literal["transposed", "bilinear"] = setting("transposed", "how the decoder doubles the resolution")
    dropout: float = setting(0.0, "dropout rate on the bottleneck's output", 0, 0.9)
    deep_supervision: bool = setting(False, "also train a prediction at every decoder stage")
    dtype: Literal["float32", "bfloat16"] = setting("float32", "dtype of activations; parameters and sums are float32")
    remat: bool = setting(False, "recompute activations in the backward pass: less memory, more time")
    transformer: TransformerConfig = section(TransformerConfig)
    unet_decoder: UNetDecoderConfig = section(UNetDecoderConfig)
    segformer_decoder: SegFormerDecoderConfig = section(SegFormerDecoderConfig)
    transunet: TransUNetConfig = section(TransUNetConfig)
    resnet_unet: ResNetUNetConfig = section(ResNetUNetConfig)
    plain_conv_unet: PlainConvUNetConfig = section(PlainConvUNetConfig)
