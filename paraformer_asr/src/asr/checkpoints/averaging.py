"""The parameters that predict, of one checkpoint or as the mean of several."""

from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from asr.checkpoints.arrays import ARRAYS_NAME, check_same_arrays, read_arrays, stored_arrays
from asr.checkpoints.manifest import Manifest


def mean_params(found: list[tuple[Path, Manifest]]) -> Any:
    """Return the mean of the parameters that predict, read one checkpoint after the other."""
    first = stored_arrays(found[0][1].details["arrays"])
    total = None
    for folder, manifest in found:
        check_same_arrays(first, stored_arrays(manifest.details["arrays"]), folder)
        params = _read_params(folder, first)
        total = params if total is None else jax.tree.map(jnp.add, total, params)
    return total if len(found) == 1 else jax.tree.map(lambda t: t / len(found), total)


def _read_params(folder: Path, arrays: dict[str, tuple[tuple[int, ...], str]]) -> Any:
    """Return the parameters that predict: their moving average where there is one."""
    root = "ema_params" if any(name.startswith("ema_params/") for name in arrays) else "params"
    abstract = {
        name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
        for name, (shape, dtype) in arrays.items()
        if name.split("/")[0] == root
    }
    return flax.traverse_util.unflatten_dict(read_arrays(folder / ARRAYS_NAME, abstract), sep="/")[root]
