"""TransUNet: a ResNet halves the resolution four times, a transformer reads the result, a decoder doubles it again.

Letters: b batch, h w rows and columns of the stage, c channels, d width of the tokens, s tokens, k classes.

    image ─ ResNet ─ skip 1/2 ──────────────────────────────────────── block2 ─ block3 ─ head ─ logits
              ├───── skip 1/4 ──────────────────────────── block1 ──┘
              ├───── skip 1/8 ──────────────── block0 ──┘
              └ map of 1/16 ─ tokens ─ bridge ──┘

    tokens: 1 × 1 to width d, + learned positions, pre-norm transformer      bridge: 3 × 3 back to a map
    block: twice as large, join the skip connection, two 3 × 3               head: 3 × 3 to the classes

Against `unet_transformer` the convolutions on the way down are a ResNet's, and the transformer's width is its own.
The defaults are R50-ViT-B_16, for which weights are published twice: whole networks trained on a task as `.pth`, and
ResNet and transformer trained on ImageNet-21k, without decoder and head, as `R50+ViT-B_16.npz`
(`seg.published.transunet` reads both).

The published network takes squares of the size of its positions, 16 pixels for each. Here any size works: the image
is filled up with zeros to a multiple of 16, and the positions are interpolated.

Reference: Chen et al., 2021 (TransUNet).
"""

import chex
import flax.linen as nn
import jax.numpy as jnp

from seg.config import ModelConfig, TransformerConfig, TransUNetConfig
from seg.contracts import assert_shape
from seg.models.layers import BatchNorm, Conv, DoubleConv, Dropout, truncated_normal
from seg.models.resnet_v2 import DOWNSAMPLING, ResNetV2
from seg.models.transformer import Transformer
from seg.models.unet import crop_to, fill_up
from seg.models.unet_transformer import Positions, map_to_tokens, tokens_to_map
from seg.ops import conv, resize


