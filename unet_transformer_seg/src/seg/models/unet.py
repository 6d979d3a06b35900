"""The U-Net: an encoder that halves the resolution, a decoder that doubles it, skip connections between them.

Letters: b batch, h w rows and columns of the stage, c channels, k classes.

    image ─ stage0 ───────────────── skip ──────────────── stage0 ─ head ─ logits
              └ pool ─ stage1 ────── skip ───── stage1 ─ up ┘
                         └ pool ─ … bottleneck … ─ up ┘

Reference: Ronneberger, Fischer and Brox, 2015. Widths, norms and paddings are those of the public implementation
milesial/Pytorch-UNet, whose answers this network gives when it holds the same weights.
"""

import chex
import flax.linen as nn
import jax.numpy as jnp

from seg.config import ModelConfig
from seg.contracts import assert_shape
from seg.models.layers import DoubleConv, Dropout, PixelClassifier, UpConv
from seg.ops import conv, pool, resize


class UNet(nn.Module):
    """Logits for every pixel of an image of any size."""

    config: ModelConfig  # widths, depth, norm and the other settings; `num_classes` is set

    @nn.compact
    def __call__(self, image_bhwc, train: bool):
        """Return the logits.

        Args:
            image_bhwc: float32[b, h, w, c], normalised, any h and w from 1.
            train: use and update batch statistics (collection `batch_stats`, mutable) and apply dropout (key
                `dropout`).

        Returns:
            logits_bhwk: float32[b, h, w, k]. In training with `deep_supervision` a tuple: these, and the logits of the
                coarser stages, the finest first.
        """
        x_bhwc = prepare_image(image_bhwc, self.config)
        # The deepest map knows what is in the image, the finer ones where: those wait for the decoder.
        *skips, x_bhwc = Encoder(self.config, name="encoder")(x_bhwc, train)
        x_bhwc = Dropout(self.config.dropout, name="bottleneck_dropout")(x_bhwc, train)
        maps = Decoder(self.config, name="decoder")(x_bhwc, skips, train)
        logits_bhwk, *coarser = Heads(self.config, name="heads")(maps, image_bhwc.shape[1:3], train)
        return (logits_bhwk, *coarser) if coarser else logits_bhwk


class Encoder(nn.Module):
    """The stages on the way down; each but the first begins by halving the resolution."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_bhwc, train: bool):
        """Return the maps of all stages, the finest first; the last is the bottleneck.

        Of the prepared image, h and w at least 2^depth, these are `depth` + 1 arrays
        float[b, ⌊h/2^i⌋, ⌊w/2^i⌋, base_width·2^i]; the last one has half as many channels when the decoder is bilinear.
        """
        stage = _stage(DoubleConv, self.config, train_index=2)
        maps = []
        for i in range(self.config.depth + 1):
            if i > 0:
                x_bhwc = pool.max_pool(x_bhwc)
            # Half the resolution, twice the channels: every stage costs about the same.
            width = self.config.base_width * 2**i
            # An up-convolution halves the channels, bilinear upsampling does not: halve them here, as published.
            if i == self.config.depth and self.config.upsample == "bilinear":
                width //= 2
            x_bhwc = stage(self.config, features=width, middle=width, name=f"stage{i}")(x_bhwc, train)
            maps.append(x_bhwc)
        return maps


class Decoder(nn.Module):
    """The stages on the way up, each of which joins the map from below with the skip connection of its level."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_bhwc, skips, train: bool):
        """Return the maps of all stages, the finest first, each of the rows and columns of its skip.

        Args:
            x_bhwc: float[b, h, w, c], the bottleneck.
            skips: the encoder's other maps, the finest first.
            train: as in `UNet`.
        """
        stage = _stage(UpStage, self.config, train_index=3)
        maps = []
        for i in reversed(range(self.config.depth)):
            # Where a border is, the skip connection knows; which class is behind it, the map from below.
            x_bhwc = stage(self.config, level=i, name=f"stage{i}")(x_bhwc, skips[i], train)
            maps.append(x_bhwc)
        return maps[::-1]


