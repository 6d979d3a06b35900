"""The train step: what it changes, what it adds up, and that it is a pure function of (state, batch)."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asr.config import Config, LossConfig, ModelConfig, TrainingConfig
from asr.models import Acoustics, Hypotheses, TrainingOutputs
from asr.training import step as step_module
from asr.training.state import init_state
from asr.training.step import make_eval_step, make_train_step, moving_average, num_decoding_rows
from drawn import draw_like

NUM_FRAMES, NUM_TOKENS, VOCABULARY = 6, 4, 7
CONFIG = Config(loss=LossConfig(label_smoothing=0.0), model=ModelConfig(vocab_size=VOCABULARY))


class StandIn(nn.Module):
    """The smallest network with Paraformer's interface: a step is the same whatever it trains; this compiles at once.

    Token u is told from frame u; the token count is a linear map of the sum of the frames.
    """

    dropout: float = 0.0

    def setup(self):
        self.classify, self.weigh = nn.Dense(VOCABULARY), nn.Dense(1)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, features_bti, feature_lengths_b, tokens_bu, token_lengths_b, *, train):
        x_bti = self.drop(features_bti, deterministic=not train)
        logits_buv = self.classify(x_bti)[:, : tokens_bu.shape[1]]
        return TrainingOutputs(
            logits_buv=logits_buv,
            first_logits_buv=logits_buv,
            token_count_b=self._count(x_bti, feature_lengths_b),
            alignment_but=jnp.zeros((*tokens_bu.shape, features_bti.shape[1])),
            frame_lengths_b=feature_lengths_b,
            ctc_logits_btv=None,
        )

    def encode(self, features_bti, feature_lengths_b):
        count_b = jnp.round(self._count(features_bti, feature_lengths_b)).astype(jnp.int32)
        return Acoustics(features_bti, feature_lengths_b, features_bti[..., 0], count_b, None)

    def decode(self, acoustics, num_rows):
        logits_buv = self.classify(acoustics.hidden_btd)
        logits_buv = jnp.pad(logits_buv, ((0, 0), (0, num_rows - logits_buv.shape[1]), (0, 0)))
        alignment_but = jnp.zeros((*logits_buv.shape[:2], NUM_FRAMES + 1))
        return Hypotheses(logits_buv, alignment_but, jnp.minimum(acoustics.token_count_b, num_rows))

    def _count(self, features_bti, feature_lengths_b):
        return nn.relu(self.weigh(features_bti.sum(1))[:, 0]) * (feature_lengths_b > 0)


def cut(wave_bn, wave_lengths_b):
    """Return 'frames' of three samples."""
    return wave_bn.reshape(len(wave_bn), -1, 3), wave_lengths_b // 3


def front_end(_key, wave_bn, wave_lengths_b):
    return cut(wave_bn, wave_lengths_b)


def noisy_front_end(key, wave_bn, wave_lengths_b):
    return cut(wave_bn + 0.1 * jax.random.normal(key, wave_bn.shape), wave_lengths_b)


@pytest.fixture
def batch():
    """Return four utterances of 4, 1, 3 and no tokens: parts of a batch differ in their number of tokens."""
    rng = np.random.default_rng(0)
    token_lengths_b = np.array([4, 1, 3, 0], np.int32)
    tokens_bu = rng.integers(1, VOCABULARY, (4, NUM_TOKENS)) * (np.arange(NUM_TOKENS) < token_lengths_b[:, None])
    batch = {
        "wave": rng.normal(size=(4, 3 * NUM_FRAMES)).astype(np.float32),
        "wave_lengths": np.where(token_lengths_b > 0, 3 * NUM_FRAMES, 0).astype(np.int32),
        "tokens": tokens_bu.astype(np.int32),
        "token_lengths": token_lengths_b,
    }
    batch["wave"][3] = 0
    return batch


ADAM, SGD = optax.adam(5e-2), optax.sgd(0.1)


def start(dropout=0.0, ema=False, optimizer=ADAM):
    model = StandIn(dropout)
    shapes = jax.eval_shape(lambda: init_state(model, 3, optimizer, jax.random.key(0), with_ema=ema))
    params = draw_like(shapes.params)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes).replace(params=params)
    return model, optimizer, state.replace(ema_params=params) if ema else state


@functools.cache
def train_step(dropout=0.0, optimizer=ADAM, front_end=front_end, seed=0, **training):
    """Return the compiled step."""
    config = dataclasses.replace(CONFIG, seed=seed, training=TrainingConfig(**training))
    return jax.jit(make_train_step(StandIn(dropout), optimizer, front_end, config))


def test_one_batch_can_be_learned_by_heart(batch):
    batch["tokens"] = np.minimum(batch["tokens"], 1) * 2  # one and the same token
    _, _, state = start()
    found = []
    for _ in range(60):
        state, metrics, _ = train_step()(state, batch)
        found.append({name: float(value) for name, value in metrics.items()})
    assert found[0]["cross_entropy"] > 1.5 and found[-1]["cross_entropy"] < 0.3
    assert found[-1]["loss"] < 0.5 * found[0]["loss"]
    assert found[-1]["token_accuracy"] == 1.0 > found[0]["token_accuracy"]
    assert set(found[0]) == {"loss", "cross_entropy", "quantity", "token_accuracy", "grad_norm", "finite", "stop"}
    assert int(state.step) == 60


def test_the_same_state_and_batch_give_the_same_bits(batch):
    _, _, state = start(dropout=0.5)
    step = train_step(0.5, front_end=noisy_front_end)
    one, other = step(state, batch)[0], step(state, batch)[0]
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("what", ["dropout", "augmentation"])
@pytest.mark.parametrize("change", ["seed", "step"])
def test_randomness_follows_the_seed_and_the_step(batch, change, what):
    dropout, frames = (0.5, front_end) if what == "dropout" else (0.0, noisy_front_end)
    _, _, state = start(dropout)
    loss = {}
    for value in (0, 1):
        step = train_step(dropout, front_end=frames, seed=value if change == "seed" else 0)
        at = state.replace(step=np.int32(value if change == "step" else 0))
        loss[value] = float(step(at, batch)[1]["loss"])
    assert loss[0] != loss[1]


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_give_the_gradient_of_the_whole_batch(batch, parts):
    """The parts hold 7 and 1 tokens: with a divisor of its own each, they would weigh alike."""
    _, _, state = start(optimizer=SGD)
    whole, in_parts = train_step(optimizer=SGD), train_step(optimizer=SGD, accumulate=parts)
    (state_whole, metrics_whole, _), (state_parts, metrics_parts, _) = whole(state, batch), in_parts(state, batch)
    for name, value in metrics_whole.items():
        assert float(metrics_parts[name]) == pytest.approx(float(value), rel=1e-5), name
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state_whole.params, state_parts.params)


def test_accumulated_parts_have_keys_of_their_own(batch):
    """Two equal rows in two parts: with one key for both parts, they would lose the same inputs."""
    twice = jax.tree.map(lambda x: np.stack([x[0], x[0]]), batch)
    model, _, state = start(dropout=0.5)
    step = train_step(0.5, accumulate=2)

    @jax.jit
    def losses(params):
        part = jax.tree.map(lambda x: x[:1], batch)
        step_key = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 2)
        return [optimizer_loss(model, params, part, part_key, num_tokens=8.0) for part_key in step_key]

    loss = jax.device_get(losses(state.params))
    assert loss[0] != loss[1]
    assert float(step(state, twice)[1]["loss"]) == pytest.approx(sum(loss), rel=1e-5)


def optimizer_loss(model, params, part, key, num_tokens):
    """Return the loss of one part, as the step describes it."""
    _, dropout_key, sampler_key, _ = jax.random.split(key, 4)
    features_bti, lengths_b = cut(part["wave"], part["wave_lengths"])
    rngs = {"dropout": dropout_key, "sampler": sampler_key}
    outputs = model.apply(
        {"params": params}, features_bti, lengths_b, part["tokens"], part["token_lengths"], train=True, rngs=rngs
    )
    log_buv = jax.nn.log_softmax(outputs.logits_buv)
    total = sum(-log_buv[0, u, part["tokens"][0, u]] for u in range(int(part["token_lengths"][0])))
    return (total + abs(outputs.token_count_b[0] - part["token_lengths"][0])) / num_tokens


def test_no_two_random_parts_of_a_step_share_a_key(batch, monkeypatch):
    model, optimizer, state = start()
    used = {}

    def listening_front_end(key, wave_bn, wave_lengths_b):
        used["augmentation"] = key
        return cut(wave_bn, wave_lengths_b)

    def apply(_self, *arguments, rngs, **settings):
        used.update(rngs)
        return real_apply(model, *arguments, rngs=rngs, **settings)

    def loss(*arguments, key, **settings):
        used["mwer"] = key
        return real_loss(*arguments, key=key, **settings)

    real_apply, real_loss = StandIn.apply, step_module.paraformer_loss
    monkeypatch.setattr(StandIn, "apply", apply)
    monkeypatch.setattr(step_module, "paraformer_loss", loss)

    @jax.jit
    def keys_of_a_step(state):
        make_train_step(model, optimizer, listening_front_end, CONFIG)(state, batch)
        return {name: jax.random.key_data(k) for name, k in used.items()}

    keys = {name: tuple(data.tolist()) for name, data in jax.device_get(keys_of_a_step(state)).items()}
    assert set(keys) == {"augmentation", "dropout", "sampler", "mwer"}
    assert len(set(keys.values())) == 4


def test_rows_that_fill_up_a_batch_change_nothing(batch):
    _, _, state = start(optimizer=SGD)
    step = train_step(optimizer=SGD)
    filled, bare = step(state, batch)[0], step(state, jax.tree.map(lambda x: x[:3], batch))[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), filled.params, bare.params)


def test_a_batch_without_any_token_is_finite_and_moves_nothing(batch):
    empty = jax.tree.map(lambda x: x[3:], batch)
    _, _, state = start(optimizer=SGD)
    new, metrics, _ = train_step(optimizer=SGD)(state, empty)
    assert metrics.pop("finite") and all(float(value) == 0 for value in metrics.values())
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)


def test_the_average_of_the_weights_lags_behind_them(batch):
    _, _, state = start(ema=True)
    new, _, _ = train_step(ema_decay=0.9)(state, batch)
    # At step 0 the decay is 1/10.
    expected = jax.tree.map(lambda old, now: old + (1 - 0.1) * (now - old), state.params, new.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), new.ema_params, expected)
    assert new.variables["params"] is new.ema_params
    assert start()[2].variables["params"] is not None


def test_the_average_of_a_constant_is_the_constant_and_late_steps_use_the_full_decay():
    average, numbers = jax.jit(moving_average), np.array([[0.0], [1.0], [3.0]], np.float32)
    zero, one, three = ({"w": number} for number in numbers)
    assert average(three, three, 0.99, np.int32(7))["w"][0] == 3.0
    np.testing.assert_allclose(average(zero, one, 0.99, np.int32(10**6))["w"], 0.01, rtol=1e-4)
    assert moving_average(None, three, 0.99, np.int32(7)) is None


def test_evaluation_returns_sums_and_the_transcripts_of_the_decoding_path(batch):
    model, _, state = start()
    kernel = np.zeros((3, VOCABULARY), np.float32)
    params = {
        "classify": {"kernel": kernel, "bias": 2 * np.eye(VOCABULARY, dtype=np.float32)[5]},  # always token 5
        "weigh": {"kernel": np.zeros((3, 1), np.float32), "bias": np.array([2.6], np.float32)},  # always 2.6 of them
    }
    assert jax.tree.structure(params) == jax.tree.structure(state.params)
    results = jax.jit(make_eval_step(model, cut, cut, CONFIG))({"params": params}, batch, np.array([1, 0]))
    assert int(results["stop"]) == 1
    right = (np.asarray(batch["tokens"]) == 5).sum()
    log_other, log_five = -np.log(np.exp(2) + VOCABULARY - 1), 2 - np.log(np.exp(2) + VOCABULARY - 1)
    assert {name: int(number) for name, number in results["counts"].items()} == {"tokens": 8, "utterances": 3}
    assert float(results["sums"]["token_accuracy"]) == right
    cross_entropy = -(right * log_five + (8 - right) * log_other)
    assert float(results["sums"]["cross_entropy"]) == pytest.approx(cross_entropy, rel=1e-5)
    np.testing.assert_allclose(results["quantity_error_b"], [1.4, 1.6, 0.4, 0.0], rtol=1e-5)
    np.testing.assert_array_equal(results["token_lengths_b"], [3, 3, 3, 0])
    assert results["tokens_bu"].shape == (4, num_decoding_rows(NUM_TOKENS)) == (4, 10)
    np.testing.assert_array_equal(results["tokens_bu"][:3, :3], 5)


def test_a_step_on_sound_that_is_no_number_leaves_the_state_and_counts_those_who_want_to_stop(batch):
    _, _, state = start()
    new, metrics, healthy = train_step()(state, batch, np.bool_(True), np.array([0, 1, 1], np.int32))
    assert int(metrics["stop"]) == 2 and bool(healthy) and int(new.step) == 1
    bad = batch | {"wave": np.full_like(batch["wave"], np.nan)}
    kept, metrics, healthy = train_step()(new, bad, healthy, np.zeros(3, np.int32))
    assert not metrics["finite"] and not healthy and int(metrics["stop"]) == 0
    jax.tree.map(np.testing.assert_array_equal, kept, new)
