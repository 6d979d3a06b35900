"""EfficientNet-Lite without its classifier: maps of five resolutions from an image, at little cost.

Letters: b batch, h w rows and columns, c channels.

    image ─ stem ─ stage1 ─ stage2 ─ stage3 ─ stage4 ─ stage5 ─ stage6 ─ stage7
            /2     /2       /4       /8       /16      /16      /32      /32

A stage is a row of inverted residual units (MobileNetV2). A kernel of k × k over all pairs of channels is the expensive
part of a convolution, so a unit splits it: 1 × 1 convolutions mix the channels, a depthwise one looks at the pixels
around, and it does so in a space of six times the channels.

    x ─┬─ 1×1 to 6·c ─ norm ─ ReLU6 ─ depthwise ─ norm ─ ReLU6 ─ 1×1 ─ norm ─ + ─
       └──────────────── if the size and the channels stay ──────────────────┘

The result of a unit has no ReLU: it has few channels, and a ReLU would lose what is negative in them.

Reference: Tan and Le, 2019 (EfficientNet); the Lite form, without squeeze-and-excitation, is TensorFlow's. Names in the
published files: `seg.published.encoders`.
"""

import math
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from seg.models.layers import BatchNorm, Conv, DepthwiseConv

STEM_WIDTH = 32

FACTORS = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}
"""Name → factors on the widths and on the numbers of units."""


class StagePlan(NamedTuple):
    """The units of a stage."""

    units: int
    kernel_size: int  # of the depthwise convolution
    stride: int  # of the first unit
    expansion: int  # channels of the depthwise convolution over those of the unit's map
    width: int  # channels of the result


class Details(NamedTuple):
    """In what the forms of the network differ."""

    padding: str | None  # as in `Conv`
    epsilon: float  # of the norms


STAGES = (
    StagePlan(1, 3, 1, 1, 16),
    StagePlan(2, 3, 2, 6, 24),
    StagePlan(2, 5, 2, 6, 40),
    StagePlan(3, 3, 2, 6, 80),
    StagePlan(3, 5, 1, 6, 112),
    StagePlan(4, 5, 2, 6, 192),
    StagePlan(1, 3, 1, 6, 320),
)
"""Those of EfficientNet-Lite0."""

MAP_STAGES = {"original": (1, 2, 3, 5, 7), "smp": (2, 3, 5, 7)}  # the last stage of each resolution


def plan_stages(name: str) -> tuple[StagePlan, ...]:
    """Return the stages of a network by its name; the first and the last have a fixed number of units."""
    width_factor, depth_factor = FACTORS[name]
    plans = []
    for number, stage in enumerate(STAGES, start=1):
        fixed = number in (1, len(STAGES))
        units = stage.units if fixed else math.ceil(stage.units * depth_factor)
        plans.append(stage._replace(units=units, width=round_width(stage.width * width_factor)))
    return tuple(plans)


def round_width(width: float) -> int:
    """Return the nearest multiple of 8, but no less than nine tenths of `width`."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8


class EfficientNetLite(nn.Module):
    """The encoder."""

    plans: tuple[StagePlan, ...]  # of the seven stages
    # "original" puts zeros as TensorFlow does and adds 1e-3 to variances; "smp" puts as many on all sides, adds 1e-5,
    # and has the stem's map as the finest
    form: Literal["original", "smp"] = "original"
    remat: bool = False  # compute the activations of each unit again in the backward pass

    @nn.compact
    def __call__(self, x_bhwc, train: bool):
        """Return five maps of the image, float[b, ⌈h/2^i⌉, ⌈w/2^i⌉, …], i from 1: the finest first.

        They are the results of stages 1, 2, 3, 5 and 7; with `form` "smp" of the stem and of stages 2, 3, 5 and 7.
        """
        details = Details("SAME", 1e-3) if self.form == "original" else Details(None, 1e-5)
        x_bhwc = Conv(STEM_WIDTH, stride=2, padding=details.padding, name="stem_conv")(x_bhwc)
        x_bhwc = relu6(BatchNorm(details.epsilon, name="stem_norm")(x_bhwc, train))
        maps = [] if self.form == "original" else [x_bhwc]
        for number, plan in enumerate(self.plans, start=1):
            x_bhwc = Stage(plan, details, self.remat, name=f"stage{number}")(x_bhwc, train)
            if number in MAP_STAGES[self.form]:
                maps.append(x_bhwc)
        return maps


class Stage(nn.Module):
    """The units of a stage: float[b, h, w, c] → float[b, ⌈h/stride⌉, ⌈w/stride⌉, width]."""

    plan: StagePlan
    details: Details
    remat: bool  # as for `EfficientNetLite`

    @nn.compact
    def __call__(self, x_bhwc, train: bool):
        """Return the map of the last unit; `train` is passed on to the norms."""
        unit = nn.remat(Unit, static_argnums=(2,)) if self.remat else Unit
        for number in range(self.plan.units):
            plan = self.plan if number == 0 else self.plan._replace(stride=1)
            x_bhwc = unit(plan, self.details, name=f"unit{number}")(x_bhwc, train)
        return x_bhwc


class Unit(nn.Module):
    """An inverted residual unit: float[b, h, w, c] → float[b, ⌈h/stride⌉, ⌈w/stride⌉, width]."""

    plan: StagePlan  # kernel, expansion, width; the stride is this unit's
    details: Details

    @nn.compact
    def __call__(self, x_bhwc, train: bool):
        """Return the unit's map; `train` is passed on to the norms."""
        (_, kernel_size, stride, expansion, width), (padding, epsilon) = self.plan, self.details
        c, y_bhwc = x_bhwc.shape[-1], x_bhwc
        if expansion > 1:
            y_bhwc = Conv(c * expansion, kernel_size=1, name="expand_conv")(y_bhwc)
            y_bhwc = relu6(BatchNorm(epsilon, name="expand_norm")(y_bhwc, train))
        y_bhwc = DepthwiseConv(kernel_size, stride, padding=padding, name="depthwise_conv")(y_bhwc)
        y_bhwc = relu6(BatchNorm(epsilon, name="depthwise_norm")(y_bhwc, train))
        y_bhwc = Conv(width, kernel_size=1, name="project_conv")(y_bhwc)
        y_bhwc = BatchNorm(epsilon, name="project_norm")(y_bhwc, train)
        # Zeros cannot stand in for the channels or pixels that x lacks: then the unit is not residual.
        return y_bhwc + x_bhwc if stride == 1 and c == width else y_bhwc


def relu6(x):
    """Return `x` within 0 … 6: no large values, so that eight bits can hold it."""
    return jnp.clip(x, 0, 6)
