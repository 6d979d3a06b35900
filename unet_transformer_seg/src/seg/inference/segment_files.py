"""Segments image files: reads, predicts, writes, and names each file that cannot be read or written."""

import contextlib
import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from seg.classes import MaskValues
from seg.config import Config
from seg.data.dataset import count_labelled
from seg.data.image_file import read_image
from seg.data.images.large_image import LargeImage, opened_large
from seg.data.images.remarks import Remarks
from seg.errors import UserError
from seg.files import refuses_all
from seg.inference.done_record import DoneRecord
from seg.inference.output import Job, overlay_file, overlay_step, probabilities_file, write_mask, writing_together
from seg.inference.predictor import Predictor
from seg.inference.segment_stack import write_stack
from seg.instances.object_files import save_numbers, save_table
from seg.instances.objects import check_countable, find_objects
from seg.untrusted import indented

Image = np.ndarray | LargeImage  # [h, w, c] as `Sample.image`
Segmented = Iterator[tuple[Job, Image, np.ndarray | None]]  # (job, image, mask uint8[h, w])

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
    objects: bool = False  # whether to number the objects and write a table of them
    values: MaskValues = ()  # value or colour of each class in the mask; empty: its number

    def results(self, job: Job) -> list[Path]:
        """Return the files of a job, the mask first and the probabilities last."""
        named = [job.mask, *[job.overlay] * self.overlay, *(job.objects if self.objects else ())]
        return [*named, *[job.probabilities] * self.probabilities]


@dataclasses.dataclass
class Outcome:
    """Counts of the files."""

    num_done: int = 0  # images segmented
    num_bad: int = 0  # files that could not be read, or whose results could not be written, each named on stderr
    objects_k: np.ndarray | int = 0  # int64[k], objects of each class, if they are counted
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
        for job, _, objects_k in segment_each(predictor, jobs, options, refuse, remark):
            with _refusing(job, refuse):
                record.add(job.source, options.results(job))
                outcome.num_done += 1
                outcome.objects_k += objects_k
                bar.update()
    outcome.seconds = time.perf_counter() - start


def segment_each(
    predictor: Predictor, jobs: Sequence[Job], options: Options, refuse: Refuse, remark: Remarks
) -> Iterator[tuple[Job, np.ndarray, np.ndarray]]:
    """Write the results of each job, then yield (job, pixels and objects of each class); `refuse` gets the others.

    Pixels and objects are int64[k]; objects are 0 unless the options ask for them.

    Raises:
        UserError: the disk refuses every file.
    """
    for is_stack, group in itertools.groupby(jobs, lambda job: bool(job.stack_suffix)):
        segment = _segment_stacks if is_stack else _segment_images
        yield from segment(predictor, group, options, refuse, remark)


def _segment_images(
    predictor: Predictor, jobs: Iterable[Job], options: Options, refuse: Refuse, remark: Remarks
) -> Iterator[tuple[Job, np.ndarray, np.ndarray]]:
    images = _readable(jobs, predictor.config, refuse, remark)
    for job, image_hwc, mask_hw in _segmented(predictor, images, options):
        is_complete = False
        with _refusing(job, refuse):
            with writing_together(options.results(job)) as asides:
                counts = _write(predictor, job, image_hwc, mask_hw, options, asides)
            is_complete = True
        if is_complete:
            yield job, *counts


def _segment_stacks(
    predictor: Predictor, jobs: Iterable[Job], options: Options, refuse: Refuse, remark: Remarks
) -> Iterator[tuple[Job, np.ndarray, np.ndarray]]:
    for job in jobs:
        is_complete = False
        with _refusing(job, refuse):
            with writing_together(options.results(job)) as asides:
                pixels_k = write_stack(predictor, job, options, asides, remark)
            is_complete = True
        if is_complete:
            yield job, pixels_k, np.zeros_like(pixels_k)


def _segmented(predictor: Predictor, images: Iterable[tuple[Job, Image]], options: Options) -> Segmented:
    """Yield each image with its mask, or with None where rows are written as they are computed."""

    def is_by_rows(item: tuple[Job, Image]) -> bool:
        return options.probabilities or math.prod(item[1].shape[:2]) > MAX_HELD_PIXELS or _is_large(item[1])

    groups = itertools.groupby(images, is_by_rows)
    for by_rows, group in groups:
        yield from ((job, image_hwc, None) for job, image_hwc in group) if by_rows else predictor.predict_many(group)


