"""A recogniser that compiles in a second: one layer of width 16 each, 10 mels at 8 kHz, weights drawn with numpy."""

import dataclasses

import jax
import numpy as np

from asr.config import DecoderConfig, EncoderConfig, ModelConfig, TokenizerConfig
from asr.data.cmvn import Cmvn
from asr.data.text.building import build_tokenizer
from asr.models import abstract_variables

RATE_HZ, NUM_MELS, INPUT_DIM = 8000, 10, 70
TOKENIZER = build_tokenizer(TokenizerConfig(), ["abc def ghi jkl"])
CMVN = Cmvn(np.full(INPUT_DIM, 9.0, np.float32), np.full(INPUT_DIM, 0.5, np.float32))


def tiny_model(tokenizer=TOKENIZER, **fields):
    """Return the config of the network; `fields` are further ones of it."""
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        encoder=EncoderConfig(num_layers=1, width=16, num_heads=2, ffn_width=16, kernel_size=3),
        decoder=DecoderConfig(num_layers=1, num_ffn_layers=0, num_heads=2, ffn_width=16, kernel_size=3),
        **fields,
    )


def random_variables(model, seed=1, scale=1.0):
    """Return variables of a network, normally distributed, which spares the compilation of the initialisers."""
    rng, shapes = np.random.default_rng(seed), abstract_variables(dataclasses.replace(model, input_dim=INPUT_DIM))
    return jax.tree.map(lambda leaf: (scale * rng.normal(size=leaf.shape)).astype(np.float32), shapes)
