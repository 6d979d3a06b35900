"""The networks: Flax modules that own the parameters and call `asr.ops`.

Training calls `model.apply(variables, features, lengths, tokens, token_lengths, train=True, rngs=…)`. Transcription
calls it with `method="encode"` and then `method="decode"`.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from asr.config import ModelConfig
from asr.errors import UserError
from asr.models.bicif import BicifParaformer as BicifParaformer
from asr.models.contextual import ContextualParaformer as ContextualParaformer
from asr.models.frame_labeller import FrameLabeller
from asr.models.hotwords import Hotwords as Hotwords
from asr.models.layers import count_parameters as count_parameters
from asr.models.paraformer import Acoustics as Acoustics
from asr.models.paraformer import Hypotheses as Hypotheses
from asr.models.paraformer import Paraformer as Paraformer
from asr.models.paraformer import TrainingOutputs as TrainingOutputs
from asr.models.seaco import SeacoParaformer as SeacoParaformer
from asr.models.sense_voice import LANGUAGES as LANGUAGES
from asr.models.sense_voice import NUM_QUERIES as NUM_QUERIES
from asr.models.sense_voice import SenseVoice as SenseVoice
from asr.models.stacking import stack_blocks as stack_blocks
from asr.models.stacking import unstack_blocks as unstack_blocks
from asr.models.streaming import StreamingParaformer as StreamingParaformer

NETWORKS = {
    "paraformer": Paraformer,
    "seaco": SeacoParaformer,
    "contextual": ContextualParaformer,
    "bicif": BicifParaformer,
    "streaming": StreamingParaformer,
    "vad": FrameLabeller,
}
"""`model.name` → the network."""

SPECIAL_TOKENS = 4

FRAMES_TO_INIT, TOKENS_TO_INIT = 8, 3
"""Lengths of the example to initialise with; no parameter's shape depends on them."""

CustomModel = nn.Module | Callable[[ModelConfig], nn.Module]
"""A network from outside the package, or a function (such as its class) that makes it of `config.model`."""


def build_model(config: ModelConfig, custom: CustomModel | None = None) -> nn.Module:
    """Return the network that `config` describes, without parameters.

    `vocab_size` is set, from the tokenizer if need be. A `custom` network from outside the package is used instead.

    Raises:
        UserError: no vocabulary, or a network that came from outside the package and is missing or no module.
    """
    if custom is not None:
        model = custom(config) if callable(custom) and not isinstance(custom, nn.Module) else custom
        if not isinstance(model, nn.Module):
            expected = "a Flax module, or a function of config.model that returns one"
            raise UserError(f"model: expected {expected}, found {type(model).__name__}")
        return model
    if config.name == "custom":
        raise UserError(
            "model.name: custom: the network comes from outside the package, so it works from Python only; pass it: "
            "asr.load(folder, model=...) or asr.train(config, model=...)"
        )
    if config.vocab_size <= SPECIAL_TOKENS:
        raise UserError(
            f"model.vocab_size: expected more than the {SPECIAL_TOKENS} special tokens, found {config.vocab_size}; "
            "set it, or leave it 0 and let the tokenizer fill it in"
        )
    if config.name == "sense_voice":
        return _build_sense_voice(config)
    return NETWORKS[config.name](config)


def _build_sense_voice(config: ModelConfig) -> SenseVoice:
    options = config.sense_voice
    if options.ban_emo_unk and not 0 < options.emo_unknown_id < config.vocab_size:
        raise UserError("model.sense_voice.ban_emo_unk: the model's vocabulary has no token of an unknown emotion")
    return SenseVoice(config)


def abstract_variables(config: ModelConfig, model: nn.Module | None = None) -> Any:
    """Return the variables {"params": …} of the network that `config` describes, as shapes and dtypes.

    `vocab_size` and `input_dim` are set. `model` is the network where it is not that of the config.
    """
    model = model or build_model(config)
    return jax.eval_shape(functools.partial(init_variables, model, config.input_dim), jax.random.key(0))


def init_variables(model: nn.Module, input_dim: int, key: jax.Array) -> Any:
    """Return fresh variables {"params": …} of a network with input frames of width `input_dim`."""
    features_bti = jnp.zeros((1, FRAMES_TO_INIT, input_dim))
    tokens_bu = jnp.zeros((1, TOKENS_TO_INIT), jnp.int32)
    lengths = jnp.array([FRAMES_TO_INIT]), jnp.array([TOKENS_TO_INIT])
    return model.init({"params": key}, features_bti, lengths[0], tokens_bu, lengths[1], train=False)
