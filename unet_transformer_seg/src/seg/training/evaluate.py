"""One pass over the validation split during training: the score is that of the masks that users get.

A batch of samples at the data size goes through the evaluation step, which gives the loss and the probabilities. Where
prediction would look at the same window and no more, they are its answer: counted on the device if the sample has the
data size, else brought to the sample's own size and counted here. Other samples (a window is cut from a larger one, or
`inference` sets another tile or scale) are left to the predictor, which calls the same step.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from seg.classes import IGNORE_LABEL
from seg.data.fit import fitted_shape, is_answered_in_training, is_fitted, labels_at, window_for
from seg.data.loader import Batch, iterate_eval
from seg.distributed import is_main
from seg.labels import Labels
from seg.metrics import compute_metrics
from seg.pictures import as_picture
from seg.record.evaluation import Evaluation
from seg.training.setup import ON_DEVICE, Setup
from seg.training.state import TrainState
from seg.training.step import COUNTED, FILLER, PREDICTED
from seg.watch.interruption import StopRequestedError
from seg.watch.supervisor import Supervisor

MAX_PICTURE_SIDE = 1024  # longest side of a sample that is kept for a picture, in pixels


def evaluate(
    setup: Setup, state: TrainState, supervisor: Supervisor, eval_step: Callable, build_predictor: Callable
) -> Evaluation:
    """Return the scores of the state's predicting weights on the validation split, unless the run is asked to stop.

    `eval_step` is that of the setup, compiled; `build_predictor` is
    `(config, classes, variables, windows_forward) → Predictor` of `seg.inference`.
    """
    step = StoppableStep(setup, state.variables, supervisor, eval_step)
    tally = _Tally(setup)
    loss = _score_windows(setup, supervisor, step, tally)
    config = setup.config
    # Whether the windows of training are all that prediction looks at, whatever sizes the samples have.
    answers_all = is_fitted(config) and window_for(config.data.size, config) == config.data.size
    if tally.left or (jax.process_count() > 1 and not answers_all):
        _score_rest(setup, supervisor, step, tally, build_predictor)
    # With overlapping labels the counts of the whole split choose the thresholds that users predict with.
    chosen, counts = setup.labels.settle(tally.on_device + sum_over_processes(tally.here))
    custom = {name: float(metric(counts)) for name, metric in setup.custom.metrics.items()}
    return Evaluation(loss, compute_metrics(counts), tally.samples(chosen), custom, chosen.thresholds)


class StoppableStep:
    """Calls the evaluation step, in all processes equally often, until one of them is asked to stop."""

    def __init__(self, setup: Setup, variables: Any, supervisor: Supervisor, eval_step: Callable):
        self._setup, self._variables, self._supervisor, self._step = setup, variables, supervisor, eval_step
        self._last = None

    def __call__(self, batch: Batch) -> dict[str, jax.Array]:
        """Return the results, maybe still under way, unless a process was asked to stop before the previous call."""
        self.check()
        flag = self._setup.flags[self._supervisor.urgent()]
        on_device = self._setup.put_batch(batch, (*ON_DEVICE, "role"))
        self._last = self._step(self._variables, on_device, flag)
        return self._last

    def check(self) -> None:
        """Wait for the last call; raise StopRequestedError if a process was asked to stop before it."""
        if self._last is not None and int(self._last["stop"]):
            raise StopRequestedError
        self._supervisor.beat()

    def answer(self, windows_bhwc: np.ndarray) -> jax.Array | np.ndarray:
        """Return the probabilities float32[b, h, w, k] of windows, at most as many as this process has rows."""
        number, rows = len(windows_bhwc), self._setup.rows
        filled_bhwc = np.concatenate([windows_bhwc, np.repeat(windows_bhwc[-1:], rows - number, axis=0)])
        probabilities_bhwk = self(_unlabelled(filled_bhwc, number))["probabilities_bhwk"]
        if jax.process_count() == 1 and number == rows:
            return probabilities_bhwk  # still being computed
        return self._setup.placement.local_rows(probabilities_bhwk)[:number]

    def finish(self) -> None:
        """Take part in the calls of the other processes until none of them has a window left."""
        if jax.process_count() > 1:
            config = self._setup.config
            window = window_for(config.data.size, config)  # with several processes there is one shape
            black_bhwc = np.zeros((self._setup.rows, *window, config.data.channels), config.data.precision)
            filler = _unlabelled(black_bhwc, 0)
            while int(self(filler)["busy"]):
                pass
        self.check()


def _unlabelled(windows_bhwc: np.ndarray, number: int) -> Batch:
    """Return windows, of which the first few are to be predicted, as a batch without labels."""
    label_bhw = np.full(windows_bhwc.shape[:3], IGNORE_LABEL, np.uint8)
    role_b = np.where(np.arange(len(windows_bhwc)) < number, PREDICTED, FILLER).astype(np.int32)
    return {"image": windows_bhwc, "label": label_bhw, "role": role_b}


class _Tally:
    """What is counted and kept in a pass."""

    def __init__(self, setup: Setup):
        # int64, counted by the step over all processes, and in this process of its own samples; see `seg.labels`.
        self.on_device, self.here = np.zeros((2, *setup.labels.counts_shape), np.int64)
        self._labels = setup.labels
        self.left: list[int] = []  # samples of this process that the predictor must score
        self._dataset, self._predictions = setup.val_set, {}
        self._channels = setup.config.data.shown_channels
        rows, num_shown = setup.rows, setup.config.training.num_sample_pictures if is_main() else 0
        own = (i for i in range(len(setup.val_set)) if i % setup.config.training.batch_size // rows == setup.share[0])
        self._shown = [index for index, _ in zip(own, range(num_shown), strict=False)]

    def count(self, index: int, decided: np.ndarray) -> np.ndarray:
        """Return the counts of a sample of this process."""
        self.keep(index, decided)
        return self._labels.count_on_host(self._dataset.read_mask(index), decided)

    def keep(self, index: int, decided: np.ndarray) -> None:
        """Keep a prediction if it is drawn."""
        if index in self._shown:
            self._predictions[index] = _thin(decided).copy()

    def draws(self, index: int) -> bool:
        """Return whether the sample is drawn."""
        return index in self._shown

    def samples(self, chosen: Labels) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return picture, mask and prediction of the samples that are drawn."""
        samples = ((self._dataset[i], self._labels.settled(self._predictions[i], chosen)) for i in self._shown)
        return [
            (as_picture(_thin(sample.image), self._channels), _thin(sample.mask), prediction)
            for sample, prediction in samples
        ]


