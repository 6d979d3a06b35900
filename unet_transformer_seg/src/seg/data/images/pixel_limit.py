"""Refuses images that are larger than the user allows, before they are decoded."""

from pathlib import Path

from seg.config.parsing import MAX_INT
from seg.errors import UserError


def check_pixels(path: Path, found: str, pixels: int, max_pixels: int) -> None:
    """Refuse more pixels than `data.max_pixels`.

    Args:
        path: of the file.
        found: what it holds, for the message: that it is more.
        pixels: of the image.
        max_pixels: allowed.

    Raises:
        UserError: saying what to add to the command, which takes settings as key=value whichever it is.
    """
    if pixels > max_pixels:
        way = f"if there is memory for it, add data.max_pixels={pixels} to the command"
        more = way if pixels <= MAX_INT else f"cut it into parts: no setting allows more than {MAX_INT}"
        raise UserError(f"{path}: {found} than data.max_pixels = {max_pixels}; {more}")
