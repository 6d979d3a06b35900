"""Segments image files one after the other: reads, predicts, writes; a file that cannot be read or written is named."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from seg.classes import MaskValues
from seg.config import DataConfig
from seg.data.image_file import read_image
from seg.data.remarks import Remarks
from seg.errors import UserError
from seg.files import refuses_all
from seg.inference.done_record import DoneRecord
from seg.inference.output import Job, probabilities_file, save_mask, save_overlay, writing_together
from seg.inference.predictor import Predictor
from seg.untrusted import indented

TOLD_PER_KIND = 20
"""Files named in the remarks of each kind."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is written for each image, besides its mask.

    Attributes:
        overlay: the image with the colours of its classes laid over it.
        probabilities: float16[h, w, k].
        values: what the mask holds for each class; empty: its number.
    """

    overlay: bool = True
    probabilities: bool = False
    values: MaskValues = ()

    def results(self, job: Job) -> list[Path]:
        """Return the files that are written for a job, the mask first and the probabilities last."""
        return [job.mask, *[job.overlay] * self.overlay, *[job.probabilities] * self.probabilities]


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
    predictor: Predictor, jobs: Sequence[Job], options: Options, record: DoneRecord, outcome: Outcome
) -> None:
    """Write the results of all jobs; those of one image appear together.

    Args:
        predictor: the model.
        jobs: what to read and where to write.
        options: what to write.
        record: gets each job whose results are complete.
        outcome: counts the files, also up to an exception.

    Raises:
        UserError: the disk is full, or refuses every file for another reason.
    """
    start = time.perf_counter()
    with tqdm(total=len(jobs), unit="image", disable=None, file=sys.stderr) as bar:
        images = read_images(jobs, predictor.config.data, outcome, bar)
        streamed = ((job, image_hwc, None) for job, image_hwc in images)
        for job, image_hwc, mask_hw in streamed if options.probabilities else predictor.predict_many(images):
            with _reporting(outcome, bar):
                paths = options.results(job)
                with writing_together(paths) as asides:
                    _write(predictor, image_hwc, mask_hw, options, asides)
                record.add(job.source, paths)
                outcome.num_done += 1
            bar.update()
    outcome.seconds = time.perf_counter() - start


def _write(
    predictor: Predictor, image_hwc: np.ndarray, mask_hw: np.ndarray | None, options: Options, paths: Sequence[Path]
) -> None:
    """Write the results of one image; the mask is made of the probabilities where those are written."""
    if mask_hw is None:
        mask_hw = _write_probabilities(predictor, image_hwc, paths[-1])
    save_mask(paths[0], mask_hw, predictor.classes, options.values)
    if options.overlay:
        save_overlay(paths[1], image_hwc, mask_hw, predictor.classes)


def _write_probabilities(predictor: Predictor, image_hwc: np.ndarray, path: Path) -> np.ndarray:
    """Write the probabilities while they are computed; return the mask, uint8[h, w]."""
    shape, mask_hw = image_hwc.shape[:2], np.empty(image_hwc.shape[:2], np.uint8)
    with probabilities_file(path, (*shape, len(predictor.classes))) as append_rows:
        for band in predictor.predict_bands(image_hwc):
            mask_hw[band.rows] = band.probabilities.argmax(-1)
            append_rows(band.probabilities)
    return mask_hw


def read_images(jobs: Sequence[Job], data: DataConfig, outcome: Outcome, bar: tqdm) -> Iterator[tuple[Job, np.ndarray]]:
    """Yield (job, image) for each file that can be read; the others are named on stderr and counted."""
    remark = Remarks(lambda text: bar.write(indented(text), file=sys.stderr), TOLD_PER_KIND)
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
        bar.write(indented(f"error: {error}"), file=sys.stderr)
