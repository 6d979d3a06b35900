"""The training loop: steps, evaluations, checkpoints, and the record of the run."""

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from seg.checkpoints import CheckpointStore
from seg.distributed import explain_lost_peer, is_main
from seg.errors import EXIT_OK, EXIT_TERMINATED, NonFiniteError, PeerLostError, UserError
from seg.models import count_parameters
from seg.profiling.memory import explain_out_of_memory, is_out_of_memory
from seg.profiling.trace import StepTrace
from seg.record.environment import describe_environment
from seg.record.evaluation import Evaluation
from seg.record.progress_bar import ProgressLine
from seg.record.report import Report
from seg.record.run_dir import RunDir
from seg.record.seen_classes import SeenClasses
from seg.training.bookkeeping import Progress, has_checkpoint, read_progress
from seg.training.compiled import CompiledStep
from seg.training.diagnosis import diagnose
from seg.training.evaluate import evaluate
from seg.training.parameter_groups import describe_groups, has_groups
from seg.training.reproducer import save_reproducer
from seg.training.resumption import Resumption
from seg.training.setup import Setup
from seg.training.sharding import describe_devices
from seg.training.state import TrainState
from seg.watch.interruption import StopRequestedError
from seg.watch.supervisor import Supervisor

log = logging.getLogger("seg")

MAX_SKIPPED_IN_A_ROW = 20
"""So many steps that are not finite are no accident: the run ends although it was told to leave them out."""

MAX_ITEMS_SHOWN = 16


class Pending(NamedTuple):
    """A step whose numbers have not been read yet."""

    step: int
    batch: dict[str, np.ndarray]
    metrics: dict[str, jax.Array]


