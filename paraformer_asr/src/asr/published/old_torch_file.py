"""Reads what `torch.save` wrote before version 1.6, and what a program saves without its zip archive today.

Pickles one after another, then the values:

    number that marks the format · version · facts about the machine · state dict · names of the storages
    for each storage: count of its values, int64, and the values

What a name's values are, only the state dict says, and where they are, only the names behind it. So it is interpreted
twice: first for the references alone, then with the values.
"""

import io
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from asr.errors import UserError
from asr.files import open_file
from asr.published.pickled_names import Placeholder
from asr.published.tensor_pickle import MAX_PICKLE_BYTES, STORAGES, Storage, unpickle

MARK = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of 0x1950A86A20F9469CFC6C
COUNT_BYTES = 8


def is_old(path: Path) -> bool:
    """Return whether a file begins like one of torch before 1.6."""
    with open_file(path) as file:
        return file.read(len(MARK)) == MARK


def read_old_file(path: Path) -> Any:
    """Return what the state dict's pickle describes, with arrays for tensors: views of the file."""
    with open_file(path) as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    pickles = io.BytesIO(mapped[: min(len(mapped), MAX_PICKLE_BYTES)])
    references = _References(path)
    _, version, machine = (unpickle(references, pickles) for _ in range(3))
    if version != 1001 or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UserError(f"{path}: expected little-endian values in version 1001 of the format, found {version!r:.40}")
    start = pickles.tell()
    unpickle(references, pickles)
    keys = unpickle(references, pickles)
    known = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not known or sorted(keys) != sorted(references.found):
        raise UserError(f"{path}: its list of storages is damaged, or some have a dtype that is not read here")
    values = _Values(path, references.found, keys, np.frombuffer(mapped, np.uint8), pickles.tell())
    pickles.seek(start)
    return unpickle(values, pickles)


class _References:
    """Notes the storages that a pickle refers to."""

    def __init__(self, path: Path):
        self.path, self.found = path, {}

    def storage(self, kind: str, key: str, size: int) -> Placeholder:
        """Return a placeholder."""
        if self.found.setdefault(key, (kind, size)) != (kind, size):
            raise UserError(f"{self.path}: storage {key!r:.40} has two kinds or sizes; copy it again")
        return Placeholder()


class _Values:
    """The storages behind the pickles."""

    def __init__(self, path: Path, kinds: dict[str, tuple[str, int]], keys: list, content: np.ndarray, start: int):
        self.path, self.storages = path, {}
        for key in keys:
            kind, size = kinds[key]
            end = start + COUNT_BYTES + size * STORAGES[kind].itemsize
            count = int.from_bytes(content[start : start + COUNT_BYTES].tobytes(), "little")
            if count != size or size < 0 or end > len(content):
                raise UserError(f"{path}: truncated or damaged at storage {key!r:.40}; copy it again")
            values = content[start + COUNT_BYTES : end]
            self.storages[key] = Storage(values.view(STORAGES[kind]), kind)
            start = end

    def storage(self, kind: str, key: str, size: int) -> Storage:
        """Return the values of a storage."""
        return self.storages[key]
