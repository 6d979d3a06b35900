"""Reads one image or mask file: bounded before it is decoded, and every error names the file.

Images and masks are read alike, upright and refused if they hold several pages. Only the last step differs: an image
gets the channels and the precision of its data set, a mask keeps its values.
"""

import contextlib
import dataclasses
import mmap
import re
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from seg.config import DataConfig
from seg.data.codec_noise import codecs_silenced
from seg.data.images import array_file
from seg.data.images.array_file import check_pixels
from seg.data.images.container import naming_damage
from seg.data.images.image_kind import read_kind
from seg.data.images.pixel_values import (
    Scale,
    has_deep_colours,
    image_of_array,
    image_of_picture,
    is_wide,
    note_channels,
    read_deep_colours,
    wide_values,
)
from seg.data.images.remarks import Note, Remark, log_remark
from seg.data.images.stack import is_stack, opened_stack
from seg.data.images.tags import grey_depth, is_lossy, refuse_pages, turn_upright
from seg.data.images.value_range import largest_value, scale
from seg.data.masks.mask import Mask, mask_of_array, mask_of_image, mask_of_page
from seg.errors import UserError
from seg.files import open_file

Content = TypeVar("Content")

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""Formats that are tried, whatever the suffix. Pillow knows many more, some of them rarely tested."""

MAX_SCANS = 100
"""Scans of a JPEG over the whole picture, about ten in practice. A crafted one of 60 bytes can take a second."""
JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
START, END, SCAN = b"\xd8", b"\xd9", b"\xda"

# Pillow warns of broken EXIF entries and the like without naming the file. Our errors name it, and usable files need no
# warning. (Filters around each call are not thread-safe; docs/api.md names this one.)
warnings.filterwarnings("ignore", module=r"PIL\.")


DEFAULTS = DataConfig()


def read_image(
    path: Path,
    config: DataConfig = DEFAULTS,
    remark: Remark = log_remark,
    page: int | None = None,
    scaled: Scale = scale,
) -> np.ndarray:
    """Return the image of a file, upright, as `Sample.image` of a data set with this config.

    Palettes, CMYK and LAB are converted to RGB, transparency is dropped; grey is repeated for three channels, colours
    become grey for one. More than 8 bits are scaled by the rules of `seg.data.images.value_range`.

    Args:
        path: an image file or a numpy array.
        config: channels, precision, value range and largest number of pixels.
        remark: called with what is dropped, guessed or contradictory.
        page: number of a slice of a volume, from 0; None for the only image of a file.
        scaled: how values become those that a model sees.

    Returns:
        uint8[h, w, c], or float32[h, w, c] with 0 = black and 1 = white.

    Raises:
        UserError: naming the file: missing, empty, not an image, too large, several pages, damaged, another number of
            channels, or values whose black and white are unclear.
    """
    if page is not None or is_stack(path, config):
        with opened_stack(path, config, remark) as stack:
            return stack.image(stack.single(page), scaled)

    def note(kind: str, text: str) -> None:
        remark(kind, path, text)

    return _read(
        path,
        config,
        note,
        lambda image, file: image_of_picture(image, file, config, note, scaled),
        lambda array: image_of_array(array, config, note, scaled=scaled),
    )


class Depth(NamedTuple):
    """The values of an image file."""

    is_wide: bool  # whether they are other than integers from 0 to 255
    largest: float | None = None  # the maximum, if it decides the number of bits


def read_depth(path: Path, config: DataConfig = DEFAULTS, page: int | None = None) -> Depth:
    """Return the depth of an image; one of 8 bits is not decoded. Errors are those of `read_image`."""

    def of_picture(image: Image.Image, file: BinaryIO) -> Depth:
        if not is_wide(image):
            return Depth(False)
        values, bits = wide_values(image, file, _drop)
        return Depth(True, None if bits else largest_value(values))

    def of_array(array: np.ndarray, stated_bits: int = 0) -> Depth:
        return Depth(array.dtype not in (np.bool_, np.uint8), None if stated_bits else largest_value(array))

    if page is not None or is_stack(path, config):
        with opened_stack(path, config, log_remark) as stack:
            number = stack.single(page)
            if stack.pages[number].dtype in (np.bool_, np.uint8):
                return Depth(False)
            with naming_damage(path):
                return of_array(stack.values(number), stack.pages[number].stated_bits)

    return _read(path, config, _drop, of_picture, of_array)


def read_mask(path: Path, config: DataConfig = DEFAULTS, remark: Remark = log_remark, page: int | None = None) -> Mask:
    """Return what a mask file holds, unchanged but upright; errors as `read_image` and `mask_of_image`."""
    config = dataclasses.replace(config, channels=DEFAULTS.channels)  # those of images say nothing of masks
    if page is not None or is_stack(path, config):
        with opened_stack(path, config, remark) as stack, naming_damage(path):
            number = stack.single(page)
            return mask_of_page(stack.values(number), stack.pages[number])

    def note(kind: str, text: str) -> None:
        remark(kind, path, text)

    def convert(image: Image.Image, file: BinaryIO) -> Mask:
        if has_deep_colours(image):
            return mask_of_array(read_deep_colours(image, file, note, exact=True))
        depth, has_loss = grey_depth(image), is_lossy(image, file)
        turn_upright(image, note)
        note_channels(image, note)
        return mask_of_image(image, depth, has_loss)

    return _read(path, config, note, convert, mask_of_array, has_layers=True)


@contextlib.contextmanager
def naming_file(name: Path | str) -> Iterator[None]:
    """Put the file's name before the errors of the body."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


