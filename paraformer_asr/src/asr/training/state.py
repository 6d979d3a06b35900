"""The state of a run: `TrainState` on the devices, arrays only, and `Progress` on the host. A checkpoint holds both."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from asr.errors import UserError
from asr.models import init_variables


@struct.dataclass
class TrainState:
    """Everything that changes during training.

    There is no key in it: the randomness of a step is a function of the seed and `step`.
    """

    step: jax.Array  # int32[], number of updates made
    params: Any  # float32 parameters
    opt_state: Any  # the optimizer's moments
    ema_params: Any = None  # exponential moving average of `params`; None when it is switched off

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that predict: the averaged ones where they exist."""
        return {"params": self.params if self.ema_params is None else self.ema_params}


def init_state(
    model: nn.Module, input_dim: int, optimizer: optax.GradientTransformation, key: jax.Array, with_ema: bool
) -> TrainState:
    """Return the state before the first update; pure in `key`, to be traced by `jax.jit`."""
    params = init_variables(model, input_dim, key)["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if with_ema else None,
    )


@dataclasses.dataclass
class Progress:
    """What the loop remembers besides the arrays; saved with each checkpoint."""

    best_score: list[float] | None = None  # lowest error rate so far, and its validation loss; None before the first
    evaluations_since_best: int = 0  # for early stopping
    loss_sum: float = 0.0  # sum of the training losses since the last evaluation
    loss_count: int = 0  # number of steps in `loss_sum`
    seconds: float = 0.0  # time spent on the run, over all its parts
    evaluation_due: bool = False  # whether the evaluation of this state was interrupted

    def add_loss(self, loss: float) -> None:
        """Add the loss of a step."""
        self.loss_sum, self.loss_count = self.loss_sum + loss, self.loss_count + 1

    def take_train_loss(self) -> float:
        """Return the mean loss since the last call."""
        mean = self.loss_sum / max(self.loss_count, 1)
        self.loss_sum, self.loss_count = 0.0, 0
        return mean

    def add_score(self, score: list[float]) -> list[float]:
        """Add [error rate, loss] of an evaluation; return it with infinity for what is not finite."""
        score = [value if math.isfinite(value) else math.inf for value in score]
        better = self.best_score is None or score < self.best_score
        self.evaluations_since_best = 0 if better else self.evaluations_since_best + 1
        self.best_score = score if better else self.best_score
        return score


def read_progress(stored: dict, run_path: Path) -> Progress:
    """Return the progress in a checkpoint; refuse one that does not have the fields of `Progress`."""
    kinds = {field.name: int | float for field in dataclasses.fields(Progress)} | {"best_score": list | None}
    if not all(name in kinds and isinstance(value, kinds[name]) for name, value in stored.items()):
        raise UserError(f"{run_path}: the checkpoint's progress was not written by this program: {stored!r:.200}")
    return Progress(**stored)
