"""The arrays of a state by name, compared with a checkpoint, and read and written with orbax.

A state is stored as nested dictionaries of its arrays: `state.opt_state[0].mu["head"]["kernel"]` is
`opt_state/0/mu/head/kernel`. Nodes without arrays (`None`, optax's `EmptyState`) leave no trace, so that a
checkpoint depends on the arrays alone and parts of it can be read without the class it was made of.

orbax is imported where it is used: it takes 30 MB, and most programs only need the names.
"""

import contextlib
import logging
import math
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from seg.errors import UserError
from seg.untrusted import escaped

ARRAYS_NAME = "arrays"  # folder of the arrays within a checkpoint
MAX_DIFFERENCES_SHOWN = 10
VALUES_AT_ONCE = 1 << 20

Description = dict[str, tuple[tuple[int, ...], str]]  # name → (shape, dtype) of arrays


def named_arrays(state: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by name, for example `params/head/kernel`."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def describe_arrays(state: Any) -> Description:
    """Return name → (shape, dtype) of the leaves of a pytree, concrete or abstract."""
    return {name: (tuple(leaf.shape), str(np.dtype(leaf.dtype))) for name, leaf in named_arrays(state).items()}


def stored_arrays(entries: dict[str, list]) -> Description:
    """Return the result of `describe_arrays` from its JSON form, which has lists for tuples."""
    return {name: (tuple(shape), dtype) for name, (shape, dtype) in entries.items()}


def count_bytes(arrays: Description) -> int:
    """Return the size of the described arrays in memory, in bytes."""
    return sum(math.prod(shape) * jax.numpy.dtype(dtype).itemsize for shape, dtype in arrays.values())


def check_same_arrays(expected: Description, stored: Description, folder: Path) -> None:
    """Refuse a checkpoint of another model, with the first ten arrays that differ: orbax would cast dtypes silently."""
    differing = [name for name in sorted(expected | stored) if expected.get(name) != stored.get(name)]
    if not differing:
        return
    lines = [
        f"  {name}: expected {_shown(expected.get(name))}, found {_shown(stored.get(name))}"
        for name in differing[:MAX_DIFFERENCES_SHOWN]
    ]
    if len(differing) > MAX_DIFFERENCES_SHOWN:
        lines.append(f"  … and {len(differing) - MAX_DIFFERENCES_SHOWN} more")
    raise UserError(
        f"{folder}: this checkpoint belongs to a different model: {len(differing)} of {len(expected | stored)} arrays "
        "differ from those of the config.\n" + "\n".join(lines) + "\nUse the config that the checkpoint was "
        "trained with (config.yaml in its run directory), or start a new run."
    )


def check_finite(arrays: Mapping[str, Any], source: Path) -> None:
    """Refuse weights that are NaN or infinite, with which every prediction would be meaningless."""
    bad = [name for name, array in arrays.items() if not _is_finite(np.asarray(array).reshape(-1))]
    if bad:
        more = f" and {len(bad) - MAX_DIFFERENCES_SHOWN} more" if len(bad) > MAX_DIFFERENCES_SHOWN else ""
        names = ", ".join(escaped(name) for name in bad[:MAX_DIFFERENCES_SHOWN])
        raise UserError(
            f"{source}: weights are NaN or infinite in {names}{more}; use an earlier checkpoint or another model"
        )


def _is_finite(values: np.ndarray) -> bool:
    """Return whether no value of a one-dimensional array is NaN or infinite; checked in chunks to save memory."""
    if not jax.numpy.issubdtype(values.dtype, jax.numpy.floating):
        return True
    starts = range(0, len(values), VALUES_AT_ONCE)
    return all(np.isfinite(values[start : start + VALUES_AT_ONCE]).all() for start in starts)


def write_arrays(folder: Path, state: Any) -> None:
    """Write the arrays of `state` into the new `folder`; they are on the disk when this returns.

    orbax's asynchronous saving is not used: it reports a failure only at the next call. A full disk raises an OSError,
    for which orbax's storage layer has a ValueError.
    """
    import orbax.checkpoint as ocp

    tree = flax.traverse_util.unflatten_dict(named_arrays(state), sep="/")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer, _silent_threads():
        try:
            checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(tree))
        except ValueError as error:
            if "os_error_code" in str(error) or "RESOURCE_EXHAUSTED" in str(error):
                raise OSError(str(error)) from error
            raise


def read_arrays(folder: Path, abstract: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Return the named arrays of `folder`, placed by their sharding (without one: on the first device).

    Only these arrays are read. Each is copied into device memory in turn: on a CPU orbax returns views of host
    buffers, and a jitted function that receives one as a donated argument deletes it without reusing its memory.
    """
    if not abstract:
        return {}
    import orbax.checkpoint as ocp

    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here)
        for name, leaf in abstract.items()
    }
    tree = flax.traverse_util.unflatten_dict(placed, sep="/")
    arguments = ocp.args.PyTreeRestore(
        item=tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree), partial_restore=True
    )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            _check_stored(checkpointer.metadata(folder.absolute()), abstract)
            restored = flax.traverse_util.flatten_dict(checkpointer.restore(folder.absolute(), args=arguments), sep="/")
    except (KeyError, TypeError, ValueError, OSError) as error:
        reason = f"{str(error).splitlines()[0]:.200}"
        raise UserError(f"{folder}: the arrays do not match the manifest ({reason})") from error
    for name in placed:
        restored[name] = jax.device_put(restored[name], restored[name].sharding, may_alias=False)
    return restored


def read_collections(folder: Path, arrays: Description, names: Collection[str]) -> dict[str, Any]:
    """Return the subtrees of a stored state that have one of `names`, such as "params"; nothing else is read."""
    abstract = {
        name: jax.ShapeDtypeStruct(shape, jax.numpy.dtype(dtype))
        for name, (shape, dtype) in arrays.items()
        if name.split("/")[0] in names
    }
    return flax.traverse_util.unflatten_dict(read_arrays(folder, abstract), sep="/")


def _check_stored(metadata: Any, abstract: dict[str, jax.ShapeDtypeStruct]) -> None:
    """Refuse a shape or dtype that differs from the stored one: orbax would pad, truncate or cast."""
    tree = getattr(metadata, "item_metadata", metadata)
    stored = flax.traverse_util.flatten_dict(getattr(tree, "tree", tree), sep="/")
    for name, leaf in abstract.items():
        array = stored.get(name)
        if array is None or tuple(array.shape) != tuple(leaf.shape) or np.dtype(array.dtype) != np.dtype(leaf.dtype):
            raise ValueError(f"{name} was stored with a different shape or dtype")


@contextlib.contextmanager
def _silent_threads() -> Iterator[None]:
    """Keep orbax's threads from printing tracebacks of errors that the caller gets anyway.

    After a failed write some threads call into an event loop that is already closed; those stay silent from then on.
    """
    log = logging.getLogger("absl")
    level, hook = log.level, sys.excepthook
    log.setLevel(logging.CRITICAL)
    sys.excepthook = lambda kind, error, trace: None if "loop is closed" in str(error) else hook(kind, error, trace)
    try:
        yield
    finally:
        log.setLevel(level)
    sys.excepthook = hook


def _shown(entry: tuple[tuple[int, ...], str] | None) -> str:
    return "no such array" if entry is None else f"{entry[1]}[{', '.join(map(str, entry[0]))}]"
