"""Listens to a run: shows its progress, writes its record, and warns of classes that no training mask has."""

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from seg.record.progress_bar import ProgressLine
from seg.record.report import Report
from seg.watch.hook import EvaluationInfo, Hook, StepInfo


class Recorder(Hook):
    """Passes steps and evaluations on to the progress line and the report."""

    def __init__(self, report: Report, log_every_steps: int):
        self._report, self._log_every_steps = report, log_every_steps

    def on_start(self, training: Any, step: int) -> None:
        """Show the progress line."""
        setup = training.setup
        self._schedule, self._batch_size = setup.schedule, setup.config.training.batch_size
        self._line = ProgressLine(setup.num_steps, step, "images/s")

    def on_step(self, info: StepInfo) -> None:
        """Show a step, and note it at intervals."""
        if not info.finite:
            return
        self._line.update(info.step, info.values["loss"], self._batch_size)
        if info.step % self._log_every_steps == 0:
            learning_rate = float(self._schedule(info.step - 1))
            self._report.log_step(info.step, info.values["loss"], info.values["grad_norm"], learning_rate)

    def on_evaluation(self, info: EvaluationInfo) -> None:
        """Note an evaluation."""
        self._report.evaluation(
            info.evaluation,
            epoch=info.epoch,
            step=info.step,
            train_loss=info.train_loss,
            learning_rate=info.learning_rate,
            images_per_s=self._line.speed,
            seconds=info.seconds,
        )

    def paused(self) -> contextlib.AbstractContextManager:
        """Leave the time of the context out of the speed."""
        return self._line.paused()

    def on_end(self) -> None:
        """Close the progress line."""
        self._line.close()


log = logging.getLogger("seg")


class SeenClasses(Hook):
    """Collects the classes in the labels of the first pass over the training data."""

    def __init__(self, names: Sequence[str], steps: int):
        """Expect the batches of `steps` steps."""
        self._missing, self._steps_left = dict(enumerate(names)), steps

    def on_step(self, info: StepInfo) -> None:
        """Look at the labels of the step's batch."""
        self.add(info.batch["label"])

    def add(self, labels_bhw: np.ndarray) -> None:
        """Look at the labels of a batch; after the last one, warn of the classes that none had.

        The labels are uint8[b, h, w], or uint8[b, h, w, k] if classes overlap.
        """
        if not self._steps_left or not self._missing:
            return
        self._steps_left -= 1
        overlap = labels_bhw.ndim == 4
        seen = (labels_bhw == 1).any((0, 1, 2)) if overlap else np.bincount(labels_bhw.ravel())
        for label in np.flatnonzero(seen).tolist():
            self._missing.pop(label, None)
        if self._missing and not self._steps_left:
            log.warning(
                "warning: no pixel of %s was in the training samples of the first pass: the model cannot learn it",
                ", ".join(self._missing.values()),
            )
