"""Weights for networks so small that they compile in a second."""

import jax
import numpy as np

from seg.models import abstract_variables


def random_variables(model, image_size, spread=0.25):
    """Return variables drawn with numpy, which spares the compilation of the initialisers.

    Args:
        model: the config of the network.
        image_size: rows and columns of an image that it accepts.
        spread: largest distance from 0, or from 1 for scales and variances.
    """
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        base = 1.0 if path[-1].key in ("scale", "var") else 0.0
        return (base + rng.uniform(-spread, spread, leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(model, image_size=image_size))
