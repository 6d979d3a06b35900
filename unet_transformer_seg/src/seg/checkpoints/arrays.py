"""The arrays of a state by name, compared with a checkpoint, and read and written with orbax.

A state is stored as nested dictionaries of its arrays: `state.opt_state[0].mu["head"]["kernel"]` is
`opt_state/0/mu/head/kernel`. Nodes without arrays (`None`, optax's `EmptyState`) leave no trace, so that a
checkpoint depends on the arrays alone and parts of it can be read without the class it was made of.

orbax is imported where it is used: it takes 30 MB, and most programs only name arrays.
"""

import contextlib
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from seg.errors import UserError
from seg.untrusted import escaped

MAX_DIFFERENCES_SHOWN = 10
VALUES_AT_ONCE = 1 << 20


def named_arrays(state: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by name, for example `params/head/kernel`."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def describe_arrays(state: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return name → (shape, dtype) of the leaves of a pytree, concrete or abstract."""
    return {name: (tuple(leaf.shape), str(np.dtype(leaf.dtype))) for name, leaf in named_arrays(state).items()}


def stored_arrays(entries: dict[str, list]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return what `describe_arrays` described, from the lists that JSON made of it."""
    return {name: (tuple(shape), dtype) for name, (shape, dtype) in entries.items()}


def count_bytes(arrays: dict[str, tuple[tuple[int, ...], str]]) -> int:
    """Return the size of the described arrays in memory, in bytes."""
    return sum(math.prod(shape) * jax.numpy.dtype(dtype).itemsize for shape, dtype in arrays.values())


def check_same_arrays(expected: dict, stored: dict, folder: Path) -> None:
    """Refuse a checkpoint of another model: orbax would cast dtypes silently.

    Args:
        expected: name → (shape, dtype) of the state that the config describes.
        stored: the same of the checkpoint in `folder`.
        folder: for the message.

    Raises:
        UserError: listing the first ten arrays that differ in name, shape or dtype.
    """
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
        f"{folder}: this checkpoint holds another model: {len(differing)} of {len(expected | stored)} arrays "
        "differ from what the config asks for.\n" + "\n".join(lines) + "\nUse the config that the checkpoint was "
        "trained with (config.yaml of its run directory), or start a new run."
    )


def check_finite(arrays: Mapping[str, Any], source: Path) -> None:
    """Refuse weights that are NaN or infinite, with which every answer would be nonsense.

    Args:
        arrays: by name; others than floats are not looked at.
        source: where they come from, for the message.

    Raises:
        UserError: naming the arrays.
    """
    bad = [name for name, array in arrays.items() if not _is_finite(np.asarray(array).reshape(-1))]
    if bad:
        more = f" and {len(bad) - MAX_DIFFERENCES_SHOWN} more" if len(bad) > MAX_DIFFERENCES_SHOWN else ""
        names = ", ".join(escaped(name) for name in bad[:MAX_DIFFERENCES_SHOWN])
        raise UserError(f"{source}: weights that are not finite, in {names}{more}; take an earlier or another model")


def _is_finite(values: np.ndarray) -> bool:
    """Return whether no value of a one-dimensional array is NaN or infinite; some at a time, to spare memory."""
    if not jax.numpy.issubdtype(values.dtype, jax.numpy.floating):
        return True
    starts = range(0, len(values), VALUES_AT_ONCE)
    return all(np.isfinite(values[start : start + VALUES_AT_ONCE]).all() for start in starts)


def write_arrays(folder: Path, state: Any) -> None:
    """Write the arrays of `state` into the new `folder`; they are on the disk when this returns.

    orbax's asynchronous saving is not used: a failure of it is reported only at the next call.

    Raises:
        OSError: the disk is full or refuses. (orbax's storage layer itself raises a ValueError for that.)
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

    Only the named arrays are read. Each is copied into memory of the device, one after the other: on a CPU orbax
    hands out views of host buffers, and a jitted function that takes those as donated arguments deletes them but
    cannot reuse their memory.

    Raises:
        UserError: the folder does not hold these arrays.
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
        raise UserError(f"{folder}: the arrays are not those that the manifest describes ({reason})") from error
    for name in placed:
        restored[name] = jax.device_put(restored[name], restored[name].sharding, may_alias=False)
    return restored


def _check_stored(metadata: Any, abstract: dict[str, jax.ShapeDtypeStruct]) -> None:
    """Refuse to read arrays in another shape or dtype than orbax stored them: it would fill up, cut and cast.

    Raises:
        ValueError: naming the first array that differs.
    """
    tree = getattr(metadata, "item_metadata", metadata)
    stored = flax.traverse_util.flatten_dict(getattr(tree, "tree", tree), sep="/")
    for name, leaf in abstract.items():
        found = stored.get(name)
        if found is None or tuple(found.shape) != tuple(leaf.shape) or np.dtype(found.dtype) != np.dtype(leaf.dtype):
            raise ValueError(f"{name} was stored otherwise")


@contextlib.contextmanager
def _silent_threads() -> Iterator[None]:
    """Keep orbax's threads from printing tracebacks of errors that the caller is given anyway.

    After a failed write some of them come late, to an event loop that is closed: they stay silent from then on.
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
