"""Values for the tensors of a published network, drawn by their names: the same in two programs, without a file."""

import zlib

import numpy as np

from seg.models.efficientnet_lite import StagePlan
from seg.models.mix_transformer import Sizes

NARROW_LITE = (
    StagePlan(1, 3, 1, 1, 8),
    StagePlan(2, 3, 2, 6, 8),
    StagePlan(1, 5, 2, 6, 8),
    StagePlan(1, 3, 2, 6, 16),
    StagePlan(1, 5, 1, 6, 8),
    StagePlan(1, 5, 2, 6, 8),
    StagePlan(1, 3, 1, 6, 16),
)
NARROW_MIT = Sizes((4, 4, 10, 16), (1, 2, 1, 1))


def draw_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float32 values for a tensor of a state dict: kernels of a sensible spread, scales and variances near 1."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return random.uniform(0.7, 1.3, shape).astype(np.float32)
    spread = 0.1 if len(shape) == 1 else np.sqrt(2 / np.prod(shape[1:]))
    return (random.normal(size=shape) * spread).astype(np.float32)


def draw_image(h: int, w: int) -> np.ndarray:
    """Return a float32[1, h, w, 3]."""
    return np.random.default_rng(5).normal(size=(1, h, w, 3)).astype(np.float32)
