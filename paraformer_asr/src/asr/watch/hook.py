"""What listens to a training run."""

import contextlib
import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class StepInfo:
    """A step whose numbers have been read."""

    step: int  # its number, from 1
    batch: dict[str, np.ndarray]  # what it was made with, on the host
    values: dict[str, float]  # its metrics, such as "loss" and "grad_norm"
    finite: bool  # whether the step was finite; otherwise it did not change the state
    stop: bool  # whether a process asked to stop when the step was dispatched
    state: Any  # the newest state. It may include the next step, which is dispatched before these numbers are read.


@dataclasses.dataclass(frozen=True)
class EvaluationInfo:
    """An evaluation of the state after `step` steps."""

    step: int  # updates so far
    epoch: float  # passes over the training data so far
    train_loss: float  # mean since the previous evaluation
    learning_rate: float  # of the last step
    seconds: float  # time spent on the run so far
    evaluation: Any  # loss, scores and samples of the validation split


class Hook:
    """Listens to a run. The loop calls its hooks in the order of their list; what is not overridden does nothing."""

    def on_start(self, training: Any, step: int) -> None:
        """The run, a `asr.training.loop.Training`, is about to train; `step` updates are made."""

    def on_batch(self, step: int, batch: dict[str, np.ndarray]) -> None:
        """Step number `step` is about to be made with `batch`."""

    def on_step(self, info: StepInfo) -> None:
        """The numbers of a step have been read."""

    def on_evaluation(self, info: EvaluationInfo) -> None:
        """The validation split has been scored."""

    def paused(self) -> contextlib.AbstractContextManager:
        """Return the context of what is no training: compiling, evaluating, saving."""
        return contextlib.nullcontext()

    def explain(self, error: Exception) -> Exception | None:
        """Return a clearer error to raise instead of one from jax, or None."""

    def on_end(self) -> None:
        """The run has ended, by an error or not."""
