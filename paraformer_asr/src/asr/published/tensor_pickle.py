"""Interprets the pickle of a state dict without running it: arrays for tensors, placeholders for other objects.

A pickle is a program, and an untrusted one can do anything. This reader knows only the functions that rebuild tensors,
and dictionaries. Objects of other packages become inert placeholders (`pickled_names`). A pickle that asks for a
function of Python's standard library is refused, and the error names the function.
"""

import collections
import io
import math
import pickle
import struct
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ml_dtypes
import numpy as np

from asr.errors import UserError
from asr.published.pickled_names import Placeholder, is_of_a_program, placeholder_class
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


class Source(Protocol):
    """The file that a pickle is in."""

    path: Path

    def storage(self, kind: str, key: str, size: int) -> Any:
        """Return the `Storage` of this key, or a placeholder for it."""


def unpickle(source: Source, file: io.BytesIO) -> Any:
    """Return what the next pickle in `file` describes, or refuse it; the storages are those of `source`."""
    try:
        return _Unpickler(source, file).load()
    except UserError:
        raise
    except PICKLE_ERRORS as error:
        raise UserError(
            f"{source.path}: its pickle is damaged ({type(error).__name__}: {escaped(str(error))})"
        ) from None


class _Unpickler(pickle._Unpickler):
    """Interprets a pickle of tensors; everything else becomes a placeholder or is refused.

    Based on the interpreter in Python: the one in C allocates whatever size a hostile file states.
    """

    def __init__(self, source: Source, file: io.BytesIO):
        super().__init__(file, encoding="utf-8")
        self.source = source

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
        # Files from before torch 1.6 have a sixth part, None unless the storage is a view of another.
        if isinstance(reference, tuple) and reference[5:] == (None,):
            reference = reference[:5]
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
