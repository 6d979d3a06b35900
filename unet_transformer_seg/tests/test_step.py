"""The train step: what it changes, what it averages, and that it is a pure function of (state, batch)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seg.config import LossConfig, ModelConfig
from seg.labels import Exclusive
from seg.losses import build_loss
from seg.models import smallest_image
from seg.training.state import init_state
from seg.training.step import make_eval_step, make_train_step, moving_average

MODEL = ModelConfig(name="unet", num_classes=3, base_width=4, depth=1, norm="group", norm_groups=2)


class TwoLayers(nn.Module):
    """The smallest model with dropout: a step is the same whatever it trains, and this one compiles at once."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, image_bhwc, train):
        x_bhwd = nn.relu(nn.Dense(16)(image_bhwc))
        x_bhwd = nn.Dropout(self.dropout, deterministic=not train)(x_bhwd)
        return nn.Dense(3)(x_bhwd)


CROSS_ENTROPY = build_loss(LossConfig(name="cross_entropy"), None)


def to_float(_key, image_bhwc, labels_bhw):
    return image_bhwc / 255.0, labels_bhw.astype(jnp.int32)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (4, 16, 16)).astype(np.uint8)
    image = (label[..., None] * 80 + rng.integers(0, 40, (4, 16, 16, 3))).astype(np.uint8)
    return {"image": image, "label": label}


def start(key, model=None, ema=False, optimizer=None):
    model, optimizer = model or TwoLayers(), optimizer or optax.adam(3e-2)
    state = jax.jit(lambda key: init_state(model, smallest_image(MODEL), optimizer, key, with_ema=ema))(key)
    return model, optimizer, jax.device_get(state)


def make_step(model, optimizer, **settings):
    return jax.jit(make_train_step(model, optimizer, CROSS_ENTROPY, to_float, **{"seed": 0} | settings))


def test_one_batch_can_be_learned_by_heart(key, batch):
    model, optimizer, state = start(key)
    step = make_step(model, optimizer)
    losses = []
    for _ in range(60):
        state, metrics, _ = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[0] > 0.8 and losses[-1] < 0.1
    assert int(state.step) == 60


def test_the_same_state_and_batch_give_the_same_bits(key, batch):
    model, optimizer, state = start(key, TwoLayers(dropout=0.5))
    step = make_step(model, optimizer)
    one, other = step(state, batch)[0], step(state, batch)[0]
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("change", ["seed", "step"])
def test_randomness_follows_the_seed_and_the_step(key, batch, change):
    model, optimizer, state = start(key, TwoLayers(dropout=0.5))
    loss = {}
    for value in (0, 1):
        seed = value if change == "seed" else 0
        step = make_step(model, optimizer, seed=seed)
        at = state.replace(step=np.int32(value if change == "step" else 0))
        loss[value] = float(step(at, batch)[1]["loss"])
    assert loss[0] != loss[1]


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(key, batch):
    model, optimizer, state = start(key, optimizer=optax.sgd(0.1))
    whole, parts = make_step(model, optimizer), make_step(model, optimizer, accumulate=2)
    (state_whole, metrics_whole, _), (state_parts, metrics_parts, _) = whole(state, batch), parts(state, batch)
    assert float(metrics_whole["loss"]) == pytest.approx(float(metrics_parts["loss"]), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state_whole.params, state_parts.params)


def test_the_average_of_the_weights_lags_behind_them(key, batch):
    model, optimizer, state = start(key, ema=True)
    new = jax.device_get(make_step(model, optimizer, ema_decay=0.9)(state, batch)[0])
    # At step 0 the decay is 1/10.
    expected = jax.tree.map(lambda old, now: old + (1 - 0.1) * (now - old), state.params, new.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), new.ema_params, expected)
    assert new.variables["params"] is new.ema_params


def test_the_average_of_a_constant_is_the_constant_and_late_steps_use_the_full_decay():
    average = jax.jit(moving_average)
    value, zero, one = ({"w": np.array([number], np.float32)} for number in (3, 0, 1))
    np.testing.assert_array_equal(average(value, value, 0.99, np.int32(7))["w"], 3.0)
    np.testing.assert_allclose(average(zero, one, 0.99, np.int32(10**6))["w"], 0.01, rtol=1e-4)
    assert moving_average(None, value, 0.99, np.int32(7)) is None


class TwoHeads(nn.Module):
    """Gives coarser logits too in training, as the networks do with deep supervision."""

    @nn.compact
    def __call__(self, image_bhwc, train):
        logits_bhwk = nn.Dense(3, name="pixel")(image_bhwc)
        coarser_bhwk = nn.Dense(3, name="auxiliary1")(image_bhwc[:, ::2, ::2])
        return (logits_bhwk, coarser_bhwk) if train else logits_bhwk


def test_deep_supervision_reaches_every_head(key, batch):
    model, optimizer, state = start(key, TwoHeads(), optimizer=optax.sgd(1.0))
    new = jax.device_get(make_step(model, optimizer)(state, batch)[0])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, new.params)
    assert all(jax.tree.leaves(moved)) and len(moved) == 2


def test_evaluation_counts_every_pixel_that_is_not_ignored(key, batch):
    model, _, state = start(key)
    label = batch["label"].copy()
    label[0] = 255
    step = jax.jit(
        make_eval_step(model, CROSS_ENTROPY, lambda image, labels: to_float(None, image, labels), Exclusive(3))
    )
    results = jax.device_get(step(state.variables, {"image": batch["image"], "label": label}))
    assert results["counts"].sum() == 3 * 16 * 16
    true_k = np.bincount(label[1:].ravel(), minlength=3)
    np.testing.assert_array_equal(results["counts"].sum(1), true_k)
