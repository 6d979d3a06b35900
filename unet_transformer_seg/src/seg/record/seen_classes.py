"""Says once which classes the training masks do not have."""

import logging
from collections.abc import Sequence

import numpy as np

log = logging.getLogger("seg")


class SeenClasses:
    """Looks at the labels of the first pass over the training data, until every class was seen."""

    def __init__(self, names: Sequence[str], steps: int):
        """Expect the batches of `steps` steps; of 0, none are looked at."""
        self._missing, self._steps_left = dict(enumerate(names)), steps

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
