"""Segments a stack, image by image, and writes one stack of masks: a TIFF of pages, or a NIfTI volume of labels."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seg.data.dataset import count_labelled
from seg.data.images.nifti_file import is_nifti, read_header, volume_bytes
from seg.data.images.remarks import Remark
from seg.data.images.stack import Stack, opened_stack
from seg.errors import UserError
from seg.files import open_file
from seg.inference.mask_content import describe_bands, shown_labels
from seg.inference.mask_tiff import tiff_pages
from seg.inference.output import Job, probabilities_file
from seg.pictures import draw_overlay

if TYPE_CHECKING:
    from seg.inference.predictor import Predictor
    from seg.inference.segment_files import Options


def write_stack(
    predictor: "Predictor", job: Job, options: "Options", paths: Sequence[Path], remark: Remark
) -> np.ndarray:
    """Write the results of a stack and return the pixels of each class, int64[k].

    Args:
        predictor: the model.
        job: of the stack.
        options: what is written.
        paths: empty files in the order of `Options.results`.
        remark: called with what is dropped or guessed.

    Raises:
        UserError: naming the file: an image that cannot be read, or results that a stack cannot have.
    """
    if options.objects:
        raise UserError(
            f"{job.source}: the objects of a stack are not counted; leave --instances out, or set instances.method=none"
        )
    classes, pixels_k = predictor.classes, np.zeros(len(predictor.classes), np.int64)
    with opened_stack(job.source, predictor.config.data, remark) as images, contextlib.ExitStack() as files:
        if options.probabilities and len({page[:2] for page in images.pages}) > 1:
            raise UserError(
                f"{job.source}: its pages differ in size, so one array cannot hold their probabilities; leave "
                "--probabilities out, or save each page as a file of its own"
            )
        shape = (len(images), images.pages[0].height, images.pages[0].width)
        append_mask = files.enter_context(_masks_file(paths[0], job, predictor, options, shape))
        append_overlay = append_probabilities = None
        if options.overlay:
            append_overlay = files.enter_context(tiff_pages(paths[1], shape, np.uint8))
        if options.probabilities:
            append_probabilities = files.enter_context(probabilities_file(paths[-1], (*shape, len(classes))))
        for image_hwc, labels_hw, probabilities_hwk in _predicted(predictor, images, options):
            append_mask(labels_hw)
            if append_overlay:
                append_overlay(draw_overlay(predictor.picture(image_hwc), labels_hw, classes))
            if append_probabilities:
                append_probabilities(probabilities_hwk)
            pixels_k += count_labelled(labels_hw, len(classes))[0]
    return pixels_k


def _predicted(
    predictor: "Predictor", images: Stack, options: "Options"
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Yield each image with its labels and, if the options ask for them, its probabilities."""
    numbered = ((number, images[number]) for number in range(len(images)))
    if not options.probabilities:
        yield from ((image_hwc, labels_hw, None) for _, image_hwc, labels_hw in predictor.predict_many(numbered))
        return
    for _, image_hwc in numbered:
        probabilities_hwk = np.concatenate([band.probabilities for band in predictor.predict_bands(image_hwc)])
        yield image_hwc, predictor.labels.decide(probabilities_hwk), probabilities_hwk


@contextlib.contextmanager
def _masks_file(
    aside: Path, job: Job, predictor: "Predictor", options: "Options", shape: tuple[int, int, int]
) -> Iterator[Callable[[np.ndarray], object]]:
    """Yield a function that appends the labels of an image, uint8[h, w] or [h, w, k]; `shape` is [n, h, w]."""
    shown, palette, dtype = shown_labels(predictor.classes, options.values)
    if not is_nifti(job.source):
        with tiff_pages(aside, shape, dtype, palette, describe_bands(predictor.classes)) as append:
            yield lambda labels: append(shown(labels))
        return
    if np.ndim(options.values) == 2:
        raise UserError(f"{job.source}: the masks of a volume hold numbers; leave --values colours out")
    slices: list[np.ndarray] = []
    yield lambda labels: slices.append(shown(labels))
    with open_file(job.source) as file:
        header = read_header(file)
    axis, is_compressed = predictor.config.data.slice_axis, job.mask.suffix == ".gz"
    aside.write_bytes(volume_bytes(header, np.stack(slices), axis, is_compressed=is_compressed))
