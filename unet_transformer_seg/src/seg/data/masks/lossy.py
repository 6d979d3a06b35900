"""Tells whether an image file was compressed with loss, which changes the values of a mask."""

from typing import BinaryIO

from PIL import Image

LOSSY_FORMATS = ("JPEG", "MPO")
LOSSY_IN_TIFF = ("jpeg", "tiff_jpeg", "webp")
MAX_CHUNKS = 100


def is_lossy(image: Image.Image, file: BinaryIO) -> bool:
    """Return whether `image`, open from `file`, is a JPEG, a TIFF with JPEG inside, or a lossy WebP."""
    if image.format == "TIFF":
        return image.info.get("compression") in LOSSY_IN_TIFF
    return image.format in LOSSY_FORMATS or (image.format == "WEBP" and _has_lossy_chunk(file))


def _has_lossy_chunk(file: BinaryIO) -> bool:
    """Return whether a WebP holds a chunk "VP8 "; that of a lossless one is called "VP8L". The position stays."""
    place, is_found = file.tell(), False
    file.seek(12)
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[:4] in (b"VP8 ", b"VP8L"):
            is_found = head[:4] == b"VP8 "
            break
        size = int.from_bytes(head[4:], "little")
        file.seek(size + size % 2, 1)
    file.seek(place)
    return is_found
