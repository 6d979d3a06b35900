"""A step that is not finite leaves the state as it was, and a request to stop travels with the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asr.training.state import TrainState
from asr.training.step import keep_if_finite


def step(state, batch, healthy, on_non_finite):
    """Add the batch to the parameters; its "loss" is chosen by the test."""
    new_state = state.replace(
        step=state.step + 1,
        params=state.params + batch["add"],
        opt_state=state.opt_state - 1,
    )
    metrics = {"loss": batch["loss"], "grad_norm": batch["grad_norm"]}
    return keep_if_finite(state, new_state, metrics, healthy, on_non_finite)


def batch(add=1.0, loss=1.0, grad_norm=1.0):
    return {name: jnp.float32(x) for name, x in {"add": add, "loss": loss, "grad_norm": grad_norm}.items()}


def follow(on_non_finite, *batches):
    """Return (step, params, finite) after each batch, and the last state."""
    jitted = jax.jit(step, static_argnums=3)
    state = TrainState(jnp.int32(0), jnp.float32(10), jnp.float32(5))
    healthy, history = jnp.bool_(True), []
    for made_with in batches:
        state, metrics, healthy = jitted(state, made_with, healthy, on_non_finite)
        history.append((int(state.step), float(state.params), bool(metrics["finite"])))
    return history, state


def test_finite_steps_go_through_untouched():
    history, state = follow("stop", batch(), batch(2.0))
    assert history == [(1, 11.0, True), (2, 13.0, True)]
    assert float(state.opt_state) == 3


BAD = [{"loss": np.nan}, {"loss": np.inf}, {"grad_norm": np.nan}, {"grad_norm": np.inf}]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_after_a_bad_step_nothing_changes_any_more_when_the_run_is_to_stop(bad):
    history, state = follow("stop", batch(), batch(**bad), batch(5.0))
    assert history == [(1, 11.0, True), (1, 11.0, False), (1, 11.0, True)]
    assert float(state.opt_state) == 4


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_bad_step_is_left_out_and_counted(bad):
    history, state = follow("skip", batch(), batch(np.nan, **bad), batch(5.0))
    assert history == [(1, 11.0, True), (2, 11.0, False), (3, 16.0, True)]
    assert float(state.opt_state) == 3
