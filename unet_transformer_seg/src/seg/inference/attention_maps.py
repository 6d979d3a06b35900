"""Attention of a model's transformer: how much each token of an image attends to every other.

Letters: l layers, a heads, p query pixels, h w rows and columns of the token grid.
"""

from collections.abc import Sequence

import jax
import numpy as np

from seg.config import ModelConfig
from seg.data.transforms import normalise, to_unit
from seg.errors import UserError
from seg.inference.predictor import Predictor
from seg.models import build_model
from seg.models.resnet_v2 import DOWNSAMPLING


def attention_maps(predictor: Predictor, image_hwc: np.ndarray, pixels: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return float32[p, l, a, h, w], the attention of the tokens that contain the pixels; each map sums to 1.

    The image, uint8[h, w, 3], is computed in one piece at its own size; `Predictor.bring` resizes it as prediction
    does. Memory grows with the square of the number of tokens. `pixels` are (row, column).
    """
    size = image_hwc.shape[:2]
    stride, (h, w) = token_grid(predictor.config.model, size)
    for row, column in pixels:
        if not (0 <= row < size[0] and 0 <= column < size[1]):
            raise UserError(f"pixel {row} {column}: the image has {size[0]} rows and {size[1]} columns")
    # Pooling drops an odd last row: its pixels belong to the token before.
    asking_p = [min(row // stride, h - 1) * w + min(column // stride, w - 1) for row, column in pixels]
    maps_plaj = np.moveaxis(_attention(predictor, image_hwc, asking_p), 2, 0)
    return maps_plaj.reshape(*maps_plaj.shape[:3], h, w)


def token_grid(config: ModelConfig, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """Return the stride of the tokens in pixels, and their rows and columns in an image of `size`."""
    match config.name:
        case "unet_transformer" if config.transformer.num_layers:
            stride = config.stem_stride * 2**config.depth
            if config.stem_stride == 1:
                return stride, tuple(max(n // stride, 1) for n in size)
        case "transunet":
            stride = DOWNSAMPLING
        case name:
            raise UserError(f"expected a model with a transformer (unet_transformer, transunet), found {name}")
    return stride, tuple(-(-n // stride) for n in size)


def _attention(predictor: Predictor, image_hwc: np.ndarray, asking_p: Sequence[int]) -> np.ndarray:
    """Return weights_lapj: float32[l, a, p, j], the attention of the query tokens of these numbers."""
    config = predictor.config
    model = build_model(config.model)

    @jax.jit
    def weights(variables, image_bhwc):
        x_bhwc = normalise(to_unit(image_bhwc), config.data.mean, config.data.std)
        _, state = model.apply(variables, x_bhwc, train=False, mutable=["attention"])
        (weights_lbasj,) = jax.tree.leaves(state["attention"])
        return weights_lbasj[:, 0][:, :, np.asarray(asking_p)]

    return np.asarray(weights(predictor.variables, image_hwc[None]))
