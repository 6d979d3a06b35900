"""The training loop: steps, evaluations, checkpoints, and the record of the run."""

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from seg.checkpoints import CheckpointStore
from seg.config import Config
from seg.errors import EXIT_OK, NonFiniteError
from seg.models import count_parameters
from seg.run_dir import RunDir, create_run_dir, describe_environment, open_run_dir
from seg.training.evaluate import Evaluation, evaluate
from seg.training.interruption import Interruption
from seg.training.parameter_groups import describe_groups, has_groups
from seg.training.profile import StepTrace
from seg.training.progress import ProgressLine
from seg.training.report import Report, close_logging, setup_logging
from seg.training.setup import Setup, build_setup
from seg.training.state import TrainState
from seg.training.tensorboard import require_tensorboard
from seg.training.warm_start import InitialModel

log = logging.getLogger("seg")


@dataclasses.dataclass
class Progress:
    """What the loop remembers besides the state; saved with each checkpoint.

    Attributes:
        best_iou: best mean IoU of an evaluation so far.
        evaluations_since_best: for early stopping.
        loss_sum: sum of the training losses since the last evaluation.
        loss_count: number of steps in `loss_sum`.
        seconds: time spent on the run, over all its parts.
    """

    best_iou: float = -1.0
    evaluations_since_best: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0


def train(
    config: Config,
    *,
    resume: Path | None = None,
    load_initial: Callable[[str], InitialModel] | None = None,
    max_minutes: float | None = None,
    profile_steps: int = 0,
) -> int:
    """Train until the end of the run or a reason to stop; return the exit code.

    Args:
        config: the settings, or those of the run to be resumed.
        resume: directory of the run to go on with; without it a new one is made.
        load_initial: reads the model that the setting `init` names; not called once the run has a checkpoint.
        max_minutes: save and stop after so many minutes.
        profile_steps: number of steps to trace with the jax profiler.

    Raises:
        UserError: data or run directory not usable.
        NonFiniteError: a loss or gradient is NaN or infinite.
    """
    with Interruption(max_minutes) as interruption:
        run = open_run_dir(resume) if resume else None
        begins = run is None or not has_checkpoint(run)
        setup = build_setup(config, load_initial(config.init) if config.init and begins else None)
        require_tensorboard(config.training.tensorboard)
        run = run or create_run_dir(setup.config, setup.classes)
        setup_logging(run.log_file)
        try:
            training = Training(setup, run, interruption, profile_steps)
            return training.run_to_end(resuming=resume is not None)
        except NonFiniteError as error:
            log.error("stopped: %s", error)
            raise
        finally:
            close_logging()


