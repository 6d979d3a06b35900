"""Reads windows of a TIFF page that is too large to be decoded whole.

A page is stored in segments: tiles, or strips as wide as the image. Only the segments that a window touches are
decoded. The newest ones are kept, because neighbouring windows overlap.
"""

import collections
import lzma
import math
import zlib
from typing import BinaryIO

import numpy as np
import tifffile

from seg.errors import UserError

CACHE_BYTES = 384 << 20
"""Decoded segments that are kept, in bytes: two rows of windows of 512² in 100,000 columns of three bytes."""

MAX_SEGMENT_BYTES = 128 << 20
"""Largest decoded tile or strip, in bytes."""

STRIP_BYTES = 1 << 20
"""Uncompressed strips are read in parts of about this size, in bytes: many writers store one strip for the image."""

UNBOUNDED_DECODERS = {8: zlib.decompressobj, 32946: zlib.decompressobj, 34925: lzma.LZMADecompressor}
"""TIFF compression → decoder. Without imagecodecs, tifffile sets no limit on what these write."""

CODECS = 'pip install "unet-transformer-seg[tiff]"'
RE_SAVE = "re-save it in tiles, as `gdal_translate -co TILED=YES -co COMPRESS=DEFLATE` does"


class TiffWindows:
    """One page of an open TIFF, sliced like an array: `windows[top:bottom, left:right]` is [h, w, c] of its dtype.

    Attributes:
        shape: (height, width, channels).
        dtype: of the values in the file.
    """

    def __init__(
        self,
        file: BinaryIO,
        page: tifffile.TiffPage,
        cache_bytes: int | None = None,
        max_segment_bytes: int = 0,
    ):
        """Check the layout of the page; nothing is decoded.

        Raises:
            UserError: a tile or strip that is too large, or a layout that cannot be read by windows.
        """
        self._file, self._page, self._cache_bytes = file, page, cache_bytes or CACHE_BYTES
        self._planes, depth, height, width, samples = page.shaped
        if depth != 1 or page.dtype is None:
            raise UserError("its layout cannot be read by windows; " + RE_SAVE)
        self.shape, self.dtype = (height, width, self._planes * samples), np.dtype(page.dtype)
        self._is_raw = bool(page.is_final) and not page.is_tiled
        row_bytes = width * samples * self.dtype.itemsize
        if self._is_raw:
            self._side = max(1, STRIP_BYTES // row_bytes), width
        else:
            self._side = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
        self._segment_bytes = math.prod(self._side) * samples * self.dtype.itemsize
        if self._segment_bytes > max(max_segment_bytes, MAX_SEGMENT_BYTES):
            kind = "tiles" if page.is_tiled else "strips"
            size = "×".join(map(str, self._side))
            raise UserError(f"its {kind} of {size} pixels are too large to be decoded one by one; {RE_SAVE}")
        self._grid = -(-height // self._side[0]), -(-width // self._side[1])
        self._kept: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        """Return the values [h, w, c] of a window, a range of rows and one of columns of step 1."""
        (top, bottom, _), (left, right, _) = (
            part.indices(side) for part, side in zip(window, self.shape[:2], strict=True)
        )
        values_hwc = np.empty((bottom - top, right - left, self.shape[2]), self.dtype)
        per_plane = self.shape[2] // self._planes
        side_h, side_w = self._side
        for plane in range(self._planes):
            channels = slice(plane * per_plane, (plane + 1) * per_plane)
            for row in range(top // side_h, -(-bottom // side_h)):
                for column in range(left // side_w, -(-right // side_w)):
                    segment_hwc = self._segment(plane, row, column)
                    y, x = row * side_h, column * side_w
                    rows = slice(max(top, y), min(bottom, y + len(segment_hwc)))
                    columns = slice(max(left, x), min(right, x + side_w))
                    values_hwc[
                        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left, channels
                    ] = segment_hwc[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
        return values_hwc

    def _segment(self, plane: int, row: int, column: int) -> np.ndarray:
        index = (plane * self._grid[0] + row) * self._grid[1] + column
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        while self._kept and (len(self._kept) + 1) * self._segment_bytes > self._cache_bytes:
            self._kept.popitem(last=False)
        self._kept[index] = self._read_raw(plane, row) if self._is_raw else self._decode(index)
        return self._kept[index]

    def _read_raw(self, plane: int, row: int) -> np.ndarray:
        """Return rows of a page whose values are stored one after another."""
        height, width, channels = self.shape
        top = row * self._side[0]
        rows, per_plane = min(self._side[0], height - top), channels // self._planes
        row_bytes = width * per_plane * self.dtype.itemsize
        content = self._read(self._page.dataoffsets[0] + (plane * height + top) * row_bytes, rows * row_bytes)
        stored = self.dtype.newbyteorder(self._page.parent.byteorder)
        return np.frombuffer(content, stored).reshape(rows, width, per_plane).astype(self.dtype, copy=False)

    def _decode(self, index: int) -> np.ndarray:
        """Return a tile or strip, [h, w, c]; one that is not stored holds the value that stands for no data."""
        page = self._page
        if index >= len(page.dataoffsets) or index >= len(page.databytecounts):
            raise UserError(f"damaged: tile or strip {index} is missing")
        content, count = None, page.databytecounts[index]
        if count:
            if count > 2 * self._segment_bytes + (1 << 16):
                raise UserError(f"damaged: tile or strip {index} states {count} bytes")
            content = self._read(page.dataoffsets[index], count)
            self._refuse_bomb(content, index)
        try:
            segment, _, shape = page.decode(content, index, jpegtables=page.jpegtables)
        except (ValueError, ImportError) as error:
            if isinstance(error, ValueError) and "imagecodecs" not in str(error):
                raise
            kind = getattr(page.compression, "name", page.compression)
            raise UserError(f"its pixels are compressed as {kind}: {CODECS} adds the decoder") from None
        return np.full(shape[1:], page.nodata, self.dtype) if segment is None else segment[0]

    def _read(self, offset: int, count: int) -> bytes:
        self._file.seek(offset)
        content = self._file.read(count)
        if len(content) != count:
            raise UserError(f"damaged: the file ends within its pixels, at byte {offset + len(content)}")
        return content

    def _refuse_bomb(self, content: bytes, index: int) -> None:
        """Refuse a segment that decodes to far more than its pixels."""
        if self._page.compression not in UNBOUNDED_DECODERS:
            return
        limit = self._segment_bytes + (1 << 16)
        if len(UNBOUNDED_DECODERS[self._page.compression]().decompress(content, limit)) == limit:
            raise UserError(f"damaged: tile or strip {index} decodes to more than its {self._segment_bytes} bytes")
