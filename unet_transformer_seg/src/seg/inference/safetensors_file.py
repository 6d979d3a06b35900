"""Writes arrays as safetensors, a few megabytes at a time.

The library's own writer wants all arrays at once and contiguous in memory: for weights that are views of somebody
else's file, a copy of all of them. Reading is the library's.

    length of the header, uint64 · header, JSON: name → dtype, shape, place · the values, little-endian
"""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int32": "I32", "int64": "I64", "uint8": "U8"}
ALIGNMENT = 8
CHUNK_BYTES = 4 << 20


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file that `safetensors` reads.

    Args:
        path: of the new file.
        arrays: by name, of a dtype in `DTYPES`; need not be contiguous, and may lie on a device.

    Raises:
        OSError: the disk refuses.
    """
    header, end = {}, 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        place = {"dtype": DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [start, end]}
        header[name] = place
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            for part in _parts(np.atleast_1d(np.asarray(array))):
                file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8))


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the array in pieces of its first axis."""
    rows = max(CHUNK_BYTES // max(array[:1].nbytes, 1), 1)
    yield from (array[start : start + rows] for start in range(0, len(array), rows))