class _NoPillowLimit:
    """Suspends Pillow's own limit of pixels while any thread reads; ours is checked as soon as the file is open."""

    def __init__(self):
        self._lock, self._readers, self._limit = threading.Lock(), 0, None

    def __enter__(self):
        with self._lock:
            if not self._readers:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._readers += 1

    def __exit__(self, *error):
        with self._lock:
            self._readers -= 1
            if not self._readers:
                Image.MAX_IMAGE_PIXELS = self._limit


_NO_PILLOW_LIMIT = _NoPillowLimit()


def _read(
    path: Path,
    config: DataConfig,
    note: Note,
    convert: Callable[[Image.Image, BinaryIO], Content],
    convert_array: Callable[[np.ndarray], Content],
    has_layers: bool = False,
) -> Content:
    try:
        with open_file(path) as file, naming_file(path), _NO_PILLOW_LIMIT:
            if path.suffix.lower() in array_file.SUFFIXES:
                channels = 3 if has_layers else config.channels
                return convert_array(array_file.read_array(path, file, config.max_pixels, channels, has_layers))
            # Given a path, Pillow maps some files into memory and then misreads TIFFs that a tag rotates by 90°.
            with codecs_silenced(), Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                check_pixels(f"{height}×{width} pixels are more", width * height, config.max_pixels)
                if image.format in ("JPEG", "MPO") and _has_too_many_scans(file):
                    raise UserError(f"a JPEG of more than {MAX_SCANS} scans would take very long; re-save it")
                refuse_pages(image, note)
                return convert(image, file)
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        raise UserError(f"{path}: {read_kind(path)}, expected an image ({', '.join(FORMATS)})") from None
    except (zipfile.BadZipFile, EOFError):
        raise UserError(f"{path}: a damaged numpy array, or none ({read_kind(path)})") from None
    except FileNotFoundError:
        reason = "a broken link" if path.is_symlink() else "no such file"
        raise UserError(f"{path}: {reason}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # decoders raise nearly any exception on damage
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error})") from None


def _drop(kind: str, text: str) -> None:
    """Drop a note on a file that will be read again."""


def _has_too_many_scans(file: BinaryIO) -> bool:
    """Return whether a JPEG has more than `MAX_SCANS` scans."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        position, scans = 0, 0
        while scans <= MAX_SCANS and (marker := JPEG_MARKER.search(content, position)) and marker[1] != END:
            scans += marker[1] == SCAN
            size = int.from_bytes(content[marker.end() : marker.end() + 2], "big")
            position = marker.end() + (0 if marker[1] in (START, b"\x01") else max(size, 2))
        return scans > MAX_SCANS
