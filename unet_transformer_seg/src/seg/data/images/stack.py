"""The images of a file that holds several: slices of a volume, frames of a DICOM file, pages of a TIFF."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from seg.config import DataConfig
from seg.data.images import dicom_file, tiff_file
from seg.data.images.container import Container, LazyPages, Page, naming_damage
from seg.data.images.dicom_file import open_dicom
from seg.data.images.nifti_file import is_nifti, open_nifti
from seg.data.images.pixel_values import Scale, image_of_array
from seg.data.images.remarks import Note, Remark
from seg.data.images.tiff_file import is_beyond_pillow, open_tiff
from seg.data.images.value_range import scale
from seg.errors import UserError
from seg.files import open_file

MAX_SHOWN = 5  # sizes of pages that a message names


class Stack:
    """The images of an open file, by number.

    Attributes:
        pages: what the header says of each.
    """

    def __init__(self, path: Path, container: Container, config: DataConfig, remark: Remark):
        self._path, self._container, self._config = path, container, config
        self.pages = LazyPages(len(container.pages), self._describe)
        self._note: Note = lambda kind, text: remark(kind, path, text)

    def _describe(self, number: int) -> Page:
        with naming_damage(self._path):
            return self._container.pages[number]

    def __len__(self) -> int:
        return len(self.pages)

    def __getitem__(self, number: int) -> np.ndarray:
        """Return [h, w, c] as `Sample.image`."""
        return self.image(number)

    def image(self, number: int, scaled: Scale = scale) -> np.ndarray:
        """Return [h, w, c] with the channels of the data set and values as `scaled` returns them."""
        values_hwc = self.values(number)
        page = self.pages[number]
        if page.palette is not None:
            values_hwc = page.palette[values_hwc[..., 0]]
        stated = page.stated_bits, page.is_inverted, page.has_alpha
        with naming_damage(self._path):
            return image_of_array(values_hwc, self._config, self._note, *stated, scaled)

    def values(self, number: int) -> np.ndarray:
        """Return [h, w, c] of the file's own type."""
        with naming_damage(self._path):
            if number >= len(self):
                raise UserError(f"it has {len(self)} pages, and page {number + 1} was expected")
            return self._container.read(number)

    def single(self, number: int | None) -> int:
        """Return the number; None stands for the only image."""
        if number is None and len(self) > 1:
            sizes = list(dict.fromkeys(f"{page.height}×{page.width}" for page in self.pages))[:MAX_SHOWN]
            raise UserError(
                f"{self._path}: {len(self)} pages (height×width {', '.join(sizes)}) where one image was expected; "
                f"seg infer segments them all; elsewhere save each of them, 1 to {len(self)}, as a file of its own"
            )
        return number or 0


def is_stack(path: Path, config: DataConfig) -> bool:
    """Return whether a file is read as one of several images, by its name or its first bytes."""
    return is_nifti(path) or _is_dicom(path) or _is_tiff(path, config)


def open_container(path: Path, file: BinaryIO, config: DataConfig) -> Container:
    """Return an open file of which `is_stack` is true; errors do not name it."""
    if is_nifti(path):
        return open_nifti(file, config.max_pixels, config.slice_axis)
    if _is_dicom(path):
        return open_dicom(file, config.max_pixels)
    return open_tiff(file, config.max_pixels, config.channels)


@contextlib.contextmanager
def opened_stack(path: Path, config: DataConfig, remark: Remark) -> Iterator[Stack]:
    """Yield the images of a file of which `is_stack` is true.

    Raises:
        UserError: naming the file: missing, no such file, too large, or a missing package.
    """
    with contextlib.ExitStack() as stack:
        with naming_damage(path):
            try:
                file = stack.enter_context(open_file(path))
            except OSError as error:
                raise UserError(f"cannot be read ({error.strerror or error})") from None
            container = open_container(path, file, config)
        yield Stack(path, container, config, remark)


def count_images(path: Path, config: DataConfig) -> int:
    """Return the number of images in a file; 1 for one that cannot be opened: reading it raises the error."""
    try:
        if not is_stack(path, config):
            return 1
        with opened_stack(path, config, lambda *_: None) as stack:
            return len(stack)
    except (UserError, OSError):
        return 1


def stack_suffix(path: Path, config: DataConfig) -> str:
    """Return the suffix of the masks of a file of several images: a volume's own, else .tif; empty for other files."""
    if is_nifti(path):
        return ".nii.gz" if path.suffix.lower() == ".gz" else ".nii"
    return ".tif" if count_images(path, config) > 1 else ""


def _is_tiff(path: Path, config: DataConfig) -> bool:
    if path.suffix.lower() not in (*tiff_file.SUFFIXES, ""):
        return False
    try:
        with open_file(path) as file:
            return is_beyond_pillow(file, config.channels)
    except UserError:  # raised again when it is opened
        return True
    except OSError:
        return False


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in dicom_file.SUFFIXES:
        return True
    if path.suffix and not path.suffix[1:].isdigit():  # archives name files by numbers
        return False
    try:
        with open_file(path) as file:
            return file.read(dicom_file.MAGIC_PLACE + 4)[dicom_file.MAGIC_PLACE :] == dicom_file.MAGIC
    except (UserError, OSError):
        return False
