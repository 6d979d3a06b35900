"""Names and writes the results for each image.

`photo.jpg` gives `photo.png` (the mask: an indexed PNG of class numbers, with the colours of the classes as palette),
`photo_overlay.png`, `photo_objects.tif` with `photo_objects.csv`, and `photo_probabilities.npz`. A GeoTIFF, and a TIFF
that is read by windows, gives a mask in TIFF, and so do overlapping classes, which have a band each, 0 or 255. A stack
or a volume gives one of masks. Sub-folders are kept. If an earlier image has taken the name, the results are called
`photo_2`. A name that leads out of the folder or would control a terminal is replaced by a safe one. Files appear when
they are complete.
"""

import contextlib
import dataclasses
import functools
import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from seg.classes import ClassTable, MaskValues
from seg.config import DataConfig
from seg.data.images.image_kind import describe_folder, find_images, stem_of
from seg.data.images.large_image import first_page, geo_tags, is_large
from seg.data.images.stack import stack_suffix
from seg.errors import UserError
from seg.files import writing_aside
from seg.inference.mask_content import (
    describe_bands,
    flat,
    has_bands,
    palette_of,
    shown_labels,
    values_table,
    write_bands,
)
from seg.inference.mask_tiff import write_mask_tiff
from seg.inference.png_rows import GREY, INDEXED, RGB, PngRows
from seg.pictures import draw_overlay
from seg.untrusted import check_inside, name_key, safe_path

ROWS_AT_ONCE = 256
DEFAULTS = DataConfig()
MAX_OVERLAY_SIDE = 4096  # longer side of the overlay of an image that is read by windows, in pixels
MASK_SUFFIXES = (".png", ".tif", ".nii", ".nii.gz")


@dataclasses.dataclass(frozen=True)
class Job:
    """One image and the files of its results."""

    source: Path  # the image file
    stem: Path  # path of the results without suffix
    is_renamed: bool = False  # the name of the image was taken, or not safe
    data: DataConfig = DEFAULTS  # how the image is read
    has_bands: bool = False  # the mask has a band for each class

    @property
    def mask(self) -> Path:
        """The mask: an indexed PNG; a TIFF for a GeoTIFF, a TIFF read by windows, a stack and overlapping classes.

        That of a volume is a volume.
        """
        return self._named(self._mask_suffix)

    @functools.cached_property
    def stack_suffix(self) -> str:
        """The suffix of the masks of a file of several images; empty for other files."""
        return stack_suffix(self.source, self.data)

    @functools.cached_property
    def _mask_suffix(self) -> str:
        if self.stack_suffix:
            return self.stack_suffix
        if self.has_bands:
            return ".tif"
        with first_page(self.source) as page:
            is_tiff = page is not None and (geo_tags(page) or is_large(page, self.data.max_pixels))
        return ".tif" if is_tiff else ".png"

    def _named(self, end: str) -> Path:
        return self.stem.with_name(self.stem.name + end)

    @property
    def overlay(self) -> Path:
        """The image with the colours laid over it."""
        return self._named("_overlay.tif" if self.stack_suffix else "_overlay.png")

    @property
    def probabilities(self) -> Path:
        """The probabilities of all classes."""
        return self._named("_probabilities.npz")

    @property
    def objects(self) -> tuple[Path, Path]:
        """The numbers of the objects, and their table."""
        return self._named("_objects.tif"), self._named("_objects.csv")

    @property
    def results(self) -> tuple[Path, ...]:
        """Every file that may be written for this image."""
        return self.mask, self.overlay, *self.objects, self.probabilities

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that may be written for an image of this name."""
        others = "_overlay.png", "_overlay.tif", "_objects.tif", "_objects.csv", "_probabilities.npz"
        return tuple(map(self._named, (*MASK_SUFFIXES, *others)))


def plan_jobs(inputs: Sequence[Path], out: Path, data: DataConfig = DEFAULTS, *, has_bands: bool = False) -> list[Job]:
    """Return a job for each image, no two of which write the same file; `data` says how images are read.

    Folders are searched with their sub-folders in the order of names, except for `out`, the folder of the results. A
    result that would overwrite an input, or be outside of `out`, is refused.
    """
    images = [pair for path in inputs for pair in _find_images(path, out)]
    by_source: dict[Path, tuple[Path, Path]] = {}
    for source, parent in images:
        by_source.setdefault(source.resolve(), (source, parent))  # a file named twice is segmented once
    names = [(source, "/".join((*parent.parts, stem_of(source)))) for source, parent in by_source.values()]
    folders = {parent.as_posix() for _, name in names for parent in PurePosixPath(safe_path(name)).parents}
    taken = {name_key(folder) for folder in folders}
    jobs = [_free_job(source, out, name, taken, data, has_bands) for source, name in names]
    for job in jobs:
        check_inside(out, job.overlay)
        for file in job.files:
            if file.resolve() in by_source and file in job.results:
                raise UserError(
                    f"--out {out}: the results of {job.source} would overwrite the input {file}; choose another folder"
                )
    return jobs


@contextlib.contextmanager
def writing_together(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield a new, empty file for each path; after the body all of them take their names, or none does."""
    complete: list[tuple[Path, int]] = []
    try:
        with contextlib.ExitStack() as stack:
            asides = [stack.enter_context(writing_aside(path, parents=True)) for path in paths]
            yield asides
            complete += [(path, aside.stat().st_ino) for path, aside in zip(paths, asides, strict=True)]
    except BaseException:
        for path, inode in complete:
            with contextlib.suppress(OSError):  # it did not take its name
                if path.stat().st_ino == inode:
                    path.unlink()
        raise


