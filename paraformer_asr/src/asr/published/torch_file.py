"""Reads the files of `torch.save` without torch, and without running what is in them; `torch_writer` writes them.

Such a file is a zip archive, nothing in it compressed:

    NAME/data.pkl    a pickle: the state dict, with a reference in place of each tensor's values
    NAME/data/0 …    the values of one storage each, as they lie in memory
    NAME/byteorder   "little"
    NAME/version

A pickle is a program, and one from a stranger can do anything. The reader here knows five names: those that put a
tensor together, and the ordered dictionary. A pickle that asks for any other is refused, and the name is told.
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

from asr.errors import UserError
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
"""torch's name of a storage of each dtype."""

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training programs keep the state dict among other things."""

MAX_PICKLE_BYTES = 1 << 26

LOCAL_HEADER = struct.Struct("<4s22xHH")

PICKLE_ERRORS = (pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, LookupError, MemoryError)
PICKLE_ERRORS += (RecursionError, TypeError, ValueError, struct.error)
"""What the interpreter of a damaged pickle may raise."""


class TorchFile(NamedTuple):
    """The contents of a file.

    Attributes:
        tensors: the state dict: arrays by name, views into the file.
        extras: what else stands beside the tensors: numbers, texts, lists and dictionaries of them.
    """

    tensors: dict[str, np.ndarray]
    extras: dict[str, Any]


class Storage(NamedTuple):
    """Values that tensors are views of."""

    values: np.ndarray
    kind: str


class Name:
    """A class or function of torch, by name alone."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self, *_: Any) -> None:
        """Refuse: a name is no function, but a pickle may hold it in place of one."""
        raise pickle.UnpicklingError(f"{self.module}.{self.name} cannot be called")


def read_torch_file(path: Path) -> TorchFile:
    """Return the tensors of a file that `torch.save` wrote, and what stands beside them.

    Args:
        path: a `.pt` or `.pth` file with a state dict, or with one under the key `state_dict` or `model`.

    Raises:
        UserError: not such a file, a damaged one, or one that wants more than tensors.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path}: expected a file of weights, found a pipe or a device")
    try:
        with zipfile.ZipFile(path) as archive:
            content = _Archive(path, archive).load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error):
        raise UserError(f"{path}: {_why_no_archive(path)}") from None
    return _state_dict(path, content)


def _why_no_archive(path: Path) -> str:
    """Return what a file that is no zip archive most likely is."""
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK":
        return "the file is cut off or damaged: it begins as torch.save writes it and does not end so; copy it again"
    if start[:1] == pickle.PROTO:
        return "expected the format of torch 1.6 or newer, found the older one: load it with torch and save it again"
    return "expected weights as torch.save writes them, a zip archive; this is none"


class _Archive:
    """An open archive and its bytes, mapped into memory."""

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path, self.archive, self.storages = path, archive, {}
        with path.open("rb") as file:
            self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.bytes = np.frombuffer(self.mapped, np.uint8)
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        self.prefix = pickles[0].removesuffix("data.pkl") if len(pickles) == 1 else ""
        if not self.prefix or f"{self.prefix}constants.pkl" in archive.namelist():
            raise UserError(
                f"{path}: expected weights as torch.save writes them, found another zip archive"
                + (" (a TorchScript program); save the state_dict() of the model instead" if pickles else "")
            )

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
            self.mapped.madvise(mmap.MADV_DONTNEED)  # read for the checksums; each part is read again when it is used
        return content

    def entry(self, name: str, default: bytes | None = None) -> np.ndarray:
        """Return uint8[n], the bytes of an entry, a view into the file."""
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
        found = self.bytes[start : start + info.file_size]
        if signature != b"PK\x03\x04" or len(found) != info.file_size or zlib.crc32(found) != info.CRC:
            raise UserError(f"{self.path}: the entry {escaped(info.filename)} is damaged (its checksum differs)")
        return found

    def storage(self, kind: str, key: str, size: int) -> Storage:
        """Return the values of a storage; each is read once."""
        if key not in self.storages:
            raw, dtype = self.entry(f"data/{key}"), STORAGES[kind]
            if len(raw) != size * dtype.itemsize:
                raise UserError(f"{self.path}: storage {key} has {len(raw)} bytes, not {size} values of {dtype}")
            self.storages[key] = Storage(raw.view(dtype), kind)
        if self.storages[key].kind != kind:
            raise UserError(f"{self.path}: storage {key} is said to be {self.storages[key].kind} and {kind}")
        return self.storages[key]


class _Unpickler(pickle._Unpickler):
    """Interprets a pickle that may ask for tensors and nothing else.

    The interpreter written in Python is taken on purpose: the one in C reserves as much memory as a hostile file says.
    """

    def __init__(self, archive: _Archive, file: io.BytesIO):
        super().__init__(file, encoding="utf-8")
        self.source = archive

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name of the pickle, or refuse it."""
        match module, name:
            case "torch._utils", "_rebuild_tensor_v2":
                return _rebuild_tensor
            case "torch._utils", "_rebuild_parameter":
                return lambda tensor, *_: tensor
            case "collections", "OrderedDict":
                return collections.OrderedDict
            case "torch", storage if storage in STORAGES:
                return Name(module, name)
        raise UserError(
            f"{self.source.path}: refused, nothing of it was run: its pickle asks for "
            f"{escaped(f'{module}.{name}')}, and weights need tensors only"
        )

    dispatch = pickle._Unpickler.dispatch.copy()

    def load_build(self) -> None:
        """Drop a state: torch keeps versions of modules there, and a stranger could change our own functions by it."""
        self.stack.pop()

    dispatch[pickle.BUILD[0]] = load_build

    def persistent_load(self, reference: Any) -> Storage:
        """Return the storage that a tensor refers to."""
        match reference:
            case ("storage", Name(module="torch", name=kind), str(key), str(), int(size)):
                return self.source.storage(kind, key, size)
        raise pickle.UnpicklingError("a reference that is not to a storage")


def _rebuild_tensor(storage: Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
    """Return the view of a storage that is a tensor, once it is known to stay within it."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise pickle.UnpicklingError("expected a storage and whole numbers for a tensor")
    if len(shape) != len(strides):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} with strides {strides}")
    values = storage.values
    if not math.prod(shape):
        return np.zeros(shape, values.dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if last >= len(values):
        raise pickle.UnpicklingError(f"a tensor reaches value {last} of a storage with {len(values)}")
    steps = tuple(stride * values.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)


def _state_dict(path: Path, content: Any) -> TorchFile:
    """Return the tensors of what was read, looked for under the usual keys if they are not on top."""
    if isinstance(content, dict) and not any(isinstance(value, np.ndarray) for value in content.values()):
        wrapped = [content[key] for key in WRAPPERS if isinstance(content.get(key), dict)]
        content = wrapped[0] if wrapped else content
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: expected a state dict (names → tensors), found {type(content).__name__}")
    tensors = {name: value for name, value in content.items() if isinstance(value, np.ndarray)}
    if not tensors:
        keys = escaped(", ".join(list(content)[:10])) or "nothing"
        raise UserError(f"{path}: expected a state dict (names → tensors), found no tensor but: {keys}")
    return TorchFile(tensors, {name: value for name, value in content.items() if name not in tensors})
