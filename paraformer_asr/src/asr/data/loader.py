"""Batches of utterances, read ahead by threads. Which batch comes at which step is a pure function of (seed, step)."""

import contextlib
import logging
from array import array
from collections.abc import Iterator

import grain
import numpy as np

from asr.config import Config, DataConfig, FeaturesConfig
from asr.data.bucketing import BatchPlan, PlannedBatch
from asr.data.dataset import SpeechDataset, read_checked
from asr.data.frontend import num_feature_frames
from asr.data.sounds.audio import change_speed
from asr.data.text.tokenizer import END_ID, Tokenizer
from asr.errors import UserError

log = logging.getLogger("asr")

Share = tuple[int, int]
"""(i, n): the rows of a batch that process i of n reads, the i-th part of n equal ones. All of them: (0, 1)."""

TOLERANCE_S = 0.05  # most seconds that a sound may be longer than stated

Batch = dict[str, np.ndarray]
"""wave: float32[b, n] in −1…1, 0 after the end; wave_lengths: int32[b]; tokens: int32[b, u], 0 after the end, with
the end of sentence where the model has one; token_lengths: int32[b]; index: int32[b], −1 = a padding row. Each of
several processes has its share of the rows, but the index of all rows."""


class TrainLoader:
    """The batches of a whole run; each epoch draws its own order and playing speeds.

    Utterances outside `data.min_seconds` … `data.max_seconds` are left out, and their number is logged.

    Attributes:
        plan: which utterance comes where.
        epoch_starts: int64[num_epochs + 1], the steps at which the epochs begin; the last is the end of the run.
        kept: int64[u], the utterances of the data set that take part.
    """

    def __init__(
        self, dataset: SpeechDataset, tokenizer: Tokenizer, config: Config, num_devices: int = 1, share: Share = (0, 1)
    ):
        """Plan all batches of the training split; no sound is read yet.

        The `num_devices` of all processes share a batch; this process reads its `share` of the rows.
        """
        durations_u = dataset.durations_s()
        self.kept = select_lengths(durations_u, config.data)
        self._rows = _Rows(dataset, tokenizer, config, share)
        lengths_u = self._rows.lengths_u[self.kept]
        # Fewer frames than tokens: probably not the text that is spoken, and CTC has no alignment for it.
        crowded = find_crowded(durations_u[self.kept], lengths_u, config.features)
        if len(crowded):
            log.warning(
                "%d training utterances have more tokens than frames, such as %s with %d tokens",
                len(crowded),
                dataset.where(int(self.kept[crowded[0]])),
                lengths_u[crowded[0]],
            )
        self.plan = plan_training(durations_u[self.kept], lengths_u, config, num_devices)
        self.epoch_starts = self.plan.epoch_starts(config.training.num_epochs)
        self._config = config.data

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the first epoch; drawn speeds change the number a little from epoch to epoch."""
        return int(self.epoch_starts[1])

    @property
    def num_steps(self) -> int:
        """Batches of the whole run."""
        return int(self.epoch_starts[-1])

    def locate(self, step: int) -> tuple[int, int]:
        """Return (epoch, number of the batch in it) of a step, all counted from 0; IndexError beyond the run."""
        if not 0 <= step < self.num_steps:
            raise IndexError(f"the run has {self.num_steps} steps, asked for step {step}")
        # Drawn speeds change the number of batches, so epochs differ in length.
        epoch = int(np.searchsorted(self.epoch_starts, step, side="right")) - 1
        return epoch, step - int(self.epoch_starts[epoch])

    def batch_at(self, step: int) -> Batch:
        """Return the batch of one step, counted from 0, read in the calling thread."""
        return self._rows.load(self.plan.batch(*self.locate(step)), self.kept)

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches from `start_step` to the end of the run."""
        # Batches are indexed by step, so a resumed run starts here without reading what came before.
        steps = grain.MapDataset.range(self.num_steps)
        return read_ahead(steps.map(lambda step: self.batch_at(int(step))), self._config, start_step)


class EvalLoader:
    """All utterances of a split once, of any length, at their own speed, always in the same batches."""

    def __init__(
        self, dataset: SpeechDataset, tokenizer: Tokenizer, config: Config, num_devices: int = 1, share: Share = (0, 1)
    ):
        """Plan all batches of a data set that is not empty; no sound is read yet. Arguments as of `TrainLoader`."""
        self._rows, self._config = _Rows(dataset, tokenizer, config, share), config.data
        self.plan = BatchPlan(
            dataset.durations_s(),
            self._rows.lengths_u,
            batch_seconds=config.training.batch_seconds,
            num_buckets=config.data.num_buckets,
            sample_rate_hz=config.features.sample_rate_hz,
            device_multiple=config.training.row_multiple or num_devices,
            shuffle=False,
        )
        self.num_batches = self.plan.num_batches(0)

    def iterate(self) -> Iterator[Batch]:
        """Yield the batches, from short to long utterances; errors as in `TrainLoader.iterate`."""
        numbers = grain.MapDataset.range(self.num_batches)
        return read_ahead(numbers.map(lambda m: self._rows.load(self.plan.batch(0, int(m)))), self._config, 0)


