"""The residual network of He et al., 2015, without its classifier: maps of five resolutions from an image.

Letters: b batch, h w rows and columns, c channels.

    image ─ 7 × 7 conv, norm, ReLU ─┬─ pool ─ layer1 ─┬─ layer2 ─┬─ layer3 ─┬─ layer4 ─┐
                                   /2                /4         /8         /16        /32

A layer is a row of units, and a unit adds something to what comes in, so that each of many has little to learn:

    basic        x ─┬─ 3×3 ─ norm ─ ReLU ─ 3×3 ─ norm ─ + ─ ReLU        bottleneck: 1×1, 3×3, 1×1, the last one to
                    └──────────── shortcut ─────────────┘               four times the channels

The shortcut is x itself, or a 1 × 1 convolution and a norm where the unit changes the size or the channels. A
bottleneck halves the resolution in its 3 × 3 convolution, as torchvision does (ResNet v1.5), not in the first one.

Reference: He, Zhang, Ren and Sun, 2015, table 1. Strides and paddings are those of torchvision.
"""

from typing import NamedTuple

import flax.linen as nn

from seg.config import ResNetUNetConfig
from seg.models.layers import BatchNorm, Conv
from seg.ops import pool

EXPANSION = {"basic": 1, "bottleneck": 4}  # channels of a unit's result over its width
KERNELS = {"basic": (3, 3), "bottleneck": (1, 3, 1)}  # rows and columns of a unit's convolutions
STRIDED = {"basic": 1, "bottleneck": 2}  # number of the convolution that a unit halves the resolution in


class UnitPlan(NamedTuple):
    """Where a unit stands and what it does."""

    layer: int  # 1 to 4
    number: int  # in the layer, from 0
    width: int  # channels between its convolutions
    stride: int  # 2 in the first unit of layers 2 to 4
    projects: bool  # whether the shortcut has a convolution


def plan_units(config: ResNetUNetConfig) -> list[UnitPlan]:
    """Return the units of the four layers in order; the width doubles from layer to layer."""
    plans, channels = [], config.encoder_width
    for layer, count in enumerate(config.units, start=1):
        width = config.encoder_width * 2 ** (layer - 1)
        for number in range(count):
            stride = 2 if layer > 1 and number == 0 else 1
            features = width * EXPANSION[config.block]
            plans.append(UnitPlan(layer, number, width, stride, stride > 1 or channels != features))
            channels = features
    return plans


class ResNet(nn.Module):
    """The encoder."""

    config: ResNetUNetConfig  # kind and number of the units, and the width
    remat: bool = False  # compute the activations of each unit again in the backward pass

    @nn.compact
    def __call__(self, x_bhwc, train: bool):
        """Return five maps of the image, float[b, ⌈h/2^i⌉, ⌈w/2^i⌉, …], i from 1: the finest first.

        The stem's map has `encoder_width` channels, those of layers 1 to 4 `encoder_width`·2^(layer − 1) times the
        expansion.
        """
        # A large kernel at once: from three channels it costs little, and the pool after it needs no detail.
        x_bhwc = Conv(self.config.encoder_width, kernel_size=7, stride=2, name="conv1")(x_bhwc)
        x_bhwc = nn.relu(BatchNorm(name="norm1")(x_bhwc, train))
        maps = [x_bhwc]
        x_bhwc = pool.max_pool_3x3(x_bhwc, padding=1)
        for layer in range(1, len(self.config.units) + 1):
            x_bhwc = Layer(self.config, layer, self.remat, name=f"layer{layer}")(x_bhwc, train)
            maps.append(x_bhwc)
        return maps


class Layer(nn.Module):
    """The units of one resolution: float[b, h, w, c] → float[b, ⌈h/stride⌉, ⌈w/stride⌉, width · expansion]."""

    config: ResNetUNetConfig  # as for `ResNet`
    layer: int  # 1 to 4
    remat: bool  # as for `ResNet`

    @nn.compact
    def __call__(self, x_bhwc, train: bool):
        """Return the map of the last unit; `train` is passed on to the norms."""
        unit = nn.remat(Unit, static_argnums=(2,)) if self.remat else Unit
        for plan in plan_units(self.config):
            if plan.layer == self.layer:
                x_bhwc = unit(self.config.block, plan, name=f"unit{plan.number}")(x_bhwc, train)
        return x_bhwc


class Unit(nn.Module):
    """A residual unit: float[b, h, w, c] → float[b, ⌈h/stride⌉, ⌈w/stride⌉, width · expansion]."""

    block: str  # basic or bottleneck
    plan: UnitPlan  # width, stride and shortcut

    @nn.compact
    def __call__(self, x_bhwc, train: bool):
        """Return relu(residual(x) + shortcut(x)); `train` is passed on to the norms."""
        features, kernels = self.plan.width * EXPANSION[self.block], KERNELS[self.block]
        y_bhwc = x_bhwc
        for number, kernel_size in enumerate(kernels, start=1):
            last = number == len(kernels)
            stride = self.plan.stride if number == STRIDED[self.block] else 1
            layer = Conv(features if last else self.plan.width, kernel_size, stride, name=f"conv{number}")
            y_bhwc = BatchNorm(name=f"norm{number}")(layer(y_bhwc), train)
            if not last:
                y_bhwc = nn.relu(y_bhwc)
        if self.plan.projects:
            x_bhwc = Conv(features, 1, self.plan.stride, name="shortcut_conv")(x_bhwc)
            x_bhwc = BatchNorm(name="shortcut_norm")(x_bhwc, train)
        return nn.relu(y_bhwc + x_bhwc)
