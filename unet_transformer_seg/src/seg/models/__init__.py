"""The networks: Flax modules that own the parameters and call `seg.ops`.

Every model is called as `model.apply(variables, image_bhwc, train)` and returns float32 logits of the image's size; in
training with deep supervision a tuple, these first and those of coarser stages behind.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from seg.config import ModelConfig
from seg.errors import UserError
from seg.models.encoder_decoder import EncoderDecoder
from seg.models.layers import count_parameters
from seg.models.plain_conv_unet import PlainConvUNet
from seg.models.transunet import TransUNet
from seg.models.unet import UNet
from seg.models.unet_transformer import UNetTransformer

__all__ = [
    "CustomModel",
    "EncoderDecoder",
    "PlainConvUNet",
    "TransUNet",
    "UNet",
    "UNetTransformer",
    "abstract_variables",
    "build_model",
    "count_parameters",
    "init_variables",
    "smallest_image",
    "with_explicit_attention",
]


CustomModel = nn.Module | Callable[[ModelConfig], nn.Module]
"""A network from outside the package, or a function (such as its class) that makes it of `config.model`."""


def build_model(config: ModelConfig, custom: CustomModel | None = None) -> nn.Module:
    """Return the network that `config` describes, without parameters, or the `custom` one from outside the package."""
    # A class or a function gets the config, as only the run knows the number of classes; a module is complete.
    if custom is not None:
        model = custom(config) if callable(custom) and not isinstance(custom, nn.Module) else custom
        if not isinstance(model, nn.Module):
            expected = "a Flax module, or a function of config.model that returns one"
            raise UserError(f"model: expected {expected}, found {type(model).__name__}")
        return model
    if config.num_classes < (1 if config.labels == "overlapping" else 2):
        raise UserError(
            f"model.num_classes: expected 2 or more (background counts as a class), found {config.num_classes}; "
            "set it, or leave it 0 and let the data set fill it in"
        )
    match config.name:
        case "unet" | "unet_transformer" if config.encoder != "plain" or config.decoder != "unet":
            return EncoderDecoder(config)
        case "unet":
            return UNet(config)
        case "unet_transformer":
            return UNetTransformer(config)
        case "transunet":
            return TransUNet(config)
        case "resnet_unet":
            return EncoderDecoder(config)
        case "plain_conv_unet":
            return PlainConvUNet(config)
        case "custom":
            raise UserError(
                "model.name: custom: the network comes from outside the package, so it works from Python only; pass "
                "it: seg.load(folder, model=...) or seg.train(config, model=...)"
            )
        case name:
            known = "unet, unet_transformer, transunet, resnet_unet or plain_conv_unet"
            raise UserError(f"model.name: expected {known}, found {name!r}")


def with_explicit_attention(config: ModelConfig) -> ModelConfig:
    """Return the config with attention as products that can be counted and exported, not as a fused kernel."""
    sections = {name: getattr(config, name) for name in ("transformer", "transunet")}
    explicit = {name: dataclasses.replace(section, attention="explicit") for name, section in sections.items()}
    return dataclasses.replace(config, **explicit)


def abstract_variables(
    config: ModelConfig, model: nn.Module | None = None, image_size: tuple[int, int] | None = None, channels: int = 3
) -> Any:
    """Return the variables of a network as shapes and dtypes: `params`, `batch_stats`.

    `model` is the network, where it is not that of the config; it accepts an image of `image_size` and `channels`.
    """
    # Traced, not run: no weight is made, whatever the size of the model.
    init = partial(init_variables, model or build_model(config), image_size or smallest_image(config))
    return jax.eval_shape(partial(init, channels=channels), jax.random.key(0))


def init_variables(model: nn.Module, image_size: tuple[int, int], key: jax.Array, channels: int = 3) -> Any:
    """Return fresh variables of a network for images of `channels`: `params`, `batch_stats`.

    `image_size` is one that the network accepts.
    """
    # The values of the image do not matter: initialisers see shapes alone.
    return model.init({"params": key}, jnp.zeros((1, *image_size, channels)), train=False)


def smallest_image(config: ModelConfig) -> tuple[int, int]:
    """Return rows and columns of the smallest image that every stage of the network can halve."""
    side = config.stem_stride * 2**config.depth  # one pixel at the bottleneck
    return side, side
