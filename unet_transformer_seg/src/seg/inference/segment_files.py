"""Segments image files: reads, predicts, writes, and names each file that cannot be read or written."""

import contextlib
import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from seg.classes import MaskValues
from seg.config import DataConfig
from seg.data.image_file import read_image
from seg.data.images.remarks import Remarks
from seg.errors import UserError
from seg.files import refuses_all
from seg.inference.done_record import DoneRecord
from seg.inference.forward import most_probable_class
from seg.inference.output import Job, mask_file, overlay_file, probabilities_file, writing_together
from seg.inference.predictor import Predictor
from seg.untrusted import indented

Segmented = Iterator[tuple[Job, np.ndarray, np.ndarray | None]]  # (job, image uint8[h, w, 3], mask uint8[h, w])

Refuse = Callable[[Job, str], None]
"""Called with a job whose image cannot be read, or whose results cannot be written, and the reason."""

MAX_HELD_PIXELS = 1 << 25
"""Largest image whose mask is held in memory, in pixels; larger ones are written by rows."""

TOLD_PER_KIND = 20  # files that the remarks of one kind name


@dataclasses.dataclass(frozen=True)
class Options:
    """What is written for each image beside its mask."""

    overlay: bool = True  # whether to write the image with the colours of its classes
    probabilities: bool = False  # whether to write float16[h, w, k]
    values: MaskValues = ()  # value or colour of each class in the mask; empty: its number

    def results(self, job: Job) -> list[Path]:
        """Return the files of a job, the mask first and the probabilities last."""
        return [job.mask, *[job.overlay] * self.overlay, *[job.probabilities] * self.probabilities]


@dataclasses.dataclass
class Outcome:
    """Counts of the files."""

    num_done: int = 0  # images segmented
    num_bad: int = 0  # files that could not be read, or whose results could not be written, each named on stderr
    seconds: float = 0.0  # from the first file read to the last result written, compilation included


def segment_files(
    predictor: Predictor, jobs: Sequence[Job], options: Options, record: DoneRecord, outcome: Outcome
) -> None:
    """Write the results of all jobs; those of one image appear together. A disk that refuses every file ends it.

    `record` gets each job whose results are complete. `outcome` is updated file by file, so it is right after an
    exception, too.
    """
    start = time.perf_counter()
    with tqdm(total=len(jobs), unit="image", disable=None, file=sys.stderr) as bar:

        def refuse(job: Job, message: str) -> None:
            outcome.num_bad += 1
            bar.write(indented(f"error: {message}"), file=sys.stderr)
            bar.update()

        remark = Remarks(lambda text: bar.write(indented(text), file=sys.stderr), TOLD_PER_KIND)
        for job, _ in segment_each(predictor, jobs, options, refuse, remark):
            with _refusing(job, refuse):
                record.add(job.source, options.results(job))
                outcome.num_done += 1
                bar.update()
    outcome.seconds = time.perf_counter() - start


def segment_each(
    predictor: Predictor, jobs: Sequence[Job], options: Options, refuse: Refuse, remark: Remarks
) -> Iterator[tuple[Job, np.ndarray]]:
    """Write the results of each job, then yield (job, pixels int64[k] of each class); `refuse` gets the others.

    Raises:
        UserError: the disk refuses every file.
    """
    images = _readable(jobs, predictor.config.data, refuse, remark)
    for job, image_hwc, mask_hw in _segmented(predictor, images, options):
        is_complete = False
        with _refusing(job, refuse):
            with writing_together(options.results(job)) as asides:
                pixels_k = _write(predictor, image_hwc, mask_hw, options, asides)
            is_complete = True
        if is_complete:
            yield job, pixels_k


def _segmented(predictor: Predictor, images: Iterable[tuple[Job, np.ndarray]], options: Options) -> Segmented:
    """Yield each image with its mask, or with None where rows are written as they are computed."""
    by_rows = itertools.groupby(images, lambda item: options.probabilities or item[1][..., 0].size > MAX_HELD_PIXELS)
    for is_by_rows, group in by_rows:
        yield from ((job, image_hwc, None) for job, image_hwc in group) if is_by_rows else predictor.predict_many(group)


def _write(
    predictor: Predictor, image_hwc: np.ndarray, mask_hw: np.ndarray | None, options: Options, paths: Sequence[Path]
) -> np.ndarray:
    """Write the results of one image, without a mask row by row as they are computed; return the pixels int64[k]."""
    shape, classes = image_hwc.shape[:2], predictor.classes
    with contextlib.ExitStack() as stack:
        append_mask = stack.enter_context(mask_file(paths[0], shape, classes, options.values))
        append_overlay = stack.enter_context(overlay_file(paths[1], shape, classes)) if options.overlay else None
        append_probabilities = None
        if options.probabilities:
            file = probabilities_file(paths[-1], (*shape, len(classes)))
            append_probabilities = stack.enter_context(file)
        top, pixels_k = 0, np.zeros(len(classes), np.int64)
        for labels_hw, probabilities_hwk in _rows(predictor, image_hwc, mask_hw, options):
            append_mask(labels_hw)
            if append_overlay:
                append_overlay(image_hwc[top : top + len(labels_hw)], labels_hw)
            if append_probabilities:
                append_probabilities(probabilities_hwk)
            pixels_k += np.bincount(labels_hw.ravel(), minlength=len(classes))[: len(classes)]
            top += len(labels_hw)
    return pixels_k


def _rows(
    predictor: Predictor, image_hwc: np.ndarray, mask_hw: np.ndarray | None, options: Options
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield the labels and, if the options ask for them, probabilities of an image from top to bottom."""
    if options.probabilities:
        for band in predictor.predict_bands(image_hwc):
            yield most_probable_class(band.probabilities), band.probabilities
    else:
        for labels_hw in [mask_hw] if mask_hw is not None else predictor.predict_rows(image_hwc):
            yield labels_hw, None


def _readable(
    jobs: Sequence[Job], data: DataConfig, refuse: Refuse, remark: Remarks
) -> Iterator[tuple[Job, np.ndarray]]:
    """Yield (job, image) for each file that can be read."""
    for job in jobs:
        image_hwc = None
        with _refusing(job, refuse):
            image_hwc = read_image(job.source, data.max_pixels, data.value_range, remark)
        if image_hwc is not None:
            yield job, image_hwc


@contextlib.contextmanager
def _refusing(job: Job, refuse: Refuse) -> Iterator[None]:
    """Hand a file that cannot be read or written to `refuse`; raise if the disk refuses every file."""
    try:
        yield
    except UserError as error:
        if refuses_all(error):
            raise
        refuse(job, str(error))
