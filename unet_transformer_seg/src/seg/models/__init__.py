"""The networks: Flax modules that own the parameters and call `seg.ops`.

Every model is called as `model.apply(variables, image_bhwc, train)` and returns float32 logits of the image's size.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from seg.config import ModelConfig
from seg.errors import UserError
from seg.models.layers import count_parameters
from seg.models.resnet_unet import ResNetUNet
from seg.models.transunet import TransUNet
from seg.models.unet import UNet
from seg.models.unet_transformer import UNetTransformer

__all__ = [
    "ResNetUNet",
    "TransUNet",
    "UNet",
    "UNetTransformer",
    "abstract_variables",
    "build_model",
    "count_parameters",
    "smallest_image",
    "variable_shapes",
]


def build_model(config: ModelConfig) -> nn.Module:
    """Return the network that `config` describes, without parameters.

    Args:
        config: `num_classes` is set, from the data set if need be.

    Raises:
        UserError: an unknown name, or no number of classes.
    """
    if config.num_classes < 2:
        raise UserError(
            f"model.num_classes: expected 2 or more (background counts as a class), found {config.num_classes}; "
            "set it, or leave it 0 and let the data set fill it in"
        )
    match config.name:
        case "unet":
            return UNet(config)
        case "unet_transformer":
            return UNetTransformer(config)
        case "transunet":
            return TransUNet(config)
        case "resnet_unet":
            return ResNetUNet(config)
        case "custom":
            raise UserError(
                "model.name: custom: the network comes from outside the package, so it works from Python only; pass "
                "it: seg.load(folder, model=...) or seg.train(config, model=...)"
            )
        case name:
            raise UserError(f"model.name: expected unet, unet_transformer, transunet or resnet_unet, found {name!r}")


def abstract_variables(config: ModelConfig) -> Any:
    """Return the variables of the network that `config` describes, as shapes and dtypes: `params`, `batch_stats`.

    Args:
        config: `num_classes` is set.

    Raises:
        UserError: as `build_model`.
    """
    return variable_shapes(build_model(config), smallest_image(config))


def variable_shapes(model: nn.Module, image_size: tuple[int, int]) -> Any:
    """Return the variables of a network as shapes and dtypes.

    Args:
        model: `model.apply(variables, image_bhwc, train)`.
        image_size: rows and columns of an image that the network accepts.
    """
    image_bhwc = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image_bhwc)


def smallest_image(config: ModelConfig) -> tuple[int, int]:
    """Return rows and columns of the smallest image that every stage of the network can halve."""
    side = config.stem_stride * 2**config.depth
    return side, side
