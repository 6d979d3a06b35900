"""An image on its way through the engine, and its answer.

Letters: h w rows and columns, k classes.
"""

import concurrent.futures
import contextlib
import time
from typing import NamedTuple

import numpy as np

from seg.data.fit import labels_at, resize_bands
from seg.labels import Labels


class Answer(NamedTuple):
    """What the network sees in one image.

    Attributes:
        labels: uint8[h, w], the class of each pixel; of overlapping classes uint8[h, w, k] of 0 and 1.
        probabilities: float32[h, w, k], or None if they were not asked for.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None


class Work:
    """An image that waits for the device, or is on it.

    Attributes:
        image_hwc: [h, w, c], at its own size.
        brought_hwc: at the size at which it is segmented.
        needs_probabilities: whether the answer holds them.
        megapixels: what it costs.
        deadline: time of `time.monotonic` after which nobody waits for it.
        future: of the `Answer`, or of labels or probabilities at the size of `brought_hwc`.
        is_small: whether it fits into one window.
        is_queued: whether it counts in the queue.
        is_dropped: whether its client went away.
        num_rows: rows that are finished, of an image computed by bands.
    """

    def __init__(
        self,
        image_hwc: np.ndarray,
        brought_hwc: np.ndarray,
        needs_probabilities: bool,
        megapixels: float,
        kind: Labels,
    ):
        self._kind = kind
        self.image_hwc, self.brought_hwc, self.needs_probabilities = image_hwc, brought_hwc, needs_probabilities
        self.megapixels = megapixels
        self.queued_at = time.monotonic()
        self.deadline = float("inf")
        self.future: concurrent.futures.Future = concurrent.futures.Future()
        self.is_small = self.is_queued = self.is_dropped = False
        self.num_rows = 0
        self._labels: list[np.ndarray] = []
        self._probabilities: list[np.ndarray] = []

    @property
    def is_resized(self) -> bool:
        """Whether the network sees it at another size."""
        return self.brought_hwc is not self.image_hwc

    @property
    def image_megapixels(self) -> float:
        """Pixels of the image, in millions."""
        return self.image_hwc.shape[0] * self.image_hwc.shape[1] / 1e6

    def add(self, probabilities_hwk: np.ndarray) -> None:
        """Keep the next finished rows."""
        self.num_rows += len(probabilities_hwk)
        self._labels.append(self._kind.decide(probabilities_hwk))
        if self.needs_probabilities:
            self._probabilities.append(probabilities_hwk)

    def joined(self) -> Answer:
        """Return all rows that were added."""
        return Answer(
            np.concatenate(self._labels), np.concatenate(self._probabilities) if self._probabilities else None
        )

    def succeed(self, answer: Answer | np.ndarray) -> None:
        """Hand the answer over, if the client still waits."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.future.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Hand an error over, if the client still waits."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.future.set_exception(error)

    def fitted(self, answer: np.ndarray) -> Answer:
        """Return labels, uint8, or probabilities, float32[h, w, k], of the network at the size of the image."""
        shape = self.image_hwc.shape[:2]
        if answer.dtype == np.uint8:
            return Answer(answer.copy(), None)
        if not self.needs_probabilities:
            return Answer(labels_at(answer, shape, self._kind.decide_planes), None)
        if answer.shape[:2] != shape:
            bands = resize_bands([answer], answer.shape[:2], shape)
            answer = np.concatenate([np.moveaxis(band_khw, 0, -1) for band_khw in bands])
        return Answer(self._kind.decide(answer), answer)
