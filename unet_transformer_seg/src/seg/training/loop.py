"""The training loop: step, note, evaluate, save, stop. Everything else listens as a `seg.watch.hook.Hook`."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from seg.checkpoints import CheckpointStore
from seg.compiler import CompiledStep
from seg.record.evaluation import Evaluation
from seg.record.run_dir import RunDir
from seg.training.setup import Setup
from seg.training.state import Progress, TrainState
from seg.watch.hook import EvaluationInfo, Hook, StepInfo
from seg.watch.interruption import StopRequestedError
from seg.watch.supervisor import Supervisor

log = logging.getLogger("seg")

Pending = tuple[int, dict[str, np.ndarray], dict[str, jax.Array]]
"""A step whose numbers have not been read: its number, its batch on the host, its metrics on the devices."""


class Training:
    """One run, from its first or its restored state to its end.

    Attributes:
        setup: its pieces.
        run: its directory.
        store: its checkpoints.
        supervisor: waits for slow work, and decides when to stop.
        hooks: what listens, in the order in which they are called.
        progress: what a checkpoint holds besides the state.
        train_step: that of the setup, compiled when it is first called.
    """

    def __init__(
        self,
        setup: Setup,
        run: RunDir,
        supervisor: Supervisor,
        hooks: Sequence[Hook],
        evaluate: Callable[[TrainState], Evaluation],
    ):
        self.setup, self.run, self.supervisor = setup, run, supervisor
        self.hooks, self._evaluate = [supervisor, *hooks], evaluate
        self.store = CheckpointStore(run.checkpoints, setup.config.training.keep_checkpoints)
        self.train_step = CompiledStep(setup.train_step, self._compile)
        self.progress, self._start = Progress(), time.monotonic()

    def train(self, state: TrainState) -> int:
        """Train from `state` to the last step, or a reason to stop; return the step of the last state, saved."""
        first = step = int(state.step)
        healthy, last = jax.device_put(np.bool_(True), self.setup.placement.replicated), None
        batches = self.setup.loader.iterate(step)  # a function of (seed, step): a resumed run gets the same
        self._start = time.monotonic() - self.progress.seconds
        # A stop interrupted the evaluation of this state: it comes first, so that the record is that of one long run.
        if self.progress.evaluation_due:
            self.save(step, state, self.evaluate(step, state))
        try:
            while not (self.finished(step) or self.progress.evaluation_due):
                batch = self.next_batch(batches, step)
                # The request to stop travels with the step: all processes learn of it with the same step's numbers.
                stop_d = self.setup.flags[self.supervisor.requested()]
                # Dispatched, not waited for. The old state's memory is donated to the new one.
                state, metrics, healthy = self.train_step(state, self.setup.put_batch(batch), healthy, stop_d)
                step += 1
                # The numbers are read one step late, so that the device never waits for the host.
                self.note(last, state)
                last = step, batch, metrics
                evaluating = self.setup.evaluates_after(step)
                if evaluating or self.supervisor.stopping():
                    self.note(last, state)
                    last = None
                    self.save(step, state, evaluating and self.evaluate(step, state))
                    if self.supervisor.stopping():
                        break
        # Raised while a batch or a compilation was waited for: the state is that of the last step.
        except StopRequestedError:
            self.note(last, state)
            if step > first:
                self.save(step, state)
        return step

    def finished(self, step: int) -> bool:
        """Return whether nothing is left to train after `step`."""
        return step >= self.setup.num_steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether the score has not improved in the last `training.early_stop` evaluations."""
        patience = self.setup.config.training.early_stop
        return bool(patience) and self.progress.evaluations_since_best >= patience

    @property
    def last_checkpoint(self) -> str:
        """The newest checkpoint, in words."""
        step = max(self.store.steps(), default=None)
        return f"Last checkpoint: {'none' if step is None else f'step {step}'} in {self.run.path}"

    def next_batch(self, batches: Iterator[dict[str, np.ndarray]], step: int) -> dict[str, np.ndarray]:
        """Return the batch of the step after `step`."""
        batch = self.supervisor.result_of(next, batches)
        for hook in self.hooks:
            hook.on_batch(step + 1, batch)
        return batch

    def note(self, last: Pending | None, state: TrainState) -> None:
        """Read the numbers of a step, which waits for it, and hand them to the hooks."""
        if last is None:
            return
        step, batch, metrics = last
        # The only place where the host waits for a step.
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        finite, stop = values.pop("finite") > 0, values.pop("stop") > 0
        if finite:
            self.progress.add_loss(values["loss"])
        for hook in self.hooks:
            hook.on_step(StepInfo(step, batch, values, finite, stop, state))

    def evaluate(self, step: int, state: TrainState) -> bool:
        """Score the state on the validation split; return whether it is the best so far."""
        with self._paused():
            seconds = time.monotonic() - self._start
            try:
                evaluation = self._evaluate(state)
            except StopRequestedError:
                log.info("evaluation interrupted; it will run first on resume")
                self.progress.evaluation_due = True
                return False
            self.progress.evaluation_due = False
            # Tables, pictures and TensorBoard are hooks: the loop itself writes checkpoints alone.
            info = EvaluationInfo(
                step=step,
                epoch=self.setup.epochs_after(step),
                train_loss=self.progress.take_train_loss(),
                learning_rate=float(self.setup.schedule(step - 1)),
                seconds=seconds,
                evaluation=evaluation,
            )
            for hook in self.hooks:
                hook.on_evaluation(info)
        self.progress.thresholds = evaluation.thresholds
        # The mean IoU decides, not the loss: it is what users get, and losses of two settings do not compare.
        return self.progress.add_score(evaluation.metrics.mean_iou)

    def save(self, step: int, state: TrainState, best: bool = False) -> None:
        """Write a checkpoint."""
        with self._paused():
            self.progress.seconds = time.monotonic() - self._start
            self.store.save(step, state, dataclasses.asdict(self.progress), best=best)
            self.supervisor.beat()

    def _compile(self, function: Callable, *arguments) -> Any:
        with self._paused():
            return self.supervisor.result_of(function, *arguments)

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """Tell the hooks that the time in this context is no training."""
        with contextlib.ExitStack() as stack:
            for hook in self.hooks:
                stack.enter_context(hook.paused())
            yield
