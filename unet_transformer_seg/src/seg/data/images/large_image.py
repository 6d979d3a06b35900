"""A TIFF that is too large to be held in memory: sliced like an array, it reads and converts one window at a time."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile

from seg.config import Config, DataConfig
from seg.data.fit import is_fitted, predicted_shape
from seg.data.images.container import Page, naming_damage
from seg.data.images.pixel_values import Scale, image_of_array
from seg.data.images.remarks import Note, Remark
from seg.data.images.tiff_file import SUFFIXES, describe, walk_pages
from seg.data.images.tiff_windows import TiffWindows
from seg.data.images.value_range import AUTO, scale, within
from seg.errors import UserError
from seg.files import open_file

MAX_WHOLE_VALUES = 1 << 28
"""Largest TIFF that is decoded whole, in values: height · width · channels. `data.max_pixels` may set a smaller one."""

ROWS_AT_ONCE = 256  # rows that are read together for the mean and the deviation of a whole image

GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
"""Tags of a GeoTIFF that place its pixels on the earth: scale, tie points, transformation, and the keys with values."""


class LargeImage:
    """`image[top:bottom, left:right]` returns the converted window, [h, w, c].

    Attributes:
        path: of the file, for messages.
        shape: (height, width, channels) after conversion.
        dtype: after conversion.
        source: the windows of the file.
    """

    def __init__(self, path: Path, source: TiffWindows, convert: Callable[[np.ndarray], np.ndarray]):
        """Convert a pixel to learn channels and dtype."""
        self.path, self.source, self._convert = path, source, convert
        pixel_hwc = convert(np.zeros((1, 1, source.shape[2]), source.dtype))
        self.shape, self.dtype = (*source.shape[:2], pixel_hwc.shape[2]), pixel_hwc.dtype

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        with naming_damage(self.path):
            return self._convert(self.source[window])


def is_large(page: tifffile.TiffPage, max_pixels: int) -> bool:
    """Return whether a page is read by windows."""
    num_pixels = page.imagelength * page.imagewidth
    return num_pixels > max_pixels or num_pixels * page.samplesperpixel > MAX_WHOLE_VALUES


@contextlib.contextmanager
def first_page(path: Path) -> Iterator[tifffile.TiffPage | None]:
    """Yield the first page of a TIFF, its pixels not decoded; None for another file, or one that is damaged."""
    if path.suffix.lower() not in SUFFIXES:
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open_file(path))
            walk_pages(file)
            file.seek(0)
            page = tifffile.TiffFile(file, name="image.tif", _multifile=False).pages.first
        except Exception:  # the reader of whole images names what is wrong
            page = None
        yield page


@contextlib.contextmanager
def opened_large(path: Path, config: Config, remark: Remark) -> Iterator[LargeImage | None]:
    """Yield a TIFF that is too large to be decoded whole; None for any other file.

    Raises:
        UserError: naming the file: several pages, a layout that cannot be read by windows, values whose black and white
            are unknown, or an image that the settings would shrink.
    """
    with first_page(path) as page:
        if page is None or not is_large(page, config.data.max_pixels):
            yield None
            return
        with naming_damage(path):
            if len(page.parent.pages) > 1 and page.parent.pages[1].shape == page.shape:
                raise UserError("it has several pages of this size; save each as a file of its own")
            if (orientation := page.tags.valueof(274, 1)) != 1:
                raise UserError(
                    f"its orientation tag is {orientation}, and windows are read upright; re-save it turned"
                )
            _refuse_scale((page.imagelength, page.imagewidth), config)
            described = describe([(page, None)], page.imagelength * page.imagewidth)
            source = TiffWindows(page.parent.filehandle, page)
            image = LargeImage(path, source, _converter(source, described, path, config, remark))
        yield image


def _converter(
    source: TiffWindows, page: Page, path: Path, config: Config, remark: Remark
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from the values of a window to its pixels, [h, w, c] as `Sample.image`."""
    data, dtype = config.data, np.dtype(np.uint8) if page.palette is not None else page.dtype
    is_open = data.value_range == AUTO and not data.channel_ranges and data.normalise != "image"
    if is_open and dtype not in (np.uint8, np.bool_):
        if dtype.kind != "u":
            raise UserError(f"{dtype} values, read by windows; say which are black and white with data.value_range=[…]")
        white = (1 << page.stated_bits or 8 * dtype.itemsize) - 1
        data = dataclasses.replace(data, value_range=(0.0, float(white)))
        text = f"its black and white are 0 and {white}, as of {dtype}; data.value_range sets others"
        remark("bit depth", path, text)

    def note(kind: str, text: str) -> None:
        if kind != "value range":  # that a window is dark says nothing of the image
            remark(kind, path, text)

    def convert(values_hwc: np.ndarray, scaled: Scale = scale) -> np.ndarray:
        if page.palette is not None:
            values_hwc = page.palette[values_hwc[..., 0]]
        return image_of_array(values_hwc, data, note, page.stated_bits, page.is_inverted, page.has_alpha, scaled)

    if data.normalise == "image":
        return functools.partial(convert, scaled=_standardising(source, convert))
    return convert


def _standardising(source: TiffWindows, convert: Callable[..., np.ndarray]) -> Scale:
    """Read the whole image once, and return the `Scale` that gives each channel mean 0 and standard deviation 1."""
    count, sums_2c = 0, 0.0

    def add(values_hwc: np.ndarray, data: DataConfig, *_) -> np.ndarray:
        nonlocal count, sums_2c
        values_hwc = within(values_hwc, data).astype(np.float64)
        count += values_hwc[..., 0].size
        sums_2c = sums_2c + np.stack([values_hwc.sum((0, 1)), np.square(values_hwc).sum((0, 1))])
        return values_hwc

    for top in range(0, source.shape[0], ROWS_AT_ONCE):
        convert(source[top : top + ROWS_AT_ONCE, 0 : source.shape[1]], scaled=add)
    mean_c, squares_c = sums_2c / count
    std_c = np.sqrt(np.maximum(squares_c - np.square(mean_c), 0))

    def standardise(values_hwc: np.ndarray, data: DataConfig, note: Note, bits: int, is_inverted: bool) -> np.ndarray:
        unit_hwc = (within(values_hwc, data) - mean_c) / np.where(std_c > 0, std_c, 1)
        return (unit_hwc * (-1 if is_inverted else 1)).astype(np.float32)

    return standardise


def _refuse_scale(shape: tuple[int, int], config: Config) -> None:
    """Refuse to shrink an image that is read by windows."""
    if predicted_shape(shape, config) == shape:
        return
    size = "×".join(map(str, shape))
    if is_fitted(config):
        trained = "×".join(map(str, config.data.size))
        raise UserError(
            f"{size} pixels would be shrunk into {trained}, as in training (data.fit: resize); "
            "add inference.scale=native to segment it as it is"
        )
    raise UserError(
        f"{size} pixels are read by windows, which inference.scale={config.inference.scale} cannot scale; "
        "scale the file, or add inference.scale=native"
    )


def geo_tags(page: tifffile.TiffPage) -> list[tuple]:
    """Return the tags of `GEO_TAGS` that a page has, as tifffile writes them."""
    tags = (page.tags.get(code) for code in GEO_TAGS)
    return [(tag.code, tag.dtype, tag.count, tag.value, True) for tag in tags if tag is not None]
