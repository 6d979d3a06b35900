"""What an image file states about its values: how many bits they use, their sign, and whether 0 is white."""

import re
from typing import BinaryIO

from PIL import Image

BITS_PER_SAMPLE, PHOTOMETRIC, IMAGE_DESCRIPTION, SAMPLES_PER_PIXEL, SAMPLE_FORMAT = 258, 262, 270, 277, 339
MAX_SAMPLE_VALUE_TAGS = (281, 341)
WHITE_IS_ZERO, SIGNED = 0, 2
WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's modes of one channel of more than 8 bits."""
OME_BITS = re.compile(r'\bSignificantBits="(\d{1,2})"')
DEPTHS = range(8, 17)
MAX_PNG_CHUNKS = 1000
FEW_BITS = re.compile(r"L;([24])I?R?")
"""Pillow's raw modes of grey with 2 and 4 bits, which it spreads over 0 to 255."""


def raw_mode(image: Image.Image) -> str:
    """Return how the file stores the pixels of an image, open and not decoded yet, in Pillow's words."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def grey_depth(image: Image.Image) -> int:
    """Return the bits of a grey value of an image, open and not decoded yet: 1, 2 or 4; 8 for all others."""
    match = FEW_BITS.fullmatch(raw_mode(image))
    return 1 if image.mode == "1" else int(match[1]) if match else 8


def has_signed_bytes(image: Image.Image) -> bool:
    """Return whether a grey TIFF has 8 bits with a sign; Pillow reads -1 as 255."""
    return image.format == "TIFF" and image.mode == "L" and SIGNED in _numbers(image, SAMPLE_FORMAT)


def is_white_zero(image: Image.Image) -> bool:
    """Return whether the file is a grey TIFF in which 0 is white."""
    return image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO


def is_inverted(image: Image.Image) -> bool:
    """Return whether 0 is white, as Pillow leaves it: those of 1 and 8 bits it inverts itself."""
    return image.mode in WIDE_MODES and is_white_zero(image)


def read_stated_bits(image: Image.Image, file: BinaryIO) -> int:
    """Return how many bits of a 16-bit image are used, as its file states; 0: it says nothing.

    Read are `sBIT` of a PNG, and of a TIFF the bits of a sample, the largest sample value, and the `SignificantBits`
    of OME.
    """
    if image.format == "PNG":
        return _png_bits(file)
    if image.format != "TIFF" or image.mode == "F":
        return 0
    tags = image.tag_v2
    if 8 < (bits := max(tags.get(BITS_PER_SAMPLE, (16,)))) < 16:
        return bits
    if (match := OME_BITS.search(str(tags.get(IMAGE_DESCRIPTION, ""))[:100_000])) and int(match[1]) in DEPTHS:
        return int(match[1])
    for tag in MAX_SAMPLE_VALUE_TAGS:
        largest = tags.get(tag, 0)
        largest = max(largest) if isinstance(largest, tuple) and largest else largest
        if isinstance(largest, int | float) and 255 <= largest <= 65535:
            return next(bits for bits in (8, 10, 12, 14, 16) if largest < 1 << bits)
    return 0


def _numbers(image: Image.Image, tag: int) -> tuple:
    numbers = image.tag_v2.get(tag, ())
    return numbers if isinstance(numbers, tuple) else (numbers,)


def _png_bits(file: BinaryIO) -> int:
    """Return the largest value of the chunk sBIT, or 0; the file's position stays."""
    place, bits = file.tell(), 0
    file.seek(8)
    for _ in range(MAX_PNG_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] in (b"IDAT", b"IEND"):
            break
        size = int.from_bytes(head[:4], "big")
        if head[4:] == b"sBIT" and 1 <= size <= 4:
            bits = max(file.read(size)[:3], default=0)
            break
        file.seek(size + 4, 1)
    file.seek(place)
    return bits if bits in DEPTHS else 0
