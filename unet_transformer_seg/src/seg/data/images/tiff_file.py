"""Reads TIFFs by tifffile: several pages, any number of channels in bands or planes, integers and floats of any size.

Pillow reads pictures as viewers show them: palettes, CMYK, LAB, 1 to 4 bits, and grey and RGB of 8 and 16 bits, if the
file has a single page. All others come here. Axes that ImageJ or OME state are followed: channels become channels, the
rest pages.
"""

import functools
import logging
import math
import struct
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
import tifffile

from seg.data.images.array_file import MAX_CHANNELS, check_pixels
from seg.data.images.container import LazyPages, Page, Window
from seg.data.images.tags import stated_tiff_bits
from seg.data.images.tiff_windows import TiffWindows
from seg.errors import UserError

# tifffile logs what is wrong with a file without naming it; our errors name it.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

SUFFIXES = (".tif", ".tiff")
MAGICS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}

MAX_PAGES = 10_000
MAX_TAGS = 4096  # tags of a page
MAX_BYTES_PER_PIXEL = 64  # of the pixels that `data.max_pixels` allows

BLACK_IS_ZERO, WHITE_IS_ZERO, RGB, PALETTE, YCBCR = 1, 0, 2, 3, 6
OLD_JPEG, JPEG = 6, 7
ORIENTATION, SIDEWAYS = 274, (5, 6, 7, 8)  # the tag, and its values that exchange rows and columns
ALPHA = (1, 2)  # values of the tag ExtraSamples
SUBFILE_TYPE, SAMPLES_PER_PIXEL, SHORT = 254, 277, 3
ALIKE_TAGS = (256, 257, 258, 262, 277, 339)  # tags that are equal in pages of one shape and type
KEY_TAGS = frozenset((SUBFILE_TYPE, *ALIKE_TAGS))
NO_PAGE = 1 | 4  # flags of a smaller copy, or of the transparency of another page
PILLOW_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000, 50001)


class TiffFile:
    """An open TIFF.

    Attributes:
        pages: its images, each described when it is asked for, as a stack may have thousands.
    """

    def __init__(self, file: BinaryIO, groups: list[list["Plane"]], max_pixels: int):
        """Check the first header; nothing is decoded."""
        self._file, self._groups = file, groups
        self.pages = LazyPages(len(groups), lambda number: describe(self._planes(number), max_pixels))
        self.pages[0]

    def _planes(self, page: int) -> "Planes":
        return [plane() for plane in self._groups[page]]

    def read(self, page: int, window: Window | None = None) -> np.ndarray:
        """Return [h, w, c] of the file's dtype, upright: a page or a window of it."""
        self.pages[page]  # refuses one that is too large
        planes = [self._decode(*plane) for plane in self._planes(page)]
        values_hwc = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)
        return values_hwc[window or ...]

    def _decode(self, page: tifffile.TiffPage, offset: int | None) -> np.ndarray:
        height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
        if offset is not None:
            self._file.seek(offset)
            content = self._file.read(page.nbytes)
            if len(content) < page.nbytes:
                raise UserError(f"damaged: the file ends within its pixels, at byte {offset + len(content)}")
            stored = page.dtype.newbyteorder(page.parent.byteorder)
            values_hwc = np.frombuffer(content, stored).reshape(height, width, samples).astype(page.dtype)
        else:
            values_hwc = TiffWindows(self._file, page, max_segment_bytes=page.nbytes)[0:height, 0:width]
        return turn(values_hwc, page.tags.valueof(ORIENTATION, 1))


def open_tiff(file: BinaryIO, max_pixels: int, channels: int) -> TiffFile:
    """Return an open TIFF.

    Raises:
        UserError: damaged, too many pages, more than `max_pixels` in one of them, or a layout that is not read.
    """
    return TiffFile(file, _group_planes(*_parse(file), channels), max_pixels)


def _parse(file: BinaryIO) -> tuple[tifffile.TiffFile, list["Tags"]]:
    tags = walk_pages(file)
    file.seek(0)
    return tifffile.TiffFile(file, name="image.tif", _multifile=False), tags


