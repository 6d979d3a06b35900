"""The gradient of a small network against differences in float64: a wrongly compiled gradient is seen without torch."""

import jax
import numpy as np
import pytest

from seg.compiler import compiler_options
from seg.ops import conv, pool
from seg.ops.norm import batch_norm_train

STAGES, STEP = [(3, 4), (4, 5)], 1e-6
"""Channels in and out of each stage; the step of a difference."""


def network(stages, x_bhwc):
    for kernel_ijco, scale_o, bias_o in stages:
        y_bhwo, _, _ = batch_norm_train(conv.conv2d(x_bhwc, kernel_ijco), scale_o, bias_o, epsilon=1e-5)
        x_bhwc = pool.max_pool(jax.nn.relu(y_bhwo))
    return x_bhwc


def plain_network(stages, x_bhwc):
    """The same from its definition, in numpy."""
    for kernel_ijco, scale_o, bias_o in stages:
        h, w = x_bhwc.shape[1:3]
        padded = np.pad(x_bhwc, ((0, 0), (1, 1), (1, 1), (0, 0)))
        y_bhwo = sum(padded[:, i : i + h, j : j + w] @ kernel_ijco[i, j] for i in range(3) for j in range(3))
        y_bhwo = (y_bhwo - y_bhwo.mean((0, 1, 2))) / np.sqrt(y_bhwo.var((0, 1, 2)) + 1e-5) * scale_o + bias_o
        blocks = np.maximum(y_bhwo, 0)[:, : h // 2 * 2, : w // 2 * 2].reshape(len(y_bhwo), h // 2, 2, w // 2, 2, -1)
        x_bhwc = blocks.max((2, 4))
    return x_bhwc


@pytest.mark.parametrize("level", [0, 3])
def test_the_gradient_is_the_slope_in_every_direction(level):
    """Of each array along three of them; odd sizes, which the pool cuts off; with the options of training."""
    random = np.random.default_rng(0)
    stages = [(random.normal(size=(3, 3, c, o)), random.uniform(0.5, 2, o), random.normal(size=o)) for c, o in STAGES]
    arguments = stages, random.normal(size=(2, 13, 11, 3))
    weights = random.normal(size=plain_network(*arguments).shape)

    def loss(stages, x_bhwc):
        return (network(stages, x_bhwc) * weights.astype(np.float32)).sum()

    options = {**compiler_options(), "xla_backend_optimization_level": level}
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), compiler_options=options)
    slopes = jax.tree.leaves(jax.device_get(gradient(*jax.tree.map(np.float32, arguments))))
    leaves, tree = jax.tree.flatten(arguments)

    def plain_loss(number, change):
        moved = jax.tree.unflatten(tree, [*leaves[:number], leaves[number] + change, *leaves[number + 1 :]])
        return (plain_network(*moved) * weights).sum()

    for number, slope in enumerate(slopes):
        for direction in random.normal(size=(3, *slope.shape)):
            expected = (plain_loss(number, STEP * direction) - plain_loss(number, -STEP * direction)) / (2 * STEP)
            assert abs((slope * direction).sum() - expected) < 1e-3 * np.linalg.norm(slope)
