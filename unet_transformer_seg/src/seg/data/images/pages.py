"""Refuses files with several pictures: the pages of a TIFF, the frames of an animation."""

import os

from PIL import Image

from seg.data.images.remarks import Note
from seg.data.images.tags import BITS_PER_SAMPLE, IMAGE_DESCRIPTION
from seg.errors import UserError

SUBFILE_TYPE = 254
SMALLER_OR_TRANSPARENCY = 1 | 4
"""Flags of a TIFF page that is a smaller copy of another one, or its transparency."""
MAX_COUNTED = 1000


def refuse_pages(image: Image.Image, note: Note) -> None:
    """Refuse a file with several pictures.

    Smaller copies in a TIFF and further pictures of a JPEG (a preview, a depth map) do not count: the first picture is
    read, as viewers show it, with a note for a JPEG.

    Raises:
        UserError: with the number of pages or frames and their sizes.
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