def is_beyond_pillow(file: BinaryIO, channels: int) -> bool:
    """Return whether a TIFF is read here; a file that is none, or is damaged at its start, is left to Pillow."""
    try:
        start = file.read(4)
        file.seek(0)
        if start not in MAGICS:
            return False
        tiff, tags = _parse(file)
        groups, page = _group_planes(tiff, tags, channels), tiff.pages.first
        if len(groups) > 1 or len(groups[0]) > 1:
            return True
    except UserError:
        raise
    except Exception:
        return False
    if page.photometric not in (BLACK_IS_ZERO, WHITE_IS_ZERO, RGB):
        return False
    samples, bits = page.samplesperpixel, page.bitspersample
    if page.compression not in PILLOW_COMPRESSIONS or page.dtype is None:
        return True
    if samples == 1:
        return page.dtype.name in ("uint32", "int64", "uint64", "float16", "float64")
    is_separate = page.planarconfig == 2
    if channels == 3 and page.photometric == RGB:
        return bits not in (8, 16) or page.dtype.kind != "u" or (bits == 16 and (is_separate or samples > 4))
    return not (channels == 1 and samples == 3 and page.photometric == RGB and bits == 8)


Tags = dict[int, int]
"""Tag of a page → its value, or where the file has it, for the tags of `KEY_TAGS`."""


def walk_pages(file: BinaryIO) -> list[Tags]:
    """Return the tags that tell pages apart, of each page.

    Raises:
        UserError: pages that point at each other in a circle, or more than `MAX_PAGES`.
    """
    file.seek(0)
    start = file.read(16)
    order = MAGICS.get(start[:4])
    if order is None or len(start) < 16:
        raise UserError("a damaged TIFF")
    is_big = start[2:4] in (b"+\0", b"\0+")
    number, entry, place = ("Q", "HHQ8s", "Q") if is_big else ("H", "HHI4s", "I")
    (offset,) = struct.unpack_from(order + place, start, 8 if is_big else 4)
    seen: set[int] = set()
    pages: list[Tags] = []
    while offset:
        if offset in seen:
            raise UserError("a damaged TIFF: its pages form a circle")
        seen.add(offset)
        if len(seen) > MAX_PAGES:
            raise UserError(f"more than {MAX_PAGES} pages; save them in several files")
        file.seek(offset)
        num_tags = _unpacked(order + number, file)
        if num_tags > MAX_TAGS and pages:
            break  # bytes that are no page end the chain, for tifffile as well
        if not 1 <= num_tags <= MAX_TAGS:
            raise UserError("a damaged TIFF: a page without tags, or with too many")
        entries = file.read(num_tags * struct.calcsize(order + entry))
        whole = len(entries) // struct.calcsize(order + entry) * struct.calcsize(order + entry)
        fields = struct.iter_unpack(order + entry, entries[:whole])
        pages.append({tag: _value(kind, value, order) for tag, kind, _, value in fields if tag in KEY_TAGS})
        offset = _unpacked(order + place, file)
    return pages


def _value(kind: int, value: bytes, order: str) -> int:
    return int.from_bytes(value[:2] if kind == SHORT else value, "little" if order == "<" else "big")


def _unpacked(layout: str, file: BinaryIO) -> int:
    """Return the next number of a file; 0 at its end."""
    content = file.read(struct.calcsize(layout))
    return struct.unpack(layout, content)[0] if len(content) == struct.calcsize(layout) else 0


def turn(values_hwc: np.ndarray, orientation: int) -> np.ndarray:
    """Return the values upright, of an image with this value of the tag Orientation."""
    if orientation in SIDEWAYS:
        values_hwc = values_hwc.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values_hwc = values_hwc[::-1]
    if orientation in (2, 3, 6, 7):
        values_hwc = values_hwc[:, ::-1]
    return values_hwc


Planes = list[tuple[tifffile.TiffPage, int | None]]
"""Pages of the file that are the channels of one image, each with the place of its bytes where no directory has it."""

Plane = Callable[[], tuple[tifffile.TiffPage, int | None]]  # returns an element of `Planes`


