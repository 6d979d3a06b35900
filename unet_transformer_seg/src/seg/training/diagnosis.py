"""Finds where a step stops being finite: the first module of the forward pass, the loss, or the gradients."""

import collections
import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from seg.checkpoints.arrays import named_arrays
from seg.data.transforms import make_augment
from seg.models import build_model
from seg.training.parameter_groups import FrozenParts
from seg.training.setup import Setup
from seg.training.state import TrainState
from seg.training.step import make_objective, prepare, split_into_parts

MAX_SHOWN = 5


def diagnose(setup: Setup, state: TrainState, batch: dict[str, np.ndarray]) -> list[str]:
    """Return lines that describe what is not finite in the step that `batch`, with its "index", makes of `state`.

    The step is repeated with the same randomness, operation by operation: slow, but every value can be inspected.
    """
    lines = [f"its items: {', '.join(setup.train_set.name(i) for i in batch['index'])}"]
    if bad := find_bad_arrays({"params": state.params, "batch_stats": state.batch_stats, "opt_state": state.opt_state}):
        return [*lines, f"not finite before the step: {_first(bad)}"]
    config = setup.config
    arrays = {name: jnp.asarray(batch[name]) for name in ("image", "label")}
    inputs = prepare(make_augment(config.data), config.seed, state.step, arrays)
    if not np.isfinite(inputs[0]).all():
        return [*lines, "the images themselves are not finite after augmentation"]
    # Without recomputation and loops: every module has a value that can be inspected.
    model = build_model(dataclasses.replace(config.model, remat=False), setup.custom.model)
    model = FrozenParts(model, config.optimizer.freeze) if config.optimizer.freeze else model
    objective = make_objective(model, setup.loss)
    for number, part in enumerate(zip(*split_into_parts(config.training.accumulate, *inputs), strict=True)):
        items = batch["index"].reshape(-1, config.training.accumulate)[:, number]
        names = [setup.train_set.name(i) for i in items]
        if cause := _look_at_part(objective, state, part, names):
            return [*lines, cause]
    return [*lines, "repeated on its own, the step is finite: the fault is in its compiled execution, or in the update"]


def _look_at_part(objective: Any, state: TrainState, part: tuple, names: list[str]) -> str:
    """Return what is not finite in the forward and backward pass of a part of the batch; an empty text if all is."""
    faults: list[Fault] = []
    with jax.disable_jit(), nn.intercept_methods(make_observer(faults)):
        value, batch_stats = objective(state.params, state.batch_stats, *part)
    if faults:
        first = faults[0]
        rows = [names[row] for row in first.rows if row < len(names)]
        samples = f", for {', '.join(rows)}" if 0 < len(rows) < len(names) else ""
        return f"the first module whose output is not finite: {first.module}{samples}"
    if not np.isfinite(value):
        return f"all modules are finite, the loss is not: {float(value)}"
    if bad := find_bad_arrays(batch_stats):
        return f"all outputs are finite, running statistics are not: {_first(bad)}"
    grads, _ = jax.jit(jax.grad(objective, has_aux=True))(state.params, state.batch_stats, *part)
    if bad := find_bad_arrays(grads):
        return f"the forward pass is finite, the gradient is not: of {_first(bad)}"
    return "" if np.isfinite(optax.tree.norm(grads)) else "every gradient is finite, but their norm overflows float32"


@dataclasses.dataclass(frozen=True)
class Fault:
    """A module whose output is not finite."""

    module: str  # its path and class, and which call of it, where there are several
    rows: list[int]  # those of the batch that are not finite; empty where the output has no batch axis


def make_observer(faults: list[Fault]) -> Any:
    """Return an interceptor for `nn.intercept_methods` that adds each call with a non-finite output to `faults`.

    In the order in which the calls end: the inner modules before the outer ones.
    """
    calls: collections.Counter = collections.Counter()

    def observe(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        output = call(*args, **kwargs)
        leaves = [leaf for leaf in jax.tree.leaves(output) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return output  # a loop traces the shapes of its body before it runs
        path = "/".join(context.module.path) or "the model"
        calls[path] += 1
        for leaf in leaves:
            finite = np.isfinite(np.asarray(leaf, np.float32))
            if not finite.all():
                rows = np.flatnonzero(~finite.reshape(len(finite), -1).all(1)).tolist() if finite.ndim > 1 else []
                number = f", call {calls[path]}" if calls[path] > 1 else ""
                faults.append(Fault(f"{path} ({type(context.module).__name__}{number})", rows))
                break
        return output

    return observe


def find_bad_arrays(tree: Any) -> list[str]:
    """Return the names of the floating-point arrays of a tree that are not finite."""
    bad = jax.tree.map(lambda leaf: bool(np.isfinite(leaf).all()), tree)
    return [name for name, finite in named_arrays(bad).items() if not finite]


def _first(names: list[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more
