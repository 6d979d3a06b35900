"""State and batch of a step that was not finite, in a folder of the run, and back."""

import shutil
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from seg.checkpoints.arrays import describe_arrays, named_arrays, read_arrays, write_arrays
from seg.checkpoints.manifest import DamagedCheckpointError, read_manifest, verify_files, write_manifest
from seg.distributed import is_main
from seg.errors import UserError
from seg.files import open_file
from seg.record.run_dir import RunDir
from seg.training.setup import Setup
from seg.training.state import TrainState

ARRAYS_NAME, BATCH_NAME = "arrays", "batch.npz"


def save_reproducer(run: RunDir, state: TrainState, batch: dict[str, np.ndarray], step: int) -> Path:
    """Write the state before the step and its batch; return the folder. All processes of a run call this.

    Raises:
        UserError: the disk is full or refuses.
    """
    folder = run.path / f"non_finite_step_{step:08d}"
    if jax.process_count() > 1:
        batch = {name: multihost_utils.process_allgather(array, tiled=True) for name, array in batch.items()}
    try:
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)
        write_arrays(folder / ARRAYS_NAME, state)
        if is_main():
            np.savez(folder / BATCH_NAME, **batch)
            write_manifest(folder, {"step": step})
    except OSError as error:
        raise UserError(f"{folder}: state and batch cannot be written ({error.strerror or error})") from error
    return folder


def load_reproducer(folder: Path, setup: Setup) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Return the state and the batch that `save_reproducer` wrote.

    Raises:
        UserError: the folder is none of a reproducer, or damaged.
    """
    try:
        verify_files(folder, read_manifest(folder))
    except DamagedCheckpointError as error:
        raise UserError(f"{folder}: expected a folder non_finite_step_… of a run: {error}") from None
    restored = read_arrays(folder / ARRAYS_NAME, named_arrays(setup.abstract_state))
    state = jax.tree.unflatten(
        jax.tree.structure(setup.abstract_state), [restored[name] for name in describe_arrays(setup.abstract_state)]
    )
    with open_file(folder / BATCH_NAME) as file, np.load(file, allow_pickle=False) as arrays:
        return state, {name: arrays[name] for name in arrays.files}
