"""One pass over the validation split during training."""

import dataclasses

import numpy as np

from seg.data.loader import iterate_eval
from seg.metrics import SegMetrics, compute_metrics
from seg.training.setup import Setup
from seg.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one pass found.

    Attributes:
        loss: mean of the batches' losses, weighted by their number of samples.
        metrics: from one confusion matrix, summed over the whole split.
        samples: the first few (image uint8[h, w, 3], mask uint8[h, w], prediction uint8[h, w]).
    """

    loss: float
    metrics: SegMetrics
    samples: list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def evaluate(setup: Setup, state: TrainState) -> Evaluation:
    """Return the scores of the state's predicting weights on the validation split, at the data size."""
    num_classes = len(setup.classes)
    confusion_kk = np.zeros((num_classes, num_classes), np.int64)
    loss_sum, samples = 0.0, []
    for batch in iterate_eval(setup.val_set, setup.config.data, setup.config.training.batch_size):
        results = setup.eval_step(state.variables, setup.put_batch(batch))
        confusion_kk += np.asarray(results["confusion_kk"], np.int64)
        loss_sum += float(results["loss"]) * np.count_nonzero(batch["index"] >= 0)
        wanted = setup.config.training.num_sample_pictures - len(samples)
        if wanted > 0:
            predicted_bhw = np.asarray(results["predicted_bhw"])
            samples += list(zip(batch["image"], batch["label"], predicted_bhw, strict=True))[:wanted]
    return Evaluation(loss_sum / len(setup.val_set), compute_metrics(confusion_kk), samples)
