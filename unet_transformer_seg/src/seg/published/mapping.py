"""Pairs of arrays here and tensors there: what a converter is made of, and how it goes both ways.

Letters: i input channels, o output channels, h w rows and columns of a kernel.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seg.checkpoints.arrays import check_finite
from seg.errors import UserError

MAX_LINES_SHOWN = 40


class Layout(NamedTuple):
    """How the values of one array are arranged on both sides; each function undoes the other.

    Attributes:
        to_ours: from the layout of torch.
        to_theirs: back to it.
    """

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


AS_IS = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(lambda w_oi: w_oi.T, lambda w_io: w_io.T)
"""`Linear.weight`: torch keeps the outputs in front."""
CONV2D = Layout(lambda w_oihw: w_oihw.transpose(2, 3, 1, 0), lambda w_hwio: w_hwio.transpose(3, 2, 0, 1))
"""`Conv2d.weight`."""
CONV1X1 = Layout(lambda w_oi11: w_oi11[:, :, 0, 0].T, lambda w_io: w_io.T[:, :, None, None])
"""`Conv2d.weight` of a 1 × 1 kernel, which here is a linear map."""
UP_CONV = Layout(lambda w_iohw: w_iohw.transpose(0, 2, 3, 1), lambda w_ihwo: w_ihwo.transpose(0, 3, 1, 2))
"""`ConvTranspose2d.weight` of stride 2 and a 2 × 2 kernel: the inputs stand in front on both sides."""


class Pair(NamedTuple):
    """One array here and the tensor there that holds the same values.

    Attributes:
        ours: name of the array, `params/encoder/stage0/conv1/kernel`.
        theirs: name of the tensor; of several, the array holds all of them along a new first axis.
        layout: how the values lie.
    """

    ours: str
    theirs: str | tuple[str, ...]
    layout: Layout = AS_IS

    @property
    def names(self) -> tuple[str, ...]:
        """The tensor's name, or all of them."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


def take_over(
    pairs: Iterable[Pair],
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    source: Path,
    ignored: Callable[[str], bool] = lambda name: False,
) -> dict[str, np.ndarray]:
    """Return our arrays by name, float32, from tensors of any float dtype.

    A float32 tensor is not copied: the result is a view of it.

    Args:
        pairs: for every array of the model.
        tensors: what was published.
        shapes: of our arrays, by name.
        source: file that the tensors come from, for the message.
        ignored: whether a tensor that no pair asks for may be left out, as a counter of batches.

    Raises:
        UserError: listing all tensors that are missing, superfluous, of another shape or kind, or not finite.
    """
    pairs = list(pairs)
    if untold := set(shapes) ^ {pair.ours for pair in pairs}:
        raise AssertionError(f"the pairs do not cover the model's arrays: {sorted(untold)}")
    found = [line for pair in pairs for line in _differences(pair, tensors, shapes[pair.ours])]
    asked = {name for pair in pairs for name in pair.names}
    found += [f"  {name}: {_shown(tensors[name])} has no place" for name in tensors.keys() - asked if not ignored(name)]
    if found:
        shown = sorted(found)[:MAX_LINES_SHOWN]
        more = [f"  … and {len(found) - len(shown)} more"] if len(found) > len(shown) else []
        raise UserError(
            f"{source}: {len(found)} of its tensors are not what the model asks for:\n" + "\n".join(shown + more)
        )
    check_finite({name: tensors[name] for pair in pairs for name in pair.names}, source)
    return {pair.ours: _to_ours(pair, tensors) for pair in pairs}


def give_back(pairs: Iterable[Pair], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors by their names there, from our arrays: the inverse of `take_over`."""
    tensors = {}
    for pair in pairs:
        parts = [arrays[pair.ours]] if isinstance(pair.theirs, str) else list(arrays[pair.ours])
        for name, part in zip(pair.names, parts, strict=True):
            tensors[name] = pair.layout.to_theirs(np.asarray(part))
    return tensors


def _differences(pair: Pair, tensors: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> list[str]:
    """Return a line for each tensor of the pair that is not as it has to be."""
    part = shape if isinstance(pair.theirs, str) else shape[1:]
    wanted = pair.layout.to_theirs(np.broadcast_to(np.float32(0), part)).shape
    lines = []
    if not isinstance(pair.theirs, str) and len(pair.names) != shape[0]:
        raise AssertionError(f"{pair.ours} has {shape[0]} layers, {len(pair.names)} names are given")
    for name in pair.names:
        tensor = tensors.get(name)
        if tensor is None:
            lines.append(f"  {name}: missing, expected [{', '.join(map(str, wanted))}]")
        elif tensor.shape != wanted or not _is_float(tensor):
            lines.append(f"  {name}: expected floats [{', '.join(map(str, wanted))}], found {_shown(tensor)}")
    return lines


def _to_ours(pair: Pair, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    parts = [pair.layout.to_ours(tensors[name]).astype(np.float32, copy=False) for name in pair.names]
    return parts[0] if isinstance(pair.theirs, str) else np.stack(parts)


def _is_float(tensor: np.ndarray) -> bool:
    return tensor.dtype.kind == "f" or tensor.dtype.name == "bfloat16"


def _shown(tensor: np.ndarray) -> str:
    return f"{tensor.dtype}[{', '.join(map(str, tensor.shape))}]"
