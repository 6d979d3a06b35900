"""Reads TIFFs by tifffile: several pages, any number of channels in bands or planes, integers and floats of any size.

Pillow reads pictures as viewers show them: palettes, CMYK, LAB, 1 to 4 bits, and grey and RGB of 8 and 16 bits, if the
file has a single page. All others come here. Axes that ImageJ or OME state are followed: channels become channels, the
rest pages.
"""

import logging
import math
import struct
from typing import BinaryIO

import numpy as np
import tifffile

from seg.data.images.array_file import MAX_CHANNELS, check_pixels
from seg.data.images.container import Page, Window
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
NO_PAGE = 1 | 4  # flags of a smaller copy, or of the transparency of another page
PILLOW_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000, 50001)
CODECS = 'pip install "unet-transformer-seg[tiff]"'


class TiffFile:
    """An open TIFF.

    Attributes:
        pages: its images.
    """

    def __init__(self, file: BinaryIO, tiff: tifffile.TiffFile, max_pixels: int, channels: int):
        """Check the headers; nothing is decoded. `channels` is that of the data set."""
        self._file, self._planes = file, _group_planes(tiff, channels)
        self.pages = [describe(planes, max_pixels) for planes in self._planes]

    def read(self, page: int, window: Window | None = None) -> np.ndarray:
        """Return [h, w, c] of the file's dtype, upright: a page or a window of it."""
        planes = [self._decode(*plane) for plane in self._planes[page]]
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
            try:
                values_hwc = TiffWindows(self._file, page, max_segment_bytes=page.nbytes)[0:height, 0:width]
            except ValueError as error:
                if "imagecodecs" not in str(error):
                    raise
                kind = getattr(page.compression, "name", page.compression)
                raise UserError(f"its pixels are compressed as {kind}: {CODECS} adds the decoder") from None
        return turn(values_hwc, page.tags.valueof(ORIENTATION, 1))


def open_tiff(file: BinaryIO, max_pixels: int, channels: int) -> TiffFile:
    """Return an open TIFF.

    Raises:
        UserError: damaged, too many pages, more than `max_pixels` in one of them, or a layout that is not read.
    """
    check_chain(file)
    file.seek(0)
    return TiffFile(file, tifffile.TiffFile(file, name="image.tif", _multifile=False), max_pixels, channels)


def is_beyond_pillow(file: BinaryIO, channels: int) -> bool:
    """Return whether a TIFF is read here; a file that is none, or is damaged at its start, is left to Pillow."""
    try:
        start = file.read(4)
        file.seek(0)
        if start not in MAGICS:
            return False
        check_chain(file)
        file.seek(0)
        tiff = tifffile.TiffFile(file, name="image.tif", _multifile=False)
        groups, page = _group_planes(tiff, channels), tiff.pages.first
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


def check_chain(file: BinaryIO) -> None:
    """Refuse a TIFF whose pages point at each other in a circle, or that has more than `MAX_PAGES`."""
    file.seek(0)
    start = file.read(16)
    order = MAGICS.get(start[:4])
    if order is None or len(start) < 16:
        raise UserError("a damaged TIFF")
    is_big = start[2:4] in (b"+\0", b"\0+")
    count_format, offset_format, tag_bytes = ("Q", "Q", 20) if is_big else ("H", "I", 12)
    count_size, offset_size = struct.calcsize(count_format), struct.calcsize(offset_format)
    (offset,) = struct.unpack_from(order + offset_format, start, 8 if is_big else 4)
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise UserError("a damaged TIFF: its pages form a circle")
        seen.add(offset)
        if len(seen) > MAX_PAGES:
            raise UserError(f"more than {MAX_PAGES} pages; save them in several files")
        file.seek(offset)
        head = file.read(count_size)
        num_tags = struct.unpack(order + count_format, head)[0] if len(head) == count_size else 0
        if num_tags > MAX_TAGS and len(seen) > 1:
            return  # bytes that are no page end the chain, for tifffile as well
        if not 1 <= num_tags <= MAX_TAGS:
            raise UserError("a damaged TIFF: a page without tags, or with too many")
        file.seek(offset + count_size + num_tags * tag_bytes)
        tail = file.read(offset_size)
        offset = struct.unpack(order + offset_format, tail)[0] if len(tail) == offset_size else 0


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


def _group_planes(tiff: tifffile.TiffFile, channels: int) -> list[Planes]:
    """Return the images of a file."""
    if (tiff.is_imagej or tiff.is_ome) and (groups := _stated_planes(tiff)):
        return groups
    pages = [page for page in map(tiff.pages.get, range(len(tiff.pages))) if not page.subfiletype & NO_PAGE]
    pages = pages or [tiff.pages.first]
    # As `tifffile.imwrite` saves an array [c, h, w]; three grey pages are more likely a stack.
    are_alike = len({(page.shape, page.dtype) for page in pages}) == 1
    if len(pages) == channels != 3 and are_alike and pages[0].samplesperpixel == 1:
        return [[(page, None) for page in pages]]
    return [[(page, None)] for page in pages]


def _stated_planes(tiff: tifffile.TiffFile) -> list[Planes]:
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
    if len(series.pages) >= count and all(series.pages[number] is not None for number in range(count)):
        planes = [(series.pages[number].aspage(), None) for number in range(count)]
    elif series.dataoffset is not None and page.is_contiguous and page.is_final:
        planes = [(page, series.dataoffset + number * page.nbytes) for number in range(count)]
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
