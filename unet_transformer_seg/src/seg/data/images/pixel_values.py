"""The pixels of an opened image, upright, with the channels and the precision of a data set."""

import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms

from seg.config import DataConfig
from seg.data.images.channels import fit_channels, repeat_grey
from seg.data.images.remarks import Note
from seg.data.images.tags import (
    BITS_PER_SAMPLE,
    PLANES,
    SAMPLES_PER_PIXEL,
    WIDE_MODES,
    has_signed_bytes,
    is_inverted,
    raw_mode,
    read_stated_bits,
    turn_upright,
)
from seg.data.images.value_range import AUTO, scale
from seg.errors import UserError

ROWS_AT_ONCE = 1024

GREY_AND_ALPHA = "LA;16B"
DEEP_MODES = ("RGB;16", "RGBA;16", "RGBX;16", GREY_AND_ALPHA[:-1])
OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
"""Byte order of a raw mode → the order with which Pillow takes the lower byte instead of the upper one."""


Scale = Callable[..., np.ndarray]
"""`(values_hwc, config, note, stated_bits, is_inverted) → image_hwc`, as `seg.data.images.value_range.scale`."""


def keep_values(values_hwc: np.ndarray, *_: Any) -> np.ndarray:
    """Return the values of a file, unscaled; a `Scale`."""
    return values_hwc


def image_of_picture(
    image: Image.Image, file: BinaryIO, config: DataConfig, note: Note, scaled: Scale = scale
) -> np.ndarray:
    """Return [h, w, c] as `Sample.image` of an image that is open from `file` and not decoded yet.

    Raises:
        UserError: another number of channels, or values whose black and white are unclear.
    """
    if not is_wide(image):
        turn_upright(image, note)
        _note_dropped(image, config.channels, note)
        image.load()
        return scaled(_read_bytes(image, config.channels, note), config, note)
    inverted, has_alpha = is_inverted(image), raw_mode(image)[:-1] == "RGBA;16"
    is_exact = config.value_range != AUTO or config.precision == "float32" or scaled is not scale
    values, bits = wide_values(image, file, note, exact=is_exact, keep_alpha=config.channels == 4)
    _note_dropped(image, config.channels, note)
    return image_of_array(values, config, note, bits, inverted, has_alpha and values.shape[-1] == 4, scaled)


def _read_bytes(image: Image.Image, channels: int, note: Note) -> np.ndarray:
    """Return uint8[h, w, channels] of a decoded picture of 8 bits."""
    mode = _stored_mode(image)
    if channels == 3 or (channels == 1 and mode in ("L", "LA")):
        mode = "RGB" if channels == 3 else "L"
    elif channels == 1 and mode == "RGBA":
        mode = "RGB"
    values_hwc = np.empty((image.height, image.width, len(mode)), np.uint8)
    for top in range(0, image.height, ROWS_AT_ONCE):  # in bands: a second copy of a large image is too much
        end = min(top + ROWS_AT_ONCE, image.height)
        values_hwc[top:end] = _colours(image.crop((0, top, image.width, end)), mode).reshape(end - top, -1, len(mode))
    return fit_channels(values_hwc, channels, note)


def _stored_mode(image: Image.Image) -> str:
    """Return the one of Pillow's modes L, LA, RGB and RGBA that has what the picture holds."""
    if image.mode in ("1", "L", "LA"):
        return image.mode.replace("1", "L")
    has_alpha = image.mode in ("RGBA", "PA") or (image.mode == "P" and "transparency" in image.info)
    return "RGBA" if has_alpha else "RGB"


def is_wide(image: Image.Image) -> bool:
    """Return whether an image that is not decoded yet has values other than integers from 0 to 255."""
    return image.mode in WIDE_MODES or has_signed_bytes(image) or has_deep_colours(image)


