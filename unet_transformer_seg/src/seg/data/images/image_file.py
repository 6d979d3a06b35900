"""Reads one image or mask file: bounded before it is decoded, and every failure names the file.

An image and its mask are read by one rule: turned as their own orientation tags say, and refused if they hold
several pages. What differs is the last step: an image becomes 8-bit RGB, a mask keeps its values.
"""

import mmap
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image

from seg.data.codec_noise import codecs_silenced
from seg.data.images import array_file
from seg.data.images.deep_colours import has_deep_colours, read_deep_colours
from seg.data.images.image_kind import read_kind
from seg.data.images.orientation import turn_upright
from seg.data.images.pages import refuse_pages
from seg.data.images.pixel_limit import check_pixels
from seg.data.images.pixel_values import is_wide, remark_channels, rgb_values, to_rgb, wide_values
from seg.data.images.remarks import Remark, log_remark
from seg.data.images.stated_bits import grey_depth
from seg.data.images.value_range import AUTO, ValueRange, largest_value
from seg.data.masks.lossy import is_lossy
from seg.data.masks.mask import Mask, mask_of_array, mask_of_image
from seg.errors import UserError
from seg.files import open_file

Content = TypeVar("Content")

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", *array_file.SUFFIXES)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""What is tried, whatever the suffix says. Pillow knows many more formats, some of them rarely tested."""

DEFAULT_MAX_PIXELS = 200_000_000

MAX_SCANS = 100
"""A JPEG is decoded in passes over the whole picture, about ten in practice. One of 60 bytes can take a second."""
JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
START, END, SCAN = b"\xd8", b"\xd9", b"\xda"

# Pillow warns of a broken EXIF entry and the like, without the file's name: of a file that cannot be used an error
# tells, and of one that can nobody needs to hear. (Filters for the time of a call are not safe among threads.)
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(
    path: Path,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    value_range: ValueRange = AUTO,
    remark: Remark = log_remark,
) -> np.ndarray:
    """Return uint8[h, w, 3], the image as RGB, upright as its orientation tag says.

    Grey is repeated in the three colours, palettes, CMYK and LAB are converted, transparency and further channels
    are left out, and more than 8 bits become 8 as `seg.data.images.value_range` says.

    Args:
        path: an image file, or an array of numpy.
        max_pixels: refuses larger images.
        value_range: values of black and white where there are more than 8 bits.
        remark: told of what is left out, guessed or contradictory.

    Raises:
        UserError: naming the file: missing, empty, no image, more than `max_pixels`, several pages, damaged, or
            values of which it is not clear which are black and white.
    """

    def convert(image: Image.Image, file: BinaryIO) -> np.ndarray:
        return to_rgb(image, file, path, value_range, remark)

    return _read(path, max_pixels, remark, convert, lambda array: rgb_values(array, path, value_range, remark))


def read_largest_value(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> float | None:
    """Return the largest value of an image that has more than 8 bits and does not state how many; else None.

    Of an image of 8 bits nothing is decoded.

    Raises:
        UserError: as `read_image`.
    """

    def convert(image: Image.Image, file: BinaryIO) -> float | None:
        if not is_wide(image):
            return None
        values, bits = wide_values(image, file, path, _say_nothing)
        return None if bits else largest_value(values, path)

    return _read(path, max_pixels, _say_nothing, convert, lambda array: largest_value(array, path))


def read_mask(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS, remark: Remark = log_remark) -> Mask:
    """Return what a mask file holds, as it stands there, upright as its orientation tag says.

    Raises:
        UserError: as `read_image`, and as `seg.data.masks.mask.mask_of_image`.
    """

    def convert(image: Image.Image, file: BinaryIO) -> Mask:
        if has_deep_colours(image):
            return mask_of_array(read_deep_colours(image, file, path, remark, exact=True), path)
        depth, has_loss = grey_depth(image), is_lossy(image, file)
        turn_upright(image, path, remark)
        remark_channels(image, path, remark)
        return mask_of_image(image, path, depth, has_loss)

    return _read(path, max_pixels, remark, convert, lambda array: mask_of_array(array, path), has_layers=True)


def _read(
    path: Path,
    max_pixels: int,
    remark: Remark,
    convert: Callable[[Image.Image, BinaryIO], Content],
    convert_array: Callable[[np.ndarray], Content],
    has_layers: bool = False,
) -> Content:
    Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit; the one that holds here is checked as soon as a file is open
    try:
        with open_file(path) as file:
            if path.suffix.lower() in array_file.SUFFIXES:
                return convert_array(array_file.read_array(path, file, max_pixels, has_layers))
            # Of a path, Pillow maps some files into memory, and then misreads TIFFs that a tag turns by a quarter.
            with codecs_silenced(), Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                check_pixels(path, f"{height}×{width} pixels are more", width * height, max_pixels)
                if image.format in ("JPEG", "MPO") and _has_too_many_scans(file):
                    raise UserError(f"{path}: a JPEG of more than {MAX_SCANS} scans would take very long; save it anew")
                refuse_pages(image, path, remark)
                return convert(image, file)
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        raise UserError(f"{path}: {read_kind(path)}, expected an image ({', '.join(FORMATS)})") from None
    except (zipfile.BadZipFile, EOFError):
        raise UserError(f"{path}: damaged, or no array of numpy ({read_kind(path)})") from None
    except FileNotFoundError:
        reason = "a link to a file that is not there" if path.is_symlink() else "no such file"
        raise UserError(f"{path}: {reason}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # decoders answer damage with nearly any exception
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error})") from None


def _say_nothing(kind: str, path: Path, text: str) -> None:
    """Take a remark of a file that will be read again."""


def _has_too_many_scans(file: BinaryIO) -> bool:
    """Return whether a JPEG has more than `MAX_SCANS` scans before its end."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place, scans = 0, 0
        while scans <= MAX_SCANS and (marker := JPEG_MARKER.search(content, place)) and marker[1] != END:
            scans += marker[1] == SCAN
            size = int.from_bytes(content[marker.end() : marker.end() + 2], "big")
            place = marker.end() + (0 if marker[1] in (START, b"\x01") else max(size, 2))
        return scans > MAX_SCANS
