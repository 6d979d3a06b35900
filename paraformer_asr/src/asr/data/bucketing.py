"""Which utterances make up which batch: similar lengths together, in a few fixed shapes.

A plan is made once for a run. Its shapes never change, so nothing is compiled again after each was seen once;
which batch comes where is a pure function of (seed, epoch).

Letters: b rows of a batch, k bucket, m batch of an epoch, u utterance, s speed.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from asr.data.bucket_edges import choose_edges

STEP_S = 0.1
"""Lengths of batches are whole multiples of it."""

MARGIN_S = 0.06
"""Room in each row for a stated duration that was rounded down, and for the rounding of a change of speed."""


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """The shape that all batches of a bucket have.

    Attributes:
        batch_size: rows.
        num_samples: samples of sound in a row.
        num_tokens: token positions in a row.
    """

    batch_size: int
    num_samples: int
    num_tokens: int


@dataclasses.dataclass(frozen=True, eq=False)
class PlannedBatch:
    """What a batch holds.

    Attributes:
        shape: of its arrays.
        index_b: int32[b], utterances; −1 in rows that are filled up, which are the last ones.
        speed_b: float64[b], the speed at which each is played.
    """

    shape: BatchShape
    index_b: np.ndarray
    speed_b: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class _Epoch:
    """The batches of one epoch: batch m has the utterances `order_u[start_m[m] : stop_m[m]]`."""

    bucket_m: np.ndarray
    start_m: np.ndarray
    stop_m: np.ndarray
    order_u: np.ndarray
    speed_u: np.ndarray


class BatchPlan:
    """Batches for every epoch; each utterance comes once in each.

    In every epoch each utterance draws a speed, which gives its length and so its bucket. What does not fill a
    batch of its bucket moves up to the next longer one where that costs less padding than filling the batch up
    with empty rows; so about one batch of an epoch is incomplete.

    Attributes:
        shapes: of the buckets, from short to long; at most `num_buckets`.
    """

    def __init__(
        self,
        durations_s: np.ndarray,
        token_counts: np.ndarray,
        *,
        batch_seconds: float,
        num_buckets: int,
        sample_rate_hz: int,
        speeds: Sequence[float] = (1.0,),
        device_multiple: int = 1,
        seed: int = 0,
        shuffle: bool = True,
    ):
        """Choose the shapes.

        Args:
            durations_s: float64[u], length of each utterance in seconds, at speed 1; at least one utterance.
            token_counts: int[u], tokens of each, the end of sentence counted where there is one.
            batch_seconds: most seconds of sound in a batch, padding counted; where a single row for each device
                is longer, it is exceeded.
            num_buckets: most shapes.
            sample_rate_hz: samples in a second.
            speeds: one is drawn for each utterance and epoch.
            device_multiple: every batch size is a multiple of it.
            seed: of the speeds and the order.
            shuffle: False keeps the utterances of a bucket, and the buckets, in order.
        """
        self._durations_u, self._speeds_s = np.asarray(durations_s, np.float64), np.asarray(speeds, np.float64)
        self._seed, self._shuffle = seed, shuffle

        def batch_size(length):
            return (
                np.maximum(batch_seconds / (length * STEP_S) // device_multiple, 1).astype(np.int64) * device_multiple
            )

        # lengths count in steps from here on
        length_us = (self._durations_u[:, None] + MARGIN_S) / self._speeds_s[None] / STEP_S
        length_us = np.ceil(length_us - 1e-9).astype(np.int64)
        self._length_k = choose_edges(length_us, num_buckets, batch_size, draws=len(speeds))
        self._size_k = batch_size(self._length_k)
        self._bucket_us = np.searchsorted(self._length_k, length_us).astype(np.int8)
        tokens_k = np.ones(len(self._length_k), np.int64)
        np.maximum.at(tokens_k, self._bucket_us, np.asarray(token_counts, np.int64)[:, None])
        tokens_k = np.maximum.accumulate(tokens_k)  # those that move up have room too
        samples_k = np.ceil(self._length_k * STEP_S * sample_rate_hz - 1e-6).astype(np.int64)
        sizes = zip(self._size_k.tolist(), samples_k.tolist(), tokens_k.tolist(), strict=True)
        self.shapes = tuple(BatchShape(*size) for size in sizes)
        self._epoch = functools.lru_cache(maxsize=4)(self._draw_epoch)

    def num_batches(self, epoch: int) -> int:
        """Return the number of batches of an epoch; it varies a little where speeds are drawn."""
        return int(self._share_out(self._draw_speeds(self._generator(epoch)))[0].sum())

    def epoch_starts(self, num_epochs: int) -> np.ndarray:
        """Return int64[num_epochs + 1], the steps, counted from 0 over all epochs, at which the epochs begin."""
        if len(self._speeds_s) == 1:
            return np.arange(num_epochs + 1, dtype=np.int64) * self.num_batches(0)
        return np.cumsum([0] + [self.num_batches(epoch) for epoch in range(num_epochs)], dtype=np.int64)

    def batch(self, epoch: int, number: int) -> PlannedBatch:
        """Return batch `number` of an epoch, both counted from 0."""
        plan = self._epoch(epoch)
        shape = self.shapes[plan.bucket_m[number]]
        rows = plan.order_u[plan.start_m[number] : plan.stop_m[number]]
        index_b = np.full(shape.batch_size, -1, np.int32)
        index_b[: len(rows)] = rows
        return PlannedBatch(shape, index_b, np.where(index_b >= 0, plan.speed_u[index_b], 1.0))

    def padding_share(self, epoch: int) -> float:
        """Return which share of an epoch's samples is padding, empty rows counted."""
        plan = self._epoch(epoch)
        padded_s = STEP_S * (self._length_k * self._size_k)[plan.bucket_m].sum()
        return float(1.0 - (self._durations_u / plan.speed_u).sum() / padded_s)

    def _generator(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, epoch))

    def _draw_speeds(self, rng: np.random.Generator) -> np.ndarray:
        """Return int64[u], the number of each utterance's speed; the first draw of an epoch."""
        return rng.integers(len(self._speeds_s), size=len(self._durations_u))

    def _buckets(self, speed_number_u: np.ndarray) -> np.ndarray:
        return np.take_along_axis(self._bucket_us, speed_number_u[:, None], axis=1)[:, 0]

    def _share_out(self, speed_number_u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return int64[k], batches of each bucket, and int64[k], utterances that move up from it to the next."""
        num_buckets = len(self.shapes)
        waiting_k = np.bincount(self._buckets(speed_number_u), minlength=num_buckets)
        batches_k, moved_k = np.zeros((2, num_buckets), np.int64)
        rest = 0
        for k, size in enumerate(self._size_k):
            batches_k[k], rest = divmod(waiting_k[k] + rest, size)
            if k + 1 < num_buckets and rest * self._length_k[k + 1] <= size * self._length_k[k]:
                moved_k[k] = rest
            else:
                batches_k[k] += rest > 0
                rest = 0
        return batches_k, moved_k

    def _draw_epoch(self, epoch: int) -> _Epoch:
        rng = self._generator(epoch)
        speed_number_u = self._draw_speeds(rng)
        bucket_u = self._buckets(speed_number_u)
        order_u = rng.permutation(len(bucket_u)) if self._shuffle else np.arange(len(bucket_u))
        order_u = order_u[np.argsort(bucket_u[order_u], kind="stable")]
        batches_k, moved_k = self._share_out(speed_number_u)
        # Those that move up are the last of their bucket: the next one begins so much earlier.
        stop_k = np.cumsum(np.bincount(bucket_u, minlength=len(self.shapes))) - moved_k
        start_k = np.concatenate([[0], stop_k[:-1]])
        bucket_m = np.repeat(np.arange(len(self.shapes)), batches_k)
        number_m = np.arange(len(bucket_m)) - np.repeat(np.cumsum(batches_k) - batches_k, batches_k)
        if self._shuffle:
            turn_m = rng.permutation(len(bucket_m))
            bucket_m, number_m = bucket_m[turn_m], number_m[turn_m]
        start_m = start_k[bucket_m] + number_m * self._size_k[bucket_m]
        stop_m = np.minimum(start_m + self._size_k[bucket_m], stop_k[bucket_m])
        return _Epoch(bucket_m, start_m, stop_m, order_u, self._speeds_s[speed_number_u])