class Training:
    """One run, from its first or its restored state to its end."""

    def __init__(
        self,
        setup: Setup,
        run: RunDir,
        supervisor: Supervisor,
        build_predictor: Callable,
        profile_steps: int = 0,
    ):
        settings = setup.config.training
        self.setup, self.run, self.supervisor, self.settings = setup, run, supervisor, settings
        self.build_predictor = build_predictor
        self.train_step = CompiledStep(setup.train_step, supervisor)
        self.eval_step = CompiledStep(setup.eval_step, supervisor)
        self.store = CheckpointStore(run.checkpoints, settings.keep_checkpoints)
        self.report = Report(run, setup.config, setup.classes) if is_main() else None
        self.trace = StepTrace(run.path / "profile", profile_steps)
        self.progress = Progress()
        first_pass = setup.loader.steps_per_epoch if jax.process_count() == 1 else 0  # else no process reads all
        self.seen_classes = SeenClasses(setup.classes.names, first_pass)
        self.evaluation_steps = settings.eval_every_epochs * setup.loader.steps_per_epoch
        self.stop_agreed, self.skipped_in_a_row = False, 0
        self.seconds_before, self.start = 0.0, time.monotonic()

    def run_to_end(self, resumption: Resumption | None = None) -> int:
        """Do the steps that remain; return the exit code."""
        with self.supervisor.nothing_to_save():
            state = self._restore() if resumption else self._begin()
            start_step = int(state.step)
            if resumption:
                resumption.begin(start_step, self._why_finished(start_step))
                self._drop_after(start_step)
            self._log_start(state, start_step)
        with self.trace, ProgressLine(self.setup.num_steps, start_step, self.settings.batch_size, is_main()) as line:
            try:
                step = self._run_steps(state, start_step, line)
            except NonFiniteError as error:
                log.error("stopped: %s", error)
                raise
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                raise self._explain(error) from error
        if step < self.setup.num_steps and not self._stopped_early() or self.progress.evaluation_due:
            log.info("stopped at step %d; go on with: python -m seg.train --resume %s", step, self.run.path)
            return self.supervisor.interruption.exit_code or EXIT_TERMINATED
        if self._stopped_early():
            log.info("stopped early: no better mean IoU in %d evaluations", self.settings.early_stop)
        log.info(
            "finished with a best mean IoU of %.4f; the record is in %s",
            self.progress.best_iou,
            self.run.path,
        )
        return EXIT_OK

    def _run_steps(self, state: TrainState, step: int, line: ProgressLine) -> int:
        """Train from `step` on; return the step after which the run ended or was stopped, saved."""
        self.seconds_before, self.start, start_step = self.progress.seconds, time.monotonic(), step
        if self.progress.evaluation_due:
            self._save(step, state, True, line)
        healthy = jax.device_put(np.bool_(True), self.setup.placement.replicated)
        pending = None  # metrics are read one step late, so that the device never waits for the host
        batches = self.setup.loader.iterate(step)
        while step < self.setup.num_steps and not self._stopped_early():
            try:
                batch = self.supervisor.result_of(next, batches)
                self.seen_classes.add(batch["label"])
                self.trace.at_step(step + 1 - start_step, self.train_step.last)
                flag = self.setup.flags[self.supervisor.requested()]
                state, metrics, healthy = self.train_step(state, self.setup.put_batch(batch), healthy, flag)
            except StopRequestedError:
                self._settle(pending, state, line)
                if step > start_step:
                    self._save(step, state, False, line)
                break
            step += 1
            self._settle(pending, state, line)
            pending = Pending(step, batch, metrics)
            evaluating = step % self.evaluation_steps == 0 or step == self.setup.num_steps
            if evaluating or self._stopping():
                self._settle(pending, state, line)
                pending = None
                self._save(step, state, evaluating, line)
            if self._stopping():
                break
        return step

    def _stopping(self) -> bool:
        """Return whether to stop after this step; several processes agree on it, a step late."""
        return self.stop_agreed if jax.process_count() > 1 else self.supervisor.requested()

    def _save(self, step: int, state: TrainState, evaluating: bool, line: ProgressLine) -> None:
        """Evaluate, where it is time for it and nobody waits for the end, and write a checkpoint."""
        with line.paused():
            self.progress.seconds = self.seconds_before + time.monotonic() - self.start
            better = self.progress.evaluation_due = False
            try:
                better = evaluating and self._evaluate(step, state, line)
            except StopRequestedError:
                log.info("the evaluation was left: it is done first when the run goes on")
                self.progress.evaluation_due = self.stop_agreed = True
            self.progress.seconds = self.seconds_before + time.monotonic() - self.start
            self.store.save(step, state, dataclasses.asdict(self.progress), best=better)
            self.supervisor.beat()

    def _settle(self, pending: Pending | None, state: TrainState, line: ProgressLine) -> None:
        """Take note of one step's numbers, and of what they ask for.

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite, and the run is to stop for it.
        """
        if pending is None:
            return
        step, _, metrics = pending
        loss, grad_norm = float(metrics["loss"]), float(metrics["grad_norm"])
        self.stop_agreed = self.stop_agreed or int(metrics["stop"]) > 0
        self.supervisor.beat()
        if not metrics["finite"]:
            self._handle_non_finite(pending, state, loss, grad_norm)
            return
        self.skipped_in_a_row = 0
        self.progress.loss_sum += loss
        self.progress.loss_count += 1
        line.update(step, loss)
        if step % self.settings.log_every_steps == 0 and self.report:
            self.report.log_step(step, loss, grad_norm, float(self.setup.schedule(step - 1)))

    def _handle_non_finite(self, pending: Pending, state: TrainState, loss: float, grad_norm: float) -> None:
        """Leave the step out, or save what led to it and stop."""
        found = f"step {pending.step}: the loss is {loss} and the gradient's norm {grad_norm}"
        if math.isfinite(loss) and math.isfinite(grad_norm):
            found += ", but a batch norm's running statistics are not finite"
        self.skipped_in_a_row += 1
        if self.settings.on_non_finite == "skip" and self.skipped_in_a_row < MAX_SKIPPED_IN_A_ROW:
            items = ", ".join(self.setup.train_set.name(i) for i in pending.batch["index"][:MAX_ITEMS_SHOWN])
            log.warning("%s; the step is left out. Its items: %s", found, items)
            return
        state = state.replace(step=state.step * 0 + pending.step - 1)  # before the step, in its place on the devices
        folder = save_reproducer(self.run, state, pending.batch, pending.step)
        saved = max(self.store.steps(), default=None)
        lines = diagnose(self.setup, state, pending.batch) if jax.process_count() == 1 else []
        raise NonFiniteError(
            f"{found}.\n" + "".join(f"  {line}\n" for line in lines) + f"State and batch are in {folder}; look at "
            f"them again with: python -m seg.diagnose {folder}\nLast checkpoint: "
            f"{f'step {saved}' if saved else 'none'} in {self.run.path}. Try a lower optimizer.learning_rate, a "
            "smaller optimizer.clip_norm, model.dtype=float32, or training.on_non_finite=skip"
        )

    def _evaluate(self, step: int, state: TrainState, line: ProgressLine) -> bool:
        """Score the state on the validation split and report it; return whether it is the best so far."""
        evaluation: Evaluation = evaluate(self.setup, state, self.supervisor, self.eval_step, self.build_predictor)
        progress = self.progress
        train_loss = progress.loss_sum / max(progress.loss_count, 1)
        progress.loss_sum, progress.loss_count = 0.0, 0
        score = float(np.nan_to_num(evaluation.metrics.mean_iou))
        better = score > progress.best_iou
        progress.evaluations_since_best = 0 if better else progress.evaluations_since_best + 1
        progress.best_iou = max(score, progress.best_iou)
        if self.report:
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
        state, warm_start = self.supervisor.result_of(self.setup.init), self.setup.warm_start
        return warm_start.apply(state) if warm_start else state

    def _restore(self) -> TrainState:
        """Return the newest good state of the run; one that was killed before its first checkpoint begins anew."""
        if not has_checkpoint(self.run):
            if self.report:
                self.report.results.check_only_begun(self.store.directory)
            log.info("no checkpoint was saved before the run ended: it begins anew")
            return self._begin()
        state, progress = self.store.restore(self.setup.abstract_state, "last")
        self.progress = read_progress(progress, self.run.path)
        return state

    def _drop_after(self, step: int) -> None:
        """Drop what was recorded after the restored state: those steps come once more."""
        if self.report:
            self.report.results.drop_after(step, evaluated=self.progress.best_iou >= 0)

    def _why_finished(self, step: int) -> str:
        """Return why nothing is left to train after `step` and what to type to train on, or an empty text."""
        setup = self.setup
        if self.progress.evaluation_due or step < setup.num_steps and not self._stopped_early():
            return ""
        done, way_on = f"{step} steps are done, and the run has {setup.num_steps}", "training.early_stop=0"
        if step >= setup.num_steps:
            way_on = (
                f"training.num_epochs={2 * max(self.settings.num_epochs, -(-step // setup.loader.steps_per_epoch))}"
            )
        if self._stopped_early():
            done += f", and the run stopped early (training.early_stop={self.settings.early_stop})"
        way_on += " training.early_stop=0" if self._stopped_early() and step >= setup.num_steps else ""
        return f"{done}. To train on: python -m seg.train --resume {self.run.path} {way_on}"

    def _explain(self, error: Exception) -> Exception:
        """Return the error to raise instead of one that jax raised."""
        step = max(self.store.steps(), default=None)
        saved = f"Last checkpoint: {'none' if step is None else f'step {step}'}"
        way_on = f"python -m seg.train --resume {self.run.path}"
        if lost := explain_lost_peer(error):
            return PeerLostError(f"{lost}. {saved}; go on, in all processes, with: {way_on}")
        if is_out_of_memory(error):
            explained = explain_out_of_memory(self.setup, self.train_step.last)
            return UserError(f"{explained}\n{saved}; go on, with the change, with: {way_on} key=value")
        return error

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
            describe_devices(setup.placement),
        )
        for note in setup.train_set.notes:
            log.warning("warning: %s", note)
        for line in setup.warm_start.lines if setup.warm_start else ():
            log.info("%s", line)
        if has_groups(setup.config.optimizer):
            log.info("%s", describe_groups(setup.config.optimizer, state.params))
