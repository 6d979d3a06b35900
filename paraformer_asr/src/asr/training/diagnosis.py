"""Finds where a step stops being finite: the first module of the forward pass, the loss, or the gradients."""

import collections
import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from asr.checkpoints.arrays import named_arrays
from asr.data.frontend import make_train_frontend
from asr.models import build_model
from asr.training.parameter_groups import FrozenParts
from asr.training.setup import ON_DEVICE, Setup
from asr.training.state import TrainState
from asr.training.step import make_objective, split_into_parts, step_key

MAX_SHOWN = 5


def diagnose(setup: Setup, state: TrainState, batch: dict[str, np.ndarray]) -> list[str]:
    """Return lines that describe what is not finite in the step that `batch` makes of `state`.

    The step is repeated with the same randomness, operation by operation: slow, but every value can be inspected.
    `batch` is that of the step, with "index".
    """
    names = name_items(setup, batch)
    lines = [f"its items: {', '.join(names)}"]
    if bad := find_bad_arrays({"params": state.params, "opt_state": state.opt_state}):
        return [*lines, f"not finite before the step: {_first(bad)}"]
    config, rows = setup.config, {name: jnp.asarray(batch[name]) for name in ON_DEVICE}
    # Without recomputation: every module has a value that can be inspected.
    model = build_model(dataclasses.replace(config.model, remat=False), setup.custom.model)
    model = FrozenParts(model, config.optimizer.freeze) if config.optimizer.freeze else model
    frontend = make_train_frontend(config.features, config.data, setup.cmvn)
    objective = make_objective(model, frontend, config, setup.custom.loss)
    key = step_key(config, state.step)
    counts, parts, keys = split_into_parts(config.training.accumulate, rows, key)
    for number, part_key in enumerate(keys):
        part = jax.tree.map(lambda x, number=number: x[number], parts)
        if cause := _look_at_part(objective, state, (part, counts, part_key), names[number :: len(keys)]):
            return [*lines, cause]
    return [*lines, "repeated on its own, the step is finite: the fault is in its compiled execution, or in the update"]


def name_items(setup: Setup, batch: dict[str, np.ndarray]) -> list[str]:
    """Return the names of the utterances of a batch, as the data set calls them."""
    names = setup.train_set.names()
    return [names[index] for index in batch["index"] if index >= 0]


def _look_at_part(objective: Any, state: TrainState, part: tuple, names: list[str]) -> str:
    """Return what is not finite in the forward and backward pass of a part of the batch; an empty text if all is."""
    faults: list[Fault] = []
    with jax.disable_jit(), nn.intercept_methods(make_observer(faults)):
        value, _ = objective(state.params, *part)
    if faults:
        first = faults[0]
        rows = [names[row] for row in first.rows if row < len(names)]
        samples = f", for {', '.join(rows)}" if 0 < len(rows) < len(names) else ""
        return f"the first module whose output is not finite: {first.module}{samples}"
    if not np.isfinite(value):
        return f"all modules are finite, the loss is not: {float(value)}"
    grads, _ = jax.jit(jax.grad(objective, has_aux=True))(state.params, *part)
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
        arrays = (leaf for leaf in jax.tree.leaves(output) if isinstance(leaf, jax.Array))
        leaves = [leaf for leaf in arrays if jnp.issubdtype(leaf.dtype, jnp.inexact)]
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
