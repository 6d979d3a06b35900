"""The training loop: steps, evaluations, checkpoints, and the record of the run."""

import contextlib
import dataclasses
import json
import logging
import math
import time
from typing import NamedTuple

import jax
import numpy as np

from asr.checkpoints import CheckpointStore
from asr.distributed import explain_lost_peer, is_main
from asr.errors import EXIT_OK, EXIT_TERMINATED, NonFiniteError, PeerLostError, UserError
from asr.models import count_parameters
from asr.profiling.memory import explain_out_of_memory, is_out_of_memory
from asr.profiling.trace import StepTrace
from asr.record.environment import describe_environment
from asr.record.evaluation import Evaluation
from asr.record.progress_bar import ProgressLine
from asr.record.report import Report
from asr.record.run_dir import RunDir
from asr.training.bookkeeping import Progress, has_checkpoint, read_progress
from asr.training.compiled import CompiledStep
from asr.training.diagnosis import diagnose, name_items
from asr.training.evaluate import evaluate
from asr.training.parameter_groups import describe_groups, has_groups
from asr.training.reproducer import save_reproducer
from asr.training.resumption import Resumption
from asr.training.setup import Setup
from asr.training.sharding import describe_devices
from asr.training.state import TrainState
from asr.watch.interruption import StopRequestedError
from asr.watch.supervisor import Supervisor

