"""Reads the arrays of numpy (.npy, .npz) as images and masks: bounded, and without running what is in them."""

import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from seg.errors import UserError

SUFFIXES = (".npy", ".npz")
CHANNELS = (1, 3, 4)
MAX_HEADER_BYTES = 10_000


def read_array(path: Path, file: BinaryIO, max_pixels: int) -> np.ndarray:
    """Return the array [h, w] or [h, w, c] of a file, c being 3 or 4.

    Colours may come first or last; where both fit, last. An .npz holds one array, or one called image or mask.

    Args:
        path: for messages, and for its suffix.
        file: open for reading.
        max_pixels: refuses more before anything is read.

    Raises:
        UserError: another shape or kind of values, more pixels, or a damaged file.
    """
    if path.suffix.lower() == ".npy":
        return _channels_last(_read(path, file, os.fstat(file.fileno()).st_size, max_pixels))
    with zipfile.ZipFile(file) as archive:
        member = _choose_member(archive, path)
        with archive.open(member) as stream:
            return _channels_last(_read(path, stream, member.file_size, max_pixels))


def _choose_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    wanted = [members[name] for name in ("image", "mask", "label") if name in members]
    choice = wanted or list(members.values())
    if len(choice) != 1:
        names = ", ".join(f"{name!r:.80}" for name in list(members)[:10])
        raise UserError(f"{path}: expected one array, or one called image or mask; found {len(members)}: {names}")
    return choice[0]


def _read(path: Path, stream: BinaryIO, size: int, max_pixels: int) -> np.ndarray:
    """Return the array of a stream of `size` bytes; its header is compared with that before memory is taken."""
    version = npy.read_magic(stream)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read_header(stream, max_header_size=MAX_HEADER_BYTES)
    if dtype.hasobject or dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise UserError(f"{path}: an array of {dtype}; expected whole numbers or floats of at most 64 bits")
    pixels = _count_pixels(shape, path)
    if pixels > max_pixels:
        raise UserError(f"{path}: an array {list(shape)}, more pixels than data.max_pixels = {max_pixels}")
    num_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    content = stream.read(num_bytes if num_bytes <= size else 0)
    if not num_bytes:
        raise UserError(f"{path}: an array {list(shape)} has no values")
    if len(content) != num_bytes:
        raise UserError(
            f"{path}: an array {list(shape)} of {dtype} has {num_bytes} bytes, the file fewer; it is damaged"
        )
    order = "F" if is_fortran else "C"
    return np.frombuffer(content, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="), copy=False)


def _count_pixels(shape: tuple[int, ...], path: Path) -> int:
    """Return the pixels of one page."""
    if len(shape) == 2:
        return shape[0] * shape[1]
    if len(shape) == 3 and shape[2] in CHANNELS:
        return shape[0] * shape[1]
    if len(shape) == 3 and shape[0] in CHANNELS:
        return shape[1] * shape[2]
    pages = "; save each page as a file of its own" if len(shape) in (3, 4) else ""
    raise UserError(
        f"{path}: an array {list(shape)}; expected [h, w], or [h, w, c] or [c, h, w] with 1, 3 or 4 channels{pages}"
    )


def _channels_last(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and array.shape[2] not in CHANNELS:
        array = np.moveaxis(array, 0, -1)
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
