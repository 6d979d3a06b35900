"""Pairs of an array here and a tensor in a published file, and the conversion in both directions.

Letters: i input channels, o output channels.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seg.checkpoints.arrays import check_finite
from seg.errors import UserError

MAX_LINES_SHOWN = 40


class Layout(NamedTuple):
    """How the values of one array are arranged on both sides; each function is the inverse of the other."""

    to_ours: Callable[[np.ndarray], np.ndarray]  # from torch's layout
    to_theirs: Callable[[np.ndarray], np.ndarray]  # back to it


AS_IS = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(lambda w_oi: w_oi.T, lambda w_io: w_io.T)  # `Linear.weight`: torch puts the output axis first


class Pair(NamedTuple):
    """One array here and the tensor there that holds the same values."""

    ours: str  # path of the array, such as `params/encoder/norm/scale`
    # Name of the tensor; a tuple names several, which the array stacks along a new first axis
    theirs: str | tuple[str, ...]
    layout: Layout = AS_IS  # how the values are arranged

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all its tensors."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


def import_arrays(
    pairs: Iterable[Pair],
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    source: Path,
    ignored: Callable[[str], bool] = lambda name: False,
) -> dict[str, np.ndarray]:
    """Return our arrays by name, float32, from tensors of any float dtype; refuse those that do not fit, listing them.

    A float32 tensor is not copied: the result is a view of it.

    Args:
        pairs: one for every array of the model.
        tensors: the published ones, by name.
        shapes: of our arrays, by name.
        source: file of the tensors, for the message.
        ignored: returns whether a tensor without a pair may be dropped, such as a batch counter.
    """
    pairs = list(pairs)
    if uncovered := set(shapes) ^ {pair.ours for pair in pairs}:
        raise AssertionError(f"the pairs do not cover the model's arrays: {sorted(uncovered)}")
    names = {name for pair in pairs for name in pair.names}
    lines = [line for pair in pairs for line in _mismatches(pair, tensors, shapes[pair.ours])]
    lines += [f"  {name}: unexpected, {_kind(tensors[name])}" for name in tensors.keys() - names if not ignored(name)]
    if lines:
        shown = sorted(lines)[:MAX_LINES_SHOWN]
        shown += [f"  … and {len(lines) - len(shown)} more"] if len(lines) > len(shown) else []
        raise UserError("\n".join([f"{source}: {len(lines)} of its tensors do not fit the model:", *shown]))
    check_finite({name: tensors[name] for name in names}, source)
    arrays = {}
    for pair in pairs:
        parts = [pair.layout.to_ours(tensors[name]).astype(np.float32, copy=False) for name in pair.names]
        arrays[pair.ours] = parts[0] if isinstance(pair.theirs, str) else np.stack(parts)
    return arrays


def export_arrays(pairs: Iterable[Pair], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors by their names there, from our arrays: the inverse of `import_arrays`."""
    tensors = {}
    for pair in pairs:
        parts = [arrays[pair.ours]] if isinstance(pair.theirs, str) else list(arrays[pair.ours])
        for name, part in zip(pair.names, parts, strict=True):
            tensors[name] = pair.layout.to_theirs(np.asarray(part))
    return tensors


def _mismatches(pair: Pair, tensors: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> list[str]:
    """Return a line for each tensor of the pair that is missing or has another shape or dtype."""
    if not isinstance(pair.theirs, str):
        if len(pair.names) != shape[0]:
            raise AssertionError(f"{pair.ours} has {shape[0]} layers, but {len(pair.names)} names")
        shape = shape[1:]
    expected = pair.layout.to_theirs(np.broadcast_to(np.float32(0), shape)).shape
    lines = []
    for name in pair.names:
        tensor = tensors.get(name)
        if tensor is None:
            lines.append(f"  {name}: missing, expected {list(expected)}")
        elif tensor.shape != expected or not (tensor.dtype.kind == "f" or tensor.dtype.name == "bfloat16"):
            lines.append(f"  {name}: expected floats {list(expected)}, found {_kind(tensor)}")
    return lines


def _kind(tensor: np.ndarray) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"
