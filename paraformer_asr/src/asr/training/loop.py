"""The training loop: steps, evaluations, checkpoints, and the record of the run."""

import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from asr.checkpoints import CheckpointStore
from asr.config import Config
from asr.errors import EXIT_OK, NonFiniteError
from asr.models import count_parameters
from asr.run_dir import RunDir, create_run_dir, describe_environment, load_run, open_run_dir
from asr.training.evaluate import Evaluation, evaluate
from asr.training.interruption import Interruption
from asr.training.parameter_groups import describe_groups, has_groups
from asr.training.profile import StepTrace
from asr.training.progress import ProgressLine
from asr.training.report import Report, close_logging, open_log_file, setup_logging
from asr.training.setup import Setup, build_setup
from asr.training.state import TrainState
from asr.training.tensorboard import require_tensorboard
from asr.training.warm_start import InitialModel

log = logging.getLogger("asr")


@dataclasses.dataclass
class Progress:
    """What the loop remembers besides the state; saved with each checkpoint.

    Attributes:
        best_score: lowest error rate of an evaluation so far, and its validation loss; None before the first.
        evaluations_since_best: for early stopping.
        loss_sum: sum of the training losses since the last evaluation.
        loss_count: number of steps in `loss_sum`.
        seconds: time spent on the run, over all its parts.
    """

    best_score: list[float] | None = None
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
        setup_logging()
        try:
            trained = load_run(resume)[1:] if resume else None
            require_tensorboard(config.training.tensorboard)
            run = open_run_dir(resume) if resume else None
            begins = run is None or not has_checkpoint(run)
            setup = build_setup(config, trained, load_initial(config.init) if config.init and begins else None)
            run = run or create_run_dir(setup.config, setup.tokenizer, setup.cmvn)
            open_log_file(run.log_file)
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
        self.store = CheckpointStore(run.checkpoints, settings.keep_checkpoints, settings.keep_best)
        self.report = Report(run, setup.config)
        self.trace = StepTrace(run.path / "profile", profile_steps)
        self.progress = Progress()
        self.compiled_shapes: set[tuple[int, ...]] = set()
        ends = setup.loader.epoch_starts[:: settings.eval_every_epochs].tolist()
        self.evaluation_steps = {*ends[1:], setup.num_steps}

    def run_to_end(self, resuming: bool) -> int:
        """Do the steps that remain; return the exit code."""
        state = self._restore() if resuming else self._begin()
        start_step = int(state.step)
        self._log_start(state, start_step)
        if start_step < self.setup.num_steps and not self._stopped_early():
            with self.trace, ProgressLine(self.setup.num_steps, start_step) as line:
                step = self._run_steps(state, start_step, line)
            if step < self.setup.num_steps and not self._stopped_early():
                log.info("stopped at step %d; go on with: python -m asr.train --resume %s", step, self.run.path)
                return self.interruption.exit_code
        if self._stopped_early():
            log.info("stopped early: no lower error rate in %d evaluations", self.settings.early_stop)
        rate, name = 100 * self.progress.best_score[0], self.settings.select_by.upper()
        log.info("finished with a best %s of %.2f %%; the record is in %s", name, rate, self.run.path)
        return EXIT_OK

    def _run_steps(self, state: TrainState, start_step: int, line: ProgressLine) -> int:
        """Train from `start_step`; return the step after which the run ended or was stopped, saved."""
        pending = None  # metrics are read one step late, so that the device never waits for the host
        seconds_before, start = self.progress.seconds, time.monotonic()
        for step, batch in enumerate(self.setup.loader.iterate(start_step), start_step + 1):
            self.trace.at_step(step - start_step)
            with self._compilation_left_out(batch["wave"].shape, line):
                state, metrics = self.setup.train_step(state, self.setup.put_batch(batch))
            if pending:
                self._record(*pending, line)
            pending = step, metrics, self._seconds_of_sound(batch)
            evaluating = step in self.evaluation_steps
            if not (evaluating or self.interruption.requested()):
                continue
            self._record(*pending, line)
            pending = None
            with line.paused():
                self.progress.seconds = seconds_before + time.monotonic() - start
                score = self._evaluate(step, state, line) if evaluating else None
                self.progress.seconds = seconds_before + time.monotonic() - start
                self.store.save(step, state, dataclasses.asdict(self.progress), score)
            if step == self.setup.num_steps or self._stopped_early() or self.interruption.requested():
                return step

    @contextlib.contextmanager
    def _compilation_left_out(self, shape: tuple[int, ...], line: ProgressLine) -> Iterator[None]:
        """Leave the first step of each batch shape, which is compiled, out of the speed."""
        with line.paused() if shape not in self.compiled_shapes else contextlib.nullcontext():
            yield
        self.compiled_shapes.add(shape)

    def _seconds_of_sound(self, batch: dict[str, np.ndarray]) -> float:
        return float(batch["wave_lengths"].sum()) / self.setup.config.features.sample_rate_hz

    def _record(self, step: int, metrics: dict[str, jax.Array], audio_s: float, line: ProgressLine) -> None:
        """Take note of one step, and refuse to go on from a number that is none."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        loss, grad_norm = values["loss"], values["grad_norm"]
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            saved = max(self.store.steps(), default=None)
            raise NonFiniteError(
                f"step {step}: the loss is {loss} and the gradient's norm {grad_norm}. Last checkpoint: "
                f"{f'step {saved}' if saved else 'none'} in {self.run.path}. "
                "Try a lower optimizer.learning_rate, a smaller optimizer.clip_norm, or model.dtype=float32"
            )
        self.progress.loss_sum += loss
        self.progress.loss_count += 1
        line.update(step, loss, audio_s)
        if step % self.settings.log_every_steps == 0:
            self.report.log_step(step, values, float(self.setup.schedule(step - 1)))

    def _evaluate(self, step: int, state: TrainState, line: ProgressLine) -> list[float]:
        """Score the state on the validation split and report it; return what checkpoints are ranked by."""
        evaluation: Evaluation = evaluate(self.setup, state)
        progress = self.progress
        train_loss = progress.loss_sum / max(progress.loss_count, 1)
        progress.loss_sum, progress.loss_count = 0.0, 0
        found = (evaluation.rates[self.settings.select_by], evaluation.loss)
        score = [value if math.isfinite(value) else math.inf for value in found]
        better = progress.best_score is None or score < progress.best_score
        progress.evaluations_since_best = 0 if better else progress.evaluations_since_best + 1
        progress.best_score = score if better else progress.best_score
        self.report.evaluation(
            epoch=int(np.searchsorted(self.setup.loader.epoch_starts, step)),
            step=step,
            train_loss=train_loss,
            learning_rate=float(self.setup.schedule(step - 1)),
            audio_s_per_s=line.audio_s_per_s,
            seconds=progress.seconds,
            evaluation=evaluation,
        )
        return score

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
            "%s with %s parameters and %d tokens; %d training utterances (%.2f hours), %d for validation; "
            "step %d of %d, %d steps an epoch; %s",
            setup.config.model.name,
            f"{count_parameters(state.params):,}",
            setup.tokenizer.vocab_size,
            len(setup.loader.kept),
            setup.train_set.durations_s()[setup.loader.kept].sum() / 3600,
            len(setup.val_set),
            start_step,
            setup.num_steps,
            setup.loader.steps_per_epoch,
            ", ".join(sorted({d.device_kind for d in setup.replicated.mesh.devices.flat})),
        )
        shapes = (
            f"{s.batch_size} × {s.num_samples / setup.config.features.sample_rate_hz:g} s" for s in setup.loader.shapes
        )
        log.info(
            "batches of %s; %.1f %% of them is padding", ", ".join(shapes), 100 * setup.loader.plan.padding_share(0)
        )
        for line in setup.warm_start.lines if setup.warm_start else ():
            log.info("%s", line)
        if has_groups(setup.config.optimizer):
            log.info("%s", describe_groups(setup.config.optimizer, state.params))


def has_checkpoint(run: RunDir) -> bool:
    """Return whether the run saved a checkpoint, be it damaged by now."""
    return any(run.checkpoints.glob("step_*"))
