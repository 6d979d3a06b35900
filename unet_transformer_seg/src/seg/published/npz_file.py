"""Reads untrusted numpy `.npz` files: no pickles, and memory in proportion to the file.

Such a file is a zip archive with an entry NAME.npy for each array: a header with dtype and shape, then the values.
numpy itself allocates whatever a header states, so a few kilobytes can claim all memory. Here the stated size of an
entry is checked against its header and the file before it is read.
"""

import lzma
import math
import os
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from seg.errors import UserError
from seg.files import open_file

MAX_UNPACKED = 16
"""Largest unpacked size as a multiple of the file's; trained weights hardly compress."""
SLACK_BYTES = 16 << 20
"""Unpacked bytes allowed beyond that: arrays of zeros compress to nothing."""

NPZ_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError)
NPZ_ERRORS += (ArithmeticError, AttributeError, EOFError, LookupError, RuntimeError, SyntaxError, TypeError, ValueError)
"""Exceptions that a damaged archive or header may cause; an encrypted one, a RuntimeError."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an `.npz` by name.

    Raises:
        UserError: no such file, not an `.npz` of numbers, or one that unpacks to far more than its size.
    """
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            _check_size(archive, path, os.fstat(file.fileno()).st_size)
            entries = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            return {info.filename.removesuffix(".npy"): _read_array(archive, info) for info in entries}
    except UserError:
        raise
    except NPZ_ERRORS as error:
        raise UserError(f"{path}: expected an .npz with arrays of numbers ({error!s:.200})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _check_size(archive: zipfile.ZipFile, path: Path, size: int) -> None:
    unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > MAX_UNPACKED * size + SLACK_BYTES:
        raise UserError(f"{path}: its arrays have {unpacked} bytes, the file {size}; weights do not compress that well")


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Return one array, after checking its header against the entry's size."""
    with archive.open(info) as entry:
        version = np.lib.format.read_magic(entry)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{info.filename[:80]}: version {version} of the format")
        read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, fortran_order, dtype = read_header(entry)
        if dtype.kind not in "biuf":
            raise ValueError(f"{info.filename[:80]}: values of {dtype.kind!r}, not numbers")
        num_bytes = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or num_bytes != info.file_size - entry.tell():
            raise ValueError(f"{info.filename[:80]}: {info.file_size} bytes for the shape {shape!s:.80} of {dtype}")
        values = np.frombuffer(_read(entry, num_bytes), dtype)
    return values.reshape(shape, order="F" if fortran_order else "C")


def _read(entry: zipfile.ZipExtFile, num_bytes: int) -> bytearray:
    """Return the rest of an entry; reading it to the end checks the checksum."""
    content = bytearray()
    while part := entry.read(1 << 20):
        content += part
    if len(content) != num_bytes:
        raise ValueError(f"{entry.name[:80]}: it ends after {len(content)} of {num_bytes} bytes")
    return content