class Training:
    """One run, from its first or its restored state to its end."""

    def __init__(self, setup: Setup, run: RunDir, interruption: Interruption, profile_steps: int = 0):
        settings = setup.config.training
        self.setup, self.run, self.interruption, self.settings = setup, run, interruption, settings
        self.store = CheckpointStore(run.checkpoints, settings.keep_checkpoints)
        self.report = Report(run, setup.config, setup.classes)
        self.trace = StepTrace(run.path / "profile", profile_steps)
        self.progress = Progress()
        self.evaluation_steps = settings.eval_every_epochs * setup.loader.steps_per_epoch

    def run_to_end(self, resuming: bool) -> int:
        """Do the steps that remain; return the exit code."""
        state = self._restore() if resuming else self._begin()
        start_step = int(state.step)
        self._log_start(state, start_step)
        if start_step < self.setup.num_steps and not self._stopped_early():
            with self.trace, ProgressLine(self.setup.num_steps, start_step, self.settings.batch_size) as line:
                step = self._run_steps(state, start_step, line)
            if step < self.setup.num_steps and not self._stopped_early():
                log.info("stopped at step %d; go on with: python -m seg.train --resume %s", step, self.run.path)
                return self.interruption.exit_code
        if self._stopped_early():
            log.info("stopped early: no better mean IoU in %d evaluations", self.settings.early_stop)
        log.info(
            "finished with a best mean IoU of %.4f; the record is in %s",
            self.progress.best_iou,
            self.run.path,
        )
        return EXIT_OK

    def _run_steps(self, state: TrainState, start_step: int, line: ProgressLine) -> int:
        """Train from `start_step`; return the step after which the run ended or was stopped, saved."""
        pending = None  # metrics are read one step late, so that the device never waits for the host
        seconds_before, start = self.progress.seconds, time.monotonic()
        for step, batch in enumerate(self.setup.loader.iterate(start_step), start_step + 1):
            self.trace.at_step(step - start_step)
            state, metrics = self.setup.train_step(state, self.setup.put_batch(batch))
            if pending:
                self._record(*pending, line)
            pending = step, metrics
            evaluating = step % self.evaluation_steps == 0 or step == self.setup.num_steps
            if not (evaluating or self.interruption.requested()):
                continue
            self._record(*pending, line)
            pending = None
            with line.paused():
                self.progress.seconds = seconds_before + time.monotonic() - start
                better = evaluating and self._evaluate(step, state, line)
                self.progress.seconds = seconds_before + time.monotonic() - start
                self.store.save(step, state, dataclasses.asdict(self.progress), best=better)
            if step == self.setup.num_steps or self._stopped_early() or self.interruption.requested():
                return step

    def _record(self, step: int, metrics: dict[str, jax.Array], line: ProgressLine) -> None:
        """Take note of one step's loss, and refuse to go on from a number that is none."""
        loss, grad_norm = float(metrics["loss"]), float(metrics["grad_norm"])
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            saved = max(self.store.steps(), default=None)
            raise NonFiniteError(
                f"step {step}: the loss is {loss} and the gradient's norm {grad_norm}. Last checkpoint: "
                f"{f'step {saved}' if saved else 'none'} in {self.run.path}. "
                "Try a lower optimizer.learning_rate, a smaller optimizer.clip_norm, or model.dtype=float32"
            )
        self.progress.loss_sum += loss
        self.progress.loss_count += 1
        line.update(step, loss)
        if step % self.settings.log_every_steps == 0:
            self.report.log_step(step, loss, grad_norm, float(self.setup.schedule(step - 1)))

    def _evaluate(self, step: int, state: TrainState, line: ProgressLine) -> bool:
        """Score the state on the validation split and report it; return whether it is the best so far."""
        evaluation: Evaluation = evaluate(self.setup, state)
        progress = self.progress
        train_loss = progress.loss_sum / max(progress.loss_count, 1)
        progress.loss_sum, progress.loss_count = 0.0, 0
        score = float(np.nan_to_num(evaluation.metrics.mean_iou))
        better = score > progress.best_iou
        progress.evaluations_since_best = 0 if better else progress.evaluations_since_best + 1
        progress.best_iou = max(score, progress.best_iou)
        self.report.evaluation(
            epoch=step / self.setup.loader.steps_per_epoch,
            step=step,
            train_loss=train_loss,
            learning_rate=float(self.setup.schedule(step - 1)),
            images_per_s=line.images_per_s,
            seconds=progress.seconds,
            evaluation=evaluation,
        )
        return better

    def _begin(self) -> TrainState:
        """Return the state before the first step."""
        state, warm_start = self.setup.init(), self.setup.warm_start
        return warm_start.apply(state) if warm_start else state

    def _restore(self) -> TrainState:
        """Return the newest good state of the run, and drop what was recorded after it.

        A run that was killed before its first checkpoint begins anew.
        """
        if not has_checkpoint(self.run):
            log.info("no checkpoint was saved before the run ended: it begins anew")
            self.report.drop_after(0)
            return self._begin()
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.setup.replicated),
            jax.eval_shape(self.setup.init),
        )
        state, progress = self.store.restore(placed, "last")
        self.progress = Progress(**progress)
        self.report.drop_after(int(state.step))
        return state

    def _stopped_early(self) -> bool:
        patience = self.settings.early_stop
        return bool(patience) and self.progress.evaluations_since_best >= patience

    def _log_start(self, state: TrainState, start_step: int) -> None:
        setup = self.setup
        log.info("run directory %s", self.run.path)
        log.debug("environment %s", json.dumps(describe_environment()))  # a resume may run on other versions
        log.info(
            "%s with %s parameters; %d training and %d validation samples; step %d of %d, %d steps an epoch; %s",
            setup.config.model.name,
            f"{count_parameters(state.params):,}",
            len(setup.train_set),
            len(setup.val_set),
            start_step,
            setup.num_steps,
            setup.loader.steps_per_epoch,
            ", ".join(sorted({d.device_kind for d in setup.replicated.mesh.devices.flat})),
        )
        for line in setup.warm_start.lines if setup.warm_start else ():
            log.info("%s", line)
        if has_groups(setup.config.optimizer):
            log.info("%s", describe_groups(setup.config.optimizer, state.params))


def has_checkpoint(run: RunDir) -> bool:
    """Return whether the run saved a checkpoint, be it damaged by now."""
    return any(run.checkpoints.glob("step_*"))
