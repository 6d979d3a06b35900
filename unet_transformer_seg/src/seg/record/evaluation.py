"""The result of an evaluation on the validation split."""

import dataclasses

import numpy as np

from seg.metrics import SegMetrics


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of one pass."""

    loss: float  # mean of the batches' losses at the data size, weighted by their number of samples
    metrics: SegMetrics  # from counts that are summed over the whole split, each sample at its own size
    # The first few (image uint8[h, w, 3], mask and prediction as `Sample.mask`), large ones thinned out
    samples: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    custom: dict[str, float] = dataclasses.field(default_factory=dict)  # metrics from outside the package, by name
    thresholds: tuple[float, ...] = ()  # chosen for each class, if classes overlap
