"""Reads files of `torch.save` without torch and without running their contents; `torch_writer` writes them.

Such a file is an uncompressed zip archive:

    NAME/data.pkl    a pickle of the state dict, with references instead of the tensors' values
    NAME/data/0 …    the values of one storage each, as in memory
    NAME/byteorder   "little"
    NAME/version

A pickle is a program, and an untrusted one can do anything. This reader knows only the functions that rebuild tensors,
and dictionaries. Objects of other packages become inert placeholders (`pickled_names`). A pickle that asks for a
function of Python's standard library is refused, and the error names the function.
"""

import collections
import io
import math
import mmap
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from asr.checkpoints.safetensors_file import read_safetensors
from asr.errors import UserError
from asr.files import open_file
from asr.published.file_kinds import describe_archive, describe_file, describe_folder
from asr.published.pickled_names import Placeholder, is_of_a_program, placeholder_class
from asr.published.state_dict import TorchFile, find_state_dict
from asr.untrusted import escaped

STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "DoubleStorage": np.dtype(np.float64),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
"""torch's name of each storage class → its dtype."""

MAX_PICKLE_BYTES = 1 << 26

MAX_SHARING, SLACK_BYTES = 8, 1 << 20
"""Largest size of all tensors together, as a multiple of the file's size: tied weights share their values."""

LOCAL_HEADER = struct.Struct("<4s22xHH")

PICKLE_ERRORS = (pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError, MemoryError)
PICKLE_ERRORS += (RecursionError, TypeError, ValueError, struct.error)
"""Exceptions that a damaged pickle may cause."""


class Storage(NamedTuple):
    """Values that tensors are views of."""

    values: np.ndarray
    kind: str


class Name:
    """A class or function of torch, by name alone."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self, *_: Any) -> None:
        """Refuse the call that a damaged pickle may make."""
        raise pickle.UnpicklingError(f"{self.module}.{self.name} cannot be called")


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
        try:
            content = _Unpickler(self, io.BytesIO(program.tobytes())).load()
        except UserError:
            raise
        except PICKLE_ERRORS as error:
            raise UserError(
                f"{self.path}: its pickle is damaged ({type(error).__name__}: {escaped(str(error))})"
            ) from None
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


class _Unpickler(pickle._Unpickler):
    """Interprets a pickle of tensors; everything else becomes a placeholder or is refused.

    Based on the interpreter in Python: the one in C allocates whatever size a hostile file states.
    """

    def __init__(self, archive: _Archive, file: io.BytesIO):
        super().__init__(file, encoding="utf-8")
        self.source = archive

    def find_class(self, module: str, name: str) -> Any:
        """Return the substitute for a name in the pickle, or refuse it."""
        match module, name:
            case "torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor":
                return _rebuild_tensor
            case "torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state":
                return lambda tensor, *_: tensor
            case "torch._tensor", "_rebuild_from_type_v2":
                return _rebuild_from_type
            case "collections", "OrderedDict":
                return collections.OrderedDict
            case "collections", "defaultdict" | "Counter":
                return lambda *_: {}  # its items follow
            case "torch", storage if storage in STORAGES:
                return Name(module, name)
        if is_of_a_program(module, name):
            raise UserError(
                f"{self.source.path}: refused without running any of it: its pickle asks for "
                f"{escaped(f'{module}.{name}')}, which weights do not need; do not load it with torch either unless "
                "you trust its author"
            )
        return placeholder_class(module, name)

    dispatch = pickle._Unpickler.dispatch.copy()

    def load_build(self) -> None:
        """Drop the state: torch keeps module versions there, and an attacker could modify our functions with it."""
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = load_build

    def persistent_load(self, reference: Any) -> Any:
        """Return the storage that a tensor refers to, or a placeholder if its dtype is unsupported."""
        match reference:
            case ("storage", Name(module="torch", name=kind), str(key), str(), int(size)):
                return self.source.storage(kind, key, size)
            case ("storage", type() as kind, str(), str(), int()) if issubclass(kind, Placeholder):
                return kind()
        raise pickle.UnpicklingError("a reference to something that is not a storage")


def _rebuild_from_type(rebuild: Any, _kind: Any, arguments: tuple, _state: Any) -> Any:
    """Return a tensor that was saved with attributes, without them."""
    if rebuild is not _rebuild_tensor and not (isinstance(rebuild, type) and issubclass(rebuild, Placeholder)):
        raise pickle.UnpicklingError("a tensor that is rebuilt by something else")
    return rebuild(*arguments)


def _rebuild_tensor(storage: Any, offset: int, shape: tuple, strides: tuple, *_: Any) -> Any:
    """Return the tensor as a view of its storage, after checking that it stays inside."""
    if isinstance(storage, Placeholder):
        return storage
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise pickle.UnpicklingError("expected a storage and integers for a tensor")
    if len(shape) != len(strides):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} with strides {strides}")
    values = storage.values
    if not math.prod(shape):  # takes no memory, whatever the shape
        return np.zeros(shape, values.dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if last >= len(values):
        raise pickle.UnpicklingError(f"a tensor reaches value {last} of a storage with {len(values)}")
    if math.prod(shape) > len(values):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} repeats the values of a storage with {len(values)}")
    steps = tuple(stride * values.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)