class TransUNet(nn.Module):
    """Logits for every pixel of an image of any size."""

    config: ModelConfig  # its section `transunet`, `dtype` and `remat`; `num_classes` is set

    @nn.compact
    def __call__(self, image_bhwc, train: bool):
        """Return the logits.

        Args:
            image_bhwc: float32[b, h, w, c], normalised, any h and w from 1.
            train: use and update the decoder's batch statistics (collection `batch_stats`, mutable) and apply dropout
                (key `dropout`).

        Returns:
            logits_bhwk: float32[b, h, w, k].
        """
        assert_shape(image_bhwc, "b,h,w,c", "image")
        chex.assert_type(image_bhwc, float)
        settings, size = self.config.transunet, image_bhwc.shape[1:3]
        whole_size = tuple(-(-n // DOWNSAMPLING) * DOWNSAMPLING for n in size)
        x_bhwc = fill_up(image_bhwc.astype(self.config.dtype), whole_size)
        # Convolutions first: a transformer on the raw pixels would have 256 times as many tokens.
        resnet = ResNetV2(settings.resnet_width, settings.resnet_units, self.config.remat, name="resnet")
        x_bhwc, skips = resnet(x_bhwc)
        x_bhwd = TokenEncoder(settings, self.config.remat, name="tokens")(x_bhwc, train)
        # The tokens know what is where in the whole image, but to 16 pixels only: the decoder gets the skips too.
        x_bhwc = ConvNormRelu(settings.bridge_width, name="bridge")(x_bhwd, train)
        x_bhwc = CupDecoder(self.config, name="decoder")(x_bhwc, skips[: settings.num_skips], train)
        return crop_to(MapClassifier(self.config.num_classes, name="head")(x_bhwc), size)


class TokenEncoder(nn.Module):
    """Map → tokens + positions → transformer → map: float[b, h, w, c] → float[b, h, w, d]."""

    config: TransUNetConfig  # width, layers, heads, rates
    remat: bool = False  # as in `Transformer`

    @nn.compact
    def __call__(self, x_bhwc, train: bool):
        """Return the map after the transformer's last norm; `train` switches dropout on."""
        config, size = transformer_config(self.config), x_bhwc.shape[1:3]
        # The 1 × 1 patch embedding of the paper: a dense layer on each pixel of the map.
        embedding = nn.Dense(
            self.config.hidden_width, kernel_init=truncated_normal(1.0), dtype=x_bhwc.dtype, name="embedding"
        )
        x_bhwd = Positions(config, name="positions")(embedding(x_bhwc))
        x_bhwd = Dropout(config.dropout, name="position_dropout")(x_bhwd, train)
        x_bsd = Transformer(config, self.remat, name="transformer")(map_to_tokens(x_bhwd), train=train)
        return tokens_to_map(x_bsd, size)


class CupDecoder(nn.Module):
    """The four blocks on the way up, which the paper calls the cascaded upsampler."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_bhwc, skips, train: bool):
        """Return float[b, 16·h, 16·w, o], o being the last of `decoder_widths`.

        Args:
            x_bhwc: float[b, h, w, c], the bridge.
            skips: at most three maps, the coarsest first, each twice as large as the one before; the first twice as
                large as the bridge. The blocks that none is left for only double the resolution and convolve.
            train: as in `TransUNet`.
        """
        block = nn.remat(UpBlock, static_argnums=(3,)) if self.config.remat else UpBlock
        widths = self.config.transunet.decoder_widths
        for i, width in enumerate(widths):
            # The finest block has no skip connection: the ResNet has no map of the image's own resolution.
            skip_bhwc = skips[i] if i < len(skips) else None
            x_bhwc = block(self.config, width, name=f"block{i}")(x_bhwc, skip_bhwc, train)
        return x_bhwc


class UpBlock(nn.Module):
    """Double the resolution, put the skip connection behind the channels, convolve twice."""

    config: ModelConfig
    features: int

    @nn.compact
    def __call__(self, x_bhwc, skip_bhwc, train: bool):
        """Return float[b, 2h, 2w, features] of float[b, h, w, c] and float[b, 2h, 2w, c'], or None."""
        _, h, w, _ = x_bhwc.shape
        x_bhwc = resize.resize_bilinear(x_bhwc, size=(2 * h, 2 * w), align_corners=True)
        if skip_bhwc is not None:
            x_bhwc = jnp.concatenate([x_bhwc, skip_bhwc], -1)
        convs = DoubleConv(self.config, features=self.features, middle=self.features, name="convs")
        return convs(x_bhwc, train)


class ConvNormRelu(nn.Module):
    """A 3 × 3 convolution, batch norm and ReLU: float[b, h, w, c] → float[b, h, w, features]."""

    features: int

    @nn.compact
    def __call__(self, x_bhwc, train: bool):
        """Return float[b, h, w, features]; `train` is passed on to the norm."""
        return nn.relu(BatchNorm(name="norm")(Conv(self.features, name="conv")(x_bhwc), train))


class MapClassifier(nn.Module):
    """A 3 × 3 convolution to logits, in float32 whatever the features are: float[b, h, w, c] → float32[b, h, w, k]."""

    num_classes: int

    @nn.compact
    def __call__(self, x_bhwc):
        """Return float32[b, h, w, k] of float[b, h, w, c]."""
        # No norm and no ReLU behind it: a logit may be negative, and its scale is the confidence.
        shape_ijck = (3, 3, x_bhwc.shape[-1], self.num_classes)
        kernel_ijck = self.param("kernel", truncated_normal(1.0), shape_ijck, jnp.float32)
        bias_k = self.param("bias", nn.initializers.zeros, (self.num_classes,), jnp.float32)
        return conv.conv2d(x_bhwc.astype(jnp.float32), kernel_ijck, bias_k)


def transformer_config(config: TransUNetConfig) -> TransformerConfig:
    """Return the settings of TransUNet's transformer as `Transformer` takes them."""
    return TransformerConfig(
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        # The layer takes the whole part of width · ratio: half a unit more keeps the division's rounding out of it.
        mlp_ratio=(config.mlp_width + 0.5) / config.hidden_width,
        dropout=config.dropout,
        position="learned",
        position_grid=config.position_grid,
        attention=config.attention,
    )
