"""Reads NIfTI volumes as pages, one for each slice, and writes volumes of labels.

A slice has the two other axes of the volume, in their order, as rows and columns. Nothing is turned or flipped: the
affine says where a voxel is, and the labels keep it. A fourth axis holds channels, such as the sequences of an MR scan.
"""

import functools
import gzip
import importlib
import math
import os
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from seg.data.images.array_file import check_pixels
from seg.data.images.container import Page, Window
from seg.errors import UserError

SUFFIXES = (".nii", ".nii.gz")

GZIP_MAGIC = b"\x1f\x8b"
HEADER_BYTES = {348: "Nifti1", 540: "Nifti2"}  # length of the header, its first value, by kind
MAX_SLICES = 1 << 16
MAX_KEPT_BYTES = 256 << 20  # largest unpacked volume that is kept for its next slice
GEOMETRY = ["xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"]
GEOMETRY += ["qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"]


def is_nifti(path: Path) -> bool:
    """Return whether a file has the name of a NIfTI volume."""
    return path.name.lower().endswith(SUFFIXES)


def is_nifti_start(start: bytes) -> bool:
    """Return whether a file that starts with these bytes, not compressed, is a NIfTI volume."""
    return start[344:347] == b"n+1" or start[4:7] == b"n+2"


class NiftiFile:
    """An open volume.

    Attributes:
        pages: its slices along one axis.
    """

    def __init__(self, file: BinaryIO, header: Any, shape: tuple[int, ...], axis: int):
        """Decode nothing yet; `shape` is [x, y, z] or [x, y, z, c]."""
        self._file, self._header, self._shape, self._axis = file, header, shape, axis
        slope, intercept = header.get_slope_inter()
        self._scale = (1.0 if slope is None else slope, intercept or 0.0)
        height, width = (length for number, length in enumerate(shape[:3]) if number != axis)
        dtype = self._scaled(np.zeros(1, header.get_data_dtype())).dtype
        page = Page(height, width, shape[3] if len(shape) == 4 else 1, dtype)
        self.pages = [page] * shape[axis]

    def read(self, page: int, window: Window | None = None) -> np.ndarray:
        """Return [h, w, c] of a slice or a window of it, scaled as the header says."""
        stored = self._stored if len(self._shape) == 4 else self._stored[..., None]
        return self._scaled(np.moveaxis(stored, self._axis, 0)[page][window or ...])

    @functools.cached_property
    def _stored(self) -> np.ndarray:
        """The values as they are stored: mapped into memory, or unpacked."""
        dtype, offset = self._header.get_data_dtype(), int(self._header.get_data_offset())
        num_bytes = math.prod(self._shape) * dtype.itemsize
        short = UserError(
            f"damaged: shorter than the {num_bytes} bytes of its {'×'.join(map(str, self._shape))} voxels"
        )
        status = os.fstat(self._file.fileno())
        if not _is_compressed(self._file):
            if offset < 0 or offset + num_bytes > status.st_size:
                raise short
            return np.memmap(self._file, dtype, "r", offset, self._shape, order="F")
        key = status.st_dev, status.st_ino, status.st_mtime_ns, num_bytes
        if (newest := _NEWEST.get(key)) is not None:
            return newest
        stream = _decompressed(self._file)
        stream.seek(offset)
        content = stream.read(num_bytes)
        if len(content) < num_bytes:
            raise short
        stored = np.frombuffer(content, dtype).reshape(self._shape, order="F")
        _NEWEST.clear()
        if num_bytes <= MAX_KEPT_BYTES:
            _NEWEST[key] = stored
        return stored

    def _scaled(self, stored: np.ndarray) -> np.ndarray:
        """Return slope · stored + intercept: as stored, as integers where these are, else float32."""
        slope, intercept = self._scale
        native = stored.astype(stored.dtype.newbyteorder("="))
        if (slope, intercept) == (1, 0):
            return native
        scaled = native * np.float64(slope) + intercept
        is_whole = native.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer()
        return scaled.astype(np.int32 if is_whole and native.dtype.itemsize < 4 else np.float32)


_NEWEST: dict[tuple[int, ...], np.ndarray] = {}  # the compressed volume unpacked last, by its file


def open_nifti(file: BinaryIO, max_pixels: int, axis: int = 2) -> NiftiFile:
    """Return an open volume, its slices along `axis` as pages.

    Raises:
        UserError: no NIfTI volume, a layout that is not read, more than `max_pixels` values, or a missing package.
    """
    header = read_header(file)
    shape, dtype = _volume_shape(header.get_data_shape()), header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UserError(f"a volume of {dtype}; expected integers or floats of at most 64 bits")
    if shape[axis] > MAX_SLICES:
        raise UserError(f"a volume of {shape[axis]} slices; at most {MAX_SLICES} are read")
    size, count = "×".join(map(str, shape)), math.prod(shape)
    if _is_compressed(file):
        check_pixels(f"{size} voxels are more", count, max_pixels)
    else:
        check_pixels(f"slices of {size} voxels are more", count // shape[axis], max_pixels)  # read one by one
    return NiftiFile(file, header, shape, axis)


def read_header(file: BinaryIO) -> Any:
    """Return the header of an open volume, compressed or not, as nibabel's."""
    nibabel = import_extra("nibabel", "NIfTI volumes")
    content = _decompressed(file).read(max(HEADER_BYTES))
    for order in ("little", "big"):
        length = int.from_bytes(content[:4], order)
        if length in HEADER_BYTES and len(content) >= length:
            header = getattr(nibabel, HEADER_BYTES[length] + "Header")(content[:length], check=False)
            magic = bytes(header["magic"].item())[:2]
            if magic == b"ni":
                raise UserError("the header of a NIfTI pair (.hdr and .img); save it as one file, .nii")
            if magic == b"n+":
                return header
    raise UserError("not a NIfTI volume, or a damaged one")


def volume_bytes(header: Any, slices: np.ndarray, axis: int, *, is_compressed: bool) -> bytes:
    """Return a volume of labels with the affine, the units and the shape of another one.

    The other fields of the header, such as the description, are not copied: they may name a patient.

    Args:
        header: of the other volume.
        slices: uint8 or uint16 [n, h, w] or [n, h, w, k], in the order of its pages.
        axis: of the volume that the slices are cut along.
        is_compressed: whether with gzip.
    """
    nibabel = import_extra("nibabel", "NIfTI volumes")
    kind = nibabel.Nifti2Image if type(header) is nibabel.Nifti2Header else nibabel.Nifti1Image
    image = kind(np.moveaxis(slices, 0, axis), None)
    image.header["pixdim"][:4] = header["pixdim"][:4]
    for name in GEOMETRY:
        image.header[name] = header[name]
    content = image.to_bytes()
    return gzip.compress(content, 6, mtime=0) if is_compressed else content


def _is_compressed(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def _decompressed(file: BinaryIO) -> BinaryIO:
    is_compressed = _is_compressed(file)
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if is_compressed else file


def _volume_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return [x, y, z] or [x, y, z, c] of the shape in a header."""
    if len(shape) == 5 and shape[3] == 1:  # vectors, one for each voxel
        shape = (*shape[:3], shape[4])
    shape = (*shape, 1) if len(shape) == 2 else shape
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise UserError(f"a volume {list(shape)}; expected [x, y, z], or [x, y, z, c] with channels")
    return tuple(map(int, shape))


def import_extra(name: str, what: str) -> ModuleType:
    """Return a package of the extra `medical`."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f'{what} need {name}: pip install "unet-transformer-seg[medical]"') from None