log = logging.getLogger("asr")

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

    def __init__(self, setup: Setup, run: RunDir, supervisor: Supervisor, profile_steps: int = 0):
        settings = setup.config.training
        self.setup, self.run, self.supervisor, self.settings = setup, run, supervisor, settings
        self.train_step = CompiledStep(setup.train_step, supervisor)
        self.eval_step = CompiledStep(setup.eval_step, supervisor)
        self.store = CheckpointStore(run.checkpoints, settings.keep_checkpoints, settings.keep_best)
        self.report = Report(run, setup.config) if is_main() else None
        self.trace = StepTrace(run.path / "profile", profile_steps)
        self.progress = Progress()
        ends = setup.loader.epoch_starts[:: settings.eval_every_epochs].tolist()
        self.evaluation_steps = {*ends[1:], setup.num_steps}
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
        with self.trace, ProgressLine(self.setup.num_steps, start_step, is_main()) as line:
            try:
                step = self._run_steps(state, start_step, line)
            except NonFiniteError as error:
                log.error("stopped: %s", error)
                raise
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                raise self._explain(error) from error
        if step < self.setup.num_steps and not self._stopped_early() or self.progress.evaluation_due:
            log.info("stopped at step %d; go on with: python -m asr.train --resume %s", step, self.run.path)
            return self.supervisor.interruption.exit_code or EXIT_TERMINATED
        if self._stopped_early():
            log.info("stopped early: no lower error rate in %d evaluations", self.settings.early_stop)
        rate, name = 100 * self.progress.best_score[0], self.settings.select_by.upper()
        log.info("finished with a best %s of %.2f %%; the record is in %s", name, rate, self.run.path)
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
                self.trace.at_step(step + 1 - start_step, self.train_step.last)
                flag = self.setup.flags[self.supervisor.requested()]
                arrays = self.setup.put_batch(batch)
                with contextlib.nullcontext() if self.train_step.is_ready(arrays) else line.paused():
                    state, metrics, healthy = self.train_step(state, arrays, healthy, flag)
            except StopRequestedError:
                self._settle(pending, state, line)
                if step > start_step:
                    self._save(step, state, False, line)
                break
            step += 1
            self._settle(pending, state, line)
            pending = Pending(step, batch, metrics)
            evaluating = step in self.evaluation_steps
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
            score, self.progress.evaluation_due = None, False
            try:
                score = self._evaluate(step, state, line) if evaluating else None
            except StopRequestedError:
                log.info("the evaluation was left: it is done first when the run goes on")
                self.progress.evaluation_due = self.stop_agreed = True
            self.progress.seconds = self.seconds_before + time.monotonic() - self.start
            self.store.save(step, state, dataclasses.asdict(self.progress), score)
            self.supervisor.beat()

    def _seconds_of_sound(self, batch: dict[str, np.ndarray]) -> float:
        """Return the sound of a batch; where each process has its share, as if all had as much."""
        samples = float(batch["wave_lengths"].sum()) * jax.process_count()
        return samples / self.setup.config.features.sample_rate_hz

    def _settle(self, pending: Pending | None, state: TrainState, line: ProgressLine) -> None:
        """Take note of one step's numbers, and of what they ask for.

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite, and the run is to stop for it.
        """
        if pending is None:
            return
        step, batch, metrics = pending
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        finite, stop = values.pop("finite"), values.pop("stop")
        self.stop_agreed = self.stop_agreed or stop > 0
        self.supervisor.beat()
        if not finite:
            self._handle_non_finite(pending, state, values)
            return
        self.skipped_in_a_row = 0
        self.progress.loss_sum += values["loss"]
        self.progress.loss_count += 1
        line.update(step, values["loss"], self._seconds_of_sound(batch))
        if step % self.settings.log_every_steps == 0 and self.report:
            self.report.log_step(step, values, float(self.setup.schedule(step - 1)))

    def _handle_non_finite(self, pending: Pending, state: TrainState, values: dict[str, float]) -> None:
        """Leave the step out, or save what led to it and stop."""
        loss, grad_norm = values["loss"], values["grad_norm"]
        found = f"step {pending.step}: the loss is {loss} and the gradient's norm {grad_norm}"
        self.skipped_in_a_row += 1
        if self.settings.on_non_finite == "skip" and self.skipped_in_a_row < MAX_SKIPPED_IN_A_ROW:
            items = ", ".join(name_items(self.setup, pending.batch)[:MAX_ITEMS_SHOWN])
            log.warning("%s; the step is left out. Its items: %s", found, items)
            return
        state = state.replace(step=state.step * 0 + pending.step - 1)  # before the step, in its place on the devices
        folder = save_reproducer(self.run, state, pending.batch, pending.step)
        saved = max(self.store.steps(), default=None)
        lines = diagnose(self.setup, state, pending.batch) if jax.process_count() == 1 else []
        raise NonFiniteError(
            f"{found}.\n" + "".join(f"  {line}\n" for line in lines) + f"State and batch are in {folder}; look at "
            f"them again with: python -m asr.diagnose {folder}\nLast checkpoint: "
            f"{f'step {saved}' if saved else 'none'} in {self.run.path}. Try a lower optimizer.learning_rate, a "
            "smaller optimizer.clip_norm, model.dtype=float32, or training.on_non_finite=skip"
        )

    def _evaluate(self, step: int, state: TrainState, line: ProgressLine) -> list[float]:
        """Score the state on the validation split and report it; return what checkpoints are ranked by."""
        evaluation: Evaluation = evaluate(self.setup, state, self.supervisor, self.eval_step)
        progress = self.progress
        train_loss = progress.loss_sum / max(progress.loss_count, 1)
        progress.loss_sum, progress.loss_count = 0.0, 0
        found = (evaluation.rates[self.settings.select_by], evaluation.loss)
        score = [value if math.isfinite(value) else math.inf for value in found]
        better = progress.best_score is None or score < progress.best_score
        progress.evaluations_since_best = 0 if better else progress.evaluations_since_best + 1
        progress.best_score = score if better else progress.best_score
        if self.report:
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
            self.report.results.drop_after(step, evaluated=self.progress.best_score is not None)

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
        return f"{done}. To train on: python -m asr.train --resume {self.run.path} {way_on}"

    def _explain(self, error: Exception) -> Exception:
        """Return the error to raise instead of one that jax raised."""
        step = max(self.store.steps(), default=None)
        saved = f"Last checkpoint: {'none' if step is None else f'step {step}'}"
        way_on = f"python -m asr.train --resume {self.run.path}"
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
            describe_devices(setup.placement),
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
