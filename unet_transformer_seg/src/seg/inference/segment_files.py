"""Segments image files one after the other: reads, predicts, writes; a file that cannot be read or written is named."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from seg.classes import MaskValues
from seg.config import DataConfig
from seg.data.image_file import read_image
from seg.data.remarks import Remarks
from seg.errors import UserError
from seg.files import refuses_all
from seg.inference.output import Job, probabilities_file, save_mask, save_overlay
from seg.inference.predictor import Predictor

TOLD_PER_KIND = 20
"""Files named in the remarks of each kind."""

Segmented = Iterator[tuple[Job, np.ndarray, np.ndarray]]
"""(job, image uint8[h, w, 3], mask uint8[h, w])."""


@dataclasses.dataclass
class Outcome:
    """What became of the files.

    Attributes:
        num_done: images segmented.
        num_bad: files that could not be read, or whose results could not be written; each was named on stderr.
        seconds: from the first file read to the last result written, compilation included.
    """

    num_done: int = 0
    num_bad: int = 0
    seconds: float = 0.0


def segment_files(
    predictor: Predictor, jobs: Sequence[Job], *, overlay: bool, probabilities: bool, values: MaskValues = ()
) -> Outcome:
    """Write the results of all jobs.

    Args:
        predictor: the model.
        jobs: what to read and where to write.
        overlay: write the overlays, too.
        probabilities: write the probabilities, too.
        values: what the masks hold for each class; empty: its number.

    Raises:
        UserError: the disk is full, or refuses every file for another reason.
    """
    outcome, start = Outcome(), time.perf_counter()
    with tqdm(total=len(jobs), unit="image", disable=None, file=sys.stderr) as bar:
        images = read_images(jobs, predictor.config.data, outcome, bar)
        segmented = (
            _with_probabilities(predictor, images, outcome, bar) if probabilities else predictor.predict_many(images)
        )
        for job, image_hwc, mask_hw in segmented:
            with _reporting(outcome, bar):
                save_mask(job.mask, mask_hw, predictor.classes, values)
                if overlay:
                    save_overlay(job.overlay, image_hwc, mask_hw, predictor.classes)
                outcome.num_done += 1
            bar.update()
    outcome.seconds = time.perf_counter() - start
    return outcome


def read_images(jobs: Sequence[Job], data: DataConfig, outcome: Outcome, bar: tqdm) -> Iterator[tuple[Job, np.ndarray]]:
    """Yield (job, image) for each file that can be read; the others are named on stderr and counted."""
    remark = Remarks(lambda text: bar.write(text, file=sys.stderr), TOLD_PER_KIND)
    for job in jobs:
        image_hwc = None
        with _reporting(outcome, bar):
            image_hwc = read_image(job.source, data.max_pixels, data.value_range, remark)
        if image_hwc is None:
            bar.update()
        else:
            yield job, image_hwc


@contextlib.contextmanager
def _reporting(outcome: Outcome, bar: tqdm) -> Iterator[None]:
    """Name a file that cannot be read or written on stderr, and count it; a disk that refuses all files is an error."""
    try:
        yield
    except UserError as error:
        if refuses_all(error):
            raise
        outcome.num_bad += 1
        bar.write(f"error: {error}", file=sys.stderr)


def _with_probabilities(
    predictor: Predictor, images: Iterator[tuple[Job, np.ndarray]], outcome: Outcome, bar: tqdm
) -> Segmented:
    """Write the probabilities of each image while they are computed, and yield it with its mask."""
    for job, image_hwc in images:
        shape, mask_hw = image_hwc.shape[:2], np.empty(image_hwc.shape[:2], np.uint8)
        num_bad = outcome.num_bad
        with (
            _reporting(outcome, bar),
            probabilities_file(job.probabilities, (*shape, len(predictor.classes))) as append_rows,
        ):
            for band in predictor.predict_bands(image_hwc):
                mask_hw[band.rows] = band.probabilities.argmax(-1)
                append_rows(band.probabilities)
        if outcome.num_bad == num_bad:
            yield job, image_hwc, mask_hw
        else:
            bar.update()
