"""The networks: Flax modules that own the parameters and call `asr.ops`.

Training calls `model.apply(variables, features, lengths, tokens, token_lengths, train=True, rngs=…)`. Transcription
calls it with `method="encode"` and then `method="decode"`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from asr.config import ModelConfig
from asr.errors import UserError
from asr.models.layers import count_parameters
from asr.models.paraformer import Acoustics, Hypotheses, Paraformer, TrainingOutputs
from asr.models.stacking import stack_blocks, unstack_blocks

__all__ = [
    "Acoustics",
    "Hypotheses",
    "Paraformer",
    "TrainingOutputs",
    "abstract_variables",
    "build_model",
    "count_parameters",
    "stack_blocks",
    "unstack_blocks",
]

SPECIAL_TOKENS = 4


def build_model(config: ModelConfig) -> Paraformer:
    """Return the network that `config` describes, without parameters.

    Args:
        config: `vocab_size` is set, from the tokenizer if need be.

    Raises:
        UserError: no vocabulary.
    """
    if config.vocab_size <= SPECIAL_TOKENS:
        raise UserError(
            f"model.vocab_size: expected more than the {SPECIAL_TOKENS} special tokens, found {config.vocab_size}; "
            "set it, or leave it 0 and let the tokenizer fill it in"
        )
    return Paraformer(config)


def abstract_variables(config: ModelConfig) -> Any:
    """Return the variables {"params": …} of the network that `config` describes, as shapes and dtypes.

    Args:
        config: `vocab_size` and `input_dim` are set.

    Raises:
        UserError: no vocabulary.
    """
    model = build_model(config)
    features_bti = jax.ShapeDtypeStruct((1, 8, config.input_dim), jnp.float32)
    tokens_bu, length_b = jax.ShapeDtypeStruct((1, 2), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
    given = features_bti, length_b, tokens_bu, length_b
    return jax.eval_shape(lambda *x: model.init(jax.random.key(0), *x, train=False), *given)
