"""Reads ONNX files without the packages onnx and onnxruntime, and without running the program in them.

An ONNX file is a protobuf message, of which only what names the weights is read, down to a fixed depth. The fields:

    ModelProto  7 graph, 14 metadata
    GraphProto  1 nodes, 5 initializers (the weights), 11 inputs, 12 outputs
    NodeProto   1 inputs, 2 outputs, 3 name, 4 operation, 5 attributes

Reference: onnx/onnx.proto of the ONNX project, and the encoding of protobuf.
"""

import mmap
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from asr.errors import UserError
from asr.files import open_file
from asr.protobuf import DamagedError, fields, message, text, varints
from asr.untrusted import check_inside, escaped, shown

MAX_NODES = 1_000_000
MAX_DIMENSIONS = 8

DTYPES = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    12: np.dtype("<u4"),
    13: np.dtype("<u8"),
    16: np.dtype(ml_dtypes.bfloat16),
}
"""Number of a dtype in the file → the dtype. Texts are skipped; others, such as 4-bit integers, are refused."""

TEXT = 8  # number of the dtype of texts
ATTRIBUTE_TENSOR = 5  # field of an attribute that is a tensor


class Node(NamedTuple):
    """One operation."""

    op: str  # such as MatMul
    name: str  # its own, may be empty
    inputs: tuple[str, ...]  # names of values
    outputs: tuple[str, ...]


class OnnxModel(NamedTuple):
    """What is read of a file."""

    path: Path
    nodes: tuple[Node, ...]
    tensors: dict[str, np.ndarray]  # the initializers and constants by name, views of the file
    metadata: dict[str, str]
    inputs: tuple[str, ...]  # names of the graph's inputs, the initializers excluded
    outputs: tuple[str, ...]


def read_onnx(path: Path) -> OnnxModel:
    """Return the nodes, tensors and metadata of an ONNX file; nothing in it is run.

    Raises:
        UserError: in one line, a file that cannot be read, is damaged, or has tensors of a kind that is not read.
    """
    try:
        content = _mapped(path)
        graph, metadata = _read_model(content)
        model = _Reader(path).read(graph, metadata)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except DamagedError as error:
        raise UserError(f"{path}: truncated, damaged or not an ONNX file ({error}); copy it again") from None
    if not model.nodes or not model.tensors:
        raise UserError(f"{path}: expected an ONNX model with operations and weights, found none; copy it again")
    return model


def _mapped(path: Path) -> memoryview:
    with open_file(path) as file:
        if not file.seek(0, 2):
            raise UserError(f"{path}: the file is empty: copy or download it again")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read_model(content: memoryview) -> tuple[memoryview, dict[str, str]]:
    graph, metadata = None, {}
    for number, value in fields(content):
        if number == 7:
            graph = message(value)
        elif number == 14:
            entry = dict(fields(message(value)))
            metadata[text(entry.get(1, b""))] = text(entry.get(2, b""))
    if graph is None:
        raise DamagedError("no graph")
    return graph, metadata


