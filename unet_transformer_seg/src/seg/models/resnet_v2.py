"""ResNetV2: the convolutional half of TransUNet, an image to a map of a sixteenth of its size.

Letters: b batch, h w rows and columns of the stage, c channels, i j rows and columns of a kernel, o output channels.

    image ─ 7 × 7, /2 ─ norm, ReLU ─ max-pool, /2 ─ block1 ─ block2, /2 ─ block3, /2 ─ map of 1/16
                          └ skip of 1/2                └ skip of 1/4  └ skip of 1/8

A block is a row of bottleneck units. Every convolution has a standardised kernel and is followed by a group norm, so
that nothing depends on the batch: training and inference are the same.

The max-pool has no padding, therefore block1 gives one row and column less than a quarter of the image has. Its skip
connection is filled up with zeros (bottom, right), as in the public implementation, whose answers this network gives.

Reference: He et al., 2016; Kolesnikov et al., 2020 (Big Transfer) for kernels and norms; Dosovitskiy et al., 2021,
section 3.1 for the hybrid, whose third block takes the units of the fourth.
"""

import math

import chex
import flax.linen as nn
import jax.numpy as jnp

from seg.models.layers import truncated_normal
from seg.models.unet import fill_up
from seg.ops import conv, norm, pool
from seg.ops.norm import standardise_kernel

NUM_GROUPS = 32
UNIT_EPSILON = 1e-6
PROJECTION_EPSILON = 1e-5  # the norm of the shortcut is the only one that keeps torch's default
DOWNSAMPLING = 16  # image pixels per pixel of the last map, along each side


