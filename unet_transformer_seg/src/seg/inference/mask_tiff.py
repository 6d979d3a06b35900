"""Writes masks as a tiled TIFF, row by row: of a large image, of a stack of pages, or with a place on the earth.

The file is compressed with deflate. Class numbers have the colours of the classes as palette.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile

TILE = 256  # rows and columns of a tile

BIG = 1 << 31  # pixels from which on offsets of 64 bits are written (BigTIFF), in bytes


def write_mask_tiff(
    path: Path | BinaryIO,
    pages: Iterable[Iterable[np.ndarray]],
    shape: tuple[int, int, int],
    palette: np.ndarray | None,
    dtype: np.dtype,
    tags: list[tuple],
    bands: str = "",
) -> None:
    """Write the rows of each page as they come.

    Args:
        path: an existing file, which is replaced, or an open one.
        pages: for each page its rows from top to bottom, [rows, w] or [rows, w, 3] at a time.
        shape: number of pages, rows and columns.
        palette: uint8[256, 3], colour of each value; None for grey values, or colours.
        dtype: of the values, uint8 or uint16.
        tags: further tags, as tifffile takes them.
        bands: the third axis of the rows, [rows, w, k], is no colour but bands of this description.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    with tifffile.TiffWriter(path, bigtiff=size >= BIG) as file:
        for page in pages:
            page = iter(page)
            first = next(page)
            _write_page(file, _tiles(first, page, shape[2]), shape[1:] + first.shape[2:], palette, dtype, tags, bands)


@contextlib.contextmanager
def tiff_pages(
    path: Path | BinaryIO,
    shape: tuple[int, int, int],
    dtype: np.dtype,
    palette: np.ndarray | None = None,
    bands: str = "",
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends a page, [h, w] or [h, w, 3]; arguments as in `write_mask_tiff`."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    with tifffile.TiffWriter(path, bigtiff=size >= BIG) as file:
        yield lambda page: _write_page(
            file, _tiles(page, iter(()), page.shape[1]), page.shape, palette, dtype, [], bands
        )


def _write_page(
    file: tifffile.TiffWriter,
    tiles: Iterator[np.ndarray],
    shape: tuple[int, ...],
    palette: np.ndarray | None,
    dtype: np.dtype,
    tags: list[tuple],
    bands: str,
) -> None:
    look = {"photometric": "rgb" if len(shape) == 3 and not bands else "minisblack" if palette is None else "palette"}
    if palette is not None:
        look["colormap"] = palette.T.astype(np.uint16) * 257
    if bands:
        look |= {"planarconfig": "contig", "description": bands}
    file.write(
        tiles,
        shape=shape,
        dtype=dtype,
        tile=(TILE, TILE),
        compression="zlib",
        metadata=None,
        software=False,
        extratags=tags,
        maxworkers=1,
        **look,
    )


def _tiles(first: np.ndarray, bands: Iterator[np.ndarray], width: int) -> Iterator[np.ndarray]:
    """Yield the tiles of a page, row by row, the last of each filled up with zeros."""
    held = first
    while held is not None:
        parts, rows = [held], len(held)
        while rows < TILE and (band := next(bands, None)) is not None:
            parts.append(band)
            rows += len(band)
        held = np.concatenate(parts) if len(parts) > 1 else held
        for left in range(0, width, TILE):
            yield _filled(held[:TILE, left : left + TILE])
        held = held[TILE:] if len(held) > TILE else next(bands, None)


def _filled(tile: np.ndarray) -> np.ndarray:
    missing = [(0, TILE - side) for side in tile.shape[:2]] + [(0, 0)] * (tile.ndim - 2)
    return np.pad(tile, missing) if any(n for _, n in missing) else tile
