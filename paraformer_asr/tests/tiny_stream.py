"""A streaming recogniser that compiles in seconds, and sound for it."""

import dataclasses

import numpy as np

from asr.config import Config, FeaturesConfig, InferenceConfig, StreamingConfig
from asr.inference.transcriber import Transcriber
from asr.models import abstract_variables
from drawn import draw_like
from tiny_model import CMVN, NUM_MELS, RATE_HZ, TOKENIZER, tiny_model

STREAMING = StreamingConfig(chunk_size=(0, 4, 2), encoder_look_back=2, decoder_look_back=1)


def make_config(streaming=STREAMING, **inference):
    return Config(
        features=FeaturesConfig(num_mels=NUM_MELS, sample_rate_hz=RATE_HZ),
        model=tiny_model(name="streaming", streaming=streaming),
        inference=InferenceConfig(**{"batch_size": 2, "max_segment_s": 10, "whole_up_to_s": 10} | inference),
    )


def make_transcriber(tokenizer=TOKENIZER, streaming=STREAMING, seed=1):
    """Return one that writes about a token in three frames."""
    config = make_config(streaming)
    model = dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size)
    shapes = abstract_variables(dataclasses.replace(model, input_dim=config.features.input_dim))
    variables = draw_like(shapes, seed)
    variables["params"]["predictor"]["bias"] -= 0.7
    bias_v = variables["params"]["decoder"]["output"]["bias"]
    bias_v[[0, 1, 2, -1]] = -9.0  # no special tokens
    return Transcriber(dataclasses.replace(config, model=model), tokenizer, CMVN, variables)


def random_wave(seconds, seed=0):
    """Return noise that swells and fades, so that the frames differ."""
    rng, number = np.random.default_rng(seed), int(seconds * RATE_HZ)
    swell_n = np.sin(np.arange(number) * rng.uniform(0.0003, 0.003)) ** 2
    return (0.3 * swell_n * rng.standard_normal(number)).astype(np.float32)


def stream_all(stream, wave_n, piece=1000):
    """Return the events of a whole sound."""
    events = []
    for start in range(0, len(wave_n), piece):
        events += stream.push(wave_n[start : start + piece])
    return events + stream.finish()
