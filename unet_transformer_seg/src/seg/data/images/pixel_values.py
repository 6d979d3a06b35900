"""What the pixels of an opened image are: its colours as 8-bit RGB, upright."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms

from seg.data.images.deep_colours import has_deep_colours, read_deep_colours
from seg.data.images.orientation import turn_upright
from seg.data.images.remarks import Remark
from seg.data.images.stated_bits import SAMPLES_PER_PIXEL, WIDE_MODES, has_signed_bytes, is_inverted, read_stated_bits
from seg.data.images.value_range import AUTO, ValueRange, to_bytes

ROWS_AT_ONCE = 1024


def to_rgb(image: Image.Image, file: BinaryIO, path: Path, value_range: ValueRange, remark: Remark) -> np.ndarray:
    """Return uint8[h, w, 3] of an image that is open and not decoded yet.

    Args:
        image: of any mode.
        file: that `image` reads.
        path: for messages.
        value_range: values of black and white where there are more than 8 bits.
        remark: told of what is left out.

    Raises:
        UserError: values of which it is not clear which are black and white.
    """
    if not is_wide(image):
        turn_upright(image, path, remark)
        _note_what_is_left_out(image, path, remark)
        return _eight_bits_to_rgb(image)
    inverted = is_inverted(image)
    values, bits = wide_values(image, file, path, remark, exact=value_range != AUTO)
    _note_what_is_left_out(image, path, remark)
    values = to_bytes(values, value_range, bits, path, remark)
    return _three_channels(255 - values if inverted else values)


def is_wide(image: Image.Image) -> bool:
    """Return whether an image, open and not decoded yet, has other values than whole numbers from 0 to 255."""
    return image.mode in WIDE_MODES or has_signed_bytes(image) or has_deep_colours(image)


def wide_values(
    image: Image.Image, file: BinaryIO, path: Path, remark: Remark, exact: bool = False
) -> tuple[np.ndarray, int]:
    """Return the values [h, w] or [h, w, 3] of an image that `is_wide`, and the bits that its file states.

    The bits are 0 where it states none. `exact` as of `read_deep_colours`.
    """
    if has_signed_bytes(image):
        turn_upright(image, path, remark)
        return np.asarray(image).view(np.int8), 0
    bits = read_stated_bits(image, file)
    if image.mode in WIDE_MODES:
        turn_upright(image, path, remark)
        values = np.asarray(image)
    else:
        values = read_deep_colours(image, file, path, remark, exact)
    if bits and image.format == "PNG" and values.max() >> bits:
        bits = 16  # as the standard of PNG wants it, the stated bits are the upper ones
    return values, bits


def rgb_values(array: np.ndarray, path: Path, value_range: ValueRange, remark: Remark) -> np.ndarray:
    """Return uint8[h, w, 3] of an array [h, w] or [h, w, c] of 3 or 4 channels; the fourth is left out."""
    if array.ndim == 3 and array.shape[2] == 4:
        remark("channels", path, "it has 4 channels; the first three are read as red, green and blue")
        array = array[..., :3]
    return _three_channels(to_bytes(array, value_range, 0, path, remark))


def _eight_bits_to_rgb(image: Image.Image) -> np.ndarray:
    """Return the colours, converted some rows at a time: of a large image every copy counts."""
    image.load()
    rgb_hwc = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, ROWS_AT_ONCE):
        end = min(top + ROWS_AT_ONCE, image.height)
        rgb_hwc[top:end] = _colours(image.crop((0, top, image.width, end)))
    return rgb_hwc


def _colours(image: Image.Image) -> np.ndarray:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB, Pillow warns of a transparent palette
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    return np.asarray(image.convert("RGB"))


def _three_channels(values: np.ndarray) -> np.ndarray:
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)


def _note_what_is_left_out(image: Image.Image, path: Path, remark: Remark) -> None:
    """Tell of channels that are not read, and of transparency, if any pixel has it."""
    remark_channels(image, path, remark)
    if _is_transparent(image):
        remark("transparency", path, "it is transparent in places; the colours beneath are read")


def remark_channels(image: Image.Image, path: Path, remark: Remark) -> None:
    """Tell of the channels of a TIFF that are not read."""
    num_channels = image.tag_v2.get(SAMPLES_PER_PIXEL, 1) if image.format == "TIFF" else 1
    if num_channels > max(3, len(image.getbands())):
        remark("channels", path, f"it has {num_channels} channels; the first three are read as red, green and blue")


def _is_transparent(image: Image.Image) -> bool:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA"):
        return image.getchannel("A").getextrema()[0] < 255
    return "transparency" in image.info
