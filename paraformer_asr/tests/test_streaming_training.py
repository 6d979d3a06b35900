"""Training in chunks: every size is drawn, each is what a model of that size computes, and a step stays pure."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asr.config import Config, StreamingConfig, TrainingConfig
from asr.config.packaged import find_config
from asr.config.reader import config_text, load_config, read_config_text
from asr.config.rules import check_trainable
from asr.errors import UserError
from asr.models import StreamingParaformer, abstract_variables
from asr.training.state import TrainState
from asr.training.step import make_train_step
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
def values_of_each_layout():
    """Return the values of models that know one way to hear: each size, and the whole utterance."""
    models = [build(chunk_size=size) for size in SIZES] + [build(offline_share=1.0)]
    return np.array([jax.jit(functools.partial(loss_of, model))(params(), jax.random.key(0)) for model in models])


def test_every_size_is_drawn_as_often_as_its_share_and_gives_what_it_gives_alone():
    values, counts = values_of_each_layout(), np.zeros(len(SIZES) + 1)
    assert np.abs(np.diff(np.sort(values))).min() > 1e-3 * values.max()
    drawn = jax.jit(functools.partial(loss_of, build(**DRAWN)))
    for number in range(NUM_DRAWS):
        value = drawn(params(), jax.random.key(number))
        choice = np.abs(values - value).argmin()
        np.testing.assert_allclose(value, values[choice], rtol=1e-5)
        counts[choice] += 1
    shares = np.array([(1 - SHARE) / 2, (1 - SHARE) / 2, SHARE])
    deviation = np.sqrt(NUM_DRAWS * shares * (1 - shares))
    assert (np.abs(counts - NUM_DRAWS * shares) < 2.5 * deviation).all()


def test_dropout_and_sampler_follow_the_key():
    run = jax.jit(functools.partial(loss_of, build(dropout=0.3, sampling_ratio=0.8, **DRAWN), params()))
    values, again = ([float(run(jax.random.key(number))) for number in range(8)] for _ in range(2))
    assert values == again and len(set(values)) == 8


def test_the_parameters_are_those_of_an_offline_model():
    config = build().config
    offline = dataclasses.replace(config, name="paraformer", streaming=StreamingConfig())
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, *map(abstract_variables, (config, offline))))


# --- the train step ---


@functools.cache
def train_step():
    """Return the step that computes a batch in two parts, with activations that are recomputed."""
    config, front_end = Config(training=TrainingConfig(accumulate=2, ema_decay=0.5)), lambda _, *wave: wave
    return jax.jit(make_train_step(build(remat=True, **DRAWN), optax.sgd(1e-2), front_end, config))


def start():
    return TrainState(jnp.int32(0), params(), optax.sgd(1e-2).init(params()), params())


def batch():
    """Return every utterance twice: once for each of the two parts."""
    twice = (np.repeat(array, 2, axis=0) for array in inputs())
    return dict(zip(("wave", "wave_lengths", "tokens", "token_lengths"), twice, strict=True))


def test_each_part_of_an_accumulated_batch_draws_its_own_size():
    states = (start().replace(step=jnp.int32(step)) for step in range(32))
    losses = {round(float(train_step()(state, batch())[1]["loss"]), 4) for state in states}
    # Three ways to hear are six pairs of ways, and three if both parts were heard in the same way.
    assert 3 < len(losses) <= 6


def test_every_parameter_is_trained_whatever_is_drawn():
    for number in range(8):
        trained = train_step()(start().replace(step=jnp.int32(number)), batch())[0].params
        for (path, new), old in zip(jax.tree.leaves_with_path(trained), jax.tree.leaves(params()), strict=True):
            is_shown = "embedding" not in jax.tree_util.keystr(path)  # of true tokens, which are not shown here
            assert np.isfinite(new).all() and np.any(new != old) == is_shown, path


def test_a_resumed_step_draws_what_it_would_have_drawn():
    state, states = start(), []
    for _ in range(6):
        state = train_step()(state, batch())[0]
        states.append(state)
    resumed = jax.tree.map(jnp.array, jax.device_get(states[2]))
    for state in states[3:]:
        resumed = train_step()(resumed, batch())[0]
        jax.tree.map(np.testing.assert_array_equal, resumed, state)


# --- the settings ---


def test_chunk_sizes_are_read_from_files_and_overrides():
    config = load_config(find_config("toy_streaming"), ["model.streaming.training_chunks=[[0,10,5],[0,5,5]]"])
    assert config.model.streaming.training_chunks == ((0, 10, 5), (0, 5, 5))
    assert read_config_text(config_text(config), "text") == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training_chunks=[[0,10,5],[0,5]]"], r"chunk_size: expected \[left, decoded, look-ahead\].*found \[0, 5\]"),
        (["training_chunks=[[5,0,5]]"], r"at least one decoded.*found \[5, 0, 5\]"),
        (["chunk_size=[0,0,0]"], r"at least one decoded.*found \[0, 0, 0\]"),
        (["training_chunks=[[0,10,-1]]"], r"training_chunks\[0\]\[2\]: expected 0 to 1000, found -1"),
        (["training_chunks=[0,10,5]"], r"training_chunks\[0\]: expected a list"),
        (["training_chunks=[[0,10,half]]"], r"training_chunks\[0\]\[2\]: expected a whole number"),
        (["offline_share=1.5"], "offline_share: expected 0 to 1"),
    ],
)
def test_impossible_chunks_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        load_config(find_config("toy_streaming"), [f"model.streaming.{override}" for override in overrides])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.encoder.kind=conv", "streaming needs the encoder's kind sanm"),
        ("features.utterance_mean=true", "a stream has no mean before its end"),
        ("model.encoder.causal=true", "streaming needs .* no causal"),
        ("model.encoder.scan=true", "streaming needs .* no scan"),
        ("model.name=paraformer", "settings of model.name: streaming, but this model is paraformer"),
    ],
)
def test_what_cannot_be_heard_in_chunks_is_refused(override, message):
    with pytest.raises(UserError, match=message):
        load_config(find_config("toy_streaming"), [override])


def test_the_same_network_without_chunks_is_an_ordinary_one():
    config = load_config(find_config("toy_streaming"), ["model.name=paraformer", "model.streaming={}"])
    ours = config.model.vocab_size, config.model.input_dim
    assert ours == (0, 0) and config.model.streaming == StreamingConfig()


def test_training_refuses_the_arithmetic_of_other_programs():
    model = dataclasses.replace(build().config, streaming=StreamingConfig(compat="funasr"))
    with pytest.raises(UserError, match="model.name: training follows the arithmetic of model.streaming.compat=none"):
        check_trainable(model, "model.name")