@contextlib.contextmanager
def mask_file(
    path: Path, shape: tuple[int, int], classes: ClassTable, values: MaskValues = ()
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends rows of labels, uint8[rows, w], to a PNG of `shape`, which need not fit in memory.

    `values` are written for each class: k values make a grey PNG of 8 bits, or 16 if one needs them; k colours make an
    RGB one. Without them it is an indexed PNG of class numbers with the palette of the classes.
    """
    with _written(path) as file, mask_png(file, shape, classes, values) as append_rows:
        yield append_rows


@contextlib.contextmanager
def mask_png(
    file: BinaryIO, shape: tuple[int, int], classes: ClassTable, values: MaskValues = ()
) -> Iterator[Callable[[np.ndarray], None]]:
    """Like `mask_file`, into a file that is open."""
    table, palette = values_table(values), b"" if values else palette_of(classes).tobytes()
    colour = INDEXED if not values else RGB if np.ndim(values) == 2 else GREY
    png = PngRows(file, shape, colour, 8 * table.dtype.itemsize, palette)
    yield lambda labels: png.append(table[flat(labels)] if values else flat(labels))
    png.close()


def write_mask(
    path: Path,
    rows: Iterable[np.ndarray],
    shape: tuple[int, int],
    classes: ClassTable,
    values: MaskValues,
    job: Job,
) -> None:
    """Write the rows of labels, uint8[rows, w] or [rows, w, k], as they come, in the format of the job's mask."""
    if job.mask.suffix == ".png":
        with mask_file(path, shape, classes, values) as append_rows:
            for labels_hw in rows:
                append_rows(labels_hw)
        return
    shown, palette, dtype = shown_labels(classes, values)
    with first_page(job.source) as page, writing_aside(path) as aside:
        tags = geo_tags(page) if page is not None else []
        bands = describe_bands(classes)
        write_mask_tiff(aside, [map(shown, rows)], (1, *shape), palette, dtype, tags, bands)


def overlay_step(shape: tuple[int, int]) -> int:
    """Return the step between the pixels of a large image that its overlay shows."""
    return -(-max(shape) // MAX_OVERLAY_SIDE)


@contextlib.contextmanager
def overlay_file(
    path: Path, shape: tuple[int, int], classes: ClassTable
) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """Yield a function that appends rows of the image and of its labels to a PNG of the image with its colours."""
    with _written(path) as file, overlay_png(file, shape, classes) as append_rows:
        yield append_rows


@contextlib.contextmanager
def overlay_png(
    file: BinaryIO, shape: tuple[int, int], classes: ClassTable, opacity: float = 0.5
) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """Like `overlay_file`, into a file that is open."""
    png = PngRows(file, shape, RGB, level=1)

    def append(image_hwc: np.ndarray, labels_hw: np.ndarray) -> None:
        for top in range(0, len(image_hwc), ROWS_AT_ONCE):
            rows = slice(top, top + ROWS_AT_ONCE)
            png.append(draw_overlay(image_hwc[rows], labels_hw[rows], classes, opacity))

    yield append
    png.close()


@contextlib.contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    with writing_aside(path, parents=True) as aside, aside.open("wb") as file:
        yield file


def save_mask(path: Path, mask_hw: np.ndarray, classes: ClassTable, values: MaskValues = ()) -> None:
    """Write the labels of an image, uint8[h, w], as `mask_file` does, or uint8[h, w, k] as `write_bands` does."""
    if has_bands(classes):
        with writing_aside(path, parents=True) as aside:
            write_bands(aside, mask_hw, classes)
        return
    with mask_file(path, mask_hw.shape[:2], classes, values) as append_rows:
        append_rows(mask_hw)


@contextlib.contextmanager
def probabilities_file(path: Path, shape: tuple[int, int, int]) -> Iterator[Callable[[np.ndarray], object]]:
    """Yield a function that appends rows to an npz file of `shape` (h, w, k), which need not fit into memory.

    `np.load(path)["probabilities"]` is float16[h, w, k].
    """
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    with (
        writing_aside(path, parents=True) as aside,
        zipfile.ZipFile(aside, "w") as archive,
        archive.open("probabilities.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(member, header)
        yield lambda rows_hwk: member.write(rows_hwk.astype("<f2").tobytes())


def _find_images(path: Path, out: Path) -> list[tuple[Path, Path]]:
    """Return (file, its folder relative to `path`) of each image in a folder, or of the one file."""
    if not path.is_dir():
        return [(path, Path())]
    files = find_images(path)
    inside = out.resolve() if path.resolve() in out.resolve().parents else None
    images = [(f, f.parent.relative_to(path)) for f in files if not inside or not f.resolve().is_relative_to(inside)]
    if not images:
        raise UserError(f"{path}: no image is in this folder; {describe_folder(path)}")
    return images


def _free_job(source: Path, out: Path, own_name: str, taken: set[str], data: DataConfig, has_bands: bool) -> Job:
    """Return the job of an image under the first free name, and mark its files as taken."""
    for number in itertools.count(1):
        name = safe_path(own_name) if number == 1 else f"{safe_path(own_name)}_{number}"
        job = Job(source, out / name, name != own_name, data, has_bands)
        keys = {name_key(file.relative_to(out).as_posix()) for file in job.files}
        if not keys & taken:
            taken |= keys
            return job
    raise AssertionError("unreachable")