class _Reader:
    """Reads a graph; other files of weights are mapped once."""

    def __init__(self, path: Path):
        self.path, self.beside = path, {}

    def read(self, graph: memoryview, metadata: dict[str, str]) -> OnnxModel:
        """Return the model."""
        nodes, tensors, ends = [], {}, {11: [], 12: []}
        for number, value in fields(graph):
            if number == 1:
                node, constant = self._node(message(value))
                nodes.append(node)
                tensors |= {} if constant is None else {node.outputs[0]: constant}
            elif number == 5:
                name, tensor = self._tensor(message(value))
                tensors |= {} if tensor is None else {name: tensor}
            elif number in ends:
                ends[number].append(text(dict(fields(message(value))).get(1, b"")))
            if len(nodes) > MAX_NODES:
                raise DamagedError(f"more than {MAX_NODES} operations")
        inputs = tuple(name for name in ends[11] if name not in tensors)
        return OnnxModel(self.path, tuple(nodes), tensors, metadata, inputs, tuple(ends[12]))

    def _node(self, content: memoryview) -> tuple[Node, np.ndarray | None]:
        """Return a node, and the value of a constant."""
        texts, attributes = {1: [], 2: [], 3: [], 4: []}, []
        for number, value in fields(content):
            if number in texts:
                texts[number].append(text(value))
            elif number == 5:
                attributes.append(value)
        name, op = ("".join(texts[number][:1]) for number in (3, 4))
        node, constant = Node(op, name, tuple(texts[1]), tuple(texts[2])), None
        for attribute in attributes if op == "Constant" and node.outputs else []:
            value = dict(fields(message(attribute))).get(ATTRIBUTE_TENSOR)
            constant = constant if value is None else self._tensor(message(value))[1]
        return node, constant

    def _tensor(self, content: memoryview) -> tuple[str, np.ndarray | None]:
        """Return the name and the values of a tensor; None for texts."""
        dims, code, name, raw, typed, outside = [], 0, "", None, [], {}
        for number, value in fields(content):
            match number:
                case 1:
                    dims += [value] if isinstance(value, int) else varints(message(value)).tolist()
                case 2:
                    code = value
                case 4 | 5 | 7 | 10 | 11:
                    typed.append((number, value))
                case 8:
                    name = text(value)
                case 9:
                    raw = message(value)
                case 13:
                    entry = dict(fields(message(value)))
                    outside[text(entry.get(1, b""))] = text(entry.get(2, b""))
        if code == TEXT:
            return name, None
        if code not in DTYPES:
            kind = f"of a kind that is not read here (data type {shown(code)})"
            raise UserError(f"{self.path}: the tensor {escaped(name)} is {kind}; take the model in float32 or int8")
        if len(dims) > MAX_DIMENSIONS or any(size < 0 for size in dims):
            raise DamagedError(f"the tensor {escaped(name)} has impossible sizes")
        values = self._outside(name, outside) if outside else raw
        array = np.frombuffer(values, np.uint8) if values is not None else _typed(typed, DTYPES[code])
        return name, _shaped(name, array, dims, DTYPES[code])

    def _outside(self, name: str, entry: dict[str, str]) -> memoryview:
        """Return the bytes of a tensor that another file of the same folder holds."""
        place, folder = entry.get("location", ""), self.path.parent
        where = f"{self.path}: the tensor {escaped(name)} is in the file {shown(place)}"
        if not place or "\x00" in place or Path(place).is_absolute() or ".." in Path(place).parts:
            raise UserError(f"{where}, outside of the folder; copy that file into the folder and export it again")
        if place not in self.beside:
            check_inside(folder, folder / place)
            try:
                self.beside[place] = _mapped(folder / place)
            except OSError as error:
                reason = error.strerror or error
                raise UserError(f"{where}, which cannot be read ({reason}); copy it there, too") from None
        try:
            start, size = int(entry.get("offset", "0")), int(entry.get("length", "-1"))
        except ValueError:
            raise DamagedError(f"the place of {escaped(name)} is no number") from None
        content = self.beside[place]
        end = len(content) if size < 0 else start + size
        if not 0 <= start <= end <= len(content):
            raise DamagedError(f"the tensor {escaped(name)} extends past the end of {shown(place)}")
        return content[start:end]


def _shaped(name: str, array: np.ndarray, dims: list[int], dtype: np.dtype) -> np.ndarray:
    """Return bytes, or values that are decoded already, as an array of these sizes."""
    count = 1
    for size in dims:
        count *= size  # of Python's integers, which do not overflow
    wanted, held = (count, array.size) if array.dtype == dtype else (count * dtype.itemsize, array.nbytes)
    if wanted != held:
        raise DamagedError(f"the tensor {escaped(name)} of sizes {shown(dims)} holds {held} instead of {wanted}")
    try:
        return array.view(dtype).reshape(dims)
    except ValueError:  # no values, but sizes beyond an array's
        raise DamagedError(f"the tensor {escaped(name)} has impossible sizes") from None


def _typed(parts: list[tuple[int, Any]], dtype: np.dtype) -> np.ndarray:
    """Return values that are stored as numbers instead of bytes."""
    arrays = [np.zeros(0, dtype)]
    for number, value in parts:
        if number in (4, 10):  # float32 and float64
            kind = "<f4" if number == 4 else "<f8"
            if isinstance(value, int) or len(value) % np.dtype(kind).itemsize:
                raise DamagedError("numbers of a wrong length")
            arrays.append(np.frombuffer(value, kind).astype(dtype))
            continue
        integers = np.array([value], np.int64) if isinstance(value, int) else varints(value)
        if dtype.kind == "f" or dtype == DTYPES[16]:  # the bits of a half-precision number
            arrays.append(integers.astype(np.uint16).view(dtype) if dtype.itemsize == 2 else integers.astype(dtype))
        else:
            arrays.append(integers.astype(dtype))
    return np.concatenate(arrays)
