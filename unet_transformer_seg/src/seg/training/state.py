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

from seg.errors import UserError
from seg.models import init_variables


@struct.dataclass
class TrainState:
    """Everything that changes during training."""

    step: jax.Array  # int32[], number of updates made
    params: Any  # float32 parameters
    batch_stats: Any  # running means and variances of the batch norms; empty for group norm
    opt_state: Any  # the optimizer's moments
    ema_params: Any = None  # exponential moving average of `params`; None when it is switched off
    ema_batch_stats: Any = None  # the same average of `batch_stats`; None when it is switched off

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that predict: the averaged ones where they exist."""
        if self.ema_params is None:
            return {"params": self.params, "batch_stats": self.batch_stats}
        return {"params": self.ema_params, "batch_stats": self.ema_batch_stats}


def init_state(
    model: nn.Module,
    image_size: tuple[int, int],
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    with_ema: bool,
    channels: int = 3,
) -> TrainState:
    """Return the state before the first update; pure in `key`, to be traced by `jax.jit`."""
    variables = init_variables(model, image_size, key, channels)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        # Copies, as a step donates the memory of its state: an array may be there once only.
        ema_params=jax.tree.map(jnp.copy, params) if with_ema else None,
        ema_batch_stats=jax.tree.map(jnp.copy, batch_stats) if with_ema else None,
    )


@dataclasses.dataclass
class Progress:
    """What the loop remembers besides the arrays; saved with each checkpoint."""

    best_iou: float = -1.0  # best mean IoU of an evaluation so far
    evaluations_since_best: int = 0  # for early stopping
    loss_sum: float = 0.0  # sum of the training losses since the last evaluation
    loss_count: int = 0  # number of steps in `loss_sum`
    seconds: float = 0.0  # time spent on the run, over all its parts
    evaluation_due: bool = False  # whether the evaluation of this state was interrupted
    thresholds: tuple[float, ...] = ()  # of the last evaluation, for each class; empty if classes exclude each other

    def add_loss(self, loss: float) -> None:
        """Add the loss of a step."""
        self.loss_sum, self.loss_count = self.loss_sum + loss, self.loss_count + 1

    def take_train_loss(self) -> float:
        """Return the mean loss since the last call."""
        mean = self.loss_sum / max(self.loss_count, 1)
        self.loss_sum, self.loss_count = 0.0, 0
        return mean

    def add_score(self, mean_iou: float) -> bool:
        """Add the score of an evaluation; return whether it is the best so far."""
        score = 0.0 if math.isnan(mean_iou) else float(mean_iou)
        better = score > self.best_iou
        self.evaluations_since_best = 0 if better else self.evaluations_since_best + 1
        self.best_iou = max(score, self.best_iou)
        return better


def read_progress(stored: dict, run_path: Path) -> Progress:
    """Return the progress in a checkpoint."""
    numbers, names = dict(stored), {field.name for field in dataclasses.fields(Progress)}
    thresholds = numbers.pop("thresholds", [])
    are_numbers = isinstance(thresholds, list | tuple) and all(
        isinstance(value, int | float) for value in (*numbers.values(), *thresholds)
    )
    if not (are_numbers and stored.keys() <= names):
        raise UserError(f"{run_path}: the checkpoint's progress was not written by this program: {stored!r:.200}")
    return Progress(**stored | {"thresholds": tuple(thresholds)})
