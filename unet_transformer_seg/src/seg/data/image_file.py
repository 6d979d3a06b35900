"""Reads one image or mask file: bounded before it is decoded, and every failure names the file."""

import mmap
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from seg.data.mask import Mask, mask_of_image
from seg.errors import UserError

Content = TypeVar("Content")

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""What is tried, whatever the suffix says. Pillow knows many more formats, some of them rarely tested."""

DEFAULT_MAX_PIXELS = 200_000_000

MAX_SCANS = 100
"""A JPEG is decoded in passes over the whole picture, about ten in practice. One of 60 bytes can take a second."""
JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
START, END, SCAN = b"\xd8", b"\xd9", b"\xda"

# Pillow warns of a broken EXIF entry and the like, without the file's name: of a file that cannot be used an error
# tells, and of one that can nobody needs to hear. (Filters for the time of a call are not safe among threads.)
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Return uint8[h, w, 3], the image as RGB, upright as its EXIF entry says.

    Grey is repeated in the three colours, 16 bits keep their upper 8, palettes and CMYK are converted,
    transparency is dropped. Of several frames or pages the first is taken.

    Raises:
        UserError: naming the file: missing, empty, no image, more than `max_pixels`, damaged, or 32-bit values.
    """
    return _read(path, max_pixels, _to_rgb)


def read_mask(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> Mask:
    """Return what a mask file holds, as it stands there.

    Raises:
        UserError: as `read_image`, and as `seg.data.mask.mask_of_image`.
    """
    return _read(path, max_pixels, lambda image: mask_of_image(image, path))


def _read(path: Path, max_pixels: int, convert: Callable[[Image.Image], Content]) -> Content:
    # Pillow warns and refuses by a global limit; it must not be stricter than the one that holds here.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UserError(f"{path}: {height}×{width} pixels are more than data.max_pixels = {max_pixels}")
            if image.format in ("JPEG", "MPO") and _has_too_many_scans(path):
                raise UserError(f"{path}: a JPEG of more than {MAX_SCANS} scans would take very long; save it anew")
            return convert(image)
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{path}: more pixels than data.max_pixels = {max_pixels}") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{path}: {_what_it_is(path)}, expected an image ({', '.join(FORMATS)})") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # decoders answer damage with nearly any exception
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error})") from None


def _has_too_many_scans(path: Path) -> bool:
    """Return whether a JPEG has more than `MAX_SCANS` scans before its end."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place, scans = 0, 0
        while scans <= MAX_SCANS and (marker := JPEG_MARKER.search(content, place)) and marker[1] != END:
            scans += marker[1] == SCAN
            size = int.from_bytes(content[marker.end() : marker.end() + 2], "big")
            place = marker.end() + (0 if marker[1] in (START, b"\x01") else max(size, 2))
        return scans > MAX_SCANS


def _what_it_is(path: Path) -> str:
    """Return what a file that is no image looks like."""
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        return "an empty file"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return f"a text that begins with {start[:24].decode()!r}"
    return f"not an image, its first bytes are {start[:8].hex(' ')}"


def _to_rgb(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit values (Pillow's mode {image.mode}); save the image with 8 or 16 bits")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB, Pillow warns of a transparent palette
    return np.array(image.convert("RGB"))
