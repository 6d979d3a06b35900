"""What an image file states about its values: how many bits they use, and whether 0 is white."""

import re
from typing import BinaryIO

from PIL import Image

BITS_PER_SAMPLE, PHOTOMETRIC, IMAGE_DESCRIPTION, SAMPLES_PER_PIXEL = 258, 262, 270, 277
MAX_SAMPLE_VALUE_TAGS = (281, 341)
WHITE_IS_ZERO = 0
WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's modes of one channel of more than 8 bits."""
OME_BITS = re.compile(r'\bSignificantBits="(\d{1,2})"')
DEPTHS = range(8, 17)
MAX_PNG_CHUNKS = 1000


def is_inverted(image: Image.Image) -> bool:
    """Return whether 0 is white, as Pillow leaves it: those of 1 and 8 bits it inverts itself."""
    return image.format == "TIFF" and image.mode in WIDE_MODES and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO


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
