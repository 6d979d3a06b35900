"""A step that is not finite leaves the state as it was, and a request to stop travels with the step."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seg.labels import Exclusive
from seg.training.state import TrainState, init_state
from seg.training.step import keep_if_finite, make_eval_step, make_train_step


def step(state, batch, healthy, on_non_finite):
    """Add the batch to the parameters; its "loss" and statistics are chosen by the test."""
    new_state = state.replace(
        step=state.step + 1,
        params=state.params + batch["add"],
        batch_stats={"var": batch["var"]},
        opt_state=state.opt_state - 1,
    )
    metrics = {"loss": batch["loss"], "grad_norm": batch["grad_norm"]}
    return keep_if_finite(state, new_state, metrics, healthy, on_non_finite)


def batch(add=1.0, loss=1.0, grad_norm=1.0, var=1.0):
    return {name: jnp.float32(x) for name, x in {"add": add, "loss": loss, "grad_norm": grad_norm, "var": var}.items()}


def follow(on_non_finite, *batches):
    """Return (step, params, finite) after each batch, and the last state."""
    jitted = jax.jit(step, static_argnums=3)
    state = TrainState(jnp.int32(0), jnp.float32(10), {"var": jnp.float32(1)}, jnp.float32(5))
    healthy, history = jnp.bool_(True), []
    for made_with in batches:
        state, metrics, healthy = jitted(state, made_with, healthy, on_non_finite)
        history.append((int(state.step), float(state.params), bool(metrics["finite"])))
    return history, state


def test_finite_steps_go_through_untouched():
    history, state = follow("stop", batch(), batch(2.0))
    assert history == [(1, 11.0, True), (2, 13.0, True)]
    assert float(state.opt_state) == 3


BAD = [{"loss": np.nan}, {"loss": np.inf}, {"grad_norm": np.nan}, {"grad_norm": np.inf}, {"var": np.inf}]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_after_a_bad_step_nothing_changes_any_more_when_the_run_is_to_stop(bad):
    history, state = follow("stop", batch(), batch(**bad), batch(5.0))
    assert history == [(1, 11.0, True), (1, 11.0, False), (1, 11.0, True)]
    assert float(state.opt_state) == 4 and float(state.batch_stats["var"]) == 1


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_bad_step_is_left_out_and_counted(bad):
    history, state = follow("skip", batch(), batch(np.nan, **bad), batch(5.0))
    assert history == [(1, 11.0, True), (2, 11.0, False), (3, 16.0, True)]
    assert float(state.opt_state) == 3


class Mean(nn.Module):
    """Two logits for the mean of each pixel."""

    @nn.compact
    def __call__(self, image_bhwc, train):
        return nn.Dense(2)(image_bhwc.mean(-1, keepdims=True))


def square(logits_bhwk, _labels_bhw):
    return jnp.mean(jnp.square(logits_bhwk))


def keep(*arguments):
    return arguments[-2:]


BATCH = {"image": np.ones((2, 4, 4, 3), np.float32), "label": np.zeros((2, 4, 4), np.uint8)}


def test_a_step_with_a_pixel_that_is_no_number_leaves_the_state_and_counts_those_who_want_to_stop(key):
    model, optimizer = Mean(), optax.sgd(0.1)
    state = init_state(model, (4, 4), optimizer, key, with_ema=True)
    train_step = make_train_step(model, optimizer, square, keep, seed=0)
    new, metrics, healthy = train_step(state, BATCH, jnp.bool_(True), jnp.array([0, 1, 1]))
    assert int(metrics["stop"]) == 2 and bool(healthy) and int(new.step) == 1
    bad = BATCH | {"image": np.full_like(BATCH["image"], np.nan)}
    kept, metrics, healthy = train_step(new, bad, healthy, jnp.zeros(3, jnp.int32))
    assert not metrics["finite"] and not healthy and int(metrics["stop"]) == 0
    jax.tree.map(np.testing.assert_array_equal, kept, new)


def test_an_evaluation_counts_the_devices_that_want_to_stop(key):
    model = Mean()
    variables = model.init(key, BATCH["image"], train=False)
    results = make_eval_step(model, square, keep, Exclusive(2))(variables, BATCH, jnp.array([1, 0]))
    assert int(results["stop"]) == 1