def plan_training(durations_u: np.ndarray, lengths_u: np.ndarray, config: Config, num_devices: int = 1) -> BatchPlan:
    """Return the plan of a run; `lengths_u` counts each utterance's tokens, with the end of sentence."""
    return BatchPlan(
        durations_u,
        lengths_u,
        speeds=config.data.augment.speeds,
        batch_seconds=config.training.batch_seconds,
        num_buckets=config.data.num_buckets,
        sample_rate_hz=config.features.sample_rate_hz,
        device_multiple=(config.training.row_multiple or num_devices) * config.training.accumulate,
        seed=config.seed,
    )


def select_lengths(durations_u: np.ndarray, config: DataConfig) -> np.ndarray:
    """Return int64[kept], the utterances of an admitted length; log how many are left out."""
    short_u, long_u = durations_u < config.min_seconds, durations_u > config.max_seconds
    left_out = (
        f"{short_u.sum()} training utterances shorter than data.min_seconds = {config.min_seconds:g} "
        f"and {long_u.sum()} longer than data.max_seconds = {config.max_seconds:g} are left out"
    )
    kept = np.flatnonzero(~(short_u | long_u))
    if not len(kept):
        raise UserError(f"no training utterance is left: {left_out}")
    if len(kept) < len(durations_u):
        log.info("%s", left_out)
    return kept


def find_crowded(durations_u: np.ndarray, lengths_u: np.ndarray, features: FeaturesConfig) -> np.ndarray:
    """Return int64[crowded], the utterances with more tokens than frames, which have no CTC alignment."""
    samples_u = (durations_u * features.sample_rate_hz).astype(np.int64)
    return np.flatnonzero(lengths_u > num_feature_frames(samples_u, features))


class _Rows:
    """The utterances of a data set, tokenized, that are read into the rows of batches."""

    def __init__(self, dataset: SpeechDataset, tokenizer: Tokenizer, config: Config, share: Share = (0, 1)):
        self._dataset, self._rate_hz, self._share = dataset, config.features.sample_rate_hz, share
        self._durations_u = dataset.durations_s()
        # The predictor may learn to count one token more than the text has, the end of sentence.
        end = [END_ID] if config.model.predictor.append_eos else []
        # One array for all texts: an array for each utterance costs more memory than it holds.
        tokens, ends = array("i"), array("q", [0])
        for text in dataset.texts():
            tokens.extend(tokenizer.encode(text) + end)
            ends.append(len(tokens))
        self._tokens, self._ends = np.array(tokens, np.int32), np.array(ends)
        self.lengths_u = np.diff(self._ends)

    def load(self, planned: PlannedBatch, kept: np.ndarray | None = None) -> Batch:
        """Return a batch; `kept` maps the plan's utterances to those of the data set."""
        shape, (number, processes) = planned.shape, self._share
        num_rows = shape.batch_size // processes
        real_b = planned.index_b >= 0
        index_b = planned.index_b if kept is None else np.where(real_b, kept[planned.index_b], -1)
        batch = {
            "wave": np.zeros((num_rows, shape.num_samples), np.float32),
            "wave_lengths": np.zeros(num_rows, np.int32),
            "tokens": np.zeros((num_rows, shape.num_tokens), np.int32),
            "token_lengths": np.zeros(num_rows, np.int32),
            "index": index_b.astype(np.int32),
        }
        # Each process decodes only its own rows.
        first = number * num_rows
        for row in np.flatnonzero(real_b[first : first + num_rows]):
            index = int(index_b[first + row])
            # Changing the speed changes the sound's length, but not its text.
            tokens_u = self._tokens[self._ends[index] : self._ends[index + 1]]
            wave_n = self._read(index, float(planned.speed_b[first + row]))
            batch["wave"][row, : len(wave_n)] = wave_n
            batch["tokens"][row, : len(tokens_u)] = tokens_u
            batch["wave_lengths"][row], batch["token_lengths"][row] = len(wave_n), len(tokens_u)
        return batch

    def _read(self, index: int, speed: float) -> np.ndarray:
        utterance = read_checked(self._dataset, index, self._rate_hz)
        stated_s = self._durations_u[index]
        if utterance.duration_s > stated_s + TOLERANCE_S:
            raise UserError(
                f"{self._dataset.where(index)}: stated to be {stated_s:.2f} s long, but the sound has "
                f"{utterance.duration_s:.2f} s; correct the duration or leave it out"
            )
        return change_speed(utterance.wave, speed, self._rate_hz)


def read_ahead(batches: grain.MapDataset, config: DataConfig, start: int) -> Iterator[Batch]:
    """Yield `batches[start]`, `batches[start + 1]`, …, prepared ahead by threads that end with the iterator."""
    threads = config.num_threads
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=config.prefetch if threads else 0)
    with contextlib.closing(iter(batches.to_iter_dataset(options))) as iterator:
        iterator.set_state({"next_index": start})
        yield from iterator
