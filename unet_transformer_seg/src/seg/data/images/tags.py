"""What an image file states: bits, sign, which value is white, orientation, lossy compression, number of pictures."""

import os
import re
from collections.abc import Callable
from typing import Any, BinaryIO

from PIL import Image, ImageOps

from seg.data.images.remarks import Note
from seg.errors import UserError

BITS_PER_SAMPLE, PHOTOMETRIC, IMAGE_DESCRIPTION, SAMPLES_PER_PIXEL, PLANES, SAMPLE_FORMAT = 258, 262, 270, 277, 284, 339
MAX_SAMPLE_VALUE_TAGS = (281, 341)
WHITE_IS_ZERO, SIGNED = 0, 2
WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's modes of one channel of more than 8 bits
OME_BITS = re.compile(r'\bSignificantBits="(\d{1,2})"')
DEPTHS = range(8, 17)
MAX_CHUNKS = 1000  # chunks of a PNG or WebP that are searched
FEW_BITS = re.compile(r"L;([24])I?R?")
"""Pillow's raw modes of grey with 2 and 4 bits, which it spreads over 0 to 255."""

LOSSY_IN_TIFF = ("jpeg", "tiff_jpeg", "webp")


def turn_upright(image: Image.Image, note: Note) -> None:
    """Decode an image and apply the orientation of its EXIF or TIFF tag in place.

    A damaged EXIF entry is ignored, as viewers do, with a note.
    """
    try:
        image.getexif()
    except Exception as error:  # Pillow raises nearly any exception on damage
        image.load()  # raises if the pixels themselves are damaged
        note("EXIF entry", f"ignored its damaged EXIF entry ({type(error).__name__}) and its orientation")
    else:
        ImageOps.exif_transpose(image, in_place=True)


def raw_mode(image: Image.Image) -> str:
    """Return Pillow's name for how the file stores the pixels of an image that is not decoded yet."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def grey_depth(image: Image.Image) -> int:
    """Return the bits of a grey value of an image that is not decoded yet: 1, 2 or 4; 8 for all others."""
    match = FEW_BITS.fullmatch(raw_mode(image))
    return 1 if image.mode == "1" else int(match[1]) if match else 8


def has_signed_bytes(image: Image.Image) -> bool:
    """Return whether a grey TIFF has signed 8-bit values; Pillow reads -1 as 255."""
    return image.format == "TIFF" and image.mode == "L" and SIGNED in _as_tuple(image.tag_v2.get(SAMPLE_FORMAT, ()))


def is_white_zero(image: Image.Image) -> bool:
    """Return whether the file is a grey TIFF in which 0 is white."""
    return image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO


def is_inverted(image: Image.Image) -> bool:
    """Return whether 0 is still white after decoding: Pillow itself inverts values of 1 and 8 bits only."""
    return image.mode in WIDE_MODES and is_white_zero(image)


def read_stated_bits(image: Image.Image, file: BinaryIO) -> int:
    """Return how many bits of a 16-bit image are used according to its file; 0 if the file does not state it.

    A PNG states it in `sBIT`; a TIFF in the bits per sample, the largest sample value or OME's `SignificantBits`.
    """
    if image.format == "PNG":
        return _png_bits(file)
    if image.format != "TIFF" or image.mode == "F":
        return 0
    return stated_tiff_bits(image.tag_v2.get, max(image.tag_v2.get(BITS_PER_SAMPLE, (16,))))


def stated_tiff_bits(get: Callable[[int, Any], Any], bits_per_sample: int) -> int:
    """Return how many bits a TIFF states by its tags; `get(code, default)` returns the value of one."""
    if 8 < bits_per_sample < 16:
        return bits_per_sample
    if (match := OME_BITS.search(str(get(IMAGE_DESCRIPTION, ""))[:100_000])) and int(match[1]) in DEPTHS:
        return int(match[1])
    for tag in MAX_SAMPLE_VALUE_TAGS:
        largest = max(_as_tuple(get(tag, ())), default=0)
        if isinstance(largest, int | float) and 255 <= largest <= 65535:
            return next(bits for bits in (8, 10, 12, 14, 16) if largest < 1 << bits)
    return 0


def is_lossy(image: Image.Image, file: BinaryIO) -> bool:
    """Return whether `image`, open from `file`, is a JPEG, a TIFF with JPEG inside, or a lossy WebP."""
    if image.format == "TIFF":
        return image.info.get("compression") in LOSSY_IN_TIFF
    return image.format in ("JPEG", "MPO") or (image.format == "WEBP" and _has_lossy_chunk(file))


def _as_tuple(value) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def _png_bits(file: BinaryIO) -> int:
    """Return the largest value of the chunk sBIT, or 0; the file's position stays."""
    position, bits = file.tell(), 0
    file.seek(8)
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] in (b"IDAT", b"IEND"):
            break
        size = int.from_bytes(head[:4], "big")
        if head[4:] == b"sBIT" and 1 <= size <= 4:
            bits = max(file.read(size)[:3], default=0)
            break
        file.seek(size + 4, 1)
    file.seek(position)
    return bits if bits in DEPTHS else 0


