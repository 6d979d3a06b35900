"""Batches of samples, prefetched by threads. The batch of a step is a pure function of (seed, step)."""

import contextlib
from collections.abc import Iterator

import grain
import numpy as np

from seg.classes import IGNORE_LABEL
from seg.config import DataConfig
from seg.data.dataset import SegmentationDataset, read_checked
from seg.data.fit import fit_sample

Batch = dict[str, np.ndarray]
"""image: uint8 or float32[b, h, w, c]; label: uint8[b, h, w] or [b, h, w, k], 255 = ignored; index: int32[b], -1 =
padding. In an evaluation also shape: int32[b, 2], rows and columns of the sample before resizing or cropping."""

Share = tuple[int, int]
"""(i, n): process i of n reads the i-th of n equal parts of each batch; (0, 1) reads all rows."""


class TrainLoader:
    """Endless batches of a data set, reshuffled in each epoch.

    Epochs follow each other without a gap: a batch may hold the last samples of one and the first of the next, so
    every batch is full and every sample occurs once per epoch. Position p = step · batch_size + i belongs to epoch
    p // len(dataset).

    Attributes:
        steps_per_epoch: batches per epoch, rounded up.
    """

    def __init__(
        self, dataset: SegmentationDataset, config: DataConfig, batch_size: int, seed: int, share: Share = (0, 1)
    ):
        """Describe the order without reading samples.

        `batch_size` counts over all processes, of which `share` is the part to read; `seed` decides the order, and the
        windows for `fit: crop`.
        """
        self.steps_per_epoch, self._config = -(-len(dataset) // batch_size), config

        def load(position: int, index: int) -> Batch:
            # The position, not the index, seeds the crop: a sample gets a new window in each epoch.
            return load_sample(dataset, config, int(index), np.random.default_rng((seed, position)))

        # A lazy array of endless length: element p is the sample at position p, of any epoch. Nothing but the step is
        # needed to resume, and every process computes the same order.
        order = grain.MapDataset.range(len(dataset)).seed(seed).shuffle().repeat()
        self._batches = take_share(order.map_with_index(load), batch_size, share)

    def batch_at(self, step: int) -> Batch:
        """Return the batch of one step, counted from 0, read in the calling thread."""
        return self._batches[step]

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches from `start_step` on, without end; the one with an unreadable or malformed sample fails."""
        return read_ahead(self._batches, self._config, start_step)


def iterate_eval(
    dataset: SegmentationDataset, config: DataConfig, batch_size: int, share: Share = (0, 1)
) -> Iterator[Batch]:
    """Yield all samples once, in order; with `fit: crop`, their central windows. An unreadable sample fails."""
    label_shape = (*config.size, len(dataset.classes)) if dataset.classes.overlapping else config.size

    def load_or_pad(index: int) -> Batch:
        if index < len(dataset):
            return load_sample(dataset, config, int(index), with_shape=True)
        image = np.zeros((*config.size, config.channels), config.precision)
        label = np.full(label_shape, IGNORE_LABEL, np.uint8)
        return {"image": image, "label": label, "index": np.int32(-1), "shape": np.zeros(2, np.int32)}

    # The last batch is padded to full size: one shape means one compilation, and every process has its rows.
    padded_length = -(-len(dataset) // batch_size) * batch_size
    return read_ahead(take_share(grain.MapDataset.range(padded_length).map(load_or_pad), batch_size, share), config, 0)


def take_share(samples: grain.MapDataset, batch_size: int, share: Share) -> grain.MapDataset:
    """Return the samples in batches that hold only the rows of the share."""
    number, processes = share
    # There are whole batches only, as the samples are endless or padded; grain's rounding up of an endless length
    # overflows.
    return samples.batch(batch_size // processes, drop_remainder=True, batch_fn=stack)[number::processes]


def stack(samples: list[Batch]) -> Batch:
    """Return the samples as one batch."""
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def load_sample(
    dataset: SegmentationDataset,
    config: DataConfig,
    index: int,
    rng: np.random.Generator | None = None,
    with_shape: bool = False,
) -> Batch:
    """Return one sample at the data size, as a batch without its first axis; `with_shape`: that before fitting."""
    sample = read_checked(dataset, index, config)
    fitted = fit_sample(sample, config, rng)
    batch = {"image": fitted.image, "label": fitted.mask, "index": np.int32(index)}
    return batch | {"shape": np.array(sample.mask.shape[:2], np.int32)} if with_shape else batch


def read_ahead(batches: grain.MapDataset, config: DataConfig, start: int) -> Iterator[Batch]:
    """Yield `batches[start]`, `batches[start + 1]`, …, prefetched by threads that end with the iterator."""
    threads = config.num_threads
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=config.prefetch if threads else 0)
    with contextlib.closing(iter(batches.to_iter_dataset(options))) as iterator:
        iterator.set_state({"next_index": start})
        yield from iterator
