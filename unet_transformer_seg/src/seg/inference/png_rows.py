"""Writes a PNG row by row: Pillow needs the whole picture in memory."""

import struct
import zlib
from typing import BinaryIO

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, INDEXED = 0, 2, 3  # colour types
NO_FILTER, SUB = 0, 1  # filters of a row: none, or the difference to the pixel before
BUFFERED = 1 << 20  # smallest chunk of pixels, in bytes


class PngRows:
    """A PNG that is being written."""

    def __init__(
        self, file: BinaryIO, shape: tuple[int, int], colour: int, bits: int = 8, palette: bytes = b"", level: int = 6
    ):
        """Write the header; `colour` is `GREY`, `RGB` or `INDEXED`, `level` that of the compression, 1 (fast) to 9."""
        self._file, self._rows_left, self._bits = file, shape[0], bits
        self._filter = SUB if colour == RGB else NO_FILTER
        self._deflate, self._buffer = zlib.compressobj(level), bytearray()
        file.write(SIGNATURE)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", shape[1], shape[0], bits, colour, 0, 0, 0))
        if palette:
            self._chunk(b"PLTE", palette)

    def append(self, rows: np.ndarray) -> None:
        """Write uint8 or uint16 [rows, w], or [rows, w, 3]."""
        values = np.ascontiguousarray(rows.astype(">u2") if self._bits == 16 else rows)
        bytes_rn = values.view(np.uint8).reshape(len(rows), -1)
        filtered_rn = np.empty((len(rows), 1 + bytes_rn.shape[1]), np.uint8)
        filtered_rn[:, 0], filtered_rn[:, 1:] = self._filter, bytes_rn
        if self._filter == SUB:
            filtered_rn[:, 4:] -= bytes_rn[:, :-3]
        self._buffer += self._deflate.compress(filtered_rn)
        self._rows_left -= len(rows)
        if len(self._buffer) >= BUFFERED:
            self._flush()

    def close(self) -> None:
        """Write the end of the file."""
        if self._rows_left:
            raise ValueError(f"{self._rows_left} rows of the picture are missing")
        self._buffer += self._deflate.flush()
        self._flush()
        self._chunk(b"IEND", b"")

    def _flush(self) -> None:
        self._chunk(b"IDAT", bytes(self._buffer))
        self._buffer.clear()

    def _chunk(self, kind: bytes, content: bytes) -> None:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        self._file.write(struct.pack(">I", len(content)) + kind + content + checksum)
