"""nnU-Net's U-Net for two dimensions: strided convolutions on the way down, transposed ones on the way up.

Letters: b batch, h w rows and columns, c channels, k classes.

    image ─ stage0 ────────── skip ────────── stage0 ─ 1×1 head ─ logits
              └ stage1 ────── skip ────── stage1 ┘
                  └ stage2 ── skip ── stage2 ┘
                      └ stage3 ─ up ─────┘

A stage is a row of convolutions, each with an instance norm and a leaky ReLU; the first one of the encoder's stages
takes the stride. Number and width of the stages, kernels and strides follow from the data set: nnU-Net plans them.

An instance norm sees one image alone. So the answer for a window depends on the whole window, and a model predicts
best at the window size that it was trained with.

Reference: Isensee et al., 2021 (nnU-Net). The answers are those of `PlainConvUNet` in dynamic_network_architectures
with the same weights, for the sizes that it takes: multiples of all strides together.
"""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from seg.config import ModelConfig, PlainConvUNetConfig
from seg.contracts import assert_shape
from seg.models.layers import Conv, GroupNorm, PixelClassifier, UpConv
from seg.models.unet import crop_to, fill_up

LEAK = 0.01  # slope of the leaky ReLU for negative values


class PlainConvUNet(nn.Module):
    """Logits for every pixel of an image of any size."""

    config: ModelConfig  # its section `plain_conv_unet` has the stages; `num_classes` is set

    @nn.compact
    def __call__(self, image_bhwc, train: bool):
        """Return the logits.

        Args:
            image_bhwc: float32[b, h, w, c], normalised, any h and w from 1.
            train: of no effect, as the norms have no running statistics; every model takes it.

        Returns:
            logits_bhwk: float32[b, h, w, k].
        """
        assert_shape(image_bhwc, "b,h,w,c", "image")
        chex.assert_type(image_bhwc, float)
        settings, remat, size = self.config.plain_conv_unet, self.config.remat, image_bhwc.shape[1:3]
        filled = tuple(-(-n // m) * m for n, m in zip(size, coarsest(settings), strict=True))
        x_bhwc = fill_up(image_bhwc.astype(self.config.dtype), filled)
        *skips, x_bhwc = Encoder(settings, remat, name="encoder")(x_bhwc)
        x_bhwc = Decoder(settings, remat, name="decoder")(x_bhwc, skips)
        return crop_to(PixelClassifier(self.config.num_classes, name="head")(x_bhwc), size)


class Encoder(nn.Module):
    """The way down: float[b, h, w, c] → a map for each stage, the finest first."""

    settings: PlainConvUNetConfig
    remat: bool  # compute the activations of each stage again in the backward pass

    @nn.compact
    def __call__(self, x_bhwc):
        """Return the maps; each has the size of the one before divided by the stage's stride."""
        maps, stage = [], nn.remat(Stage) if self.remat else Stage
        plan = zip(self.settings.widths, self.settings.kernel_sizes, self.settings.strides, strict=True)
        for number, (width, kernel_size, stride) in enumerate(plan):
            num_convs = self.settings.encoder_convs[number]
            x_bhwc = stage(width, num_convs, kernel_size, stride, name=f"stage{number}")(x_bhwc)
            maps.append(x_bhwc)
        return maps


class Decoder(nn.Module):
    """The way up: at each stage enlarge the map, join the skip connection behind its channels, and convolve."""

    settings: PlainConvUNetConfig
    remat: bool  # as for `Encoder`

    @nn.compact
    def __call__(self, x_bhwc, skips):
        """Return float[b, h, w, widths[0]] of the coarsest map and the `skips`, the finest first."""
        stage = nn.remat(Stage) if self.remat else Stage
        for level in reversed(range(len(skips))):
            width, kernel_size = self.settings.widths[level], self.settings.kernel_sizes[level]
            # The map grows by the stride that made it, so that the skip connection fits.
            up = UpConv(width, self.settings.strides[level + 1], self.settings.up_bias, name=f"up{level}")
            x_bhwc = jnp.concatenate([up(x_bhwc), skips[level]], -1)
            x_bhwc = stage(width, self.settings.decoder_convs[level], kernel_size, name=f"stage{level}")(x_bhwc)
        return x_bhwc


class Stage(nn.Module):
    """A row of convolutions, each with a norm and a leaky ReLU: float[b, h, w, c] → [b, h/stride, w/stride, width]."""

    width: int  # channels of each result
    num_convs: int
    kernel_size: tuple[int, int]  # rows and columns, odd
    stride: tuple[int, int] = (1, 1)  # of the first convolution

    @nn.compact
    def __call__(self, x_bhwc):
        """Return the map of the last convolution."""
        for number in range(1, self.num_convs + 1):
            stride = self.stride if number == 1 else (1, 1)
            # Without bias: the norm behind it subtracts one again.
            x_bhwc = Conv(self.width, self.kernel_size, stride, name=f"conv{number}")(x_bhwc)
            # As many groups as channels: an instance norm.
            x_bhwc = jax.nn.leaky_relu(GroupNorm(self.width, name=f"norm{number}")(x_bhwc), LEAK)
        return x_bhwc


def coarsest(settings: PlainConvUNetConfig) -> tuple[int, int]:
    """Return how many rows and columns of the image a pixel of the last map covers."""
    rows, columns = zip(*settings.strides, strict=True)
    return math.prod(rows), math.prod(columns)
