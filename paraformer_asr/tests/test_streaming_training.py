"""Training in chunks: every size is drawn, each is what a model of that size computes, and a step stays pure."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asr.config import Config, StreamingConfig, TrainingConfig
from asr.models import StreamingParaformer, init_variables
from asr.training.state import TrainState
from asr.training.step import make_objective, make_train_step, split_into_parts, step_key
from drawn import draw
from tiny_model import INPUT_DIM, random_variables, tiny_model

SIZES, SHARE = ((0, 4, 2), (1, 3, 0)), 0.4
LENGTHS, TOKEN_LENGTHS = np.array([13, 9, 0, 6], np.int32), np.array([4, 3, 0, 2], np.int32)
TOKENS = np.random.default_rng(0).integers(4, 10, (4, 5)).astype(np.int32)
NUM_DRAWS = 48


def build(dropout=0.0, sampling_ratio=0.0, remat=False, **streaming):
    config = tiny_model(
        name="streaming", streaming=StreamingConfig(**streaming), input_dim=INPUT_DIM, sampling_ratio=sampling_ratio
    )
    encoder, decoder = (dataclasses.replace(part, dropout=dropout) for part in (config.encoder, config.decoder))
    return StreamingParaformer(dataclasses.replace(config, encoder=encoder, decoder=decoder, remat=remat))


DRAWN = {"training_chunks": SIZES, "offline_share": SHARE}


@functools.cache
def params():
    return random_variables(build().config, scale=0.3)["params"]


@functools.cache
def inputs():
    return draw(len(LENGTHS), LENGTHS.max(), INPUT_DIM), LENGTHS, TOKENS, TOKEN_LENGTHS


def loss_of(model, params, key):
    """Return a number that every output has a part in."""
    rngs = dict(zip(("sampler", "dropout"), jax.random.split(key), strict=True))
    outputs = model.apply({"params": params}, *inputs(), train=True, rngs=rngs)
    valid_bu = np.arange(TOKENS.shape[1]) < TOKEN_LENGTHS[:, None]
    return jnp.sum(jnp.where(valid_bu[..., None], outputs.logits_buv, 0) ** 2) + jnp.sum(outputs.token_count_b**2)


@functools.cache
def gradient(model):
    return jax.jit(jax.value_and_grad(functools.partial(loss_of, model)))


@functools.cache
def of_each_layout():
    """Return value and gradient of models that know one way to hear: each size, and the whole utterance."""
    models = [build(chunk_size=size) for size in SIZES] + [build(offline_share=1.0)]
    return [gradient(model)(params(), jax.random.key(0)) for model in models]


def test_every_size_is_drawn_as_often_as_its_share_and_gives_what_it_gives_alone():
    expected = of_each_layout()
    values = np.array([value for value, _ in expected])
    assert np.abs(np.diff(np.sort(values))).min() > 1e-3 * values.max()
    counts = np.zeros(len(values))
    for number in range(NUM_DRAWS):
        value, gradients = gradient(build(**DRAWN))(params(), jax.random.key(number))
        choice = np.abs(values - value).argmin()
        np.testing.assert_allclose(value, values[choice], rtol=1e-5)
        if not counts[choice]:
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), gradients, expected[choice][1])
        counts[choice] += 1
    shares = np.array([(1 - SHARE) / 2, (1 - SHARE) / 2, SHARE])
    deviation = np.sqrt(NUM_DRAWS * shares * (1 - shares))
    assert (np.abs(counts - NUM_DRAWS * shares) < 2.5 * deviation).all()
