"""Writes files that `torch.load` reads as a dictionary of tensors, without torch.

`torch_file` reads them and describes the format.
"""

import collections
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asr.files import replacing
from asr.published.tensor_pickle import STORAGES, Name

ALIGNMENT = 64  # alignment of storages in bytes, as torch writes them

EXTRA_HEADER = struct.Struct("<2sH")


def write_torch_file(path: Path, tensors: Mapping[str, np.ndarray], extras: Mapping[str, Any] | None = None) -> None:
    """Write a file that `torch.load(path, weights_only=True)` reads as a dictionary of tensors.

    Equal contents give equal bytes. The tensors have a dtype in `STORAGES`; `extras` holds other values: numbers,
    strings, lists and dictionaries of them.
    """
    storages = [np.asarray(array, order="C") for array in tensors.values()]
    records = [_Record(str(number), array) for number, array in enumerate(storages)]
    content = io.BytesIO()
    _Pickler(content, protocol=2).dump({**dict(zip(tensors, records, strict=True)), **(extras or {})})
    # The tensors may be views of the file that is being replaced.
    with replacing(Path(path)) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
        _write_entry(archive, "archive/data.pkl", content.getvalue())
        _write_entry(archive, "archive/byteorder", b"little")
        for record in records:
            _write_entry(archive, f"archive/data/{record.key}", record.array.reshape(-1).view(np.uint8))
        _write_entry(archive, "archive/version", b"3\n")


class _Record(NamedTuple):
    """A tensor to be written, with a storage of its own."""

    key: str
    array: np.ndarray

    def __reduce__(self) -> tuple:
        """Return the call that rebuilds the tensor: storage, offset, shape, strides, no gradient, no hooks."""
        strides = tuple(math.prod(self.array.shape[axis + 1 :]) for axis in range(self.array.ndim))
        hooks = collections.OrderedDict()
        return Name("torch._utils", "_rebuild_tensor_v2"), (_Stored(self), 0, self.array.shape, strides, False, hooks)


class _Stored:
    """The storage of a record."""

    def __init__(self, record: _Record):
        self.record = record


class _Pickler(pickle._Pickler):
    """Writes torch's names without importing it; only the pickler in Python allows that."""

    dispatch = pickle._Pickler.dispatch.copy()

    def persistent_id(self, value: Any) -> tuple | None:
        """Return the reference to a storage."""
        if not isinstance(value, _Stored):
            return None
        key, array = value.record
        kind = next(kind for kind, dtype in STORAGES.items() if dtype == array.dtype)
        return "storage", Name("torch", kind), key, "cpu", array.size

    def save_name(self, value: Name) -> None:
        """Write a name as `GLOBAL module name`."""
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    dispatch[Name] = save_name


def _write_entry(archive: zipfile.ZipFile, name: str, content: bytes | np.ndarray) -> None:
    """Write an entry whose bytes start at a multiple of `ALIGNMENT`."""
    info = zipfile.ZipInfo(name)  # its date is always 1980, so equal contents give equal bytes
    start = archive.fp.tell() + zipfile.sizeFileHeader + len(name) + EXTRA_HEADER.size
    padding = -start % ALIGNMENT
    info.extra = EXTRA_HEADER.pack(b"FB", padding) + b"Z" * padding
    with archive.open(info, "w", force_zip64=False) as entry:
        entry.write(memoryview(content))