def _thin(array: np.ndarray) -> np.ndarray:
    """Return every n-th row and column of a picture that is too large to be kept."""
    stride = -(-max(array.shape[:2]) // MAX_PICTURE_SIDE)
    return array[::stride, ::stride]


def _score_windows(setup: Setup, supervisor: Supervisor, step: StoppableStep, tally: _Tally) -> float:
    """Score the samples at the data size; return their mean loss. The last batch is used while the next is computed."""
    config, num_samples = setup.config, len(setup.val_set)
    batch_size = config.training.batch_size
    batches, loss_sum, pending = iterate_eval(setup.val_set, config.data, batch_size, setup.share), 0.0, []
    with ThreadPoolExecutor(max(1, config.data.num_threads)) as pool:
        for start in range(0, num_samples, batch_size):
            batch = supervisor.result_of(next, batches)
            batch["role"] = np.array([_role(setup, shape) for shape in _shapes(batch)], np.int32)
            pending.append((batch, step(batch), min(batch_size, num_samples - start)))
            if len(pending) == 2:
                loss_sum += _settle(setup, supervisor, pool, tally, *pending.pop(0))
        loss_sum += _settle(setup, supervisor, pool, tally, *pending.pop())
    step.check()
    return loss_sum / num_samples


def _shapes(batch: Batch) -> list[tuple[int, int]]:
    return [tuple(shape) for shape in batch["shape"].tolist()]


def _role(setup: Setup, shape: tuple[int, int]) -> int:
    """Return the role of a sample of this shape; `COUNTED` if its own pixels are those of its window."""
    if shape == (0, 0):
        return FILLER
    counted = fitted_shape(shape, setup.config.data) == shape and is_answered_in_training(shape, setup.config)
    return COUNTED if counted else PREDICTED


def _settle(
    setup: Setup,
    supervisor: Supervisor,
    pool: ThreadPoolExecutor,
    tally: _Tally,
    batch: Batch,
    results: dict[str, jax.Array],
    number: int,
) -> float:
    """Count a batch of `number` samples; return the sum of their losses."""
    tally.on_device += np.asarray(results["counts"], np.int64)
    scaled = []
    for row, (index, shape) in enumerate(zip(batch["index"].tolist(), _shapes(batch), strict=True)):
        if batch["role"][row] == COUNTED and tally.draws(index):
            tally.keep(index, setup.placement.local_rows(results["decided"])[row, : shape[0], : shape[1]])
        elif batch["role"][row] == PREDICTED and is_answered_in_training(shape, setup.config):
            scaled.append((row, index, shape))
        elif batch["role"][row] == PREDICTED:
            tally.left.append(index)
    if scaled:
        probabilities_bhwk = setup.placement.local_rows(results["probabilities_bhwk"])

        def count(row: int, index: int, shape: tuple[int, int]) -> np.ndarray:
            height, width = fitted_shape(shape, setup.config.data)
            probabilities_hwk = probabilities_bhwk[row, :height, :width]
            return tally.count(index, labels_at(probabilities_hwk, shape, setup.labels.decide_planes))

        tally.here += sum(supervisor.result_of(list, pool.map(count, *zip(*scaled, strict=True))))
    return float(results["loss"]) * number


def _score_rest(
    setup: Setup, supervisor: Supervisor, step: StoppableStep, tally: _Tally, build_predictor: Callable
) -> None:
    """Score the samples that are left, as `seg.eval` does."""
    inference = dataclasses.replace(setup.config.inference, batch_size=setup.rows)
    config = dataclasses.replace(setup.config, inference=inference)
    predictor = build_predictor(config, setup.classes, None, step.answer, labels=setup.labels)
    images = ((index, supervisor.result_of(setup.val_set.__getitem__, index).image) for index in tally.left)
    for index, _, decided in predictor.predict_many(images):
        tally.here += tally.count(index, decided)
    step.finish()


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
    """Return the sum of the int64 arrays of all processes."""
    if jax.process_count() == 1:
        return counts
    as_bytes = np.ascontiguousarray(counts, np.int64).view(np.uint8)  # jax would convert them to int32
    return multihost_utils.process_allgather(as_bytes).view(np.int64).sum(0)
