"""The hierarchical transformer of SegFormer (MiT) without its classifier: maps of four resolutions from an image.

Letters: b batch, h w rows and columns of the stage, d its width, s = h·w tokens, j tokens attended to.

    image ─ stage1 ─ stage2 ─ stage3 ─ stage4        stage: embed ─ norm ─ blocks ─ norm
            /4       /8       /16      /32           block: x + attention(norm(x)), then x + feed_forward(norm(x))

Three things differ from the transformer of `seg.models.transformer`. The patches of the embedding overlap. Attention
would compare each of the (h·w/16) tokens of the finest map with all others: keys and values come from a map that is
smaller by `REDUCTIONS` in each direction. And there are no positions: a depthwise convolution in the feed-forward
network sees the zeros around the map, which is enough to know where a token is, at any size of the image.

The keys have no bias: it would add the same to all scores of a query, which the softmax cancels.

Reference: Xie et al., 2021 (SegFormer), table 6.
"""

from typing import Literal, NamedTuple

import flax.linen as nn

from seg.config import TransformerConfig
from seg.models.layers import NORM_EPSILON, Conv, DepthwiseConv, LayerNorm, xavier_uniform
from seg.models.transformer import MultiHeadAttention, residual_init
from seg.ops.conv import space_to_depth

MLP_RATIO = 4
HEADS, REDUCTIONS = (1, 2, 5, 8), (8, 4, 2, 1)  # of the four stages
EPSILON = {"original": NORM_EPSILON, "smp": 1e-6}  # of the norms of blocks and stages, by form


class Sizes(NamedTuple):
    """Widths and numbers of blocks of the four stages."""

    widths: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]


VARIANTS = {
    "mit_b0": Sizes((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": Sizes((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": Sizes((64, 128, 320, 512), (3, 4, 6, 3)),
}


class MixTransformer(nn.Module):
    """The encoder."""

    sizes: Sizes
    attention: str = "explicit"  # implementation, as in `seg.ops.attention`
    form: Literal["original", "smp"] = "original"  # see `EPSILON`
    remat: bool = False  # compute the activations of each block again in the backward pass

    @nn.compact
    def __call__(self, x_bhwd, train: bool):
        """Return four maps of the image, float[b, ⌈h/r⌉, ⌈w/r⌉, …], r = 4, 8, 16, 32: the finest first.

        The image has at least 32 rows and columns. `train` changes nothing: there is no dropout.
        """
        maps = []
        for number in range(1, len(self.sizes.widths) + 1):
            stage = Stage(self.sizes, number, self.attention, self.form, self.remat, name=f"stage{number}")
            x_bhwd = stage(x_bhwd)
            maps.append(x_bhwd)
        return maps


class Stage(nn.Module):
    """Embedding and blocks of one resolution: float[b, h, w, c] → float[b, ⌈h/stride⌉, ⌈w/stride⌉, d]."""

    sizes: Sizes  # as for `MixTransformer`, also below
    number: int  # 1 to 4
    attention: str
    form: str
    remat: bool

    @nn.compact
    def __call__(self, x_bhwc):
        """Return the map after the stage's last norm."""
        i, epsilon = self.number - 1, EPSILON[self.form]
        kernel_size, stride = (7, 4) if self.number == 1 else (3, 2)
        embed = Conv(self.sizes.widths[i], kernel_size, stride, use_bias=True, name="embed")
        x_bhwd = LayerNorm(NORM_EPSILON, name="embed_norm")(embed(x_bhwc))
        block = nn.remat(Block) if self.remat else Block
        config = TransformerConfig(num_layers=sum(self.sizes.blocks), num_heads=HEADS[i], attention=self.attention)
        for count in range(self.sizes.blocks[i]):
            x_bhwd = block(config, REDUCTIONS[i], epsilon, name=f"block{count}")(x_bhwd)
        return LayerNorm(epsilon, name="norm")(x_bhwd)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)): float[b, h, w, d] → float[b, h, w, d]."""

    config: TransformerConfig  # heads, implementation of the attention, and the number of blocks for the initialiser
    reduction: int  # the keys' map is smaller by this factor in each direction
    epsilon: float  # of the norms

    @nn.compact
    def __call__(self, x_bhwd):
        """Return the map after both branches."""
        b, h, w, d = x_bhwd.shape
        normal_bhwd = LayerNorm(self.epsilon, name="attention_norm")(x_bhwd)
        source_bhwd = normal_bhwd
        if self.reduction > 1:
            # Blocks do not overlap: one linear map from the pixels of a block to a token.
            source_bhwd = ReduceMap(self.reduction, name="reduce")(normal_bhwd)
            source_bhwd = LayerNorm(NORM_EPSILON, name="reduce_norm")(source_bhwd)
        attention = MultiHeadAttention(self.config, name="attention")
        branch_bsd = attention(normal_bhwd.reshape(b, h * w, d), source_bjd=source_bhwd.reshape(b, -1, d))
        x_bhwd += branch_bsd.reshape(b, h, w, d)
        normal_bhwd = LayerNorm(self.epsilon, name="feed_forward_norm")(x_bhwd)
        return x_bhwd + FeedForward(self.config.num_layers, name="feed_forward")(normal_bhwd)


class ReduceMap(nn.Module):
    """A convolution whose kernel is as large as its stride r: float[b, h, w, d] → float[b, ⌊h/r⌋, ⌊w/r⌋, d]."""

    factor: int

    @nn.compact
    def __call__(self, x_bhwd):
        """Return the smaller map; rows and columns that fill no block are left out."""
        _, h, w, d = x_bhwd.shape
        r = self.factor
        blocks_bhwf = space_to_depth(x_bhwd[:, : h // r * r, : w // r * r], factor=r)
        return nn.Dense(d, kernel_init=xavier_uniform(), dtype=x_bhwd.dtype, name="dense")(blocks_bhwf)


class FeedForward(nn.Module):
    """A dense layer, a depthwise convolution, a GELU and a dense layer: float[b, h, w, d] → float[b, h, w, d]."""

    num_layers: int  # blocks of the network, for the initialiser

    @nn.compact
    def __call__(self, x_bhwd):
        """Return the last layer's result."""
        d = x_bhwd.shape[-1]
        dense = nn.Dense(MLP_RATIO * d, kernel_init=xavier_uniform(), dtype=x_bhwd.dtype, name="dense1")
        hidden_bhwf = DepthwiseConv(use_bias=True, name="depthwise_conv")(dense(x_bhwd))
        hidden_bhwf = nn.gelu(hidden_bhwf, approximate=False)
        init = residual_init(self.num_layers)
        return nn.Dense(d, kernel_init=init, dtype=x_bhwd.dtype, name="dense2")(hidden_bhwf)