class UpStage(nn.Module):
    """Double the resolution, put the skip connection in front of the channels, convolve twice."""

    config: ModelConfig
    level: int

    @nn.compact
    def __call__(self, x_bhwc, skip_bhwc, train: bool):
        """Return float[b, h, w, features] of a coarser map and the skip connection float[b, h, w, c]."""
        width = self.config.base_width * 2**self.level  # that of the encoder's stage at this level
        _, h, w, _ = x_bhwc.shape
        if self.config.upsample == "transposed":
            x_bhwc = UpConv(width, name="up")(x_bhwc)
            features = width
        else:
            # No weights: the convolutions behind it halve the channels, so that the next stage gets its width.
            x_bhwc = resize.resize_bilinear(x_bhwc, size=(2 * h, 2 * w), align_corners=True)
            features = width if self.level == 0 else width // 2
        # Pooling dropped the last row or column of an odd map; zeros stand in for it here.
        x_bhwc = jnp.concatenate([skip_bhwc, centre_in(x_bhwc, skip_bhwc.shape[1:3])], -1)
        return DoubleConv(self.config, features=features, middle=width, name="convs")(x_bhwc, train)


class Heads(nn.Module):
    """The classifiers of pixels: one on the finest map, and with deep supervision one on each coarser map."""

    config: ModelConfig

    @nn.compact
    def __call__(self, maps, size: tuple[int, int], train: bool):
        """Return the logits of the image and, in training with deep supervision, those of the coarser maps.

        The finest map gives float32[b, *size, k], each coarser one float32[b, h_i, w_i, k], cropped to the cells that
        hold pixels of the image; a cell of map i covers stem_stride·2^i pixels a side.
        """
        stride, k = self.config.stem_stride, self.config.num_classes
        # With a stem, one pixel of the finest map classifies the r × r image pixels that it was made of.
        stages = [crop_to(PixelClassifier(k, factor=stride, name="pixel")(maps[0]), size)]
        # The auxiliary heads exist only for training, but their parameters have to be made with all the others.
        if self.config.deep_supervision and (train or self.is_initializing()):
            for i, x_bhwc in enumerate(maps[1:], start=1):
                cells = tuple(-(-n // (stride * 2**i)) for n in size)
                stages.append(crop_to(PixelClassifier(k, name=f"auxiliary{i}")(x_bhwc), cells))
        return stages if train else stages[:1]


def prepare_image(image_bhwc, config: ModelConfig):
    """Return the image in the compute dtype, float[b, h'/r, w'/r, c·r²], r being the stem's stride.

    It is padded with zeros (bottom, right) where the network needs it. Without a stem any size from 2^depth works:
    pooling drops an odd last row and the decoder pads it again, as published. With a stem the size becomes a multiple
    of r·2^depth and r² pixels become one.
    """
    assert_shape(image_bhwc, "b,h,w,c", "image")
    chex.assert_type(image_bhwc, float)
    # At least one pixel at the bottleneck.
    smallest, stride = 2**config.depth, config.stem_stride
    _, h, w, _ = image_bhwc.shape
    if stride == 1:
        new_h, new_w = max(h, smallest), max(w, smallest)
    else:
        new_h, new_w = (-(-n // (stride * smallest)) * stride * smallest for n in (h, w))
    x_bhwc = fill_up(image_bhwc.astype(config.dtype), (new_h, new_w))
    return x_bhwc if stride == 1 else conv.space_to_depth(x_bhwc, factor=stride)


def centre_in(x_bhwc, size: tuple[int, int]):
    """Return `x` with zeros around it, so that it has `size`; an odd rest goes to the bottom and right."""
    _, h, w, _ = x_bhwc.shape
    rows, columns = size[0] - h, size[1] - w
    if rows == columns == 0:
        return x_bhwc
    sides = ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    return jnp.pad(x_bhwc, sides)


def fill_up(x_bhwc, size: tuple[int, int]):
    """Return `x` with zeros at the bottom and right, so that it has `size`; undone by `crop_to`."""
    _, h, w, _ = x_bhwc.shape
    return jnp.pad(x_bhwc, ((0, 0), (0, size[0] - h), (0, size[1] - w), (0, 0)))


def crop_to(x_bhwc, size: tuple[int, int]):
    """Return the upper left part of `x` that has (at most) `size`."""
    return x_bhwc[:, : size[0], : size[1]]


def _stage(module: type[nn.Module], config: ModelConfig, train_index: int):
    """Return `module`; with `config.remat` its activations are recomputed in the backward pass."""
    return nn.remat(module, static_argnums=(train_index,)) if config.remat else module
