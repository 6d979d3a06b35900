"""The U-Net with a ResNet for an encoder: the way down is one that was trained on photographs before.

Letters: b batch, h w rows and columns, c channels, k classes.

    image        /2 ┌─────────────────────── skip ──────────────────────┐      block4 ─ 3×3 head ─ logits
      └─ stem ──────┤    /4 ┌─────────────── skip ─────────────┐     block3 ─ ×2 ┘
                    └ layer1┤    /8 ┌─────── skip ──────┐    block2 ─ ×2 ┘
                            └ layer2┤   /16 ┌ skip ┐  block1 ─ ×2 ┘
                                    └ layer3┤    block0 ─ ×2 ┘
                                            └ layer4 ─ ×2 ┘
                                              /32

A ResNet halves the resolution before its first unit, so there is no skip connection at the image's own resolution:
the last block works from details of half the resolution. The encoder is most of the network, and trained
encoders are published for it; the decoder learns the new task. It repeats pixels (×2), or interpolates, where the U-Net
of `seg.models.unet` learns how to, and puts the skip connection behind the channels, not in front.

Reference: Ronneberger, Fischer and Brox, 2015, and He et al., 2015. The answers are those of `Unet` in
segmentation_models_pytorch with the same weights, for the sizes that it takes: multiples of 32.
"""

import chex
import flax.linen as nn
import jax.numpy as jnp

from seg.config import ModelConfig
from seg.contracts import assert_shape
from seg.models.layers import Conv, DoubleConv
from seg.models.resnet import ResNet
from seg.models.unet import crop_to
from seg.ops import conv, resize

COARSEST = 32  # image pixels per pixel of the encoder's last map, along each side


class ResNetUNet(nn.Module):
    """Logits for every pixel of an image of any size."""

    config: ModelConfig  # its section `resnet_unet` has the widths and depths; `num_classes` is set

    @nn.compact
    def __call__(self, image_bhwc, train: bool):
        """Return the logits.

        Args:
            image_bhwc: float32[b, h, w, c], normalised, any h and w from 1.
            train: use and update batch statistics (collection `batch_stats`, mutable).

        Returns:
            logits_bhwk: float32[b, h, w, k].
        """
        x_bhwc = fill_up(image_bhwc.astype(self.config.dtype))
        # With published weights these maps show edges and textures before the first step.
        *skips, x_bhwc = ResNet(self.config.resnet_unet, self.config.remat, name="encoder")(x_bhwc, train)
        x_bhwc = Decoder(self.config, name="decoder")(x_bhwc, skips, train)
        # In float32: few channels, and sums of the logits that are not rounded.
        logits_bhwk = Conv(self.config.num_classes, use_bias=True, name="head")(x_bhwc.astype(jnp.float32))
        return crop_to(logits_bhwk, image_bhwc.shape[1:3])


class Decoder(nn.Module):
    """The way up: five times, double the resolution, join the skip connection if there is one, convolve twice."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_bhwc, skips, train: bool):
        """Return float[b, 32·h, 32·w, decoder_widths[-1]] of the encoder's maps; `skips` are the finest first."""
        block = nn.remat(DoubleConv, static_argnums=(2,)) if self.config.remat else DoubleConv
        # The last block has the image's own resolution, at which a ResNet has no map.
        skips = [None, *skips]
        for number, width in enumerate(self.config.resnet_unet.decoder_widths):
            # No weights: the convolutions behind it learn to use the coarse map.
            x_bhwc, skip_bhwc = double(x_bhwc, self.config.resnet_unet.interpolation), skips.pop()
            if skip_bhwc is not None:
                x_bhwc = jnp.concatenate([x_bhwc, skip_bhwc], -1)
            x_bhwc = block(self.config, features=width, middle=width, name=f"block{number}")(x_bhwc, train)
        return x_bhwc


def fill_up(image_bhwc):
    """Return the image with zeros at the bottom and right, so that both sides are multiples of 32."""
    assert_shape(image_bhwc, "b,h,w,c", "image")
    chex.assert_type(image_bhwc, float)
    rows, columns = (-n % COARSEST for n in image_bhwc.shape[1:3])
    return jnp.pad(image_bhwc, ((0, 0), (0, rows), (0, columns), (0, 0)))


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