def _write(
    predictor: Predictor,
    job: Job,
    image_hwc: Image,
    mask_hw: np.ndarray | None,
    options: Options,
    paths: Sequence[Path],
) -> tuple[np.ndarray, np.ndarray]:
    """Write the results of one image, without a mask row by row as they are computed; return pixels and objects."""
    shape, classes, pixels_k = image_hwc.shape[:2], predictor.classes, np.zeros(len(predictor.classes), np.int64)
    if options.objects:
        check_countable(math.prod(shape))
    picture_hwc = image_hwc if _is_large(image_hwc) or not options.overlay else predictor.picture(image_hwc)
    held: list[np.ndarray] = []
    step = overlay_step(shape) if _is_large(image_hwc) else 1
    with contextlib.ExitStack() as stack:
        append_overlay = append_probabilities = None
        if options.overlay:
            reduced = tuple(-(-side // step) for side in shape)
            append_overlay = stack.enter_context(overlay_file(paths[1], reduced, classes))
        if options.probabilities:
            file = probabilities_file(paths[-1], (*shape, len(classes)))
            append_probabilities = stack.enter_context(file)

        def rows() -> Iterator[np.ndarray]:
            top = 0
            for labels_hw, probabilities_hwk in _rows(predictor, image_hwc, mask_hw, options):
                if append_overlay:
                    rows_hwc, thinned_hw = _every(step, picture_hwc, labels_hw, top)
                    append_overlay(
                        predictor.picture(rows_hwc, (0, 1)) if _is_large(image_hwc) else rows_hwc, thinned_hw
                    )
                if append_probabilities:
                    append_probabilities(probabilities_hwk)
                np.add(pixels_k, count_labelled(labels_hw, len(classes))[0], out=pixels_k)
                top += len(labels_hw)
                if options.objects:
                    held.append(labels_hw)
                yield labels_hw

        write_mask(paths[0], rows(), shape, classes, options.values, job)
    if not options.objects:
        return pixels_k, np.zeros_like(pixels_k)
    objects = find_objects(np.concatenate(held), predictor.config.instances, classes.names)
    numbers_path, table_path = paths[1 + options.overlay :][:2]
    save_numbers(numbers_path, objects)
    save_table(table_path, objects)
    return pixels_k, np.bincount(objects.labels, minlength=len(classes))


def _every(step: int, image_hwc: Image, labels_hw: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return every `step`-th row and column, counted from the image's first, of the image and of labels from `top`."""
    end, width = top + len(labels_hw), labels_hw.shape[1]
    if step == 1:
        return image_hwc[top:end, 0:width], labels_hw
    first = -(-top // step) * step
    rows = [image_hwc[row : row + 1, 0:width][:, ::step] for row in range(first, end, step)]
    if not rows:
        rows = [np.empty((0, -(-width // step), image_hwc.shape[2]), image_hwc.dtype)]
    return np.concatenate(rows), labels_hw[first - top :: step, ::step]


def _rows(
    predictor: Predictor, image_hwc: Image, mask_hw: np.ndarray | None, options: Options
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield the labels and, if the options ask for them, probabilities of an image from top to bottom."""
    if options.probabilities:
        for band in predictor.predict_bands(image_hwc):
            yield predictor.labels.decide(band.probabilities), band.probabilities
    else:
        for labels_hw in [mask_hw] if mask_hw is not None else predictor.predict_rows(image_hwc):
            yield labels_hw, None


def _readable(jobs: Iterable[Job], config: Config, refuse: Refuse, remark: Remarks) -> Iterator[tuple[Job, Image]]:
    """Yield (job, image) for each file that can be read; a large TIFF is open until the next one is asked for."""
    for job in jobs:
        with contextlib.ExitStack() as stack:
            image_hwc = None
            with _refusing(job, refuse):
                image_hwc = stack.enter_context(opened_large(job.source, config, remark))
                if image_hwc is None:
                    image_hwc = read_image(job.source, config.data, remark)
            if image_hwc is not None:
                yield job, image_hwc


def _is_large(image_hwc: Image) -> bool:
    return isinstance(image_hwc, LargeImage)


@contextlib.contextmanager
def _refusing(job: Job, refuse: Refuse) -> Iterator[None]:
    """Hand a file that cannot be read or written to `refuse`; raise if the disk refuses every file."""
    try:
        yield
    except UserError as error:
        if refuses_all(error):
            raise
        refuse(job, str(error))
