"""Segments image files one after the other: reads, predicts, writes, and goes on after a file that is no image."""

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from seg.data.image_file import read_image
from seg.errors import UserError
from seg.inference.output import Job, probabilities_file, save_mask, save_overlay
from seg.inference.predictor import Predictor

Segmented = Iterator[tuple[Job, np.ndarray, np.ndarray]]
"""(job, image uint8[h, w, 3], mask uint8[h, w])."""


@dataclasses.dataclass
class Outcome:
    """What became of the files.

    Attributes:
        num_done: images segmented.
        num_bad: files that could not be read; each was named on stderr.
        seconds: from the first file read to the last result written, compilation included.
    """

    num_done: int = 0
    num_bad: int = 0
    seconds: float = 0.0


def segment_files(predictor: Predictor, jobs: Sequence[Job], *, overlay: bool, probabilities: bool) -> Outcome:
    """Write the results of all jobs.

    Args:
        predictor: the model.
        jobs: what to read and where to write.
        overlay: write the overlays, too.
        probabilities: write the probabilities, too.

    Raises:
        UserError: a result cannot be written.
    """
    outcome, start = Outcome(), time.perf_counter()
    with tqdm(total=len(jobs), unit="image", disable=None, file=sys.stderr) as bar:
        images = read_images(jobs, predictor.config.data.max_pixels, outcome, bar)
        segmented = _with_probabilities(predictor, images) if probabilities else predictor.predict_many(images)
        for job, image_hwc, mask_hw in segmented:
            save_mask(job.mask, mask_hw, predictor.classes)
            if overlay:
                save_overlay(job.overlay, image_hwc, mask_hw, predictor.classes)
            outcome.num_done += 1
            bar.update()
    outcome.seconds = time.perf_counter() - start
    return outcome


def read_images(jobs: Sequence[Job], max_pixels: int, outcome: Outcome, bar: tqdm) -> Iterator[tuple[Job, np.ndarray]]:
    """Yield (job, image) for each file that can be read; the others are named on stderr and counted."""
    for job in jobs:
        try:
            image_hwc = read_image(job.source, max_pixels)
        except UserError as error:
            outcome.num_bad += 1
            bar.write(f"error: {error}", file=sys.stderr)
            bar.update()
        else:
            yield job, image_hwc


def _with_probabilities(predictor: Predictor, images: Iterator[tuple[Job, np.ndarray]]) -> Segmented:
    """Write the probabilities of each image while they are computed, and yield it with its mask."""
    for job, image_hwc in images:
        shape, mask_hw = image_hwc.shape[:2], np.empty(image_hwc.shape[:2], np.uint8)
        with probabilities_file(job.probabilities, (*shape, len(predictor.classes))) as append_rows:
            for band in predictor.predict_bands(image_hwc):
                mask_hw[band.rows] = band.probabilities.argmax(-1)
                append_rows(band.probabilities)
        yield job, image_hwc, mask_hw
