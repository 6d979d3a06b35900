"""Writes and reads arrays as safetensors, a few megabytes at a time.

    header length, uint64 · header, JSON: name → dtype, shape, offsets · values, little-endian

The library's writer needs all arrays contiguous in memory, which copies weights that are views of another file. Its
reader opens a file by name, so the bytes that were hashed need not be the bytes that are read. Here an untrusted header
is checked before anything is allocated, and every byte is read and hashed once.
"""

import hashlib
import itertools
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from asr.errors import UserError
from asr.files import open_file
from asr.untrusted import escaped, shown

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int32": "I32", "int64": "I64", "uint8": "U8"}
ALIGNMENT = 8
CHUNK_BYTES = 4 << 20

MAX_HEADER_BYTES, MAX_ARRAYS = 1 << 23, 20_000
"""Largest header, in bytes, and number of arrays; our models have a few hundred arrays of about 100 bytes each."""


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a new file that `safetensors` reads.

    The arrays have a dtype in `DTYPES`; they are contiguous or not, on the host or a device.
    """
    header, end = {}, 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        place = {"dtype": DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [start, end]}
        header[name] = place
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in map(np.atleast_1d, map(np.asarray, arrays.values())):
            rows = max(CHUNK_BYTES // max(array[:1].nbytes, 1), 1)
            for start in range(0, len(array), rows):
                file.write(np.ascontiguousarray(array[start : start + rows]).reshape(-1).view(np.uint8))


class _Entry(NamedTuple):
    """An array in the header; `start` and `stop` are byte offsets after it."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Return the arrays of a file by name, and the SHA-256 of the file in hexadecimal digits."""
    try:
        with open_file(path) as file:
            return _read(file)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as safetensors: {escaped(str(error))}") from None


def _read(file: BinaryIO) -> tuple[dict[str, np.ndarray], str]:
    digest, arrays = hashlib.sha256(), {}
    for entry in _read_header(file, digest):
        content = np.empty(entry.stop - entry.start, np.uint8)
        for start in range(0, len(content), CHUNK_BYTES):
            part = content[start : start + CHUNK_BYTES]
            if file.readinto(part) != len(part):
                raise ValueError("it ends early")
            digest.update(part)
        arrays[entry.name] = content.view(entry.dtype).reshape(entry.shape)
    return arrays, digest.hexdigest()


def _read_header(file: BinaryIO, digest: Any) -> list[_Entry]:
    """Return the arrays in file order; a ValueError says how the header does not match the content."""
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise ValueError(f"its header claims {length} of {size} bytes; at most {MAX_HEADER_BYTES} are allowed")
    text = file.read(length)
    digest.update(start + text)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repetition)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"its header is not JSON ({error!s:.80})") from None
    if not isinstance(header, dict):
        raise ValueError("its header is not a mapping")
    header.pop("__metadata__", None)
    if len(header) > MAX_ARRAYS:
        raise ValueError(f"expected at most {MAX_ARRAYS} arrays, found {len(header)}")
    entries = sorted((_entry(name, value) for name, value in header.items()), key=lambda e: (e.start, e.stop))
    end = 0
    for entry in entries:
        if entry.start != end:
            raise ValueError(f"the array {shown(entry.name)} begins at byte {entry.start}, expected {end}")
        end = entry.stop
    if end != size - 8 - length:
        raise ValueError(f"its arrays take {end} bytes, but {size - 8 - length} follow the header")
    for name in header:  # no `a` beside `a/b`, and no empty part
        parents = itertools.accumulate(name.split("/")[:-1], lambda above, part: f"{above}/{part}")
        if not all(name.split("/")) or not header.keys().isdisjoint(parents):
            raise ValueError(f"the array {shown(name)} does not fit into a tree of names")
    return entries


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name appears twice in its header")
    return table


def _entry(name: str, value: Any) -> _Entry:
    """Return one array of the header, checked for consistency."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the array {shown(name)}: expected dtype, shape and data_offsets")
    dtype, shape, place = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _READABLE:
        raise ValueError(f"the array {shown(name)}: unknown dtype {shown(dtype)}")
    if not _are_sizes(shape) or not _are_sizes(place) or len(place) != 2:
        raise ValueError(f"the array {shown(name)}: shape {shown(shape)} and data_offsets {shown(place)} are not sizes")
    num_bytes = math.prod(shape) * _READABLE[dtype].itemsize
    if place[1] - place[0] != num_bytes:
        raise ValueError(
            f"the array {shown(name)}: shape {shown(shape)} of {dtype} does not fill the bytes {shown(place)}"
        )
    return _Entry(name, _READABLE[dtype], tuple(shape), *place)


def _are_sizes(values: Any) -> bool:
    """Return whether this is a short list of plausible sizes."""
    return isinstance(values, list) and len(values) <= 16 and all(type(v) is int and 0 <= v < 1 << 62 for v in values)


_READABLE = {ours: jnp.dtype(name) for name, ours in DTYPES.items()} | {
    "F64": np.dtype(np.float64),
    "BOOL": np.dtype(np.bool_),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
}
"""Dtypes by name in a file; the comparison with the config refuses those that our models do not have."""
