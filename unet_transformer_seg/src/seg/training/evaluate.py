"""One pass over the validation split during training."""

import dataclasses
from collections.abc import Callable

import numpy as np

from seg.data.loader import iterate_eval, load
from seg.metrics import SegMetrics, compute_metrics
from seg.training.distributed import is_main
from seg.training.interruption import StopRequestedError
from seg.training.setup import Setup
from seg.training.state import TrainState
from seg.training.supervision import Supervisor


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


def evaluate(setup: Setup, state: TrainState, supervisor: Supervisor, eval_step: Callable) -> Evaluation:
    """Return the scores of the state's predicting weights on the validation split, at the data size.

    Args:
        setup: of the run.
        state: of the run.
        supervisor: waits for the data, and says when to stop.
        eval_step: that of the setup, compiled.

    Raises:
        StopRequestedError: the run is asked to stop, in this process or in another.
    """
    num_classes, data, batch_size = len(setup.classes), setup.config.data, setup.config.training.batch_size
    confusion_kk, loss_sum = np.zeros((num_classes, num_classes), np.int64), 0.0
    wanted = min(setup.config.training.num_sample_pictures, len(setup.val_set)) if is_main() else 0
    predictions = []
    batches = iterate_eval(setup.val_set, data, batch_size, setup.share)
    for start in range(0, len(setup.val_set), batch_size):
        batch = supervisor.result_of(next, batches)
        results = eval_step(state.variables, setup.put_batch(batch), setup.flags[supervisor.urgent()])
        if int(results["stop"]):
            raise StopRequestedError
        confusion_kk += np.asarray(results["confusion_kk"], np.int64)
        loss_sum += float(results["loss"]) * min(batch_size, len(setup.val_set) - start)
        if len(predictions) < wanted:
            predictions += list(np.asarray(results["predicted_bhw"]))
        supervisor.beat()
    samples = [load(setup.val_set, data, index, None) for index in range(wanted)]
    shown = [(s["image"], s["label"], predicted_hw) for s, predicted_hw in zip(samples, predictions, strict=False)]
    return Evaluation(loss_sum / len(setup.val_set), compute_metrics(confusion_kk), shown)
