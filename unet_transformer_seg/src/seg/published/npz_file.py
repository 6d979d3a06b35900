"""Reads untrusted numpy `.npz` files: no pickles, and memory in proportion to the file.

Such a file is a zip archive with an entry NAME.npy for each array: a header with dtype and shape, then the values.
numpy itself allocates whatever a header states, so a few kilobytes can claim all memory. Here the stated size of an
entry is checked against its header and the file before it is read.
"""

import lzma
import os
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from seg.data.image_file import naming_file
from seg.data.images.array_file import read_npy
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
        with open_file(path) as file, zipfile.ZipFile(file) as archive, naming_file(path):
            unpacked, size = sum(info.file_size for info in archive.infolist()), os.fstat(file.fileno()).st_size
            if unpacked > MAX_UNPACKED * size + SLACK_BYTES:
                raise UserError(f"its arrays have {unpacked} bytes, the file {size}; weights do not compress that well")
            entries = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            return {info.filename.removesuffix(".npy"): _read_array(archive, info) for info in entries}
    except UserError:
        raise
    except NPZ_ERRORS as error:
        raise UserError(f"{path}: expected an .npz with arrays of numbers ({error!s:.200})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Return one array, after checking its header against the entry's size."""
    with archive.open(info) as entry:

        def check(shape: tuple[int, ...], num_bytes: int) -> None:
            size = info.file_size - entry.tell()
            if min(shape, default=0) < 0 or num_bytes != size:
                raise ValueError(f"{info.filename[:80]}: {size} bytes for the shape {shape!s:.80}")

        return read_npy(entry, info.file_size, check)  # reading to the end also checks the checksum
