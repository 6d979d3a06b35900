"""Reads files of `torch.save` without torch and without running their contents; `torch_writer` writes them.

Such a file is an uncompressed zip archive:

    NAME/data.pkl    a pickle of the state dict, with references instead of the tensors' values (`tensor_pickle`)
    NAME/data/0 …    the values of one storage each, as in memory
    NAME/byteorder   "little"
    NAME/version

Files from before torch 1.6 are read by `old_torch_file`.
"""

import io
import mmap
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from asr.checkpoints.safetensors_file import read_safetensors
from asr.errors import UserError
from asr.files import open_file
from asr.published.file_kinds import describe_archive, describe_file, describe_folder
from asr.published.old_torch_file import is_old, read_old_file
from asr.published.state_dict import TorchFile, find_state_dict
from asr.published.tensor_pickle import MAX_PICKLE_BYTES, STORAGES, Storage, unpickle
from asr.untrusted import escaped

MAX_SHARING, SLACK_BYTES = 8, 1 << 20
"""Largest size of all tensors together, as a multiple of the file's size: tied weights share their values."""

LOCAL_HEADER = struct.Struct("<4s22xHH")


def read_torch_file(path: Path) -> TorchFile:
    """Return the tensors of a file of `torch.save` or safetensors, and the values beside them; nothing in it is run.

    The state dict of a `.pt` or `.pth` file may be alone or among other things.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path}: {describe_folder(path)}")
        if _is_safetensors(path):
            return TorchFile(read_safetensors(path)[0], {})
        if is_old(path):
            content = read_old_file(path)
        else:
            with open_file(path) as file, zipfile.ZipFile(file) as archive:
                content = _Archive(path, archive).load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error):
        raise UserError(f"{path}: {describe_file(path)}") from None
    file = find_state_dict(path, content)
    if sum(tensor.nbytes for tensor in file.tensors.values()) > MAX_SHARING * path.stat().st_size + SLACK_BYTES:
        raise UserError(f"{path}: its {len(file.tensors)} tensors overlap: together they are far larger than the file")
    return file


def _is_safetensors(path: Path) -> bool:
    """Return whether a file starts like safetensors: the length of a header, and a brace."""
    with open_file(path) as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


class _Archive:
    """An open archive and its bytes, mapped into memory."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path, self.archive, self.storages = path, archive, {}
        self.mapped = mmap.mmap(archive.fp.fileno(), 0, access=mmap.ACCESS_READ)
        self.bytes = np.frombuffer(self.mapped, np.uint8)
        plain = (info.file_size for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED)
        if sum(plain) > len(self.bytes):
            raise UserError(f"{path}: its entries overlap or extend past its end: the file is damaged; copy it again")
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        self.prefix = pickles[0].removesuffix("data.pkl") if len(pickles) == 1 else ""
        if not self.prefix or f"{self.prefix}constants.pkl" in archive.namelist():
            raise UserError(f"{path}: {describe_archive(archive.namelist())}")

    def load(self) -> Any:
        """Return what the pickle describes, with arrays for tensors."""
        if (order := self.entry("byteorder", b"little").tobytes()) != b"little":
            raise UserError(f"{self.path}: expected little-endian values, found byte order {order[:9]!r}")
        program = self.entry("data.pkl")
        if len(program) > MAX_PICKLE_BYTES:
            raise UserError(f"{self.path}: its pickle has {len(program)} bytes, more than {MAX_PICKLE_BYTES}")
        content = unpickle(self, io.BytesIO(program.tobytes()))
        if hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)  # frees the pages read for the checksums
        return content

    def entry(self, name: str, default: bytes | None = None) -> np.ndarray:
        """Return uint8[n], the bytes of an entry, as a view of the file."""
        try:
            info = self.archive.getinfo(self.prefix + name)
        except KeyError:
            if default is None:
                raise UserError(f"{self.path}: the entry {escaped(self.prefix + name)} is missing") from None
            return np.frombuffer(default, np.uint8)
        if info.compress_type != zipfile.ZIP_STORED:
            raise UserError(
                f"{self.path}: the entry {escaped(info.filename)} is compressed; torch.save compresses nothing"
            )
        header = self.bytes[info.header_offset : info.header_offset + LOCAL_HEADER.size].tobytes()
        signature, name_length, extra_length = LOCAL_HEADER.unpack(header)
        start = info.header_offset + LOCAL_HEADER.size + name_length + extra_length
        content = self.bytes[start : start + info.file_size]
        if signature != b"PK\x03\x04" or len(content) != info.file_size or zlib.crc32(content) != info.CRC:
            raise UserError(f"{self.path}: the entry {escaped(info.filename)} is damaged (its checksum differs)")
        return content

    def storage(self, kind: str, key: str, size: int) -> Storage:
        """Return the values of a storage; each is read once."""
        if key not in self.storages:
            raw, dtype = self.entry(f"data/{key}"), STORAGES[kind]
            if len(raw) != size * dtype.itemsize:
                raise UserError(f"{self.path}: storage {key} has {len(raw)} bytes, not {size} values of {dtype}")
            self.storages[key] = Storage(raw.view(dtype), kind)
        if self.storages[key].kind != kind:
            raise UserError(f"{self.path}: storage {key} is both {self.storages[key].kind} and {kind}")
        return self.storages[key]
