"""Scores predicted objects against the true ones, as the 2018 Data Science Bowl counts them.

A predicted object is right at a threshold if its intersection over union with a true one is above it. From 0.5 on, an
object can then match one other at most. Of one image, with tp right objects, fp further predictions, and fn true
objects that none matches:

    AP = mean over the thresholds 0.5, 0.55, … 0.95 of tp / (tp + fp + fn)

The score of a data set is the mean over its images. One with neither true nor predicted objects is left out.

Reference: Caicedo et al., 2019, "Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl".
"""

import dataclasses
import math
from collections.abc import Sequence

import chex
import numpy as np

THRESHOLDS = tuple(n / 100 for n in range(50, 100, 5))


@dataclasses.dataclass(frozen=True, eq=False)
class ObjectScore:
    """The counts of one class in one image."""

    num_true: int  # true objects
    num_predicted: int  # predicted objects
    hits: np.ndarray  # int64[t], predicted objects that are right at each of `THRESHOLDS`
    overlap: int  # pixels in both a true and a predicted object
    num_pixels: int  # pixels of the true objects plus those of the predicted ones

    @property
    def average_precision(self) -> float:
        """Mean over the thresholds of tp / (tp + fp + fn); NaN without any object."""
        union_t = self.num_true + self.num_predicted - self.hits
        return float((self.hits / union_t).mean()) if union_t.all() else math.nan


def score_objects(true_hw: np.ndarray, predicted_hw: np.ndarray) -> ObjectScore:
    """Return the score of the objects in one image; arrays are integer[h, w], 0 where there is no object."""
    chex.assert_rank(true_hw, 2)
    chex.assert_equal_shape([true_hw, predicted_hw])
    chex.assert_type([true_hw, predicted_hw], int)
    true_n, predicted_m = np.bincount(true_hw.ravel()), np.bincount(predicted_hw.ravel())
    both_hw = (true_hw > 0) & (predicted_hw > 0)
    pairs, overlaps = np.unique(
        true_hw[both_hw].astype(np.int64) * len(predicted_m) + predicted_hw[both_hw], return_counts=True
    )
    unions = true_n[pairs // len(predicted_m)] + predicted_m[pairs % len(predicted_m)] - overlaps
    hits_t = (overlaps / unions > np.array(THRESHOLDS)[:, None]).sum(1)
    num_pixels = int(true_n[1:].sum() + predicted_m[1:].sum())
    counts = (int(np.count_nonzero(areas[1:])) for areas in (true_n, predicted_m))
    return ObjectScore(*counts, hits_t, int(both_hw.sum()), num_pixels)


def summarise(scores: Sequence[ObjectScore]) -> dict[str, float | int | None]:
    """Return the score of one class over a data set, NaN as None.

    `average_precision` is the mean over the images; precision, recall and F1 are those of all objects together at the
    threshold 0.5, and `dice` that of their pixels.
    """
    hits = int(sum(score.hits[0] for score in scores))
    num_true, num_predicted = (sum(getattr(s, name) for s in scores) for name in ("num_true", "num_predicted"))
    precisions = [score.average_precision for score in scores]
    return {
        "true_objects": num_true,
        "predicted_objects": num_predicted,
        "average_precision": _ratio(sum(p for p in precisions if p == p), sum(p == p for p in precisions)),
        "precision_50": _ratio(hits, num_predicted),
        "recall_50": _ratio(hits, num_true),
        "f1_50": _ratio(2 * hits, num_true + num_predicted),
        "dice": _ratio(2 * sum(s.overlap for s in scores), sum(s.num_pixels for s in scores)),
    }


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None
