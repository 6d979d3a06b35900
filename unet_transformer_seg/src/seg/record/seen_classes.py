"""Warns of classes that no training mask has."""

import logging
from collections.abc import Sequence

import numpy as np

from seg.watch.hook import Hook, StepInfo

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
        """Look at the labels uint8[b, h, w] of a batch; after the last one, warn of the classes that none had."""
        if not self._steps_left or not self._missing:
            return
        self._steps_left -= 1
        for label in np.flatnonzero(np.bincount(labels_bhw.ravel())).tolist():
            self._missing.pop(label, None)
        if self._missing and not self._steps_left:
            log.warning(
                "warning: no pixel of %s was in the training samples of the first pass: the model cannot learn it",
                ", ".join(self._missing.values()),
            )
