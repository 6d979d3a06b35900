"""A transcriber with random weights: its text is meaningless, its cost is that of a trained one."""

import dataclasses

import jax
import jax.numpy as jnp

from asr.config import Config
from asr.data.text.tokenizer import Tokenizer, with_special_tokens
from asr.inference.transcriber import Transcriber
from asr.models import build_model

FIRST_CHARACTER = 0x4E00  # first Chinese character; consecutive ones serve as tokens
NUM_SPECIAL = 4
FIRING_BIAS = -1.5
"""Initial bias of the predictor: about three tokens per second, as in speech, at 60 ms per frame."""


def build_untrained_transcriber(config: Config) -> Transcriber:
    """Return a transcriber with initial weights and no normalisation, whose predictor fires at the rate of speech."""
    predictor = dataclasses.replace(config.model.predictor, initial_bias=FIRING_BIAS)
    model_config = dataclasses.replace(config.model, predictor=predictor, input_dim=config.features.input_dim)
    features = dataclasses.replace(config.features, cmvn="none")
    config = dataclasses.replace(config, model=model_config, features=features)
    model, length_b = build_model(model_config), jnp.array([2])
    inputs = jnp.zeros((1, 2, model_config.input_dim)), length_b, jnp.zeros((1, 2), jnp.int32), length_b
    params = jax.jit(lambda key: model.init({"params": key}, *inputs, train=False)["params"])(jax.random.key(0))
    characters = (chr(FIRST_CHARACTER + number) for number in range(model_config.vocab_size - NUM_SPECIAL))
    return Transcriber(config, Tokenizer(with_special_tokens(characters), "characters"), None, {"params": params})
