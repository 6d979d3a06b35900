"""The hybrid: a U-Net whose bottleneck map is read as a sequence of tokens by a transformer.

Letters: b batch, h w rows and columns of the bottleneck, c = d channels, s = h·w tokens, k classes.

Convolutions see a neighbourhood; at the bottleneck a map of 512² has shrunk to 32², 1024 tokens, and attention over
all of them costs less than one convolution stage of the decoder. With 0 layers this is the U-Net, to the last bit.

Reference: Chen et al., 2021 (TransUNet) for the idea of a transformer between encoder and decoder.
"""

import chex
import flax.linen as nn
import jax.numpy as jnp

from seg.config import ModelConfig, TransformerConfig
from seg.models.layers import Dropout, table_normal
from seg.models.transformer import Transformer
from seg.models.unet import Decoder, Encoder, Heads, prepare_image
from seg.ops.position import interpolate_positions, sincos_2d


class UNetTransformer(nn.Module):
    """Logits for every pixel of an image of any size."""

    config: ModelConfig  # as for `UNet`, with its section `transformer`

    @nn.compact
    def __call__(self, image_bhwc, train: bool):
        """Return the logits float32[b, h, w, k]; arguments, result, collections and keys are those of `UNet`."""
        x_bhwc = prepare_image(image_bhwc, self.config)
        *skips, x_bhwc = Encoder(self.config, name="encoder")(x_bhwc, train)
        # Here the map is smallest: attention over all pairs of its pixels is affordable.
        if self.config.transformer.num_layers > 0:
            x_bhwc = Bottleneck(self.config.transformer, self.config.remat, name="bottleneck")(x_bhwc, train)
        x_bhwc = Dropout(self.config.dropout, name="bottleneck_dropout")(x_bhwc, train)
        maps = Decoder(self.config, name="decoder")(x_bhwc, skips, train)
        logits_bhwk, *coarser = Heads(self.config, name="heads")(maps, image_bhwc.shape[1:3], train)
        return (logits_bhwk, *coarser) if coarser else logits_bhwk


class Bottleneck(nn.Module):
    """Map → tokens + positions → transformer → map: float[b, h, w, d] → float[b, h, w, d]."""

    config: TransformerConfig
    remat: bool = False

    @nn.compact
    def __call__(self, x_bhwd, train: bool):
        """Return the map after positions and transformer; `train` switches dropout on."""
        b, h, w, d = x_bhwd.shape
        # Attention does not see where a token comes from, so its position is added to what it holds.
        x_bhwd = Positions(self.config, name="positions")(x_bhwd)
        x_bsd = map_to_tokens(x_bhwd)  # each pixel of the map is a token
        x_bsd = Transformer(self.config, self.remat, name="transformer")(x_bsd, train=train)
        return tokens_to_map(x_bsd, (h, w))


class Positions(nn.Module):
    """Adds a code of its row and column to each token: float[b, h, w, d] → float[b, h, w, d]."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_bhwd):
        """Return the map with `config.position` added: sincos, learned or none."""
        _, h, w, d = x_bhwd.shape
        match self.config.position:
            case "none":
                return x_bhwd
            case "sincos":
                position_hwd = sincos_2d(h, w, d)
            case "learned":
                grid = (*self.config.position_grid, d)
                table_hwd = self.param("table", table_normal(0.02), grid, jnp.float32)
                position_hwd = interpolate_positions(table_hwd, size=(h, w))  # images of other sizes than in training
            case name:
                raise ValueError(f"position: expected sincos, learned or none, found {name!r}")
        return x_bhwd + position_hwd[None].astype(x_bhwd.dtype)


def map_to_tokens(x_bhwd):
    """Return float[b, h·w, d]: the map read row by row, as a page is read."""
    chex.assert_rank(x_bhwd, 4)
    b, h, w, d = x_bhwd.shape
    return x_bhwd.reshape(b, h * w, d)


def tokens_to_map(x_bsd, size: tuple[int, int]):
    """Return float[b, h, w, d] from the tokens of a map of `size`; the inverse of `map_to_tokens`."""
    chex.assert_rank(x_bsd, 3)
    chex.assert_axis_dimension(x_bsd, 1, size[0] * size[1])
    return x_bsd.reshape(x_bsd.shape[0], *size, x_bsd.shape[-1])