def wide_values(
    image: Image.Image, file: BinaryIO, note: Note, exact: bool = False, keep_alpha: bool = False
) -> tuple[np.ndarray, int]:
    """Return the values [h, w] or [h, w, c] of an image that `is_wide`, and the bits that its file states, or 0.

    `exact` and `keep_alpha` as in `read_deep_colours`.
    """
    if has_signed_bytes(image):
        turn_upright(image, note)
        return np.asarray(image).view(np.int8), 0
    bits = read_stated_bits(image, file)
    if image.mode in WIDE_MODES:
        turn_upright(image, note)
        values = np.asarray(image)
    else:
        values = read_deep_colours(image, file, note, exact, keep_alpha)
    if bits and image.format == "PNG" and values.max() >> bits:
        bits = 16  # by the PNG standard, the stated bits are the upper ones
    return values, bits


def image_of_array(
    array: np.ndarray,
    config: DataConfig,
    note: Note,
    stated_bits: int = 0,
    is_inverted: bool = False,
    has_alpha: bool = False,
    scaled: Scale = scale,
) -> np.ndarray:
    """Return [h, w, c] as `Sample.image` of an array [h, w] or [h, w, c] of a file's values."""
    values_hwc = fit_channels(array if array.ndim == 3 else array[..., None], config.channels, note, has_alpha)
    return repeat_grey(scaled(values_hwc, config, note, stated_bits, is_inverted), config.channels)


def has_deep_colours(image: Image.Image) -> bool:
    """Return whether an image that is not decoded yet has several channels of 16 bits."""
    return image.format in ("PNG", "TIFF") and (raw_mode(image)[:-1] in DEEP_MODES or _is_planar(image))


def read_deep_colours(
    image: Image.Image, file: BinaryIO, note: Note, exact: bool = False, keep_alpha: bool = False
) -> np.ndarray:
    """Return uint16[h, w], [h, w, 3], or [h, w, 4] where there is an alpha to keep, upright.

    Pillow reads the upper 8 of 16 bits, so the file is decoded a second time for the lower ones. They are left 0 if a
    value uses the two highest bits, which settles the bit depth without them, unless `exact`. Uncompressed planes of
    16 bits, which Pillow misreads, are refused.
    """
    if _is_planar(image):
        raise UserError("its 16-bit channels are stored in planes; save it with interleaved channels")
    stored = raw_mode(image)
    turn_upright(image, note)
    is_grey = stored == GREY_AND_ALPHA
    channels = 0 if is_grey else slice(4 if keep_alpha and stored[:-1] == "RGBA;16" else 3)
    upper = np.asarray(image)[..., channels].astype(np.uint16) << 8
    if not exact and upper.max() >> 14:
        return upper
    file.seek(0)
    with Image.open(file, formats=(image.format,)) as again:
        # Grey with alpha has no other byte order; its four bytes are read as four channels.
        other = "RGBA" if is_grey else stored[:-1] + OTHER_BYTE[stored[-1]]
        modes = [other if isinstance(tile.args, str) else (other, *tile.args[1:]) for tile in again.tile]
        again.tile = [tile._replace(args=args) for tile, args in zip(again.tile, modes, strict=True)]
        turn_upright(again, note)
        return upper | np.asarray(again)[..., 1 if is_grey else channels]


def note_channels(image: Image.Image, note: Note) -> None:
    """Note channels of a TIFF that are not read."""
    num_channels = image.tag_v2.get(SAMPLES_PER_PIXEL, 1) if image.format == "TIFF" else 1
    if num_channels > max(3, len(image.getbands())):
        note("channels", f"it has {num_channels} channels; the first three are read as red, green and blue")


def _note_dropped(image: Image.Image, channels: int, note: Note) -> None:
    note_channels(image, note)
    if channels in (1, 3) and _is_transparent(image):
        note("transparency", "it is transparent in places; the colours beneath are read")


def _is_transparent(image: Image.Image) -> bool:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA"):
        return image.getchannel("A").getextrema()[0] < 255
    return "transparency" in image.info


def _colours(image: Image.Image, mode: str) -> np.ndarray:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB, Pillow warns of a transparent palette
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    return np.asarray(image.convert(mode))


def _is_planar(image: Image.Image) -> bool:
    """Return whether it is a TIFF with uncompressed planes of 16 bits."""
    if image.format != "TIFF" or image.tag_v2.get(PLANES, 1) != 2 or image.mode not in ("RGB", "RGBA"):
        return False
    return max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) == 16 and image.tile[0].codec_name == "raw"
