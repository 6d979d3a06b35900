"""Keeps a step that is not finite from touching the state, and carries requests to stop, without asking the device.

The host reads the numbers of a step when the next one is under way already. If one of them is NaN or infinite, the
state must still be as it was before that step, so that the fault can be looked at; and all processes of a run must
stop after the same step. Both are decided on the device, by values that never leave it.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from asr.training.state import TrainState


def make_guarded_step(
    step: Callable[[TrainState, Any], tuple[TrainState, dict]], on_non_finite: Literal["stop", "skip"]
) -> Callable[[TrainState, Any, jax.Array, jax.Array], tuple[TrainState, dict, jax.Array]]:
    """Return `train_step(state, batch, healthy, stop_d) → (state, metrics, healthy)`.

    A step whose loss or gradient norm is not finite leaves the state as it was. With "skip" it counts as a step all the
    same, so that the next one has the next batch. With "stop" it does not, and no later step changes the state either:
    `healthy` is False from then on.

    `metrics` gains "finite", bool[], and "stop", int32[], the number of devices whose process wants to stop.

    Args:
        step: `(state, batch) → (state, metrics)`, whose metrics have "loss" and "grad_norm".
        on_non_finite: what happens to a step that is not finite.
    """

    def train_step(state: TrainState, batch: Any, healthy: jax.Array, stop_d: jax.Array):
        new_state, metrics = step(state, batch)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        kept = state.replace(step=state.step + 1) if on_non_finite == "skip" else state
        state = jax.tree.map(lambda new, old: jnp.where(finite & healthy, new, old), new_state, kept)
        metrics = metrics | {"finite": finite, "stop": jnp.sum(stop_d)}
        return state, metrics, healthy & finite if on_non_finite == "stop" else healthy

    return train_step


def make_stoppable_eval(step: Callable[[Any, Any], dict]) -> Callable[[Any, Any, jax.Array], dict]:
    """Return `eval_step(variables, batch, stop_d) → results`, with "stop" as in `make_guarded_step`."""

    def eval_step(variables: Any, batch: Any, stop_d: jax.Array) -> dict:
        return step(variables, batch) | {"stop": jnp.sum(stop_d)}

    return eval_step