def _group_planes(tiff: tifffile.TiffFile, tags: list[Tags], channels: int) -> list[list[Plane]]:
    """Return the images of a file."""
    if (tiff.is_imagej or tiff.is_ome) and (groups := _stated_planes(tiff)):
        return groups
    numbers = [number for number, page in enumerate(tags) if not page.get(SUBFILE_TYPE, 0) & NO_PAGE] or [0]
    planes: list[Plane] = [functools.partial(_page, tiff.pages, number) for number in numbers]
    # As `tifffile.imwrite` saves an array [c, h, w]; three grey pages are more likely a stack.
    are_grey = all(tags[number].get(SAMPLES_PER_PIXEL, 1) == 1 for number in numbers)
    are_alike = len({tuple(tags[number].get(tag) for tag in ALIKE_TAGS) for number in numbers}) == 1
    if len(planes) == channels != 3 and are_grey and are_alike:
        return [planes]
    return [[plane] for plane in planes]


def _page(pages: Sequence, number: int, offset: int | None = None) -> tuple[tifffile.TiffPage, int | None]:
    if pages[number] is None:
        raise UserError("damaged: a page that its description names is missing")
    return pages[number].aspage(), offset


def _stated_planes(tiff: tifffile.TiffFile) -> list[list[Plane]]:
    """Return the images of a file by the axes that ImageJ or OME state; empty if they do not fit its pages."""
    try:
        series = tiff.series[0]
        page, axes, shape = series.keyframe, series.axes, series.shape
    except Exception:  # a damaged description does not damage the pixels
        return []
    leading = axes[: len(axes) - len(page.axes)]
    lengths = shape[: len(leading)]
    count = math.prod(lengths)
    if not 1 <= count <= MAX_PAGES:
        return []
    if len(series.pages) >= count:
        planes = [functools.partial(_page, series.pages, number) for number in range(count)]
    elif series.dataoffset is not None and page.is_contiguous and page.is_final:
        offsets = [series.dataoffset + number * page.nbytes for number in range(count)]
        planes = [functools.partial(_page, [page], 0, offset) for offset in offsets]
    else:
        return []
    order, axis = np.arange(count).reshape(lengths), leading.find("C")
    order = order.reshape(-1, 1) if axis < 0 else np.moveaxis(order, axis, -1).reshape(-1, lengths[axis])
    return [[planes[number] for number in numbers] for numbers in order.tolist()]


def describe(planes: Planes, max_pixels: int) -> Page:
    """Return what the headers say of an image; what cannot be read is refused."""
    page = planes[0][0]
    height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel * len(planes)
    check_pixels(f"{height}×{width} pixels are more", height * width, max_pixels)
    is_colour_jpeg = page.photometric == YCBCR and page.compression in (OLD_JPEG, JPEG)
    if page.photometric not in (BLACK_IS_ZERO, WHITE_IS_ZERO, RGB, PALETTE) and not is_colour_jpeg:
        kind = getattr(page.photometric, "name", page.photometric)
        raise UserError(f"several pages of colours in {kind}; save them as grey or RGB")
    size = f"{height}×{width} pixels of {samples} channels"
    if page.dtype is None or page.dtype.kind not in "biuf" or not height * width * samples:
        raise UserError(f"{size} and {page.bitspersample} bits, which are not read; save it with 8, 16 or 32 bits")
    if samples > MAX_CHANNELS or height * width * samples * page.dtype.itemsize > MAX_BYTES_PER_PIXEL * max_pixels:
        raise UserError(f"{size} are more than data.max_pixels = {max_pixels} allows; cut it into parts")
    if page.tags.valueof(ORIENTATION, 1) in SIDEWAYS:
        height, width = width, height
    palette = None
    if page.photometric == PALETTE and page.colormap is not None:
        palette = (page.colormap.T >> 8).astype(np.uint8)
    return Page(
        height,
        width,
        samples,
        np.dtype(page.dtype),
        stated_tiff_bits(page.tags.valueof, page.bitspersample) if page.dtype.kind != "f" else 0,
        bool(page.extrasamples) and page.extrasamples[-1] in ALPHA,
        page.photometric == RGB or is_colour_jpeg,
        page.photometric == WHITE_IS_ZERO,
        palette,
    )
