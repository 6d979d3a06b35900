"""Where the results for each image go, and how they are written.

Of `photo.jpg` come `photo.png` (the mask: an indexed PNG, its values the classes, its palette their colours),
`photo_overlay.png` and `photo_probabilities.npz`. The sub-folders of a folder are kept. Where a name is taken by an
earlier image, the later one becomes `photo_2`, whatever its own suffix is, and a name that would lead out of the folder
or steer a terminal becomes a safe one. A file appears when it is complete.
"""

import contextlib
import dataclasses
import itertools
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from seg.classes import IGNORE_LABEL, ClassTable, MaskValues
from seg.data.image_names import describe_folder, find_images
from seg.errors import UserError
from seg.file_names import check_inside, name_key, safe_path
from seg.files import writing_aside
from seg.pictures import IGNORED_COLOUR, draw_overlay

ROWS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Job:
    """One image and the files that come of it.

    Attributes:
        source: the image file.
        stem: path of the results, without what follows the stem.
        is_renamed: their own name was taken, or would not be safe.
    """

    source: Path
    stem: Path
    is_renamed: bool = False

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
        """All that may be written."""
        return self.mask, self.overlay, self.probabilities


def plan_jobs(inputs: Sequence[Path], out: Path) -> list[Job]:
    """Return a job for each image, no two of which write the same file.

    Args:
        inputs: files, taken as they are, and folders, searched with their sub-folders in the order of the names.
        out: folder of the results; if it lies inside an input folder, it is not searched.

    Raises:
        UserError: no image in a folder, or a result would overwrite an input or lie outside of `out`.
    """
    found = [pair for path in inputs for pair in _find_images(path, out)]
    by_source: dict[Path, tuple[Path, Path]] = {}
    for source, parent in found:
        by_source.setdefault(source.resolve(), (source, parent))  # a file given twice is segmented once
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
    """Give a new, empty file for each path; after the body all of them take their names, or none does.

    Raises:
        UserError: naming a path: the disk refuses.
    """
    complete: list[tuple[Path, int]] = []
    try:
        with contextlib.ExitStack() as stack:
            asides = [stack.enter_context(writing_aside(path, parents=True)) for path in paths]
            yield asides
            complete += [(path, aside.stat().st_ino) for path, aside in zip(paths, asides, strict=True)]
    except BaseException:
        for path, inode in complete:
            with contextlib.suppress(OSError):  # it never took its name
                if path.stat().st_ino == inode:
                    path.unlink()
        raise


def save_mask(path: Path, mask_hw: np.ndarray, classes: ClassTable, values: MaskValues = ()) -> None:
    """Write labels as a PNG.

    Args:
        path: the file.
        mask_hw: uint8[h, w], 0 … k-1.
        classes: their colours.
        values: what is written for each class: k values make a grey PNG of 8 bits, or of 16 where one needs them,
            k colours an RGB one. Without them it is an indexed PNG of the labels, its palette that of the classes.
    """
    if values:
        wide = np.ndim(values) == 1 and max(values) > 255
        picture = Image.fromarray(np.array(values, np.uint16 if wide else np.uint8)[mask_hw])
        with writing_aside(path, parents=True) as aside:
            picture.save(aside, format="PNG")
        return
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = classes.palette
    palette[IGNORE_LABEL] = IGNORED_COLOUR
    picture = Image.fromarray(mask_hw)
    picture.putpalette(palette.tobytes())
    with writing_aside(path, parents=True) as aside:
        picture.save(aside, format="PNG")


def save_overlay(path: Path, image_hwc: np.ndarray, mask_hw: np.ndarray, classes: ClassTable) -> None:
    """Write the image with the colours of its classes laid over it; some rows at a time, to spare memory."""
    overlay_hwc = np.empty_like(image_hwc)
    for top in range(0, len(image_hwc), ROWS_AT_ONCE):
        rows = slice(top, top + ROWS_AT_ONCE)
        overlay_hwc[rows] = draw_overlay(image_hwc[rows], mask_hw[rows], classes)
    with writing_aside(path, parents=True) as aside:
        Image.fromarray(overlay_hwc).save(aside, format="PNG", compress_level=1)


@contextlib.contextmanager
def probabilities_file(path: Path, shape: tuple[int, int, int]) -> Iterator[Callable[[np.ndarray], object]]:
    """Give a function that appends rows to an npz file, so that the whole is never in memory.

    `np.load(path)["probabilities"]` is float16[h, w, k].

    Args:
        path: the file.
        shape: (h, w, k) of the whole.
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
    """Return (file, its folder relative to `path`) of each image below a folder, or of the one file."""
    if not path.is_dir():
        return [(path, Path())]
    files = find_images(path)
    inside = out.resolve() if path.resolve() in out.resolve().parents else None
    found = [(f, f.parent.relative_to(path)) for f in files if not inside or not f.resolve().is_relative_to(inside)]
    if not found:
        raise UserError(f"{path}: no image is in this folder; {describe_folder(path)}")
    return found


def _free_job(source: Path, out: Path, own_name: str, taken: set[str]) -> Job:
    """Return the job of an image under the first name that is free, and take its files."""
    for number in itertools.count(1):
        name = safe_path(own_name) if number == 1 else f"{safe_path(own_name)}_{number}"
        job = Job(source, out / name, is_renamed=name != own_name)
        keys = {name_key(file.relative_to(out).as_posix()) for file in job.files}
        if not keys & taken:
            taken |= keys
            return job
    raise AssertionError("unreachable")
