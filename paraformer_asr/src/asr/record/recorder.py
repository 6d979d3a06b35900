"""Shows the progress of a run and writes its record, in the first process of the run."""

import contextlib
from typing import Any

import jax

from asr.record.progress_bar import ProgressLine
from asr.record.report import Report
from asr.watch.hook import EvaluationInfo, Hook, StepInfo


class Recorder(Hook):
    """Passes steps and evaluations on to the progress line and the report."""

    def __init__(self, report: Report, log_every_steps: int):
        self._report, self._log_every_steps = report, log_every_steps

    def on_start(self, training: Any, step: int) -> None:
        """Show the progress line."""
        setup = training.setup
        self._schedule, self._rate_hz = setup.schedule, setup.config.features.sample_rate_hz
        self._line = ProgressLine(setup.num_steps, step, "× real time")

    def on_step(self, info: StepInfo) -> None:
        """Show a step, and note it at intervals."""
        if not info.finite:
            return
        # Each of several processes has its share of the batch; this one counts as if all had as much.
        num_samples = float(info.batch["wave_lengths"].sum()) * jax.process_count()
        self._line.update(info.step, info.values["loss"], num_samples / self._rate_hz)
        if info.step % self._log_every_steps == 0:
            self._report.log_step(info.step, info.values, float(self._schedule(info.step - 1)))

    def on_evaluation(self, info: EvaluationInfo) -> None:
        """Note an evaluation."""
        self._report.evaluation(
            info.evaluation,
            epoch=info.epoch,
            step=info.step,
            train_loss=info.train_loss,
            learning_rate=info.learning_rate,
            audio_s_per_s=self._line.speed,
            seconds=info.seconds,
        )

    def paused(self) -> contextlib.AbstractContextManager:
        """Leave the time of the context out of the speed."""
        return self._line.paused()

    def on_end(self) -> None:
        """Close the progress line."""
        self._line.close()
