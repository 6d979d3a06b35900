"""Reads the weights of an ONNX export by the names that they have in torch.

torch's exporter keeps the name of a parameter that the program reads as it is (a bias, a norm, a convolution), but not
that of a linear map's weight: it is transposed, stored as `onnx::MatMul_1819`, and named here after what surrounds it:

    the bias behind it          `X.bias` is added to the product: `X.weight`
    the norm before it          `X.norm.bias` was added to its input: `X.w_2.weight`, the map of FunASR's decoder
                                that has no bias
    the convolution behind it   `X.fsmn_block.conv_left.weight`: `X.linear.linear.weight`, FSMN-VAD's map without one
    the node's name             `/encoder/encoders/encoders.0/feed_forward/w_1/MatMul`: the modules that lead to it

FunASR exports a wrapper of each part, which adds `.model` behind the first component of a name.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from asr.errors import UserError
from asr.published.onnx_file import Node, OnnxModel, read_onnx
from asr.published.onnx_int8 import with_floats
from asr.untrusted import escaped

MAX_STEPS = 12  # most operations between a product and the parameter that names it

PRODUCTS = ("MatMul", "MatMulInteger", "Gemm")
NAMED_BY_MODULE = {
    "Mul": ((0, "weight"), (1, "weight")),
    "Add": ((0, "bias"), (1, "bias")),
    "LayerNormalization": ((1, "weight"), (2, "bias")),
}
"""Operation of a norm → (input, the parameter that it may be)."""

SECOND_CALL = re.compile(r"_\d+$")
"""What a node's name adds to a module that the program calls again."""

GATES = (0, 2, 3, 1)
"""Places of torch's gates (input, forget, cell, output) in ONNX's order (input, output, forget, cell)."""


def read_onnx_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return the weights of an ONNX file, float32 in torch's layout, by torch's names.

    Weights in int8 are returned as the floats that they stand for.

    Raises:
        UserError: a damaged file, or a weight whose name cannot be told.
    """
    model = read_onnx(path)
    return _Weights(with_floats(model)).collect()


def onnx_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights that `read_onnx_tensors` returns, without computing any value."""
    tensors = _Weights(with_floats(read_onnx(path), shapes_only=True)).collect()
    return {name: tensor.shape for name, tensor in tensors.items()}


