"""The images of a file that holds several: the slices of a volume, the frames of a DICOM file."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from seg.config import DataConfig
from seg.data.images import dicom_file
from seg.data.images.container import Container, naming_damage
from seg.data.images.dicom_file import open_dicom
from seg.data.images.nifti_file import is_nifti, open_nifti
from seg.data.images.pixel_values import image_of_array
from seg.data.images.remarks import Note, Remark
from seg.errors import UserError
from seg.files import open_file


class Stack:
    """The images of an open file, by number.

    Attributes:
        pages: what the header says of each.
    """

    def __init__(self, path: Path, container: Container, config: DataConfig, remark: Remark):
        self._path, self._container, self._config, self.pages = path, container, config, container.pages
        self._note: Note = lambda kind, text: remark(kind, path, text)

    def __len__(self) -> int:
        return len(self.pages)

    def __getitem__(self, number: int) -> np.ndarray:
        """Return [h, w, c] as `Sample.image`."""
        page, values_hwc = self.pages[number], self.values(number)
        with naming_damage(self._path):
            return image_of_array(
                values_hwc, self._config, self._note, page.stated_bits, page.is_inverted, page.has_alpha
            )

    def values(self, number: int) -> np.ndarray:
        """Return [h, w, c] of the file's own type."""
        with naming_damage(self._path):
            return self._container.read(number)

    def single(self, number: int | None) -> int:
        """Return the number; None stands for the only image."""
        if number is None and len(self) > 1:
            raise UserError(f"{self._path}: it holds {len(self)} images, expected one")
        return number or 0


def is_stack(path: Path) -> bool:
    """Return whether a file may hold several images, by its name or its first bytes."""
    return is_nifti(path) or _is_dicom(path)


def open_container(path: Path, file: BinaryIO, config: DataConfig) -> Container:
    """Return an open file of which `is_stack` is true; errors do not name it."""
    return (
        open_nifti(file, config.max_pixels, config.slice_axis)
        if is_nifti(path)
        else open_dicom(file, config.max_pixels)
    )


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


def stack_suffix(path: Path, max_pixels: int) -> str:
    """Return the suffix of the masks of a file of several images: a volume's own, else .tif; empty for other files."""
    if is_nifti(path):
        return ".nii.gz" if path.suffix.lower() == ".gz" else ".nii"
    if not _is_dicom(path):
        return ""
    try:
        with open_file(path) as file:
            return ".tif" if len(open_dicom(file, max_pixels).pages) > 1 else ""
    except (UserError, OSError):  # raised again when it is read
        return ""


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
