"""Random weights and inputs from numpy: to compile what jax draws them with takes longer than most tests."""

import math

import jax
import numpy as np


def draw_like(shapes, seed=0):
    """Return arrays of these shapes: kernels of variance 1/fan-in, scales of 1, biases of 0."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if len(leaf.shape) == 1:
            return np.full(leaf.shape, path[-1].key == "scale", np.float32)
        return (rng.normal(size=leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]))).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def draw(*shape, seed=0):
    """Return float32 numbers of a standard normal distribution."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
