"""Reads numpy arrays (.npy, .npz) as images and masks: bounded, and without unpickling."""

import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from seg.classes import MAX_CLASSES
from seg.config.parsing import MAX_INT
from seg.errors import UserError

SUFFIXES = (".npy", ".npz")
CHANNELS = (1, 3, 4)
MAX_CHANNELS = 1024  # largest `data.channels`
MAX_HEADER_BYTES = 10_000


def check_pixels(contents: str, pixels: int, max_pixels: int) -> None:
    """Refuse more pixels than `data.max_pixels`; `contents` starts the message, as "12×17 pixels are more"."""
    if pixels > max_pixels:
        remedy = f"if there is memory for it, add data.max_pixels={pixels} to the command"
        if pixels > MAX_INT:
            remedy = f"cut it into parts: no setting allows more than {MAX_INT}"
        raise UserError(f"{contents} than data.max_pixels = {max_pixels}; {remedy}")


def read_array(path: Path, file: BinaryIO, max_pixels: int, channels: int = 3, has_layers: bool = False) -> np.ndarray:
    """Return the array [h, w] or [h, w, c] of an open file; one of too many pixels is refused unread.

    c is `channels`, 3 or 4. Channels may come first or last; if both fit, last. Leading axes of length 1 are dropped.
    An .npz holds one array, or one called image, label or mask. A mask is read with `has_layers`: of an .npz that holds
    both an image and its labels, it is the labels, and c may be any number of classes, the shorter of the outer axes.
    """
    if path.suffix.lower() == ".npy":
        return _read(file, os.fstat(file.fileno()).st_size, max_pixels, channels, has_layers)
    with zipfile.ZipFile(file) as archive:
        member = _choose_member(archive, ("label", "mask") if has_layers else ("image",))
        with archive.open(member) as stream:
            return _read(stream, member.file_size, max_pixels, channels, has_layers)


def _choose_member(archive: zipfile.ZipFile, own_names: tuple[str, ...]) -> zipfile.ZipInfo:
    """Return the array of one of these names, else the only one."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if own := [members[name] for name in own_names if name in members]:
        return own[0]
    named = [members[name] for name in ("image", "mask", "label") if name in members]
    candidates = named or list(members.values())
    if len(candidates) != 1:
        names = ", ".join(f"{name!r:.80}" for name in list(members)[:10])
        raise UserError(f"expected one array, or one called image or mask; found {len(members)}: {names}")
    return candidates[0]


def _read(stream: BinaryIO, size: int, max_pixels: int, channels: int, has_layers: bool) -> np.ndarray:
    def check(shape: tuple[int, ...], num_bytes: int) -> None:
        inner = _without_outer_ones(shape)
        axis = _channel_axis(inner, channels, has_layers)
        pixels = math.prod(inner) // (1 if axis is None else inner[axis] or 1)
        check_pixels(f"an array {list(shape)}, more pixels", pixels, max_pixels)
        if not num_bytes:
            raise UserError(f"an array {list(shape)} has no values")

    return channels_last(read_npy(stream, size, check), channels, has_layers)


def read_npy(stream: BinaryIO, size: int, check: Callable[[tuple[int, ...], int], None]) -> np.ndarray:
    """Return the array of numbers in a stream of `size` bytes in numpy's format; a ValueError means another format.

    `check(shape, num_bytes)` may refuse an array by its header, before memory is allocated.
    """
    version = npy.read_magic(stream)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read_header(stream, max_header_size=MAX_HEADER_BYTES)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise UserError(f"an array of {dtype}; expected integers or floats of at most 64 bits")
    num_bytes = math.prod(shape) * dtype.itemsize
    check(shape, num_bytes)
    content = stream.read(num_bytes if num_bytes <= size else 0)
    if len(content) != num_bytes:
        raise UserError(f"damaged: shorter than the {num_bytes} bytes of an array {list(shape)} of {dtype}")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def channels_last(array: np.ndarray, channels: int = 3, has_layers: bool = False) -> np.ndarray:
    """Return an array [h, w], [h, w, c] or [c, h, w], maybe with leading axes of length 1, as [h, w] or [h, w, c]."""
    inner = _without_outer_ones(array.shape)
    axis = _channel_axis(inner, channels, has_layers)
    array = array.reshape(inner)
    array = array if axis is None else np.moveaxis(array, axis, -1)
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array


def _without_outer_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape without axes of length 1 before three others, such as the batch axis of one image."""
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _channel_axis(shape: tuple[int, ...], channels: int, has_layers: bool) -> int | None:
    """Return the axis of the channels; None for [h, w]."""
    if len(shape) == 2:
        return None
    if len(shape) == 3:
        for counts in (CHANNELS,) if channels in CHANNELS else ((channels,), CHANNELS):
            if fitting := [axis for axis in (2, 0) if shape[axis] in counts]:
                return fitting[0]
        if has_layers and min(shape[0], shape[2]) <= MAX_CLASSES:
            return 0 if shape[0] < shape[2] else 2
    advice = "; save each page as a file of its own" if len(shape) in (3, 4) else ""
    if len(shape) == 3 and (smaller := min(shape[0], shape[2])) <= MAX_CHANNELS:
        advice = f"; if it has {smaller} channels, set data.channels={smaller}; if these are pages{advice[1:]}"
    known = "1, 3 or 4" if channels in CHANNELS else f"{channels}"
    raise UserError(f"an array {list(shape)}; expected [h, w], or [h, w, c] or [c, h, w] with {known} channels{advice}")
