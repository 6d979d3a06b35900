"""Images of several channels with 16 bits each, of which Pillow reads the upper 8 bits alone."""

import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from seg.data.images.orientation import turn_upright
from seg.data.images.remarks import Remark
from seg.data.images.stated_bits import raw_mode
from seg.errors import UserError

GREY_AND_ALPHA = "LA;16B"
DEEP_MODES = ("RGB;16", "RGBA;16", "RGBX;16", GREY_AND_ALPHA[:-1])
OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
"""The byte order that makes Pillow take the lower byte where it takes the upper one."""
BITS_PER_SAMPLE, PLANES = 258, 284


def has_deep_colours(image: Image.Image) -> bool:
    """Return whether an image, open and not decoded yet, has 16 bits in each of several channels."""
    return image.format in ("PNG", "TIFF") and (raw_mode(image)[:-1] in DEEP_MODES or _has_planes(image))


def read_deep_colours(
    image: Image.Image, file: BinaryIO, path: Path, remark: Remark, exact: bool = False
) -> np.ndarray:
    """Return uint16[h, w] or [h, w, 3], upright; `image` is decoded afterwards.

    The file is decoded a second time for the lower bytes. Where a value has the two upper bits, these are no longer
    needed to tell how many bits are used, and are left 0 unless `exact`.

    Raises:
        UserError: uncompressed planes of 16 bits, one behind the other, which Pillow misreads.
    """
    if _has_planes(image):
        raise UserError(f"{path}: its 16-bit channels lie one behind the other; save it with interleaved channels")
    stored = raw_mode(image)
    turn_upright(image, path, remark)
    is_grey = stored == GREY_AND_ALPHA
    channels = 0 if is_grey else slice(3)
    upper = np.asarray(image)[..., channels].astype(np.uint16) << 8
    if not exact and upper.max() >> 14:
        return upper
    file.seek(0)
    with Image.open(file, formats=(image.format,)) as again:
        # Grey with alpha has no other order; its four bytes are read as four channels.
        other = "RGBA" if is_grey else stored[:-1] + OTHER_BYTE[stored[-1]]
        again.tile = [tile._replace(args=_with_raw_mode(tile.args, other)) for tile in again.tile]
        turn_upright(again, path, remark)
        return upper | np.asarray(again)[..., 1 if is_grey else channels]


def _with_raw_mode(args: str | tuple, other: str) -> str | tuple:
    return other if isinstance(args, str) else (other, *args[1:])


def _has_planes(image: Image.Image) -> bool:
    """Return whether it is a TIFF whose channels of 16 bits lie one behind the other, uncompressed."""
    if image.format != "TIFF" or image.tag_v2.get(PLANES, 1) != 2 or image.mode not in ("RGB", "RGBA"):
        return False
    return max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) == 16 and image.tile[0].codec_name == "raw"
