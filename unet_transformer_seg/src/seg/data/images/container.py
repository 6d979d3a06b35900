"""The face that every kind of image file but Pillow's has: what it holds, known before it is decoded, and its pixels.

A module of this folder that reads one kind of file has a function `open_…(path, file, max_pixels)` that returns a
`Container`. It checks sizes with `check_pixels` while it reads the headers, so a file that lies is refused before
memory is allocated, and it raises `UserError` without the file's name, which the caller puts first.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from seg.errors import UserError

Window = tuple[slice, slice]
"""Rows and columns of a page, with `start` and `stop`."""


class Page(NamedTuple):
    """An image in a file, as its header describes it."""

    height: int  # rows, upright
    width: int  # columns, upright
    channels: int  # 1 for grey
    dtype: np.dtype  # of the values
    stated_bits: int = 0  # bits of a value that the file states, or 0
    has_alpha: bool = False  # whether the last channel is transparency
    is_rgb: bool = False  # whether the first three channels are red, green and blue by the file's word
    is_inverted: bool = False  # whether 0 is white
    palette: np.ndarray | None = None  # uint8[n, 3], the colour of each value, or None


class LazyPages(Sequence):
    """What the header says of each image of a file, read when it is asked for."""

    def __init__(self, count: int, describe_page: Callable[[int], Page]):
        """Describe image `number` by `describe_page(number)`."""
        self._count, self._describe, self._known = count, describe_page, {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Page:
        if not 0 <= number < self._count:
            raise IndexError(number)
        if number not in self._known:
            self._known[number] = self._describe(number)
        return self._known[number]


class Container(Protocol):
    """An open file of one or several images."""

    pages: Sequence[Page]  # what it holds

    def read(self, page: int, window: Window | None = None) -> np.ndarray:
        """Return [h, w, c] of the file's dtype, upright: a page or a window of it."""


@contextlib.contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Put the file's name before an error of the body; what a decoder raises means that the file is damaged."""
    try:
        yield
    except UserError as error:
        prefix = "" if str(error).startswith(f"{path}: ") else f"{path}: "
        raise UserError(f"{prefix}{error}") from None
    except Exception as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error})") from None