class ResNetV2(nn.Module):
    """A map of a sixteenth of the image's size, and the finer ones for skip connections."""

    width: int  # channels of the stem; a block has 4, 8 and 16 times as many
    units: tuple[int, int, int]  # number of units in each of the three blocks
    remat: bool = False  # compute a unit's activations again in the backward pass instead of keeping them

    @nn.compact
    def __call__(self, x_bhwc):
        """Return the last map, float[b, h/16, w/16, 16·width], and the skip connections of an image.

        The image is in the compute dtype, h and w multiples of 16. The skip connections are the coarsest first:
        float[b, h/8, w/8, 8·width], float[b, h/4, w/4, 4·width], float[b, h/2, w/2, width].
        """
        chex.assert_rank(x_bhwc, 4)
        _, h, w, _ = x_bhwc.shape
        chex.assert_is_divisible(h, DOWNSAMPLING)
        chex.assert_is_divisible(w, DOWNSAMPLING)
        x_bhwc = StandardisedConv(self.width, size=7, stride=2, name="root_conv")(x_bhwc)
        x_bhwc = nn.relu(GroupNorm32(name="root_norm")(x_bhwc))
        skips = [x_bhwc]
        x_bhwc = pool.max_pool_3x3(x_bhwc, padding=0)
        for i, num_units in enumerate(self.units):
            stride = 1 if i == 0 else 2
            block = ResNetBlock(self.width * 2**i, num_units, stride, self.remat, name=f"block{i + 1}")
            x_bhwc = block(x_bhwc)
            # Coarser maps see farther; the decoder takes them in the opposite order.
            scale = 4 * 2**i
            skips.append(fill_up(x_bhwc, (h // scale, w // scale)))
        return x_bhwc, skips[-2::-1]


class ResNetBlock(nn.Module):
    """Units in a row, the first of which changes size and channels: float[b, h, w, c] → 4·middle channels."""

    middle: int  # channels inside the units
    num_units: int  # how many
    stride: int  # of the first unit
    remat: bool = False  # as in `ResNetV2`

    @nn.compact
    def __call__(self, x_bhwc):
        """Return float[b, ⌈h/stride⌉, ⌈w/stride⌉, 4·middle] of float[b, h, w, c]."""
        unit = nn.remat(Unit) if self.remat else Unit
        for n in range(1, self.num_units + 1):
            x_bhwc = unit(self.middle, stride=self.stride if n == 1 else 1, name=f"unit{n}")(x_bhwc)
        return x_bhwc


class Unit(nn.Module):
    """A bottleneck unit: ReLU(shortcut + branch), the branch being convolutions of 1 × 1, 3 × 3 and 1 × 1.

    The shortcut is the input itself, or where size or channels change a 1 × 1 convolution and a norm of each channel.
    """

    middle: int
    stride: int = 1

    @nn.compact
    def __call__(self, x_bhwc):
        """Return float[b, ⌈h/stride⌉, ⌈w/stride⌉, 4·middle] of float[b, h, w, c]."""
        features = 4 * self.middle
        shortcut_bhwc = x_bhwc
        if self.stride != 1 or x_bhwc.shape[-1] != features:
            shortcut_bhwc = StandardisedConv(features, size=1, stride=self.stride, name="project_conv")(x_bhwc)
            shortcut_bhwc = ChannelNorm(name="project_norm")(shortcut_bhwc)
        # The 3 × 3 convolution works on a quarter of the channels: nine times the weights, a sixteenth of the pairs.
        x_bhwc = nn.relu(GroupNorm32(name="norm1")(StandardisedConv(self.middle, size=1, name="conv1")(x_bhwc)))
        x_bhwc = StandardisedConv(self.middle, size=3, stride=self.stride, name="conv2")(x_bhwc)
        x_bhwc = nn.relu(GroupNorm32(name="norm2")(x_bhwc))
        x_bhwc = GroupNorm32(name="norm3")(StandardisedConv(features, size=1, name="conv3")(x_bhwc))
        return nn.relu(shortcut_bhwc + x_bhwc)


class StandardisedConv(nn.Module):
    """A convolution whose kernel is standardised before use, without bias: float[b, h, w, c] → float[b, h', w', o].

    Each side gets size // 2 zeros whatever the stride, so h' = ⌈h/stride⌉.
    """

    features: int
    size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x_bhwc):
        """Return float[b, ⌈h/stride⌉, ⌈w/stride⌉, o] of float[b, h, w, c]."""
        shape_ijco = (self.size, self.size, x_bhwc.shape[-1], self.features)
        kernel_ijco = self.param("kernel", truncated_normal(2.0), shape_ijco, jnp.float32)
        kernel_ijco = standardise_kernel(kernel_ijco).astype(x_bhwc.dtype)
        side = (self.size // 2, self.size // 2)
        padding = "SAME" if self.stride == 1 else (side, side)
        return conv.conv2d(x_bhwc, kernel_ijco, stride=self.stride, padding=padding)


class GroupNorm32(nn.Module):
    """Group norm with 32 groups, or the most that divide both 32 and the channels: float[b, h, w, c] → the same shape.

    The published widths are multiples of 32; fewer groups let narrow networks be built.
    """

    @nn.compact
    def __call__(self, x_bhwc):
        """Return `x` normalised within each image."""
        groups = math.gcd(NUM_GROUPS, x_bhwc.shape[-1])
        return norm.group_norm(x_bhwc, *scale_and_bias(self, x_bhwc), groups=groups, epsilon=UNIT_EPSILON)


class ChannelNorm(nn.Module):
    """Group norm with a group for each channel: float[b, h, w, c] → the same shape."""

    @nn.compact
    def __call__(self, x_bhwc):
        """Return `x` normalised within each image and channel."""
        groups = x_bhwc.shape[-1]
        return norm.group_norm(x_bhwc, *scale_and_bias(self, x_bhwc), groups=groups, epsilon=PROJECTION_EPSILON)


def scale_and_bias(module: nn.Module, x_bhwc):
    """Return the parameters float32[c], float32[c] of a norm, made in `module`."""
    c = x_bhwc.shape[-1]
    return tuple(
        module.param(name, init, (c,), jnp.float32)
        for name, init in (("scale", nn.initializers.ones), ("bias", nn.initializers.zeros))
    )