def _has_lossy_chunk(file: BinaryIO) -> bool:
    """Return whether a WebP has a chunk "VP8 "; a lossless one has "VP8L". The file's position stays."""
    position, is_lossy_chunk = file.tell(), False
    file.seek(12)
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[:4] in (b"VP8 ", b"VP8L"):
            is_lossy_chunk = head[:4] == b"VP8 "
            break
        size = int.from_bytes(head[4:], "little")
        file.seek(size + size % 2, 1)
    file.seek(position)
    return is_lossy_chunk


SUBFILE_TYPE = 254
SMALLER_OR_TRANSPARENCY = 1 | 4
"""Flags of a TIFF page that is a smaller copy of another one, or its transparency."""
MAX_COUNTED = 1000


def refuse_pages(image: Image.Image, note: Note) -> None:
    """Refuse a file with several pictures, naming their number and sizes.

    Smaller copies in a TIFF and further pictures of a JPEG (a preview, a depth map) do not count: the first picture is
    read, as viewers show it, with a note for a JPEG.
    """
    if image.format in ("JPEG", "MPO"):
        if getattr(image, "n_frames", 1) > 1:
            note("pictures", f"it holds {image.n_frames} pictures; the first is read, as viewers show it")
        return
    if getattr(image, "n_frames", 1) == 1 and not _imagej_pages(image):
        return
    sizes = _tiff_sizes(image) if image.format == "TIFF" else [image.size] * image.n_frames
    if len(sizes) == 1:
        return
    kind = "pages" if image.format == "TIFF" else "frames of an animation"
    count = f"at least {len(sizes)}" if len(sizes) >= MAX_COUNTED else str(len(sizes))
    shown = ", ".join(f"{h}×{w}" for w, h in list(dict.fromkeys(sizes))[:5])
    raise UserError(
        f"{count} {kind} (height×width {shown}) where one image was expected; "
        f"save each of them, 1 to {len(sizes)}, as a file of its own"
    )


def _tiff_sizes(image: Image.Image) -> list[tuple[int, int]]:
    """Return (width, height) of the pages that are no smaller copies."""
    if pages := _imagej_pages(image):
        return [image.size] * min(pages, MAX_COUNTED)
    sizes = []
    for page in range(min(image.n_frames, MAX_COUNTED)):
        image.seek(page)
        if page == 0 or not image.tag_v2.get(SUBFILE_TYPE, 0) & SMALLER_OR_TRANSPARENCY:
            sizes.append(image.size)
    image.seek(0)
    return sizes


def _imagej_pages(image: Image.Image) -> int:
    """Return the number of pages in an ImageJ TIFF, whose directory names the first one only; else 0."""
    description = str(image.tag_v2.get(IMAGE_DESCRIPTION, ""))[:1000] if image.format == "TIFF" else ""
    if not description.startswith("ImageJ="):
        return 0
    lines = (line.partition("=") for line in description.splitlines())
    pages = next((value for name, _, value in lines if name == "images"), "1")
    if not (pages.isdecimal() and len(pages) < 8 and int(pages) > 1):
        return 0
    num_bytes = int(pages) * image.width * image.height * sum(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) // 8
    position, end = image.fp.tell(), image.fp.seek(0, os.SEEK_END)
    image.fp.seek(position)
    return int(pages) if num_bytes <= end else 0  # a page cut out of a stack keeps its description
