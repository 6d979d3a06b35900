"""Names and writes the results for each image.

`photo.jpg` gives `photo.png` (the mask: an indexed PNG of class numbers, with the colours of the classes as palette),
`photo_overlay.png` and `photo_probabilities.npz`. Sub-folders are kept. If an earlier image has taken the name, the
results are called `photo_2`. A name that leads out of the folder or would control a terminal is replaced by a safe one.
Files appear when they are complete.
"""

import contextlib
import dataclasses
import itertools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from seg.classes import IGNORE_LABEL, ClassTable, MaskValues
from seg.data.images.image_kind import describe_folder, find_images
from seg.errors import UserError
from seg.files import writing_aside
from seg.pictures import IGNORED_COLOUR, draw_overlay
from seg.untrusted import check_inside, name_key, safe_path

ROWS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Job:
    """One image and the files of its results."""

    source: Path  # the image file
    stem: Path  # path of the results without suffix
    is_renamed: bool = False  # the name of the image was taken, or not safe

    @property
    def mask(self) -> Path:
        """The indexed mask."""
        return self.stem.with_name(f"{self.stem.name}.png")

    @property
    def overlay(self) -> Path:
        """The image with the colours laid over it."""
        return self.stem.with_name(f"{self.stem.name}_overlay.png")

    @property
    def probabilities(self) -> Path:
        """The probabilities of all classes."""
        return self.stem.with_name(f"{self.stem.name}_probabilities.npz")

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """Every file that may be written."""
        return self.mask, self.overlay, self.probabilities


def plan_jobs(inputs: Sequence[Path], out: Path) -> list[Job]:
    """Return a job for each image, no two of which write the same file.

    Folders are searched with their sub-folders in the order of names, except for `out`, the folder of the results. A
    result that would overwrite an input, or be outside of `out`, is refused.
    """
    images = [pair for path in inputs for pair in _find_images(path, out)]
    by_source: dict[Path, tuple[Path, Path]] = {}
    for source, parent in images:
        by_source.setdefault(source.resolve(), (source, parent))  # a file named twice is segmented once
    names = [(source, "/".join((*parent.parts, source.stem))) for source, parent in by_source.values()]
    folders = {parent.as_posix() for _, name in names for parent in PurePosixPath(safe_path(name)).parents}
    taken = {name_key(folder) for folder in folders}
    jobs = [_free_job(source, out, name, taken) for source, name in names]
    for job in jobs:
        check_inside(out, job.mask)
        for file in job.files:
            if file.resolve() in by_source:
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
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = classes.palette
    palette[IGNORE_LABEL] = IGNORED_COLOUR
    wide = np.ndim(values) == 1 and max(values, default=0) > 255
    table = np.array(values, np.uint16 if wide else np.uint8)
    colour = INDEXED if not values else RGB if np.ndim(values) == 2 else GREY
    png = PngRows(file, shape, colour, 16 if wide else 8, b"" if values else palette.tobytes())
    yield lambda labels_hw: png.append(table[labels_hw] if values else labels_hw)
    png.close()


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
    """Write the labels of an image, uint8[h, w], as `mask_file` does."""
    with mask_file(path, mask_hw.shape, classes, values) as append_rows:
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


def _free_job(source: Path, out: Path, own_name: str, taken: set[str]) -> Job:
    """Return the job of an image under the first free name, and mark its files as taken."""
    for number in itertools.count(1):
        name = safe_path(own_name) if number == 1 else f"{safe_path(own_name)}_{number}"
        job = Job(source, out / name, is_renamed=name != own_name)
        keys = {name_key(file.relative_to(out).as_posix()) for file in job.files}
        if not keys & taken:
            taken |= keys
            return job
    raise AssertionError("unreachable")


SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, INDEXED = 0, 2, 3  # colour types
NO_FILTER, SUB = 0, 1  # filters of a row: none, or the difference to the pixel before
BUFFERED = 1 << 20  # smallest chunk of pixels, in bytes


class PngRows:
    """A PNG that is being written."""

    def __init__(
        self, file: BinaryIO, shape: tuple[int, int], colour: int, bits: int = 8, palette: bytes = b"", level: int = 6
    ):
        """Write the header; `colour` is `GREY`, `RGB` or `INDEXED`, `level` that of the compression, 1 (fast) to 9."""
        self._file, self._rows_left, self._bits = file, shape[0], bits
        self._filter = SUB if colour == RGB else NO_FILTER
        self._deflate, self._buffer = zlib.compressobj(level), bytearray()
        file.write(SIGNATURE)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", shape[1], shape[0], bits, colour, 0, 0, 0))
        if palette:
            self._chunk(b"PLTE", palette)

    def append(self, rows: np.ndarray) -> None:
        """Write uint8 or uint16 [rows, w], or [rows, w, 3]."""
        values = np.ascontiguousarray(rows.astype(">u2") if self._bits == 16 else rows)
        bytes_rn = values.view(np.uint8).reshape(len(rows), -1)
        filtered_rn = np.empty((len(rows), 1 + bytes_rn.shape[1]), np.uint8)
        filtered_rn[:, 0], filtered_rn[:, 1:] = self._filter, bytes_rn
        if self._filter == SUB:
            filtered_rn[:, 4:] -= bytes_rn[:, :-3]
        self._buffer += self._deflate.compress(filtered_rn)
        self._rows_left -= len(rows)
        if len(self._buffer) >= BUFFERED:
            self._flush()

    def close(self) -> None:
        """Write the end of the file."""
        if self._rows_left:
            raise ValueError(f"{self._rows_left} rows of the picture are missing")
        self._buffer += self._deflate.flush()
        self._flush()
        self._chunk(b"IEND", b"")

    def _flush(self) -> None:
        self._chunk(b"IDAT", bytes(self._buffer))
        self._buffer.clear()

    def _chunk(self, kind: bytes, content: bytes) -> None:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        self._file.write(struct.pack(">I", len(content)) + kind + content + checksum)