class _Weights:
    """The operations of a model by the values that they read and write."""

    def __init__(self, model: OnnxModel):
        self.path, self.nodes, self.values = model.path, model.nodes, dict(model.tensors)
        self.writer = {name: node for node in model.nodes for name in node.outputs}
        self.readers: dict[str, list[Node]] = {}
        for node in model.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
            if node.op == "Identity" and node.inputs[:1] and node.inputs[0] in self.values:
                self.values |= {name: self.values[node.inputs[0]] for name in node.outputs}
        self.tensors: dict[str, np.ndarray] = {}

    def collect(self) -> dict[str, np.ndarray]:
        """Return all weights by name."""
        for name, value in self.values.items():
            if _is_name(name) and name in self.readers and _is_float(value):
                self._add(_plain(name), value)
        layers: dict[str, int] = {}
        for node in self.nodes:
            if node.op in PRODUCTS:
                self._add_product(node)
            elif node.op == "LSTM":
                module = self._lstm_module(node)
                self._add_lstm(node, module, layers.setdefault(module, 0))
                layers[module] += 1
            else:
                self._add_norm(node)
        return self.tensors

    def _add(self, name: str, value: np.ndarray) -> None:
        """Add a weight; a name that comes twice must mean the same values."""
        other = self.tensors.setdefault(name, value)
        if other is not value and not (other.shape == value.shape and np.array_equal(other, value)):
            raise UserError(f"{self.path}: two weights have the name {escaped(name)}; {EXPORT_AGAIN}")

    def _add_product(self, node: Node) -> None:
        place = node.inputs[1] if len(node.inputs) > 1 else ""
        value = self.values.get(place)
        if value is None or value.ndim != 2 or not _is_float(value) or _is_name(place):
            return
        name = self._name_by_bias(node, value.shape[1]) or self._name_by_norm(node)
        name = name or self._name_by_convolution(node) or _module(node)
        if not name:
            raise UserError(
                f"{self.path}: nothing tells which weight {escaped(place)} is, {list(value.shape)}, read by "
                f"{escaped(node.name or node.op)}; {EXPORT_AGAIN}"
            )
        self._add(f"{name}.weight", value.T)

    def _name_by_bias(self, node: Node, size: int) -> str:
        """Return the module whose bias is added to the product, through what turns integers back to floats."""
        if node.op == "Gemm":
            return self._owner(node.inputs[2], "bias", size) if len(node.inputs) > 2 else ""
        through = ("Cast", "Mul") if node.op == "MatMulInteger" else ()
        for reader in self._behind(node, through):
            if reader.op == "Add":
                return next((owner for name in reader.inputs if (owner := self._owner(name, "bias", size))), "")
        return ""

    def _name_by_norm(self, node: Node) -> str:
        """Return `X.w_2` for a product of what `X.norm` made."""
        writer = self.writer.get(node.inputs[0])
        if writer and writer.op == "DynamicQuantizeLinear" and writer.inputs:
            writer = self.writer.get(writer.inputs[0])
        if writer is None or writer.op not in ("Add", "LayerNormalization"):
            return ""
        norms = [owner for name in writer.inputs if (owner := self._owner(name, "bias"))]
        return f"{norms[0].removesuffix('.norm')}.w_2" if norms and norms[0].endswith("feed_forward.norm") else ""

    def _name_by_convolution(self, node: Node) -> str:
        """Return `X.linear.linear` for a product that `X.fsmn_block.conv_left` reads."""
        through = ("Cast", "Mul", "Unsqueeze", "Transpose", "Concat", "Pad")
        for reader in self._behind(node, through):
            if reader.op == "Conv":
                owner = self._owner(reader.inputs[1], "weight") if len(reader.inputs) > 1 else ""
                module, _, tail = owner.rpartition(".fsmn_block")
                return f"{module}.linear.linear" if tail == ".conv_left" else ""
        return ""

    def _behind(self, node: Node, through: tuple[str, ...]) -> Iterator[Node]:
        """Yield the operations that read a node's result, and those behind the kinds named in `through`."""
        names, seen = list(node.outputs), set()
        for _ in range(MAX_STEPS):
            readers = [reader for name in names for reader in self.readers.get(name, []) if id(reader) not in seen]
            seen |= {id(reader) for reader in readers}
            yield from readers
            names = [name for reader in readers if reader.op in through for name in reader.outputs]

    def _owner(self, name: str, parameter: str, size: int | None = None) -> str:
        """Return the module of a named vector or kernel `MODULE.parameter`, or ""."""
        value, plain = self.values.get(name), _plain(name)
        fits = value is not None and (size is None or value.shape == (size,))
        return plain.removesuffix(f".{parameter}") if fits and _is_name(name) and plain.endswith(parameter) else ""

    def _add_norm(self, node: Node) -> None:
        """Add vectors under the name of the norm that reads them: equal ones are stored once, under one name."""
        for place, parameter in NAMED_BY_MODULE.get(node.op, ()):
            value = self.values.get(node.inputs[place]) if place < len(node.inputs) else None
            if value is None or value.ndim != 1 or value.size < 2 or not _is_float(value) or not _module(node):
                continue
            own, module = _plain(node.inputs[place]), _module(node)
            names = [f"{each}.{parameter}" for each in (module, SECOND_CALL.sub("", module))]
            if not any(f".{own}".endswith(f".{name}") for name in names):
                self._add(names[0], value)

    def _lstm_module(self, node: Node) -> str:
        """Return the module of an LSTM; a name that lacks its beginning gets that of the map behind it."""
        module = _module(node)
        parts = {name.split(".")[0] for name in self.values if _is_name(name)}
        if module and module.split(".")[0] not in parts:
            for reader in self._behind(node, ("Transpose", "Reshape", "Squeeze", "MatMul")):
                owners = [owner for name in reader.inputs if (owner := self._owner(name, "bias"))]
                if reader.op == "Add" and owners and "." in owners[0]:
                    return f"{owners[0].rpartition('.')[0]}.{module}"
        return module

    def _add_lstm(self, node: Node, module: str, layer: int) -> None:
        """Add the weights of a layer, whose gates have another order in ONNX."""
        weights = [self.values.get(name) for name in node.inputs[1:4]]
        if [None if value is None else value.ndim for value in weights] != [3, 3, 2]:
            what = f"the weights of {escaped(node.name or node.op)} cannot be read"
            raise UserError(f"{self.path}: {what}; {EXPORT_AGAIN}")
        if not module:
            raise UserError(f"{self.path}: nothing tells which weights an LSTM has; {EXPORT_AGAIN}")
        weight, recurrent, bias = weights
        for direction, suffix in zip(range(len(weight)), ("", "_reverse"), strict=False):
            halves = np.split(bias[direction], 2)
            parts = {"weight_ih": weight[direction], "weight_hh": recurrent[direction]}
            for name, part in (parts | {"bias_ih": halves[0], "bias_hh": halves[1]}).items():
                gates = np.split(part, 4)
                self._add(f"{module}.{name}_l{layer}{suffix}", np.concatenate([gates[gate] for gate in GATES]))


EXPORT_AGAIN = "use the model.pt that it was exported from, or export it again with torch 1.13 or later"


def _is_name(name: str) -> bool:
    """Return whether a value has the name of a parameter instead of a number or the place of an operation."""
    return "." in name and ":" not in name and not name.startswith("/")


def _is_float(value: np.ndarray) -> bool:
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def _plain(name: str) -> str:
    """Return a name without the `model` of FunASR's wrappers."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.removeprefix('model.')}" if rest else first


def _module(node: Node) -> str:
    """Return the module that a node's name tells, "" if it tells none.

    A module in a list is called by the list and its number: `encoders/encoders.0` is one module.
    """
    parts = node.name.strip("/").split("/")[:-1] if node.name.startswith("/") else []
    return ".".join(part for part, next_part in pairwise([*parts, ""]) if not next_part.startswith(f"{part}."))
