"""A network of an encoder and a decoder by choice, with a transformer between them if there are layers for it.

Letters: b batch, h w rows and columns, c channels, k classes.

    image ─ encoder ─ maps ─┬───────── finer maps ─────────┬─ decoder ─ head ─ logits
                            └ coarsest ─ bottleneck ────────┘

The encoder is most of the network, and encoders trained on photographs are published; the decoder learns the new task.
Two of them are here. That of the U-Net (`SkipDecoder`) walks back from the coarsest map:

    coarsest (/32) ─ ×2 ─ join /16 ─ two convs ─ ×2 ─ join /8 ─ … ─ two convs at the image's resolution ─ 3×3 head

It repeats pixels (×2), or interpolates, where the U-Net of `seg.models.unet` learns how to, and puts the skip
connection behind the channels, not in front. That of SegFormer is in `seg.models.segformer`.

`resnet_unet` is this network with the widths and depths of its own section. With the same weights it answers as `Unet`
in segmentation_models_pytorch does, for the sizes that it takes: multiples of 32.

Reference: Ronneberger, Fischer and Brox, 2015.
"""

import chex
import flax.linen as nn
import jax.numpy as jnp

from seg.config import ModelConfig, UNetDecoderConfig
from seg.contracts import assert_shape
from seg.models.encoders import build_encoder
from seg.models.layers import Conv, DoubleConv, Dropout, PixelClassifier
from seg.models.segformer import SegFormerDecoder
from seg.models.unet import crop_to, fill_up, prepare_image
from seg.models.unet_transformer import Bottleneck
from seg.ops import conv, resize


class EncoderDecoder(nn.Module):
    """Logits for every pixel of an image of any size."""

    config: ModelConfig  # `encoder`, `decoder` and the other settings; `num_classes` is set

    @nn.compact
    def __call__(self, image_bhwc, train: bool):
        """Return the logits.

        Args:
            image_bhwc: float32[b, h, w, c], normalised, any h and w from 1.
            train: use and update batch statistics (collection `batch_stats`, mutable) and apply dropout (key
                `dropout`).

        Returns:
            logits_bhwk: float32[b, h, w, k].
        """
        config, size = self.config, image_bhwc.shape[1:3]
        x_bhwc = prepare(image_bhwc, config)
        whole_size = tuple(config.stem_stride * n for n in x_bhwc.shape[1:3])
        # With published weights these maps show edges and textures before the first step.
        *skips, x_bhwc = build_encoder(config)(x_bhwc, train)
        if config.name == "unet_transformer" and config.transformer.num_layers > 0:
            x_bhwc = Bottleneck(config.transformer, config.remat, name="bottleneck")(x_bhwc, train)
        x_bhwc = Dropout(config.dropout, name="bottleneck_dropout")(x_bhwc, train)
        if config.decoder == "segformer":
            settings = config.segformer_decoder
            decoder = SegFormerDecoder(settings.width, name="decoder")
            logits_bhwk = PixelClassifier(config.num_classes, name="head")(decoder([*skips, x_bhwc], train))
            logits_bhwk = resize.resize_bilinear(logits_bhwk, size=whole_size, align_corners=settings.align_corners)
        else:
            x_bhwc = SkipDecoder(config, name="decoder")(x_bhwc, skips, train)
            factor = 2 ** (config.encoder_depth - len(decoder_settings(config).widths))
            # In float32: few channels, and sums of the logits that are not rounded.
            head = Conv(config.num_classes * factor**2, use_bias=True, name="head")
            logits_bhwk = conv.depth_to_space(head(x_bhwc.astype(jnp.float32)), factor=factor)
        return crop_to(logits_bhwk, size)


class SkipDecoder(nn.Module):
    """The way up: double the resolution, join the skip connection if there is one, convolve twice; and again."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_bhwc, skips, train: bool):
        """Return float[b, 2^n·h, 2^n·w, widths[-1]], n being the number of blocks.

        Args:
            x_bhwc: float[b, h, w, c], the encoder's coarsest map.
            skips: its other maps, the finest first.
            train: as in `EncoderDecoder`.
        """
        settings, skips = decoder_settings(self.config), list(skips)
        block = nn.remat(DoubleConv, static_argnums=(2,)) if self.config.remat else DoubleConv
        for number, width in enumerate(settings.widths):
            # No weights: the convolutions behind it learn to use the coarse map.
            x_bhwc = double(x_bhwc, settings.interpolation)
            # The last blocks have resolutions at which the encoder has no map.
            if skips:
                x_bhwc = jnp.concatenate([x_bhwc, skips.pop()], -1)
            x_bhwc = block(self.config, features=width, middle=width, name=f"block{number}")(x_bhwc, train)
        return x_bhwc


def decoder_settings(config: ModelConfig) -> UNetDecoderConfig:
    """Return widths and interpolation of the U-Net's decoder; a `resnet_unet` has its own."""
    if config.name != "resnet_unet":
        return config.unet_decoder
    return UNetDecoderConfig(config.resnet_unet.decoder_widths, config.resnet_unet.interpolation)


def prepare(image_bhwc, config: ModelConfig):
    """Return the image in the compute dtype, with zeros at the bottom and right where the network needs them.

    The plain encoder needs what it needs in the U-Net. For the others both sides become multiples of 2^encoder_depth,
    so that doubled maps meet the skip connections; SegFormer's decoder resizes the maps anyway, and needs as many
    pixels a side.
    """
    if config.encoder == "plain" and config.name != "resnet_unet":
        return prepare_image(image_bhwc, config)
    assert_shape(image_bhwc, "b,h,w,c", "image")
    chex.assert_type(image_bhwc, float)
    size, coarsest = image_bhwc.shape[1:3], 2**config.encoder_depth
    if config.decoder == "segformer":
        whole_size = tuple(max(n, coarsest) for n in size)
    else:
        whole_size = tuple(-(-n // coarsest) * coarsest for n in size)
    return fill_up(image_bhwc.astype(config.dtype), whole_size)


def double(x_bhwc, interpolation: str):
    """Return float[b, 2h, 2w, c]: the map in double size, its pixels repeated ("nearest") or bilinear between them."""
    if interpolation == "nearest":
        return repeat_pixels(x_bhwc)
    rows, columns = x_bhwc.shape[1:3]
    return resize.resize_bilinear(x_bhwc, size=(2 * rows, 2 * columns))


def repeat_pixels(x_bhwc):
    """Return float[b, 2h, 2w, c]: each pixel of float[b, h, w, c] as a block of 2 × 2 (nearest neighbour)."""
    # Four equal channels per pixel, unfolded: its gradient is a sum, where an indexed repeat would scatter.
    return conv.depth_to_space(jnp.tile(x_bhwc, (1, 1, 1, 4)), factor=2)
