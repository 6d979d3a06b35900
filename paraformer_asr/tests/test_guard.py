"""The guarded step: what a step that is not finite leaves behind, and how a wish to stop travels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.training.guard import make_guarded_step, make_stoppable_eval
from asr.training.state import TrainState


def step(state, batch):
    """Add the batch to the parameters; its "loss" is what the test says."""
    new_state = state.replace(
        step=state.step + 1,
        params=state.params + batch["add"],
        opt_state=state.opt_state - 1,
    )
    return new_state, {"loss": batch["loss"], "grad_norm": batch["grad_norm"]}


def batch(add=1.0, loss=1.0, grad_norm=1.0):
    return {name: jnp.float32(x) for name, x in {"add": add, "loss": loss, "grad_norm": grad_norm}.items()}


def follow(on_non_finite, *batches):
    """Return (step, params) after each batch, and what the metrics say of it."""
    guarded = jax.jit(make_guarded_step(step, on_non_finite))
    state = TrainState(jnp.int32(0), jnp.float32(10), jnp.float32(5))
    healthy, found = jnp.bool_(True), []
    for given in batches:
        state, metrics, healthy = guarded(state, given, healthy, jnp.zeros(3, jnp.int32))
        found.append((int(state.step), float(state.params), bool(metrics["finite"])))
    return found, state


def test_finite_steps_go_through_untouched():
    found, state = follow("stop", batch(), batch(2.0))
    assert found == [(1, 11.0, True), (2, 13.0, True)]
    assert float(state.opt_state) == 3


BAD = [{"loss": np.nan}, {"loss": np.inf}, {"grad_norm": np.nan}, {"grad_norm": np.inf}]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_after_a_bad_step_nothing_changes_any_more_when_the_run_is_to_stop(bad):
    found, state = follow("stop", batch(), batch(**bad), batch(5.0))
    assert found == [(1, 11.0, True), (1, 11.0, False), (1, 11.0, True)]
    assert float(state.opt_state) == 4


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_bad_step_is_left_out_and_counted(bad):
    found, state = follow("skip", batch(), batch(np.nan, **bad), batch(5.0))
    assert found == [(1, 11.0, True), (2, 11.0, False), (3, 16.0, True)]
    assert float(state.opt_state) == 3


def test_the_number_of_devices_that_want_to_stop_is_told():
    guarded = make_guarded_step(step, "stop")
    state = TrainState(jnp.int32(0), jnp.float32(10), jnp.float32(5))
    _, metrics, _ = guarded(state, batch(), jnp.bool_(True), jnp.array([0, 1, 1]))
    assert int(metrics["stop"]) == 2
    results = make_stoppable_eval(lambda variables, given: {"loss": variables + given})(1, 2, jnp.array([1, 0]))
    assert results["loss"] == 3 and int(results["stop"]) == 1
